//! The side-by-side figures.

use std::fmt::Write as _;

use super::{idle, machine, number, or_dash, row};
use crate::compare::{RATE, RATE_CONNECTIONS, Report};
use crate::figures::{AtRate, Figures};
use crate::load;
use crate::scenario::Scenario;

/// The side-by-side figures in Markdown.
pub fn compare(report: &Report) -> String {
    let mut text = format!("{}\n", caption(report));
    for scenario in Scenario::ALL {
        let of_scenario = |figures: &&Figures| figures.scenario == scenario;
        let figures: Vec<&Figures> = report.figures.iter().filter(of_scenario).collect();
        if !figures.is_empty() {
            scenario_table(&mut text, report, scenario, &figures);
        }
    }
    if !report.figures.iter().any(counts_instructions) {
        text.push_str(
            "\nInstructions cannot be counted on this machine (`perf stat` says that they are not supported): the CPU time in user space stands in their place.\n",
        );
    }
    if !report.memory.is_empty() {
        idle(&mut text, &report.memory);
    }
    versions(&mut text, report);
    for line in report.skipped.iter().chain(&report.failed) {
        let _ = writeln!(text, "\n{line}");
    }
    text
}

/// Where, when and how the figures were made, in one line.
pub fn caption(report: &Report) -> String {
    format!(
        "{}; {} rounds of {} s (latencies: {} s), interleaved; medians.",
        machine(&report.machine),
        report.rounds,
        report.seconds,
        report.rate_seconds
    )
}

fn counts_instructions(figures: &Figures) -> bool {
    figures.counts.user_instructions.is_some()
}

fn scenario_table(text: &mut String, report: &Report, scenario: Scenario, figures: &[&Figures]) {
    let unit = scenario.unit();
    let (time, _) = unit.time();
    let rate = match scenario.dialect() {
        Some(_) => format!("; latencies: {RATE} requests/s over {RATE_CONNECTIONS} connections"),
        None => String::new(),
    };
    let _ = writeln!(
        text,
        "\n**{}** (the load: {}{rate})\n",
        scenario.title(),
        load::describe(scenario, report.http2)
    );
    let instructions = figures.iter().any(|figures| counts_instructions(figures));
    let mut columns = vec![
        "system".to_owned(),
        format!("CPU {time}/{} (lowest to highest)", unit.word()),
        "of it user".to_owned(),
    ];
    columns.extend(scenario.yardsticks().map(|name| format!("of {name}'s")));
    columns.push(format!("{}/s", unit.plural()));
    columns.push(format!("system calls/{}", unit.word()));
    if instructions {
        columns.push(format!("instructions/{}, user + system", unit.word()));
    }
    if scenario.dialect().is_some() {
        columns.push(format!("CPU {time}/{} at {RATE}/s", unit.word()));
        columns.extend(["p50 us", "p99 us", "p99.9 us"].map(str::to_owned));
    }
    row(text, &columns);
    row(text, &vec!["---".to_owned(); columns.len()]);
    for figures in figures {
        row(text, &cells(scenario, figures, instructions));
    }
}

fn cells(scenario: Scenario, figures: &Figures, instructions: bool) -> Vec<String> {
    let (_, per) = scenario.unit().time();
    let cpu = figures.cpu_us.zip(figures.cpu_us_range);
    let mut cells = vec![
        figures.system.to_owned(),
        or_dash(cpu.map(|(us, (low, high))| {
            format!("{:.1} ({:.1} to {:.1})", us / per, low / per, high / per)
        })),
        or_dash(figures.user_us.map(|us| format!("{:.1}", us / per))),
    ];
    let ratio = |ratio: f64| format!("{ratio:.2}");
    cells.extend(figures.beside.map(|beside| or_dash(beside.map(ratio))));
    cells.push(number(figures.per_second));
    let counts = figures.counts;
    cells.push(or_dash(counts.syscalls.map(number)));
    if instructions {
        let both = counts.user_instructions.zip(counts.system_instructions);
        cells.push(or_dash(
            both.map(|(user, system)| format!("{user:.0} + {system:.0}")),
        ));
    }
    if scenario.dialect().is_some() {
        let rate = figures.at_rate;
        let of = |pick: fn(&AtRate) -> Option<f64>| {
            or_dash(rate.as_ref().and_then(pick).map(|us| format!("{us:.0}")))
        };
        cells.push(of(|rate| rate.cpu_us));
        cells.push(of(|rate| Some(rate.p50_us)));
        cells.push(of(|rate| Some(rate.p99_us)));
        cells.push(of(|rate| Some(rate.p999_us)));
    }
    cells
}

fn versions(text: &mut String, report: &Report) {
    let named: Vec<String> = report
        .versions
        .iter()
        .filter(|(_, version)| !version.is_empty())
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    if !named.is_empty() {
        let _ = writeln!(text, "\nVersions: {}.", named.join(", "));
    }
}
