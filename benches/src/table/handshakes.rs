//! Handshakes.

use std::fmt::Write as _;

use super::{machine, or_dash};
use crate::handshakes::{AT_A_TIME, HandshakeReport};

/// Handshakes in Markdown.
pub fn handshakes(report: &HandshakeReport) -> String {
    let mut text = format!(
        "{}; {} rounds of {} s, interleaved; {AT_A_TIME} connections at a time; medians.\n\n\
         | full mutual handshakes | each second | CPU us each | as many as Envoy for its CPU time |\n\
         | --- | --- | --- | --- |\n",
        machine(&report.machine),
        report.rounds,
        report.seconds,
    );
    for figures in &report.figures {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {} |",
            figures.system,
            figures.per_second,
            figures.cpu_us,
            or_dash(figures.of_envoy.map(|ratio| format!("{ratio:.2}"))),
        );
    }
    for line in &report.skipped {
        let _ = writeln!(text, "\n{line}");
    }
    text
}
