//! The Reports service: each report into the registry, each acknowledged.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use remora_proto::v1::reports_server::{Reports, ReportsServer};
use remora_proto::v1::{ReportAcknowledgement, SidecarReport};
use remora_proto::well_known;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::mesh::Acknowledgements;
use super::{Origin, Sidecars};
use crate::clock;
use crate::identity::gate::{self, Admitted};
use crate::stream::peers::Peers;
use crate::stream::session::Node;

/// Bytes of one report.
const MAX_REPORT_BYTES: usize = 4 * 1024 * 1024;

/// Acknowledgements and shares that wait for a slow reader.
const WAITING: usize = 32;

/// The service.
pub struct ReportService {
    sidecars: Arc<Sidecars>,
    ending: watch::Receiver<bool>,
    peers: Peers,
}

/// The service over a registry; its streams end when `ending` turns true.
pub fn service(
    sidecars: Arc<Sidecars>,
    ending: watch::Receiver<bool>,
    peers: Peers,
) -> ReportsServer<ReportService> {
    let service = ReportService {
        sidecars,
        ending,
        peers,
    };
    ReportsServer::new(service).max_decoding_message_size(MAX_REPORT_BYTES)
}

#[tonic::async_trait]
impl Reports for ReportService {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportAcknowledgement, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let permit = self.peers.admit(request.remote_addr())?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let sidecars = self.sidecars.clone();
        let mut ending = self.ending.clone();
        let admitted = request.extensions().get::<Admitted>().cloned();
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = take(&sidecars, request.into_inner(), &sender, admitted.clone()) => ended,
                gone = gate::gone(sidecars.store(), admitted.as_ref()) => Err(gone),
                _ = ending.wait_for(|ending| *ending) => {
                    Err(Status::unavailable("the control plane is ending; connect again"))
                }
            };
            if let Err(status) = ended {
                // No place, or no receiver: then nobody wants the reason.
                let _ = sender.try_send(Err(status));
            }
            drop(permit);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn take(
    sidecars: &Arc<Sidecars>,
    mut reports: Streaming<SidecarReport>,
    sender: &Acknowledgements,
    admitted: Option<Admitted>,
) -> Result<(), Status> {
    let mut connected = None;
    while let Some(report) = reports.message().await? {
        // Of a pod its own sidecar reports: a stolen token must not speak for it.
        if let Some(admitted) = &admitted {
            gate::at_home(sidecars.store(), admitted)?;
        }
        let sequence = report.sequence;
        let first = connected.is_none();
        if first {
            let sidecar = report.sidecar.clone().unwrap_or_default();
            let id = well_known::node_id(&sidecar.namespace, &sidecar.pod, &sidecar.pod_uid);
            let node = Node::parse(&id).map_err(|_| {
                Status::invalid_argument(
                    "the first report must name the sidecar: namespace, pod, pod_uid",
                )
            })?;
            if let Some(admitted) = &admitted {
                admitted.is(&node)?;
            }
            let permit = sidecars.connect(&node, &sidecar.version, Origin::Reports);
            let open = sidecars.mesh().open(&node, sender.clone());
            connected = Some((node, permit, open));
        }
        if let Some((node, _, open)) = &connected {
            let usages = &report.mesh_limits;
            let mesh = sidecars.mesh();
            mesh.report(open, sequence, usages, clock::unix_ms())?;
            sidecars.report(node, report, first);
        }
        if sender
            .send(Ok(ReportAcknowledgement {
                sequence,
                ..Default::default()
            }))
            .await
            .is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}
