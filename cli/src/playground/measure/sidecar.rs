//! One task for each sidecar, asking its admin endpoint what changed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::breakers::Breakers;
use super::client::Client;
use super::identity::Identity;
use super::stats::Stats;

/// How often breakers are asked for: how exact the time of a change is that
/// nobody asked for in between does not depend on it, since changes carry
/// their own time.
const BREAKERS_EVERY: Duration = Duration::from_millis(100);
/// How often, of those, counters are asked for too.
const STATS_EVERY: u32 = 5;

/// What a sidecar said.
#[derive(Debug)]
pub enum Said {
    /// Its breakers.
    Breakers(Breakers),
    /// Its counters.
    Stats(Stats),
    /// Its certificate.
    Identity(Identity),
    /// All of its metrics, as text.
    Metrics(Bytes),
}

/// Starts asking; ends when the receiver is gone or the handle is aborted.
pub fn watch(pod: String, admin: SocketAddr, said: mpsc::Sender<(String, Said)>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut client = Client::new(admin);
        let mut ticks = interval(BREAKERS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0_u32;
        loop {
            ticks.tick().await;
            // A sidecar that does not answer is dead or not yet born: the kubelet knows.
            if let Ok(breakers) = client.json("/breakers").await
                && said
                    .send((pod.clone(), Said::Breakers(breakers)))
                    .await
                    .is_err()
            {
                return;
            }
            if turn.is_multiple_of(STATS_EVERY)
                && let Ok(stats) = client.json("/stats").await
                && said.send((pod.clone(), Said::Stats(stats))).await.is_err()
            {
                return;
            }
            if turn.is_multiple_of(STATS_EVERY)
                && let Ok(identity) = client.json("/identity").await
                && said
                    .send((pod.clone(), Said::Identity(identity)))
                    .await
                    .is_err()
            {
                return;
            }
            if turn.is_multiple_of(STATS_EVERY)
                && let Ok((200, metrics)) = client.get("/metrics").await
                && said
                    .send((pod.clone(), Said::Metrics(metrics)))
                    .await
                    .is_err()
            {
                return;
            }
            turn = turn.wrapping_add(1);
        }
    })
}
