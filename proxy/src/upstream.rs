//! What the pipeline says to an engine that carries a request upstream, and
//! what it is told when no answer comes: the same words for HTTP/1 and HTTP/2.

use http::HeaderValue;
use http::request::Parts;

use crate::body::BodyError;

/// A request's head on its way upstream: as the caller sent it, not copied for
/// an attempt, and what this attempt adds. Encoders leave out what concerns the
/// caller's connection alone ([`crate::headers::forwarded`]).
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// As the caller sent it, without headers of ours.
    pub parts: &'a Parts,
    /// The attempt's number from 1, sent as `x-remora-attempt`; a target's
    /// sidecar leaves the one that the caller's set.
    pub attempt: Option<u32>,
    /// Who the caller is, for the application: sent as
    /// `x-remora-client-identity`, and never by anybody else.
    pub identity: Option<&'a HeaderValue>,
}

/// Why a request got no response head.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of it was sent: the connection had been closed, or takes no more.
    #[error("the connection was closed before the request was on it")]
    Unsent,
    /// It was sent, at least in part, and the connection closed without one
    /// byte of an answer.
    #[error("the connection closed without an answer")]
    Unanswered,
    /// The upstream says that it did not process it: REFUSED_STREAM, or a
    /// GOAWAY below its stream (RFC 9113, sections 6.8 and 8.7).
    #[error("the upstream refused the stream")]
    Refused,
    /// Nothing of it was sent: the upstream does not take such a request.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The caller broke off while it sent the request's body.
    #[error("the request's body could not be read: {0}")]
    Caller(BodyError),
    /// A later attempt has taken over: nobody waits for this one's answer.
    #[error("a later attempt has taken the request over")]
    Superseded,
    /// The connection or stream broke in the middle of an answer.
    #[error("{0}")]
    Broke(String),
    /// The answer is not well-formed, or beyond the limits of a head.
    #[error("{0}")]
    Malformed(String),
}
