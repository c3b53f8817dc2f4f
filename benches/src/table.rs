//! The figures as tables, and their place in `benches/README.md`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::ab::AbReport;
use crate::compare::{Figures, RATE, Report};
use crate::machine::Machine;
use crate::memory::MemoryReport;
use crate::scenario::Scenario;
use crate::systems::YARDSTICK;
use crate::wrk;

const MIB: f64 = 1024.0 * 1024.0;

/// The side-by-side figures in Markdown.
pub fn compare(report: &Report) -> String {
    let mut text = format!(
        "{}; {} rounds of {} s, interleaved; medians.\n",
        machine(&report.machine),
        report.rounds,
        report.seconds
    );
    for scenario in Scenario::ALL {
        let figures: Vec<&Figures> = report
            .figures
            .iter()
            .filter(|figures| figures.scenario == scenario)
            .collect();
        if figures.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n**{}** (the load: {} connections always busy; latencies: {RATE} requests/s)\n\n\
             | system | CPU us/request (lowest to highest) | of {YARDSTICK}'s, round by round | requests/s | system calls/request | CPU us/request at {RATE}/s | p50 us | p99 us | p99.9 us |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            scenario.title(),
            wrk::CONNECTIONS
        );
        for figures in figures {
            line(&mut text, figures);
        }
    }
    text.push_str("\n| system | version | RSS MiB | PSS MiB | of it heap and stacks |\n| --- | --- | --- | --- | --- |\n");
    for system in &report.systems {
        if let Some(memory) = system.memory_at_rest {
            let _ = writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {:.1} |",
                system.name,
                system.version,
                memory.rss_bytes as f64 / MIB,
                memory.pss_bytes as f64 / MIB,
                memory.anonymous_bytes as f64 / MIB,
            );
        }
    }
    for line in &report.skipped {
        let _ = writeln!(text, "\n{line}");
    }
    text
}

fn line(text: &mut String, figures: &Figures) {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let cpu = figures.cpu_us.zip(figures.cpu_us_range);
    let _ = writeln!(
        text,
        "| {} | {} | {} | {:.0} | {} | {} | {:.0} | {:.0} | {:.0} |",
        figures.system,
        or_dash(cpu.map(|(us, (low, high))| format!("{us:.1} ({low:.1} to {high:.1})"))),
        or_dash(figures.of_yardstick.map(|ratio| format!("{ratio:.2}"))),
        figures.per_second,
        or_dash(figures.syscalls.map(|calls| format!("{calls:.2}"))),
        or_dash(figures.cpu_us_at_rate.map(|us| format!("{us:.0}"))),
        figures.p50_us,
        figures.p99_us,
        figures.p999_us,
    );
}

/// Memory and readiness in Markdown.
pub fn memory(report: &MemoryReport) -> String {
    let mib = |bytes: u64| format!("{:.2}", bytes as f64 / MIB);
    let (ready, rest) = (report.when_ready, report.at_rest);
    format!(
        "{}; {} starts.\n\n\
         | the sidecar, idle | RSS MiB | PSS MiB | of it heap and stacks |\n\
         | --- | --- | --- | --- |\n\
         | when it turned ready | {} | {} | {} |\n\
         | {} s later | {} | {} | {} |\n\n\
         Ready after {:.1} ms (median; {:.1} to {:.1}) from the start of the process; by its own clock {:.0} ms.\n",
        machine(&report.machine),
        report.starts,
        mib(ready.rss_bytes),
        mib(ready.pss_bytes),
        mib(ready.anonymous_bytes),
        report.rest_seconds,
        mib(rest.rss_bytes),
        mib(rest.pss_bytes),
        mib(rest.anonymous_bytes),
        report.ready_ms.median,
        report.ready_ms.lowest,
        report.ready_ms.highest,
        report.own_ready_ms,
    )
}

/// Two builds of Remora against each other, for a terminal.
pub fn ab(report: &AbReport) -> String {
    let unit = report.scenario.unit();
    let mut text = format!(
        "{}; {}; {} pairs\n",
        machine(&report.machine),
        report.scenario.title(),
        report.pairs
    );
    for (name, build) in [("a", &report.a), ("b", &report.b)] {
        let (low, high) = build.cpu_us_range;
        let calls = build
            .syscalls
            .map_or_else(|| "not counted".to_owned(), |calls| format!("{calls:.3}"));
        let _ = writeln!(
            text,
            "{name}: {:.2} us CPU/{unit} ({low:.2} to {high:.2}; user {:.2}, system {:.2}), {:.0} {unit}s/s, system calls/{unit} {calls}, RSS {:.1} MiB  {}",
            build.cpu_us,
            build.user_us,
            build.system_us,
            build.per_second,
            build.memory.rss_bytes as f64 / MIB,
            build.folder.display(),
        );
    }
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

fn machine(machine: &Machine) -> String {
    format!(
        "{}, {}, {} cores, Linux {}",
        machine.date(),
        machine.processor,
        machine.cores,
        machine.kernel
    )
}

/// Puts `text` between the two comments that bear `mark` in the file.
///
/// # Errors
/// When the comments are not there.
pub fn write(file: &Path, mark: &str, text: &str) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read {}; run this in the repository", file.display()))?;
    let new = replace(&old, mark, text)
        .with_context(|| format!("{} has no place for {mark}", file.display()))?;
    std::fs::write(file, new)?;
    Ok(())
}

fn replace(old: &str, mark: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- {mark} begins -->"),
        format!("<!-- {mark} ends -->"),
    );
    let (before, rest) = old.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!(
        "{before}{begin}\n\n{}\n\n{end}{after}",
        text.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let old = "a\n<!-- x begins -->\nold\n<!-- x ends -->\nb";
        let new = replace(old, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- x begins -->\n\nnew\n\n<!-- x ends -->\nb");
        assert_eq!(replace(&new, "x", "new").unwrap(), new);
        assert_eq!(replace(old, "y", "new"), None);
    }
}
