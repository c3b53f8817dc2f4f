//! Where the report streams go: to the replica of the control plane that leads,
//! or, while nobody takes them there, to where the configuration stream is.
//!
//! ```text
//!                 the Workload names the leader
//!   own way ------------------------------------> to the leader
//!      ^  ^                                          |     |
//!      |  +---- the Workload names none -------------+     |
//!      |                                                   | no connection,
//!      |                                                   | or the stream is lost
//!      +---- own way, and the leader is tried again <------+
//! ```
//!
//! A new stream tells everything, so whoever leads next misses nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Channel;
use tracing::{debug, info};

use super::compose::Composer;
use super::{ReportError, ReportSource, Reporter};
use crate::clock;
use crate::random;
use crate::state::mesh::Mesh;
use crate::stream::backoff::Backoff;
use crate::stream::{ControlPlane, Options};

/// Between two attempts at a leader that could not be reached, besides the
/// pause that grows.
const LEADER_PAUSE: Duration = Duration::from_secs(1);
/// All sidecars hear of a new leader in the same moment; they come to it
/// spread over so long.
const MOVE_SPREAD: Duration = Duration::from_millis(500);

/// Why a stream is over.
enum End {
    /// The Workload names another leader, or none any more.
    Moved,
    /// While reports went their own way, the leader took a connection.
    LeaderIsBack(Channel),
    /// It was lost, or never came about.
    Failed(ReportError),
}

/// Never ends by itself.
pub(in crate::stream) async fn keep_reporting(
    options: Options,
    mesh: Arc<Mesh>,
    source: Arc<dyn ReportSource>,
) {
    let mut ways = Ways {
        composer: Composer::new(options.identity),
        control_plane: options.control_plane,
        leader: mesh.reports_address(),
        mesh,
        source,
        backoff: Backoff::default(),
        leader_backoff: Backoff::default(),
        failed: None,
        connection: None,
    };
    loop {
        ways.next_stream().await;
    }
}

struct Ways {
    composer: Composer,
    control_plane: ControlPlane,
    mesh: Arc<Mesh>,
    source: Arc<dyn ReportSource>,
    leader: watch::Receiver<Option<SocketAddr>>,
    backoff: Backoff,
    leader_backoff: Backoff,
    /// The leader to which the last stream failed: the next one goes its own way.
    failed: Option<SocketAddr>,
    /// To a leader, made while reports went their own way.
    connection: Option<(SocketAddr, Channel)>,
}

impl Ways {
    /// One stream from its beginning to its end, and the pause after it.
    async fn next_stream(&mut self) {
        let leader = *self.leader.borrow_and_update();
        let to_leader = leader.filter(|leader| self.failed != Some(*leader));
        let mut accepted_at = None;
        let end = match to_leader {
            Some(address) => self.report_to_leader(address, &mut accepted_at).await,
            None => self.report_own_way(leader, &mut accepted_at).await,
        };
        let lived = accepted_at.map(|since| clock::now().since(since));
        let pause = match end {
            End::Moved => {
                self.failed = None;
                MOVE_SPREAD.mul_f64(random::unit(random::next()))
            }
            End::LeaderIsBack(channel) => {
                self.failed = None;
                self.connection = leader.map(|leader| (leader, channel));
                Duration::ZERO
            }
            End::Failed(error) => {
                // Nobody there, nobody here: then the leader is tried first again.
                self.failed = to_leader;
                let backoff = match to_leader {
                    Some(_) => &mut self.leader_backoff,
                    None => &mut self.backoff,
                };
                let grown = backoff.pause(lived.unwrap_or_default(), random::next());
                // The other way is open at once; but all may have lost the leader.
                let pause = match (to_leader, lived) {
                    (Some(_), None) => Duration::ZERO,
                    (Some(_), Some(_)) => MOVE_SPREAD.mul_f64(random::unit(random::next())),
                    (None, _) => grown,
                };
                if lived.is_some() {
                    info!(%error, leader = ?to_leader, ?pause, "the report stream is lost");
                } else {
                    debug!(%error, leader = ?to_leader, ?pause, "no report stream");
                }
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }

    async fn report_to_leader(
        &mut self,
        address: SocketAddr,
        accepted_at: &mut Option<clock::Timestamp>,
    ) -> End {
        let connection = self.connection.take();
        let connection = connection.filter(|(to, _)| *to == address);
        let control_plane = self.control_plane.clone();
        let connecting = async move {
            match connection {
                Some((_, channel)) => Ok(channel),
                None => Ok(control_plane.at(address)?.connect().await?),
            }
        };
        self.stream(connecting, std::future::pending(), accepted_at)
            .await
    }

    async fn report_own_way(
        &mut self,
        leader: Option<SocketAddr>,
        accepted_at: &mut Option<clock::Timestamp>,
    ) -> End {
        let control_plane = self.control_plane.clone();
        let connecting = async move { Ok(control_plane.connect().await?) };
        let Some(address) = leader else {
            let never = std::future::pending();
            return self.stream(connecting, never, accepted_at).await;
        };
        let mut backoff = self.leader_backoff;
        let again = leader_again(self.control_plane.clone(), address, &mut backoff);
        let end = self.stream(connecting, again, accepted_at).await;
        self.leader_backoff = backoff;
        end
    }

    async fn stream(
        &mut self,
        connecting: impl Future<Output = Result<Channel, ReportError>>,
        leader_again: impl Future<Output = Channel>,
        accepted_at: &mut Option<clock::Timestamp>,
    ) -> End {
        let mut reporter = Reporter {
            composer: &mut self.composer,
            mesh: &self.mesh,
            source: self.source.as_ref(),
            control_plane: &self.control_plane,
            accepted_at: None,
        };
        let end = {
            let session = async {
                let channel = connecting.await?;
                reporter.session(channel).await
            };
            tokio::select! {
                biased;
                // The mesh holds the sender, and we hold the mesh.
                _ = self.leader.changed() => End::Moved,
                channel = leader_again => End::LeaderIsBack(channel),
                error = session => match error {
                    Ok(never) => match never {},
                    Err(error) => End::Failed(error),
                },
            }
        };
        *accepted_at = reporter.accepted_at;
        end
    }
}

/// A connection to a leader that could not be reached, once it can be.
async fn leader_again(
    control_plane: ControlPlane,
    address: SocketAddr,
    backoff: &mut Backoff,
) -> Channel {
    loop {
        let pause = LEADER_PAUSE + backoff.pause(Duration::ZERO, random::next());
        tokio::time::sleep(pause).await;
        let connected = match control_plane.at(address) {
            Ok(leader) => leader.connect().await.map_err(ReportError::from),
            Err(error) => Err(error.into()),
        };
        match connected {
            Ok(channel) => return channel,
            Err(error) => debug!(%error, %address, "the leader takes no reports yet"),
        }
    }
}
