//! `fallback` and `fault`: what is answered in the place of a refusal, and
//! trouble on purpose.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::Match;
use crate::answer::Reason;

/// `fallback`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// Instead of these.
    pub when: Vec<Reason>,
    /// What is done.
    pub action: FallbackAction,
}

impl Fallback {
    /// The Service that it asks, where it can be taken.
    pub fn service(&self) -> Option<&Arc<str>> {
        match &self.action {
            FallbackAction::Backend(to) if to.cannot.is_none() => Some(&to.service),
            FallbackAction::Backend(_) | FallbackAction::Response(_) => None,
        }
    }
}

/// What a fallback does.
#[derive(Clone, Debug, PartialEq)]
pub enum FallbackAction {
    /// It answers itself.
    Response(FallbackResponse),
    /// It asks another Service.
    Backend(FallbackBackend),
}

/// An answer that is written in a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct FallbackResponse {
    /// To HTTP.
    pub status: StatusCode,
    /// To HTTP.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// To HTTP.
    pub body: Bytes,
    /// To gRPC, 0-16.
    pub grpc_status: u8,
    /// To gRPC.
    pub grpc_message: String,
}

/// One port of a Service, by its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackBackend {
    /// `namespace/name`.
    pub service: Arc<str>,
    /// The Service's port.
    pub port: u16,
    /// It cannot be taken, for this reason.
    pub cannot: Option<String>,
}

/// `fault`. Both may be drawn for one request: first it waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// It waits.
    pub delay: Option<FaultDelay>,
    /// It is not sent.
    pub abort: Option<FaultAbort>,
    /// Which requests it concerns.
    pub matches: Match,
}

/// A delay of some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    /// For so long.
    pub duration: Duration,
    /// Of 1,000,000 so many.
    pub parts_per_million: u32,
}

/// The end of some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// How they end.
    pub kind: AbortKind,
    /// Of 1,000,000 so many.
    pub parts_per_million: u32,
}

/// How a request ends on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortKind {
    /// With this status.
    Http(StatusCode),
    /// With this status of gRPC, 0-16.
    Grpc(u8),
    /// The connection (HTTP/1) or the stream (HTTP/2) breaks.
    Reset,
}
