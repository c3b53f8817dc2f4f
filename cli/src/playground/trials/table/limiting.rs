//! How much: rateLimits, and admission at the pods.

use super::super::Trial;
use super::super::claims::{at_least, at_most, between};
use super::{MEND, stage};

const LIMITED: &[&str] = &["reads&to=reviews:8080&rate=150"];
pub(super) const RATE_LIMIT: Trial = Trial {
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

pub(super) const MESH_RATE_LIMIT: Trial = Trial {
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

/// Forty a second for each pod: of 315 that come 120 can be served. (By sleep: what a
/// pod can serve has nothing to do with this machine.)
const PLACES: &[(&str, &str)] = &[("reviews", "/serve?ms=400&at_once=16")];
const CLASSES: &[&str] = &[
    "critical&to=reviews:8080&rate=15&header=x-priority:critical",
    "default&to=reviews:8080&rate=60",
    "sheddable&to=reviews:8080&rate=240&header=x-priority:sheddable",
];
pub(super) const ADMISSION: Trial = Trial {
    name: "admission",
    says: "admission: a pod takes what it can serve; when more comes, what can be done without is refused first",
    stages: &[
        // What to keep for whom is learnt from who was refused.
        stage("filling", "fixed.yaml", 3, PLACES, CLASSES),
        stage("fixed", "fixed.yaml", 5, &[], CLASSES),
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
            "No pod is ever asked for more than sixteen.",
            "fixed:reviews.most_at_once",
            16.0,
        ),
        at_most(
            "Whoever is admitted is served soon.",
            "fixed:critical.good_p99_ms",
            1200.0,
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
            2000.0,
        ),
    ],
};
