//! What a caller gets instead of a failure, or of waiting: retries, hedges, timeouts,
//! fallbacks; and failures on purpose.

use super::super::Trial;
use super::super::claims::{at_least, at_most, between};
use super::{MEND, READS, stage};

const RETRIED: &[&str] = &[
    "reads&to=reviews:8080&rate=120",
    "orders&to=reviews:8080&rate=30&method=POST",
];
pub(super) const RETRY_BUDGET: Trial = Trial {
    name: "retry-budget",
    says: "retries: a few failures are hidden from callers, an outage is not multiplied, an order is never sent twice",
    stages: &[
        stage(
            "few",
            "policy.yaml",
            4,
            &[("reviews", "/break?status=500&percent=8")],
            RETRIED,
        ),
        stage(
            "all",
            "policy.yaml",
            4,
            &[("reviews", "/break?status=500")],
            RETRIED,
        ),
    ],
    claims: &[
        at_least(
            "One in twelve fails, and readers hardly see it.",
            "few:reads.good / few:reads.requests",
            0.97,
        ),
        at_least("By asking again.", "few:reviews.again", 10.0),
        at_most(
            "When all fails, what is sent again is no more than a fifth of all calls.",
            "few:reviews.again + all:reviews.again / few:reads.requests + few:orders.requests + all:reads.requests + all:orders.requests",
            // What is called between two stages is not counted here, but by the budget.
            0.25,
        ),
        at_least(
            "Callers see the failures then.",
            "all:reads.status.500 / all:reads.requests",
            0.95,
        ),
        at_most("No order comes twice.", "few:reviews.most_times", 1.0),
        at_most("Not when all fails either.", "all:reviews.most_times", 1.0),
        at_least("Though they fail as well.", "all:orders.status.500", 60.0),
    ],
};

const TAIL: &[(&str, &str)] = &[("reviews", "/slow?ms=600&percent=4")];
pub(super) const HEDGING: Trial = Trial {
    name: "hedging",
    says: "retries.hedge: who has waited too long asks another pod too, and takes what comes first",
    stages: &[
        stage("without", "before.yaml", 4, TAIL, READS),
        stage("with", "hedge.yaml", 4, &[], READS),
    ],
    claims: &[
        at_least(
            "One in 25 is slow, and its caller waits.",
            "without:reads.p99_ms",
            550.0,
        ),
        at_most(
            "With a hedge hardly longer than until it is sent.",
            "with:reads.p99_ms",
            350.0,
        ),
        between(
            "For few calls more.",
            "with:reviews.again / with:reads.requests",
            0.01..=0.12,
        ),
        at_least(
            "Everybody is served.",
            "with:reads.good / with:reads.requests",
            0.99,
        ),
    ],
};

pub(super) const TIMEOUTS: Trial = Trial {
    name: "timeouts",
    says: "timeouts: no caller waits longer than it may, and no attempt longer than it should",
    stages: &[
        stage(
            "request",
            "request.yaml",
            4,
            &[("reviews", "/slow?ms=1500&percent=20")],
            READS,
        ),
        stage("per-try", "per-try.yaml", 4, &[], READS),
    ],
    claims: &[
        at_most(
            "Nobody waits much longer than 250 ms.",
            "request:reads.max_ms",
            700.0,
        ),
        between(
            "One in five is slow, and is told so.",
            "request:reads.reason.timeout / request:reads.requests",
            0.1..=0.3,
        ),
        at_least(
            "An attempt that takes too long is given up, and another pod serves.",
            "per-try:reads.good / per-try:reads.requests",
            0.97,
        ),
        at_most(
            "Sooner than the slow one would.",
            "per-try:reads.p99_ms",
            1000.0,
        ),
    ],
};

pub(super) const FALLBACK: Trial = Trial {
    name: "fallback",
    says: "fallback: an empty list instead of an error while the service is left alone",
    stages: &[
        stage("calm", "policy.yaml", 2, MEND, READS),
        stage(
            "broken",
            "policy.yaml",
            4,
            &[("reviews", "/break?status=500")],
            READS,
        ),
    ],
    claims: &[
        at_most(
            "Nobody falls back while all is well.",
            "calm:reads.reason.fallback",
            0.0,
        ),
        at_least(
            "When all fails callers get what the policy says.",
            "broken:reads.reason.fallback / broken:reads.requests",
            0.7,
        ),
        at_least(
            "With its status.",
            "broken:reads.good / broken:reads.requests",
            0.7,
        ),
        at_most(
            "The service is left alone.",
            "broken:reviews.requests",
            120.0,
        ),
    ],
};

pub(super) const FAULT: Trial = Trial {
    name: "fault",
    says: "fault: delays and failures on purpose, for so many of a hundred",
    stages: &[
        stage("delay", "delay.yaml", 4, MEND, READS),
        stage("abort", "abort.yaml", 4, &[], READS),
    ],
    claims: &[
        at_least("Three in ten come late.", "delay:reads.p90_ms", 200.0),
        at_most("The others do not.", "delay:reads.p50_ms", 150.0),
        at_least("All come.", "delay:reads.good / delay:reads.requests", 0.99),
        between(
            "One in five is answered here.",
            "abort:reads.reason.fault / abort:reads.requests",
            0.12..=0.28,
        ),
        between(
            "And does not reach a pod.",
            "abort:reviews.requests / abort:reads.requests",
            0.72..=0.88,
        ),
    ],
};
