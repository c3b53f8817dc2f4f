//! The breakers of one service, and the floor under its endpoints.
//!
//! ```text
//!   listed ── leaves ──▶ departed (its place is free, its state is kept
//!     ▲                     │      while there is any, so many at most)
//!     └── comes back ───────┘
//! ```
//!
//! One that leaves while somebody holds its breaker (a pod that is not ready is
//! still an endpoint) comes back to that very breaker: a second one beside it
//! would be listed, and the first, which the requests go by, could never open.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::floor::Floor;
use super::journal::{Counts, Journal, Step, Transitions};
use super::shared::{Common, SharedBreaker};
use crate::clock::Timestamp;
use crate::policy::config::{Scope, Trip};

/// So many endpoints that have left are remembered for each service, the latest.
pub const DEPARTED_CAPACITY: usize = 256;

/// The breakers of one service.
#[derive(Debug)]
pub struct BreakerSet {
    common: Arc<Common>,
    service: Arc<SharedBreaker>,
    // A lock is allowed: only changes of endpoints and of the policy take it.
    members: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    breakers: HashMap<Arc<str>, Arc<SharedBreaker>>,
    /// Those of `breakers` that are not listed, in the order in which they left.
    departed: VecDeque<Arc<str>>,
    /// Those that left without anything to keep, for as long as somebody holds them.
    held: HashMap<Arc<str>, Weak<SharedBreaker>>,
}

impl BreakerSet {
    /// The breakers of `service` (`namespace/name`), without endpoints yet.
    /// `trip` absent: everything stays closed.
    pub fn new(service: &str, trip: Option<&Trip>, journal: Arc<Journal>, now: Timestamp) -> Self {
        Self::build(service, trip, journal, false, now)
    }

    /// The same for calls to one very pod, which have no other endpoint to go
    /// to: these breakers only ever mark.
    pub fn mark_only(
        service: &str,
        trip: Option<&Trip>,
        journal: Arc<Journal>,
        now: Timestamp,
    ) -> Self {
        Self::build(service, trip, journal, true, now)
    }

    fn build(
        service: &str,
        trip: Option<&Trip>,
        journal: Arc<Journal>,
        mark_only: bool,
        now: Timestamp,
    ) -> Self {
        let common = Arc::new(Common {
            service: Arc::from(service),
            journal,
            counts: Counts::default(),
            trip: ArcSwapOption::from(trip.cloned().map(Arc::new)),
            mark_only,
            floor: Mutex::new(Floor::new()),
        });
        common.set_floor_rules(trip);
        let service = SharedBreaker::new(&common, Arc::from(""), Scope::Service, now);
        Self {
            common,
            service,
            members: Mutex::default(),
        }
    }

    /// Takes another policy over. What breakers have counted stays; those that
    /// it no longer asks for are closed, and where fewer endpoints may be out
    /// now, those that have been out longest are let in.
    pub fn reconfigure(&self, trip: Option<&Trip>, now: Timestamp) {
        if self.common.trip.load().as_deref() == trip {
            return;
        }
        let members = self.members.lock();
        self.common.trip.store(trip.cloned().map(Arc::new));
        self.common.set_floor_rules(trip);
        self.service.policy_changed(now);
        for breaker in members.breakers.values() {
            breaker.policy_changed(now);
        }
        for breaker in members.held.values().filter_map(Weak::upgrade) {
            breaker.policy_changed(now);
        }
        self.let_surplus_in(&members, now);
    }

    /// The service's own breaker: passes everything but with `scope: Service`.
    /// It hears how each request ended, whichever endpoints that took.
    pub fn service(&self) -> &Arc<SharedBreaker> {
        &self.service
    }

    /// The breaker of an endpoint, which is thereby listed. `name` outlives the
    /// pod's address: its uid, or what else tells it from its successor.
    pub fn endpoint(&self, name: &str, now: Timestamp) -> Arc<SharedBreaker> {
        let mut members = self.members.lock();
        // Counted before it is listed, so that one which comes back while it is out finds a place.
        let arriving = u32::from(!members.is_listed(name));
        self.common
            .floor
            .lock()
            .set_listed(members.listed_count() + arriving);
        let breaker = members.list(name, &self.common, now);
        self.members_changed(&members, now);
        breaker
    }

    /// The service has these endpoints and no others.
    pub fn set_members<'a>(&self, names: impl IntoIterator<Item = &'a str>, now: Timestamp) {
        let mut members = self.members.lock();
        let mut leaving: HashMap<Arc<str>, Arc<SharedBreaker>> = members
            .breakers
            .iter()
            .filter(|(_, breaker)| breaker.is_listed())
            .map(|(name, breaker)| (Arc::clone(name), Arc::clone(breaker)))
            .collect();
        let mut arriving = Vec::new();
        for name in names {
            if leaving.remove(name).is_none() {
                arriving.push(name);
            }
        }
        // First those that leave, so that the places they held are free for others.
        for (name, breaker) in leaving {
            let is_kept = breaker.unlist(now);
            members.depart(name, is_kept);
        }
        self.common
            .floor
            .lock()
            .set_listed(members.listed_count() + count(arriving.len()));
        for name in arriving {
            members.list(name, &self.common, now);
        }
        members.held.retain(|_, held| held.strong_count() > 0);
        self.members_changed(&members, now);
    }

    /// How many endpoints are out.
    pub fn ejected(&self) -> u32 {
        self.common.floor.lock().ejected()
    }

    /// How many changes there were to each state, of all breakers of the service.
    pub fn transitions(&self) -> Transitions {
        self.common.counts.read()
    }

    /// The same, by what each was before and why.
    pub fn steps(&self) -> Vec<(Step, u64)> {
        self.common.counts.steps()
    }

    fn members_changed(&self, members: &Members, now: Timestamp) {
        self.common.floor.lock().set_listed(members.listed_count());
        self.let_surplus_in(members, now);
    }

    fn let_surplus_in(&self, members: &Members, now: Timestamp) {
        let surplus = self.common.floor.lock().surplus();
        if surplus == 0 {
            return;
        }
        let mut out: Vec<_> = members
            .breakers
            .values()
            .filter_map(|breaker| Some((breaker.out_since()?, breaker)))
            .collect();
        out.sort_by(|(since, breaker), (other_since, other)| {
            (since, breaker.name()).cmp(&(other_since, other.name()))
        });
        for (_, breaker) in out.into_iter().take(surplus as usize) {
            breaker.let_in(now);
        }
    }
}

impl Common {
    fn set_floor_rules(&self, trip: Option<&Trip>) {
        let (percent, min) = trip.map_or((0, 1), |trip| {
            (trip.max_ejected_percent, trip.min_endpoints)
        });
        self.floor.lock().set_rules(percent, min);
    }
}

impl Members {
    fn list(&mut self, name: &str, common: &Arc<Common>, now: Timestamp) -> Arc<SharedBreaker> {
        if let Some(known) = self.breakers.get(name) {
            let known = Arc::clone(known);
            self.departed.retain(|departed| **departed != *name);
            known.list(now);
            return known;
        }
        let held = self.held.remove(name).and_then(|held| held.upgrade());
        let name: Arc<str> = Arc::from(name);
        let breaker = held
            .unwrap_or_else(|| SharedBreaker::new(common, Arc::clone(&name), Scope::Endpoint, now));
        breaker.list(now);
        self.breakers.insert(name, Arc::clone(&breaker));
        breaker
    }

    /// Takes one that is not listed out of the books; who holds it finds it again.
    fn forget(&mut self, name: &Arc<str>) {
        if let Some(breaker) = self.breakers.remove(name) {
            self.held.insert(Arc::clone(name), Arc::downgrade(&breaker));
        }
    }

    fn depart(&mut self, name: Arc<str>, is_kept: bool) {
        if !is_kept {
            self.forget(&name);
            return;
        }
        self.departed.push_back(name);
        if self.departed.len() > DEPARTED_CAPACITY
            && let Some(oldest) = self.departed.pop_front()
        {
            self.forget(&oldest);
        }
        debug_assert!(self.departed.len() <= DEPARTED_CAPACITY);
    }

    fn is_listed(&self, name: &str) -> bool {
        self.breakers
            .get(name)
            .is_some_and(|breaker| breaker.is_listed())
    }

    fn listed_count(&self) -> u32 {
        count(self.breakers.len() - self.departed.len())
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
