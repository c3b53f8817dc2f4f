//! Memory, and the sidecar's start.

use std::fmt::Write as _;

use super::{MIB, idle, machine, row};
use crate::burst::{self, BurstReport};
use crate::memory::{MemoryReport, StartReport};

/// Memory and readiness in Markdown.
pub fn memory(report: &MemoryReport) -> String {
    let mut text = format!("{}.\n", machine(&report.machine));
    start(&mut text, &report.start);
    if !report.idle.is_empty() {
        idle(&mut text, &report.idle);
    }
    if let Some(first) = report.burst.first() {
        bursts(&mut text, first.bodies, &report.burst);
    }
    for line in report.skipped.iter().chain(&report.failed) {
        let _ = writeln!(text, "\n{line}");
    }
    text
}

fn start(text: &mut String, start: &StartReport) {
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / MIB);
    let (ready, rest) = (start.when_ready, start.at_rest);
    let _ = write!(
        text,
        "\n| the sidecar, idle | RSS MiB | PSS MiB | of it heap and stacks |\n\
         | --- | --- | --- | --- |\n\
         | when it turned ready | {} | {} | {} |\n\
         | {} s later | {} | {} | {} |\n\n\
         Ready after {:.1} ms (median of {} starts; {:.1} to {:.1}) from the start of the process; by its own clock {:.0} ms.\n",
        mib(ready.rss_bytes),
        mib(ready.pss_bytes),
        mib(ready.anonymous_bytes),
        start.rest_seconds,
        mib(rest.rss_bytes),
        mib(rest.pss_bytes),
        mib(rest.anonymous_bytes),
        start.ready_ms.median,
        start.starts,
        start.ready_ms.lowest,
        start.ready_ms.highest,
        start.own_ready_ms,
    );
}

fn bursts(text: &mut String, bodies: u32, reports: &[BurstReport]) {
    let mut columns = vec![
        format!(
            "a burst of {bodies} requests with {} KiB each way, RSS MiB",
            burst::BODY_BYTES / 1024
        ),
        "before".to_owned(),
        "peak".to_owned(),
    ];
    columns.extend(burst::AFTER_SECONDS.map(|seconds| format!("{seconds} s after")));
    text.push('\n');
    row(text, &columns);
    row(text, &vec!["---".to_owned(); columns.len()]);
    for report in reports {
        let mut cells = vec![
            report.system.to_owned(),
            format!("{:.1}", report.before.rss_mib()),
            format!("{:.1}", report.peak_rss_bytes as f64 / MIB),
        ];
        let after = report.after.iter();
        cells.extend(after.map(|memory| format!("{:.1}", memory.rss_mib())));
        row(text, &cells);
    }
}
