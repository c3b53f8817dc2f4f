//! Watches on the API server: how they back off, and what an operator checks
//! when they fail.

use std::time::Duration;

use kube::runtime::utils::{Backoff, ResetTimerBackoff};

/// The first pause after a failed watch.
const FIRST: Duration = Duration::from_millis(250);
/// The longest. Short: there are few injectors, and while they know nothing
/// pods are made without sidecars.
const LONGEST: Duration = Duration::from_secs(5);
/// After so long without a failure the next one pauses like the first.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Doubles, up to a bound, and each time half of it by chance.
#[derive(Debug)]
pub struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        Some(pause.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = FIRST;
    }
}

/// Pauses between attempts to watch.
pub fn pauses() -> ResetTimerBackoff<Pauses> {
    ResetTimerBackoff::new(Pauses(FIRST), FORGOTTEN)
}

/// What to look at when the API server does not let us.
pub fn check(error: &(dyn std::error::Error + 'static), rule: &'static str) -> &'static str {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(kube::Error::Api(status)) = error.downcast_ref::<kube::Error>() {
            return if status.code == 403 { rule } else { SAYS_SO };
        }
        cause = error.source();
    }
    "does the API server answer, and may this pod reach it (NetworkPolicy)?"
}

const SAYS_SO: &str = "the API server said so";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut pauses = Pauses(FIRST);
        let all: Vec<Duration> = pauses.by_ref().take(20).collect();
        assert!(all[0] <= FIRST && all[0] >= FIRST / 2, "{all:?}");
        assert!(all.iter().all(|pause| *pause <= LONGEST), "{all:?}");
        assert!(all[19] >= LONGEST / 2, "{all:?}");
        pauses.reset();
        assert!(pauses.next().unwrap() <= FIRST);
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let status = |code| {
            let status = kube::core::Status {
                code,
                ..Default::default()
            };
            kube::runtime::watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)))
        };
        assert_eq!(check(&status(403), "the rule"), "the rule");
        assert_eq!(check(&status(500), "the rule"), SAYS_SO);
        assert!(check(&std::fmt::Error, "the rule").contains("API server answer"));
    }
}
