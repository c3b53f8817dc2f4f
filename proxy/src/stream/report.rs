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

use std::time::Duration;

use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::v1::{BreakerChange, ReportAcknowledgement, ServiceUsage, SidecarReport};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use self::compose::{Composer, MustBeginAnew};
pub(super) use self::way::keep_reporting;
use super::channel::{ConnectError, ControlPlane, ControlPlaneError};
use crate::clock::{self, Timestamp};
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
const MAX_ACKNOWLEDGEMENT_BYTES: usize = 4096;

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
                    message?.ok_or(ReportError::Closed)?;
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
        self.composer.compose(&ledger, self.source)
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
            self.composer.acknowledge(acknowledgement.sequence);
        }
        Ok(())
    }

    /// Waits until the next report is due.
    async fn something_to_report(&self, sent_at: Timestamp) {
        let due = clock::instant(sent_at.after(MAX_INTERVAL));
        tokio::time::sleep_until(clock::instant(sent_at.after(MIN_INTERVAL))).await;
        loop {
            let ledger_sequence = self.mesh.ledger().sequence();
            if self.composer.has_news(ledger_sequence, self.source) {
                return;
            }
            tokio::select! {
                () = self.mesh.news().notified() => {}
                () = tokio::time::sleep(JOURNAL_INTERVAL) => {}
                () = tokio::time::sleep_until(due) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
