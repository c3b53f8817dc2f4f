//! `loadBalancing`: which endpoint gets a request.

use std::time::Duration;

use crate::routes::config::SessionPersistence;

/// `loadBalancing`; the default is what a service without one has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancing {
    /// Among the endpoints of the best tier.
    pub algorithm: Algorithm,
    /// `sessionPersistence`.
    pub persistence: Option<Persistence>,
    /// `x-remora-endpoint` chooses.
    pub pinning: bool,
    /// Of an endpoint that has become ready; zero: none.
    pub slow_start: Duration,
    /// Topology hints count for nothing.
    pub ignore_zones: bool,
    /// A request without an endpoint waits so long for one; zero: not at all.
    pub wait_for_endpoints: Duration,
}

/// How one of several is chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Algorithm {
    /// Of two by chance the one with less latency and fewer requests.
    #[default]
    PeakEwma,
    /// Of two by chance the one with fewer requests.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// Who calls alike is served alike.
    ConsistentHash(ConsistentHash),
}

/// What is hashed, and how unevenly endpoints may be loaded by it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsistentHash {
    /// All parts together; at least one.
    pub on: Vec<HashPart>,
    /// No endpoint has more than so much of the mean, in percent; at least 100.
    pub load_bound_percent: u32,
}

/// One part of what is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashPart {
    /// The value of this header, lower case name.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The caller's IP address.
    SourceAddress,
    /// The path, without the query.
    Path,
    /// The value of this parameter of the query, as it is written there.
    Query(String),
}

/// Who was served by an endpoint once is served by it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// As routes have it.
    pub session: SessionPersistence,
    /// With the endpoint gone, open or full a request is refused.
    pub strict: bool,
}
