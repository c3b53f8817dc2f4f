//! The response's body on its way back to the caller.
//!
//! Carries the [`Exchange`], so that permits, breaker, pool, counters and log
//! learn how the answer ended, also when the caller goes away in the middle.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::request::RequestSource;
use super::{BodyError, Incoming, Timed};
use crate::alarm::Alarm;
use crate::answer::Reason;
use crate::clock::{self, Timestamp};
use crate::exchange::{BodyEnd, Exchange, Finished};
use crate::grpc;
use crate::headers;
use crate::policy::deadline::{self, Bound, Deadline};

/// A response's body: our own words, or what the upstream sends.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Our own, all at once, with the exchange that it answers.
    Own {
        bytes: Option<Bytes>,
        exchange: Option<Box<Exchange>>,
    },
    Relayed(Relayed),
}

/// What the upstream sends, and who is told how it ended.
#[derive(Debug)]
struct Relayed {
    incoming: Incoming,
    exchange: Option<Box<Exchange>>,
    received_bytes: u64,
    grpc_status: Option<u8>,
    limit: Option<Limit>,
}

/// When a response's body must have ended or moved.
#[derive(Clone, Debug, Default)]
pub struct Until {
    /// The whole body.
    pub deadline: Option<Deadline>,
    /// The next byte, of this body or of the request's.
    pub idle: Option<Duration>,
    /// The request's body, which may still be on its way.
    pub request: Option<RequestSource>,
}

/// Fires when a bound of [`Until`] has passed.
#[derive(Debug)]
struct Limit {
    until: Until,
    moved: Timestamp,
    /// As the engine last said of what the caller took.
    taken: u64,
}

/// Why a response's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum ResponseBodyError {
    /// The upstream's side broke.
    #[error("the upstream broke off while sending the response body: {0}")]
    Upstream(#[from] BodyError),
    /// A bound of the policy passed.
    #[error("timeouts.{} passed while the response body was being sent", .0.field())]
    Late(Bound),
}

impl ResponseBody {
    /// Our own words.
    pub fn own(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Own {
                bytes: Some(bytes).filter(|bytes| !bytes.is_empty()),
                exchange: None,
            },
        }
    }

    /// What the upstream sends; `exchange` is told how it ends: at once where
    /// there is nothing to come.
    pub fn relayed(incoming: Incoming, exchange: Box<Exchange>, until: Until) -> Self {
        let mut relayed = Relayed {
            limit: Limit::new(until),
            incoming,
            exchange: Some(exchange),
            received_bytes: 0,
            grpc_status: None,
        };
        if relayed.incoming.is_end_stream() {
            relayed.finish(BodyEnd::Whole);
        }
        Self {
            kind: Kind::Relayed(relayed),
        }
    }

    /// Our own answer to `exchange`, which ends with it.
    pub fn answering(mut self, exchange: Box<Exchange>) -> Self {
        if let Kind::Own { exchange: held, .. } = &mut self.kind {
            *held = Some(exchange);
        }
        self
    }

    /// Our own words, and what they answer; or the body as it was, where it is not ours.
    pub fn into_own(self) -> Result<(Bytes, Option<Box<Exchange>>), Box<Self>> {
        match self.kind {
            Kind::Own { bytes, exchange } => Ok((bytes.unwrap_or_default(), exchange)),
            kind @ Kind::Relayed(_) => Err(Box::new(Self { kind })),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        match &mut self.get_mut().kind {
            Kind::Own { bytes, .. } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Relayed(relayed) => relayed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { bytes, .. } => bytes.is_none(),
            Kind::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

impl Timed for ResponseBody {
    fn poll_late(&mut self, taken: u64, cx: &mut Context<'_>) -> Poll<()> {
        let Kind::Relayed(relayed) = &mut self.kind else {
            return Poll::Pending;
        };
        if relayed.incoming.poll_late(taken, cx).is_pending() {
            let (Some(limit), Some(exchange)) = (&mut relayed.limit, &relayed.exchange) else {
                return Poll::Pending;
            };
            if std::mem::replace(&mut limit.taken, taken) != taken {
                limit.moved = clock::now();
            }
            ready!(limit.poll_passed(cx, &exchange.caller().interim.alarm));
        }
        // The upstream has no part in it.
        relayed.finish(BodyEnd::CallerLeft);
        Poll::Ready(())
    }
}

impl Relayed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let passed = match (&mut self.limit, polled.is_ready()) {
            (None, _) => None,
            (Some(limit), true) => limit.moved(clock::now()),
            (Some(limit), false) => match &self.exchange {
                Some(exchange) => {
                    let alarm = &exchange.caller().interim.alarm;
                    Some(ready!(limit.poll_passed(cx, alarm)))
                }
                None => None,
            },
        };
        if let Some(bound) = passed {
            let late = ResponseBodyError::Late(bound);
            return Poll::Ready(Some(self.broke(BodyEnd::TimedOut, Reason::Timeout, late)));
        }
        Poll::Ready(match ready!(polled) {
            Some(Ok(mut frame)) => {
                self.saw(&mut frame);
                if self.incoming.is_end_stream() {
                    self.finish(BodyEnd::Whole);
                }
                Some(Ok(frame))
            }
            Some(Err(error @ BodyError::Caller(_))) => {
                self.finish(BodyEnd::CallerLeft);
                Some(Err(error.into()))
            }
            Some(Err(error)) => {
                let end = BodyEnd::UpstreamBroke;
                Some(self.broke(end, Reason::RetriesExhausted, error.into()))
            }
            None => {
                self.finish(BodyEnd::Whole);
                None
            }
        })
    }

    fn saw(&mut self, frame: &mut Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            if self.received_bytes == 0
                && let Some(exchange) = &mut self.exchange
                && exchange.is_grpc
            {
                exchange.progressed(clock::now());
            }
            self.received_bytes += data.len() as u64;
        } else if let Some(trailers) = frame.trailers_mut() {
            headers::strip_ours(trailers);
            self.grpc_status = grpc::status(trailers);
        }
    }

    /// It will not come whole. A gRPC call is told so in its own words, since a
    /// reset alone reads as a fault of the peer's HTTP/2.
    fn broke(
        &mut self,
        end: BodyEnd,
        reason: Reason,
        error: ResponseBodyError,
    ) -> Result<Frame<Bytes>, ResponseBodyError> {
        let is_call = self
            .exchange
            .as_ref()
            .is_some_and(|exchange| exchange.is_grpc);
        // A declared length cannot be broken off by trailers.
        let tells = is_call && self.incoming.size_hint().exact().is_none();
        let trailers = tells.then(|| grpc::refusal(reason, &error.to_string()));
        self.grpc_status = trailers.as_ref().and_then(grpc::status);
        self.finish(end);
        trailers.map(Frame::trailers).ok_or(error)
    }

    fn finish(&mut self, end: BodyEnd) {
        let Some(exchange) = self.exchange.take() else {
            return;
        };
        let connection = if end == BodyEnd::Whole {
            self.incoming.take_connection()
        } else {
            None
        };
        // Closes the connection or resets the stream where it cannot be used
        // again: before the permits that the exchange holds are given back.
        self.incoming = Incoming::Empty;
        let finished = Finished {
            grpc_status: self.grpc_status,
            connection,
        };
        exchange.finish(end, self.received_bytes, finished);
    }
}

impl Drop for Relayed {
    fn drop(&mut self) {
        // An engine drops a body that is empty from the start without reading it.
        let end = if self.incoming.is_end_stream() {
            BodyEnd::Whole
        } else {
            BodyEnd::CallerLeft
        };
        self.finish(end);
    }
}

impl Limit {
    fn new(until: Until) -> Option<Self> {
        if until.deadline.is_none() && until.idle.is_none() {
            return None;
        }
        let now = clock::now();
        Some(Self {
            until,
            moved: now,
            taken: 0,
        })
    }

    /// A frame came; gives the bound when the body is over time nevertheless.
    fn moved(&mut self, now: Timestamp) -> Option<Bound> {
        self.moved = now;
        let deadline = self.until.deadline?;
        (now >= deadline.at).then_some(deadline.bound)
    }

    fn poll_passed(&self, cx: &mut Context<'_>, alarm: &Alarm) -> Poll<Bound> {
        loop {
            let Some(next) = self.until.next(self.moved) else {
                return Poll::Pending;
            };
            ready!(alarm.poll(cx, next.at));
            // The request's body may have moved meanwhile.
            if self
                .until
                .next(self.moved)
                .is_some_and(|now| now.at <= next.at)
            {
                return Poll::Ready(next.bound);
            }
        }
    }
}

impl Until {
    fn next(&self, moved: Timestamp) -> Option<Deadline> {
        let idle = self.idle.map(|idle| {
            let moved = match &self.request {
                Some(request) => request.last_moved(moved),
                None => moved,
            };
            Deadline {
                at: moved.after(idle),
                bound: Bound::Idle,
            }
        });
        deadline::earlier(self.deadline, idle)
    }
}
