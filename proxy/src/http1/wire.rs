//! One connection's socket with what was read of it too early and what could
//! not be written yet. An idle one holds no buffer: it is read into the
//! worker's, and what belongs to nobody yet is copied out exactly.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::batch::Batch;
use super::limits::{BUFFER_BYTES, COPIED_BYTES, DIRECT_BYTES};
use super::scan::{HeadError, HeadScan};
use crate::io::Stream;
use crate::relay::Scratch;

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
pub enum HeadFault {
    /// The connection broke, or closed within the head.
    #[error("the connection broke off: {0}")]
    Broke(#[from] io::Error),
    /// What came is none.
    #[error(transparent)]
    Wrong(#[from] HeadError),
}

/// A connection as bytes.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    scratch: Scratch,
    /// Read already, and nobody's yet.
    pub unread: Bytes,
    /// The beginning of a head that has not come whole.
    partial: Vec<u8>,
    scan: HeadScan,
    /// What is left of a buffer into which a large body is read.
    direct: BytesMut,
    /// What the peer did not take yet.
    unsent: VecDeque<Bytes>,
    /// It was closed, or something came, while it was idle.
    spoilt: Cell<bool>,
    /// The peer was to be told that no more will come, and the socket was full.
    closing: Cell<bool>,
}

impl Wire {
    /// `stream`, of which `unread` was read before.
    pub fn new(stream: Stream, unread: Bytes, scratch: &Scratch) -> Self {
        Self {
            stream,
            scratch: scratch.clone(),
            unread,
            partial: Vec::new(),
            scan: HeadScan::default(),
            direct: BytesMut::new(),
            unsent: VecDeque::new(),
            spoilt: Cell::new(false),
            closing: Cell::new(false),
        }
    }

    /// The connection.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether everything is written.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    /// What the peer has not taken of what was said.
    pub fn unsent_bytes(&self) -> u64 {
        self.unsent.iter().map(|bytes| bytes.len() as u64).sum()
    }

    /// How much of a head has come.
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Whether nothing is under way, and the peer has neither closed nor sent
    /// anything. No system call unless the reactor saw something come in.
    pub fn is_idle(&self) -> bool {
        if self.spoilt.get() || !self.unread.is_empty() || !self.unsent.is_empty() {
            return false;
        }
        let is_quiet = matches!(
            self.stream.try_read(&mut [0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock
        );
        // What was read now is lost for whoever asks again.
        self.spoilt.set(!is_quiet);
        is_quiet
    }

    /// Whether the peer has closed its side, or broke off, behind what of its
    /// may still be unread.
    pub fn has_peer_left(&self) -> bool {
        let ready = pin!(self.stream.read_readiness());
        // Whether or not, nobody is to be woken for it.
        let polled = ready.poll(&mut Context::from_waker(Waker::noop()));
        matches!(polled, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    /// Tells the peer that no more will come.
    pub fn shutdown(&self) {
        self.closing.set(!self.stream.shutdown());
    }

    /// What [`Wire::shutdown`] could not say is said as soon as it can be.
    fn go_on_closing(&mut self, cx: &mut Context<'_>) {
        if self.closing.get() && self.poll_shutdown(cx).is_ready() {
            self.closing.set(false);
        }
    }

    /// As [`Wire::shutdown`]; ready when that has gone out.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// The next head, exactly; what follows it is [`Wire::unread`]. `None` when
    /// the peer closed before one began.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, HeadFault>> {
        if !self.unread.is_empty() {
            if let Some(range) = self.scan.find(&self.unread)? {
                self.scan = HeadScan::default();
                self.unread.advance(range.start);
                return Poll::Ready(Ok(Some(self.unread.split_to(range.len()))));
            }
            self.partial.extend_from_slice(&self.unread);
            self.unread = Bytes::new();
        }
        loop {
            let Self {
                stream,
                scratch,
                partial,
                scan,
                ..
            } = self;
            let mut buffer = scratch.reading();
            let mut read = ReadBuf::new(&mut buffer);
            ready!(Pin::new(stream).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(if partial.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                });
            }
            let (head, rest) = if partial.is_empty() {
                let Some(range) = scan.find(bytes)? else {
                    partial.extend_from_slice(bytes);
                    continue;
                };
                head_and_rest(&bytes[range.start..], range.len())
            } else {
                partial.extend_from_slice(bytes);
                let Some(range) = scan.find(partial)? else {
                    continue;
                };
                let mut whole = Bytes::from(std::mem::take(partial));
                whole.advance(range.start);
                (whole.split_to(range.len()), whole)
            };
            self.scan = HeadScan::default();
            self.unread = rest;
            return Poll::Ready(Ok(Some(head)));
        }
    }

    /// Reads once; `take` is given what came, nothing at the end.
    pub fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<T>> {
        self.go_on_closing(cx);
        let mut buffer = self.scratch.reading();
        let mut read = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(take(read.filled())))
    }

    /// Reads once, at most `limit` bytes, into a buffer of the reader's own.
    pub fn poll_read_direct(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<io::Result<Bytes>> {
        self.go_on_closing(cx);
        // No buffer as long as there is nothing to put into it.
        ready!(self.stream.poll_read_ready(cx))?;
        if self.direct.capacity() < DIRECT_BYTES.min(limit) {
            self.direct = BytesMut::with_capacity(limit.min(BUFFER_BYTES));
        }
        let limit = limit.min(BUFFER_BYTES);
        ready!(self.stream.poll_read_into(cx, &mut self.direct, limit))?;
        let read = self.direct.split().freeze();
        if self.direct.capacity() < DIRECT_BYTES {
            self.direct = BytesMut::new();
        }
        Poll::Ready(Ok(read))
    }

    /// A body has ended: what is left of its buffer goes.
    pub fn release(&mut self) {
        if self.direct.capacity() > 0 {
            self.direct = BytesMut::new();
        }
    }

    /// Writes what `fill` puts together, in one system call where the peer
    /// takes it; the rest waits for [`Wire::poll_flush`].
    ///
    /// # Errors
    /// The socket's; with it, whether anything of this was written.
    pub fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        fill: impl FnOnce(&mut Batch<'_>) -> T,
    ) -> Result<T, (io::Error, bool)> {
        let scratch = self.scratch.clone();
        let mut small = scratch.writing();
        let mut batch = Batch::new(&mut small);
        let filled = fill(&mut batch);
        let mut written = 0;
        if self.unsent.is_empty() {
            let bytes = batch.len();
            while written < bytes {
                match batch.poll_write(Pin::new(&mut self.stream), cx, written) {
                    Poll::Ready(Ok(0)) => {
                        return Err((io::ErrorKind::WriteZero.into(), written > 0));
                    }
                    Poll::Ready(Ok(more)) => written += more,
                    Poll::Ready(Err(error)) => return Err((error, written > 0)),
                    Poll::Pending => break,
                }
            }
        }
        batch.keep_rest(written, &mut self.unsent);
        Ok(filled)
    }

    /// Writes what could not be written before.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.unsent.front_mut() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, first))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            first.advance(written);
            if first.is_empty() {
                self.unsent.pop_front();
            }
        }
        if self.unsent.capacity() > 0 {
            self.unsent = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// The head, and what follows it; in one buffer where that is small, since the
/// head's fields keep theirs for as long as the request lives.
fn head_and_rest(bytes: &[u8], head: usize) -> (Bytes, Bytes) {
    if bytes.len() <= COPIED_BYTES {
        let mut whole = Bytes::copy_from_slice(bytes);
        if bytes.len() == head {
            return (whole, Bytes::new());
        }
        return (whole.split_to(head), whole);
    }
    (
        Bytes::copy_from_slice(&bytes[..head]),
        Bytes::copy_from_slice(&bytes[head..]),
    )
}
