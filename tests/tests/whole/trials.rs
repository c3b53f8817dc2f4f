//! The playground's trials, a scenario for each section of TrafficPolicy: each is
//! played as a user plays it, and its claims must hold, on a machine that other tests
//! use too. What each claims, and within which bounds: `remora::playground::trials`.

use remora::playground::trials::table;
use serde_json::Value;

use crate::playground::Playground;

/// Plays it in network namespaces, or where there are none on loopback addresses.
#[track_caller]
fn holds(name: &str) {
    let mut played = Playground::trial("netns", name);
    if played.is_impossible() {
        played = Playground::trial("loopback", name);
    }
    let verdict = played.verdict();
    played.assert_nothing_is_left();
    let trial = table::find(name).unwrap();
    let claims = verdict["claims"].as_array().unwrap();
    assert_eq!(claims.len(), trial.claims.len(), "{verdict:#}");
    for claim in claims {
        println!("{name}: {claim}");
        assert_eq!(claim["held"], true, "{claim:#}\n{verdict:#}");
        assert!(claim["value"].is_number(), "{claim:#}");
    }
    let stages = verdict["stages"].as_array().unwrap();
    assert_eq!(stages.len(), trial.stages.len(), "{verdict:#}");
    let seconds = |stage: &Value| stage["figures"]["seconds"].as_f64();
    for stage in stages {
        assert!(
            seconds(stage) > Some(1.0),
            "too short to say anything: {stage:#}"
        );
    }
}

macro_rules! trials {
    ($($story:ident: $name:literal,)*) => {
        $(#[test]
        fn $story() {
            holds($name);
        })*

        #[test]
        fn every_trial_is_played_here() {
            let here = [$($name),*];
            for trial in table::ALL {
                assert!(here.contains(&trial.name), "{} is not played", trial.name);
            }
            assert_eq!(here.len(), table::ALL.len());
        }
    };
}

trials! {
    so_many_calls_at_a_time_and_not_one_more: "limits",
    a_pod_that_fails_in_a_row_is_left_alone_and_found_again: "breaker",
    a_pod_that_fails_too_often_is_left_alone: "failure-rate",
    a_pod_that_has_become_slow_is_left_alone: "slow-calls",
    a_service_that_fails_whole_is_left_alone_and_its_callers_answered: "outage-of-a-service",
    failures_are_hidden_an_outage_is_not_multiplied_an_order_is_sent_once: "retry-budget",
    who_waits_too_long_asks_another_pod_too: "hedging",
    no_caller_waits_longer_than_it_may: "timeouts",
    so_many_calls_a_second_for_all_or_for_each_user: "rate-limit",
    so_many_calls_a_second_for_all_pods_together: "mesh-rate-limit",
    under_pressure_the_lower_priority_goes_first: "admission",
    by_turns_by_hash_by_cookie_by_name: "balancing",
    who_says_it_is_not_well_is_not_called: "health-check",
    callers_get_an_empty_list_instead_of_an_error: "fallback",
    delays_and_failures_on_purpose: "fault",
    plain_tcp_is_limited_and_broken_off_too: "tcp",
}
