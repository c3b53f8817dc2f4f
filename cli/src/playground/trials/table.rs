//! All trials. A figure's name: see [`super::figures`].

use super::claims::{at_least, at_most, between};
use super::{Stage, Trial};

const fn stage(
    name: &'static str,
    file: &'static str,
    seconds: u32,
    orders: &'static [(&'static str, &'static str)],
    load: &'static [&'static str],
) -> Stage {
    Stage {
        name,
        file,
        seconds,
        orders,
        load,
    }
}

/// In the order of SEMANTICS.
pub const ALL: &[&Trial] = &[
    &LIMITS,
    &BREAKER,
    &FAILURE_RATE,
    &SLOW_CALLS,
    &OUTAGE,
    &RETRY_BUDGET,
    &HEDGING,
    &TIMEOUTS,
    &RATE_LIMIT,
    &MESH_RATE_LIMIT,
    &ADMISSION,
    &BALANCING,
    &HEALTH_CHECK,
    &FALLBACK,
    &FAULT,
    &TCP,
];

/// Reads at 150 a second: fifty for each pod.
const READS: &[&str] = &["reads&to=reviews:8080&rate=150"];
const MEND: &[(&str, &str)] = &[("reviews", "/mend")];

const OFTEN: &[&str] = &["reads&to=reviews:8080&rate=200"];
/// A tenth of a second each, and as many at once as come.
const SLOWLY: &[(&str, &str)] = &[("reviews", "/serve?ms=100&at_once=1000")];
const LIMITS: Trial = Trial {
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

const BREAKER: Trial = Trial {
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

const FAILURE_RATE: Trial = Trial {
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

const SLOW_CALLS: Trial = Trial {
    name: "slow-calls",
    says: "circuitBreaker.slowCallRate: a pod that has become slow is left alone, though nothing failed",
    stages: &[
        stage("calm", "policy.yaml", 2, MEND, READS),
        stage(
            "slow",
            "policy.yaml",
            4,
            &[("reviews.0", "/slow?ms=400")],
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
        at_most("And nobody waits for it.", "avoided:reads.p90_ms", 250.0),
        at_least(
            "Nothing has failed.",
            "slow:reads.good / slow:reads.requests",
            0.99,
        ),
    ],
};

const OUTAGE: Trial = Trial {
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
            5.0..=60.0,
        ),
        at_least(
            "The others are answered by the caller's own sidecar.",
            "broken:reads.reason.breaker_open / broken:reads.requests",
            0.85,
        ),
        at_most("At once.", "broken:reads.p50_ms", 50.0),
        at_least(
            "It is found again.",
            "mended:reads.good / mended:reads.requests",
            0.3,
        ),
    ],
};

const RETRIED: &[&str] = &[
    "reads&to=reviews:8080&rate=120",
    "orders&to=reviews:8080&rate=30&method=POST",
];
const RETRY_BUDGET: Trial = Trial {
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
            0.22,
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
const HEDGING: Trial = Trial {
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

const TIMEOUTS: Trial = Trial {
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

const LIMITED: &[&str] = &["reads&to=reviews:8080&rate=150"];
const RATE_LIMIT: Trial = Trial {
    name: "rate-limit",
    says: "rateLimits: so many a second and no more, for all or for each user; or only counted",
    stages: &[
        stage("all", "all.yaml", 4, MEND, LIMITED),
        stage(
            "by-user",
            "by-user.yaml",
            4,
            &[],
            &[
                "greedy&to=reviews:8080&rate=150&header=x-user:1",
                "modest&to=reviews:8080&rate=20&header=x-user:2",
            ],
        ),
        stage("shadow", "shadow.yaml", 3, &[], LIMITED),
    ],
    claims: &[
        between(
            "Fifty a second, and ten at once: so many are served.",
            "all:reads.good / all:seconds",
            40.0..=54.0,
        ),
        at_most(
            "Not one more reaches a pod.",
            "all:reviews.requests / all:seconds",
            54.0,
        ),
        at_least(
            "The others are told.",
            "all:reads.reason.rate_limited",
            200.0,
        ),
        between(
            "Each of them with when to come again.",
            "all:reads.retry_after / all:reads.status.429",
            1.0..=1.0,
        ),
        at_most(
            "Who asks too often gets fifty.",
            "by-user:greedy.good / by-user:seconds",
            54.0,
        ),
        at_least(
            "Who asks seldom is always served.",
            "by-user:modest.good / by-user:modest.requests",
            0.99,
        ),
        at_least(
            "What is only counted refuses nobody.",
            "shadow:reads.good / shadow:reads.requests",
            0.99,
        ),
    ],
};

const MESH_RATE_LIMIT: Trial = Trial {
    name: "mesh-rate-limit",
    says: "rateLimits with scope Mesh: all pods together take so many a second",
    stages: &[
        stage("begin", "policy.yaml", 4, MEND, LIMITED),
        stage("steady", "policy.yaml", 5, &[], LIMITED),
    ],
    claims: &[
        at_most(
            "Sixty a second, and fifteen at once: no more reach the pods together.",
            "steady:reviews.requests / steady:seconds",
            64.0,
        ),
        at_least(
            "And hardly fewer.",
            "steady:reads.good / steady:seconds",
            50.0,
        ),
        at_least(
            "The others are told.",
            "steady:reads.reason.rate_limited",
            200.0,
        ),
        at_most(
            "From the very first second on.",
            "begin:reviews.requests / begin:seconds",
            65.0,
        ),
    ],
};

/// Forty a second for each pod: of 315 that come 120 can be served.
const FOUR_PLACES: &[(&str, &str)] = &[("reviews", "/serve?ms=100&at_once=4")];
const CLASSES: &[&str] = &[
    "critical&to=reviews:8080&rate=15&header=x-priority:critical",
    "default&to=reviews:8080&rate=60",
    "sheddable&to=reviews:8080&rate=240&header=x-priority:sheddable",
];
const ADMISSION: Trial = Trial {
    name: "admission",
    says: "admission: a pod takes what it can serve; when more comes, what can be done without is refused first",
    stages: &[
        stage("fixed", "fixed.yaml", 5, FOUR_PLACES, CLASSES),
        stage("learning", "adaptive.yaml", 5, &[], CLASSES),
        stage("adaptive", "adaptive.yaml", 5, &[], CLASSES),
    ],
    claims: &[
        at_least(
            "Of the 120 a second that can be served most are, though three times as many come.",
            "fixed:critical.good + fixed:default.good + fixed:sheddable.good / fixed:seconds",
            85.0,
        ),
        at_least(
            "What is critical is served.",
            "fixed:critical.good / fixed:critical.requests",
            0.8,
        ),
        at_most(
            "What is sheddable mostly not.",
            "fixed:sheddable.good / fixed:sheddable.requests",
            0.6,
        ),
        at_most(
            "No pod is ever asked for more than four.",
            "fixed:reviews.most_at_once",
            4.0,
        ),
        at_most(
            "Whoever is admitted is served soon.",
            "fixed:critical.good_p99_ms",
            400.0,
        ),
        at_least(
            "A pod that finds its limit by itself serves most as well.",
            "adaptive:critical.good + adaptive:default.good + adaptive:sheddable.good / adaptive:seconds",
            80.0,
        ),
        at_least(
            "And what is critical first.",
            "adaptive:critical.good / adaptive:critical.requests",
            0.75,
        ),
        at_most(
            "Without a queue in the pod.",
            "adaptive:critical.good_p99_ms",
            900.0,
        ),
    ],
};

const USERS: &[&str] = &["reads&to=reviews:8080&rate=120&users=12"];
const BALANCING: Trial = Trial {
    name: "balancing",
    says: "loadBalancing: by turns, by what a request says, by a cookie, by name",
    stages: &[
        stage("turns", "round-robin.yaml", 3, MEND, READS),
        stage("hash", "hash.yaml", 3, &[], USERS),
        stage(
            "cookie",
            "persistence.yaml",
            3,
            &[],
            &["reads&to=reviews:8080&rate=60&users=12&cookies=keep"],
        ),
        stage(
            "pinned",
            "pinning.yaml",
            3,
            &[],
            &["reads&to=reviews:8080&rate=60&header=x-remora-endpoint:{reviews.1}"],
        ),
    ],
    claims: &[
        between(
            "By turns each pod gets a third.",
            "turns:reads.pod.0 / turns:reads.requests",
            0.31..=0.36,
        ),
        between(
            "So does the last one.",
            "turns:reads.pod.2 / turns:reads.requests",
            0.31..=0.36,
        ),
        at_most("By hash no user moves.", "hash:reads.moved", 0.0),
        at_least("Though users are on several pods.", "hash:reads.pods", 2.0),
        at_most("Who has a cookie does not move.", "cookie:reads.moved", 2.0),
        at_least("Though others are elsewhere.", "cookie:reads.pods", 2.0),
        between(
            "Who names a pod gets it.",
            "pinned:reads.pod.1 / pinned:reads.requests",
            1.0..=1.0,
        ),
    ],
};

const HEALTH_CHECK: Trial = Trial {
    name: "health-check",
    says: "healthCheck: a pod that says it is not well is not called, before a single call of it fails",
    stages: &[
        stage("calm", "policy.yaml", 2, MEND, READS),
        stage(
            "ill",
            "policy.yaml",
            4,
            &[("reviews.0", "/ill?status=503")],
            READS,
        ),
        stage("avoided", "policy.yaml", 3, &[], READS),
        stage("well", "policy.yaml", 3, MEND, READS),
        stage("back", "policy.yaml", 2, &[], READS),
    ],
    claims: &[
        at_least(
            "A pod that is well is called.",
            "calm:reviews.0.requests",
            20.0,
        ),
        // The probes go to its port too, and are no requests of the shop: /well is not counted.
        at_most("One that is not is not.", "avoided:reviews.0.requests", 0.0),
        at_least(
            "Everybody is served.",
            "ill:reads.good / ill:reads.requests",
            0.995,
        ),
        at_least(
            "By the others.",
            "avoided:reads.good / avoided:reads.requests",
            0.995,
        ),
        at_least(
            "When it is well it is called again.",
            "back:reviews.0.requests",
            10.0,
        ),
    ],
};

const FALLBACK: Trial = Trial {
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
            0.85,
        ),
        at_least(
            "With its status.",
            "broken:reads.good / broken:reads.requests",
            0.85,
        ),
        at_most(
            "The service is left alone.",
            "broken:reviews.requests",
            60.0,
        ),
    ],
};

const FAULT: Trial = Trial {
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

/// Thirty a second, half a second each.
const VISITS: &[&str] = &["visits&to=ledger:7000&kind=tcp&rate=30&hold_ms=500"];
const SHORT_VISITS: &[&str] = &["visits&to=ledger:7000&kind=tcp&rate=30&hold_ms=20"];
const TCP: Trial = Trial {
    name: "tcp",
    says: "plain TCP: limits of connections, and a breaker on pods that refuse them",
    stages: &[
        stage("limited", "limits.yaml", 4, &[("ledger", "/mend")], VISITS),
        stage(
            "refusing",
            "breaker.yaml",
            5,
            &[("ledger.0", "/refuse?ms=5000")],
            SHORT_VISITS,
        ),
    ],
    claims: &[
        at_most(
            "No pod has more than five connections at once.",
            "limited:ledger.most_connections",
            5.0,
        ),
        between(
            "Five at a time, each half a second: no more than ten a second.",
            "limited:visits.good / limited:seconds",
            3.0..=11.0,
        ),
        at_least(
            "The others are refused.",
            "limited:visits.status.none",
            30.0,
        ),
        at_least(
            "Of two pods one refuses, and hardly anybody notices.",
            "refusing:visits.good / refusing:visits.requests",
            0.93,
        ),
    ],
};

/// The trial of this name.
pub fn find(name: &str) -> Option<&'static Trial> {
    ALL.iter().find(|trial| trial.name == name).copied()
}
