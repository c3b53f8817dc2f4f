//! The retry budget: in no window more retries than it has, whoever asks.

use std::time::{Duration, Instant};

use remora_proxy::clock::Timestamp;
use remora_proxy::policy::budget::RetryBudget;
use remora_proxy::policy::config;

use crate::{OPERATIONS, WORKERS, on_workers};

const BUDGET: config::RetryBudget = config::RetryBudget {
    percent: 20,
    min_per_second: 10,
    window: Duration::from_secs(1),
};

/// Two pointers over what was requested and what was retried.
fn check(requests: &[u64], retries: &[u64]) {
    let window = BUDGET.window.as_nanos() as u64;
    let minimum = u64::from(BUDGET.min_per_second) * BUDGET.window.as_secs();
    let (mut first_retry, mut first_request, mut after_request) = (0, 0, 0);
    // Those that were on their way at that very moment count, and none is so late.
    let late = 20_000_000;
    for (at, now) in retries.iter().enumerate() {
        while now - retries[first_retry] >= window {
            first_retry += 1;
        }
        while requests
            .get(after_request)
            .is_some_and(|it| *it <= now + late)
        {
            after_request += 1;
        }
        while first_request < after_request && now.saturating_sub(requests[first_request]) >= window
        {
            first_request += 1;
        }
        let inside = (at - first_retry + 1) as u64;
        let asked = (after_request - first_request) as u64;
        let allowed = (asked * u64::from(BUDGET.percent) / 100).max(minimum);
        assert!(
            inside <= allowed,
            "{inside} retries in a window, {allowed} allowed"
        );
    }
}

#[test]
fn no_window_holds_more_retries_than_the_budget_in_a_million_operations() {
    let budget = RetryBudget::new(&BUDGET);
    let began = Instant::now();
    let all = on_workers(|worker| {
        let mut random = fastrand::Rng::with_seed(worker as u64);
        let (mut requests, mut retries) = (Vec::new(), Vec::new());
        for _ in 0..OPERATIONS / WORKERS {
            let nanos = began.elapsed().as_nanos() as u64 + 5_000_000_000;
            let now = Timestamp::from_nanos(nanos);
            if random.bool() {
                budget.request(now);
                requests.push(nanos);
            } else if budget.try_spend(now) {
                retries.push(nanos);
            }
        }
        (requests, retries)
    });
    let (requests, retries): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let sorted = |all: Vec<Vec<u64>>| {
        let mut all: Vec<u64> = all.into_iter().flatten().collect();
        all.sort_unstable();
        all
    };
    let (requests, retries) = (sorted(requests), sorted(retries));
    check(&requests, &retries);
    // Half ask for a retry where a fifth may have one.
    let share = retries.len() as f64 / (requests.len() as f64 * 0.2);
    assert!(share > 0.9, "{share} of what it allows");
}
