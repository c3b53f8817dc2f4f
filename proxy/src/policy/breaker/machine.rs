//! The breaker: a pure state machine.
//!
//! ```text
//!      failures in a row, or a rate, and a place ┌──────────────────────────────┐
//!   Closed ─────────────────────────────────▶ Open ─── its time passed ──▶ HalfOpen
//!    │  ▲                                      ▲   │                       │    │
//!    │  │                                      │   └ no place any more     │    │
//!    │  │                                      │        │      one failure,│    │
//!    │  │                                      └────────┼── or no answer ──┘    │
//!    │  └───────────────────────────────────────────────┼── successes in a row ─┘
//!    │ the same, but no place                           ▼
//!    └────────────────────────────────────────────▶ WouldOpen (traffic flows)
//!          successes in a row: Closed ◀──────────────┘    a failure, and a place: Open
//! ```
//!
//! "A rate" is over its threshold by what [`super::rates`] has counted; while one
//! is, successes do not lead from WouldOpen to Closed. "A place" is the floor's leave to be out ([`super::floor`]); this machine
//! asks for it by a closure. With each opening the epoch rises, and what
//! belongs to an older epoch changes nothing.

use std::time::Duration;

use super::rates::Breach;
use super::words::{Cause, State};
use crate::clock::Timestamp;
use crate::policy::config::{AttemptEnd, Trip};
use crate::random;

/// A probe counts as failed when it has no outcome after `baseEjection`, but not
/// before this. So long the endpoint was just shut: to wait as long again for
/// its answer at most doubles the time until the next try, and with a policy
/// without timeouts the place is still not held for ever.
pub const PROBE_DEADLINE_AT_LEAST: Duration = Duration::from_secs(1);

/// An opening is longer by up to this share than its nominal time, so that many
/// sidecars do not probe at once; never shorter, and never above `maxEjection`.
const JITTER: f64 = 0.1;

/// What an admitted attempt keeps until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    epoch: u64,
    probe: Option<u64>,
}

impl Ticket {
    /// Of an attempt that was admitted while the breaker was closed.
    pub(super) const fn ordinary(epoch: u64) -> Self {
        Self { epoch, probe: None }
    }

    /// Whether the attempt began in this epoch.
    pub(super) const fn is_of(self, epoch: u64) -> bool {
        self.epoch == epoch
    }

    pub(super) const fn is_probe(self) -> bool {
        self.probe.is_some()
    }
}

/// What of the state the shell must know without asking the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Closed, and the last outcome was no failure: success changes nothing.
    Healthy,
    /// Closed, with failures in a row: the next outcomes decide.
    Suspect,
    /// Marked.
    Marked,
    /// Admits nothing before this.
    ShutUntil(Timestamp),
    /// Admits a probe.
    ProbeFree,
}

#[derive(Clone, Debug)]
struct Probe {
    id: u64,
    deadline: Timestamp,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed {
        failures: u32,
        /// Should be open: `Some` with the successes in a row since the last failure.
        marked: Option<u32>,
    },
    Open {
        until: Timestamp,
    },
    HalfOpen {
        /// In flight; at most `Trip::probes`, at most 100.
        probes: Vec<Probe>,
        successes: u32,
    },
}

const HEALTHY: Phase = Phase::Closed {
    failures: 0,
    marked: None,
};

/// One breaker.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    phase: Phase,
    epoch: u64,
    /// n: the last opening lasted `baseEjection` x 2^(n-1).
    level: u32,
    healthy_since: Timestamp,
    /// Until then the endpoint asked to be left alone, by `Retry-After`.
    asked_until: Timestamp,
    last_probe: u64,
    /// Spreads a reopening that happens without fresh randomness.
    last_random: u64,
}

impl Breaker {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            phase: HEALTHY,
            epoch: 0,
            level: 0,
            healthy_since: now,
            asked_until: Timestamp::default(),
            last_probe: 0,
            last_random: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed { marked: None, .. } => State::Closed,
            Phase::Closed { .. } => State::WouldOpen,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    pub(super) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// n at `now`, with what health has taken off it.
    pub(super) fn level(&self, trip: &Trip, now: Timestamp) -> u32 {
        if !matches!(self.phase, Phase::Closed { marked: None, .. }) {
            return self.level;
        }
        let health = now.since(self.healthy_since).as_nanos();
        let periods = health.checked_div(trip.base_ejection.as_nanos());
        let periods = periods.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
        self.level.saturating_sub(periods)
    }

    pub(super) fn gate(&self, trip: &Trip) -> Gate {
        match &self.phase {
            Phase::Closed {
                failures: 0,
                marked: None,
            } => Gate::Healthy,
            Phase::Closed { marked: None, .. } => Gate::Suspect,
            Phase::Closed { .. } => Gate::Marked,
            Phase::Open { until } => Gate::ShutUntil(*until),
            Phase::HalfOpen { probes, .. } if has_free_place(probes, trip) => Gate::ProbeFree,
            // Then the oldest probe is overdue, and the machine must be asked.
            Phase::HalfOpen { probes, .. } => Gate::ShutUntil(
                probes
                    .iter()
                    .map(|probe| probe.deadline)
                    .min()
                    .unwrap_or_default(),
            ),
        }
    }

    /// Lets an attempt through, or not. At most one change of state, whose cause is told.
    pub(super) fn admit(&mut self, trip: &Trip, now: Timestamp) -> (Option<Ticket>, Option<Cause>) {
        if let Some(cause) = self.expire(trip, now) {
            return (None, Some(cause));
        }
        let mut cause = None;
        if let Phase::Open { until } = self.phase
            && until <= now
        {
            self.phase = Phase::HalfOpen {
                probes: Vec::new(),
                successes: 0,
            };
            cause = Some(Cause::TimePassed);
        }
        let epoch = self.epoch;
        let ticket = match &mut self.phase {
            Phase::Closed { .. } => Some(Ticket::ordinary(epoch)),
            Phase::Open { .. } => None,
            Phase::HalfOpen { probes, .. } if has_free_place(probes, trip) => {
                self.last_probe += 1;
                probes.push(Probe {
                    id: self.last_probe,
                    deadline: now.after(trip.base_ejection.max(PROBE_DEADLINE_AT_LEAST)),
                });
                Some(Ticket {
                    epoch,
                    probe: Some(self.last_probe),
                })
            }
            Phase::HalfOpen { .. } => None,
        };
        self.check(trip);
        (ticket, cause)
    }

    /// An attempt did what it should. `is_over`: a rate is over its threshold all the same.
    pub(super) fn succeed(
        &mut self,
        ticket: Ticket,
        is_over: bool,
        trip: &Trip,
        now: Timestamp,
    ) -> Option<Cause> {
        if let Some(cause) = self.expire(trip, now) {
            return Some(cause);
        }
        if ticket.epoch != self.epoch {
            return None;
        }
        let recovered = match &mut self.phase {
            Phase::Closed { failures, marked } => {
                *failures = 0;
                let successes = marked.as_mut()?;
                if is_over {
                    return None;
                }
                *successes += 1;
                (*successes >= trip.successes).then_some(*successes)
            }
            Phase::HalfOpen { probes, successes } => {
                remove(probes, ticket);
                *successes += 1;
                (*successes >= trip.successes).then_some(*successes)
            }
            Phase::Open { .. } => None,
        };
        let cause = recovered.map(|successes| {
            self.phase = HEALTHY;
            self.healthy_since = now;
            Cause::Recovered { successes }
        });
        if matches!(self.phase, Phase::Closed { .. }) {
            self.asked_until = Timestamp::default();
        }
        self.check(trip);
        cause
    }

    /// An attempt failed. `place` is asked when the breaker should open.
    pub(super) fn fail(
        &mut self,
        ticket: Ticket,
        failure: Failure,
        trip: &Trip,
        place: impl FnOnce() -> bool,
    ) -> Option<Cause> {
        let now = failure.now;
        self.last_random = failure.random;
        if let Some(cause) = self.expire(trip, now) {
            return Some(cause);
        }
        if ticket.epoch != self.epoch {
            return None;
        }
        if let Some(asked) = failure.retry_after {
            self.asked_until = self.asked_until.max(now.after(asked));
        }
        let cause = match &mut self.phase {
            Phase::Open { .. } => None,
            Phase::HalfOpen { .. } => {
                self.open(trip, now, failure.random);
                Some(match failure.end {
                    Ending::Failed(end) => Cause::ProbeFailed(end),
                    Ending::Slow(duration) => Cause::ProbeSlow(duration),
                })
            }
            Phase::Closed { failures, marked } => {
                *failures = failures.saturating_add(1);
                let (row, was_marked) = (*failures, marked.is_some());
                *marked = marked.map(|_| 0);
                if row < in_a_row(trip) {
                    return None;
                }
                let Ending::Failed(last) = failure.end else {
                    return None;
                };
                let cause = Cause::Failures { row, last };
                if place() {
                    self.level = self.level(trip, now);
                    self.open(trip, now, failure.random);
                    Some(cause)
                } else if was_marked {
                    None
                } else {
                    self.level = self.level(trip, now);
                    self.phase = Phase::Closed {
                        failures: row,
                        marked: Some(0),
                    };
                    Some(cause)
                }
            }
        };
        self.check(trip);
        cause
    }

    /// A rate is over its threshold. `place` is asked as for failures in a row.
    pub(super) fn breach(
        &mut self,
        ticket: Ticket,
        breach: Breach,
        (now, random): (Timestamp, u64),
        trip: &Trip,
        place: impl FnOnce() -> bool,
    ) -> Option<Cause> {
        let Phase::Closed { failures, marked } = self.phase else {
            return None;
        };
        if ticket.epoch != self.epoch {
            return None;
        }
        let is_open = place();
        if !is_open && marked.is_some() {
            return None;
        }
        self.level = self.level(trip, now);
        if is_open {
            self.open(trip, now, random);
        } else {
            self.phase = Phase::Closed {
                failures,
                marked: Some(0),
            };
        }
        self.check(trip);
        Some(Cause::Rate(breach))
    }

    /// The attempt says nothing; a probe's place is free again.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        if ticket.epoch != self.epoch {
            return;
        }
        if let Phase::HalfOpen { probes, .. } = &mut self.phase {
            remove(probes, ticket);
        }
    }

    /// Lets an endpoint in that may no longer be out; the mark stays.
    pub(super) fn let_in(&mut self, trip: &Trip) -> Option<Cause> {
        if matches!(self.phase, Phase::Closed { .. }) {
            return None;
        }
        self.epoch += 1;
        self.phase = Phase::Closed {
            failures: in_a_row(trip),
            marked: Some(0),
        };
        self.check(trip);
        Some(Cause::NoPlace)
    }

    /// Forgets everything: no policy asks for this breaker any more.
    pub(super) fn reset(&mut self, now: Timestamp) -> Option<Cause> {
        let was_closed = self.state() == State::Closed;
        *self = Self {
            epoch: self.epoch + 1,
            last_probe: self.last_probe,
            last_random: self.last_random,
            ..Self::new(now)
        };
        (!was_closed).then_some(Cause::PolicyGone)
    }

    /// Before every step: opens again when a probe has been without answer for too long.
    fn expire(&mut self, trip: &Trip, now: Timestamp) -> Option<Cause> {
        self.adopt(trip);
        let Phase::HalfOpen { probes, .. } = &self.phase else {
            return None;
        };
        if !probes.iter().any(|probe| probe.deadline <= now) {
            return None;
        }
        self.open(trip, now, self.last_random);
        self.check(trip);
        Some(Cause::ProbeUnanswered)
    }

    /// The policy may have changed since the last step: where a lower bound has
    /// been reached by what was counted under a higher one, the next outcome decides.
    fn adopt(&mut self, trip: &Trip) {
        match &mut self.phase {
            Phase::Closed { failures, marked } => match marked {
                Some(successes) => *successes = (*successes).min(trip.successes.saturating_sub(1)),
                None => {
                    *failures = (*failures).min(in_a_row(trip) - 1);
                }
            },
            Phase::Open { .. } => {}
            Phase::HalfOpen { successes, .. } => {
                *successes = (*successes).min(trip.successes.saturating_sub(1));
            }
        }
    }

    fn open(&mut self, trip: &Trip, now: Timestamp, random: u64) {
        self.level = self.level.saturating_add(1);
        self.epoch += 1;
        let mut until = now.after(ejection(trip, self.level, random));
        if trip.honor_retry_after {
            let latest = now.after(trip.max_ejection);
            until = until.max(self.asked_until.min(latest));
        }
        self.asked_until = Timestamp::default();
        self.phase = Phase::Open { until };
    }

    fn check(&self, trip: &Trip) {
        match &self.phase {
            Phase::Closed { failures, marked } => {
                debug_assert!(*failures < in_a_row(trip) || marked.is_some());
                debug_assert!(marked.is_none_or(|successes| successes < trip.successes));
            }
            Phase::Open { .. } => debug_assert!(self.level > 0 && self.epoch > 0),
            Phase::HalfOpen { probes, successes } => {
                debug_assert!(*successes < trip.successes, "should be closed");
                debug_assert!(probes.iter().all(|probe| probe.id <= self.last_probe));
            }
        }
    }
}

/// So many failures in a row open it; at least 1.
fn in_a_row(trip: &Trip) -> u32 {
    match trip.consecutive_failures {
        0 => u32::MAX,
        row => row,
    }
}

/// How an attempt ended that speaks against the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It failed.
    Failed(AttemptEnd),
    /// A probe took longer than this.
    Slow(Duration),
}

/// One failure, with what it says of the time to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) end: Ending,
    pub(super) retry_after: Option<Duration>,
    pub(super) now: Timestamp,
    pub(super) random: u64,
}

/// The time of the `level`th opening in a row, with its jitter.
fn ejection(trip: &Trip, level: u32, random: u64) -> Duration {
    let doublings = level.saturating_sub(1).min(31);
    let nominal = trip
        .base_ejection
        .saturating_mul(1 << doublings)
        .min(trip.max_ejection);
    let jitter = nominal.mul_f64(JITTER * random::unit(random));
    nominal.saturating_add(jitter).min(trip.max_ejection)
}

fn has_free_place(probes: &[Probe], trip: &Trip) -> bool {
    probes.len() < trip.probes as usize
}

fn remove(probes: &mut Vec<Probe>, ticket: Ticket) {
    probes.retain(|probe| Some(probe.id) != ticket.probe);
}
