//! The one JSON object at the end, and whether the mesh did what it should.

use serde::Serialize;
use serde_json::{Map, Value};

use super::measure::breakers::Counts;
use super::measure::identity::Summary;
use super::measure::propagation::Spread;
use super::measure::visitor::{Failure, Quantiles};
use super::routing::{self, figures::Figures};
use super::scenario::Scenario;
use super::trials::Verdict;

/// A killed pod's breaker is open within this time.
pub const OPEN_WITHIN_MS: u64 = 1000;
/// A revived pod's breaker is closed within this time.
pub const CLOSED_WITHIN_MS: u64 = 3000;
/// A changed policy is in force everywhere within this time (median).
pub const IN_FORCE_WITHIN_MS: f64 = 200.0;
/// The least share of the asked-for load that must have been carried.
const LEAST_SHARE_OF_LOAD: f64 = 0.5;
/// Events that a report holds.
pub const MOST_EVENTS: usize = 5000;

/// Something that happened, with what belongs to it.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Event {
    /// Milliseconds since the load began; negative before.
    pub at_ms: i64,
    /// What.
    pub kind: &'static str,
    /// The rest.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

/// A sidecar at the end.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Sidecar {
    /// Its pod.
    pub pod: String,
    /// Milliseconds from its start to ready.
    pub ready_ms: Option<u64>,
    /// Its memory in use, in bytes.
    pub rss_bytes: Option<u64>,
}

/// How a killed pod's breakers behaved.
#[derive(Debug, Clone, Default, Serialize, PartialEq)]
pub struct Killed {
    /// The pod.
    pub pod: String,
    /// Milliseconds from the kill to the first breaker open.
    pub opened_after_ms: Option<u64>,
    /// Milliseconds from the revival to the last breaker closed.
    pub closed_after_ms: Option<u64>,
    /// Whether it was revived.
    pub revived: bool,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether the mesh did what it should.
    pub ok: bool,
    /// Why not, in sentences.
    pub problems: Vec<String>,
    /// The scenario.
    pub scenario: &'static str,
    /// How pods were kept apart.
    pub isolation: &'static str,
    /// Why not in network namespaces, where that was found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolation_reason: Option<String>,
    /// How long under load.
    pub seconds: f64,
    /// Requests of the load that ended.
    pub requests: u64,
    /// Idempotent ones that failed.
    pub failed: u64,
    /// Others that failed (a payment in flight to a killed pod may).
    pub failed_other: u64,
    /// Attempts of all sidecars beyond the first.
    pub retries: u64,
    /// Requests refused by a rate limit.
    pub rate_limited: u64,
    /// Requests refused by another limit.
    pub overloaded: u64,
    /// How often breakers changed.
    pub breaker: Counts,
    /// The load's latency.
    pub latency_ms: Quantiles,
    /// How long changed policies took to be in force in every sidecar.
    pub policy_propagation_ms: Option<Spread>,
    /// The pod that the scenario killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<Killed>,
    /// What the stages of a scenario of routes came to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Figures>,
    /// What a scenario of a section of TrafficPolicy came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Verdict>,
    /// The sidecars.
    pub sidecars: Vec<Sidecar>,
    /// Their certificates.
    pub identities: Summary,
    /// What happened.
    pub events: Vec<Event>,
    /// The last failures of the load.
    pub failures: Vec<Failure>,
}

/// What the verdict needs beside the numbers of the report.
#[derive(Debug, Clone, Default)]
pub struct Circumstances {
    /// Problems noticed on the way: processes that ended, policies that were lost.
    pub noticed: Vec<String>,
    /// Requests per second that the load wanted to send.
    pub asked_rate: f64,
    /// Whether the run was as long as asked for: an earlier end judges less.
    pub is_complete: bool,
    /// Policy changes that arrived after the control plane came back.
    pub changes_after_outage: Option<usize>,
    /// Whether user pods made the load at all.
    pub has_load: bool,
    /// Pods whose certificate was not renewed since a root was replaced.
    pub identities_behind: Vec<String>,
}

impl Report {
    /// Judges the run.
    pub fn judge(&mut self, scenario: Scenario, circumstances: &Circumstances) {
        let mut problems = circumstances.noticed.clone();
        if self.failed > 0 {
            problems.push(format!(
                "{} idempotent requests failed; none may.",
                self.failed
            ));
        }
        if circumstances.has_load {
            self.judge_load(circumstances, &mut problems);
        }
        if let Some(killed) = &self.killed {
            judge_killed(killed, circumstances.is_complete, &mut problems);
        } else if scenario == Scenario::Demo && circumstances.is_complete {
            problems.push("The scenario had no catalog pod to kill.".to_owned());
        }
        match &self.policy_propagation_ms {
            Some(spread) if spread.p50 > IN_FORCE_WITHIN_MS => problems.push(format!(
                "A changed policy took {} ms (median) to be in force everywhere; {IN_FORCE_WITHIN_MS} is the most.",
                spread.p50
            )),
            None if circumstances.is_complete && scenario.measures_changes() => {
                problems.push("No changed policy was seen to arrive in the sidecars.".to_owned());
            }
            _ => {}
        }
        if circumstances.is_complete {
            problems.extend(routing::figures::judged(
                routing::stages(scenario),
                &self.stages,
            ));
        }
        if let Some(verdict) = self.trial.as_ref().filter(|_| circumstances.is_complete) {
            problems.extend(verdict.problems());
        }
        if scenario.identity_lifetime().is_some() {
            self.judge_identities(scenario, circumstances, &mut problems);
        }
        if circumstances.changes_after_outage == Some(0) && circumstances.is_complete {
            problems
                .push("After the control plane came back no changed policy arrived.".to_owned());
        }
        self.ok = problems.is_empty();
        self.problems = problems;
    }

    fn judge_identities(
        &self,
        scenario: Scenario,
        circumstances: &Circumstances,
        problems: &mut Vec<String>,
    ) {
        if self.failed_other > 0 {
            problems.push(format!(
                "{} other requests failed; none may, since nothing was killed that serves them.",
                self.failed_other
            ));
        }
        if !circumstances.is_complete {
            return;
        }
        if self.identities.renewals == 0 {
            problems.push("No certificate was renewed.".to_owned());
        }
        if scenario == Scenario::RootRotation && !circumstances.identities_behind.is_empty() {
            let pods = circumstances.identities_behind.join(", ");
            problems.push(format!(
                "Not renewed since the last root was replaced: {pods}."
            ));
        }
    }

    fn judge_load(&self, circumstances: &Circumstances, problems: &mut Vec<String>) {
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let carried = self.requests as f64;
        let asked = circumstances.asked_rate * self.seconds;
        if self.requests == 0 {
            problems.push("The load made no request.".to_owned());
        } else if carried < asked * LEAST_SHARE_OF_LOAD {
            problems.push(format!(
                "Only {} of about {asked:.0} requests were carried.",
                self.requests
            ));
        }
    }
}

fn judge_killed(killed: &Killed, is_complete: bool, problems: &mut Vec<String>) {
    let pod = &killed.pod;
    match killed.opened_after_ms {
        None => problems.push(format!(
            "No breaker opened towards {pod} after it was killed."
        )),
        Some(ms) if ms > OPEN_WITHIN_MS => {
            problems.push(format!("The breaker towards {pod} opened {ms} ms after the kill; {OPEN_WITHIN_MS} is the most."));
        }
        Some(_) => {}
    }
    match killed.closed_after_ms {
        None if killed.revived => problems.push(format!(
            "The breaker towards {pod} did not close after its revival."
        )),
        None if is_complete => problems.push(format!("{pod} was not revived.")),
        Some(ms) if ms > CLOSED_WITHIN_MS => {
            problems.push(format!("The breaker towards {pod} closed {ms} ms after its revival; {CLOSED_WITHIN_MS} is the most."));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            ok: false,
            problems: Vec::new(),
            scenario: "demo",
            isolation: "netns",
            isolation_reason: None,
            seconds: 30.0,
            requests: 29_990,
            failed: 0,
            failed_other: 0,
            retries: 12,
            rate_limited: 3,
            overloaded: 0,
            breaker: Counts {
                opened: 2,
                half_opened: 2,
                closed: 2,
            },
            latency_ms: Quantiles {
                p50: 1.0,
                p99: 4.0,
                p999: 9.0,
            },
            policy_propagation_ms: Some(Spread {
                p50: 12.0,
                max: 30.0,
                changes: 14,
            }),
            killed: Some(Killed {
                pod: "catalog-3".into(),
                opened_after_ms: Some(8),
                closed_after_ms: Some(900),
                revived: true,
            }),
            stages: Vec::new(),
            trial: None,
            sidecars: vec![Sidecar {
                pod: "web-1".into(),
                ready_ms: Some(21),
                rss_bytes: Some(5 << 20),
            }],
            identities: Summary::default(),
            events: vec![Event {
                at_ms: 5,
                kind: "killed",
                details: Map::from_iter([("pod".to_owned(), "catalog-3".into())]),
            }],
            failures: Vec::new(),
        }
    }

    fn judged(change: impl FnOnce(&mut Report)) -> Report {
        let mut report = good();
        change(&mut report);
        let circumstances = Circumstances {
            asked_rate: 1000.0,
            is_complete: true,
            has_load: true,
            ..Circumstances::default()
        };
        report.judge(Scenario::Demo, &circumstances);
        report
    }

    #[test]
    fn a_good_run_is_ok() {
        let report = judged(|_| {});
        assert!(report.ok, "{:?}", report.problems);
    }

    #[test]
    fn each_fault_is_a_sentence() {
        type Fault = fn(&mut Report);
        let faults: [(&str, Fault); 6] = [
            ("3 idempotent requests failed", |report| report.failed = 3),
            ("opened 1500 ms after the kill", |report| {
                report.killed.as_mut().unwrap().opened_after_ms = Some(1500)
            }),
            ("did not close", |report| {
                report.killed.as_mut().unwrap().closed_after_ms = None
            }),
            ("250 ms (median)", |report| {
                report.policy_propagation_ms.as_mut().unwrap().p50 = 250.0
            }),
            ("Only 9000 of about 30000", |report| report.requests = 9000),
            ("no catalog pod", |report| report.killed = None),
        ];
        for (sentence, fault) in faults {
            let report = judged(fault);
            assert!(!report.ok);
            assert!(
                report.problems[0].contains(sentence),
                "{:?} lacks {sentence}",
                report.problems
            );
        }
    }

    #[test]
    fn certificates_are_judged_where_they_are_what_it_is_about() {
        let judged = |scenario, renewals, behind: &[&str]| {
            let mut report = good();
            report.failed_other = 1;
            report.identities.renewals = renewals;
            let circumstances = Circumstances {
                asked_rate: 1000.0,
                is_complete: true,
                has_load: true,
                identities_behind: behind.iter().map(ToString::to_string).collect(),
                ..Circumstances::default()
            };
            report.judge(scenario, &circumstances);
            report.problems.join(" ")
        };
        let said = judged(Scenario::RootRotation, 0, &["web-1"]);
        for part in ["1 other requests", "No certificate", "replaced: web-1"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!judged(Scenario::CaOutage, 9, &["web-1"]).contains("web-1"));
        assert_eq!(judged(Scenario::Demo, 0, &["web-1"]), "");
    }

    #[test]
    fn the_report_has_the_promised_fields() {
        let value = serde_json::to_value(judged(|_| {})).unwrap();
        for field in [
            "ok",
            "isolation",
            "seconds",
            "requests",
            "failed",
            "retries",
            "rate_limited",
            "breaker",
            "latency_ms",
            "policy_propagation_ms",
            "sidecars",
            "events",
        ] {
            assert!(!value[field].is_null(), "{field}");
        }
        assert_eq!(
            value["events"][0],
            serde_json::json!({"at_ms": 5, "kind": "killed", "pod": "catalog-3"})
        );
    }
}
