//! The Lease as a pure state machine, by the rules of client-go's
//! leaderelection: who holds the Lease keeps it for as long as it is seen to
//! change; what counts is when we *saw* a change, never the time written in it.
//!
//! ```text
//!              none, given up, or unchanged for its duration: written by us
//!   follower ----------------------------------------------------------------> leader
//!      ^                                                                        |  ^
//!      |  taken by another, deleted, or not renewed within RENEW_DEADLINE       |  | renewed
//!      +------------------------------------------------------------------------+--+
//! ```
//!
//! A write names the version that it replaces, so of two writers the API
//! server takes one. We stop leading `RENEW_DEADLINE` after the *beginning* of
//! our last good write, others begin at the earliest `LEASE_DURATION` after
//! they saw it: never two at once.

use std::time::{Duration, Instant};

/// How long others leave an unchanged Lease to its holder.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// The holder renews it so often.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// A holder that could not renew it for so long leads no more.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// After a failed attempt; a follower adds up to [`RETRY_JITTER`] of it.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// client-go's JitterFactor.
const RETRY_JITTER: f64 = 1.2;
/// No duration that stands in a Lease is believed beyond this, in seconds.
const MAX_DURATION_SECONDS: i32 = 300;

/// The spec of a Lease. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty: nobody.
    pub holder: String,
    /// How long the holder asks others to wait.
    pub duration_seconds: i32,
    /// Since when the holder has it.
    pub acquired_us: i64,
    /// When the holder last wrote it.
    pub renewed_us: i64,
    /// How often it went from one to another.
    pub transitions: i32,
}

/// A Lease as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its spec.
    pub record: Record,
    /// Where the holder takes reports, as it wrote it.
    pub address: String,
    /// Its version.
    pub resource_version: String,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until then, or until the Lease is seen to change.
    Wait(Instant),
    /// Read the Lease: nothing is known of it.
    Read,
    /// Make the Lease.
    Create(Record),
    /// Write the Lease in place of this version.
    Replace(Record, String),
}

#[derive(Debug)]
struct Observed {
    seen: Seen,
    since: Instant,
}

/// One replica's part in the election.
#[derive(Debug)]
pub struct Machine {
    identity: String,
    /// Outer `None`: never read. Inner `None`: there is no Lease.
    observed: Option<Option<Observed>>,
    /// When the last good write was begun; only while leading.
    renewed_at: Option<Instant>,
    next_at: Instant,
}

impl Machine {
    /// A follower that knows nothing yet.
    pub fn new(identity: &str, now: Instant) -> Self {
        Self {
            identity: identity.to_owned(),
            observed: None,
            renewed_at: None,
            next_at: now,
        }
    }

    /// Until when this replica leads, as far as is known now.
    pub fn leading_until(&self) -> Option<Instant> {
        self.renewed_at.map(|at| at + RENEW_DEADLINE)
    }

    /// The Lease as last seen.
    pub fn seen(&self) -> Option<&Seen> {
        Some(&self.observed.as_ref()?.as_ref()?.seen)
    }

    /// What to do at `now`; `unix_us` is the same moment for what is written.
    pub fn step(&mut self, now: Instant, unix_us: i64) -> Step {
        if self.leading_until().is_some_and(|until| now >= until) {
            self.renewed_at = None;
        }
        let Some(observed) = &self.observed else {
            return self.when_due(now, Step::Read);
        };
        let Some(Observed { seen, since }) = observed else {
            let record = self.record(&Record::default(), unix_us);
            return self.when_due(now, Step::Create(record));
        };
        let ours = seen.record.holder == self.identity;
        let free_at = *since + duration(&seen.record);
        if !ours && !seen.record.holder.is_empty() && now < free_at {
            return Step::Wait(free_at.max(self.next_at));
        }
        let record = self.record(&seen.record, unix_us);
        self.when_due(now, Step::Replace(record, seen.resource_version.clone()))
    }

    fn when_due(&self, now: Instant, step: Step) -> Step {
        if now >= self.next_at {
            return step;
        }
        Step::Wait(match self.leading_until() {
            Some(until) => until.min(self.next_at),
            None => self.next_at,
        })
    }

    /// The Lease was read, or is said to have changed; `None`: there is none.
    pub fn observe(&mut self, seen: Option<Seen>, now: Instant) {
        if let (Some(known), Some(seen)) = (self.seen(), &seen)
            && is_older(seen, known)
        {
            return;
        }
        let before = self.observed.take().flatten();
        let holder = seen.as_ref().map(|seen| seen.record.holder.clone());
        let was_held = before
            .as_ref()
            .is_some_and(|before| !before.seen.record.holder.is_empty());
        let since = match (&before, &seen) {
            (Some(before), Some(seen)) if before.seen.record == seen.record => before.since,
            _ => now,
        };
        self.observed = Some(seen.map(|seen| Observed { seen, since }));
        if self.renewed_at.is_some() && holder.as_ref() != Some(&self.identity) {
            self.renewed_at = None;
            self.next_at = now;
        }
        // Given up or deleted just now: nobody need wait.
        if was_held && holder.is_none_or(|holder| holder.is_empty()) {
            self.next_at = now;
        }
    }

    /// A write that began at `begun` was taken; `seen` is what stands there now.
    pub fn written(&mut self, seen: Seen, begun: Instant, now: Instant) {
        let ours = seen.record.holder == self.identity;
        let overtaken = self.seen().is_some_and(|known| is_older(&seen, known));
        self.observe(Some(seen), now);
        if ours && !overtaken {
            self.renewed_at = Some(begun);
            self.next_at = begun + RENEW_INTERVAL;
        }
    }

    /// A read or a write failed; `random` is between 0 and 1.
    pub fn failed(&mut self, now: Instant, random: f64) {
        let jitter = if self.renewed_at.is_some() {
            0.0
        } else {
            RETRY_JITTER * random
        };
        self.next_at = now + RETRY_INTERVAL.mul_f64(1.0 + jitter);
    }

    /// What to write, and over which version, to give the Lease up; afterwards
    /// this replica leads no more. `None` where it did not.
    pub fn release(&mut self, unix_us: i64) -> Option<(Record, String)> {
        self.renewed_at.take()?;
        let seen = self.seen()?;
        let record = Record {
            holder: String::new(),
            duration_seconds: 1,
            renewed_us: unix_us,
            ..seen.record.clone()
        };
        Some((record, seen.resource_version.clone()))
    }

    fn record(&self, before: &Record, unix_us: i64) -> Record {
        let ours = before.holder == self.identity;
        let first = *before == Record::default();
        Record {
            holder: self.identity.clone(),
            duration_seconds: LEASE_DURATION.as_secs() as i32,
            acquired_us: if ours { before.acquired_us } else { unix_us },
            renewed_us: unix_us,
            transitions: before
                .transitions
                .saturating_add(i32::from(!ours && !first)),
        }
    }
}

fn duration(record: &Record) -> Duration {
    let seconds = record.duration_seconds.clamp(1, MAX_DURATION_SECONDS);
    Duration::from_secs(seconds.unsigned_abs().into())
}

/// Watches may tell late what a write's answer has told already. Versions of
/// one object that are numbers rise (KEP-5504); of others nothing is known.
fn is_older(seen: &Seen, than: &Seen) -> bool {
    let number = |seen: &Seen| seen.resource_version.parse::<u64>();
    match (number(seen), number(than)) {
        (Ok(seen), Ok(than)) => seen < than,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
