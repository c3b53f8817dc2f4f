//! What must hold whenever somebody looks, and at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use remora_proto::v1;

use super::SERVICES;
use super::book;
use super::control;
use super::network::Mood;
use super::settings::{self, BUDGET_WINDOW_MS};
use super::world::World;
use crate::clock::{self, Timestamp};
use crate::metrics::counters::RetryOutcome;
use crate::policy::breaker::State;
use crate::policy::limit::{Kind, Limits};
use crate::state::Service;

/// Timers of tokio have a resolution of 1 ms.
const GRAIN: Duration = Duration::from_millis(2);

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct Books {
    /// By service, or endpoint of it, and kind: what was in use at the last look.
    in_use: BTreeMap<(u64, &'static str), u32>,
    /// By service: when retries were counted, as the moments of the looks around it.
    retries: [Vec<(Timestamp, u64)>; SERVICES],
    counted: [u64; SERVICES],
    looked: Timestamp,
    /// By service: its budgets, and since when.
    budgets: [Vec<(Timestamp, u32, u32)>; SERVICES],
    /// By service: its rate limit, since when, and after which request.
    rate_limits: [Vec<(Timestamp, u64, Option<v1::RateLimit>)>; SERVICES],
}

impl World {
    /// Just before a service's policy changes.
    pub fn before_change(&mut self, service: usize) {
        if let Some(service) = self.control.service(service) {
            self.check_limits(&service);
        }
    }

    /// Just after it.
    pub fn after_change(&mut self, service: usize) {
        let now = clock::now();
        let policy = &self.control.policies[service];
        let budget = policy.retries.as_ref().and_then(|it| it.budget);
        // Without a block only requests of before are retried, by the default budget:
        // of its ten seconds all may come in one window of the others.
        let budget = budget.map_or((20, 50), |it| (it.percent, it.min_per_second));
        self.books.budgets[service].push((now, budget.0, budget.1));
        let limit = policy.rate_limits.first().cloned();
        let last = book::with(|book| book.last_request);
        self.books.rate_limits[service].push((now, last, limit));
        let trip = policy
            .circuit_breaker
            .as_ref()
            .and_then(|it| it.trip.as_ref());
        let probes = trip.map_or(0, |trip| trip.probes);
        book::with(|book| {
            book.probes_allowed.insert(service, probes);
            book.trips(service, trip);
        });
    }

    /// Between any two events of the driver.
    pub fn check(&mut self) {
        for number in 0..SERVICES {
            let Some(service) = self.control.service(number) else {
                continue;
            };
            self.check_limits(&service);
            self.check_truth(number, &service);
            self.check_floor(&service);
            self.check_budget(number, &service);
        }
        self.check_deadlines();
        self.books.looked = clock::now();
    }

    /// What is in use never rises above the limit.
    fn check_limits(&mut self, service: &Service) {
        let endpoints = service
            .all_endpoints()
            .map(|it| (it.runtime.id, &it.runtime.limits));
        let all: Vec<(u64, &Arc<Limits>)> = endpoints
            .chain([(service.runtime.id, &service.runtime.limits)])
            .collect();
        for (id, limits) in all {
            for kind in Kind::ALL {
                let now = limits.in_use(kind);
                let before = self
                    .books
                    .in_use
                    .insert((id, kind.as_str()), now)
                    .unwrap_or(0);
                if now > limits.max(kind).unwrap_or(u32::MAX).max(before) {
                    let what = format!(
                        "{} of {}: {now} {}, {before} before, at most {:?}",
                        id,
                        service.name,
                        kind.as_str(),
                        limits.max(kind)
                    );
                    book::with(|book| book.breaks(what));
                }
            }
        }
    }

    /// What applications really have is not more than what is counted.
    fn check_truth(&self, number: usize, service: &Service) {
        // A request with a hedge is one, and its attempts are two; the hedge is counted
        // as a retry, of the service that was called.
        let all = (0..SERVICES).filter_map(|it| self.control.service(it));
        let hedges: u32 = all.map(|it| it.runtime.limits.in_use(Kind::Retries)).sum();
        book::with(|book| {
            let mut broken = Vec::new();
            let mut compare = |what: String, truth: usize, counted: u32| {
                if truth > counted as usize {
                    broken.push(format!("{what}: {truth} in truth, {counted} are counted"));
                }
            };
            let is_of = |address: &std::net::SocketAddr| match address.ip() {
                std::net::IpAddr::V4(ip) => usize::from(ip.octets()[2]) == number,
                std::net::IpAddr::V6(_) => false,
            };
            let limits = &service.runtime.limits;
            let open = |at: &&super::book::Exchange| !at.wire.is_left();
            let requests = book.exchanges.values().filter(open);
            let requests = requests.filter(|it| is_of(&it.address)).count();
            compare(
                format!("requests of {}", service.name),
                requests,
                limits.in_use(Kind::Requests) + hedges,
            );
            let connections = book.connections.iter();
            let connections = connections
                .filter(|(at, wire)| is_of(at) && !wire.is_left())
                .count();
            let counted = limits.in_use(Kind::Connections);
            compare(
                format!("connections of {}", service.name),
                connections,
                counted,
            );
            for endpoint in service.all_endpoints() {
                let address = endpoint.config.address;
                let limits = &endpoint.runtime.limits;
                let here = book.exchanges.values().filter(open);
                let here = here.filter(|it| it.address == address).count();
                compare(
                    format!("requests of {address}"),
                    here,
                    limits.in_use(Kind::Requests),
                );
                let open = book.connections.iter();
                let open = open
                    .filter(|(at, wire)| *at == address && !wire.is_left())
                    .count();
                compare(
                    format!("connections of {address}"),
                    open,
                    limits.in_use(Kind::Connections),
                );
            }
            for broken in broken {
                book.breaks(broken);
            }
        });
    }

    /// Never more endpoints are out than the floor allows.
    fn check_floor(&self, service: &Service) {
        let breaker = service.config.policy.circuit_breaker.as_ref();
        let now = clock::now();
        let listed: Vec<_> = service
            .all_endpoints()
            .filter(|it| it.config.ready || it.config.serving)
            .collect();
        let is_out = |state| matches!(state, State::Open | State::HalfOpen);
        let out = listed
            .iter()
            .filter(|it| is_out(it.runtime.breaker.describe(now).state));
        let out = out.count();
        let allowed = breaker.map_or(0, |breaker| {
            let share = listed.len() * breaker.trip.max_ejected_percent as usize / 100;
            share.min(
                listed
                    .len()
                    .saturating_sub(breaker.trip.min_endpoints.max(1) as usize),
            )
        });
        if out > allowed {
            let what = format!("{out} of {} of {} are out", listed.len(), service.name);
            book::with(|book| book.breaks(what));
        }
    }

    /// In no window more retries than the budget has. A retry lies somewhere between
    /// two looks: it is counted where that is to the budget's advantage.
    fn check_budget(&mut self, number: usize, service: &Service) {
        let now = clock::now();
        let traffic = &service.runtime.traffic;
        let counted = traffic.retries.load(Relaxed) + traffic.hedges.load(Relaxed);
        let books = &mut self.books;
        let new = counted - std::mem::replace(&mut books.counted[number], counted);
        if new == 0 {
            return;
        }
        books.retries[number].push((books.looked, new));
        let window = Duration::from_millis(BUDGET_WINDOW_MS);
        let retries = books.retries[number].iter().rev();
        let retries: u64 = retries
            .take_while(|(at, _)| now.since(*at) < window)
            .map(|(_, count)| count)
            .sum();
        // A request is counted once its fault has let it go.
        let delay = Duration::from_millis(settings::MAX_DELAY_MS);
        let span = window + now.since(books.looked) + delay + GRAIN;
        // The most generous of those that were in force.
        let (mut percent, mut minimum) = (0, 0);
        for (since, of_this, least) in books.budgets[number].iter().rev() {
            (percent, minimum) = (percent.max(*of_this), minimum.max(*least));
            if now.since(*since) > span {
                break;
            }
        }
        let requests = book::with(|book| {
            let all = book.requests.values().filter(|it| it.service == number);
            all.filter(|it| now.since(it.started) <= span).count() as u64
        });
        let share = requests * u64::from(percent) / 100;
        let allowed = share.max(u64::from(minimum) * BUDGET_WINDOW_MS / 1_000);
        if retries > allowed {
            let what = format!(
                "{retries} retries of {} in a window, {allowed} allowed",
                service.name
            );
            book::with(|book| book.breaks(what));
        }
    }

    /// No attempt outlives its request.
    fn check_deadlines(&self) {
        let now = clock::now();
        book::with(|book| {
            let late = book.exchanges.values().find(|exchange| {
                let request = &book.requests[&exchange.request];
                let end = request.timeout_ms.map(Duration::from_millis);
                let end = end.map(|span| request.started.after(span + GRAIN));
                let is_late = end.is_some_and(|end| end < now) && !exchange.wire.is_left();
                is_late && !exchange.is_fallback
            });
            if let Some(late) = late.map(|it| (it.request, it.address)) {
                book.breaks(format!(
                    "request {} outlives its time at {}",
                    late.0, late.1
                ));
            }
        });
    }

    /// When all is well, everything is answered.
    pub async fn check_recovery(&mut self) {
        for (at, application) in &self.applications {
            if self.control.pods.contains_key(at) {
                application.mood.set(Mood::Well);
            }
        }
        for service in 0..SERVICES {
            self.put_policy(service, settings::generous());
            for pod in self.pods_of(service) {
                let mut told = self.control.pods[&(service, pod)];
                (told.ready, told.serving) = (true, true);
                self.control.put_pod(service, pod, Some(told));
            }
        }
        let is_empty = (0..SERVICES).any(|service| self.pods_of(service).is_empty());
        let failed = |book: &book::Book| {
            let good = ["answered", "cancelled", "delivered", "picked", "sent again"];
            let bad = book.counts.iter().filter(|(what, _)| !good.contains(what));
            bad.map(|(_, count)| count).sum::<u64>()
        };
        let before = book::with(|book| failed(book));
        for _ in 0..15 {
            self.pass(Duration::from_millis(20)).await;
            self.arrive();
        }
        self.pass(Duration::from_secs(15)).await;
        let after = book::with(|book| failed(book));
        if after > before && !is_empty {
            book::with(|book| book.breaks(format!("{} failed when all was well", after - before)));
        }
    }

    /// Nobody holds anything any more, and nothing was let pass that should not be.
    pub fn check_rest(&mut self) {
        for number in 0..SERVICES {
            let Some(service) = self.control.service(number) else {
                continue;
            };
            let mut held = Vec::new();
            let endpoints = service.all_endpoints().map(|it| &it.runtime.limits);
            for limits in endpoints.chain([&service.runtime.limits]) {
                held.extend(Kind::ALL.map(|kind| limits.in_use(kind)));
            }
            held.extend(
                service
                    .all_endpoints()
                    .map(|it| it.runtime.load.in_flight()),
            );
            if held.iter().any(|count| *count > 0) {
                let what = format!("{} still holds {held:?}", service.name);
                book::with(|book| book.breaks(what));
            }
            self.check_rate_limits(number);
            let traffic = &service.runtime.traffic;
            let happened = [
                ("retries", &traffic.retries),
                ("resends", &traffic.resends),
                ("hedges", &traffic.hedges),
                ("waited for endpoints", &traffic.found_after_wait),
            ];
            for (what, count) in happened {
                let count = count.load(Relaxed);
                book::with(|book| *book.counts.entry(what).or_default() += count);
            }
            self.check_told(number);
            let exhausted = traffic.retry_outcomes.total(RetryOutcome::BudgetExhausted);
            book::with(|book| *book.counts.entry("budget exhausted").or_default() += exhausted);
        }
        book::with(|book| {
            let open = book.requests.values().filter(|it| it.is_open).count();
            if open > 0 {
                book.breaks(format!("{open} requests were never ended"));
            }
        });
    }

    /// Breakers are told of attempts that were made, and of no more good ends than there
    /// were good answers: a fault, or a fallback, is nobody's.
    fn check_told(&self, number: usize) {
        book::with(|book| {
            let mut broken = Vec::new();
            for pod in 1..=u8::MAX {
                let Some((told, good)) = book.rates.told.get(&control::pod_name(number, pod))
                else {
                    continue;
                };
                let of = |counts: &BTreeMap<_, u64>| {
                    let count = counts.get(&control::address(number, pod));
                    count.copied().unwrap_or(0)
                };
                let (picks, well) = (of(&book.picks), of(&book.well));
                if *told > picks || *good > well {
                    broken.push(format!(
                        "{told} ends of {picks} attempts, {good} good ones of {well}, at {number}/{pod}"
                    ));
                }
            }
            broken.into_iter().for_each(|what| book.breaks(what));
        });
    }

    /// A naive bucket gives no less than what was let pass.
    fn check_rate_limits(&self, number: usize) {
        let requests: Vec<(u64, Timestamp, u8)> = book::with(|book| {
            let passed = book.requests.iter();
            let passed = passed.filter(|(_, it)| it.service == number && it.admitted == Some(true));
            passed.map(|(id, it)| (*id, it.started, it.user)).collect()
        });
        let mut bucket = Bucket::default();
        let mut changes = self.books.rate_limits[number].iter().peekable();
        for (id, at, user) in requests {
            while let Some((since, _, limit)) = changes.next_if(|(_, after, _)| *after < id) {
                bucket.change(limit.as_ref(), *since);
            }
            if let Some(over) = bucket.take(at, user) {
                let name = control::name(number);
                let what = format!("{over} too many for the rate limit of {name} at {at:?}");
                return book::with(|book| book.breaks(what));
            }
        }
    }
}

/// A bucket of tokens for each user, or one for all.
#[derive(Debug, Default)]
struct Bucket {
    limit: Option<v1::RateLimit>,
    tokens: BTreeMap<u8, f64>,
    at: Timestamp,
}

impl Bucket {
    fn change(&mut self, limit: Option<&v1::RateLimit>, now: Timestamp) {
        self.fill(now);
        let is_same = |old: &v1::RateLimit, new: &v1::RateLimit| old.name == new.name;
        let known = match (&self.limit, limit) {
            (Some(old), Some(new)) => is_same(old, new),
            _ => false,
        };
        self.limit = limit.cloned();
        let burst = limit.map_or(0.0, |it| f64::from(it.burst));
        if !known {
            self.tokens = (0..4).map(|user| (user, burst)).collect();
        }
        self.tokens
            .values_mut()
            .for_each(|tokens| *tokens = tokens.min(burst));
    }

    fn fill(&mut self, now: Timestamp) {
        if let Some(limit) = &self.limit {
            let rate = f64::from(limit.requests) * 1_000.0 / limit.per_ms as f64;
            let gained = now.since(self.at).as_secs_f64() * rate;
            for tokens in self.tokens.values_mut() {
                *tokens = (*tokens + gained).min(f64::from(limit.burst));
            }
        }
        self.at = now;
    }

    /// By how much it is overdrawn.
    fn take(&mut self, now: Timestamp, user: u8) -> Option<f64> {
        self.fill(now);
        let limit = self.limit.as_ref()?;
        let user = if limit.key.is_empty() { 0 } else { user };
        let tokens = self.tokens.get_mut(&user)?;
        *tokens -= 1.0;
        (*tokens < -1e-3).then_some(-*tokens)
    }
}
