//! What operators look at: the alerts and the dashboard, held to the catalogue of
//! metrics (docs/metrics.md), and to what Prometheus' own tool says of the rules.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where its ground is missing"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a PodMonitor adds to every sample, and a histogram to its buckets.
const ADDED: [&str; 3] = ["namespace", "pod", "le"];

fn read(file: &str) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(top.join(file)).unwrap()
}

/// Every metric of the catalogue with its labels.
fn catalogue() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("docs/metrics.md");
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').collect();
        // Of the table of renamed ones: a name, and another.
        if cells.len() < 8 {
            continue;
        }
        let name = cells[1].split('`').nth(1).unwrap();
        let labels = cells[4].split('`').skip(1).step_by(2);
        // Daemons that serve the same have the labels of all.
        let all = known.entry(name.to_owned()).or_default();
        all.extend(labels.map(str::to_owned));
    }
    assert!(known.len() > 50, "only {} metrics", known.len());
    known
}

fn dashboard() -> Value {
    serde_json::from_str(&read("manifests/components/dashboard/remora.json")).unwrap()
}

/// The queries of the alerts and of the dashboard, each with where it stands.
fn queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for rule in rules()["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| {
            let rules = group["rules"].as_array().unwrap();
            rules.iter()
        })
    {
        let text = |field: &str| rule[field].as_str().unwrap().to_owned();
        queries.push((text("alert"), text("expr")));
    }
    let dashboard = dashboard();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap();
            queries.push((
                title.to_owned(),
                target["expr"].as_str().unwrap().to_owned(),
            ));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            queries.push((variable["name"].to_string(), query.to_owned()));
        }
    }
    queries
}

/// The rules of the alerts, as Prometheus reads them.
fn rules() -> Value {
    let object: Value =
        serde_saphyr::from_str(&read("manifests/components/alerts/alerts.yaml")).unwrap();
    object["spec"].clone()
}

/// The metrics that a query names, each with the labels that it selects by.
fn named(query: &str) -> Vec<(&str, Vec<&str>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for prefix in ["remora_", "process_"] {
        for (at, _) in query.match_indices(prefix) {
            if query[..at].chars().next_back().is_some_and(is_word) {
                continue;
            }
            let rest = &query[at..];
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            let selected = rest[end..]
                .strip_prefix('{')
                .and_then(|rest| rest.split('}').next());
            let labels = selected.unwrap_or_default().split(',');
            let labels = labels.filter_map(|one| {
                let name = one.trim().split(['=', '!']).next()?;
                (!name.is_empty()).then_some(name)
            });
            found.push((&rest[..end], labels.collect()));
        }
    }
    found
}

/// The labels by which a query groups.
fn grouped(query: &str) -> Vec<&str> {
    let groups = query.split("by (").skip(1);
    let groups = groups.filter_map(|rest| rest.split(')').next());
    groups
        .flat_map(|labels| labels.split(',').map(str::trim))
        .collect()
}

/// What is wrong with a query.
fn wrong(query: &str, catalogue: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = BTreeSet::from(ADDED);
    for (name, selected) in named(query) {
        let bare = name.trim_end_matches("_bucket");
        let Some(known) = catalogue.get(bare) else {
            wrong.push(format!("{name} is not in docs/metrics.md"));
            continue;
        };
        labels.extend(known.iter().map(String::as_str));
        let strange = selected
            .iter()
            .filter(|label| !known.contains(**label) && !ADDED.contains(label));
        wrong.extend(strange.map(|label| format!("{name} has no label {label}")));
    }
    let strange = grouped(query)
        .into_iter()
        .filter(|label| !labels.contains(label));
    wrong.extend(strange.map(|label| format!("nothing in it has a label {label}")));
    wrong
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_and_labels_of_the_catalogue() {
    let (catalogue, queries) = (catalogue(), queries());
    assert!(queries.len() > 60, "{}", queries.len());
    let mut findings = Vec::new();
    for (place, query) in &queries {
        let wrong = wrong(query, &catalogue);
        findings.extend(
            wrong
                .into_iter()
                .map(|what| format!("{place}: {what}: {query}")),
        );
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

#[test]
fn a_query_for_what_nobody_serves_is_found() {
    let catalogue = catalogue();
    for (query, what) in [
        (
            "rate(remora_requests_totals[5m])",
            "remora_requests_totals is not",
        ),
        ("remora_leader{colour=\"red\"}", "no label colour"),
        ("sum by (colour) (remora_leader)", "a label colour"),
    ] {
        let wrong = wrong(query, &catalogue).join(" ");
        assert!(wrong.contains(what), "{query}: {wrong}");
    }
    let good = "histogram_quantile(0.5, sum by (service, le) (rate(remora_request_duration_seconds_bucket{direction=\"outbound\"}[5m])))";
    assert_eq!(wrong(good, &catalogue), Vec::<String>::new());
}

#[test]
fn every_alert_says_what_to_do() {
    for group in rules()["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            for field in ["summary", "description"] {
                let words = rule["annotations"][field].as_str().unwrap_or_default();
                assert!(words.len() > 20, "{}: {field}: {words:?}", rule["alert"]);
            }
            let severity = rule["labels"]["severity"].as_str();
            assert!(matches!(severity, Some("critical" | "warning")), "{rule}");
        }
    }
}

#[test]
fn what_a_panel_shows_per_second_is_a_rate() {
    for panel in dashboard()["panels"].as_array().unwrap() {
        if panel["fieldConfig"]["defaults"]["unit"] != "reqps" {
            continue;
        }
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            assert!(query.contains("rate("), "{}: {query}", panel["title"]);
        }
    }
}

#[test]
fn the_panels_of_the_dashboard_do_not_cover_each_other() {
    let dashboard = dashboard();
    let mut taken = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "{}",
            panel["title"]
        );
        let place = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{}", panel["title"]);
        for y in place("y")..place("y") + place("h") {
            for x in place("x")..place("x") + place("w") {
                let before = taken.insert((x, y), panel["title"].clone());
                assert_eq!(before, None, "below {}", panel["title"]);
            }
        }
    }
}

/// By Prometheus' own tool, where the machine has it.
#[test]
fn promtool_takes_the_rules() {
    let Some(promtool) = found("promtool") else {
        assert!(
            std::env::var_os("REMORA_REQUIRE_PROMTOOL").is_none(),
            "no promtool"
        );
        // Not by `eprintln!`, whose words libtest keeps to itself.
        let words = b"\nSKIPPED (nothing was tested): no promtool (Debian: prometheus)\n";
        std::io::stderr().write_all(words).unwrap();
        return;
    };
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("rules.yaml");
    // JSON is YAML.
    fs::write(&file, rules().to_string()).unwrap();
    let checked = Command::new(promtool)
        .args(["check", "rules", "--lint=all", "--lint-fatal"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout) + String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
    assert!(said.contains("rules found"), "{said}");
}

fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
