//! What must hold after every event, and at the end.

use std::sync::Arc;
use std::time::Duration;

use remora_proxy::policy::breaker::{Change, SharedBreaker, State};
use remora_proxy::policy::limit::Kind;

use crate::models::{LONGEST, may_be_out};
use crate::settings::Settings;
use crate::upstream::Mood;
use crate::world::{Event, World};

impl World {
    /// After every event.
    pub fn check(&self) {
        let trip = self.settings.trip.as_ref();
        let listed: Vec<_> = self.endpoints.iter().filter(|it| it.is_listed).collect();
        let out = listed
            .iter()
            .filter(|it| {
                matches!(
                    it.breaker.describe(self.now).state,
                    State::Open | State::HalfOpen
                )
            })
            .count();
        assert!(
            out <= may_be_out(trip, listed.len()),
            "{out} of {} are out",
            listed.len()
        );
        assert_eq!(
            self.set.ejected() as usize,
            out,
            "the floor's books are wrong"
        );
        assert_eq!(
            self.limits.in_use(Kind::Requests) as usize,
            self.requests.len()
        );
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            let live = self.requests.values().filter_map(|it| it.live.as_ref());
            let in_flight = live.filter(|live| live.endpoint == at).count();
            assert_eq!(endpoint.limits.in_use(Kind::Requests) as usize, in_flight);
            assert_eq!(endpoint.load.in_flight() as usize, in_flight);
        }
    }

    /// Before another probe of this opening begins, fewer than `probes` are in flight.
    pub fn check_probes(&self, breaker: &Arc<SharedBreaker>, opened: u64) {
        let live = self.requests.values().filter_map(|it| it.live.as_ref());
        let in_flight = live
            .filter(|live| live.probe_of == Some(opened) && Arc::ptr_eq(&live.breaker, breaker))
            .count();
        let probes = self.settings.trip.as_ref().map_or(0, |trip| trip.probes);
        assert!(in_flight < probes as usize, "{in_flight} probes already");
    }

    pub fn check_nothing_is_held(&self) {
        assert_eq!(self.requests.len(), 0);
        for kind in Kind::ALL {
            assert_eq!(self.limits.in_use(kind), 0, "{}", kind.as_str());
        }
        let changes = self.journal.since(0);
        let in_order = |pair: &[Change]| pair[0].sequence + 1 == pair[1].sequence;
        assert!(changes.windows(2).all(in_order));
    }

    /// When all is well again, everything is answered and every breaker closes.
    pub fn check_recovery(&mut self) {
        for endpoint in &mut self.endpoints {
            endpoint.mood = Mood::Well;
            endpoint.is_doubtful = false;
            endpoint.is_listed = true;
        }
        self.members_changed();
        let trip = self.settings.trip.clone();
        self.configure(Settings {
            trip,
            ..Settings::generous()
        });
        self.now = self.now.after(LONGEST);
        let before = self.summary.clone();
        for step in 0..200 {
            self.schedule(
                self.now.after(Duration::from_millis(100 * step)),
                Event::Arrive,
            );
        }
        self.run();
        let answered = self.summary.answered - before.answered;
        let cancelled = self.summary.cancelled - before.cancelled;
        assert_eq!(answered + cancelled, 200, "not everything was answered");
        for endpoint in &self.endpoints {
            let told = endpoint.breaker.describe(self.now);
            assert!(
                matches!(told.state, State::Closed | State::WouldOpen),
                "{told:?}"
            );
        }
    }
}
