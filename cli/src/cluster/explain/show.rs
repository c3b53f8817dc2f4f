//! The answer for people: a table of fields under their blocks.

use serde_json::Value;

use super::{Explanation, Field, OfPods, Taking, show_routes};
use crate::cluster::output::{Cell, Paint, Table, Tone};
use crate::cluster::text;

/// The blocks of a policy, in the order of its schema.
const BLOCKS: [&str; 11] = [
    "circuitBreaker",
    "outbound",
    "retries",
    "timeouts",
    "rateLimits",
    "mtls",
    "admission",
    "loadBalancing",
    "healthCheck",
    "fallback",
    "fault",
];

/// The whole answer.
pub fn text(explanation: &Explanation, paint: Paint) -> String {
    let mut text = format!(
        "Service {} ({})\n",
        text::clean(&explanation.service),
        explanation.reach
    );
    if explanation.reach == super::EXTERNAL_NAME {
        text.push_str(
            "An ExternalName Service has no address of its own: calls to it are relayed \
             untouched, and no policy applies.\n",
        );
    }
    if explanation.policies.is_empty() {
        text.push_str("No policy is in force on it: calls are balanced, and nothing else.\n");
    } else {
        let policies: Vec<String> = explanation.policies.iter().map(taking).collect();
        text.push_str(&format!("Policies: {}\n\n", policies.join(", ")));
        text.push_str(&table(&explanation.fields).text(paint));
        text.push_str(&absent(explanation));
    }
    if !explanation.of_pods.is_empty() {
        text.push_str(
            "\nOf its pods (podSelector), where of each port the strictest mode counts:\n",
        );
        text.push_str(&pods(&explanation.of_pods).text(paint));
    }
    text.push_str(&show_routes::routes(&explanation.routes, paint));
    for rule in &explanation.of_rules {
        let (route, name) = (text::clean(&rule.route), text::clean(&rule.rule));
        text.push_str(&format!(
            "\nOn {route} rule {name}, and all else as on the Service:\n"
        ));
        text.push_str(&table(&rule.fields).text(paint));
    }
    if let Some(doubt) = &explanation.doubt {
        text.push_str(&format!("\n{}\n", paint.text(Tone::Notice, doubt)));
    }
    if !explanation.not_in_force.is_empty() {
        text.push_str("\nNot in force:\n");
        for refused in &explanation.not_in_force {
            let reason = paint.text(Tone::Bad, &refused.reason);
            let policy = text::clean(&refused.policy);
            let message = text::clean(&refused.message);
            text.push_str(&format!("  TrafficPolicy {policy}: {reason}: {message}\n"));
        }
    }
    if let Some(way) = &explanation.request {
        text.push_str(&show_routes::way(way, paint));
    }
    text
}

fn taking(policy: &Taking) -> String {
    let by = policy.by.join(" and ");
    format!(
        "{} (by {by}, generation {})",
        text::clean(&policy.name),
        policy.generation
    )
}

fn table(fields: &[Field]) -> Table {
    let mut table = Table::new(&["FIELD", "FROM", "VALUE"]);
    for field in fields {
        let tone = if field.is_default {
            Tone::Quiet
        } else {
            Tone::Plain
        };
        let from = |text: &str| Cell::toned(tone, text);
        let limits = field
            .value
            .as_array()
            .filter(|_| field.field == "rateLimits");
        match limits {
            Some(limits) if limits.is_empty() => {
                table.row([Cell::plain("rateLimits"), from(&field.from), from("none")]);
            }
            Some(limits) => {
                for limit in limits {
                    let name = limit["name"].as_str().unwrap_or_default();
                    let name = format!("rateLimits[{name}]");
                    table.row([
                        Cell::plain(name),
                        from(&field.from),
                        from(&rate_limit(limit)),
                    ]);
                }
            }
            // Last, since it may be long.
            None => table.row([
                Cell::plain(field.field.as_str()),
                from(&field.from),
                from(&value(&field.value)),
            ]),
        }
    }
    table
}

fn pods(policies: &[OfPods]) -> Table {
    let mut table = Table::new(&["POLICY", "PODS", "SAYS"]);
    for policy in policies {
        let pods = if policy.selects_all {
            "all".to_owned()
        } else {
            format!("with {}", policy.selector)
        };
        let said = policy.fields.iter();
        let said = said.map(|(field, said)| format!("{field} {}", value(said)));
        let said: Vec<String> = said.collect();
        table.row([
            Cell::plain(format!(
                "{} (generation {})",
                policy.name, policy.generation
            )),
            Cell::plain(pods),
            Cell::plain(if said.is_empty() {
                "nothing".to_owned()
            } else {
                said.join(", ")
            }),
        ]);
    }
    table
}

/// The blocks that no policy has.
fn absent(explanation: &Explanation) -> String {
    let is_there = |block: &&str| {
        let block_of = |field: &str| field.split('.').next() == Some(*block);
        let mut of_pods = explanation.of_pods.iter();
        explanation.fields.iter().any(|one| block_of(&one.field))
            || of_pods.any(|policy| policy.fields.keys().any(|field| block_of(field)))
    };
    let absent: Vec<&str> = BLOCKS
        .into_iter()
        .filter(|block| !is_there(block))
        .collect();
    if absent.is_empty() {
        String::new()
    } else {
        format!(
            "Not set by any policy, so without effect: {}\n",
            absent.join(", ")
        )
    }
}

/// A value on one line.
fn value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(self::value).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| format!("{name} {}", self::value(value)));
            fields.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// `100 per second, burst 10, by remoteAddress, GET /a/*, at the caller, shadow`
fn rate_limit(limit: &Value) -> String {
    let rate = &limit["limit"];
    let per = rate["per"].as_str().unwrap_or_default();
    let mut text = format!("{} per {per}, burst {}", rate["requests"], rate["burst"]);
    let key = &limit["key"];
    if key.as_array().is_some_and(|key| !key.is_empty()) {
        text.push_str(&format!(
            ", for each {} (at most {})",
            value(key),
            limit["maxKeys"]
        ));
    }
    if let Some(matches) = limit.get("match") {
        text.push_str(&format!(", only {}", value(matches)));
    }
    if limit["scope"] == "Mesh" {
        text.push_str(", shared by the whole mesh");
    }
    if limit["enforcedAt"] == "Caller" {
        text.push_str(", by each caller's sidecar");
    }
    if limit["mode"] == "Shadow" {
        text.push_str(", shadow");
    }
    text
}
