//! A connection as the engines read and write it: a socket, or TLS on one; and
//! a caller's, whose first bytes were already read by protocol detection.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

#[cfg(test)]
use crate::simulation::pipe::Pipe;
use crate::socket;
use crate::tls::TlsStream;

/// A connection, whichever way it is carried.
#[derive(Debug)]
pub enum Stream {
    /// As it is.
    Plain(TcpStream),
    /// Under TLS.
    Tls(Box<TlsStream>),
    /// Without a kernel.
    #[cfg(test)]
    Simulated(Pipe),
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(socket)
    }
}

impl From<TlsStream> for Stream {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(Box::new(stream))
    }
}

impl Stream {
    /// The socket, for what concerns it alone.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.socket(),
            #[cfg(test)]
            Self::Simulated(_) => unreachable!("it has none"),
        }
    }

    /// See [`socket::end_unacknowledged`].
    ///
    /// # Errors
    /// The socket's.
    pub fn end_unacknowledged(&self, limit: Duration) -> io::Result<()> {
        #[cfg(test)]
        if let Self::Simulated(_) = self {
            return Ok(());
        }
        socket::end_unacknowledged(self.socket(), limit)
    }

    /// Completes when a read may find something.
    ///
    /// # Errors
    /// The socket's.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tls(stream) if stream.has_unread() => Ok(()),
            #[cfg(test)]
            Self::Simulated(pipe) => pipe.read_readiness().await.map(|_| ()),
            _ => self.socket().readable().await,
        }
    }

    /// Completes when the socket takes more.
    ///
    /// # Errors
    /// The socket's.
    pub async fn writable(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Self::Simulated(pipe) = self {
            return std::future::poll_fn(|cx| pipe.poll_write_ready(cx)).await;
        }
        self.socket().ready(Interest::WRITABLE).await.map(|_| ())
    }

    /// Completes when the other side has reset the connection.
    pub async fn broken(&self) {
        #[cfg(test)]
        if let Self::Simulated(_) = self {
            return std::future::pending().await;
        }
        if self.socket().ready(Interest::ERROR).await.is_err() {
            // There is nobody any more who could tell.
            std::future::pending().await
        }
    }

    /// What the reactor knows of the socket's reading side, without a wait.
    pub async fn read_readiness(&self) -> io::Result<Ready> {
        #[cfg(test)]
        if let Self::Simulated(pipe) = self {
            return pipe.read_readiness().await;
        }
        self.socket().ready(Interest::READABLE).await
    }

    /// Ready when a read may find something.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) if stream.has_unread() => Poll::Ready(Ok(())),
            #[cfg(test)]
            Self::Simulated(pipe) => pipe.poll_read_ready(cx),
            _ => self.socket().poll_read_ready(cx),
        }
    }

    /// Reads what is there; 0 at the end.
    ///
    /// # Errors
    /// `WouldBlock`; see [`TlsStream::try_read`].
    pub fn try_read(&self, target: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(target),
            Self::Tls(stream) => stream.try_read(target),
            #[cfg(test)]
            Self::Simulated(pipe) => pipe.try_read(target),
        }
    }

    /// Reads what is there behind what `target` holds, up to its capacity.
    ///
    /// # Errors
    /// As for [`Stream::try_read`].
    pub fn try_read_buf(&self, target: &mut Vec<u8>) -> io::Result<usize> {
        if let Self::Plain(socket) = self {
            return socket.try_read_buf(target);
        }
        let before = target.len();
        target.resize(target.capacity(), 0);
        let read = self.try_read(&mut target[before..]);
        target.truncate(before + read.as_ref().map_or(0, |read| *read));
        read
    }

    /// See [`socket::has_no_more`]; under TLS it is said there.
    pub fn has_no_more(&self) {
        if let Self::Plain(socket) = self {
            socket::has_no_more(socket);
        }
    }

    /// Writes what the socket takes; the next write begins with what it did not
    /// (see [`crate::tls::stream`]).
    ///
    /// # Errors
    /// `WouldBlock`; the socket's.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Tls(stream) => stream.try_write(&[IoSlice::new(bytes)]),
            #[cfg(test)]
            Self::Simulated(pipe) => pipe.try_write(bytes),
        }
    }

    /// Reads once into `target`, at most `limit` bytes.
    pub fn poll_read_into(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut bytes::BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => {
                let mut target = target.limit(limit);
                let reading =
                    std::pin::pin!(tokio::io::AsyncReadExt::read_buf(socket, &mut target));
                reading.poll(cx)
            }
            Self::Tls(stream) => {
                let before = target.len();
                let room = (target.capacity() - before).min(limit);
                target.resize(before + room, 0);
                let mut filling = ReadBuf::new(&mut target[before..]);
                let polled = stream.poll_read_now(cx, &mut filling);
                let read = filling.filled().len();
                target.truncate(before + read);
                polled.map_ok(|()| read)
            }
            #[cfg(test)]
            Self::Simulated(pipe) => {
                let mut target = target.limit(limit);
                std::pin::pin!(tokio::io::AsyncReadExt::read_buf(pipe, &mut target)).poll(cx)
            }
        }
    }

    /// Tells the peer that no more will come. Not so while the socket is full and
    /// TLS has to say it: then it is to be polled for ([`AsyncWrite::poll_shutdown`]).
    pub fn shutdown(&self) -> bool {
        if let Self::Tls(stream) = self
            && !stream.say_close()
        {
            return false;
        }
        #[cfg(test)]
        if let Self::Simulated(pipe) = self {
            pipe.finish();
            return true;
        }
        // A peer that is gone already cannot be told.
        let _ = socket2::SockRef::from(self.socket()).shutdown(Shutdown::Write);
        true
    }

    /// As [`Stream::shutdown`], with all the time that the peer takes.
    pub async fn shutdown_in_order(&self) {
        if let Self::Tls(stream) = self {
            // As below.
            let _ = std::future::poll_fn(|cx| stream.poll_say_close(cx)).await;
        }
        #[cfg(test)]
        if let Self::Simulated(pipe) = self {
            return pipe.finish();
        }
        // A peer that is gone already cannot be told that no more will come.
        let _ = socket2::SockRef::from(self.socket()).shutdown(Shutdown::Write);
    }

    /// Ends the connection both ways, now. The peer sees that before anything
    /// that is sent to it later.
    pub fn close(&self) {
        if let Self::Tls(stream) = self {
            stream.say_close();
        }
        #[cfg(test)]
        if let Self::Simulated(pipe) = self {
            return pipe.close();
        }
        // One that is closed already needs no closing.
        let _ = socket2::SockRef::from(self.socket()).shutdown(Shutdown::Both);
    }

    /// Makes closing it a reset: see [`socket::reset_on_close`].
    pub fn reset_on_close(&self) {
        if let Self::Tls(stream) = self {
            stream.break_off();
        }
        #[cfg(test)]
        if let Self::Simulated(pipe) = self {
            return pipe.reset_on_close();
        }
        socket::reset_on_close(self.socket());
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, target),
            Self::Tls(stream) => stream.poll_read_now(cx, target),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_read(cx, target),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => stream.poll_write_now(cx, &[IoSlice::new(bytes)]),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => stream.poll_write_now(cx, slices),
            #[cfg(test)]
            Self::Simulated(pipe) => {
                // As much as one write takes: the caller asks again for the rest.
                let first = slices.iter().find(|slice| !slice.is_empty());
                Pin::new(pipe).poll_write(cx, first.map_or(&[], |slice| slice))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }
}

/// A connection that gives `prefix` before what comes on it.
#[derive(Debug)]
pub struct Prefixed {
    prefix: Bytes,
    stream: Stream,
}

impl Prefixed {
    /// `stream` with `prefix` put back in front.
    pub fn new(prefix: Bytes, stream: impl Into<Stream>) -> Self {
        Self {
            prefix,
            stream: stream.into(),
        }
    }

    /// Without the first `length` bytes, which were read already.
    #[must_use]
    pub fn without(mut self, length: usize) -> Self {
        self.prefix.advance(length.min(self.prefix.len()));
        self
    }

    /// Whether something was read already.
    pub fn has_prefix(&self) -> bool {
        self.prefix.has_remaining()
    }

    /// What was read already, and the stream.
    pub fn into_parts(self) -> (Bytes, Stream) {
        (self.prefix, self.stream)
    }

    /// The stream itself.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.has_remaining() {
            let taken = self.prefix.len().min(buffer.remaining());
            buffer.put_slice(&self.prefix[..taken]);
            self.prefix.advance(taken);
            if self.prefix.is_empty() {
                // Gives the detection buffer back to the allocator.
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
