//! What really happens in a simulation, written down by those who do it: callers,
//! applications, and the moment at which the sidecar picks. What must hold is held
//! against this, not against what the sidecar believes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use remora_proto::v1;

use super::SERVICES;
use super::calls::{Facts, Wish};
use super::control;
use super::pipe::{Pipe, Watch};
use super::rates::Rates;
use crate::clock::{self, Timestamp};
use crate::policy::breaker::State;
use crate::state::{Endpoint, Mesh, Service};

/// Events that are shown of a seed that fails.
const SHOWN: usize = 60;

/// A request, from its caller's first byte.
#[derive(Clone, Debug)]
pub struct Request {
    pub service: usize,
    pub started: Timestamp,
    pub user: u8,
    /// Twice does no harm, by method or as the policy said when it was sent.
    pub is_safe: bool,
    /// To these services alone it may go.
    pub backends: Vec<usize>,
    /// To these it may go in their stead, as a fallback.
    pub fallbacks: Vec<usize>,
    /// The words of its fallback, and whether that answers itself, where it is known.
    pub when: Option<(Vec<String>, bool)>,
    /// What it wishes of its endpoint.
    pub wish: Option<Wish>,
    /// Attempts that it may have at once.
    pub at_once: u32,
    /// `timeouts.request` when it was sent.
    pub timeout_ms: Option<u64>,
    /// Endpoints that were picked for it, and those to which it is a probe: of which
    /// opening.
    pub tried: Vec<u64>,
    pub probes: BTreeMap<SocketAddr, (u64, u64)>,
    /// How often an application got it.
    pub deliveries: u32,
    /// Neither answered nor given up.
    pub is_open: bool,
    /// Whether the rate limits let it pass; `None` where nobody knows.
    pub admitted: Option<bool>,
}

/// A request at an application.
#[derive(Debug)]
pub struct Exchange {
    pub request: u64,
    pub address: SocketAddr,
    pub wire: Watch,
    pub probe_of: Option<(u64, u64)>,
    /// Asked in the stead of whom was called.
    pub is_fallback: bool,
    pub answered: bool,
}

/// Everything.
#[derive(Debug)]
pub struct Book {
    pub random: fastrand::Rng,
    pub requests: BTreeMap<u64, Request>,
    pub exchanges: BTreeMap<u64, Exchange>,
    pub connections: Vec<(SocketAddr, Watch)>,
    /// Endpoints that the sidecar has been told of, and not that they left.
    pub listed: BTreeMap<SocketAddr, usize>,
    pub probes_allowed: BTreeMap<usize, u32>,
    pub rates: Rates,
    /// By service: its `trip` now.
    pub trips: [Option<v1::Trip>; SERVICES],
    /// By endpoint: attempts that went there, and answers of it that are no failures.
    pub picks: BTreeMap<SocketAddr, u64>,
    pub well: BTreeMap<SocketAddr, u64>,
    /// By service and user: the session, and with whom it is.
    pub sessions: BTreeMap<(usize, u8), (String, SocketAddr)>,
    /// Who had a request last.
    pub last_at: BTreeMap<u64, SocketAddr>,
    pub facts: [Facts; SERVICES],
    pub last_request: u64,
    pub counts: BTreeMap<&'static str, u64>,
    /// The first promise that was broken.
    pub broken: Option<String>,
    last: u64,
    trace: DefaultHasher,
    /// All events, in order.
    pub events: Vec<String>,
}

thread_local! {
    static BOOK: RefCell<Option<Book>> = const { RefCell::new(None) };
}

/// Begins this thread's.
pub fn open(seed: u64) {
    BOOK.set(Some(Book {
        random: fastrand::Rng::with_seed(seed ^ 0x5eed),
        requests: BTreeMap::new(),
        exchanges: BTreeMap::new(),
        connections: Vec::new(),
        listed: BTreeMap::new(),
        probes_allowed: BTreeMap::new(),
        rates: Rates::default(),
        trips: Default::default(),
        picks: BTreeMap::new(),
        well: BTreeMap::new(),
        sessions: BTreeMap::new(),
        last_at: BTreeMap::new(),
        facts: Default::default(),
        last_request: 0,
        counts: BTreeMap::new(),
        broken: None,
        last: 0,
        trace: DefaultHasher::new(),
        events: Vec::new(),
    }));
}

/// Ends this thread's.
pub fn close() -> Option<Book> {
    BOOK.take()
}

/// Whether this thread has one.
pub fn is_open() -> bool {
    BOOK.with_borrow(Option::is_some)
}

/// Writes in it, or reads.
pub fn with<T>(write: impl FnOnce(&mut Book) -> T) -> T {
    BOOK.with_borrow_mut(|book| write(book.as_mut().expect("a simulation is being played")))
}

/// The applications' own chance.
pub fn random<T>(draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    with(|book| draw(&mut book.random))
}

/// The sidecar has picked `endpoint` for the request with this id.
pub fn picked(mesh: &Mesh, endpoint: &Endpoint, id: Option<&http::HeaderValue>, now: Timestamp) {
    if !is_open() {
        return;
    }
    let id = id.and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(id) = id {
        let config = &endpoint.config;
        let target = format!("{}/{}", config.namespace, config.service);
        let target = mesh.load().service(&target).cloned();
        with(|book| book.picked(target.as_deref(), endpoint, id, now));
    }
}

impl Book {
    /// Tells an event: it is part of what must be the same when a seed is played again.
    pub fn tell(&mut self, event: String) {
        let at = clock::now().as_nanos() / 1_000;
        self.trace.write_u64(at);
        self.trace.write(event.as_bytes());
        self.events
            .push(format!("{:>10}.{:03} ms  {event}", at / 1_000, at % 1_000));
    }

    /// One number for all that happened.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// The last events, for people.
    pub fn last_events(&self) -> String {
        let last = &self.events[self.events.len().saturating_sub(SHOWN)..];
        last.join("\n")
    }

    /// One more of these.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// A promise is broken.
    pub fn breaks(&mut self, what: String) {
        self.tell(format!("BROKEN: {what}"));
        self.broken.get_or_insert(what);
    }

    /// A connection stands.
    pub fn connected(&mut self, address: SocketAddr, pipe: &Pipe) {
        self.tell(format!("{address} takes a connection"));
        self.connections.push((address, pipe.watch()));
    }

    /// The application let go of it.
    pub fn disconnected(&mut self, pipe: &Pipe) {
        let gone = pipe.watch();
        self.connections.retain(|(_, watch)| !watch.is_same(&gone));
    }

    /// An application has the head of a request.
    pub fn delivered(
        &mut self,
        id: u64,
        attempt: u32,
        address: SocketAddr,
        pipe: &Pipe,
        act: &str,
    ) -> u64 {
        self.tell(format!(
            "{address} has request {id}, attempt {attempt}: {act}"
        ));
        self.count("delivered");
        self.last += 1;
        self.last_at.insert(id, address);
        let Some(request) = self.requests.get_mut(&id) else {
            self.breaks(format!("request {id} was never made"));
            return self.last;
        };
        request.deliveries += 1;
        let probe_of = request.probes.get(&address).copied();
        let is_fallback = self
            .listed
            .get(&address)
            .is_some_and(|it| request.fallbacks.contains(it) && !request.backends.contains(it));
        if !is_fallback {
            request.admitted = Some(true);
        }
        let (again, is_safe) = (request.deliveries > 1, request.is_safe || is_fallback);
        if again && !is_safe {
            self.breaks(format!("request {id} is not safe and was sent again"));
        }
        if again {
            self.count("sent again");
        }
        let exchange = Exchange {
            request: id,
            address,
            wire: pipe.watch(),
            probe_of,
            is_fallback,
            answered: false,
        };
        self.exchanges.insert(self.last, exchange);
        self.last
    }

    /// The application begins to answer on this connection.
    pub fn answers(&mut self, pipe: &Pipe) {
        let wire = pipe.watch();
        for exchange in self.exchanges.values_mut() {
            exchange.answered |= exchange.wire.is_same(&wire);
        }
    }

    /// And the answer is no failure of the server's.
    pub fn answers_well(&mut self, address: SocketAddr) {
        *self.well.entry(address).or_default() += 1;
    }

    /// The application is done with it, in whichever way.
    pub fn done(&mut self, exchange: u64) {
        self.exchanges.remove(&exchange);
    }

    fn picked(&mut self, target: Option<&Service>, endpoint: &Endpoint, id: u64, now: Timestamp) {
        let address = endpoint.config.address;
        self.tell(format!("request {id} goes to {address}"));
        self.count("picked");
        let told = endpoint.runtime.breaker.describe(now);
        if told.state == State::Open {
            self.breaks(format!(
                "request {id} goes to {address}, whose breaker is open"
            ));
        }
        let Some(service) = self.listed.get(&address).copied() else {
            self.breaks(format!("request {id} goes to {address}, which has left"));
            return;
        };
        let Some(request) = self.requests.get(&id) else {
            self.breaks(format!("request {id} was never made"));
            return;
        };
        let is_fallback = !request.backends.contains(&service);
        if is_fallback && !request.fallbacks.contains(&service) {
            self.breaks(format!(
                "request {id} goes to {address}, no backend of its route"
            ));
        }
        *self.picks.entry(address).or_default() += 1;
        if is_fallback {
            self.count("fallback attempts");
        } else if let Some(target) = target {
            self.check_wish(target, endpoint, id, now);
            self.check_at_once(id);
            if self.requests.get(&id).is_some_and(|it| it.wish.is_none()) {
                self.check_best(target, endpoint, id, now);
            }
        }
        let probe_of =
            (told.state == State::HalfOpen).then_some((endpoint.runtime.id, told.ejections));
        if let Some(probe) = probe_of {
            self.count("probes");
            let at_once = self
                .exchanges
                .values()
                .filter(|it| it.probe_of == Some(probe) && !it.answered && !it.wire.is_left());
            let at_once = at_once.count();
            let allowed = self.probes_allowed.get(&service).copied().unwrap_or(0);
            if at_once >= allowed as usize {
                self.breaks(format!(
                    "{address} has {at_once} probes already, of {allowed}"
                ));
            }
        }
        if let Some(request) = self.requests.get_mut(&id) {
            request.tried.push(endpoint.runtime.id);
            request.probes.remove(&address);
            request
                .probes
                .extend(probe_of.map(|probe| (address, probe)));
        }
    }

    /// No endpoint that was tried, or is on its way out, while there is a better one.
    fn check_best(&mut self, target: &Service, endpoint: &Endpoint, id: u64, now: Timestamp) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        // The sidecar remembers the last eight.
        let from = request.tried.len().saturating_sub(8);
        let tried = &request.tried[from..];
        let balancing = &target.config.policy.load_balancing;
        // One that starts slowly comes now and then after others.
        let zones = !balancing.ignore_zones && balancing.slow_start.is_zero();
        let is_elsewhere = |it: &Endpoint| {
            let hints = &it.config.hint_zones;
            zones && !hints.is_empty() && !hints.iter().any(|zone| &**zone == control::ZONE)
        };
        let rank = |it: &Endpoint| {
            let is_tried = tried.contains(&it.runtime.id);
            (!it.config.ready, is_tried, is_elsewhere(it))
        };
        let picked = rank(endpoint);
        let list = target.endpoints(endpoint.config.port);
        let better = list.into_iter().flat_map(|list| list.iter()).find(|it| {
            let limits = &it.runtime.limits;
            let kind = crate::policy::limit::Kind::Requests;
            let is_free = limits.max(kind).is_none_or(|max| limits.in_use(kind) < max);
            let is_other = !Arc::ptr_eq(&it.runtime, &endpoint.runtime);
            let serves = it.config.ready || it.config.serving;
            is_other && serves && is_free && it.runtime.breaker.available(now) && rank(it) < picked
        });
        if let Some(better) = better {
            let (address, better) = (endpoint.config.address, better.config.address);
            self.breaks(format!(
                "request {id} goes to {address} while {better} is better"
            ));
        }
    }
}
