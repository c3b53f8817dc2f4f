//! The shell by which all workers share one breaker.
//!
//! While the endpoint is healthy nothing but one atomic word is read: it tells
//! that attempts may pass and that a success changes nothing. Everything else
//! (a failure, a success after one, half-open) goes through the machine behind
//! a lock. That is allowed because the endpoint is in trouble then, and the
//! lock is held for the machine's few instructions only, never across an await.
//! Rates are counted without it ([`super::rates`]); it is taken where one is over
//! its threshold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::floor::Floor;
use super::journal::{Counts, Entry, Journal, Step};
use super::machine::{Breaker, Ending, Gate, Ticket};
use super::permit::{BreakerPermit, Recorded};
use super::published::{GateKind, Published};
use super::rates::{Breach, Rates};
use super::words::{Cause, Outcome, State};
use crate::balance::Availability;
use crate::clock::Timestamp;
use crate::policy::config::{Scope, Trip};

/// What the breakers of a service have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) service: Arc<str>,
    pub(super) journal: Arc<Journal>,
    pub(super) counts: Counts,
    pub(super) trip: ArcSwapOption<Trip>,
    /// Never opens, only marks: the caller asked for this very pod.
    pub(super) mark_only: bool,
    // A lock is allowed: only trips, recoveries and configuration ask the floor.
    pub(super) floor: Mutex<Floor>,
}

/// While an endpoint has failures in a row but is not open, the balancer sends it
/// an attempt each time this has passed. Otherwise it would shun the endpoint for
/// its failures, and a dead one would neither be used nor be known to be dead. By
/// this, five failures in a row take a quarter of a second.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// One breaker: an endpoint's, or a service's own.
#[derive(Debug)]
pub struct SharedBreaker {
    common: Arc<Common>,
    name: Arc<str>,
    scope: Scope,
    /// Gate and epoch, see [`Published`].
    published: AtomicU64,
    /// Nanoseconds; has a meaning only while the gate is shut.
    shut_until: AtomicU64,
    /// Nanoseconds; has a meaning only while the endpoint is suspect.
    look_again_at: AtomicU64,
    /// Whether there are `rates`.
    has_rates: AtomicBool,
    /// Of this epoch.
    rates: ArcSwapOption<Rates>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    breaker: Breaker,
    since: Timestamp,
    cause: String,
    ejections: u64,
    listed: bool,
    holds_place: bool,
    /// The endpoint, or the whole service, is not known any more.
    gone: bool,
}

/// What `/breakers` tells of a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// How it stands.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Why it changed last; empty when it never did.
    pub cause: String,
    /// How often it has opened.
    pub ejections: u64,
    /// n of `baseEjection` x 2^(n-1), as it has faded with health.
    pub level: u32,
}

impl SharedBreaker {
    pub(super) fn new(
        common: &Arc<Common>,
        name: Arc<str>,
        scope: Scope,
        now: Timestamp,
    ) -> Arc<Self> {
        let trip = common.trip.load_full().filter(|trip| trip.scope == scope);
        let rates = trip.and_then(|trip| Rates::new(&trip));
        Arc::new(Self {
            common: Arc::clone(common),
            name,
            scope,
            has_rates: AtomicBool::new(rates.is_some()),
            rates: ArcSwapOption::from(rates.map(Arc::new)),
            published: AtomicU64::new(Published::new(Gate::Healthy, 0).pack()),
            shut_until: AtomicU64::new(0),
            look_again_at: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                breaker: Breaker::new(now),
                since: now,
                cause: String::new(),
                ejections: 0,
                listed: false,
                holds_place: false,
                gone: false,
            }),
        })
    }

    /// The endpoint's name; empty for a service's own breaker.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the balancer needs to know, without a lock. Another worker may be
    /// quicker: [`Self::try_admit`] decides.
    pub fn availability(&self, now: Timestamp) -> Availability {
        let has_passed = |at: &AtomicU64| at.load(Ordering::Acquire) <= now.as_nanos();
        match Published::unpack(self.published.load(Ordering::Acquire)).gate {
            GateKind::Healthy | GateKind::Marked => Availability::Yes,
            GateKind::Suspect if has_passed(&self.look_again_at) => Availability::Probe,
            GateKind::Suspect => Availability::Yes,
            GateKind::ProbeFree => Availability::Probe,
            GateKind::Shut if has_passed(&self.shut_until) => Availability::Probe,
            GateKind::Shut => Availability::No,
        }
    }

    /// Whether an attempt would be admitted, see [`Self::availability`].
    pub fn available(&self, now: Timestamp) -> bool {
        self.availability(now) != Availability::No
    }

    /// Admits an attempt that is about to begin, or refuses it.
    pub fn try_admit(self: &Arc<Self>, now: Timestamp) -> Option<BreakerPermit> {
        let published = Published::unpack(self.published.load(Ordering::Acquire));
        let ticket = match published.gate {
            GateKind::Healthy | GateKind::Marked => Ticket::ordinary(published.epoch),
            GateKind::Suspect => {
                let next = now.after(LOOK_AGAIN_AFTER).as_nanos();
                self.look_again_at.store(next, Ordering::Release);
                Ticket::ordinary(published.epoch)
            }
            GateKind::Shut if self.availability(now) == Availability::No => return None,
            GateKind::Shut | GateKind::ProbeFree => self.admit_slowly(now)?,
        };
        Some(BreakerPermit::new(Arc::clone(self), ticket, now))
    }

    /// How it stands at `now`.
    pub fn describe(&self, now: Timestamp) -> Description {
        let inner = self.inner.lock();
        let trip = self.common.trip.load();
        Description {
            state: inner.breaker.state(),
            since: inner.since,
            cause: inner.cause.clone(),
            ejections: inner.ejections,
            level: trip
                .as_ref()
                .map_or(0, |trip| inner.breaker.level(trip, now)),
        }
    }

    fn admit_slowly(&self, now: Timestamp) -> Option<Ticket> {
        let mut inner = self.inner.lock();
        let Some(trip) = self.trip() else {
            // The policy is going away this moment, and nothing is refused any more.
            return Some(Ticket::ordinary(inner.breaker.epoch()));
        };
        let before = inner.breaker.state();
        let (ticket, cause) = inner.breaker.admit(&trip, now);
        self.settle(&mut inner, before, cause, &trip, now);
        ticket
    }

    pub(super) fn record(&self, ticket: Ticket, recorded: Recorded) -> Option<State> {
        let breach = self.count(ticket, &recorded);
        let published = Published::unpack(self.published.load(Ordering::Acquire));
        let is_success = recorded.outcome == Outcome::Success;
        if is_success && breach.is_none() && published.gate == GateKind::Healthy {
            return None;
        }
        let now = recorded.now;
        let mut inner = self.inner.lock();
        // Read under the lock: a policy that goes away is first taken out and
        // then every breaker is reset under its lock, so none opens after that.
        let trip = self.trip()?;
        let before = inner.breaker.state();
        let Inner {
            breaker,
            listed,
            holds_place,
            ..
        } = &mut *inner;
        let mut place = || {
            *holds_place = self.may_open(*listed);
            *holds_place || (self.scope == Scope::Service && !self.common.mark_only)
        };
        let slow = trip
            .slow_calls
            .filter(|calls| recorded.took > calls.duration);
        let ending = match recorded.outcome {
            Outcome::Failure(end) => Some(Ending::Failed(end)),
            // A probe that is as slow as what tripped it is no sign of health.
            Outcome::Success if ticket.is_probe() => slow.map(|calls| Ending::Slow(calls.duration)),
            Outcome::Success => None,
        };
        let cause = match ending {
            None => breaker.succeed(ticket, breach.is_some(), &trip, now),
            Some(end) => breaker.fail(ticket, recorded.failure(end), &trip, &mut place),
        };
        let cause = cause.or_else(|| {
            let breach = breach?;
            breaker.breach(ticket, breach, (now, recorded.random), &trip, &mut place)
        });
        self.settle(&mut inner, before, cause, &trip, now);
        cause.map(|_| inner.breaker.state())
    }

    /// Counts an attempt that began and ended while traffic flowed.
    fn count(&self, ticket: Ticket, recorded: &Recorded) -> Option<Breach> {
        if !self.has_rates.load(Ordering::Acquire) || ticket.is_probe() {
            return None;
        }
        // Read in this order: windows of a later epoch come after its word.
        let rates = self.rates.load();
        let published = Published::unpack(self.published.load(Ordering::Acquire));
        if !published.gate.is_closed() || !ticket.is_of(published.epoch) {
            return None;
        }
        let failed = matches!(recorded.outcome, Outcome::Failure(_));
        let rates = rates.as_ref()?;
        rates.count(failed, recorded.took, recorded.now)
    }

    /// Takes a place under the floor, for an endpoint.
    fn may_open(&self, listed: bool) -> bool {
        self.scope == Scope::Endpoint
            && listed
            && !self.common.mark_only
            && self.common.floor.lock().take()
    }

    pub(super) fn give_back(&self, ticket: Ticket) {
        let mut inner = self.inner.lock();
        inner.breaker.give_back(ticket);
        if let Some(trip) = self.trip() {
            self.publish(&inner.breaker, &trip);
        }
    }

    /// The policy, where it asks for this breaker.
    fn trip(&self) -> Option<Arc<Trip>> {
        self.common
            .trip
            .load_full()
            .filter(|trip| trip.scope == self.scope)
    }

    /// After every step of the machine: books, journal, and what is read without the lock.
    fn settle(
        &self,
        inner: &mut Inner,
        before: State,
        cause: Option<Cause>,
        trip: &Trip,
        now: Timestamp,
    ) {
        self.publish(&inner.breaker, trip);
        let after = inner.breaker.state();
        debug_assert_eq!(cause.is_some(), before != after, "a change without a cause");
        let Some(cause) = cause else { return };
        if after == State::Open {
            inner.ejections += 1;
        }
        if inner.holds_place && matches!(after, State::Closed | State::WouldOpen) {
            inner.holds_place = false;
            self.common.floor.lock().give_back();
        }
        inner.since = now;
        inner.cause = cause.to_string();
        let step = Step {
            from: before,
            to: after,
            reason: cause.reason(),
        };
        self.common.counts.count(step);
        self.common.journal.count(step);
        if !inner.gone {
            self.tell(before, after, inner.cause.clone(), now);
        }
    }

    fn tell(&self, from: State, to: State, cause: String, now: Timestamp) {
        self.common.journal.write(Entry {
            at: now,
            service: &self.common.service,
            endpoint: &self.name,
            from,
            to,
            cause,
        });
    }

    /// The endpoint, or the whole service, is not known any more. Its state is
    /// kept, but who follows the journal must not take it for open for ever.
    pub fn leave(&self, now: Timestamp) {
        let mut inner = self.inner.lock();
        let state = inner.breaker.state();
        if !std::mem::replace(&mut inner.gone, true) && state != State::Closed {
            self.tell(state, State::Closed, Cause::Gone.to_string(), now);
        }
    }

    /// It is known again; nothing where it never left.
    pub fn come_back(&self, now: Timestamp) {
        let mut inner = self.inner.lock();
        let state = inner.breaker.state();
        if std::mem::take(&mut inner.gone) && state != State::Closed {
            self.tell(State::Closed, state, inner.cause.clone(), now);
        }
    }

    fn publish(&self, breaker: &Breaker, trip: &Trip) {
        let gate = breaker.gate(trip);
        if let Gate::ShutUntil(until) = gate {
            self.shut_until.store(until.as_nanos(), Ordering::Release);
        }
        let before = Published::unpack(self.published.load(Ordering::Acquire));
        let word = Published::new(gate, breaker.epoch()).pack();
        self.published.store(word, Ordering::Release);
        if before.epoch != breaker.epoch() {
            self.set_rates(Rates::new(trip));
        }
    }

    fn set_rates(&self, rates: Option<Rates>) {
        let has_rates = rates.is_some();
        if has_rates || self.has_rates.load(Ordering::Acquire) {
            self.rates.store(rates.map(Arc::new));
            self.has_rates.store(has_rates, Ordering::Release);
        }
    }
}

/// What only a simulation asks.
#[cfg(test)]
impl SharedBreaker {
    pub(super) fn service(&self) -> &Arc<str> {
        &self.common.service
    }

    /// Whether the attempt began while traffic flowed, in the present epoch.
    pub(super) fn is_of_now(&self, ticket: Ticket) -> bool {
        let published = Published::unpack(self.published.load(Ordering::Acquire));
        let is_closed = matches!(
            self.inner.lock().breaker.state(),
            State::Closed | State::WouldOpen
        );
        is_closed && ticket.is_of(published.epoch) && !ticket.is_probe()
    }
}

/// What only the set asks of its breakers; it holds its members' lock meanwhile.
impl SharedBreaker {
    /// The endpoint is listed again: one that is still out needs a place for it.
    pub(super) fn list(&self, now: Timestamp) {
        let mut inner = self.inner.lock();
        if std::mem::replace(&mut inner.listed, true) {
            return;
        }
        let Some(trip) = self.trip() else { return };
        let before = inner.breaker.state();
        if matches!(before, State::Open | State::HalfOpen) {
            inner.holds_place = self.may_open(true);
            if !inner.holds_place {
                let cause = inner.breaker.let_in(&trip);
                self.settle(&mut inner, before, cause, &trip, now);
            }
        }
    }

    /// The endpoint has left: its place is free. Returns whether its state is worth keeping.
    pub(super) fn unlist(&self, now: Timestamp) -> bool {
        let mut inner = self.inner.lock();
        inner.listed = false;
        if std::mem::take(&mut inner.holds_place) {
            self.common.floor.lock().give_back();
        }
        self.trip().is_some_and(|trip| {
            inner.breaker.gate(&trip) != Gate::Healthy || inner.breaker.level(&trip, now) > 0
        })
    }

    pub(super) fn is_listed(&self) -> bool {
        self.inner.lock().listed
    }

    /// Since when it has been out with a place under the floor.
    pub(super) fn out_since(&self) -> Option<Timestamp> {
        let inner = self.inner.lock();
        inner.holds_place.then_some(inner.since)
    }

    /// Lets it back in, marked, because the floor has risen.
    pub(super) fn let_in(&self, now: Timestamp) {
        let mut inner = self.inner.lock();
        let Some(trip) = self.trip() else { return };
        let before = inner.breaker.state();
        let cause = inner.breaker.let_in(&trip);
        self.settle(&mut inner, before, cause, &trip, now);
    }

    /// After a change of the policy: resets a breaker that it no longer asks for.
    pub(super) fn policy_changed(&self, now: Timestamp) {
        let mut inner = self.inner.lock();
        let before = inner.breaker.state();
        match self.trip() {
            Some(trip) => {
                self.set_rates(Rates::after(&trip, self.rates.load().as_deref()));
                self.publish(&inner.breaker, &trip);
            }
            None => {
                self.set_rates(None);
                let cause = inner.breaker.reset(now);
                self.settle(&mut inner, before, cause, &Trip::default(), now);
            }
        }
    }
}
