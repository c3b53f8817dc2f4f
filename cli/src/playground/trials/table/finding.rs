//! Which pod: loadBalancing, healthCheck; and all of it that there is for plain TCP.

use super::super::Trial;
use super::super::claims::{at_least, at_most, between};
use super::{MEND, READS, stage};

const USERS: &[&str] = &["reads&to=reviews:8080&rate=120&users=12"];
pub(super) const BALANCING: Trial = Trial {
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
        at_most(
            "By hash hardly a call goes elsewhere: where its pod has far more to do than others.",
            "hash:reads.moved / hash:reads.requests",
            0.05,
        ),
        at_least("Though users are on several pods.", "hash:reads.pods", 2.0),
        at_most("Who has a cookie does not move.", "cookie:reads.moved", 2.0),
        at_least("Though others are elsewhere.", "cookie:reads.pods", 2.0),
        at_least(
            "Who names a pod gets it.",
            "pinned:reads.pod.1 / pinned:reads.requests",
            0.97,
        ),
        at_most(
            "And no other.",
            "pinned:reads.pod.0 + pinned:reads.pod.2",
            0.0,
        ),
    ],
};

pub(super) const HEALTH_CHECK: Trial = Trial {
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
            60.0,
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
            60.0,
        ),
    ],
};

/// Thirty a second, half a second each.
const VISITS: &[&str] = &["visits&to=ledger:7000&kind=tcp&rate=30&hold_ms=500"];
const SHORT_VISITS: &[&str] = &["visits&to=ledger:7000&kind=tcp&rate=30&hold_ms=20"];
pub(super) const TCP: Trial = Trial {
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
