//! What is shown of the run: the record and the world as a scene.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Show;
use super::record::Rates;
use crate::playground::clock;
use crate::playground::member::{Member, State};
use crate::playground::report::Event;
use crate::playground::view::scene::{
    BreakerRow, EventRow, LoadRow, PodRow, PolicyRow, RouteRow, Scene, Tone,
};

/// How often the view is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Events on the screen, at most.
const MOST_SHOWN: usize = 60;
/// Values of the load's rate that are remembered.
const HISTORY: usize = 120;

impl Show {
    pub(super) fn draw(&mut self) {
        let now = clock::now();
        if self.drawn_at.is_none_or(|at| now - at >= DRAW_EVERY) {
            self.redraw();
        }
    }

    pub(super) fn redraw(&mut self) {
        if self.view.is_none() {
            return;
        }
        let now = clock::now();
        self.drawn_at = Some(now);
        let scene = self.scene(now);
        if let Some(view) = &mut self.view {
            view.draw(&scene);
        }
    }

    fn scene(&mut self, now: Instant) -> Scene {
        let pods = self
            .world
            .pods()
            .iter()
            .map(|(name, member)| pod_row(name, member, self.record.rates.get(name), now));
        let pods = pods.collect();
        let latest = self.record.events.iter().rev().filter_map(event_row);
        let mut events: Vec<_> = latest.take(MOST_SHOWN).collect();
        events.sort_by_key(|event| std::cmp::Reverse(event.at_ms));
        let waiting_for = if self.began.is_none() {
            self.waiting_for()
        } else {
            None
        };
        Scene {
            title: format!(
                "{} · {}",
                self.plan.scenario.word(),
                self.plan.isolation.word()
            ),
            waiting_for,
            elapsed_seconds: self.began.map_or(0, |began| (now - began).as_secs()),
            length_seconds: self.plan.length().map(|length| length.as_secs()),
            load: self.load_row(),
            pods,
            routes: self.route_rows(),
            policies: self.policy_rows(),
            breakers: self.breaker_rows(),
            breakers_known: self
                .record
                .breakers
                .values()
                .flat_map(|breakers| &breakers.services)
                .map(|service| service.endpoints.len())
                .sum(),
            events,
            problems: self.record.yaml.iter().map(ToString::to_string).collect(),
            folder: self.plan.manifests.display().to_string(),
        }
    }

    fn load_row(&mut self) -> LoadRow {
        let load = self.inputs.load();
        #[allow(clippy::cast_precision_loss, reason = "a rate to be shown")]
        let rate = if load.recent.seconds > 0.0 {
            load.recent.requests as f64 / load.recent.seconds
        } else {
            0.0
        };
        if self.load_seen != load.requests {
            self.load_seen = load.requests;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate is small and positive"
            )]
            self.history.push_back(rate.round() as u64);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        LoadRow {
            rate,
            p50_ms: load.recent.latency_ms.p50,
            p99_ms: load.recent.latency_ms.p99,
            failed: load.failed_idempotent,
            requests: load.requests,
            history: self.history.clone(),
        }
    }

    fn route_rows(&self) -> Vec<RouteRow> {
        let taken = self.record.taken().into_iter().map(|taken| RouteRow {
            rule: taken.rule(),
            backend: taken.backend().to_owned(),
            share: taken.share,
            rate: taken.requests_per_second,
        });
        taken.collect()
    }

    /// Those of the trial's pods where it is one: what it is about has the room.
    fn policy_rows(&self) -> Vec<PolicyRow> {
        let of_trial = self.plan.scenario.trial().is_some();
        let working = self.record.working();
        let working = working.filter(|(pod, _)| !of_trial || super::trials::is_concerned(pod));
        let rows = working.map(|(pod, one)| PolicyRow {
            pod: pod.to_owned(),
            of: one.of.clone(),
            what: one.what.clone(),
            full: one.full,
            words: one.words.clone(),
            is_pressed: one.is_pressed,
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| !row.is_pressed);
        rows
    }

    fn breaker_rows(&self) -> Vec<BreakerRow> {
        let now_ms = clock::unix_ms();
        let mut rows = Vec::new();
        for (caller, breakers) in &self.record.breakers {
            for endpoint in breakers
                .services
                .iter()
                .flat_map(|service| &service.endpoints)
            {
                if endpoint.state != "closed" && !endpoint.state.is_empty() {
                    rows.push(BreakerRow {
                        caller: caller.clone(),
                        endpoint: endpoint.endpoint.clone(),
                        state: endpoint.state.replace('_', " "),
                        for_ms: endpoint
                            .since_ms
                            .map_or(0, |since| now_ms.saturating_sub(since)),
                        cause: endpoint.cause.clone().unwrap_or_default(),
                    });
                }
            }
        }
        rows
    }
}

fn pod_row(name: &str, member: &Member, rates: Option<&Rates>, now: Instant) -> PodRow {
    let seconds = (now - member.since).as_secs();
    let (state, tone) = match member.state {
        State::Starting => ("starting".to_owned(), Tone::Notice),
        State::Ready => ("ready".to_owned(), Tone::Good),
        State::Killed => (format!("killed {seconds} s"), Tone::Bad),
        State::Leaving => (format!("leaving {seconds} s"), Tone::Notice),
        State::Failing => (format!("failing {seconds} s"), Tone::Bad),
    };
    let mut row = PodRow {
        name: name.to_owned(),
        state,
        tone: Some(tone),
        ..PodRow::default()
    };
    let is_down = matches!(member.state, State::Killed | State::Failing);
    if let Some(rates) = rates.filter(|_| !is_down) {
        // Who is asked shows how it answers; who only asks, how it is answered.
        let direction = if rates.inbound.requests < rates.outbound.requests / 10.0 {
            &rates.outbound
        } else {
            &rates.inbound
        };
        row.requests = direction.requests;
        row.p50_ms = direction.p50_ms;
        row.p99_ms = direction.p99_ms;
        row.failures = direction.failures;
        row.retries = rates.outbound.retries;
        row.limited = rates.inbound.limited + rates.outbound.limited;
    }
    row
}

/// An event in words; `None` for what is only for the report.
fn event_row(event: &Event) -> Option<EventRow> {
    let word = |field: &str| {
        event
            .details
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let number = |field: &str| event.details.get(field).and_then(Value::as_u64);
    let pod = word("pod");
    let (what, tone) = match event.kind {
        "pod_ready" => (format!("{pod} is ready"), Tone::Good),
        "killed" => (format!("{pod} is killed"), Tone::Bad),
        "revived" => (format!("{pod} is being revived"), Tone::Notice),
        "removed" => (format!("{pod} is gone"), Tone::Quiet),
        "restarting" => (format!("{pod}: {}", word("why")), Tone::Bad),
        "failed" => (format!("{pod}: {}", word("why")), Tone::Bad),
        "slow" if number("ms") == Some(0) => (format!("{pod} is as fast as before"), Tone::Good),
        "slow" => (
            format!("{pod} answers {} ms later", number("ms").unwrap_or(0)),
            Tone::Notice,
        ),
        "break" if number("status") == Some(0) => (format!("{pod} is mended"), Tone::Good),
        "break" => (
            format!("{pod} answers {}", number("status").unwrap_or(0)),
            Tone::Notice,
        ),
        "breaker" => {
            return Some(breaker_event(
                event,
                word("caller"),
                word("endpoint"),
                word("to"),
            ));
        }
        "policy_in_force" => {
            let ms = number("ms").unwrap_or(0);
            (
                format!("{} in force after {ms} ms", word("policy")),
                Tone::Good,
            )
        }
        "control_plane_killed" => ("the control plane is killed".to_owned(), Tone::Bad),
        "root_replaced" => ("the root of the CA is replaced".to_owned(), Tone::Notice),
        "renewed" => (format!("{pod} has a new certificate"), Tone::Quiet),
        "control_plane_started" => ("the control plane is back".to_owned(), Tone::Notice),
        "problem" | "refused" => (word("message").to_owned(), Tone::Bad),
        "narrator" => (word("message").to_owned(), Tone::Notice),
        "yaml_changed" => ("the YAML changed".to_owned(), Tone::Quiet),
        _ => return None,
    };
    Some(EventRow {
        at_ms: event.at_ms,
        what,
        tone,
    })
}

fn breaker_event(event: &Event, caller: &str, endpoint: &str, to: &str) -> EventRow {
    let (what, tone) = match to {
        "open" => (format!("{caller} keeps away from {endpoint}"), Tone::Bad),
        "half_open" => (format!("{caller} probes {endpoint}"), Tone::Notice),
        "closed" => (format!("{caller} trusts {endpoint} again"), Tone::Good),
        other => (
            format!("{caller} → {endpoint}: {}", other.replace('_', " ")),
            Tone::Notice,
        ),
    };
    EventRow {
        at_ms: event.at_ms,
        what,
        tone,
    }
}
