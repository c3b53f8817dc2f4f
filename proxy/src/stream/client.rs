//! The task that keeps the configuration stream: connects, sends what the
//! protocol machine says, hands it what arrives, and connects again. Decides
//! nothing about resources itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use remora_proto::bounds::MAX_RESPONSE_BYTES;
use remora_proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, info, warn};

use super::Options;
use super::backoff::Backoff;
use super::channel::{ConnectError, ControlPlane};
use crate::clock::{self, Timestamp};
use crate::random;
use crate::state::controller::{ASK_AGAIN, Controller};
use crate::state::mesh::{Demand, Mesh};

/// Requests on their way to the connection.
const REQUEST_QUEUE: usize = 8;
/// So long the server may take to accept the stream.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Housekeeping is done so often.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// While the sidecar is not ready it says so often why.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the control plane did not accept the stream within {ACCEPT_TIMEOUT:?}")]
    NotAccepted,
    #[error("the control plane ended the stream: {} {:?}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("what was given up and wanted again at once is only certain on a new stream")]
    Ambiguous,
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The task's state.
#[derive(Debug)]
pub(super) struct Client {
    control_plane: ControlPlane,
    mesh: Arc<Mesh>,
    controller: Controller,
    questions: mpsc::Receiver<Demand>,
    backoff: Backoff,
    accepted_at: Option<Timestamp>,
    last_error: Option<String>,
    complained_at: Timestamp,
    swept_at: Timestamp,
    housekeeping_at: Timestamp,
}

impl Client {
    pub(super) fn new(
        options: &Options,
        mesh: Arc<Mesh>,
        questions: mpsc::Receiver<Demand>,
    ) -> Self {
        let now = clock::now();
        Self {
            control_plane: options.control_plane.clone(),
            controller: Controller::new(&options.identity, mesh.clone()),
            mesh,
            questions,
            backoff: Backoff::default(),
            accepted_at: None,
            last_error: None,
            complained_at: now,
            swept_at: now,
            housekeeping_at: now,
        }
    }

    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        loop {
            let error = match self.session().await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.controller.disconnected();
            let now = clock::now();
            let lived = self.accepted_at.take().map(|since| now.since(since));
            let pause = self
                .backoff
                .pause(lived.unwrap_or_default(), random::next());
            if lived.is_some() {
                warn!(%error, ?pause, "the configuration stream is lost; what is in force stays");
            }
            self.last_error = Some(error.to_string());
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
    }

    async fn session(&mut self) -> Result<std::convert::Infallible, SessionError> {
        let control_plane = self.control_plane.clone();
        let connecting = control_plane.clone().connect();
        let channel = self.meanwhile(connecting).await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        let (requests, outgoing) = mpsc::channel(REQUEST_QUEUE);
        self.controller.connected(clock::now());
        // A server may answer only after it has read something.
        while let Ok(slot) = requests.try_reserve() {
            match self.controller.next_request() {
                Some(request) => slot.send(request),
                None => break,
            }
        }
        let accepting = async move {
            let request = control_plane.request(ReceiverStream::new(outgoing))?;
            let accepting = client.delta_aggregated_resources(request);
            let accepted = tokio::time::timeout(ACCEPT_TIMEOUT, accepting).await;
            Ok::<_, SessionError>(accepted.map_err(|_| SessionError::NotAccepted)??)
        };
        let accepted = self.meanwhile(accepting).await;
        let responses = accepted?;
        self.accepted_at = Some(clock::now());
        self.last_error = None;
        self.controller.accepted();
        info!(control_plane = %self.control_plane.uri(), "the configuration stream is open");
        self.converse(requests, responses.into_inner()).await
    }

    async fn converse(
        &mut self,
        requests: mpsc::Sender<DeltaDiscoveryRequest>,
        mut responses: Streaming<DeltaDiscoveryResponse>,
    ) -> Result<std::convert::Infallible, SessionError> {
        let mut next = None;
        loop {
            if self.controller.is_ambiguous() {
                return Err(SessionError::Ambiguous);
            }
            if next.is_none() {
                next = self.controller.next_request();
            }
            tokio::select! {
                biased;
                slot = requests.reserve(), if next.is_some() => {
                    let slot = slot.map_err(|_| SessionError::Closed)?;
                    if let Some(request) = next.take() {
                        slot.send(request);
                    }
                }
                response = responses.message(), if !self.controller.is_congested() => {
                    let response = response?.ok_or(SessionError::Closed)?;
                    self.take_response(response);
                }
                demand = self.questions.recv() => self.take_demand(demand),
                () = tokio::time::sleep_until(clock::instant(self.housekeeping_at)) => {
                    self.keep_house();
                }
            }
        }
    }

    /// Goes on answering the workers while something else takes its time.
    async fn meanwhile<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return output,
                demand = self.questions.recv() => self.take_demand(demand),
                () = tokio::time::sleep_until(clock::instant(self.housekeeping_at)) => {
                    self.keep_house();
                }
            }
        }
    }

    fn take_response(&mut self, response: DeltaDiscoveryResponse) {
        let now = clock::now();
        if let Some(error) = self.controller.receive(response, now) {
            debug!(?error, "a response was refused in part");
        }
        self.housekeeping_at = self.housekeeping_at.min(now.after(ASK_AGAIN));
    }

    fn take_demand(&mut self, demand: Option<Demand>) {
        // The mesh holds the other end, and we hold the mesh: it is never closed.
        if let Some(demand) = demand {
            let now = clock::now();
            self.controller.demand(demand, now);
            self.housekeeping_at = self.housekeeping_at.min(now.after(ASK_AGAIN));
        }
    }

    fn keep_house(&mut self) {
        let now = clock::now();
        if now.since(self.swept_at) >= SWEEP_INTERVAL {
            self.swept_at = now;
            self.controller.sweep(now);
        }
        let waits = self.accepted_at.is_some() && self.controller.ask_again(now);
        self.housekeeping_at = now.after(if waits { ASK_AGAIN } else { SWEEP_INTERVAL });
        self.complain(now);
    }

    fn complain(&mut self, now: Timestamp) {
        if self.mesh.is_ready() || now.since(self.complained_at) < COMPLAINT_INTERVAL {
            return;
        }
        self.complained_at = now;
        let reason = self.unreadiness();
        warn!(control_plane = %self.control_plane.uri(), reason, "not ready");
    }

    /// Why there is no Workload yet.
    fn unreadiness(&self) -> String {
        let refused = self.mesh.refused_workload();
        match (&self.last_error, self.accepted_at, refused) {
            (Some(error), _, _) => error.clone(),
            (None, None, _) => "still connecting".to_owned(),
            (None, Some(_), Some(why)) => format!(
                "the control plane sent this pod's Workload, which was refused: {why}; \
                 check the policies of its Services"
            ),
            (None, Some(_), None) => {
                "connected, but the control plane has not sent this pod's Workload".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests;
