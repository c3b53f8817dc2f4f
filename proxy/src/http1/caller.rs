//! The caller's side of an HTTP/1.1 connection, under hyper: what it is doing
//! right now, and Remora's own words where hyper refuses a malformed request.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::{self, Timestamp};
use crate::io::Prefixed;

/// What a caller's connection is doing, for the worker's sweep.
#[derive(Debug)]
pub struct CallerState {
    /// A request is between its head and the end of its answer.
    in_exchange: Cell<bool>,
    /// Since when a request's head has been coming in.
    head_since: Cell<Option<Timestamp>>,
    /// When a byte last came.
    last_read: Cell<Timestamp>,
    /// Everything that was said is written, and no request is in hand: what
    /// hyper writes now is its own.
    quiet: Cell<bool>,
    /// hyper refused a request with this status.
    refused: Cell<Option<u16>>,
}

impl CallerState {
    /// A connection that was just accepted.
    pub fn new(now: Timestamp, has_bytes: bool) -> Rc<Self> {
        Rc::new(Self {
            in_exchange: Cell::new(false),
            head_since: Cell::new(has_bytes.then_some(now)),
            last_read: Cell::new(now),
            quiet: Cell::new(true),
            refused: Cell::new(None),
        })
    }

    /// A request's head has come in whole.
    pub fn begin(&self) {
        self.in_exchange.set(true);
        self.quiet.set(false);
        self.head_since.set(None);
    }

    /// The answer has ended.
    pub fn end(&self) {
        self.in_exchange.set(false);
    }

    /// Whether a request is being answered.
    pub fn in_exchange(&self) -> bool {
        self.in_exchange.get()
    }

    /// For how long a request's head has been coming in; `None` between requests.
    pub fn head_age(&self, now: Timestamp) -> Option<std::time::Duration> {
        self.head_since.get().map(|since| now.since(since))
    }

    /// For how long the connection has been between requests without a byte.
    pub fn idle_for(&self, now: Timestamp) -> Option<std::time::Duration> {
        (!self.in_exchange.get()).then(|| now.since(self.last_read.get()))
    }

    /// The status with which hyper refused a request on its own, if it did.
    pub fn refused(&self) -> Option<u16> {
        self.refused.get()
    }
}

/// The stream that hyper reads and writes.
#[derive(Debug)]
pub struct CallerIo {
    stream: Prefixed,
    state: Rc<CallerState>,
    /// Our answer in place of hyper's, and how much of it is written.
    replacement: Option<(Vec<u8>, usize)>,
}

impl CallerIo {
    /// `stream` with its state kept in `state`.
    pub fn new(stream: Prefixed, state: Rc<CallerState>) -> Self {
        Self {
            stream,
            state,
            replacement: None,
        }
    }

    /// Between requests everything that hyper writes is its own refusal of a
    /// malformed one, so it can be told apart without looking into anybody's
    /// body. A refusal that comes before the last answer was taken whole goes
    /// out in hyper's words.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        if !self.state.quiet.get() || self.replacement.is_some() {
            return self.replacement.is_some();
        }
        let Some(status) = bytes
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
        else {
            return false;
        };
        let Some(status) = std::str::from_utf8(status)
            .ok()
            .and_then(|status| status.parse().ok())
        else {
            return false;
        };
        self.state.refused.set(Some(status));
        self.replacement = Some((refusal(status), 0));
        true
    }

    fn poll_replacement(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((bytes, written)) = &mut self.replacement
            && *written < bytes.len()
        {
            let more =
                std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, &bytes[*written..]))?;
            if more == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += more;
        }
        Poll::Ready(Ok(()))
    }
}

fn refusal(status: u16) -> Vec<u8> {
    let (status, detail) = match status {
        431 => (
            "431 Request Header Fields Too Large",
            "the request's head is larger than 64 KiB or has more than 256 fields",
        ),
        414 => ("414 URI Too Long", "the request's target is too long"),
        _ => (
            "400 Bad Request",
            "the request is not well-formed HTTP/1.1; check its request line and header fields",
        ),
    };
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nx-remora-reason: bad_request\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{detail}\n",
        detail.len() + 1
    )
    .into_bytes()
}

impl AsyncRead for CallerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before && !self.state.in_exchange.get() {
            let now = clock::now();
            self.state.last_read.set(now);
            if self.state.head_since.get().is_none() {
                self.state.head_since.set(Some(now));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CallerIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replace(bytes) {
            std::task::ready!(self.poll_replacement(cx))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.first().is_some_and(|first| self.replace(first)) {
            std::task::ready!(self.poll_replacement(cx))?;
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // hyper flushes only when all that it had has been written.
        if !self.state.in_exchange.get() {
            self.state.quiet.set(true);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
