//! What a request may ask of its way, and what is answered in the stead of one:
//! pods by name, sessions, hedges, fallbacks, faults.

use std::sync::Arc;

use super::book::Book;
use super::calls::{Answer, Wish};
use super::control;
use crate::clock::Timestamp;
use crate::policy::limit::Kind;
use crate::state::{Endpoint, Service};

impl Book {
    /// A pod by its name, or of a strict session, is the only one; a session's while
    /// it can be.
    pub fn check_wish(&mut self, target: &Service, endpoint: &Endpoint, id: u64, now: Timestamp) {
        let address = endpoint.config.address;
        let request = self.requests.get(&id);
        let Some((request, wish)) = request.and_then(|it| Some((it, it.wish?))) else {
            return;
        };
        let wanted = match wish {
            Wish::Pod(wanted) | Wish::Session(wanted) | Wish::Rather(wanted) => wanted,
        };
        if wanted == address {
            return self.count("wishes kept");
        }
        let list = target.endpoints(endpoint.config.port);
        let found = list.into_iter().flat_map(|list| list.iter());
        let mut found = found.filter(|it| it.config.address == wanted);
        let can_be = found.next().is_some_and(|it| {
            let limits = &it.runtime.limits;
            let max = limits.max(Kind::Requests);
            let is_free = max.is_none_or(|max| limits.in_use(Kind::Requests) < max);
            let is_other = !Arc::ptr_eq(&it.runtime, &endpoint.runtime);
            is_other && it.config.ready && is_free && it.runtime.breaker.available(now)
        });
        let is_first = request.tried.is_empty();
        // A request that waits goes by the policy as it is when it goes.
        let persistence = target.config.policy.load_balancing.persistence.as_ref();
        let is_strict = persistence.map(|it| it.strict);
        match wish {
            Wish::Session(_) if is_strict != Some(true) => {}
            // What another service gave means nothing here.
            Wish::Session(_) if !control::is_of_one_service(wanted, address) => {}
            Wish::Pod(_) | Wish::Session(_) => {
                self.breaks(format!(
                    "request {id} goes to {address}, and may to {wanted} alone"
                ));
            }
            Wish::Rather(_) if is_first && can_be && is_strict.is_some() => {
                self.breaks(format!(
                    "request {id} goes to {address}, its session is with {wanted}"
                ));
            }
            Wish::Rather(_) => {}
        }
    }

    /// Never more attempts at once than its hedges and one; one, where twice may do harm.
    pub fn check_at_once(&mut self, id: u64) {
        let Some(at_once) = self.requests.get(&id).map(|it| it.at_once) else {
            return;
        };
        let mine = self.exchanges.values().filter(|it| it.request == id);
        let open = mine.filter(|it| !it.is_fallback && !it.answered && !it.wire.is_left());
        let open = open.count() as u32;
        if open > 0 {
            self.count("at once");
        }
        if open >= at_once {
            self.breaks(format!(
                "request {id} has {open} attempts already, of {at_once}"
            ));
        }
    }

    /// A fallback stands for what it is to stand for, and for nothing else; what a
    /// fault ends reached nobody; a session is with whoever answered.
    pub fn check_answer(&mut self, id: u64, answer: &Answer) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let reason = answer.reason.as_str();
        let broken = match (&request.when, reason) {
            (_, "fault") if !request.tried.is_empty() => "reached somebody, and is a fault",
            (Some((when, _)), "fallback") if when.is_empty() => "has no fallback, and fell back",
            (Some((when, true)), word) if when.iter().any(|it| it == word) => {
                "has a fallback for that, and was refused"
            }
            _ => "",
        };
        let (service, user) = (request.service, request.user);
        let last = self.last_at.get(&id).copied();
        let is_alone = request.deliveries == 1;
        if !broken.is_empty() {
            self.breaks(format!("request {id} {broken}: {reason}"));
        }
        if let Some(address) = last.filter(|_| is_alone && !answer.session.is_empty()) {
            self.count("sessions");
            let session = (answer.session.clone(), address);
            self.sessions.insert((service, user), session);
        }
    }
}
