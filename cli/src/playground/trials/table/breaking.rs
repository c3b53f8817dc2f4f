//! circuitBreaker: limits, and what opens a breaker.

use super::super::Trial;
use super::super::claims::{at_least, at_most, between};
use super::{MEND, READS, stage};

const OFTEN: &[&str] = &["reads&to=reviews:8080&rate=200"];
/// A tenth of a second each, and as many at once as come.
const SLOWLY: &[(&str, &str)] = &[("reviews", "/serve?ms=100&at_once=1000")];
pub(super) const LIMITS: Trial = Trial {
    name: "limits",
    says: "circuitBreaker: so many calls at a time, of a service and of each pod, and not one more",
    stages: &[
        stage("service", "service.yaml", 4, SLOWLY, OFTEN),
        stage("endpoint", "endpoint.yaml", 4, &[], OFTEN),
    ],
    claims: &[
        between(
            "Eight at a time, each a tenth of a second: no more than 80 a second are served.",
            "service:reads.good / service:seconds",
            45.0..=83.0,
        ),
        at_most(
            "No pod ever sees more than eight at once.",
            "service:reviews.most_at_once",
            8.0,
        ),
        at_least(
            "What is more is refused.",
            "service:reads.reason.overloaded",
            100.0,
        ),
        at_most(
            "And at once, though what is served takes 100 ms.",
            "service:reads.p50_ms",
            80.0,
        ),
        at_most(
            "No pod sees more than its three at once.",
            "endpoint:reviews.most_at_once",
            3.0,
        ),
        at_least(
            "All three places of a pod are used.",
            "endpoint:reviews.most_at_once",
            3.0,
        ),
        at_most(
            "Three pods, three places, a tenth of a second: no more than 90 a second.",
            "endpoint:reads.good / endpoint:seconds",
            93.0,
        ),
    ],
};

pub(super) const BREAKER: Trial = Trial {
    name: "breaker",
    says: "circuitBreaker.consecutiveFailures: a pod that fails in a row is left alone, and found again",
    stages: &[
        stage("calm", "policy.yaml", 2, MEND, READS),
        stage(
            "broken",
            "policy.yaml",
            4,
            &[("reviews.0", "/break?status=500")],
            READS,
        ),
        stage("mended", "policy.yaml", 4, MEND, READS),
    ],
    claims: &[
        at_least(
            "All pods are called while all are well.",
            "calm:reviews.0.requests",
            50.0,
        ),
        between(
            "A broken pod gets three calls and some to see whether it is well, not a third of 600.",
            "broken:reviews.0.requests",
            3.0..=25.0,
        ),
        at_most("As few callers see it.", "broken:reads.status.500", 25.0),
        at_least(
            "The others are served.",
            "broken:reads.good / broken:reads.requests",
            0.95,
        ),
        at_least(
            "A pod that is well again is found.",
            "mended:reviews.0.requests",
            20.0,
        ),
        at_most("Nobody fails any more.", "mended:reads.status.500", 2.0),
    ],
};

pub(super) const FAILURE_RATE: Trial = Trial {
    name: "failure-rate",
    says: "circuitBreaker.failureRate: a pod is left alone when too many of its calls fail, in a row or not",
    stages: &[
        stage(
            "few",
            "policy.yaml",
            3,
            &[("reviews.0", "/break?status=500&percent=25")],
            READS,
        ),
        stage(
            "most",
            "policy.yaml",
            5,
            &[("reviews.0", "/break?status=500&percent=80")],
            READS,
        ),
    ],
    claims: &[
        at_least(
            "A quarter that fails is below the threshold: the pod keeps its third.",
            "few:reviews.0.requests / few:reviews.requests",
            0.28,
        ),
        between(
            "Of four in five that fail it gets what it takes to see that, not 250.",
            "most:reviews.0.requests",
            5.0..=150.0,
        ),
        at_least(
            "The others are served.",
            "most:reads.good / most:reads.requests",
            0.8,
        ),
    ],
};

pub(super) const SLOW_CALLS: Trial = Trial {
    name: "slow-calls",
    says: "circuitBreaker.slowCallRate: a pod that has become slow is left alone, though nothing failed",
    stages: &[
        stage("calm", "policy.yaml", 2, MEND, READS),
        stage(
            "slow",
            "policy.yaml",
            4,
            &[("reviews.0", "/slow?ms=800")],
            READS,
        ),
        stage("avoided", "policy.yaml", 3, &[], READS),
    ],
    claims: &[
        at_least(
            "All pods are called while all are fast.",
            "calm:reviews.0.requests",
            50.0,
        ),
        at_most(
            "A slow one gets what it takes to see that, not 200.",
            "slow:reviews.0.requests",
            150.0,
        ),
        at_most("Then nothing.", "avoided:reviews.0.requests", 2.0),
        at_most("And nobody waits for it.", "avoided:reads.p90_ms", 500.0),
        at_least(
            "Nothing has failed.",
            "slow:reads.good / slow:reads.requests",
            0.99,
        ),
    ],
};

pub(super) const OUTAGE: Trial = Trial {
    name: "outage-of-a-service",
    says: "circuitBreaker.scope Service: when all of it fails callers are answered at once, and it is left alone",
    stages: &[
        stage(
            "broken",
            "policy.yaml",
            4,
            &[("reviews", "/break?status=500")],
            READS,
        ),
        stage("mended", "policy.yaml", 4, MEND, READS),
    ],
    claims: &[
        between(
            "Of 600 calls few reach what cannot serve them.",
            "broken:reviews.requests",
            5.0..=120.0,
        ),
        at_least(
            "The others are answered by the caller's own sidecar.",
            "broken:reads.reason.breaker_open / broken:reads.requests",
            0.7,
        ),
        at_most("At once.", "broken:reads.p50_ms", 300.0),
        at_least(
            "It is found again.",
            "mended:reads.good / mended:reads.requests",
            0.3,
        ),
    ],
};
