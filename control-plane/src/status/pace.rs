//! When a status may be written: coalesced, bounded, and slower where the API
//! server does not take it. Pure; time and chance are handed in.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::bucket::Bucket;
use crate::core::objects::Id;

/// Writes of one object are at least so far apart.
pub const OBJECT_INTERVAL: Duration = Duration::from_secs(1);
/// A write that changes counts alone comes at the earliest so long after the last.
pub const COUNTS_INTERVAL: Duration = Duration::from_secs(5);
/// Writes each second over all objects.
pub const WRITES_PER_SECOND: f64 = 20.0;
/// Writes at once over all objects.
pub const WRITE_BURST: f64 = 40.0;
/// After a failed write; doubles with each further one, with jitter.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How a status that should be written differs from the one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A condition, or the generation.
    Conditions,
    /// Counts alone.
    Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Paced {
    written_at: Option<Instant>,
    not_before: Option<Instant>,
    failures: u32,
}

/// The pace of all objects.
pub struct Pace {
    bucket: Bucket,
    objects: HashMap<Id, Paced>,
    all_not_before: Option<Instant>,
    failures: u32,
}

impl Pace {
    /// Nothing was written yet.
    pub fn new(now: Instant) -> Self {
        Self {
            bucket: Bucket::new(WRITES_PER_SECOND, WRITE_BURST, now),
            objects: HashMap::new(),
            all_not_before: None,
            failures: 0,
        }
    }

    /// The earliest moment at which this object may be written, as far as the
    /// object itself decides.
    pub fn due_at(&self, id: &Id, change: Change, now: Instant) -> Instant {
        let paced = self.objects.get(id).copied().unwrap_or_default();
        let interval = match change {
            Change::Conditions => OBJECT_INTERVAL,
            Change::Counts => COUNTS_INTERVAL,
        };
        let spaced = paced.written_at.map(|at| at + interval);
        let waits = [spaced, paced.not_before, self.all_not_before];
        waits.into_iter().flatten().fold(now, Instant::max)
    }

    /// Takes the right to one write; otherwise when there may be one.
    ///
    /// # Errors
    /// That moment.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.bucket.take(now)
    }

    /// It was written.
    pub fn written(&mut self, id: &Id, now: Instant) {
        let paced = self.objects.entry(id.clone()).or_default();
        *paced = Paced {
            written_at: Some(now),
            ..Paced::default()
        };
        self.all_not_before = None;
        self.failures = 0;
    }

    /// It was not; `random` is between 0 and 1. What is wrong `everywhere`, for
    /// every object alike, makes all of them wait.
    pub fn failed(&mut self, id: &Id, everywhere: bool, now: Instant, random: f64) {
        if everywhere {
            self.all_not_before = Some(now + pause(self.failures, random));
            self.failures = self.failures.saturating_add(1);
        } else {
            let paced = self.objects.entry(id.clone()).or_default();
            paced.not_before = Some(now + pause(paced.failures, random));
            paced.failures = paced.failures.saturating_add(1);
        }
    }

    /// Forgets objects that are gone.
    pub fn retain(&mut self, is_there: impl Fn(&Id) -> bool) {
        self.objects.retain(|id, _| is_there(id));
    }
}

/// Half of it is jitter, so that it never is nothing.
fn pause(failures: u32, random: f64) -> Duration {
    let ceiling = FIRST_PAUSE
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_PAUSE);
    ceiling.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const MS: Duration = Duration::from_millis(1);

    fn id() -> Id {
        Id::new("shop", "catalog")
    }

    #[test]
    fn an_object_is_written_once_a_second_and_for_counts_once_in_five() {
        let now = clock::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.due_at(&id(), Change::Counts, now), now);
        pace.written(&id(), now);
        let soon = now + MS;
        assert_eq!(
            pace.due_at(&id(), Change::Conditions, soon),
            now + OBJECT_INTERVAL
        );
        assert_eq!(
            pace.due_at(&id(), Change::Counts, soon),
            now + COUNTS_INTERVAL
        );
        let other = Id::new("shop", "web");
        assert_eq!(pace.due_at(&other, Change::Counts, soon), soon);
    }

    #[test]
    fn over_all_objects_there_are_no_more_than_burst_and_rate_allow() {
        let now = clock::now();
        let mut pace = Pace::new(now);
        let taken = (0..10_000).filter(|ms| pace.take(now + MS * *ms).is_ok());
        let taken = taken.count() as f64;
        let allowed = WRITE_BURST + 10.0 * WRITES_PER_SECOND;
        assert!((allowed - 2.0..=allowed).contains(&taken), "{taken}");
    }

    #[test]
    fn what_fails_waits_longer_and_longer_and_what_fails_everywhere_holds_all() {
        let now = clock::now();
        let mut pace = Pace::new(now);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            pace.failed(&id(), false, now, 1.0);
            let wait = pace.due_at(&id(), Change::Conditions, now) - now;
            assert!(wait >= last && wait <= LONGEST_PAUSE);
            last = wait;
        }
        assert_eq!(last, LONGEST_PAUSE);
        let other = Id::new("shop", "web");
        assert_eq!(pace.due_at(&other, Change::Conditions, now), now);
        pace.failed(&id(), true, now, 0.0);
        assert!(pace.due_at(&other, Change::Conditions, now) > now);
        pace.written(&id(), now);
        assert_eq!(pace.due_at(&other, Change::Conditions, now), now);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let now = clock::now();
        let mut pace = Pace::new(now);
        pace.written(&id(), now);
        pace.retain(|_| false);
        assert!(pace.objects.is_empty());
    }
}
