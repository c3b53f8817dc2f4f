//! What can go wrong with a watch, in words that say what to check, and how
//! long to wait before it is tried again.

use std::error::Error as _;
use std::time::Duration;

use kube::Error as Request;
use kube::core::Status;
use kube::runtime::watcher;

/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait. Short, because what is behind decides about traffic, and
/// five small requests a replica are no burden for a server that comes back.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// The longest that a server may ask to be left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// What went wrong, as far as it matters for what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The server does not have the kind.
    Absent,
    /// The version from which to go on is forgotten: list anew.
    Expired,
    /// RBAC does not allow it.
    Forbidden,
    /// The server does not know who asks.
    Unauthorized,
    /// The server is there and cannot, now.
    Busy,
    /// Nothing can be had from the server.
    Unreachable,
    /// The server answered something else.
    Other,
}

impl Reason {
    /// Whether it says more of the server than of the request.
    pub fn is_away(self) -> bool {
        matches!(self, Self::Unreachable | Self::Busy)
    }
}

/// Which request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// The list.
    List,
    /// The watch.
    Watch,
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What.
    pub reason: Reason,
    /// Of which request.
    pub verb: Verb,
    /// In words, with what to check.
    pub message: String,
    /// How long the server asked to be left alone.
    pub retry_after: Duration,
}

impl Failure {
    /// Of the watch of a resource, such as `pods`.
    pub fn of(resource: &str, error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error) => Self::request(resource, Verb::List, error),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                Self::request(resource, Verb::Watch, error)
            }
            watcher::Error::WatchError(status) => Self::status(resource, Verb::Watch, status),
            watcher::Error::NoResourceVersion => Self {
                reason: Reason::Other,
                verb: Verb::Watch,
                message: format!("{resource} came without metadata.resourceVersion"),
                retry_after: Duration::ZERO,
            },
        }
    }

    /// That a list did not go on.
    pub fn stalled(resource: &str, waited: Duration) -> Self {
        Self {
            reason: Reason::Unreachable,
            verb: Verb::List,
            message: format!("the list of {resource} did not go on for {waited:?}"),
            retry_after: Duration::ZERO,
        }
    }

    fn request(resource: &str, verb: Verb, error: &Request) -> Self {
        let (reason, why) = match error {
            Request::Api(status) => return Self::status(resource, verb, status),
            Request::HyperError(_) | Request::Service(_) | Request::ReadEvents(_) => (
                Reason::Unreachable,
                "the API server cannot be reached (is it up, is its address right, does a NetworkPolicy or a firewall stand between?)",
            ),
            Request::Auth(_) => (
                Reason::Unauthorized,
                "no credentials for the API server (is the service account's token mounted, does the kubeconfig's login work?)",
            ),
            _ => (
                Reason::Other,
                "the API server's answer cannot be used (is it Kubernetes 1.29 or later, with nothing else in between?)",
            ),
        };
        Self {
            reason,
            verb,
            message: format!("{resource}: {why}: {}", chain(error)),
            retry_after: Duration::ZERO,
        }
    }

    fn status(resource: &str, verb: Verb, status: &Status) -> Self {
        let word = match verb {
            Verb::List => "list",
            Verb::Watch => "watch",
        };
        let (reason, why) = match status.code {
            401 => (
                Reason::Unauthorized,
                "the API server does not accept our credentials (has the token expired or been revoked, is it for this cluster?)".to_owned(),
            ),
            403 => (
                Reason::Forbidden,
                format!(
                    "RBAC does not allow to {word} {resource} (grant list and watch, as the ClusterRole remora-control-plane of manifests/install does)"
                ),
            ),
            404 => (
                Reason::Absent,
                "the API server does not have this kind".to_owned(),
            ),
            410 => (
                Reason::Expired,
                "the API server has forgotten the version from which to go on".to_owned(),
            ),
            429 | 500 | 503 | 504 => (
                Reason::Busy,
                "the API server cannot answer now (is it starting, overloaded, or without etcd?)".to_owned(),
            ),
            code => (
                Reason::Other,
                format!("the API server refuses to {word} {resource} with {code}"),
            ),
        };
        let details = status.details.as_ref();
        let retry_after = details.map_or(0, |details| details.retry_after_seconds);
        Self {
            reason,
            verb,
            message: format!("{resource}: {why}: {}", status.message),
            retry_after: Duration::from_secs(retry_after.into()).min(MAX_RETRY_AFTER),
        }
    }
}

/// An error with its causes, none of them twice.
fn chain(error: &Request) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// How long to wait, longer with each failure in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: from half to all of what it may be by now, so that those
    /// who failed together do not come back together. `random` is a random number.
    pub fn next(&mut self, random: u64) -> Duration {
        let most = FIRST_WAIT
            .saturating_mul(1 << self.failures.min(16))
            .min(MAX_WAIT);
        self.failures = self.failures.saturating_add(1);
        most.mul_f64(0.5 + 0.5 * crate::random::unit(random))
    }

    /// How many failures there were in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> watcher::Error {
        let status = Status {
            code,
            ..Status::failure(message, "Reason")
        };
        watcher::Error::InitialListFailed(Request::Api(status.boxed()))
    }

    #[test]
    fn what_is_forbidden_is_named_with_its_verb() {
        let failure = Failure::of("pods", &status(403, "pods is forbidden: User \"x\""));
        assert_eq!(
            (failure.reason, failure.verb),
            (Reason::Forbidden, Verb::List)
        );
        assert!(failure.message.contains("list pods"), "{failure:?}");
        assert!(failure.message.contains("User \"x\""), "{failure:?}");
    }

    #[test]
    fn each_code_has_its_reason() {
        for (code, reason) in [
            (401, Reason::Unauthorized),
            (404, Reason::Absent),
            (410, Reason::Expired),
            (429, Reason::Busy),
            (503, Reason::Busy),
            (418, Reason::Other),
        ] {
            assert_eq!(
                Failure::of("pods", &status(code, "")).reason,
                reason,
                "{code}"
            );
        }
        let gone = std::io::Error::other("reset");
        let gone = watcher::Error::WatchFailed(Request::ReadEvents(gone));
        let failure = Failure::of("pods", &gone);
        assert_eq!(failure.reason, Reason::Unreachable);
        assert!(failure.message.ends_with("reset"), "{failure:?}");
    }

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        let longest: Vec<Duration> = (0..40).map(|_| backoff.next(u64::MAX)).collect();
        assert_eq!(longest[0], FIRST_WAIT);
        assert_eq!(longest[1], 2 * FIRST_WAIT);
        assert_eq!(longest[39], MAX_WAIT);
        backoff.reset();
        assert_eq!(backoff.next(0), FIRST_WAIT / 2);
        assert_eq!(backoff.failures(), 1);
    }
}
