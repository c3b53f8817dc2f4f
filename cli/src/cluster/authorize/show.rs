//! The answer for people.

use super::{Answer, Outcome, Policy};
use crate::cluster::output::{Cell, Paint, Table, Tone};
use crate::cluster::text;

/// The whole answer.
pub fn text(answer: &Answer, paint: Paint) -> String {
    let mut text = format!("Pod {}\n\n", text::clean(&answer.pod));
    if answer.policies.is_empty() {
        text.push_str("No AuthorizationPolicy is for it: every caller may pass.\n");
    } else {
        text.push_str(&policies(&answer.policies).text(paint));
    }
    if !answer.ports.is_empty() {
        text.push('\n');
        if let Some(asked) = &answer.asked {
            let from = answer
                .from
                .as_deref()
                .unwrap_or("a caller without identity");
            let (asked, from) = (text::clean(asked), text::clean(from));
            text.push_str(&format!("{asked} from {from}:\n"));
        }
        text.push_str(&ports(answer).text(paint));
    }
    if !answer.invalid.is_empty() {
        text.push_str("\nCannot be read (their last good version may be in force):\n");
        for one in &answer.invalid {
            let one = paint.text(Tone::Bad, one);
            text.push_str(&format!("  AuthorizationPolicy {one}\n"));
        }
    }
    text
}

fn policies(policies: &[Policy]) -> Table {
    let mut table = Table::new(&["POLICY", "ACTION", "PORTS", "FROM", "TO"]);
    let or = |words: &[String], none: &str| match words {
        [] => none.to_owned(),
        words => words.join("; "),
    };
    for one in policies {
        let ports: Vec<String> = one.ports.iter().map(u32::to_string).collect();
        let ports = if ports.is_empty() {
            "all".to_owned()
        } else {
            ports.join(",")
        };
        let tone = match one.action {
            "Deny" => Tone::Bad,
            "Audit" => Tone::Notice,
            _ => Tone::Good,
        };
        table.row([
            Cell::plain(&one.policy),
            Cell::toned(tone, one.action),
            Cell::plain(ports),
            Cell::plain(or(&one.from, "everybody")),
            Cell::plain(or(&one.to, "everything")),
        ]);
    }
    table
}

fn ports(answer: &Answer) -> Table {
    let columns: &[&str] = match answer.asked {
        Some(_) => &["PORT", "MODE", "ANSWER", "BY"],
        None => &["PORT", "MODE"],
    };
    let mut table = Table::new(columns);
    for port in &answer.ports {
        let mut row = vec![Cell::plain(port.port.to_string()), Cell::plain(port.mode)];
        if let Some(outcome) = &port.outcome {
            let (tone, word) = if outcome.passes {
                (Tone::Good, "may pass")
            } else {
                (Tone::Bad, "refused")
            };
            row.push(Cell::toned(tone, word));
            row.push(Cell::plain(by(outcome)));
        }
        table.row(row);
    }
    table
}

fn by(outcome: &Outcome) -> String {
    if outcome.audited.is_empty() {
        return outcome.by.clone();
    }
    format!("{}; told by {}", outcome.by, outcome.audited.join(", "))
}
