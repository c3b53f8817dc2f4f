//! The webhook's HTTPS: connections in, reviews to [`Webhook`], answers out.
//!
//! # Layout
//! - [`tls`]: which certificate, changeable under open connections.
//! - [`connection`]: the life of one connection.
//! - [`body`]: a request's body, bounded in size, in time and over all.
//!
//! The webhook has no way to know who asks (API servers present no certificate
//! unless each is told to), so that any pod may: what one of them can hold of
//! connections, memory and time is bounded, and an answer tells nothing that
//! the question did not.

pub mod body;
pub mod connection;
pub mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::webhook::Webhook;
use connection::Shared;

/// Connections at once. An API server speaks HTTP/1.1 here, one connection for
/// each pod that is just being made: of these it takes 200 at once by default.
const MAX_CONNECTIONS: usize = 1024;
/// How long open connections may take to end.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept: nothing but time brings descriptors back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not begun.
    Serving,
    /// Reviews still come, and are answered; each answer asks its sender to
    /// close the connection. An idle HTTP/1.1 connection cannot be closed from
    /// here without a risk: a review that is just being sent would be lost,
    /// and API servers do not send it again.
    Leaving,
    /// No more reviews.
    Ending,
}

/// Serves until the end; then takes no new connection, and gives open ones
/// ten seconds for what is in flight.
///
/// # Errors
/// When TLS cannot be had.
pub async fn run(
    listener: TcpListener,
    webhook: Arc<Webhook>,
    served: Arc<tls::Served>,
    mut stage: watch::Receiver<Stage>,
) -> anyhow::Result<()> {
    let shared = Arc::new(Shared::new(webhook, tls::acceptor(served)?));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            // Else the ended would be kept until the end.
            Some(_) = connections.join_next() => continue,
            // The sender lives as long as the process does.
            _ = stage.wait_for(|stage| *stage == Stage::Ending) => break,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, stage) = (shared.clone(), stage.clone());
        connections.spawn(async move {
            connection::serve(stream, shared, stage).await;
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, ended).await.is_err() {
        tracing::warn!(timeout = ?DRAIN_TIMEOUT, "some connections did not end in time");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> anyhow::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // Until one is free, who comes waits in the kernel's queue.
    let place = places.clone().acquire_owned().await?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}
