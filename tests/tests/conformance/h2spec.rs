//! h2spec (RFC 9113 and RFC 7541, as its cases read their predecessors)
//! against both sides of a sidecar. What fails must be in `h2spec.expected`,
//! with the reason, and what is there must fail: so the list stays true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Deserialize;

use crate::go::{self, Application};
use crate::mesh::{DETECTED, GRPC, HTTP2, Hop, Mesh, Place};

/// Cases of h2spec 2.2.1.
const CASES: usize = 146;

#[derive(Clone, Debug, Deserialize)]
struct Outcome {
    id: String,
    name: String,
    result: String,
    #[serde(default)]
    expected: Vec<String>,
    #[serde(default)]
    actual: String,
}

/// What is known to fail: by listener and case, the reason.
fn known() -> BTreeMap<(String, String), String> {
    let lines = include_str!("h2spec.expected").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries = lines.map(|line| {
        let mut parts = line.splitn(3, ' ');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let (listener, case, reason) = (next(), next(), next());
        assert!(reason.len() > 20, "without a reason: {line}");
        ((listener, case), reason)
    });
    entries.collect()
}

/// Runs the suite, then once more one after the other what failed: a machine
/// that stands still for two seconds fails any case.
fn run(address: SocketAddr) -> Vec<Outcome> {
    let all = report(address, &["--parallel", "8"]);
    let again = |outcome: Outcome| {
        if outcome.result != "failed" {
            return outcome;
        }
        let arguments = ["--parallel", "1", "--only", &outcome.id];
        let mut again = report(address, &arguments).into_iter();
        again.find(|again| again.id == outcome.id).unwrap()
    };
    all.into_iter().map(again).collect()
}

fn report(address: SocketAddr, arguments: &[&str]) -> Vec<Outcome> {
    let output = go::program("h2spec")
        .args(["--address", &address.to_string()])
        .args(arguments)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// Holds one listener's outcomes to what is known.
fn compare(listener: &str, outcomes: &[Outcome]) -> Vec<String> {
    let known = known();
    let mut wrong = Vec::new();
    let failed = outcomes.iter().filter(|one| one.result == "failed");
    let failed: BTreeMap<&str, &Outcome> = failed.map(|one| (one.id.as_str(), one)).collect();
    for (id, one) in &failed {
        if !known.contains_key(&(listener.to_owned(), (*id).to_owned())) {
            wrong.push(format!(
                "{listener} {id} fails: {}\n    expected {}\n    got {}",
                one.name,
                one.expected.join(" or "),
                one.actual
            ));
        }
    }
    let listed = known.keys().filter(|(at, _)| at == listener);
    let passing = listed.filter(|(_, id)| !failed.contains_key(id.as_str()));
    wrong.extend(
        passing.map(|(_, id)| format!("{listener} {id} passes: take it out of h2spec.expected")),
    );
    let count = |result: &str| outcomes.iter().filter(|one| one.result == result).count();
    println!(
        "h2spec {listener}: {} passed, {} skipped, {} failed",
        count("passed"),
        count("skipped"),
        failed.len()
    );
    wrong
}

#[tokio::test]
async fn every_case_of_h2spec_passes_or_is_explained() {
    if !go::is_here() {
        return;
    }
    let place = Place::new(0);
    let plain = [HTTP2, DETECTED].map(|port| place.application(port).to_string());
    let _application = Application::start(&plain, &place.application(GRPC).to_string());
    let _mesh = Mesh::start(place, Hop::Ours).await;
    let mut wrong = Vec::new();
    for (listener, address) in [
        ("outbound", place.outbound()),
        ("inbound", place.inbound(HTTP2)),
        ("inbound-detected", place.inbound(DETECTED)),
    ] {
        let outcomes = run(address);
        let ids: BTreeSet<&str> = outcomes.iter().map(|one| one.id.as_str()).collect();
        assert_eq!((outcomes.len(), ids.len()), (CASES, CASES));
        wrong.extend(compare(listener, &outcomes));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_list_of_known_failures_names_listeners_that_are_tested() {
    for (listener, case) in known().keys() {
        let tested = ["outbound", "inbound", "inbound-detected"];
        assert!(tested.contains(&listener.as_str()), "{listener} {case}");
    }
}
