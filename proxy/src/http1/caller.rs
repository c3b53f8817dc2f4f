//! The caller's side of an HTTP/1.1 connection, under hyper: what it is doing
//! right now, and Remora's own words where hyper refuses a malformed request.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::caller::CallerState;
use crate::clock;
use crate::io::Prefixed;

/// What hyper writes on its own.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Everything that was said is written, and no request is in hand: what
    /// hyper writes now is its own.
    quiet: Cell<bool>,
    /// hyper refused a request with this status.
    refused: Cell<Option<u16>>,
}

impl Refusals {
    /// Of a new connection.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            quiet: Cell::new(true),
            refused: Cell::new(None),
        })
    }

    /// A request's head has come in whole.
    pub fn begin(&self) {
        self.quiet.set(false);
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
    refusals: Rc<Refusals>,
    /// Our answer in place of hyper's, and how much of it is written.
    replacement: Option<(Vec<u8>, usize)>,
}

impl CallerIo {
    /// `stream` with its state kept in `state`.
    pub fn new(stream: Prefixed, state: Rc<CallerState>, refusals: Rc<Refusals>) -> Self {
        Self {
            stream,
            state,
            refusals,
            replacement: None,
        }
    }

    /// Between requests everything that hyper writes is its own refusal of a
    /// malformed one, so it can be told apart without looking into anybody's
    /// body. A refusal that comes before the last answer was taken whole goes
    /// out in hyper's words.
    fn replace(&mut self, bytes: &[u8]) -> bool {
        if !self.refusals.quiet.get() || self.replacement.is_some() {
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
        self.refusals.refused.set(Some(status));
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
        if buffer.filled().len() > before && !self.state.in_exchange() {
            self.state.heard(clock::now());
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
        if !self.state.in_exchange() {
            self.refusals.quiet.set(true);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
