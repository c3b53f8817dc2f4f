//! The figures as tables, and their place in `benches/README.md`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::idle::{Connections, IdleReport};
use crate::machine::Machine;

mod ab;
mod compare;
mod handshakes;
mod memory;

pub use ab::ab;
pub use compare::{caption, compare};
pub use handshakes::handshakes;
pub use memory::memory;

const MIB: f64 = 1024.0 * 1024.0;

fn idle(text: &mut String, reports: &[IdleReport]) {
    for connections in [Connections::Plain, Connections::Tls] {
        let of_these: Vec<&IdleReport> = reports
            .iter()
            .filter(|report| report.kind == connections)
            .collect();
        if !of_these.is_empty() {
            idle_table(text, connections, &of_these);
        }
    }
}

fn idle_table(text: &mut String, kind: Connections, reports: &[&IdleReport]) {
    let connections = reports.first().map_or(0, |report| report.connections);
    let kind = match kind {
        Connections::Plain => "HTTP/1.1",
        Connections::Tls => "mutual-TLS",
    };
    let _ = write!(
        text,
        "\n| memory, MiB | at rest: RSS | PSS | of it heap and stacks | RSS over {connections} idle {kind} connections | KiB each | RSS after them |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for report in reports {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.1} |",
            report.system,
            report.at_rest.rss_mib(),
            report.at_rest.pss_bytes as f64 / MIB,
            report.at_rest.anonymous_bytes as f64 / MIB,
            report.open.rss_mib(),
            report.kib_per_connection(),
            report.closed.rss_mib(),
        );
    }
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

/// Two digits after the point, where there are few before it.
fn number(value: f64) -> String {
    match value {
        small if small < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
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
