//! What Remora itself answers: a closed list of reasons, the same word in the
//! header, the access log and the metrics.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::body::response::ResponseBody;
use crate::grpc;
use crate::headers::REASON;
use crate::policy::rate_limit::whole_seconds;

/// Why Remora answered instead of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The service's breaker is open.
    BreakerOpen,
    /// A limit of `circuitBreaker` is reached.
    Overloaded,
    /// A rate limit refused it.
    RateLimited,
    /// The service has no endpoint that could take it.
    NoEndpoints,
    /// No connection came about, nothing reached the application.
    ConnectFailed,
    /// A deadline passed.
    Timeout,
    /// The upstream broke off, and no retry was left or allowed.
    RetriesExhausted,
    /// The request itself is wrong.
    BadRequest,
    /// The caller may not do this.
    Denied,
    /// No rule of the routes of the service's port matches.
    NoRoute,
    /// The rule's backend cannot be taken, or it has none.
    NoBackend,
    /// A rule sends the caller elsewhere.
    Redirect,
    /// A browser asked what it may ask.
    Cors,
    /// Trouble on purpose, by `fault`.
    Fault,
    /// What `fallback` has in the place of a refusal.
    Fallback,
}

impl Reason {
    /// Every reason, in the order of [`Reason::index`].
    pub const ALL: [Self; 15] = [
        Self::BreakerOpen,
        Self::Overloaded,
        Self::RateLimited,
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::Timeout,
        Self::RetriesExhausted,
        Self::BadRequest,
        Self::Denied,
        Self::NoRoute,
        Self::NoBackend,
        Self::Redirect,
        Self::Cors,
        Self::Fault,
        Self::Fallback,
    ];

    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::NoEndpoints => "no_endpoints",
            Self::ConnectFailed => "connect_failed",
            Self::Timeout => "timeout",
            Self::RetriesExhausted => "retries_exhausted",
            Self::BadRequest => "bad_request",
            Self::Denied => "denied",
            Self::NoRoute => "no_route",
            Self::NoBackend => "no_backend",
            Self::Redirect => "redirect",
            Self::Cors => "cors",
            Self::Fault => "fault",
            Self::Fallback => "fallback",
        }
    }

    /// Its place in [`Reason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The HTTP status that goes with it.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RetriesExhausted => StatusCode::BAD_GATEWAY,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
            // The rule names one of five.
            Self::Redirect => StatusCode::FOUND,
            Self::Cors => StatusCode::NO_CONTENT,
            // The policy says it, of these two.
            Self::Fault | Self::Fallback => StatusCode::SERVICE_UNAVAILABLE,
            Self::BreakerOpen | Self::Overloaded | Self::NoEndpoints | Self::ConnectFailed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// Whether it is an answer like any other, and no fault of anybody's.
    pub const fn is_answer(self) -> bool {
        matches!(self, Self::Redirect | Self::Cors | Self::Fallback)
    }

    /// Whether `fallback.when` may name it.
    pub const fn may_fall_back(self) -> bool {
        matches!(
            self,
            Self::BreakerOpen
                | Self::Overloaded
                | Self::NoEndpoints
                | Self::Timeout
                | Self::RetriesExhausted
                | Self::RateLimited
        )
    }

    /// The reason that a word of the header names.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.word().as_bytes() == word)
    }
}

/// Remora's own answer; `detail` says in words what happened and what to check.
/// To a gRPC call it is a gRPC status, with nothing but headers ("trailers-only").
pub fn refuse(reason: Reason, detail: String, is_grpc: bool) -> Response<ResponseBody> {
    if is_grpc {
        return refuse_call(reason, &detail);
    }
    let mut response = Response::new(ResponseBody::own(Bytes::from(detail + "\n")));
    *response.status_mut() = reason.status();
    response
        .headers_mut()
        .insert(REASON, HeaderValue::from_static(reason.word()));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn refuse_call(reason: Reason, detail: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Bytes::new()));
    *response.headers_mut() = grpc::refusal_alone(reason, detail);
    response
}

/// Sets `Retry-After`, rounded up to whole seconds and at least one.
pub fn set_retry_after(response: &mut Response<ResponseBody>, after: Duration) {
    let seconds = whole_seconds(after).max(1);
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(seconds));
}

/// Sets `RateLimit-Limit`, `-Remaining` and `-Reset`
/// (draft-ietf-httpapi-ratelimit-headers-03).
pub fn set_rate_limit(
    response: &mut Response<ResponseBody>,
    limit: u32,
    remaining: u64,
    reset_seconds: u64,
) {
    let headers = response.headers_mut();
    headers.insert("ratelimit-limit", HeaderValue::from(limit));
    headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(reset_seconds));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_found_by_its_word() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(Reason::from_word(reason.word().as_bytes()), Some(reason));
        }
        assert_eq!(Reason::from_word(b"nonsense"), None);
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let mut response = refuse(Reason::RateLimited, "no".into(), false);
        set_retry_after(&mut response, Duration::from_millis(1500));
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[REASON], "rate_limited");
    }
}
