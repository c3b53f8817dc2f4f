//! A connection under TLS, read and written as a socket is.
//!
//! An idle one holds its keys and nothing else: what comes is read into a
//! buffer of the thread, and what goes out waits here only while the socket
//! does not take it.
//!
//! Writing: what the session has encrypted cannot be taken back, but is told as
//! written only once the socket has it. So as long as a write is pending, the
//! next one must begin with the same bytes; every writer in this crate keeps
//! what was not taken, and begins with that.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::socket;

/// What one read of a socket may take: some records.
const READ_BYTES: usize = 64 * 1024;

/// A read asks for so much more than is wanted: a whole record, so that the end
/// of a large body does not come in the small reads of what is still wanted.
const RECORD_BYTES: usize = 16 * 1024 + 256;

thread_local! {
    /// Nobody holds it over a wait.
    static CIPHERTEXT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A connection on which TLS has been agreed.
#[derive(Debug)]
pub struct TlsStream {
    socket: TcpStream,
    state: RefCell<State>,
    /// The end of this connection is no good one: no close_notify is sent.
    broken: Cell<bool>,
}

#[derive(Debug)]
struct State {
    session: Connection,
    /// Read from the socket, and more than the session took.
    unread: Vec<u8>,
    /// Of what the writer still holds, so much is in the session already.
    ahead: usize,
    /// close_notify was said.
    said_close: bool,
}

/// A socket as rustls reads and writes it: what is not there is `WouldBlock`.
pub(super) struct Socket<'a>(pub &'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl State {
    /// Takes ciphertext; gives how much of it. Less than all only while so much
    /// plaintext waits that it must be read first.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.session.read_tls(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                // It says so when its plaintext is to be read first.
                Err(_) if self.has_plaintext() => break,
                Err(error) => return Err(error),
            }
            self.session
                .process_new_packets()
                .map_err(io::Error::other)?;
        }
        Ok(bytes.len() - rest.len())
    }

    fn has_plaintext(&mut self) -> bool {
        let first = self.session.reader().into_first_chunk();
        matches!(first, Ok(bytes) if !bytes.is_empty())
    }

    /// Reads as `read(2)` does: 0 at the end that the peer has declared.
    fn try_read(&mut self, socket: &TcpStream, target: &mut [u8]) -> io::Result<usize> {
        if target.is_empty() {
            return Ok(0);
        }
        let mut filled = 0;
        loop {
            match self.session.reader().read(&mut target[filled..]) {
                // It said close_notify, or the target is full.
                Ok(0) => return Ok(filled),
                Ok(more) => {
                    filled += more;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            if !self.unread.is_empty() {
                let mut unread = std::mem::take(&mut self.unread);
                let taken = self.take(&unread)?;
                if taken < unread.len() {
                    unread.drain(..taken);
                    self.unread = unread;
                }
                continue;
            }
            // What is there is given before the socket is asked again.
            if filled > 0 {
                return Ok(filled);
            }
            match self.fill(socket, target) {
                Ok(more) => filled = more,
                Err(error) => {
                    // The peer is told why, as far as the socket takes it now.
                    let _ = self.session.write_tls(&mut Socket(socket));
                    return Err(error);
                }
            }
        }
    }

    /// Reads the socket once, and puts the plaintext of more records than the
    /// session holds into `target`; gives how much that was.
    fn fill(&mut self, socket: &TcpStream, target: &mut [u8]) -> io::Result<usize> {
        CIPHERTEXT.with_borrow_mut(|buffer| {
            let most = (target.len() + RECORD_BYTES).min(READ_BYTES);
            let read = socket.try_read(&mut buffer[..most])?;
            if read == 0 {
                // So that the session knows that nothing follows.
                self.session.read_tls(&mut io::empty())?;
                return Ok(0);
            }
            if read < most {
                socket::has_no_more(socket);
            }
            let mut filled = 0;
            let mut rest = &buffer[..read];
            loop {
                rest = &rest[self.take(rest)?..];
                if rest.is_empty() || filled == target.len() {
                    break;
                }
                match self.session.reader().read(&mut target[filled..]) {
                    Ok(more) if more > 0 => filled += more,
                    // It said close_notify: nothing counts that follows.
                    _ => break,
                }
            }
            self.unread.extend_from_slice(rest);
            if self.session.wants_write() && self.ahead == 0 {
                // An answer of the session itself, such as to a KeyUpdate; what
                // the socket does not take goes out with the next write.
                let _ = self.session.write_tls(&mut Socket(socket));
            }
            Ok(filled)
        })
    }

    /// Writes what the session has encrypted; gives how much went out.
    fn flush(&mut self, socket: &TcpStream) -> (usize, io::Result<()>) {
        let mut written = 0;
        while self.session.wants_write() {
            match self.session.write_tls(&mut Socket(socket)) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(more) => written += more,
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// See [`TlsStream::try_write`].
    fn try_write(&mut self, socket: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.ahead == 0 {
            let (_, flushed) = self.flush(socket);
            flushed?;
            self.ahead = self.session.writer().write_vectored(slices)?;
            if self.ahead == 0 {
                return Ok(0);
            }
        }
        let (written, flushed) = self.flush(socket);
        match flushed {
            Ok(()) => Ok(std::mem::take(&mut self.ahead)),
            // As long as anything waits, so does a byte of the writer's.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let told = written.min(self.ahead - 1);
                self.ahead -= told;
                if told > 0 { Ok(told) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    fn say_close(&mut self) {
        if !std::mem::replace(&mut self.said_close, true) {
            self.session.send_close_notify();
        }
    }
}

impl TlsStream {
    /// `session`, whose handshake on `socket` is over.
    pub fn new(socket: TcpStream, session: Connection) -> Self {
        Self {
            socket,
            state: RefCell::new(State {
                session,
                unread: Vec::new(),
                ahead: 0,
                said_close: false,
            }),
            broken: Cell::new(false),
        }
    }

    /// The socket beneath it.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether the handshake was a full one.
    pub fn handshake_kind(&self) -> Option<rustls::HandshakeKind> {
        self.state.borrow().session.handshake_kind()
    }

    /// By which group keys were agreed on.
    pub fn key_exchange_group(&self) -> Option<rustls::NamedGroup> {
        let state = self.state.borrow();
        state
            .session
            .negotiated_key_exchange_group()
            .map(|group| group.name())
    }

    /// Whether a read finds something without the socket having more: bytes, or
    /// the end that the peer has declared.
    pub fn has_unread(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        !state.unread.is_empty() || !is_blocked(&state.session.reader().into_first_chunk())
    }

    /// Reads what is there, as [`TcpStream::try_read`] does.
    ///
    /// # Errors
    /// `WouldBlock`; the socket's; what TLS finds wrong; `UnexpectedEof` where
    /// the peer closed without saying so, which may be somebody else's doing.
    pub fn try_read(&self, target: &mut [u8]) -> io::Result<usize> {
        self.state.borrow_mut().try_read(&self.socket, target)
    }

    /// Writes as much as the socket takes, as [`TcpStream::try_write`] does; see
    /// the module's page for what the next write begins with.
    ///
    /// # Errors
    /// `WouldBlock`; the socket's.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.state.borrow_mut().try_write(&self.socket, slices)
    }

    /// See [`AsyncRead`].
    pub fn poll_read_now(
        &self,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let read = self.try_read(target.initialize_unfilled());
            if is_blocked(&read) {
                ready!(self.socket.poll_read_ready(cx))?;
                continue;
            }
            target.advance(read?);
            return Poll::Ready(Ok(()));
        }
    }

    /// See [`AsyncWrite`].
    pub fn poll_write_now(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = self.try_write(slices);
            if is_blocked(&written) {
                ready!(self.socket.poll_write_ready(cx))?;
                continue;
            }
            return Poll::Ready(written);
        }
    }

    /// Says close_notify; ready when that has gone out.
    pub fn poll_say_close(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let state = &mut *self.state.borrow_mut();
            state.say_close();
            let (_, flushed) = state.flush(&self.socket);
            if is_blocked(&flushed) {
                ready!(self.socket.poll_write_ready(cx))?;
                continue;
            }
            return Poll::Ready(flushed);
        }
    }

    /// Says close_notify; whether the socket took it, or never will. What it does
    /// not take yet is tried again when the stream is dropped.
    pub fn say_close(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.say_close();
        !is_blocked(&state.flush(&self.socket).1)
    }

    /// The connection ends badly: the peer is to see no good end.
    pub fn break_off(&self) {
        self.broken.set(true);
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if !self.broken.get() && state.ahead == 0 {
            // A peer that is gone already cannot be told.
            state.say_close();
            let _ = state.flush(&self.socket);
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_now(cx, target)
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_now(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_now(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_say_close(cx))?;
        // A peer that is gone already cannot be told that no more will come.
        let _ = socket2::SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
