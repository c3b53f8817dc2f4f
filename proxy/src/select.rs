//! Which endpoint of a service an attempt goes to: the balancer's view of the
//! endpoints, and the service's own wishes (session affinity, node-local).

use std::net::IpAddr;

use crate::balance::{self, Availability, Candidates, Standing};
use crate::clock::Timestamp;
use crate::policy::limit::Kind;
use crate::state::{Endpoint, Health, Service};

/// Endpoints that this request has tried already.
#[derive(Debug, Default)]
pub struct Tried {
    // A request makes few attempts; only the last ones matter for preferring others.
    ids: [u64; 4],
    next: usize,
}

impl Tried {
    /// Notes one.
    pub fn add(&mut self, endpoint: &Endpoint) {
        self.ids[self.next % self.ids.len()] = endpoint.runtime.id;
        self.next += 1;
    }

    fn contains(&self, endpoint: &Endpoint) -> bool {
        self.next > 0 && self.ids.contains(&endpoint.runtime.id)
    }
}

/// Why no endpoint was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPick {
    /// None is ready, or every one of them is open.
    NoEndpoints,
    /// Those that are left are at `perEndpoint.maxRequests`.
    Overloaded,
}

struct View<'a> {
    endpoints: &'a [Endpoint],
    is_even: bool,
    tried: &'a Tried,
    now: Timestamp,
}

impl View<'_> {
    fn is_full(&self, index: usize) -> bool {
        let limits = &self.endpoints[index].runtime.limits;
        limits
            .max(Kind::Requests)
            .is_some_and(|max| limits.in_use(Kind::Requests) >= max)
    }
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.endpoints.len()
    }

    fn is_even(&self) -> bool {
        self.is_even
    }

    fn weight(&self, index: usize) -> u32 {
        self.endpoints[index].config.weight
    }

    fn standing(&self, index: usize) -> Standing {
        let endpoint = &self.endpoints[index];
        let availability = if !serves(endpoint) || self.is_full(index) {
            Availability::No
        } else {
            match endpoint.runtime.breaker.availability(self.now) {
                // Else one slow answer would keep it without traffic for half a
                // minute, and if it dies meanwhile nobody would learn of it.
                Availability::Yes if endpoint.runtime.load.is_stale(self.now) => {
                    Availability::Probe
                }
                availability => availability,
            }
        };
        Standing {
            availability,
            tried: self.tried.contains(endpoint),
            doubtful: !endpoint.config.ready || endpoint.health() == Health::Unhealthy,
        }
    }

    fn load(&self, index: usize) -> f64 {
        self.endpoints[index].runtime.load.load(self.now)
    }
}

/// Ready, or still serving although it is terminating (KEP-1669) or on a node
/// that is not heard of: the balancer takes the latter two only while no other serves.
fn serves(endpoint: &Endpoint) -> bool {
    endpoint.config.ready || endpoint.config.serving
}

/// The endpoint for the next attempt at `port` of `service`.
///
/// # Errors
/// None may be taken.
pub fn pick<'a>(
    service: &'a Service,
    port: u16,
    source: Option<IpAddr>,
    node: &str,
    tried: &Tried,
    now: Timestamp,
    random: u64,
) -> Result<&'a Endpoint, NoPick> {
    if let Some(pod) = &service.pod {
        return Ok(pod);
    }
    let Some(list) = service.endpoints(port) else {
        return Err(NoPick::NoEndpoints);
    };
    if service.config.session_affinity.is_some() || service.config.internal_traffic_local {
        return pick_by_wish(service, &list.endpoints, source, node, tried, now);
    }
    let view = View {
        endpoints: &list.endpoints,
        is_even: list.is_even,
        tried,
        now,
    };
    match balance::pick(&view, random) {
        Some(index) => Ok(&list.endpoints[index]),
        None => Err(why_none(&view)),
    }
}

/// The endpoint of `port` that `is_it` knows, where it may be taken and has not been
/// tried yet.
pub fn pinned<'a>(
    service: &'a Service,
    port: u16,
    is_it: impl Fn(&Endpoint) -> bool,
    node: &str,
    tried: &Tried,
    now: Timestamp,
) -> Option<&'a Endpoint> {
    let list = service.endpoints(port)?;
    let view = View {
        endpoints: &list.endpoints,
        is_even: list.is_even,
        tried,
        now,
    };
    let at = list.endpoints.iter().position(is_it)?;
    if service.config.internal_traffic_local && list.endpoints[at].config.node != node {
        return None;
    }
    let standing = view.standing(at);
    let is_free = standing.availability != Availability::No && !standing.tried;
    // One that is on its way out gets no new requests while others serve.
    let is_leaving = standing.doubtful && list.endpoints.iter().any(|other| other.config.ready);
    (is_free && !is_leaving).then(|| &list.endpoints[at])
}

fn why_none(view: &View<'_>) -> NoPick {
    let full = (0..view.endpoints.len())
        .any(|index| serves(&view.endpoints[index]) && view.is_full(index));
    if full {
        NoPick::Overloaded
    } else {
        NoPick::NoEndpoints
    }
}

/// `internalTrafficPolicy: Local` leaves only this node's endpoints, without
/// any other to fall back to (as Kubernetes says). `sessionAffinity: ClientIP`
/// gives each source the same endpoint for as long as it serves: the one with
/// the highest hash of both, so that a change of the others moves nobody.
fn pick_by_wish<'a>(
    service: &Service,
    endpoints: &'a [Endpoint],
    source: Option<IpAddr>,
    node: &str,
    tried: &Tried,
    now: Timestamp,
) -> Result<&'a Endpoint, NoPick> {
    let local_only = service.config.internal_traffic_local;
    let sticky = service.config.session_affinity.is_some();
    let view = View {
        endpoints,
        is_even: true,
        tried,
        now,
    };
    let mut best: Option<(bool, bool, f64, &Endpoint)> = None;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let standing = view.standing(index);
        if standing.availability == Availability::No || (local_only && endpoint.config.node != node)
        {
            continue;
        }
        let cost = if sticky {
            -affinity(source, endpoint)
        } else {
            view.load(index)
        };
        let rank = (standing.doubtful, standing.tried, cost, endpoint);
        if best
            .as_ref()
            .is_none_or(|held| (rank.0, rank.1, rank.2) < (held.0, held.1, held.2))
        {
            best = Some(rank);
        }
    }
    best.map(|(_, _, _, endpoint)| endpoint)
        .ok_or_else(|| why_none(&view))
}

fn affinity(source: Option<IpAddr>, endpoint: &Endpoint) -> f64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    endpoint.config.address.hash(&mut hasher);
    crate::random::unit(hasher.finish())
}
