//! Follows the replica that leads, for what probes say of pods.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use remora_proto::v1::replicas_client::ReplicasClient;
use remora_proto::v1::{VerdictsRequest, VerdictsUpdate};
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::connect::{self, ConnectError, Credentials};
use crate::leader::{Leadership, View};
use crate::reports::Sidecars;
use crate::{clock, random};

/// Bytes of one update.
const MAX_UPDATE_BYTES: usize = 8 * 1024 * 1024;
/// How long until the leader is tried again: at first, and at most. Verdicts are
/// believed for longer than that.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// How long the leader may take for the whole.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What following takes.
pub struct Inputs {
    /// The name of this replica's pod.
    pub pod: String,
    /// Who leads.
    pub leadership: Leadership,
    /// Where verdicts go.
    pub sidecars: Arc<Sidecars>,
    /// Whether the source has told all it had at the start: before that no pod is
    /// known to be there.
    pub synced: watch::Receiver<bool>,
    /// How the leader is known; `None` without identities.
    pub credentials: Option<Credentials>,
}

/// Why a stream of the leader's ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(#[from] Status),
    #[error("it did not tell the whole within {WHOLE_TIMEOUT:?}")]
    Late,
    #[error("the stream ended")]
    Ended,
}

/// How long until the next try. Pure; chance is handed in.
#[derive(Debug, Default)]
struct Backoff(Option<Duration>);

impl Backoff {
    fn next(&mut self, chance: u64) -> Duration {
        let pause = self
            .0
            .map_or(FIRST_PAUSE, |last| (last * 2).min(LAST_PAUSE));
        self.0 = Some(pause);
        // Replicas that lost the same leader do not come back together.
        pause.mul_f64(0.5 + 0.5 * random::unit(chance))
    }

    fn end(&mut self) {
        self.0 = None;
    }
}

/// Follows whoever leads, for as long as the process lives.
pub async fn keep(inputs: Inputs) -> Infallible {
    let mut synced = inputs.synced.clone();
    if synced.wait_for(|synced| *synced).await.is_err() {
        // The core is gone, and with it soon the process.
        return std::future::pending().await;
    }
    let mut leadership = inputs.leadership.clone();
    let mut backoff = Backoff::default();
    let mut warned = false;
    loop {
        let Some(leader) = leader_of(&leadership.view(), &inputs.pod) else {
            leadership.changed().await;
            continue;
        };
        let mut told = false;
        let lost = tokio::select! {
            lost = follow(&inputs, leader, &mut told) => Some(lost),
            () = another(&mut leadership, &inputs.pod, leader) => None,
        };
        inputs.sidecars.verdicts().stop_following(clock::unix_ms());
        if told {
            backoff.end();
            warned = false;
        }
        let Some(lost) = lost else {
            backoff.end();
            continue;
        };
        if warned {
            tracing::debug!(%leader, error = %lost, "the leader cannot be followed");
        } else {
            tracing::warn!(%leader, error = %lost, "the leader cannot be followed: what it says of pods' health is believed for a while");
            warned = true;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next(random::next())) => {}
            () = another(&mut leadership, &inputs.pod, leader) => backoff.end(),
        }
    }
}

/// Where the one is that is to be followed: nobody while this replica itself leads,
/// or nobody does.
fn leader_of(view: &View, own: &str) -> Option<SocketAddr> {
    let other = !view.leader.is_empty() && view.leader != own && view.leading_until.is_none();
    view.reports_address.filter(|_| other)
}

/// Resolves when another one than `leader` is to be followed.
async fn another(leadership: &mut Leadership, own: &str, leader: SocketAddr) {
    while leader_of(&leadership.view(), own) == Some(leader) {
        leadership.changed().await;
    }
}

/// Takes what the leader tells, until its stream ends; `told` is set once the whole
/// was.
async fn follow(inputs: &Inputs, leader: SocketAddr, told: &mut bool) -> Lost {
    let begun = tokio::time::timeout(WHOLE_TIMEOUT, begin(inputs, leader)).await;
    let mut updates = match begun {
        Ok(Ok(updates)) => updates,
        Ok(Err(lost)) => return lost,
        Err(_) => return Lost::Late,
    };
    *told = true;
    tracing::info!(%leader, "the leader is followed: it tells what probes say");
    loop {
        match updates.message().await {
            Ok(Some(update)) => take(inputs, &update),
            Ok(None) => return Lost::Ended,
            Err(status) => return status.into(),
        }
    }
}

/// Connects, and takes the whole.
async fn begin(inputs: &Inputs, leader: SocketAddr) -> Result<Streaming<VerdictsUpdate>, Lost> {
    let credentials = inputs.credentials.as_ref();
    let channel = connect::connect(leader, credentials).await?;
    let mut client = ReplicasClient::new(channel).max_decoding_message_size(MAX_UPDATE_BYTES);
    let replica = inputs.pod.clone();
    let request = connect::request(VerdictsRequest { replica }, credentials).await?;
    let mut updates = client.verdicts(request).await?.into_inner();
    inputs.sidecars.verdicts().begin_following();
    loop {
        let update = updates.message().await?.ok_or(Lost::Ended)?;
        take(inputs, &update);
        if update.whole {
            return Ok(updates);
        }
    }
}

fn take(inputs: &Inputs, update: &VerdictsUpdate) {
    let heard = inputs.sidecars.heard();
    let verdicts = inputs.sidecars.verdicts();
    verdicts.follow(&update.pods, clock::unix_ms(), |node| heard.contains(node));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_begins_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..7).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(backoff.next(0), LAST_PAUSE / 2);
        backoff.end();
        assert_eq!(backoff.next(0), FIRST_PAUSE / 2);
    }

    #[test]
    fn only_another_one_that_leads_is_followed() {
        let address: SocketAddr = "10.0.0.1:15110".parse().unwrap();
        let view = |leader: &str| View {
            leader: leader.to_owned(),
            leading_until: None,
            reports_address: Some(address),
        };
        assert_eq!(leader_of(&view("plane-1"), "plane-2"), Some(address));
        assert_eq!(leader_of(&view("plane-2"), "plane-2"), None);
        assert_eq!(leader_of(&view(""), "plane-2"), None);
        let ours = View {
            leading_until: Some(clock::now()),
            ..view("plane-1")
        };
        assert_eq!(leader_of(&ours, "plane-2"), None);
        let nowhere = View {
            reports_address: None,
            ..view("plane-1")
        };
        assert_eq!(leader_of(&nowhere, "plane-2"), None);
    }
}
