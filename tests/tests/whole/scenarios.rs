//! The playground's scenarios of routes, each with the figures that it is about.
//! With an unoptimized build and a low rate chance has more room than on the
//! machine that `.ci/run` takes for itself; what may not happen at all may not
//! happen here either.

use serde_json::Value;

use crate::playground::Playground;

/// Long enough for some hundred requests in the shortest stage.
const LENGTH: &str = "24s";

/// The stages of a scenario, none of which went wrong.
fn stages(isolation: &'static str, scenario: &str, count: usize) -> Option<Vec<Value>> {
    let playground = Playground::run(isolation, &["--scenario", scenario, "--for", LENGTH], "");
    if playground.is_impossible() {
        return None;
    }
    let stages = playground.stages();
    playground.assert_nothing_is_left();
    assert_eq!(stages.len(), count, "{stages:#?}");
    for stage in &stages {
        println!("{scenario}: {stage}");
        assert_eq!(stage["failed"], 0, "{stage}");
    }
    Some(stages)
}

/// Who answered in a stage, of a hundred.
fn share(stage: &Value, version: &str) -> f64 {
    let got = |version: &str| stage["versions"][version].as_f64().unwrap_or(0.0);
    got(version) / (got("v1") + got("v2")) * 100.0
}

#[test]
fn a_canary_gets_a_tenth_then_half_then_all_and_the_old_version_not_one_more() {
    let Some(stages) = stages("netns", "canary", 4) else {
        return;
    };
    let tenth = share(&stages[1], "v2");
    assert!((6.0..14.0).contains(&tenth), "{tenth} in {stages:#?}");
    assert_eq!(stages[0]["versions"].get("v2"), None, "{stages:#?}");
    assert_eq!(stages[3]["versions"].get("v1"), None, "{stages:#?}");
}

#[test]
fn after_the_switch_to_green_not_one_request_reaches_blue() {
    let Some(stages) = stages("loopback", "blue-green", 3) else {
        return;
    };
    for (stage, (now, before)) in stages
        .iter()
        .zip([("v1", "v2"), ("v2", "v1"), ("v1", "v2")])
    {
        assert_eq!(stage["versions"].get(before), None, "{stage}");
        assert!(stage["versions"][now].as_u64() > Some(100), "{stage}");
    }
}

#[test]
fn the_cookie_decides_who_takes_the_money() {
    let Some(stages) = stages("loopback", "ab-cookie", 2) else {
        return;
    };
    let groups = &stages[0]["groups"];
    for (group, right, wrong) in [("", "v1", "v2"), ("a", "v1", "v2"), ("b", "v2", "v1")] {
        assert!(groups[group][right].as_u64() > Some(100), "{groups}");
        assert_eq!(groups[group].get(wrong), None, "{groups}");
    }
}

#[test]
fn the_trouble_of_a_mirror_costs_the_caller_nothing() {
    let Some(stages) = stages("netns", "mirror", 5) else {
        return;
    };
    assert!(stages[1]["mirrored"].as_u64() > Some(100), "{stages:#?}");
    for stage in &stages {
        assert_eq!(stage["versions"].get("v2"), None, "{stage}");
    }
}
