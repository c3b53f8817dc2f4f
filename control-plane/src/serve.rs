//! The streams' port: plaintext, or with identities TLS and a gate before
//! every call.

use std::time::Duration;

use remora_proto::v1::replicas_server::ReplicasServer;
use remora_proto::v1::reports_server::ReportsServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::identity::accept::accept;
use crate::identity::layer::GateLayer;
use crate::identity::start::Identity;
use crate::replicas::server::ReplicaService;
use crate::reports::server::ReportService;
use crate::stream::server::AdsServer;

/// How often a connection without traffic is asked whether it is alive.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams on one connection: a sidecar needs three.
const MAX_STREAMS_PER_CONNECTION: u32 = 16;

/// What is served, beside certificates.
pub type Services = (
    AdsServer,
    ReportsServer<ReportService>,
    ReplicasServer<ReplicaService>,
);

/// Serves until `ending` turns true.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    (ads, reports, replicas): Services,
    identity: Option<Identity>,
    mut ending: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (gate, certificates, acceptor) = match identity {
        None => (None, None, None),
        Some(identity) => (
            Some(identity.gate),
            Some(identity.certificates),
            Some(identity.acceptor),
        ),
    };
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .layer(GateLayer::new(gate))
        .add_service(ads)
        .add_service(reports)
        .add_service(replicas)
        .add_optional_service(certificates);
    let ended = async move {
        // The sender lives as long as the process does.
        let _ = ending.wait_for(|ending| *ending).await;
    };
    match acceptor {
        None => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, ended).await?;
        }
        Some(acceptor) => {
            let incoming = ReceiverStream::new(accept(listener, acceptor));
            router.serve_with_incoming_shutdown(incoming, ended).await?;
        }
    }
    Ok(())
}
