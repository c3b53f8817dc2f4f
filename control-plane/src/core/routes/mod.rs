//! Routes of Gateway API whose parents are Services (GEP-1294): where calls to a
//! Service go, for all of its callers or for those of one namespace.
//!
//! # Layout
//! - here: the objects.
//! - [`held`]: every route and grant, and in reverse who depends on which.
//! - [`references`]: whether a backend can be taken.
//! - [`rule`]: one rule as sidecars get it.
//! - [`attach`]: the routes of one Service, for whom, and on which ports.
//! - [`verdict`]: what is said of a route for each of its parents.
//! - [`judged`]: the same of every route.

pub mod attach;
pub mod held;
pub mod judged;
pub mod references;
pub mod rule;
pub mod verdict;

use remora_proto::v1;

use super::objects::{Created, Id, Kind, Name};

/// The kinds of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// gateway.networking.k8s.io/v1 HTTPRoute
    Http,
    /// gateway.networking.k8s.io/v1 GRPCRoute
    Grpc,
}

impl RouteKind {
    /// As it is written in YAML.
    pub fn as_str(self) -> &'static str {
        self.kind().as_str()
    }

    /// Among all kinds.
    pub fn kind(self) -> Kind {
        match self {
            Self::Http => Kind::HttpRoute,
            Self::Grpc => Kind::GrpcRoute,
        }
    }
}

/// Which route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId {
    /// Its kind.
    pub kind: RouteKind,
    /// Its namespace and name.
    pub id: Id,
}

impl std::fmt::Display for RouteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

/// A route, read: of its parents those that are Services.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Which.
    pub id: RouteId,
    /// metadata.creationTimestamp
    pub created: Created,
    /// Rises with each change of the spec.
    pub generation: i64,
    /// What it says.
    pub says: Says,
}

/// What a route says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Says {
    /// The Services that it names as parents, none of them twice.
    pub parents: Vec<ParentRef>,
    /// What of it is done otherwise than it may be meant, in words.
    pub remarks: Vec<String>,
    /// What is wrong beside its rules; then nothing of it can be in force.
    pub fault: Option<Fault>,
    /// In the order written.
    pub rules: Vec<Rule>,
}

/// A Service as a parent, as it is written: a status names it so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParentRef {
    /// Where it stands in `spec.parentRefs`.
    pub index: usize,
    /// Empty or `core`.
    pub group: Name,
    /// Where it is written; else it is the route's.
    pub namespace: Option<Name>,
    /// The Service.
    pub name: Name,
    /// The name of one of its ports.
    pub section_name: Option<Name>,
    /// The number of one.
    pub port: Option<u16>,
}

impl ParentRef {
    /// The Service that a route of this namespace means.
    pub fn service(&self, namespace: &Name) -> Id {
        Id {
            namespace: self.namespace.as_ref().unwrap_or(namespace).clone(),
            name: self.name.clone(),
        }
    }
}

/// Why something of a route cannot be in force, by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In one word.
    pub reason: FaultReason,
    /// In words: the field, and what is allowed.
    pub message: String,
}

/// Why, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultReason {
    /// A value that is not known here, or cannot be.
    UnsupportedValue,
    /// Filters that cannot stand together.
    IncompatibleFilters,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Empty where it has none.
    pub name: Name,
    /// Any of these.
    pub matches: Vec<v1::RouteMatch>,
    /// Bytes of the automata of its patterns.
    pub pattern_bytes: usize,
    /// In the order written.
    pub filters: Vec<Filter>,
    /// In the order written.
    pub backends: Vec<Backend>,
    /// `timeouts`
    pub timeouts: Option<RouteTimeouts>,
    /// `retry`
    pub retry: Option<Retry>,
    /// `sessionPersistence`
    pub session_persistence: Option<v1::SessionPersistence>,
    /// What is wrong with it.
    pub fault: Option<RuleFault>,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    /// What.
    pub fault: Fault,
    /// Only what its filters do is not known: then what matches it must get an
    /// error. Otherwise it is not even known what matches it, or where that goes.
    pub of_filters: bool,
}

/// One filter.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// That needs nothing of other objects.
    Plain(v1::RouteFilter),
    /// Of so many requests (denominator) so many (numerator).
    Mirror {
        /// Where to.
        backend: BackendRef,
        /// `fraction.numerator`, or the percentage.
        numerator: u32,
        /// `fraction.denominator`, or 100.
        denominator: u32,
    },
    /// By another object, of a kind that is not known here.
    Extension {
        /// `group/Kind name`
        shown: String,
        /// `spec.rules[0].filters[1].extensionRef`
        field: String,
    },
}

/// One of `backendRefs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Which.
    pub backend: BackendRef,
    /// 0 to 1,000,000.
    pub weight: u32,
    /// Of the requests that it gets.
    pub filters: Vec<Filter>,
}

/// A backend as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// Empty for the core group.
    pub group: Name,
    /// `Service` where it is not written.
    pub kind: Name,
    /// Where it is not written, the route's.
    pub namespace: Option<Name>,
    /// The name.
    pub name: Name,
    /// The Service's port.
    pub port: Option<u16>,
    /// `spec.rules[0].backendRefs[1]`
    pub field: String,
}

impl BackendRef {
    /// Whether it is a Service.
    pub fn is_service(&self) -> bool {
        &*self.kind == "Service" && is_core(&self.group)
    }

    /// What a route of this namespace means.
    pub fn id(&self, namespace: &Name) -> Id {
        Id {
            namespace: self.namespace.as_ref().unwrap_or(namespace).clone(),
            name: self.name.clone(),
        }
    }
}

/// Whether a group is that of Services.
pub fn is_core(group: &str) -> bool {
    group.is_empty() || group == "core"
}

/// `timeouts`: of each whether it is given, and then how long; `0s` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// `request`
    pub request: Option<Option<u64>>,
    /// `backendRequest`
    pub backend_request: Option<Option<u64>>,
}

/// `retry`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// `attempts`, 1 where it is not given, and never more than can be done.
    pub attempts: u32,
    /// `codes`; `None`: not given.
    pub codes: Option<Vec<u32>>,
    /// `backoff`
    pub backoff_ms: Option<u64>,
}

/// A ReferenceGrant: who may name what of its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Namespace and name.
    pub id: Id,
    /// Any of these.
    pub from: Vec<GrantFrom>,
    /// Any of these; `None`: every Service.
    pub to: Vec<Option<Name>>,
}

/// Whom it allows to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantFrom {
    /// The kind of what names it: a route, or a TrafficPolicy.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Name,
}

impl Route {
    /// Whether a rule of it has this name.
    pub fn has_rule(&self, name: &str) -> bool {
        self.says.rules.iter().any(|rule| *rule.name == *name)
    }

    /// Every backend that it names, mirrors among them.
    pub fn backends(&self) -> impl Iterator<Item = &BackendRef> {
        self.says.rules.iter().flat_map(|rule| {
            let own = mirrors(&rule.filters);
            let backends = rule.backends.iter();
            own.chain(
                backends.flat_map(|one| std::iter::once(&one.backend).chain(mirrors(&one.filters))),
            )
        })
    }
}

fn mirrors(filters: &[Filter]) -> impl Iterator<Item = &BackendRef> {
    filters.iter().filter_map(|filter| match filter {
        Filter::Mirror { backend, .. } => Some(backend),
        Filter::Plain(_) | Filter::Extension { .. } => None,
    })
}
