//! The response's body on its way back to the caller.
//!
//! Carries the [`Exchange`], so that permits, breaker, pool, counters and log
//! learn how the answer ended, also when the caller goes away in the middle.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::{BodyError, Incoming};
use crate::clock::{self, Timestamp};
use crate::exchange::{BodyEnd, Exchange};
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
        _exchange: Option<Exchange>,
    },
    Relayed {
        incoming: Incoming,
        exchange: Option<Exchange>,
        received_bytes: u64,
        limit: Option<Limit>,
    },
}

/// When a response's body must have ended or moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Until {
    /// The whole body.
    pub deadline: Option<Deadline>,
    /// The next byte.
    pub idle: Option<Duration>,
}

/// Fires when a bound of [`Until`] has passed. The timer is set when the body
/// first has to be waited for (most never are), and set anew only when it
/// fires, not with each byte.
#[derive(Debug)]
struct Limit {
    until: Until,
    moved: Timestamp,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
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
                _exchange: None,
            },
        }
    }

    /// What the upstream sends; `exchange` is told how it ends.
    pub fn relayed(incoming: Incoming, exchange: Exchange, until: Until) -> Self {
        let limit = if incoming.is_end_stream() {
            None
        } else {
            Limit::new(until, clock::now())
        };
        Self {
            kind: Kind::Relayed {
                incoming,
                exchange: Some(exchange),
                received_bytes: 0,
                limit,
            },
        }
    }

    /// Our own answer to `exchange`, which ends with it.
    pub fn answering(mut self, exchange: Exchange) -> Self {
        if let Kind::Own {
            _exchange: held, ..
        } = &mut self.kind
        {
            *held = Some(exchange);
        }
        self
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
            Kind::Relayed {
                incoming,
                exchange,
                received_bytes,
                limit,
            } => {
                let polled = Pin::new(&mut *incoming).poll_frame(cx);
                let passed = match (limit, polled.is_ready()) {
                    (None, _) => None,
                    (Some(limit), true) => limit.moved(clock::now()),
                    (Some(limit), false) => Some(ready!(limit.poll_passed(cx))),
                };
                if let Some(bound) = passed {
                    finish(exchange, BodyEnd::TimedOut, *received_bytes);
                    return Poll::Ready(Some(Err(ResponseBodyError::Late(bound))));
                }
                let frame = ready!(polled);
                match frame {
                    Some(Ok(frame)) => {
                        *received_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                        if incoming.is_end_stream() {
                            finish(exchange, BodyEnd::Whole, *received_bytes);
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                    Some(Err(error)) => {
                        finish(exchange, BodyEnd::UpstreamBroke, *received_bytes);
                        Poll::Ready(Some(Err(error.into())))
                    }
                    None => {
                        finish(exchange, BodyEnd::Whole, *received_bytes);
                        Poll::Ready(None)
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own { bytes, .. } => bytes.is_none(),
            Kind::Relayed { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Relayed { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Kind::Relayed {
            incoming,
            exchange,
            received_bytes,
            ..
        } = &mut self.kind
            && exchange.is_some()
        {
            // hyper drops a body that is empty from the start without reading it.
            let end = if incoming.is_end_stream() {
                BodyEnd::Whole
            } else {
                BodyEnd::CallerLeft
            };
            finish(exchange, end, *received_bytes);
        }
    }
}

fn finish(exchange: &mut Option<Exchange>, end: BodyEnd, received_bytes: u64) {
    if let Some(exchange) = exchange.take() {
        exchange.finish(end, received_bytes);
    }
}

impl Limit {
    fn new(until: Until, now: Timestamp) -> Option<Self> {
        until.next(now)?;
        Some(Self {
            until,
            moved: now,
            timer: None,
        })
    }

    /// A frame came; gives the bound when the body is over time nevertheless.
    fn moved(&mut self, now: Timestamp) -> Option<Bound> {
        self.moved = now;
        let deadline = self.until.deadline?;
        (now >= deadline.at).then_some(deadline.bound)
    }

    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Bound> {
        loop {
            let Some(next) = self.until.next(self.moved) else {
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(clock::instant(next.at))));
            ready!(timer.as_mut().poll(cx));
            if clock::now() >= next.at {
                return Poll::Ready(next.bound);
            }
            timer.as_mut().reset(clock::instant(next.at));
        }
    }
}

impl Until {
    fn next(self, moved: Timestamp) -> Option<Deadline> {
        let idle = self.idle.map(|idle| Deadline {
            at: moved.after(idle),
            bound: Bound::Idle,
        });
        deadline::earlier(self.deadline, idle)
    }
}
