//! What the routes of a Service say, parsed: `state::decode` makes these from
//! the stream's resources and checks the bounds there.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use remora_proto::pattern::Pattern;

use super::index::Index;
use crate::policy::config::{Fallback, Fault, Limits, RateLimit, Retries, Timeouts};
use crate::state::PolicyReference;

/// The rules of some ports of a Service, with the index by which one is found.
#[derive(Clone, Debug)]
pub struct PortRoutes {
    /// The Service's ports, by rising number.
    pub ports: Vec<u16>,
    /// They are GRPCRoutes: what Remora answers is a status of gRPC.
    pub grpc: bool,
    /// In the order that decides between matches of the same precedence.
    pub rules: Vec<Arc<Rule>>,
    pub(super) index: Index,
}

impl PortRoutes {
    /// Builds the index.
    pub fn new(mut ports: Vec<u16>, grpc: bool, rules: Vec<Rule>) -> Self {
        ports.sort_unstable();
        let rules: Vec<_> = rules.into_iter().map(Arc::new).collect();
        Self {
            index: Index::new(&rules),
            ports,
            grpc,
            rules,
        }
    }
}

impl PartialEq for PortRoutes {
    fn eq(&self, other: &Self) -> bool {
        // The index says the same again.
        self.ports == other.ports && self.grpc == other.grpc && self.rules == other.rules
    }
}

/// Which route a rule is of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteReference {
    /// `HTTPRoute` or `GRPCRoute`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The rule's place in the route, from 0.
    pub rule: u32,
    /// The rule's name; may be empty.
    pub rule_name: String,
}

impl RouteReference {
    /// What people call the rule: its name, or its place. No two of a route are called
    /// the same: a name that is a number would be another's place.
    pub fn rule_label(&self) -> String {
        match self.rule_name.as_str() {
            "" => self.rule.to_string(),
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("name:{number}"),
            name => name.to_owned(),
        }
    }
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Whose it is.
    pub route: RouteReference,
    /// Any of these; none: every request.
    pub matches: Vec<RouteMatch>,
    /// In the order in which they are done.
    pub filters: Vec<Filter>,
    /// One is chosen for each request, by weight.
    pub backends: Vec<Backend>,
    /// Unset: as the Service's policy says.
    pub retries: Option<Retries>,
    /// Unset: as the Service's policy says.
    pub timeouts: Option<Timeouts>,
    /// Set: these instead of the Service's.
    pub rate_limits: Option<Vec<RateLimit>>,
    /// Of the rule alone, beside the Service's.
    pub limits: Limits,
    /// Who was served by an endpoint is served by it again.
    pub session: Option<SessionPersistence>,
    /// Of this rule and its route.
    pub policies: Vec<PolicyReference>,
    /// Every request is answered 500, for this reason.
    pub cannot: Option<String>,
    /// Unset: as the Service's policy says.
    pub fallback: Option<Arc<Fallback>>,
    /// Unset: as the Service's policy says.
    pub fault: Option<Fault>,
}

impl Rule {
    /// Services that it leads to, its mirrors' and its fallback's too; those that
    /// cannot be taken not.
    pub fn services(&self) -> impl Iterator<Item = &Arc<str>> {
        let fallback = self.fallback.as_ref();
        self.references()
            .filter(|backend| backend.cannot.is_none())
            .map(|backend| &backend.service)
            .chain(fallback.and_then(|fallback| fallback.service()))
    }

    /// Its backends and mirrors, whether they can be taken or not.
    pub fn references(&self) -> impl Iterator<Item = &BackendReference> {
        let of_backends = self
            .backends
            .iter()
            .flat_map(|backend| std::iter::once(&backend.to).chain(mirrored(&backend.filters)));
        mirrored(&self.filters).chain(of_backends)
    }
}

fn mirrored(filters: &[Filter]) -> impl Iterator<Item = &BackendReference> {
    filters.iter().filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(&mirror.backend),
        _ => None,
    })
}

/// All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteMatch {
    /// A condition on the path.
    pub path: PathMatch,
    /// Unset: any.
    pub method: Option<Method>,
    /// Each of these.
    pub headers: Vec<ValueMatch<HeaderName>>,
    /// Each of these parameters of the query.
    pub query: Vec<ValueMatch<String>>,
}

/// A condition on the path, as the request carries it, without the query.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum PathMatch {
    /// Every path; also what is called by no path, as `OPTIONS *` and CONNECT.
    #[default]
    Any,
    /// This very path.
    Exact(String),
    /// By whole elements; never empty, and without a slash at its end.
    Prefix(String),
    /// The whole path is of this form.
    Pattern(Arc<Pattern>),
    /// `/service/method`.
    Grpc {
        /// Unset: any.
        service: Option<Text>,
        /// Unset: any.
        method: Option<Text>,
    },
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// This very text.
    Exact(String),
    /// The whole of it is of this form.
    Pattern(Arc<Pattern>),
    /// None: of a kind that is not known here.
    Nothing,
}

/// A condition on a named value.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueMatch<N> {
    /// Of the field or the parameter.
    pub name: N,
    /// What it must be.
    pub value: Text,
}

/// What is done with a request or its answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Changes the request's fields.
    RequestHeaders(HeaderChanges),
    /// Changes the answer's fields.
    ResponseHeaders(HeaderChanges),
    /// Answers at once.
    Redirect(Redirect),
    /// Changes the request's host and path.
    Rewrite(Rewrite),
    /// Sends a copy elsewhere.
    Mirror(Mirror),
    /// Tells browsers who may read the answer.
    Cors(Cors),
}

/// Changes of fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderChanges {
    /// In the place of what is there.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Beside what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Taken away.
    pub remove: Vec<HeaderName>,
}

/// An answer that sends the caller elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `https`; else `http`.
    pub is_https: bool,
    /// Unset: the request's.
    pub hostname: Option<String>,
    /// Unset: the request's.
    pub path: Option<PathChange>,
    /// Unset: the scheme's own where a scheme was given, else the Service's port.
    pub port: Option<u16>,
    /// A scheme was given.
    pub has_scheme: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// Another host and path for the backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// Unset: the request's.
    pub hostname: Option<HeaderValue>,
    /// Unset: the request's.
    pub path: Option<PathChange>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathChange {
    /// This one.
    Full(String),
    /// This, in the place of the prefix that matched.
    Prefix(String),
}

/// A copy of some requests, whose answers nobody reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where it goes.
    pub backend: BackendReference,
    /// Of so many requests ...
    pub denominator: u32,
    /// ... so many.
    pub numerator: u32,
}

/// <https://fetch.spec.whatwg.org/#http-cors-protocol>
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    /// Whose scripts may read the answer.
    pub origins: Vec<Origin>,
    /// With what the browser knows of its user.
    pub allow_credentials: bool,
    /// Methods.
    pub methods: AllowList,
    /// Fields of requests.
    pub headers: AllowList,
    /// Fields of answers.
    pub expose: AllowList,
    /// For so long a browser remembers a preflight's answer.
    pub max_age_seconds: u32,
}

/// What is listed, or everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AllowList {
    /// `*` is among them.
    pub all: bool,
    /// The others, as an answer lists them; unset: none.
    pub listed: Option<HeaderValue>,
}

/// An origin, or several.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// `*`
    Any,
    /// `scheme://host:port`, the scheme's own port where none is written.
    Of {
        /// It is `https`.
        is_https: bool,
        /// In lower case; where `is_suffix`, what stands behind the `*`.
        host: String,
        /// The host begins with `*`.
        is_suffix: bool,
        /// The port.
        port: u16,
    },
}

/// One of a rule's backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Where it is.
    pub to: BackendReference,
    /// Zero gets nothing.
    pub weight: u32,
    /// After the rule's.
    pub filters: Vec<Filter>,
}

/// One port of a Service, by its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendReference {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// The Service's port.
    pub port: u16,
    /// It cannot be taken, for this reason.
    pub cannot: Option<String>,
}

/// GEP-1619.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPersistence {
    /// Where the token is.
    pub carrier: SessionCarrier,
    /// From its first answer a session lasts at most so long.
    pub absolute_timeout: Option<Duration>,
}

/// Where a session's token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionCarrier {
    /// In a cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: String,
        /// It outlives the browser's own session.
        permanent: bool,
    },
    /// In this field of requests and answers.
    Header(HeaderName),
}
