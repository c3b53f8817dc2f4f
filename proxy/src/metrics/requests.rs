//! Requests, their attempts and retries, and raw connections: of each service that
//! the pod calls, and of each of its own ports.

use std::sync::atomic::Ordering::Relaxed;

use super::counters::{LATENCY_BOUNDS_MS, RetryOutcome, Traffic};
use super::exposition::{Subject, outbound, with};
use super::text::{Distribution, Exposition, Samples};
use crate::answer::Reason;

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

pub(super) fn write(subjects: &[Subject], text: &mut Exposition) {
    requests(subjects, text);
    latencies(subjects, text);
    attempts(subjects, text);
    raw_connections(subjects, text);
}

fn each(subjects: &[Subject], read: fn(&Traffic) -> u64) -> Samples<u64> {
    subjects
        .iter()
        .map(|subject| (subject.labels(), read(subject.traffic())))
        .collect()
}

fn each_outbound(subjects: &[Subject], read: fn(&Traffic) -> u64) -> Samples<u64> {
    outbound(subjects)
        .map(|subject| (subject.service(), read(subject.traffic())))
        .collect()
}

/// With the reason where Remora itself answered, and the class that goes with it.
fn requests(subjects: &[Subject], text: &mut Exposition) {
    let mut samples = Samples::new();
    for subject in subjects {
        let labels = |class: &str, reason: &str| {
            with(with(subject.labels(), "class", class), "reason", reason)
        };
        // A rate needs its zero.
        for (class, count) in CLASSES.iter().zip(subject.traffic().classes()) {
            if count > 0 || *class == "2xx" {
                samples.push((labels(class, ""), count));
            }
        }
        for reason in Reason::ALL {
            let counts = subject.traffic().reason_classes(reason);
            let counts = CLASSES.iter().zip(counts).filter(|(_, count)| *count > 0);
            samples.extend(counts.map(|(class, count)| (labels(class, reason.word()), count)));
        }
    }
    text.counter(
        "remora_requests",
        "Requests that were answered, by class of status, and by reason where Remora itself answered",
        &samples,
    );
    text.gauge(
        "remora_requests_in_flight",
        "Requests in flight",
        &each(subjects, |traffic| traffic.in_flight.load(Relaxed)),
    );
    text.counter(
        "remora_cancelled",
        "Requests whose caller went away before the response had ended",
        &each(subjects, |traffic| traffic.cancelled.load(Relaxed)),
    );
    text.counter(
        "remora_no_endpoints",
        "Requests for which there was no endpoint that could take them",
        &each_outbound(subjects, |traffic| traffic.reason(Reason::NoEndpoints)),
    );
}

fn latencies(subjects: &[Subject], text: &mut Exposition) {
    let samples: Vec<Distribution> = subjects
        .iter()
        .map(|subject| Distribution {
            labels: subject.labels(),
            counts: subject.traffic().latency.counts().to_vec(),
            sum: subject.traffic().latency.sum_seconds(),
        })
        .collect();
    text.histogram(
        "remora_request_duration_seconds",
        "From the request's headers to the response's headers, of requests that the upstream answered",
        &LATENCY_BOUNDS_MS.map(|bound| bound / 1_000.0),
        &samples,
    );
}

fn attempts(subjects: &[Subject], text: &mut Exposition) {
    text.counter(
        "remora_attempts",
        "Attempts of requests that have ended",
        &each(subjects, |traffic| traffic.attempts.load(Relaxed)),
    );
    let mut retries = Samples::new();
    for subject in outbound(subjects) {
        for outcome in RetryOutcome::ALL {
            let count = subject.traffic().retry_outcomes.total(outcome);
            if count > 0 || outcome == RetryOutcome::Success {
                let labels = with(subject.service(), "outcome", outcome.word());
                retries.push((labels, count));
            }
        }
    }
    text.counter(
        "remora_retries",
        "Retries by the policy, by what they came to, and those that were not made for lack of budget or place",
        &retries,
    );
    text.counter(
        "remora_resends",
        "Attempts sent again because nothing had reached the application",
        &each_outbound(subjects, |traffic| traffic.resends.load(Relaxed)),
    );
}

fn raw_connections(subjects: &[Subject], text: &mut Exposition) {
    text.counter(
        "remora_tcp_connections",
        "Raw TCP connections",
        &each(subjects, |traffic| traffic.tcp_connections.load(Relaxed)),
    );
    text.counter(
        "remora_tcp_failures",
        "Raw TCP connections that did not come about or broke",
        &each(subjects, |traffic| traffic.tcp_failures.load(Relaxed)),
    );
    text.gauge(
        "remora_tcp_open",
        "Raw TCP connections open",
        &each(subjects, |traffic| traffic.tcp_open.load(Relaxed)),
    );
}
