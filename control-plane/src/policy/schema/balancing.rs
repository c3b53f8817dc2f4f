//! `loadBalancing`: which endpoint gets a request.

use kube::KubeSchema;
use kube::core::{Reason, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{bounds, forms};

/// Which endpoint gets a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = hash_is_given())]
#[x_kube(validation = hash_is_wanted())]
pub struct LoadBalancing {
    /// How one of the endpoints is chosen. PeakEwma: of two by chance the one with the lower
    /// latency and load. LeastRequest: of two by chance the one with fewer requests in flight.
    /// RoundRobin: one after the other. Random: by chance. ConsistentHash: the same for the same
    /// key. All go by the pods' weights (annotation remora.io/weight, 1 to 1000, 1 where it is not
    /// there).
    ///
    /// Default: PeakEwma. Example: LeastRequest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// By what ConsistentHash chooses. Given with that algorithm, and only there.
    ///
    /// Example: {on: ["header:x-user"]}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// Whoever was served by an endpoint once is served by it again (GEP-1619). A route's own
    /// sessionPersistence wins over this one.
    ///
    /// Example: {type: Cookie, strict: true}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
    /// Whether a request of the application may name its pod by the header x-remora-endpoint: that
    /// one gets it, or it is refused with 503. Where this is false the header is taken out.
    ///
    /// Default: false. Example: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pinning: Option<bool>,
    /// Lets the share of an endpoint that has become ready grow from a tenth to its whole. Not
    /// with ConsistentHash.
    ///
    /// Example: {window: 30s}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Whether endpoints of the caller's zone come first where the hints of EndpointSlices say so.
    ///
    /// Default: Prefer. Example: Ignore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<Zones>,
    /// How long a request that finds no endpoint waits for one; it counts as pending meanwhile
    /// (circuitBreaker.maxPendingRequests). 0s: it is refused with 503 at once.
    ///
    /// Default: 0s. Example: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::WAIT_FOR_ENDPOINTS)]
    pub wait_for_endpoints: Option<String>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum Algorithm {
    /// By latency and load.
    PeakEwma,
    /// By requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// By chance.
    Random,
    /// By a key of the request.
    ConsistentHash,
}

/// By what `ConsistentHash` chooses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsistentHash {
    /// What makes the key, all of it together: sourceAddress, path, or header:, cookie: or query:
    /// with a name. A request that has none of it is balanced by PeakEwma. Of connections that are
    /// not HTTP only sourceAddress counts.
    ///
    /// Example: ["header:x-user", path].
    #[schemars(length(min = 1, max = 8), extend("items" = forms::hash_part()))]
    pub on: Vec<String>,
    /// How many percent of the mean of requests in flight one endpoint may have; what is more goes
    /// to the next one.
    ///
    /// Default: 125. Example: 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1000))]
    pub load_bound_percent: Option<u32>,
}

/// Who is served by the endpoint that served it before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = permanent_ends())]
pub struct SessionPersistence {
    /// What carries the session: a cookie, or a header of request and answer.
    ///
    /// Default: Cookie. Example: Header.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<SessionType>,
    /// The name of the cookie, or of the header.
    ///
    /// Default: remora-session. Example: x-session.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::HEADER_LENGTH), extend("pattern" = forms::HEADER))]
    #[x_kube(validation = forms::header_name())]
    #[x_kube(validation = forms::changeable())]
    pub session_name: Option<String>,
    /// Whether a request whose endpoint is gone, open or full is refused with 503. Else another
    /// endpoint serves it, and the session is given anew.
    ///
    /// Default: false. Example: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// How long a session lasts, from its first answer. 0s: without end.
    ///
    /// Default: 0s. Example: 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::SESSION)]
    pub absolute_timeout: Option<String>,
    /// How long the browser keeps the cookie. Session: until it is closed. Permanent: for
    /// absoluteTimeout, which must be given then.
    ///
    /// Default: Session. Example: Session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_lifetime_type: Option<CookieLifetime>,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum SessionType {
    /// A cookie.
    Cookie,
    /// A header.
    Header,
}

/// How long a cookie is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum CookieLifetime {
    /// Until the browser is closed.
    Session,
    /// As long as the session lasts.
    Permanent,
}

/// How an endpoint's share grows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SlowStart {
    /// How long it takes until the endpoint has its whole share. 0s: it has it at once.
    ///
    /// Default: 30s. Example: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = forms::DURATION_LENGTH), extend("pattern" = forms::DURATION))]
    #[x_kube(validation = bounds::SLOW_START)]
    pub window: Option<String>,
}

/// Whether zones count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum Zones {
    /// The own one comes first.
    Prefer,
    /// They do not.
    Ignore,
}

/// Beside `algorithm: ConsistentHash`.
pub const HASH_GIVEN: &str = "must be given where algorithm is ConsistentHash";
/// Beside another one.
pub const HASH_WANTED: &str = "is for algorithm ConsistentHash alone";
/// `cookieLifetimeType: Permanent`.
pub const PERMANENT_ENDS: &str =
    "must be given, and not be 0s, where cookieLifetimeType is Permanent";

const BY_HASH: &str = "has(self.algorithm) && self.algorithm == 'ConsistentHash'";

fn hash_is_given() -> Rule {
    Rule::new(format!("!({BY_HASH}) || has(self.consistentHash)"))
        .message(HASH_GIVEN)
        .field_path(".consistentHash")
        .reason(Reason::FieldValueRequired)
}

fn hash_is_wanted() -> Rule {
    Rule::new(format!("!has(self.consistentHash) || ({BY_HASH})"))
        .message(HASH_WANTED)
        .field_path(".consistentHash")
        .reason(Reason::FieldValueForbidden)
}

fn permanent_ends() -> Rule {
    let form = forms::DURATION;
    let at = "self.absoluteTimeout";
    Rule::new(format!(
        "!has(self.cookieLifetimeType) || self.cookieLifetimeType != 'Permanent' || \
         (has({at}) && (!{at}.matches('{form}') || duration({at}) > duration('0s')))"
    ))
    .message(PERMANENT_ENDS)
    .field_path(".absoluteTimeout")
}
