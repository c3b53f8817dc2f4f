//! Two builds of Remora against each other.

use std::fmt::Write as _;

use super::{machine, number};
use crate::ab::{AbReport, Build};
use crate::scenario::Scenario;

/// Two builds of Remora against each other, for a terminal.
pub fn ab(report: &AbReport) -> String {
    let mut text = format!(
        "{}; {}; {} pairs\n",
        machine(&report.machine),
        report.scenario.title(),
        report.pairs
    );
    build(&mut text, "a", &report.a, report.scenario);
    build(&mut text, "b", &report.b, report.scenario);
    let spread = report.ratio_95.map_or_else(
        || "too few pairs for a spread".to_owned(),
        |(low, high)| format!("95 % confidence {low:.3} to {high:.3}"),
    );
    let _ = writeln!(
        text,
        "b/a: {:.3} of the CPU time ({spread}); in user space {:.3}",
        report.ratio, report.user_ratio
    );
    text
}

fn build(text: &mut String, name: &str, build: &Build, scenario: Scenario) {
    let unit = scenario.unit().word();
    let (time, per) = scenario.unit().time();
    let (low, high) = build.cpu_us_range;
    let counts = build.counts;
    let calls = counts
        .syscalls
        .map_or_else(|| "not counted".to_owned(), |calls| format!("{calls:.3}"));
    let instructions = counts.user_instructions.map_or_else(String::new, |user| {
        format!(", instructions/{unit} in user space {user:.0}")
    });
    let _ = writeln!(
        text,
        "{name}: {:.2} {time} CPU/{unit} ({:.2} to {:.2}; user {:.2}, system {:.2}), {} {}/s, system calls/{unit} {calls}{instructions}, RSS {:.1} MiB  {}",
        build.cpu_us / per,
        low / per,
        high / per,
        build.user_us / per,
        build.system_us / per,
        number(build.per_second),
        scenario.unit().plural(),
        build.memory.rss_mib(),
        build.folder.display(),
    );
}
