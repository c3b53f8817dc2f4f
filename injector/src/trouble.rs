//! What would fill the log: errors that last, told when they begin, now and
//! then while they last, and once when they are over; and what others do often.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often a trouble that lasts is told again.
const AGAIN: Duration = Duration::from_secs(10);

/// One thing that may go wrong for a while.
#[derive(Debug)]
pub struct Trouble {
    what: &'static str,
    told: Option<Instant>,
}

impl Trouble {
    /// `what` completes the sentence "cannot ...".
    pub fn new(what: &'static str) -> Self {
        Trouble { what, told: None }
    }

    /// It went wrong; `check` says to the operator what to look at.
    pub fn is_there(&mut self, now: Instant, error: &dyn std::fmt::Display, check: &str) {
        if self.is_due(now) {
            tracing::warn!(%error, check, "cannot {}", self.what);
        }
    }

    /// It went well.
    pub fn is_over(&mut self) {
        if self.told.take().is_some() {
            tracing::info!("works again: {}", self.what);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.told.is_none_or(|told| now - told >= AGAIN);
        if due {
            self.told = Some(now);
        }
        due
    }
}

/// Lines of one kind in a second.
const MAX_LINES: u64 = 20;

/// Lines about what others do, who may do it often.
#[derive(Debug, Default)]
pub struct Lines(AtomicU64);

impl Lines {
    /// Whether one more may be written in this second, since the Unix epoch.
    pub fn may(&self, now: Duration) -> bool {
        let second = now.as_secs();
        let one_more = |state: u64| {
            let written = if state >> 8 == second {
                state & 0xff
            } else {
                0
            };
            (written < MAX_LINES).then_some((second << 8) | (written + 1))
        };
        self.0.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_trouble_that_lasts_is_told_now_and_then() {
        let mut trouble = Trouble::new("read the moon");
        let begin = clock::now();
        let told: Vec<bool> = [0, 1, 9, 10, 11, 20]
            .map(|s| trouble.is_due(begin + Duration::from_secs(s)))
            .into();
        assert_eq!(told, [true, false, false, true, false, true]);
        trouble.is_over();
        assert!(trouble.is_due(begin + Duration::from_secs(21)));
    }

    #[test]
    fn who_asks_often_does_not_fill_the_log() {
        let lines = Lines::default();
        let written = |second: u64| {
            let now = Duration::from_millis(second * 1000 + 7);
            (0..1000).filter(|_| lines.may(now)).count()
        };
        assert_eq!([written(5), written(5), written(6)], [20, 0, 20]);
    }
}
