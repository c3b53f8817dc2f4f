//! A port that can be closed for a while, as if nothing ran there.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::trouble::Switches;
use super::{bind, clock};

/// The port.
#[derive(Debug)]
pub struct Door {
    listener: Option<TcpListener>,
    address: Option<SocketAddr>,
    switches: Option<Arc<Switches>>,
}

impl Door {
    /// Closed where the switches say so; without any, always open.
    pub fn new(listener: TcpListener, switches: Option<Arc<Switches>>) -> Self {
        Self {
            address: listener.local_addr().ok(),
            listener: Some(listener),
            switches,
        }
    }

    /// The next connection. May be dropped while it waits, and asked again.
    ///
    /// # Errors
    /// When the system has none to give, or the port cannot be had again.
    pub async fn accept(&mut self) -> io::Result<TcpStream> {
        let Some(switches) = &self.switches else {
            let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            return Ok(listener.accept().await?.0);
        };
        let mut refusals = switches.refusals();
        loop {
            let until = *refusals.borrow_and_update();
            let closed = until.map(|until| until.saturating_duration_since(clock::now()));
            if let Some(closed) = closed.filter(|closed| !closed.is_zero()) {
                self.listener = None;
                tokio::select! {
                    () = tokio::time::sleep(closed) => {}
                    _ = refusals.changed() => {}
                }
                continue;
            }
            if self.listener.is_none() {
                let address = self.address.ok_or(io::ErrorKind::NotConnected)?;
                self.listener = Some(bind(address)?);
            }
            let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            tokio::select! {
                accepted = listener.accept() => return Ok(accepted?.0),
                _ = refusals.changed() => {}
            }
        }
    }

    /// Ends when the port is closed next.
    pub fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let refusals = self.switches.as_ref().map(|switches| switches.refusals());
        async move {
            match refusals {
                Some(mut refusals) => next_closing(&mut refusals).await,
                None => std::future::pending().await,
            }
        }
    }
}

async fn next_closing(refusals: &mut watch::Receiver<Option<std::time::Instant>>) {
    while refusals.changed().await.is_ok() {
        if refusals.borrow_and_update().is_some() {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_closed_door_refuses_ends_what_is_open_and_opens_again() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let switches = Arc::new(Switches::default());
        let mut door = Door::new(listener, Some(Arc::clone(&switches)));
        let _client = TcpStream::connect(address).await.unwrap();
        let _served = door.accept().await.unwrap();
        let cut = door.cut();
        switches.obey("/refuse", "ms=300").unwrap().unwrap();
        cut.await;
        let again = tokio::spawn(async move { door.accept().await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(TcpStream::connect(address).await.is_err());
        tokio::time::sleep(Duration::from_millis(400)).await;
        let _client = TcpStream::connect(address).await.unwrap();
        again.await.unwrap().unwrap();
    }
}
