//! What the live view shows, as plain data: anything can make one, and a test does.

use std::collections::VecDeque;

/// How a pod is, for the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// On its way, or on purpose.
    Notice,
    /// Not as it should be.
    Bad,
    /// Of no weight.
    Quiet,
}

/// A pod's row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Its state in a word or two.
    pub state: String,
    /// How that is.
    pub tone: Option<Tone>,
    /// Requests per second.
    pub requests: f64,
    /// Median latency.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Failures per second.
    pub failures: f64,
    /// Its retries per second towards others.
    pub retries: f64,
    /// Requests refused by limits per second.
    pub limited: f64,
}

/// A breaker that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerRow {
    /// Who keeps away.
    pub caller: String,
    /// From whom.
    pub endpoint: String,
    /// `open`, `half open`, `would open`.
    pub state: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Why.
    pub cause: String,
}

/// Where requests of a rule go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteRow {
    /// The Service, its route and the rule.
    pub rule: String,
    /// The backend.
    pub backend: String,
    /// Its share, from 0 to 1.
    pub share: f64,
    /// Requests per second.
    pub rate: f64,
}

/// A policy at work in a pod's sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyRow {
    /// The pod.
    pub pod: String,
    /// Of what: a Service, a limit, a port.
    pub of: String,
    /// Which block of the policy.
    pub what: String,
    /// How full it is: so many, of so many.
    pub full: Option<(f64, f64)>,
    /// What it does.
    pub words: String,
    /// Whether it refuses, or is spent.
    pub is_pressed: bool,
}

/// Something that happened, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Milliseconds since the load began.
    pub at_ms: i64,
    /// What.
    pub what: String,
    /// How that is.
    pub tone: Tone,
}

/// The load as the visitor sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadRow {
    /// Requests per second.
    pub rate: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Idempotent requests that failed since the start.
    pub failed: u64,
    /// All requests since the start.
    pub requests: u64,
    /// The rate's last values, oldest first.
    pub history: VecDeque<u64>,
}

/// Everything on the screen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scene {
    /// The scenario and the isolation.
    pub title: String,
    /// What is being waited for, before the load.
    pub waiting_for: Option<String>,
    /// Seconds since the load began.
    pub elapsed_seconds: u64,
    /// How long it will take, where that is set.
    pub length_seconds: Option<u64>,
    /// The load.
    pub load: LoadRow,
    /// The pods.
    pub pods: Vec<PodRow>,
    /// Where requests go, by rule and backend.
    pub routes: Vec<RouteRow>,
    /// The policies at work, those that refuse first.
    pub policies: Vec<PolicyRow>,
    /// The breakers that are not closed.
    pub breakers: Vec<BreakerRow>,
    /// How many breakers are known.
    pub breakers_known: usize,
    /// What happened, newest first.
    pub events: Vec<EventRow>,
    /// What is wrong in the YAML.
    pub problems: Vec<String>,
    /// The folder of YAML.
    pub folder: String,
}
