//! `fallback` and `fault`, typed.

use remora_proto::v1;
use remora_proto::v1::fault_abort::Kind;

use super::both;
use crate::core::objects::{Id, Name};
use crate::policy::schema::Refusal;

/// `fallback`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fallback {
    /// `when`, each once.
    pub when: Option<Vec<Refusal>>,
    /// `response` or `backendRef`.
    pub action: Option<Action>,
}

/// What is answered instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `response`, complete.
    Response(v1::FallbackResponse),
    /// `backendRef`
    Backend(FallbackBackend),
}

/// `fallback.backendRef`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallbackBackend {
    /// The namespace of the policy that names it: what another one must grant.
    pub from: Name,
    /// The Service.
    pub service: Id,
    /// Its port.
    pub port: u16,
}

/// `fault`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// `delay`
    pub delay: Option<Delay>,
    /// `abort`
    pub abort: Option<Abort>,
    /// `match`
    pub matches: Option<v1::Match>,
}

/// `fault.delay`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// `duration`
    pub duration_ms: Option<u64>,
    /// `percent`, in millionths.
    pub parts_per_million: Option<u32>,
}

/// `fault.abort`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Abort {
    /// `status`, `grpcStatus` or `reset`.
    pub kind: Option<Kind>,
    /// `percent`, in millionths.
    pub parts_per_million: Option<u32>,
}

/// `fault.delay.percent` and `fault.abort.percent`, in millionths.
pub const ALL_PARTS_PER_MILLION: u32 = 1_000_000;

impl Fallback {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            when: self.when.or_else(|| general.when.clone()),
            action: self.action.or_else(|| general.action.clone()),
        }
    }

    /// With the defaults.
    pub fn complete(&self) -> Self {
        self.clone().over(&Self {
            when: Some(Refusal::ALL.to_vec()),
            action: None,
        })
    }

    /// The Service that gets the request, where it is one.
    pub fn backend(&self) -> Option<&FallbackBackend> {
        match &self.action {
            Some(Action::Backend(backend)) => Some(backend),
            Some(Action::Response(_)) | None => None,
        }
    }

    /// As sidecars get it; `cannot` says why a backend cannot be taken, where it cannot.
    pub fn proto(&self, cannot: impl Fn(&FallbackBackend) -> Option<String>) -> v1::Fallback {
        let done = self.complete();
        let when = done.when.unwrap_or_default();
        let action = done.action.map(|action| match action {
            Action::Response(response) => v1::fallback::Action::Response(response),
            Action::Backend(backend) => v1::fallback::Action::Backend(v1::FallbackBackend {
                namespace: backend.service.namespace.to_string(),
                service: backend.service.name.to_string(),
                port: backend.port.into(),
                cannot: cannot(&backend).unwrap_or_default(),
            }),
        });
        v1::Fallback {
            when: when.into_iter().map(|one| one.word().to_owned()).collect(),
            action,
        }
    }
}

impl Fault {
    pub(super) fn over(self, general: &Self) -> Self {
        Self {
            delay: both(self.delay, &general.delay, |one, other| Delay {
                duration_ms: one.duration_ms.or(other.duration_ms),
                parts_per_million: one.parts_per_million.or(other.parts_per_million),
            }),
            abort: both(self.abort, &general.abort, |one, other| Abort {
                kind: one.kind.or(other.kind),
                parts_per_million: one.parts_per_million.or(other.parts_per_million),
            }),
            matches: self.matches.or_else(|| general.matches.clone()),
        }
    }

    /// With the defaults.
    pub fn complete(&self) -> Self {
        let all = Some(ALL_PARTS_PER_MILLION);
        self.clone().over(&Self {
            delay: self.delay.map(|_| Delay {
                duration_ms: None,
                parts_per_million: all,
            }),
            abort: self.abort.map(|_| Abort {
                kind: None,
                parts_per_million: all,
            }),
            matches: None,
        })
    }

    /// As sidecars get it.
    pub fn proto(&self) -> v1::Fault {
        let done = self.complete();
        v1::Fault {
            delay: done.delay.map(|delay| v1::FaultDelay {
                duration_ms: delay.duration_ms.unwrap_or_default(),
                parts_per_million: delay.parts_per_million.unwrap_or_default(),
            }),
            abort: done.abort.map(|abort| v1::FaultAbort {
                kind: abort.kind,
                parts_per_million: abort.parts_per_million.unwrap_or_default(),
            }),
            r#match: done.matches,
        }
    }
}
