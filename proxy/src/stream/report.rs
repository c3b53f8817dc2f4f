//! The task that keeps the report stream: what is in force, what was refused,
//! breakers and usage. Its failures are its own; configuration does not notice.
//!
//! One report is under way at a time; what changes meanwhile goes into the
//! next one. So nothing queues up, whatever the control plane does.
//!
//! # Layout
//! - here: one stream, wherever it goes.
//! - [`compose`]: what a report says.
//! - [`way`]: where the streams go, and when to try again.

mod compose;
mod way;

use std::sync::Arc;
use std::time::Duration;

use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::v1::{
    BreakerChange, PortHealth, PortUsage, ReportAcknowledgement, ServiceUsage, SidecarReport,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use self::compose::{Composer, MeshNews, MustBeginAnew};
pub(super) use self::way::keep_reporting;
use super::channel::{ConnectError, ControlPlane, ControlPlaneError};
use crate::clock::{self, Timestamp};
use crate::policy::rate_limit::shares::{Share, Shares};
use crate::state::mesh::Mesh;

/// Reports are at least so far apart.
pub const MIN_INTERVAL: Duration = Duration::from_millis(250);
/// And at most so far.
pub const MAX_INTERVAL: Duration = Duration::from_secs(10);
/// The breakers' journal is read so often, even when nobody said that it changed.
pub const JOURNAL_INTERVAL: Duration = Duration::from_secs(1);
/// So long an acknowledgement may take; then the stream is given up.
pub const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Reports on their way to the connection.
const REPORT_QUEUE: usize = 1;
/// The largest acknowledgement that is read, in bytes.
const MAX_ACKNOWLEDGEMENT_BYTES: usize = 1024 * 1024;
/// With demand for a limit of the mesh reports are so far apart.
pub const MESH_INTERVAL: Duration = Duration::from_millis(200);
/// After a new limit or share of the mesh, so far.
pub const MESH_AT_ONCE: Duration = Duration::from_millis(20);

/// An entry of the breakers' journal.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedChange {
    /// Rises with each entry, from 1.
    pub sequence: u64,
    /// The change.
    pub change: BreakerChange,
}

/// What there is to report besides the configuration. Called on the control thread.
pub trait ReportSource: Send + Sync + 'static {
    /// The journal's entries after `sequence`, in their order; 0 is before all.
    fn breaker_changes_since(&self, sequence: u64) -> Vec<NumberedChange>;

    /// The totals of each service since the start of the process. What was
    /// reported already is subtracted here.
    fn usage(&self) -> Vec<ServiceUsage>;

    /// How the pod's own ports answer their probes.
    fn health(&self) -> Vec<PortHealth> {
        Vec::new()
    }

    /// The totals of each of the pod's ports since the start of the process.
    fn ports(&self) -> Vec<PortUsage> {
        Vec::new()
    }

    /// The limits of the mesh that this sidecar enforces.
    fn shares(&self) -> Arc<Shares> {
        Shares::own()
    }
}

/// Why a report stream ended.
#[derive(Debug, thiserror::Error)]
enum ReportError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Address(#[from] ControlPlaneError),
    #[error("no acknowledgement within {ACKNOWLEDGE_TIMEOUT:?}")]
    NotAcknowledged,
    #[error("the control plane ended the stream: {} {:?}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("so much changed that everything must be told again")]
    BeginAnew,
}

impl From<tonic::Status> for ReportError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<MustBeginAnew> for ReportError {
    fn from(_: MustBeginAnew) -> Self {
        Self::BeginAnew
    }
}

/// One stream.
struct Reporter<'a> {
    composer: &'a mut Composer,
    mesh: &'a Mesh,
    source: &'a dyn ReportSource,
    /// For who we are: the same at every replica.
    control_plane: &'a ControlPlane,
    accepted_at: Option<Timestamp>,
}

impl Reporter<'_> {
    async fn session(&mut self, channel: Channel) -> Result<std::convert::Infallible, ReportError> {
        let mut client =
            ReportsClient::new(channel).max_decoding_message_size(MAX_ACKNOWLEDGEMENT_BYTES);
        self.composer.begin(&self.mesh.ledger());
        self.source.shares().begin_stream();
        let (reports, outgoing) = mpsc::channel(REPORT_QUEUE);
        // The first is there before the stream: a server may wait for it.
        reports
            .send(self.compose()?)
            .await
            .map_err(|_| ReportError::Closed)?;
        let request = self.control_plane.request(ReceiverStream::new(outgoing))?;
        let accepting = client.report(request);
        let accepted = tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, accepting).await;
        let acknowledgements = accepted.map_err(|_| ReportError::NotAcknowledged)??;
        self.accepted_at = Some(clock::now());
        self.converse(reports, acknowledgements.into_inner()).await
    }

    async fn converse(
        &mut self,
        reports: mpsc::Sender<SidecarReport>,
        mut acknowledgements: Streaming<ReportAcknowledgement>,
    ) -> Result<std::convert::Infallible, ReportError> {
        let mut sent_at = clock::now();
        loop {
            self.await_acknowledgement(&mut acknowledgements, sent_at)
                .await?;
            tokio::select! {
                biased;
                // A server that speaks unasked, or ends the stream.
                message = acknowledgements.message() => {
                    let acknowledgement = message?.ok_or(ReportError::Closed)?;
                    self.take_shares(&acknowledgement);
                }
                () = self.something_to_report(sent_at) => {
                    let report = self.compose()?;
                    sent_at = clock::now();
                    reports.send(report).await.map_err(|_| ReportError::Closed)?;
                }
            }
        }
    }

    fn compose(&mut self) -> Result<SidecarReport, MustBeginAnew> {
        let ledger = self.mesh.ledger();
        self.composer.compose(&ledger, self.source, clock::now())
    }

    fn take_shares(&self, acknowledgement: &ReportAcknowledgement) {
        let shares = self.source.shares();
        for given in &acknowledgement.mesh_shares {
            let share = Share {
                parts_per_million: given.parts_per_million,
                burst: given.burst,
            };
            shares.take(&given.policy, &given.name, share, given.grant, clock::now());
        }
    }

    async fn await_acknowledgement(
        &mut self,
        acknowledgements: &mut Streaming<ReportAcknowledgement>,
        sent_at: Timestamp,
    ) -> Result<(), ReportError> {
        let deadline = clock::instant(sent_at.after(ACKNOWLEDGE_TIMEOUT));
        while self.composer.is_under_way() {
            let message = tokio::time::timeout_at(deadline, acknowledgements.message());
            let message = message.await.map_err(|_| ReportError::NotAcknowledged)??;
            let acknowledgement = message.ok_or(ReportError::Closed)?;
            self.take_shares(&acknowledgement);
            self.composer.acknowledge(acknowledgement.sequence);
        }
        Ok(())
    }

    /// Waits until the next report is due.
    async fn something_to_report(&self, sent_at: Timestamp) {
        let due = clock::instant(sent_at.after(MAX_INTERVAL));
        let shares = self.source.shares();
        tokio::time::sleep_until(clock::instant(sent_at.after(MESH_AT_ONCE))).await;
        loop {
            let limits = shares.usage();
            let wanted = self.composer.mesh_news(&limits);
            let least = match wanted {
                MeshNews::Share => MESH_AT_ONCE,
                MeshNews::Demand => MESH_INTERVAL,
                MeshNews::None => MIN_INTERVAL,
            };
            let age = clock::now().since(sent_at);
            let ledger_sequence = self.mesh.ledger().sequence();
            let has_news = self.composer.has_news(ledger_sequence, self.source);
            if (wanted != MeshNews::None || has_news) && age >= least {
                return;
            }
            let wait = match age.checked_sub(MESH_INTERVAL) {
                Some(_) if limits.is_empty() => JOURNAL_INTERVAL,
                // Demand tells nobody: it is looked for.
                Some(_) => MESH_INTERVAL / 4,
                None => MESH_INTERVAL.saturating_sub(age),
            };
            let wait = wait.max(Duration::from_millis(5));
            let wait = if has_news && age < MIN_INTERVAL {
                wait.min(MIN_INTERVAL.saturating_sub(age))
            } else {
                wait
            };
            tokio::select! {
                () = self.mesh.news().notified(), if !has_news => {}
                () = shares.changed() => {}
                () = tokio::time::sleep(wait) => {}
                () = tokio::time::sleep_until(due) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
