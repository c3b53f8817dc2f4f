//! One attempt: a request sent to one endpoint, under its deadlines, until the
//! response's headers.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Request, Response, StatusCode};

use crate::body::Incoming;
use crate::body::request::{RequestBody, RequestSource};
use crate::clock::{self, Timestamp};
use crate::connect::{self, ConnectError, Reuse, Target};
use crate::policy::config::AttemptEnd;
use crate::policy::deadline::{self, Bound, Deadline};
use crate::pool::{FRESH, UpstreamConnection};
use crate::worker::Worker;

/// The bounds of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Until the response's headers.
    pub until_headers: Option<Deadline>,
    /// No byte either way for so long.
    pub idle: Option<Duration>,
}

/// Why an attempt gave no response.
#[derive(Debug)]
pub enum Failure {
    /// It ended as a policy may know it; the words say what happened.
    Ended(AttemptEnd, String),
    /// The server had closed the pooled connection: nothing came back, and
    /// `unsent` is whether nothing was even sent.
    Stale {
        /// hyper gave the request back untouched.
        unsent: bool,
    },
    /// A limit was reached.
    Overloaded(String),
    /// The caller broke off while sending the request's body.
    CallerBroke(String),
    /// The whole request is over time.
    OutOfTime(Bound),
    /// A deadline passed in the queue for a connection: the endpoint had no part in it.
    Waited(Bound),
}

/// Sends to `target`; `safe` says that it does no harm when the application
/// gets the request twice. Where the server had closed a pooled connection it
/// is sent again on a new one: that is not the caller's problem, and no retry.
///
/// # Errors
/// See [`Failure`].
pub async fn send(
    worker: &Rc<Worker>,
    target: Target<'_>,
    safe: bool,
    has_sidecar: bool,
    source: &RequestSource,
    bounds: Bounds,
    request: impl Fn(RequestBody) -> Request<RequestBody>,
) -> Result<(Response<Incoming>, UpstreamConnection), Failure> {
    let reuse = if safe || has_sidecar {
        Reuse::Any
    } else {
        Reuse::IdleLessThan(FRESH)
    };
    match send_once(
        worker,
        target,
        reuse,
        source,
        bounds,
        request(source.attempt()),
    )
    .await
    {
        Err(Failure::Stale { unsent }) if (unsent || safe) && source.replayable() => {
            let again = request(source.attempt());
            match send_once(worker, target, Reuse::Never, source, bounds, again).await {
                // A new connection that is closed before the request was on it never carried it.
                Err(Failure::Stale { unsent: true }) => {
                    let detail = format!("{} closes its connections at once", target.address);
                    Err(Failure::Ended(AttemptEnd::ConnectFailure, detail))
                }
                sent => sent,
            }
        }
        sent => sent,
    }
}

/// Sends `request` to `target` on a connection that `reuse` allows.
async fn send_once(
    worker: &Rc<Worker>,
    target: Target<'_>,
    reuse: Reuse,
    source: &RequestSource,
    bounds: Bounds,
    request: Request<RequestBody>,
) -> Result<(Response<Incoming>, UpstreamConnection), Failure> {
    let queued = Cell::new(false);
    let sending = send_unbounded(worker, target, reuse, request, &queued);
    if bounds.until_headers.is_none() && bounds.idle.is_none() {
        return sending.await;
    }
    let began = clock::now();
    let mut sending = std::pin::pin!(sending);
    loop {
        let Some(next) = next_deadline(bounds, source, began) else {
            return sending.await;
        };
        match tokio::time::timeout_at(clock::instant(next.at), sending.as_mut()).await {
            Ok(sent) => return sent,
            // The request's body may have moved meanwhile: then idling begins anew.
            Err(_) if next_deadline(bounds, source, began).is_some_and(|now| now.at > next.at) => {}
            Err(_) if queued.get() => return Err(Failure::Waited(next.bound)),
            Err(_) => return Err(late(next.bound)),
        }
    }
}

fn next_deadline(bounds: Bounds, source: &RequestSource, began: Timestamp) -> Option<Deadline> {
    let idle = bounds.idle.map(|idle| Deadline {
        at: source.last_moved(began).after(idle),
        bound: Bound::Idle,
    });
    deadline::earlier(bounds.until_headers, idle)
}

fn late(bound: Bound) -> Failure {
    if bound == Bound::Request {
        Failure::OutOfTime(bound)
    } else {
        Failure::Ended(
            AttemptEnd::Timeout,
            format!("timeouts.{} passed without response headers", bound.field()),
        )
    }
}

async fn send_unbounded(
    worker: &Rc<Worker>,
    target: Target<'_>,
    reuse: Reuse,
    request: Request<RequestBody>,
    queued: &Cell<bool>,
) -> Result<(Response<Incoming>, UpstreamConnection), Failure> {
    let mut connection = match connect::obtain(worker, target, reuse, queued).await {
        Ok(connection) => connection,
        Err(error @ ConnectError::Refused { .. }) => {
            return Err(Failure::Ended(
                AttemptEnd::ConnectFailure,
                error.to_string(),
            ));
        }
        Err(error @ ConnectError::Overloaded { .. }) => {
            return Err(Failure::Overloaded(error.to_string()));
        }
    };
    let reused = connection.is_reused();
    match connection.sender().try_send_request(request).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            // No request carries an Upgrade, so nothing that follows could be understood.
            let detail = format!("{} switched protocols unasked", target.address);
            Err(Failure::Ended(AttemptEnd::Reset, detail))
        }
        Ok(response) => Ok((response.map(Incoming::Hyper), connection)),
        Err(mut error) => {
            let unsent = error.take_message().is_some();
            let error = error.into_error();
            if error.is_user() {
                return Err(Failure::CallerBroke(format!(
                    "the request's body could not be read: {}",
                    root_cause(&error)
                )));
            }
            if unsent || (reused && closed_without_answer(&error)) {
                return Err(Failure::Stale { unsent });
            }
            let detail = format!("{} broke off before it answered: {error}", target.address);
            Err(Failure::Ended(AttemptEnd::Reset, detail))
        }
    }
}

/// What lies at the bottom: hyper's own words name only the layer that passed it on.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

/// Whether the server closed the connection without a byte of an answer.
fn closed_without_answer(error: &hyper::Error) -> bool {
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return true;
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{
                BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected,
            };
            return matches!(
                io.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected
            );
        }
        source = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the layer that passed it on")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn what_the_caller_is_told_is_the_cause_and_not_the_layer() {
        let error = Outer(std::io::Error::other("Invalid chunk size line"));
        assert_eq!(root_cause(&error), "Invalid chunk size line");
    }
}
