//! Which endpoint of a service an attempt goes to: the balancer's view of the
//! endpoints, the algorithm of the policy, and the service's own wishes (session
//! affinity; `internalTrafficPolicy: Local` leaves only this node's endpoints,
//! without any other to fall back to, as Kubernetes says).

use std::net::IpAddr;
use std::time::Duration;

use crate::balance::{self, Availability, Candidates, Standing};
use crate::clock::Timestamp;
use crate::policy::limit::Kind;
use crate::state::{Endpoint, EndpointList, Health, Plan, Service};

/// Endpoints that this request has tried already.
#[derive(Debug, Default)]
pub struct Tried {
    // A request makes few attempts; only the last ones matter for preferring others.
    ids: [u64; 8],
    next: usize,
}

impl Tried {
    /// Notes one.
    pub fn add(&mut self, endpoint: &Endpoint) {
        self.ids[self.next % self.ids.len()] = endpoint.runtime.id;
        self.next += 1;
    }

    /// Whether it is one of them.
    pub fn contains(&self, endpoint: &Endpoint) -> bool {
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

/// For which attempt an endpoint is asked.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The service's port.
    pub port: u16,
    /// Who calls.
    pub source: Option<IpAddr>,
    /// Where this sidecar is.
    pub node: &'a str,
    /// What the request has in common with others that are to be served alike.
    pub hash: Option<u64>,
    /// What is counted of an endpoint: its requests, or its connections.
    pub counted: Kind,
    /// Not these, if it can be.
    pub tried: &'a Tried,
    /// When.
    pub now: Timestamp,
}

struct View<'a> {
    list: &'a EndpointList,
    /// Those of this node alone.
    local: Option<&'a str>,
    /// While some have only just become ready.
    slow_start: Option<(Duration, u64)>,
    tried: &'a Tried,
    counted: Kind,
    now: Timestamp,
}

impl<'a> View<'a> {
    fn new<'b: 'a>(
        service: &'b Service,
        list: &'b EndpointList,
        asking: &Asking<'a>,
        random: u64,
    ) -> Self {
        let policy = &service.config.policy.load_balancing;
        let is_starting = asking.now < list.starting_until;
        Self {
            list,
            local: service.config.internal_traffic_local.then_some(asking.node),
            slow_start: is_starting.then_some((policy.slow_start, random)),
            tried: asking.tried,
            counted: asking.counted,
            now: asking.now,
        }
    }

    fn is_full(&self, index: usize) -> bool {
        let limits = &self.list[index].runtime.limits;
        limits
            .max(self.counted)
            .is_some_and(|max| limits.in_use(self.counted) >= max)
    }

    fn may_serve(&self, index: usize) -> bool {
        let endpoint = &self.list[index];
        serves(endpoint) && self.local.is_none_or(|node| endpoint.config.node == node)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.list[index].runtime.limits.in_use(self.counted)
    }

    /// One that starts slowly takes part in so many picks as it is ripe for; in the
    /// others it comes after its like.
    fn is_unripe(&self, index: usize) -> bool {
        let Some((window, random)) = self.slow_start else {
            return false;
        };
        let runtime = &self.list[index].runtime;
        // Mixed, since the same number chooses among the endpoints too: where both go by
        // its high bits, one would have all of its lots among its own picks, or none.
        let lot = random ^ runtime.id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let lot = (lot ^ (lot >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let lot = (lot ^ (lot >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        crate::random::unit(lot) > runtime.ripeness(window, self.now)
    }
}

impl Candidates for View<'_> {
    fn count(&self) -> usize {
        self.list.len()
    }

    fn is_even(&self) -> bool {
        self.list.is_even
    }

    fn weight(&self, index: usize) -> u32 {
        self.list[index].config.weight
    }

    fn standing(&self, index: usize) -> Standing {
        let endpoint = &self.list[index];
        let availability = if !self.may_serve(index) || self.is_full(index) {
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
            doubtful: is_doubtful(endpoint),
        }
    }

    fn load(&self, index: usize) -> f64 {
        self.list[index].runtime.load.load(self.now)
    }

    fn behind(&self, index: usize) -> u8 {
        u8::from(self.list.is_elsewhere(index)) + u8::from(self.is_unripe(index))
    }
}

/// The same endpoints, of which the one with the fewest requests is wanted.
struct ByRequests<'a, 'b>(&'a View<'b>);

impl Candidates for ByRequests<'_, '_> {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn is_even(&self) -> bool {
        self.0.is_even()
    }

    fn weight(&self, index: usize) -> u32 {
        self.0.weight(index)
    }

    fn standing(&self, index: usize) -> Standing {
        self.0.standing(index)
    }

    fn load(&self, index: usize) -> f64 {
        self.0.in_flight(index).into()
    }

    fn behind(&self, index: usize) -> u8 {
        self.0.behind(index)
    }
}

/// Better than nothing, and no better.
fn is_doubtful(endpoint: &Endpoint) -> bool {
    !endpoint.config.ready || endpoint.health() == Health::Unhealthy
}

/// Ready, or still serving although it is terminating (KEP-1669) or on a node
/// that is not heard of: the balancer takes the latter two only while no other serves.
pub fn serves(endpoint: &Endpoint) -> bool {
    endpoint.config.ready || endpoint.config.serving
}

/// The endpoint for an attempt at `service`. `random` is drawn anew for each.
///
/// # Errors
/// None may be taken.
pub fn pick<'a>(
    service: &'a Service,
    asking: &Asking<'_>,
    random: u64,
) -> Result<&'a Endpoint, NoPick> {
    if let Some(pod) = &service.pod {
        return Ok(pod);
    }
    let Some(list) = service.endpoints(asking.port) else {
        return Err(NoPick::NoEndpoints);
    };
    let mut view = View::new(service, list, asking, random);
    let has_affinity = service.config.session_affinity.is_some();
    if has_affinity || matches!((&list.plan, asking.hash), (Plan::Ring(_), Some(_))) {
        // Nobody is moved for a while and back again.
        view.slow_start = None;
    }
    let picked = if has_affinity {
        by_affinity(&view, asking.source)
    } else {
        by_algorithm(&view, asking, random)
    };
    match picked {
        Some(index) => Ok(&list.endpoints[index]),
        None => Err(why_none(&view)),
    }
}

fn by_algorithm(view: &View<'_>, asking: &Asking<'_>, random: u64) -> Option<usize> {
    match (&view.list.plan, asking.hash) {
        (Plan::PeakEwma, _) | (Plan::Ring(_), None) => balance::pick(view, random),
        (Plan::LeastRequest, _) => balance::least_requests(&ByRequests(view), random),
        (Plan::Random, _) => balance::by_chance(view, random),
        (Plan::Turns(turns), _) => turns.pick(&view.list.position, view),
        (Plan::Ring(ring), Some(hash)) => ring.pick(hash, view.count(), |index| {
            Some(balance::Load {
                tier: view.tier(index)?,
                in_flight: view.in_flight(index),
                weight: view.weight(index),
            })
        }),
    }
}

/// The endpoint that `is_it` knows, where it may be taken. `strictly`: there is no
/// other choice, so it may have been tried, or be on its way out.
pub fn pinned<'a>(
    service: &'a Service,
    asking: &Asking<'_>,
    strictly: bool,
    is_it: impl Fn(&Endpoint) -> bool,
) -> Option<&'a Endpoint> {
    let list = service.endpoints(asking.port)?;
    let view = View::new(service, list, asking, 0);
    let at = list.endpoints.iter().position(is_it)?;
    let standing = view.standing(at);
    if standing.availability == Availability::No {
        return None;
    }
    // One that is on its way out gets no new requests while others serve.
    let is_leaving = || standing.doubtful && list.iter().any(|other| !is_doubtful(other));
    (strictly || (!standing.tried && !is_leaving())).then(|| &list.endpoints[at])
}

/// Whether a further attempt has an endpoint that this request has not tried.
pub fn has_another(service: &Service, asking: &Asking<'_>) -> bool {
    let Some(list) = service.endpoints(asking.port) else {
        return false;
    };
    let view = View::new(service, list, asking, 0);
    (0..list.len()).any(|index| {
        let standing = view.standing(index);
        standing.availability != Availability::No && !standing.tried
    })
}

fn why_none(view: &View<'_>) -> NoPick {
    let full = (0..view.count()).any(|index| view.may_serve(index) && view.is_full(index));
    if full {
        NoPick::Overloaded
    } else {
        NoPick::NoEndpoints
    }
}

/// `sessionAffinity: ClientIP` gives each source the same endpoint for as long as
/// it serves: the one with the highest hash of both, so that a change of the others
/// moves nobody.
fn by_affinity(view: &View<'_>, source: Option<IpAddr>) -> Option<usize> {
    let ranked = (0..view.count()).filter_map(|index| {
        let tier = view.tier(index)?;
        Some((tier, -affinity(source, &view.list[index]), index))
    });
    let best = ranked.min_by(|one, other| {
        let by_hash = one.1.total_cmp(&other.1);
        one.0.cmp(&other.0).then(by_hash)
    });
    best.map(|(_, _, index)| index)
}

fn affinity(source: Option<IpAddr>, endpoint: &Endpoint) -> f64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    source.hash(&mut hasher);
    endpoint.config.address.hash(&mut hasher);
    crate::random::unit(hasher.finish())
}
