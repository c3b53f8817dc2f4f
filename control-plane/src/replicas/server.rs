//! The Replicas service: the verdicts of probes, to the replicas that do not lead.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use remora_proto::v1::replicas_server::{Replicas, ReplicasServer};
use remora_proto::v1::{VerdictsRequest, VerdictsUpdate};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::identity::gate::AdmittedReplica;
use crate::leader::Leadership;
use crate::reports::Sidecars;

/// Replicas that follow at once: a control plane has a few.
const MAX_FOLLOWERS: usize = 32;
/// Pods in one update.
pub const MAX_PODS_PER_UPDATE: usize = 500;
/// Bytes of a request.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Updates that wait for a slow reader; what changes meanwhile is gathered.
const WAITING: usize = 4;
/// How long changes are gathered into one update.
const GATHER: Duration = Duration::from_millis(50);

type Updates = mpsc::Sender<Result<VerdictsUpdate, Status>>;

/// The service.
pub struct ReplicaService {
    sidecars: Arc<Sidecars>,
    /// None where there is but one replica.
    leadership: Option<Leadership>,
    /// Whether only who was let in as a replica may ask: where there are identities.
    guarded: bool,
    places: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
}

/// The service over a registry; its streams end when `ending` turns true.
pub fn service(
    sidecars: Arc<Sidecars>,
    leadership: Option<Leadership>,
    guarded: bool,
    ending: watch::Receiver<bool>,
) -> ReplicasServer<ReplicaService> {
    let service = ReplicaService {
        sidecars,
        leadership,
        guarded,
        places: Arc::new(Semaphore::new(MAX_FOLLOWERS)),
        ending,
    };
    ReplicasServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES)
}

#[tonic::async_trait]
impl Replicas for ReplicaService {
    type VerdictsStream = Pin<Box<dyn Stream<Item = Result<VerdictsUpdate, Status>> + Send>>;

    async fn verdicts(
        &self,
        request: Request<VerdictsRequest>,
    ) -> Result<Response<Self::VerdictsStream>, Status> {
        let replica = request.extensions().get::<AdmittedReplica>();
        if self.guarded && replica.is_none() {
            return Err(Status::permission_denied("this is for replicas alone"));
        }
        let mut leadership = self.leadership.clone();
        if leadership
            .as_ref()
            .is_some_and(|one| !one.is_leading(clock::now()))
        {
            return Err(Status::failed_precondition("this replica does not lead"));
        }
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many replicas follow"))?;
        let known = replica.map(|replica| replica.pod.clone());
        let replica = known.unwrap_or_else(|| "(unknown)".to_owned());
        tracing::debug!(replica, "a replica follows");
        let (sender, receiver) = mpsc::channel(WAITING);
        let sidecars = self.sidecars.clone();
        let mut ending = self.ending.clone();
        tokio::spawn(async move {
            let over = async {
                match &mut leadership {
                    Some(leadership) => leadership.ended().await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                never = tell(&sidecars, &sender) => match never {},
                () = sender.closed() => return,
                () = over => "this replica leads no more",
                _ = ending.wait_for(|ending| *ending) => "the control plane is ending",
            };
            // No place: then the end of the stream says it.
            let _ = sender.try_send(Err(Status::unavailable(why)));
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Tells the whole, then what changes, for as long as somebody reads.
async fn tell(sidecars: &Sidecars, updates: &Updates) -> Infallible {
    let verdicts = sidecars.verdicts();
    let mut changes = verdicts.changes();
    let mut told = BTreeMap::new();
    let mut is_first = true;
    loop {
        changes.mark_unchanged();
        let mut pods = verdicts.differences(&mut told);
        while is_first || !pods.is_empty() {
            let rest = pods.split_off(pods.len().min(MAX_PODS_PER_UPDATE));
            let whole = !is_first || rest.is_empty();
            let update = VerdictsUpdate { pods, whole };
            if updates.send(Ok(update)).await.is_err() {
                return std::future::pending().await;
            }
            is_first = !whole;
            pods = rest;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(GATHER).await;
    }
}
