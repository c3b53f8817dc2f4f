//! The socket under an HTTP/2 connection.
//!
//! `h2` flushes nearly each frame with a system call of its own. So here a poll
//! of the connection's task begins with [`Deferred::begin`] and ends with
//! [`Deferred::end`]: what `h2` writes in between is gathered and goes out in
//! one call, and what it reads comes from one large read. An idle connection
//! holds no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;
use super::settings::SOCKET_STALL;
use super::stall::Stall;
use crate::io::Prefixed;

/// One read, and all that one poll reads of a caller's connection: other
/// connections, and the requests that came, have their turn before more is read.
pub const READ_BYTES: usize = 64 * 1024;

/// All that one poll reads of a connection upstream. The more of an answer is in
/// hand when its caller's turn comes, the fewer are the writes to that caller,
/// each of which wakes somebody, and the windows that are given back.
pub const UPSTREAM_TURN_BYTES: usize = 4 * READ_BYTES;

/// What is left of that and less is not worth a read of its own.
const LEAST_READ_BYTES: usize = 4 * 1024;

/// What is gathered is written without copying more to it from here on.
const GATHER_BYTES: usize = 64 * 1024;

/// What a socket that takes nothing may leave unwritten; then `h2` waits.
pub const UNWRITTEN_BYTES: usize = 256 * 1024;

/// For so long, and so much, a peer to which we said GOAWAY is still heard.
const LINGER: Duration = Duration::from_millis(500);
/// See [`LINGER`].
const LINGER_BYTES: usize = 1024 * 1024;

/// Buffers that a worker keeps for the next poll that reads or writes. More
/// than one is in use only while sockets are full.
const SPARE_BUFFERS: usize = 4;

thread_local! {
    static SPARE: RefCell<Spare> = const {
        RefCell::new(Spare { read: Vec::new(), write: Vec::new() })
    };
}

struct Spare {
    read: Vec<Box<[u8]>>,
    write: Vec<Vec<u8>>,
}

/// A socket whose writes wait for the end of the poll.
#[derive(Clone, Debug)]
pub struct Deferred(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: Prefixed,
    frames: Frames,
    /// What was read and not yet taken.
    read: Option<Read>,
    /// Bytes that a poll may read.
    turn: usize,
    /// Bytes that this poll may still read.
    may_read: usize,
    /// The socket had nothing more in this poll.
    drained: bool,
    unwritten: Vec<u8>,
    /// Of `unwritten`, what the socket has taken.
    written: usize,
    /// `h2` waits for room.
    blocked: bool,
    sent_bytes: u64,
}

#[derive(Debug)]
struct Read {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// What a poll came to, as far as the socket goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is to be done until the socket or a stream wakes the task.
    Wait,
    /// There is more to do at once: the task wakes itself.
    Again,
}

impl Deferred {
    /// `stream`, whose peer sends `frames`, of which one poll reads `turn` bytes.
    pub fn new(stream: Prefixed, frames: Frames, turn: usize) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            stream,
            frames,
            read: None,
            turn,
            may_read: turn,
            drained: false,
            unwritten: Vec::new(),
            written: 0,
            blocked: false,
            sent_bytes: 0,
        })))
    }

    /// Goes out before all that is written later.
    pub fn say_first(&self, bytes: &[u8]) {
        self.0.borrow_mut().gather(bytes);
    }

    /// A poll of the connection's task begins.
    pub fn begin(&self) {
        let mut inner = self.0.borrow_mut();
        inner.may_read = inner.turn;
        inner.drained = false;
    }

    /// The poll ends: writes what was gathered.
    ///
    /// # Errors
    /// The socket's.
    pub fn end(&self, cx: &mut Context<'_>) -> io::Result<Turn> {
        let inner = &mut *self.0.borrow_mut();
        if let Poll::Ready(Err(error)) = inner.poll_drain(cx) {
            return Err(error);
        }
        // h2 was told to wait for room, and there is room now without the socket
        // having anything left to wake us with.
        let room = std::mem::take(&mut inner.blocked) && inner.waiting() < UNWRITTEN_BYTES;
        Ok(if room || inner.may_read == 0 {
            Turn::Again
        } else {
            Turn::Wait
        })
    }

    /// Ready when the socket has not taken any of what waits for [`SOCKET_STALL`].
    pub fn poll_stalled(&self, stall: &mut Stall, cx: &mut Context<'_>) -> Poll<()> {
        let inner = self.0.borrow();
        if inner.waiting() == 0 {
            return Poll::Pending;
        }
        stall.poll(inner.sent_bytes, SOCKET_STALL, cx)
    }

    /// Ends the connection both ways, now. The peer sees that before anything
    /// that is sent to it later.
    pub fn close(&self) {
        self.0.borrow().stream.stream().close();
    }

    /// Our last words have been written, and the peer still speaks: reads it, for
    /// at most [`LINGER`] and [`LINGER_BYTES`], because a socket that is closed
    /// with bytes unread takes our words back from the peer (RFC 9112, section
    /// 9.6, says so of HTTP/1.1).
    pub async fn linger(&self) {
        let mut left = LINGER_BYTES;
        let discard = poll_fn(|cx| {
            let inner = &mut *self.0.borrow_mut();
            loop {
                inner.read = None;
                inner.may_read = READ_BYTES.min(left);
                match inner.poll_fill(cx) {
                    Poll::Ready(Ok(Some(read))) => {
                        left -= read.end;
                        release_read(read.buffer);
                        if left == 0 {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        // Whether the peer was done or not, that is all.
        let _ = tokio::time::timeout(LINGER, discard).await;
    }

    /// Bytes that the socket has taken since it was opened.
    pub fn sent_bytes(&self) -> u64 {
        self.0.borrow().sent_bytes
    }

    /// Asks about what came.
    pub fn frames<T>(&self, ask: impl FnOnce(&mut Frames) -> T) -> T {
        ask(&mut self.0.borrow_mut().frames)
    }
}

impl Inner {
    fn waiting(&self) -> usize {
        self.unwritten.len() - self.written
    }

    fn gather(&mut self, bytes: &[u8]) {
        if self.unwritten.capacity() == 0 {
            self.unwritten = SPARE
                .with_borrow_mut(|spare| spare.write.pop())
                .unwrap_or_default();
        }
        if self.written > self.unwritten.len() / 2 {
            // Else a socket that always takes a little would make it grow for ever.
            self.unwritten.drain(..self.written);
            self.written = 0;
        }
        self.unwritten.extend_from_slice(bytes);
    }

    fn took(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.frames.sent(bytes);
    }

    /// Everything gathered has gone out: the buffer is free for others.
    fn release_unwritten(&mut self) {
        self.written = 0;
        let mut buffer = std::mem::take(&mut self.unwritten);
        // A buffer that grew for a socket which took nothing is given back whole.
        if buffer.capacity() == 0 || buffer.capacity() > 2 * GATHER_BYTES {
            return;
        }
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.write.len() < SPARE_BUFFERS {
                spare.write.push(buffer);
            }
        });
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.unwritten.len() {
            let bytes = &self.unwritten[self.written..];
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += taken;
            self.took(taken);
        }
        self.release_unwritten();
        Poll::Ready(Ok(()))
    }

    /// Writes what was gathered and `slices` without copying them. Gives how
    /// much of `slices` was taken.
    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        const SLICES: usize = 8;
        let waiting = self.waiting();
        let mut all = [IoSlice::new(&[]); SLICES];
        all[0] = IoSlice::new(&self.unwritten[self.written..]);
        let used = slices.len().min(SLICES - 1);
        all[1..=used].copy_from_slice(&slices[..used]);
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &all[..=used]))?;
        if taken == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.took(taken);
        if taken < waiting {
            self.written += taken;
            return Poll::Ready(Ok(0));
        }
        self.release_unwritten();
        Poll::Ready(Ok(taken - waiting))
    }

    fn poll_write_slices(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting() + bytes > GATHER_BYTES
            && let Poll::Ready(taken) = self.poll_write_through(cx, slices)?
            && taken > 0
        {
            return Poll::Ready(Ok(taken));
        }
        if self.waiting() >= UNWRITTEN_BYTES {
            self.blocked = true;
            return Poll::Pending;
        }
        for slice in slices {
            self.gather(slice);
        }
        Poll::Ready(Ok(bytes))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Read>>> {
        let mut buffer = SPARE
            .with_borrow_mut(|spare| spare.read.pop())
            .unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
        let mut target = ReadBuf::new(&mut buffer[..self.may_read.min(READ_BYTES)]);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut target);
        let end = target.filled().len();
        if !matches!(polled, Poll::Ready(Ok(()))) || end == 0 {
            release_read(buffer);
            return polled.map_ok(|()| None);
        }
        self.frames.came(&buffer[..end]);
        self.may_read -= end;
        if self.may_read < LEAST_READ_BYTES {
            self.may_read = 0;
        }
        Poll::Ready(Ok(Some(Read {
            buffer,
            start: 0,
            end,
        })))
    }
}

fn release_read(buffer: Box<[u8]>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.read.len() < SPARE_BUFFERS {
            spare.read.push(buffer);
        }
    });
}

impl AsyncRead for Deferred {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if inner.read.is_none() {
            // The task is woken by the socket, or at the end of this poll.
            if inner.drained || inner.may_read == 0 {
                return Poll::Pending;
            }
            match inner.poll_fill(cx)? {
                Poll::Ready(Some(read)) => inner.read = Some(read),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    inner.drained = true;
                    return Poll::Pending;
                }
            }
        }
        if let Some(mut read) = inner.read.take() {
            let taken = (read.end - read.start).min(target.remaining());
            target.put_slice(&read.buffer[read.start..read.start + taken]);
            read.start += taken;
            if read.start < read.end {
                inner.read = Some(read);
            } else {
                release_read(read.buffer);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Deferred {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0
            .borrow_mut()
            .poll_write_slices(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write_slices(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}
