//! Gives one answer: waits for it, passes interim answers on, writes its head
//! with the first piece of its body, then the rest as the caller takes it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, Response, StatusCode, Version, response};
use http_body::Body;

use super::encode::{self, After, Coding};
use super::link::Link;
use super::send::{self, End as BodyEnd};
use crate::caller::Caller;

/// What of a request decides how it is answered.
#[derive(Debug)]
pub struct Asked {
    /// HEAD and CONNECT are answered differently.
    pub method: Method,
    /// The caller's.
    pub version: Version,
    /// It would send another request.
    pub keep_alive: bool,
    /// It asks for a tunnel.
    pub tunnel: bool,
    /// It waits for 100 before it sends the body.
    pub expects_continue: bool,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The next request may come.
    KeepAlive,
    /// It is closed in good order.
    Close,
    /// It is closed, and something may still come from the caller.
    Linger,
    /// The answer broke off, or nobody is there to take it.
    Abort,
    /// The answer broke off, and only a reset tells that from its end.
    Reset,
}

/// Waits for `handling` and writes what it gives; drops it when the caller leaves.
pub async fn give<F, B>(
    draining: &Cell<bool>,
    link: &Link,
    caller: &Caller,
    asked: &Asked,
    handling: F,
) -> End
where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
{
    let mut continued = false;
    let answered = {
        let mut handling = pin!(handling);
        poll_fn(|cx| poll_answer(cx, link, caller, asked, handling.as_mut(), &mut continued)).await
    };
    let Some(answer) = answered else {
        return End::Abort;
    };
    let (parts, body) = answer.into_parts();
    let tunnel = asked.tunnel
        && if asked.method == Method::CONNECT {
            parts.status.is_success()
        } else {
            parts.status == StatusCode::SWITCHING_PROTOCOLS
        };
    if parts.status == StatusCode::SWITCHING_PROTOCOLS && !tunnel {
        // Nothing that follows could be understood by the caller.
        return End::Abort;
    }
    link.settle(tunnel);
    // Whether a body follows is known only to a caller that was told to go on.
    let unsure = asked.expects_continue && !continued && !link.is_body_ended();
    let keep = asked.keep_alive
        && !tunnel
        && !unsure
        && !draining.get()
        && !link.has_left()
        && !link.is_malformed();
    let mut giving = Giving {
        coding: Coding::Absent,
        body,
        ended: false,
    };
    let end = giving.write(link, asked, parts, keep, tunnel).await;
    match end {
        End::KeepAlive if keep && giving.coding != Coding::Raw => End::KeepAlive,
        End::KeepAlive if tunnel || link.is_quiet() => End::Close,
        End::KeepAlive => End::Linger,
        end => end,
    }
}

/// Polls the handler, writes interim answers, and looks whether the caller left.
fn poll_answer<F, B>(
    cx: &mut Context<'_>,
    link: &Link,
    caller: &Caller,
    asked: &Asked,
    handling: Pin<&mut F>,
    continued: &mut bool,
) -> Poll<Option<Response<B>>>
where
    F: Future<Output = Response<B>>,
{
    let polled = handling.poll(cx);
    // What the caller has not taken stays in the queue, which is bounded.
    let mut takes = link.with_wire(|wire| wire.poll_flush(cx));
    while let Poll::Ready(Ok(())) = takes
        && let Some((status, fields)) = caller.interim.pop()
    {
        if asked.version == Version::HTTP_10 {
            // It knows no interim answers (RFC 9110, section 15.2).
            continue;
        }
        *continued |= status == StatusCode::CONTINUE;
        takes = link.with_wire(|wire| {
            let head = |out: &mut Vec<u8>| {
                let said = encode::Said::Nothing;
                encode::response_head(out, asked.version, status, &fields, said, After::Unsaid);
            };
            match wire.write(cx, |batch| head(batch.small())) {
                Ok(()) => wire.poll_flush(cx),
                Err((error, _)) => Poll::Ready(Err(error)),
            }
        });
    }
    if let Poll::Ready(answer) = polled {
        return Poll::Ready(Some(answer));
    }
    if matches!(takes, Poll::Ready(Err(_))) || link.has_left() || link.poll_left(cx).is_ready() {
        return Poll::Ready(None);
    }
    Poll::Pending
}

/// An answer that is being written.
struct Giving<B> {
    coding: Coding,
    body: B,
    /// All of it is handed over; the last may still have to be written.
    ended: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Giving<B> {
    async fn write(
        &mut self,
        link: &Link,
        asked: &Asked,
        parts: response::Parts,
        keep: bool,
        tunnel: bool,
    ) -> End {
        let (coding, said) = if tunnel {
            (Coding::Raw, encode::Said::Nothing)
        } else {
            let (status, fields) = (parts.status, &parts.headers);
            let (method, version) = (&asked.method, asked.version);
            encode::response_coding(status, fields, &self.body, method, version)
        };
        self.coding = coding;
        let after = if tunnel && parts.status == StatusCode::SWITCHING_PROTOCOLS {
            After::Upgrade
        } else if tunnel {
            After::Unsaid
        } else if !keep || coding == Coding::Raw {
            After::Close
        } else if asked.version == Version::HTTP_10 {
            After::KeepAlive
        } else {
            After::Unsaid
        };
        let mut head = Some(|out: &mut Vec<u8>| {
            let (version, status, fields) = (asked.version, parts.status, &parts.headers);
            encode::response_head(out, version, status, fields, said, after);
        });
        poll_fn(|cx| self.poll_write(cx, link, tunnel, &mut head)).await
    }

    /// Writes as long as there is something and the caller takes it; the head
    /// goes with the first piece.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        link: &Link,
        tunnel: bool,
        head: &mut Option<impl FnOnce(&mut Vec<u8>)>,
    ) -> Poll<End> {
        loop {
            let flushed = link.with_wire(|wire| wire.poll_flush(cx));
            if ready!(flushed).is_err() {
                return Poll::Ready(End::Abort);
            }
            if self.ended {
                return Poll::Ready(End::KeepAlive);
            }
            // Not under the wire: this may read the request's body from it.
            let mut gathered = send::gather(&mut self.body, cx);
            if head.is_some() || !gathered.is_empty() {
                let coding = &mut self.coding;
                let written = link.with_wire(|wire| {
                    wire.write(cx, |batch| {
                        if let Some(head) = head.take() {
                            head(batch.small());
                        }
                        gathered.encode(coding, batch)
                    })
                });
                if !matches!(written, Ok(Ok(()))) {
                    return Poll::Ready(End::Abort);
                }
            }
            match gathered.end {
                BodyEnd::Enough => {}
                BodyEnd::Whole(_) => self.ended = true,
                BodyEnd::Broke(_) if self.coding == Coding::Raw => return Poll::Ready(End::Reset),
                BodyEnd::Broke(_) => return Poll::Ready(End::Abort),
                BodyEnd::Waiting => {
                    let _ = link.with_wire(|wire| wire.poll_flush(cx));
                    if !tunnel && (link.has_left() || link.poll_left(cx).is_ready()) {
                        return Poll::Ready(End::Abort);
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
