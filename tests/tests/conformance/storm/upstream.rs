//! The application behind the sidecars: HTTP/2 by the `h2` crate, doing with
//! each stream what its path says.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::plan::{Ending, Wait};

/// Streams at a time on one connection: fewer than there are, so that there is
/// more than one connection.
const MAX_STREAMS: u32 = 4_000;
/// How often it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes that go into one frame.
const CHUNK: usize = 8 * 1024;

/// What an application takes for an attack, and then closes the connection.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// As the `h2` crate, and all that is built on it, has it: more than 20
    /// streams that are reset before it has taken them up, or 128 frames of a
    /// byte that are not the last of their streams and wait to be read.
    Usual,
    /// As servers that do not count so.
    Endless,
}

/// What the application has seen.
pub struct Upstream {
    /// Streams that are being served.
    pub open: AtomicI64,
    /// Streams that wait to be released.
    pub held: AtomicI64,
    /// Connections so far.
    pub connections: AtomicU64,
    /// Connections that ended otherwise than by their client's leave.
    pub broken: Mutex<Vec<String>>,
    release: watch::Sender<u64>,
}

impl Upstream {
    /// Listens at `address`.
    pub fn start(address: SocketAddr, patience: Patience) -> Arc<Self> {
        let upstream = Arc::new(Self {
            open: AtomicI64::new(0),
            held: AtomicI64::new(0),
            connections: AtomicU64::new(0),
            broken: Mutex::default(),
            release: watch::Sender::new(0),
        });
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let served = Arc::downgrade(&upstream);
        // A thread of its own, which the clients do not keep from reading.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, served, patience));
        });
        upstream
    }

    /// Lets go of every stream that is held now.
    pub fn release(&self) {
        self.release.send_modify(|round| *round += 1);
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, patience: Patience) {
        stream.set_nodelay(true).unwrap();
        let mut builder = Builder::new();
        builder.max_concurrent_streams(MAX_STREAMS);
        if let Patience::Endless = patience {
            // By half of this window `h2` counts small frames that wait to be read.
            builder
                .max_pending_accept_reset_streams(usize::MAX)
                .initial_connection_window_size(16 << 20);
        }
        let ended = match builder.handshake::<_, Bytes>(stream).await {
            Ok(mut connection) => loop {
                match connection.accept().await {
                    Some(Ok((request, respond))) => {
                        tokio::spawn(Arc::clone(&self).stream(request, respond));
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
            Err(error) => Some(error),
        };
        // A peer that is gone is no fault of the connection.
        if let Some(error) = ended.filter(|error| !error.is_io()) {
            self.broken.lock().unwrap().push(error.to_string());
        }
    }

    async fn stream(self: Arc<Self>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        self.open.fetch_add(1, SeqCst);
        // What ends it early was reset by the caller: nothing is left to do.
        let _ = self.answer(request, respond).await;
        self.open.fetch_sub(1, SeqCst);
    }

    async fn answer(
        &self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let (wait, ending) = super::plan::read(request.uri().path());
        let mut body = request.into_body();
        while let Some(chunk) = body.data().await {
            body.flow_control().release_capacity(chunk?.len())?;
        }
        self.wait(wait, &mut respond).await?;
        let (status, bytes, broken) = match ending {
            Ending::Reset => {
                respond.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Ending::Refuse => {
                respond.send_reset(Reason::REFUSED_STREAM);
                return Ok(());
            }
            Ending::Answer(bytes) => (200, bytes, false),
            Ending::Break(bytes) => (200, bytes, true),
        };
        let head = Response::builder().status(status).body(()).unwrap();
        let mut stream = respond.send_response(head, false)?;
        let mut left = bytes;
        while left > 0 {
            stream.reserve_capacity(left.min(CHUNK));
            let Some(capacity) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return Ok(());
            };
            let size = capacity?.min(left);
            stream.send_data(Bytes::from(vec![b'x'; size]), false)?;
            left -= size;
        }
        if broken {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        stream.send_data(Bytes::new(), true)
    }

    async fn wait(&self, wait: Wait, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
        let reset = poll_fn(|cx| respond.poll_reset(cx));
        match wait {
            Wait::Held => {
                let mut release = self.release.subscribe();
                self.held.fetch_add(1, SeqCst);
                tokio::select! {
                    _ = release.changed() => {}
                    _ = reset => {}
                }
                self.held.fetch_sub(1, SeqCst);
            }
            Wait::Milliseconds(time) => {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(time)) => {}
                    _ = reset => {}
                }
            }
        }
        Ok(())
    }
}

/// Serves for as long as somebody holds the application.
async fn serve(listener: std::net::TcpListener, upstream: Weak<Upstream>, patience: Patience) {
    let listener = TcpListener::from_std(listener).unwrap();
    while upstream.strong_count() > 0 {
        let Ok(accepted) = tokio::time::timeout(LOOK, listener.accept()).await else {
            continue;
        };
        let (Ok((stream, _)), Some(upstream)) = (accepted, upstream.upgrade()) else {
            return;
        };
        upstream.connections.fetch_add(1, SeqCst);
        tokio::spawn(upstream.connection(stream, patience));
    }
}
