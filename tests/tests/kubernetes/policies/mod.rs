//! Each section of TrafficPolicy on a real cluster: the playground's trials, by
//! `kubectl apply` of the same files, with the same load, trouble and claims. All
//! traffic goes through sidecars; what is told to applications does not.
//!
//! - [`world`]: who is called, who calls, and a trial that is played there.

mod world;

use remora::playground::trials::table;

use world::World;

/// Plays it; every claim must hold.
#[track_caller]
fn holds(name: &str) {
    let Some(world) = World::make() else {
        return;
    };
    let trial = table::find(name).unwrap();
    let verdict = world.play(trial);
    for claim in &verdict.claims {
        println!("{name}: {}", serde_json::to_string(claim).unwrap());
    }
    let problems = verdict.problems();
    assert!(problems.is_empty(), "{problems:#?}\n{:#?}", verdict.stages);
    assert_eq!(verdict.claims.len(), trial.claims.len());
}

macro_rules! stories {
    ($($story:ident: $name:literal,)*) => {
        $(#[test]
        fn $story() {
            holds($name);
        })*

        #[test]
        fn every_trial_is_a_story_here() {
            let here = [$($name),*];
            for trial in table::ALL {
                assert!(here.contains(&trial.name), "{} is not played", trial.name);
            }
        }
    };
}

stories! {
    limits: "limits",
    breaker: "breaker",
    failure_rate: "failure-rate",
    slow_calls: "slow-calls",
    outage_of_a_service: "outage-of-a-service",
    retry_budget: "retry-budget",
    hedging: "hedging",
    timeouts: "timeouts",
    rate_limit: "rate-limit",
    mesh_rate_limit: "mesh-rate-limit",
    admission: "admission",
    balancing: "balancing",
    health_check: "health-check",
    fallback: "fallback",
    fault: "fault",
    tcp: "tcp",
}
