//! What all workers of the sidecar share about a service and about each of its
//! endpoints, and what outlives a change of their configuration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::balance::LoadMeter;
use crate::clock::{self, Timestamp};
use crate::metrics::counters::Traffic;
use crate::policy::breaker::{BreakerSet, Journal, SharedBreaker, Step};
use crate::policy::budget::RetryBudget;
use crate::policy::config::{self, ServicePolicy};
use crate::policy::hedge::Latencies;
use crate::policy::limit::{Kind, Limits, Permit};
use crate::policy::rate_limit::RateLimiter;
use crate::routes::session::SessionKey;
use crate::state::{EndpointConfig, Health};

/// Requests that may wait for a connection where `maxPendingRequests` is unset:
/// no queue is without a bound.
pub const PENDING_REQUESTS: u32 = 1024;

#[cfg(test)]
thread_local! {
    /// A simulation has ids of its own, so that a seed plays the same again.
    static NEXT_OF_THREAD: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// This thread's ids begin anew.
#[cfg(test)]
pub fn begin_anew() {
    NEXT_OF_THREAD.set(Some(1));
}

/// Tells services and endpoints apart in the workers' pools.
fn next_id() -> u64 {
    #[cfg(test)]
    if let Some(id) = NEXT_OF_THREAD.get() {
        NEXT_OF_THREAD.set(Some(id + 1));
        return id;
    }
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// Who an endpoint is, and what people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    label: String,
    port: u16,
    /// `label/uid`: a pod that takes the name of another is not it. No label
    /// contains a slash.
    name: String,
}

impl Identity {
    /// The endpoint that `config` describes.
    pub fn of(config: &EndpointConfig) -> Self {
        let label = config.display_name();
        let name = if config.pod_uid.is_empty() {
            label.clone()
        } else {
            format!("{label}/{}", config.pod_uid)
        };
        Self {
            label,
            port: config.address.port(),
            name,
        }
    }
}

impl Identity {
    fn session_key(&self) -> SessionKey {
        match self.name.split_once('/') {
            Some((_, uid)) => SessionKey::of_pod(uid),
            None => SessionKey::of_address(&self.name),
        }
    }
}

/// What people call the endpoint of this name in a breaker's journal.
pub fn label_of(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

/// Shared state of one service: limits, breakers, budget, buckets, counters.
#[derive(Debug)]
pub struct ServiceRuntime {
    /// Unique in this process.
    pub id: u64,
    /// `namespace/name`.
    pub name: Arc<str>,
    /// `circuitBreaker`'s limits over the whole service.
    pub limits: Arc<Limits>,
    /// How many retries it bears.
    pub budget: RetryBudget,
    /// What is counted.
    pub traffic: Traffic,
    /// A connection was closed while somebody waited for one.
    pub connection_freed: Notify,
    /// Its endpoints are others than before.
    pub endpoints_changed: Notify,
    /// Requests that wait for a connection, at whichever worker.
    connection_waiters: AtomicU32,
    rate_limiter: Arc<RateLimiter>,
    breakers: Breakers,
    latencies: OnceLock<Box<Latencies>>,
}

/// One set for the service's own breaker, and one for the endpoints of each
/// port, because each port needs endpoints that the floor keeps.
#[derive(Debug)]
struct Breakers {
    own: BreakerSet,
    by_port: Mutex<BTreeMap<u16, Arc<BreakerSet>>>,
    mark_only: bool,
    journal: Arc<Journal>,
}

impl ServiceRuntime {
    /// State for a service that is seen for the first time. `name` is its
    /// canonical name; `mark_only` for a pod that is reached by its own address.
    pub fn new(
        name: &str,
        policy: &ServicePolicy,
        mark_only: bool,
        journal: &Arc<Journal>,
        now: Timestamp,
    ) -> Self {
        let limiter = Arc::new(RateLimiter::new(&policy.rate_limits));
        Self::with_limiter(name, policy, mark_only, journal, limiter, now)
    }

    /// As [`Self::new`], with rate limits that several share: the ports of a pod.
    pub fn with_limiter(
        name: &str,
        policy: &ServicePolicy,
        mark_only: bool,
        journal: &Arc<Journal>,
        rate_limiter: Arc<RateLimiter>,
        now: Timestamp,
    ) -> Self {
        let trip = policy.circuit_breaker.as_ref().map(|breaker| &breaker.trip);
        Self {
            id: next_id(),
            name: name.into(),
            limits: Limits::new(&service_limits(policy)),
            budget: RetryBudget::new(&budget(policy)),
            traffic: Traffic::default(),
            connection_freed: Notify::new(),
            endpoints_changed: Notify::new(),
            connection_waiters: AtomicU32::new(0),
            rate_limiter,
            breakers: Breakers {
                own: if mark_only {
                    BreakerSet::mark_only(name, trip, Arc::clone(journal), now)
                } else {
                    BreakerSet::new(name, trip, Arc::clone(journal), now)
                },
                by_port: Mutex::default(),
                mark_only,
                journal: Arc::clone(journal),
            },
            latencies: OnceLock::new(),
        }
    }

    /// Its latencies of late; they take room only where somebody asks for them.
    pub fn latencies(&self) -> &Latencies {
        self.latencies.get_or_init(Box::default)
    }

    /// Takes over what a changed policy limits more than before, and nothing
    /// else of it: between this and the rest its endpoints change, and at no
    /// moment may more pass than the old policy or the new one lets.
    pub fn tighten(&self, policy: &ServicePolicy) {
        let new = service_limits(policy);
        let least = |kind, new: Option<u32>| match self.limits.max(kind) {
            Some(old) => Some(new.map_or(old, |new| new.min(old))),
            None => new,
        };
        self.limits.reconfigure(&config::Limits {
            max_connections: least(Kind::Connections, new.max_connections),
            max_pending_requests: least(Kind::Pending, new.max_pending_requests),
            max_requests: least(Kind::Requests, new.max_requests),
            max_retries: least(Kind::Retries, new.max_retries),
        });
    }

    /// Takes a changed policy over; what is counted stays.
    pub fn reconfigure(&self, policy: &ServicePolicy, now: Timestamp) {
        let trip = policy.circuit_breaker.as_ref().map(|breaker| &breaker.trip);
        self.limits.reconfigure(&service_limits(policy));
        self.budget.reconfigure(&budget(policy), now);
        self.rate_limiter.reconfigure(&policy.rate_limits, now);
        self.breakers.own.reconfigure(trip, now);
        for set in self.breakers.by_port.lock().values() {
            set.reconfigure(trip, now);
        }
        // Those who wait look again: there may be more places now.
        self.connection_freed.notify_waiters();
    }

    /// Rate limits: for a service those with `enforcedAt: Caller`.
    pub fn rate_limiter(&self) -> &RateLimiter {
        &self.rate_limiter
    }

    /// The service's own breaker, which passes everything but with `scope: Service`.
    pub fn service_breaker(&self) -> &Arc<SharedBreaker> {
        self.breakers.own.service()
    }

    /// What all breakers of the service have done, its own and its endpoints'.
    pub fn breaker_steps(&self) -> Vec<(Step, u64)> {
        let mut all = self.breakers.own.steps();
        for (step, count) in self
            .breakers
            .by_port
            .lock()
            .values()
            .flat_map(|it| it.steps())
        {
            match all.iter_mut().find(|(known, _)| *known == step) {
                Some((_, held)) => *held += count,
                None => all.push((step, count)),
            }
        }
        all
    }

    /// The endpoints that may be picked, by target port: the floor counts these.
    pub fn set_members(&self, members: &BTreeMap<u16, Vec<Identity>>, now: Timestamp) {
        for (port, set) in self.breakers.by_port.lock().iter() {
            let members = members.get(port).map(Vec::as_slice).unwrap_or_default();
            set.set_members(members.iter().map(|member| member.name.as_str()), now);
        }
    }

    /// What `look` finds: it is asked now, after each change of the endpoints, and once
    /// more at `ends`.
    pub async fn look_until<T>(
        &self,
        ends: Timestamp,
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        loop {
            // Asked for before the look, so that no change is missed.
            let changed = self.endpoints_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = clock::now();
            let found = look();
            if found.is_some() || now >= ends {
                return found;
            }
            tokio::select! {
                // In an order that chance has no part in, so that it can be played again.
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(clock::instant(ends)) => {}
            }
        }
    }

    /// Whether a request waits for a connection. Not everybody who is pending does:
    /// some wait for an endpoint, and a connection that is closed for them helps nobody.
    pub fn somebody_waits(&self) -> bool {
        self.connection_waiters.load(Ordering::SeqCst) > 0
    }

    fn breaker(
        &self,
        identity: &Identity,
        policy: &ServicePolicy,
        now: Timestamp,
    ) -> Arc<SharedBreaker> {
        let trip = policy.circuit_breaker.as_ref().map(|breaker| &breaker.trip);
        let Breakers {
            by_port,
            mark_only,
            journal,
            ..
        } = &self.breakers;
        let mut by_port = by_port.lock();
        let set = by_port.entry(identity.port).or_insert_with(|| {
            let journal = Arc::clone(journal);
            Arc::new(if *mark_only {
                BreakerSet::mark_only(&self.name, trip, journal, now)
            } else {
                BreakerSet::new(&self.name, trip, journal, now)
            })
        });
        set.endpoint(&identity.name, now)
    }
}

fn service_limits(policy: &ServicePolicy) -> config::Limits {
    let mut limits = policy
        .circuit_breaker
        .as_ref()
        .map(|breaker| breaker.limits)
        .unwrap_or_default();
    limits.max_pending_requests.get_or_insert(PENDING_REQUESTS);
    limits
}

fn budget(policy: &ServicePolicy) -> config::RetryBudget {
    policy
        .retries
        .as_ref()
        .map(|retries| retries.budget)
        .unwrap_or_default()
}

/// Shared state of one endpoint: its breaker, limits and load.
#[derive(Debug)]
pub struct EndpointRuntime {
    /// Unique in this process.
    pub id: u64,
    /// Its pod, or its address.
    pub name: Arc<str>,
    /// `circuitBreaker.perEndpoint`.
    pub limits: Arc<Limits>,
    /// Its breaker.
    pub breaker: Arc<SharedBreaker>,
    /// How loaded it seems.
    pub load: Arc<LoadMeter>,
    /// What sessions with it are known by.
    pub session_key: SessionKey,
    /// What our own probes say of it, see [`Self::probed`].
    probed: AtomicU8,
    /// Attempts so far.
    pub attempts: AtomicU64,
    /// Attempts that failed, as the policy counts failures.
    pub failures: AtomicU64,
    /// Nanoseconds; when it became ready beside others. Zero: it was there first.
    started: AtomicU64,
}

/// The share of an endpoint that has just become ready.
const UNRIPE: f64 = 0.1;

impl EndpointRuntime {
    /// State for an endpoint that is seen for the first time.
    pub fn new(
        service: &ServiceRuntime,
        policy: &ServicePolicy,
        identity: Identity,
        now: Timestamp,
    ) -> Self {
        Self {
            id: next_id(),
            limits: Limits::new(&endpoint_limits(policy)),
            breaker: service.breaker(&identity, policy, now),
            session_key: identity.session_key(),
            name: identity.label.into(),
            load: LoadMeter::new(),
            probed: AtomicU8::new(0),
            attempts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }

    /// It has become ready, where others were already: it starts slowly, if the
    /// policy says so.
    pub fn start(&self, now: Timestamp) {
        self.started.store(now.as_nanos().max(1), Relaxed);
    }

    /// When it has its whole share.
    pub fn ripe_at(&self, slow_start: Duration) -> Timestamp {
        match self.started.load(Relaxed) {
            0 => Timestamp::default(),
            started => Timestamp::from_nanos(started).after(slow_start),
        }
    }

    /// Which part of its share it has.
    pub fn ripeness(&self, slow_start: Duration, now: Timestamp) -> f64 {
        let started = self.started.load(Relaxed);
        let age = now.since(Timestamp::from_nanos(started));
        if started == 0 || age >= slow_start {
            return 1.0;
        }
        UNRIPE + (1.0 - UNRIPE) * age.as_secs_f64() / slow_start.as_secs_f64()
    }

    /// What our own probes say of it, where it has no sidecar to do that.
    pub fn probed(&self) -> Health {
        match self.probed.load(Relaxed) {
            1 => Health::Healthy,
            2 => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    /// A probe of ours has ended.
    pub fn set_probed(&self, health: Health) {
        let figure = match health {
            Health::Unknown => 0,
            Health::Healthy => 1,
            Health::Unhealthy => 2,
        };
        self.probed.store(figure, Relaxed);
    }

    /// The pod's own application, behind one of its ports.
    pub fn application(service: &ServiceRuntime) -> Self {
        let identity = Identity {
            label: "application".into(),
            port: 0,
            name: "application".into(),
        };
        Self::new(service, &ServicePolicy::default(), identity, clock::now())
    }

    /// Takes a changed policy over; what is in use stays.
    pub fn reconfigure(&self, policy: &ServicePolicy) {
        self.limits.reconfigure(&endpoint_limits(policy));
    }
}

fn endpoint_limits(policy: &ServicePolicy) -> config::Limits {
    policy
        .circuit_breaker
        .as_ref()
        .map(|breaker| breaker.per_endpoint)
        .unwrap_or_default()
}

/// One request that waits for a connection, for as long as it lives.
#[derive(Debug)]
pub struct ConnectionWaiter<'a>(&'a ServiceRuntime);

impl<'a> ConnectionWaiter<'a> {
    /// It begins to wait.
    pub fn new(service: &'a ServiceRuntime) -> Self {
        service.connection_waiters.fetch_add(1, Ordering::SeqCst);
        Self(service)
    }
}

impl Drop for ConnectionWaiter<'_> {
    fn drop(&mut self) {
        self.0.connection_waiters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What an open connection holds of its service's and its endpoint's limits.
#[derive(Debug)]
pub struct ConnectionPermits {
    /// Dropped before anyone is told.
    held: Option<(Permit, Permit)>,
    service: Arc<ServiceRuntime>,
}

impl ConnectionPermits {
    /// Takes both, or neither.
    pub fn try_acquire(service: &Arc<ServiceRuntime>, endpoint: &EndpointRuntime) -> Option<Self> {
        let of_service = service.limits.try_acquire(Kind::Connections)?;
        let of_endpoint = endpoint.limits.try_acquire(Kind::Connections)?;
        Some(Self {
            held: Some((of_service, of_endpoint)),
            service: Arc::clone(service),
        })
    }
}

impl ConnectionPermits {
    /// Whether a request waits for such permits.
    pub fn somebody_waits(&self) -> bool {
        self.service.somebody_waits()
    }
}

impl Drop for ConnectionPermits {
    fn drop(&mut self) {
        self.held = None;
        if self.service.somebody_waits() {
            self.service.connection_freed.notify_one();
        }
    }
}
