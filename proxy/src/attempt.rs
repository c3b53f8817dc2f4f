//! One attempt: a request sent to one endpoint, under its deadlines, until the
//! response's headers.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::Response;

use crate::body::request::RequestSource;
use crate::body::{BodyError, Incoming};
use crate::caller::Caller;
use crate::clock::Timestamp;
use crate::connect::{self, Carrier, ConnectError, Reuse, Target};
use crate::policy::config::AttemptEnd;
use crate::policy::deadline::{self, Bound, Deadline};
use crate::pool::{FRESH, Lease};
use crate::shared::Shared;
use crate::upstream::{Head, SendError};
use crate::worker::Worker;

/// How often a request goes again because its connection was closed already. A
/// process that is killed closes those that stand before its listener, which
/// takes another in between: the second time nobody listens any more.
const STALE_RESENDS: usize = 2;

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
        /// Not a byte of the request was sent.
        unsent: bool,
    },
    /// A limit was reached.
    Overloaded(String),
    /// What the caller sends for a body is none, or it asks for what this
    /// upstream cannot do.
    CallerBroke(String),
    /// The caller broke off while sending the request's body.
    CallerLeft(String),
    /// The whole request is over time.
    OutOfTime(Bound),
    /// A deadline passed in the queue for a connection: the endpoint had no part in it.
    Waited(Bound),
}

/// What an attempt holds of the connection that it is on.
#[derive(Debug)]
pub enum Held {
    /// An HTTP/1 connection, which the answer's body has.
    Own(Box<Lease>),
    /// A stream of this one.
    Shared(Rc<Shared>),
}

/// A request as an attempt sends it.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// Its head.
    pub head: Head<'a>,
    /// Its body.
    pub source: &'a RequestSource,
    /// Who is told of interim answers.
    pub caller: &'a Caller,
    /// It does no harm when the application gets it twice.
    pub safe: bool,
    /// When it is given up.
    pub bounds: Bounds,
    /// When the attempt began.
    pub began: Timestamp,
}

/// Sends to `target`. Where the server had closed a pooled connection it is
/// sent again on a new one: that is not the caller's problem, and no retry.
///
/// # Errors
/// See [`Failure`].
pub async fn send(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    has_sidecar: bool,
    sent: &Sent<'_>,
) -> Result<(Response<Incoming>, Held), Failure> {
    let reuse = if sent.safe || has_sidecar {
        Reuse::Any
    } else {
        Reuse::IdleLessThan(FRESH)
    };
    match send_once(worker, target, reuse, sent).await {
        Err(Failure::Stale { unsent }) if goes_again(unsent, sent) => {
            // Boxed because it is rare.
            Box::pin(resend(worker, target, sent)).await
        }
        ended => ended,
    }
}

fn goes_again(unsent: bool, sent: &Sent<'_>) -> bool {
    (unsent || sent.safe) && sent.source.replayable()
}

async fn resend(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    sent: &Sent<'_>,
) -> Result<(Response<Incoming>, Held), Failure> {
    let mut end = AttemptEnd::ConnectFailure;
    for _ in 0..STALE_RESENDS {
        end = match send_once(worker, target, Reuse::Never, sent).await {
            // A new connection that is closed before the request was on it never carried it.
            Err(Failure::Stale { unsent: true }) => AttemptEnd::ConnectFailure,
            Err(Failure::Stale { unsent: false }) if goes_again(false, sent) => AttemptEnd::Reset,
            ended => return ended,
        };
    }
    let detail = format!("{} closes its connections at once", target.address);
    Err(Failure::Ended(end, detail))
}

/// Sends to `target` on a connection that `reuse` allows.
async fn send_once(
    worker: &Rc<Worker>,
    target: &Target<'_>,
    reuse: Reuse,
    sent: &Sent<'_>,
) -> Result<(Response<Incoming>, Held), Failure> {
    let Sent { bounds, source, .. } = *sent;
    let queued = Cell::new(false);
    let mut sending = Box::pin(send_unbounded(worker, target, reuse, sent, &queued));
    if bounds.until_headers.is_none() && bounds.idle.is_none() {
        return sending.await;
    }
    let began = sent.began;
    let alarm = &sent.caller.interim.alarm;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(ended) = sending.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        loop {
            let Some(next) = next_deadline(bounds, source, began) else {
                return Poll::Pending;
            };
            ready!(alarm.poll(cx, next.at));
            // The request's body may have moved meanwhile: then idling begins anew.
            if next_deadline(bounds, source, began).is_some_and(|now| now.at > next.at) {
                continue;
            }
            return Poll::Ready(Err(if queued.get() {
                Failure::Waited(next.bound)
            } else {
                late(next.bound)
            }));
        }
    })
    .await
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
    target: &Target<'_>,
    reuse: Reuse,
    sent: &Sent<'_>,
    queued: &Cell<bool>,
) -> Result<(Response<Incoming>, Held), Failure> {
    let carrier = match connect::obtain(worker, *target, reuse, sent.began, queued).await {
        Ok(carrier) => carrier,
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
    let body = sent.source.attempt();
    // What is held is dropped after the connection or stream, also when this
    // future is: its permits must not be free while the upstream still has it.
    let (answered, held, reused) = match carrier {
        Carrier::Own(idle) => {
            let mut lease = idle.lease;
            lease.count_request();
            let sending = idle.connection.send(sent.head, body, sent.caller);
            let answered = sending.await;
            let reused = lease.reused;
            (answered, Held::Own(lease), reused)
        }
        Carrier::Shared(shared) => {
            let reused = shared.count_request();
            // In a box of its own: the allocator has pieces up to 1 KiB at hand,
            // and one future of all that a request may come to is dearer than
            // its parts.
            let sending = Box::pin(shared.connection.send(sent.head, body, sent.caller));
            let answered = sending.await;
            // One that the upstream's process never took is no better.
            let reused = reused || !shared.connection.has_heard();
            (answered, Held::Shared(shared), reused)
        }
    };
    match answered {
        Ok((parts, body)) => Ok((Response::from_parts(parts, body), held)),
        Err(error) => Err(failure(error, reused, target)),
    }
}

fn failure(error: SendError, reused: bool, target: &Target<'_>) -> Failure {
    let address = target.address;
    let reset = |detail: String| Failure::Ended(AttemptEnd::Reset, detail);
    match error {
        SendError::Unsent => Failure::Stale { unsent: true },
        SendError::Unanswered if reused => Failure::Stale { unsent: false },
        SendError::Unanswered => {
            reset(format!("{address} closed the connection without an answer"))
        }
        SendError::Refused => Failure::Ended(
            AttemptEnd::RefusedStream,
            format!("{address} refused the stream"),
        ),
        SendError::Caller(
            error @ (BodyError::Broke(_) | BodyError::Incomplete | BodyError::Reset(_)),
        ) => Failure::CallerLeft(error.to_string()),
        // What the upstream cannot carry is the caller's to change, and says
        // nothing of the upstream.
        error @ (SendError::Caller(_) | SendError::Superseded | SendError::Unsupported(_)) => {
            Failure::CallerBroke(error.to_string())
        }
        SendError::Broke(why) => reset(format!("{address} broke off before it answered: {why}")),
        SendError::Malformed(why) => reset(format!("{address} answered with nonsense: {why}")),
    }
}
