//! What all workers share about the rules of a Service, and what of it outlives
//! a change of the routes: a rule is the same while its route's name is, and its
//! own name or else its place in the route.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use super::config::{BackendReference, Filter, Mirror, PortRoutes, Rule};
use super::index::Found;
use super::request::View;
use crate::clock::Timestamp;
use crate::policy::budget::RetryBudget;
use crate::policy::config::RetryBudget as BudgetConfig;
use crate::policy::limit::Limits;
use crate::policy::rate_limit::RateLimiter;

/// What becomes of mirrored requests, in the order of [`MirrorResult`].
const MIRROR_RESULTS: usize = 5;

/// What became of a mirrored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MirrorResult {
    /// It was answered, whatever the answer.
    Answered,
    /// No answer came, or there was nobody to send it to.
    Failed,
    /// It could not follow the caller's body.
    Lagged,
    /// It took too long.
    TimedOut,
    /// Too many were under way.
    Dropped,
}

impl MirrorResult {
    /// Every result.
    pub const ALL: [Self; MIRROR_RESULTS] = [
        Self::Answered,
        Self::Failed,
        Self::Lagged,
        Self::TimedOut,
        Self::Dropped,
    ];

    /// The word for it in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Lagged => "lagged",
            Self::TimedOut => "timed_out",
            Self::Dropped => "dropped",
        }
    }
}

/// What is counted of a rule's requests to one backend, and of its mirrors there.
#[derive(Debug)]
pub struct BackendCounters {
    /// `namespace/name:port`; empty: for no backend.
    pub name: Arc<str>,
    classes: [AtomicU64; 5],
    mirrors: [AtomicU64; MIRROR_RESULTS],
}

impl BackendCounters {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            classes: Default::default(),
            mirrors: Default::default(),
        })
    }

    /// Counts an answer, the upstream's or ours.
    pub fn answered(&self, status: StatusCode) {
        let class = (status.as_u16() / 100).clamp(1, 5) as usize - 1;
        self.classes[class].fetch_add(1, Relaxed);
    }

    /// Counts a mirrored request.
    pub fn mirrored(&self, result: MirrorResult) {
        self.mirrors[result as usize].fetch_add(1, Relaxed);
    }

    /// Answers by class of status, from 1xx.
    pub fn classes(&self) -> [u64; 5] {
        std::array::from_fn(|class| self.classes[class].load(Relaxed))
    }

    /// Mirrored requests with this result.
    pub fn mirrors(&self, result: MirrorResult) -> u64 {
        self.mirrors[result as usize].load(Relaxed)
    }
}

/// Shared state of one rule.
#[derive(Debug)]
pub struct RuleRuntime {
    /// `maxRequests` and `maxRetries` of the rule alone.
    pub limits: Arc<Limits>,
    /// The rule's own rate limits, where it has any.
    pub rate_limiter: RateLimiter,
    /// How many retries it bears, where its policy gives it another budget than the service's.
    pub budget: RetryBudget,
}

impl RuleRuntime {
    fn new(rule: &Rule) -> Self {
        Self {
            limits: Limits::new(&rule.limits),
            rate_limiter: RateLimiter::new(rule.rate_limits.as_deref().unwrap_or_default()),
            budget: RetryBudget::new(&budget(rule)),
        }
    }

    fn reconfigure(&self, rule: &Rule, now: Timestamp) {
        self.limits.reconfigure(&rule.limits);
        let limits = rule.rate_limits.as_deref().unwrap_or_default();
        self.rate_limiter.reconfigure(limits, now);
        self.budget.reconfigure(&budget(rule), now);
    }
}

fn budget(rule: &Rule) -> BudgetConfig {
    let retries = rule.retries.as_ref();
    retries.map(|retries| retries.budget).unwrap_or_default()
}

/// A rule, as the workers get it.
#[derive(Debug)]
pub struct RoutedRule {
    /// What it says.
    pub config: Arc<Rule>,
    /// Its route: `namespace/name`.
    pub route: Arc<str>,
    /// Its name, or its place.
    pub label: Arc<str>,
    /// What is shared about it.
    pub runtime: Arc<RuleRuntime>,
    /// Of each backend, in their order.
    pub backends: Vec<Arc<BackendCounters>>,
    /// Of requests that went to none.
    pub nowhere: Arc<BackendCounters>,
    mirrors: Vec<Arc<BackendCounters>>,
    total_weight: u64,
}

impl RoutedRule {
    /// The place of the backend that a random number chooses: each by its share of
    /// all weights. `None` where nothing has a weight.
    pub fn choose(&self, random: u64) -> Option<usize> {
        // Exact but for a share of 2^-44, as no sum of weights has more than 25 bits.
        let mut at = (u128::from(random) * u128::from(self.total_weight)) >> 64;
        self.config.backends.iter().position(|backend| {
            let weight = u128::from(backend.weight);
            let is_it = at < weight;
            at = at.wrapping_sub(weight);
            is_it
        })
    }

    /// What is counted for a mirror.
    pub fn mirror_counters(&self, mirror: &Mirror) -> &Arc<BackendCounters> {
        let name = counter_name(&mirror.backend);
        let found = self.mirrors.iter().find(|counters| *counters.name == *name);
        found.unwrap_or(&self.nowhere)
    }

    /// Everything that is counted for it; a backend may be both.
    pub fn counters(&self) -> impl Iterator<Item = &Arc<BackendCounters>> {
        let mut seen: Vec<&str> = Vec::new();
        let all = self
            .backends
            .iter()
            .chain([&self.nowhere])
            .chain(&self.mirrors);
        all.filter(move |counters| {
            let is_new = !seen.contains(&&*counters.name);
            seen.push(&counters.name);
            is_new
        })
    }
}

/// The routes of some ports, as the workers get them.
#[derive(Debug)]
pub struct PortRouting {
    /// What they say.
    pub config: Arc<PortRoutes>,
    rules: Vec<Arc<RoutedRule>>,
}

impl PortRouting {
    /// The rule that a request takes, and by which of its matches.
    pub fn find(&self, view: &View<'_>) -> Option<(&Arc<RoutedRule>, Found)> {
        let found = self.config.find(view)?;
        Some((&self.rules[found.rule], found))
    }

    /// All of its rules.
    pub fn rules(&self) -> &[Arc<RoutedRule>] {
        &self.rules
    }
}

/// All routes of a Service, as the workers get them.
#[derive(Debug)]
pub struct Routing {
    ports: Vec<PortRouting>,
}

impl Routing {
    /// The routes of a port; none: requests go to the port's own endpoints.
    pub fn at(&self, port: u16) -> Option<&PortRouting> {
        let has = |routing: &&PortRouting| routing.config.ports.binary_search(&port).is_ok();
        self.ports.iter().find(has)
    }

    /// All of them.
    pub fn ports(&self) -> &[PortRouting] {
        &self.ports
    }
}

/// The rules of one Service, as the control thread holds them.
#[derive(Debug, Default)]
pub struct RuleStates {
    rules: HashMap<Key, State>,
}

/// What makes a rule the same one again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: String,
    route: String,
    name: String,
    /// Of a rule without a name; another's name may be a number too.
    place: Option<u32>,
}

#[derive(Debug)]
struct State {
    runtime: Arc<RuleRuntime>,
    counters: HashMap<String, Arc<BackendCounters>>,
}

impl RuleStates {
    /// Takes other routes over; what is counted of the same rule stays.
    pub fn reconfigure(
        &mut self,
        routes: &[Arc<PortRoutes>],
        now: Timestamp,
    ) -> Option<Arc<Routing>> {
        let mut old = std::mem::take(&mut self.rules);
        if routes.is_empty() {
            return None;
        }
        let ports = routes.iter().map(|config| PortRouting {
            rules: config
                .rules
                .iter()
                .map(|rule| Arc::new(self.rule(&mut old, rule, now)))
                .collect(),
            config: Arc::clone(config),
        });
        let ports = ports.collect();
        for state in self.rules.values_mut() {
            // Of backends that no rule leads to, and no request goes to any more.
            let is_used = |counters: &Arc<BackendCounters>| Arc::strong_count(counters) > 1;
            state.counters.retain(|_, counters| is_used(counters));
        }
        Some(Arc::new(Routing { ports }))
    }

    fn rule(
        &mut self,
        old: &mut HashMap<Key, State>,
        rule: &Arc<Rule>,
        now: Timestamp,
    ) -> RoutedRule {
        let route = format!("{}/{}", rule.route.namespace, rule.route.name);
        let key = Key {
            kind: rule.route.kind.clone(),
            route: route.clone(),
            name: rule.route.rule_name.clone(),
            place: Some(rule.route.rule).filter(|_| rule.route.rule_name.is_empty()),
        };
        // A route on several ports has each of its rules once.
        let state = self.rules.entry(key.clone()).or_insert_with(|| {
            let known = old
                .remove(&key)
                .inspect(|state| state.runtime.reconfigure(rule, now));
            known.unwrap_or_else(|| State {
                runtime: Arc::new(RuleRuntime::new(rule)),
                counters: HashMap::new(),
            })
        });
        let mut counters = |name: String| {
            let known = state.counters.entry(name);
            let counters = known.or_insert_with_key(|name| BackendCounters::new(name));
            Arc::clone(counters)
        };
        let filters = rule.backends.iter().flat_map(|backend| &backend.filters);
        let mirrors = rule
            .filters
            .iter()
            .chain(filters)
            .filter_map(|filter| match filter {
                Filter::Mirror(mirror) => Some(counters(counter_name(&mirror.backend))),
                _ => None,
            });
        let mirrors = mirrors.collect();
        let backends = rule
            .backends
            .iter()
            .map(|backend| counters(counter_name(&backend.to)));
        RoutedRule {
            backends: backends.collect(),
            nowhere: counters(String::new()),
            mirrors,
            total_weight: rule
                .backends
                .iter()
                .map(|backend| u64::from(backend.weight))
                .sum(),
            config: Arc::clone(rule),
            route: route.into(),
            label: rule.route.rule_label().into(),
            runtime: Arc::clone(&state.runtime),
        }
    }
}

/// `namespace/name:port`.
fn counter_name(backend: &BackendReference) -> String {
    format!("{}:{}", backend.service, backend.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::limit::Kind;
    use crate::routes::config::{Backend, RouteReference};

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn routes(names: &[&str], weights: &[u32]) -> Arc<PortRoutes> {
        let backends: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(at, weight)| Backend {
                to: BackendReference {
                    service: format!("shop/v{at}").into(),
                    port: 80,
                    cannot: None,
                },
                weight: *weight,
                filters: Vec::new(),
            })
            .collect();
        let rules = names.iter().enumerate().map(|(at, name)| Rule {
            route: RouteReference {
                name: "split".into(),
                rule: at as u32,
                rule_name: (*name).into(),
                ..RouteReference::default()
            },
            backends: backends.clone(),
            ..Rule::default()
        });
        Arc::new(PortRoutes::new(vec![80], false, rules.collect()))
    }

    #[test]
    fn each_backend_gets_its_share_and_a_weight_of_zero_nothing() {
        let mut states = RuleStates::default();
        let routing = states
            .reconfigure(&[routes(&["a"], &[0, 9, 1, 0])], NOW)
            .unwrap();
        let rule = &routing.at(80).unwrap().rules()[0];
        assert_eq!((rule.choose(0), rule.choose(u64::MAX)), (Some(1), Some(2)));
        let mut counts = [0; 4];
        const STEPS: u64 = 10_000;
        for step in 0..STEPS {
            counts[rule.choose(step * (u64::MAX / STEPS)).unwrap()] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!((8_999..=9_001).contains(&counts[1]), "{counts:?}");
        let none = states.reconfigure(&[routes(&["a"], &[0, 0])], NOW).unwrap();
        assert_eq!(none.at(80).unwrap().rules()[0].choose(7), None);
        assert!(routing.at(81).is_none());
    }

    #[test]
    fn what_is_counted_of_a_rule_outlives_a_change_of_the_routes() {
        let mut states = RuleStates::default();
        let before = states
            .reconfigure(&[routes(&["a", ""], &[1])], NOW)
            .unwrap();
        let before = before.at(80).unwrap().rules();
        let held = before[0].runtime.limits.try_acquire(Kind::Requests);
        before[0].backends[0].answered(StatusCode::OK);
        // The first is named, and goes to another place; the other is by its place.
        let after = states
            .reconfigure(&[routes(&["b", "", "a"], &[2, 3])], NOW)
            .unwrap();
        let after = after.at(80).unwrap().rules();
        assert!(Arc::ptr_eq(&after[2].runtime, &before[0].runtime));
        assert!(Arc::ptr_eq(&after[1].runtime, &before[1].runtime));
        assert_eq!(after[2].runtime.limits.in_use(Kind::Requests), 1);
        assert_eq!(after[2].backends[0].classes(), [0, 1, 0, 0, 0]);
        assert_eq!(after[0].runtime.limits.in_use(Kind::Requests), 0);
        drop(held);
        assert!(states.reconfigure(&[], NOW).is_none());
    }

    #[test]
    fn a_rule_named_as_anothers_place_shares_nothing_with_it() {
        let mut states = RuleStates::default();
        let routing = states.reconfigure(&[routes(&["1", ""], &[1])], NOW);
        let routing = routing.unwrap();
        let rules = routing.at(80).unwrap().rules();
        assert!(!Arc::ptr_eq(&rules[0].runtime, &rules[1].runtime));
        assert!(!Arc::ptr_eq(&rules[0].nowhere, &rules[1].nowhere));
        // Two counters of the same labels would be no metrics.
        assert_eq!((&*rules[0].label, &*rules[1].label), ("name:1", "1"));
    }

    #[test]
    fn what_was_counted_of_backends_that_are_gone_goes_too() {
        let mut states = RuleStates::default();
        for release in 0..10 {
            let mut changed = (*routes(&["a"], &[1])).clone();
            let mut rule = (*changed.rules[0]).clone();
            rule.backends[0].to.service = format!("shop/release-{release}").into();
            changed.rules = vec![Arc::new(rule)];
            let _ = states.reconfigure(&[Arc::new(changed)], NOW).unwrap();
        }
        let counters = states.rules.values().map(|state| state.counters.len());
        assert!(
            counters.max().unwrap() <= 3,
            "the last, the one before, and nowhere"
        );
    }
}
