//! A token bucket. Pure; time is handed in.

use std::time::{Duration, Instant};

/// Gives `rate` tokens a second, at most `burst` at once.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one. `rate` is more than 0.
    pub fn new(rate: f64, burst: f64, now: Instant) -> Self {
        Self {
            rate,
            burst,
            tokens: burst,
            at: now,
        }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// When there is none: the moment at which there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let missing = (1.0 - self.tokens) / self.rate;
        Err(now + Duration::from_secs_f64(missing) + Duration::from_millis(1))
    }

    /// Whether it is as full as one that was never used.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.burst
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    proptest! {
        #[test]
        fn it_never_gives_more_than_burst_and_rate_times_time(
            rate in 0.1_f64..50.0,
            burst in 1.0_f64..50.0,
            steps in prop::collection::vec(0_u64..2_000, 1..200),
        ) {
            let start = clock::now();
            let mut bucket = Bucket::new(rate, burst, start);
            let (mut now, mut given) = (start, 0.0);
            for step in steps {
                now += Duration::from_millis(step);
                if let Err(again) = bucket.take(now) {
                    prop_assert!(again > now);
                    prop_assert!(bucket.take(again).is_ok());
                    now = again;
                }
                given += 1.0;
                let allowed = burst + rate * (now - start).as_secs_f64();
                prop_assert!(given <= allowed + 0.001, "{given} of {allowed}");
            }
        }
    }
}
