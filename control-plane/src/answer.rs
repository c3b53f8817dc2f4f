//! What an API server's refusals mean for who asked.

use std::time::Duration;

use crate::text;

/// A request to the API server takes at most so long.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// Why a request was not granted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no such object.
    #[error("it is not there")]
    NotFound,
    /// Somebody else changed the object, or made it first.
    #[error("somebody else changed it first")]
    Conflict,
    /// The API server has too much to do.
    #[error("the API server is busy and asks to wait")]
    Throttled,
    /// Our role lacks something.
    #[error("our role does not allow it (compare the ClusterRole with manifests/install): {0}")]
    Forbidden(String),
    /// The API server does not take what was sent.
    #[error("the API server refused it: {0}")]
    Refused(String),
    /// No answer.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(kube::Error),
    /// No answer in time.
    #[error("no answer from the API server within {REQUEST_TIMEOUT:?}")]
    Timeout,
}

impl RequestError {
    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Throttled => "throttled",
            Self::Forbidden(_) => "forbidden",
            Self::Refused(_) => "refused",
            Self::Unreachable(_) | Self::Timeout => "unreachable",
        }
    }

    /// The object is another one by now, or gone: nothing is wrong.
    pub fn is_usual(&self) -> bool {
        matches!(self, Self::Conflict | Self::NotFound)
    }
}

/// What was warned of: once for each kind of failure, until a request succeeds.
#[derive(Debug, Default)]
pub struct Complaints(Option<&'static str>);

impl Complaints {
    /// A request succeeded.
    pub fn end(&mut self) {
        self.0 = None;
    }

    /// One failed; `what` could not be done, as in `list pods`.
    pub fn tell(&mut self, what: &str, error: &RequestError) {
        let word = error.word();
        if self.0.replace(word) != Some(word) {
            tracing::warn!(error = error.to_string(), "cannot {}", text::clean(what));
        }
    }
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable(error);
        };
        match status.code {
            404 => Self::NotFound,
            409 => Self::Conflict,
            429 => Self::Throttled,
            401 | 403 => Self::Forbidden(status.message.clone()),
            400..500 => Self::Refused(status.message.clone()),
            _ => Self::Unreachable(kube::Error::Api(status)),
        }
    }
}

/// The answer to a request, bounded in time.
///
/// # Errors
/// When it was not granted, or nobody answered.
pub async fn of<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Timeout),
    }
}
