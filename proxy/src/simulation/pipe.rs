//! A connection that is two queues of bytes, so that a whole sidecar can be played
//! without a kernel: what is written is there at once, and what ends, ends at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, Ready};

/// What one direction holds before its writer has to wait.
const CAPACITY: usize = 64 * 1024;

/// One end of a connection; dropping it ends the connection.
#[derive(Debug)]
pub struct Pipe {
    both: Arc<[Mutex<Queue>; 2]>,
    /// Which of the two it writes to.
    side: usize,
    resets: Mutex<bool>,
}

/// One direction.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    /// The writer says no more.
    finished: bool,
    /// The connection broke: what was not read yet is lost.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Queue {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

/// A connection, as somebody sees it who does not hold it.
#[derive(Clone, Debug)]
pub struct Watch {
    both: Arc<[Mutex<Queue>; 2]>,
    side: usize,
}

impl Watch {
    /// See [`Pipe::is_left`].
    pub fn is_left(&self) -> bool {
        let queue = self.both[1 - self.side].lock();
        queue.finished || queue.broken
    }

    /// Whether it is the same connection.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.both, &other.both)
    }
}

impl Pipe {
    /// Both ends of a new connection.
    pub fn pair() -> (Self, Self) {
        let both = Arc::new([Mutex::default(), Mutex::default()]);
        let end = |side| Self {
            both: Arc::clone(&both),
            side,
            resets: Mutex::new(false),
        };
        (end(0), end(1))
    }

    /// To look at it from elsewhere.
    pub fn watch(&self) -> Watch {
        Watch {
            both: Arc::clone(&self.both),
            side: self.side,
        }
    }

    fn outgoing(&self) -> &Mutex<Queue> {
        &self.both[self.side]
    }

    fn incoming(&self) -> &Mutex<Queue> {
        &self.both[1 - self.side]
    }

    /// Whether the other end is gone, or will say no more.
    pub fn is_left(&self) -> bool {
        let queue = self.incoming().lock();
        queue.finished || queue.broken
    }

    /// Ends it both ways.
    pub fn close(&self) {
        for queue in &*self.both {
            let queue = &mut *queue.lock();
            queue.finished = true;
            queue.wake();
        }
    }

    /// Breaks it both ways: what is under way is lost.
    pub fn reset(&self) {
        for queue in &*self.both {
            let queue = &mut *queue.lock();
            queue.broken = true;
            queue.bytes.clear();
            queue.wake();
        }
    }

    /// Says no more.
    pub fn finish(&self) {
        let queue = &mut *self.outgoing().lock();
        queue.finished = true;
        queue.wake();
    }

    /// Dropping it breaks it.
    pub fn reset_on_close(&self) {
        *self.resets.lock() = true;
    }

    /// Reads what is there; 0 at the end.
    pub fn try_read(&self, target: &mut [u8]) -> io::Result<usize> {
        let queue = &mut *self.incoming().lock();
        if queue.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let taken = queue.bytes.len().min(target.len());
        if taken == 0 && !queue.finished {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        target[..taken].copy_from_slice(&queue.bytes[..taken]);
        queue.bytes.drain(..taken);
        if let Some(writer) = queue.writer.take() {
            writer.wake();
        }
        Ok(taken)
    }

    /// Writes what there is room for.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let queue = &mut *self.outgoing().lock();
        if queue.broken || queue.finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = CAPACITY.saturating_sub(queue.bytes.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.bytes.extend_from_slice(&bytes[..room]);
        if let Some(reader) = queue.reader.take() {
            reader.wake();
        }
        Ok(room)
    }

    /// Ready when a read would find something.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let queue = &mut *self.incoming().lock();
        if queue.bytes.is_empty() && !queue.finished && !queue.broken {
            queue.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when a write would be taken.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let queue = &mut *self.outgoing().lock();
        let is_full = queue.bytes.len() >= CAPACITY;
        if is_full && !queue.finished && !queue.broken {
            queue.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// As a reactor would have it; never completes where there is nothing.
    pub async fn read_readiness(&self) -> io::Result<Ready> {
        std::future::poll_fn(|cx| self.poll_read_ready(cx)).await?;
        Ok(if self.is_left() {
            Ready::READABLE | Ready::READ_CLOSED
        } else {
            Ready::READABLE
        })
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if *self.resets.lock() {
            self.reset();
        } else {
            self.close();
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_read_ready(cx))?;
        let read = self.try_read(target.initialize_unfilled())?;
        target.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_write_ready(cx))?;
        Poll::Ready(self.try_write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}
