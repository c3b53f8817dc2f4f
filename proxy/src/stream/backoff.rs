//! When to try again: exponential, with full jitter, bounded. Pure.

use std::time::Duration;

use crate::random;

/// The first pause is at most this long.
pub const FIRST: Duration = Duration::from_millis(50);
/// No pause is longer.
pub const LONGEST: Duration = Duration::from_secs(5);
/// A connection that lived so long was a good one: the next pause is a first one again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// The pauses between attempts in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after a connection that lived for `lived`, zero where none came about.
    pub fn pause(&mut self, lived: Duration, random: u64) -> Duration {
        if lived >= HEALTHY_AFTER {
            self.failures = 0;
        }
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let ceiling = FIRST.saturating_mul(1 << doublings).min(LONGEST);
        ceiling.mul_f64(random::unit(random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..10)
            .map(|_| backoff.pause(Duration::ZERO, u64::MAX).as_millis())
            .collect();
        assert_eq!(ceilings[..8], [50, 100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(ceilings[9], LONGEST.as_millis());
    }

    #[test]
    fn a_healthy_connection_begins_anew_and_a_short_one_does_not() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.pause(Duration::from_secs(1), 0);
        }
        assert_eq!(backoff.pause(Duration::from_secs(1), u64::MAX), LONGEST);
        assert_eq!(backoff.pause(HEALTHY_AFTER, u64::MAX), FIRST);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(Backoff::default().pause(Duration::ZERO, 0), Duration::ZERO);
    }
}
