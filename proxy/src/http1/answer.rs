//! Gives one answer: waits for it, passes interim answers on, writes its head
//! with the first piece of its body, then the rest as the caller takes it.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Body;

use super::encode::{self, After, Coding, Said};
use super::link::Link;
use super::send::{self, End as BodyEnd};
use crate::body::Timed;
use crate::caller::{Caller, Interim};

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

/// A request that its handler has in hand.
pub struct Handled<'a, F> {
    /// The caller's connection.
    pub link: &'a Link,
    /// Has the interim answers.
    pub caller: &'a Caller,
    /// The request.
    pub asked: Asked,
    /// In a box of its own: it is large, and not part of a connection that
    /// waits for its next request.
    pub handling: Pin<Box<F>>,
    /// The caller was told to go on with its body.
    pub continued: bool,
}

impl<F, B> Handled<'_, F>
where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Timed + Unpin,
{
    /// Polls the handler, writes interim answers, and looks whether the caller
    /// left: then there is no answer, and the handler is to be dropped.
    pub fn poll(&mut self, cx: &mut Context<'_>, draining: bool) -> Poll<Option<Box<Giving<B>>>> {
        let polled = self.handling.as_mut().poll(cx);
        let takes = self.pass_interim(cx);
        if let Poll::Ready(answer) = polled {
            if self.caller.interim.broken.get() {
                return Poll::Ready(None);
            }
            return Poll::Ready(self.begin(answer, draining));
        }
        let link = self.link;
        if matches!(takes, Poll::Ready(Err(_))) || link.has_left() || link.poll_left(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        Poll::Pending
    }

    /// What the caller does not take now stays in the queue, which is bounded.
    fn pass_interim(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let version = self.asked.version;
        let mut takes = self.link.with_wire(|wire| wire.poll_flush(cx));
        while let Poll::Ready(Ok(())) = takes
            && let Some((status, fields)) = self.caller.interim.pop()
        {
            if version == Version::HTTP_10 {
                // It knows no interim answers (RFC 9110, section 15.2).
                continue;
            }
            self.continued |= status == StatusCode::CONTINUE;
            takes = self.link.with_wire(|wire| {
                let (said, after) = (Said::Nothing, After::Unsaid);
                let written = wire.write(cx, |batch| {
                    encode::response_head(batch.small(), version, status, &fields, said, after);
                });
                match written {
                    Ok(()) => wire.poll_flush(cx),
                    Err((error, _)) => Poll::Ready(Err(error)),
                }
            });
        }
        takes
    }

    /// The answer is there: how it goes out, and what becomes of the connection.
    fn begin(&self, answer: Response<B>, draining: bool) -> Option<Box<Giving<B>>> {
        let (link, asked) = (self.link, &self.asked);
        let (parts, body) = answer.into_parts();
        let (status, fields) = (parts.status, parts.headers);
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let connects = asked.method == Method::CONNECT;
        let tunnel = asked.tunnel
            && if connects {
                status.is_success()
            } else {
                switches
            };
        if switches && !tunnel {
            // Nothing that follows could be understood by the caller.
            return None;
        }
        link.settle(tunnel);
        // Whether a body follows is known only to a caller that was told to go on.
        let unsure = asked.expects_continue && !self.continued && !link.is_body_ended();
        let keep = asked.keep_alive
            && !(tunnel || unsure || draining || link.has_left() || link.is_malformed());
        let (coding, said) = if tunnel {
            (Coding::Raw, Said::Nothing)
        } else {
            encode::response_coding(status, &fields, &body, &asked.method, asked.version)
        };
        let keep = keep && coding != Coding::Raw;
        let after = match (tunnel, keep) {
            (true, _) if switches => After::Upgrade,
            (true, _) => After::Unsaid,
            (false, false) => After::Close,
            (false, true) if asked.version == Version::HTTP_10 => After::KeepAlive,
            (false, true) => After::Unsaid,
        };
        let head = Head {
            version: asked.version,
            status,
            fields,
            said,
            after,
        };
        Some(Box::new(Giving {
            head: Some(head),
            body,
            coding,
            tunnel: tunnel.then(|| Rc::clone(&self.caller.interim)),
            keep,
            ended: false,
            handed: 0,
        }))
    }
}

/// An answer that is being written.
#[derive(Debug)]
pub struct Giving<B> {
    /// Until it is written.
    head: Option<Head>,
    body: B,
    coding: Coding,
    /// Tells when the upstream of a tunnel says no more.
    tunnel: Option<Rc<Interim>>,
    keep: bool,
    /// All of it is handed over; the last may still have to be written.
    ended: bool,
    /// Bytes handed over.
    handed: u64,
}

#[derive(Debug)]
struct Head {
    version: Version,
    status: StatusCode,
    fields: HeaderMap,
    said: Said,
    after: After,
}

impl<B: Body<Data = Bytes> + Timed + Unpin> Giving<B> {
    /// Writes as long as there is something and the caller takes it; the head
    /// goes with the first piece.
    pub fn poll(&mut self, cx: &mut Context<'_>, link: &Link) -> Poll<End> {
        loop {
            match link.with_wire(|wire| wire.poll_flush(cx)) {
                Poll::Ready(Ok(())) => link.stands(None),
                Poll::Ready(Err(_)) => return Poll::Ready(End::Abort),
                Poll::Pending => {
                    let unsent = link.with_wire(|wire| wire.unsent_bytes());
                    let taken = self.handed.saturating_sub(unsent);
                    link.stands(Some(taken));
                    return self.body.poll_late(taken, cx).map(|()| End::Abort);
                }
            }
            if self.ended {
                return Poll::Ready(self.end(link));
            }
            // Not under the wire: this may read the request's body from it.
            let mut gathered = send::gather(&mut self.body, cx);
            if self.head.is_some() || !gathered.is_empty() {
                let (coding, head) = (&mut self.coding, self.head.take());
                let handed = &mut self.handed;
                let written = link.with_wire(|wire| {
                    wire.write(cx, |batch| {
                        if let Some(head) = &head {
                            head.write(batch.small());
                        }
                        let encoded = gathered.encode(coding, batch);
                        *handed += batch.len() as u64;
                        encoded
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
                    let flushed = link.with_wire(|wire| wire.poll_flush(cx));
                    let broke = matches!(flushed, Poll::Ready(Err(_)));
                    let mut left = || link.has_left() || link.poll_left(cx).is_ready();
                    if broke || (self.tunnel.is_none() && left()) {
                        return Poll::Ready(End::Abort);
                    }
                    if flushed.is_ready()
                        && let Some(interim) = &self.tunnel
                        && interim.half_closed.take()
                    {
                        link.with_wire(|wire| wire.shutdown());
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn end(&self, link: &Link) -> End {
        if self.keep {
            End::KeepAlive
        } else if self.tunnel.is_some() || link.is_quiet() {
            End::Close
        } else {
            End::Linger
        }
    }
}

impl Head {
    fn write(&self, out: &mut Vec<u8>) {
        encode::response_head(
            out,
            self.version,
            self.status,
            &self.fields,
            self.said,
            self.after,
        );
    }
}
