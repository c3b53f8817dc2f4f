//! Connections to the streams' port: accepted, and given out once their TLS
//! handshake is done. Handshakes are done side by side, bounded in count and
//! time, so that a caller which is slow, or says nothing, holds up nobody.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at once.
const MAX_CONNECTIONS: usize = 32_768;
/// Connections of one address at once: behind one there may be a whole node.
const MAX_CONNECTIONS_OF_ONE: usize = 4_096;
/// Handshakes at once.
const MAX_HANDSHAKES: usize = 4_096;
/// Handshakes of one address at once. What comes beyond is closed: nobody can
/// take the places of all by beginning handshakes that never end.
const MAX_HANDSHAKES_OF_ONE: usize = 128;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are done and wait to be taken.
const MAX_WAITING: usize = 64;
/// How long until the next try when the system has no room for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection with TLS.
pub struct Encrypted {
    stream: TlsStream<TcpStream>,
    _place: Place,
}

/// A connection's place among all of them, and among those of its address.
type Place = (OwnedSemaphorePermit, Share);

/// What each address has of something, and may have.
struct Shares {
    most: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Shares {
    fn of(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// One more of this address; `None` where it has all that it may have.
    fn take(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share {
            of: Arc::clone(self),
            address,
        })
    }
}

/// Given back when it is dropped.
struct Share {
    of: Arc<Shares>,
    address: IpAddr,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// Accepts for as long as what it gives out is taken.
pub fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> mpsc::Receiver<io::Result<Encrypted>> {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    tokio::spawn(async move {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        let connections_of_one = Shares::of(MAX_CONNECTIONS_OF_ONE);
        let handshakes_of_one = Shares::of(MAX_HANDSHAKES_OF_ONE);
        loop {
            let (Ok(connection), Ok(handshake)) = (
                connections.clone().acquire_owned().await,
                handshakes.clone().acquire_owned().await,
            ) else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let address = peer.ip().to_canonical();
                    let (Some(share), Some(beginning)) = (
                        connections_of_one.take(address),
                        handshakes_of_one.take(address),
                    ) else {
                        tracing::debug!(%peer, "too many connections of one address");
                        continue;
                    };
                    let (acceptor, sender) = (acceptor.clone(), sender.clone());
                    tokio::spawn(async move {
                        handshaken(stream, acceptor, sender, (connection, share)).await;
                        drop((handshake, beginning));
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    receiver
}

async fn handshaken(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<io::Result<Encrypted>>,
    place: Place,
) {
    let peer = stream.peer_addr().ok();
    // What is sent is small and waited for.
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let encrypted = Encrypted {
                stream,
                _place: place,
            };
            // Nobody takes it: the process ends.
            let _ = sender.send(Ok(encrypted)).await;
        }
        Ok(Err(error)) => tracing::debug!(?peer, %error, "a handshake failed"),
        Err(_) => tracing::debug!(?peer, "a handshake took too long"),
    }
}

impl Connected for Encrypted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.get_ref().0.connect_info()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_all_that_it_may_have_takes_nothing_of_others() {
        let shares = Shares::of(2);
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let taken = [shares.take(address(1)), shares.take(address(1))];
        assert!(taken.iter().all(Option::is_some) && shares.take(address(1)).is_none());
        assert!(shares.take(address(2)).is_some());
        drop(taken);
        assert!(shares.take(address(1)).is_some());
        assert!(shares.taken.lock().unwrap().is_empty(), "nothing is kept");
    }
}
