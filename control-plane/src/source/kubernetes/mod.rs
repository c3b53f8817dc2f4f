//! A cluster as the source: every kind that matters is listed and watched, and
//! each object becomes the core's own compact one as soon as it is read.
//!
//! It tells the core what there is. Writing anything to the cluster (status,
//! events, the Lease) is not its business; whoever does that finds here the
//! client, and what is known of each policy.
//!
//! # Layout
//! In the order in which an object meets them:
//! - [`client`]: the connection to the API server.
//! - [`read`]: one object of the API, read at once to what is needed of it.
//! - [`gateway`]: the kinds of Gateway API, of which we have no types.
//! - [`known`]: the objects of one kind: what is new, changed, gone, broken.
//! - [`follow`]: the watch of one kind, which never gives up.
//! - [`failure`]: what can go wrong with it, in words, and how long to wait.
//! - [`watches`]: how the watches are doing, for health and metrics.
//! - [`policies`]: what is known of each policy, for its status.

pub mod client;
pub mod failure;
pub mod follow;
pub mod gateway;
pub mod known;
pub mod policies;
pub mod read;
pub mod watches;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::gateway::{GrpcRoute, HttpRoute, ReferenceGrant, ReferenceGrantV1beta1};
pub use self::policies::{Policies, PolicySeen};
pub use self::watches::Watches;
use crate::core::objects::Event;
use crate::policy::authorization::schema::AuthorizationPolicy;
use crate::policy::schema::TrafficPolicy;
use crate::problems::Problems;

/// Why the source ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server cannot be known or spoken to.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The receiver of events is gone.
    #[error("the core takes no more events")]
    Closed,
    /// A task died.
    #[error("a watch died: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// A cluster, and what is known of it. Clones share all of it.
#[derive(Clone)]
pub struct Cluster {
    /// Speaks to the API server. A request whose answer does not begin within
    /// [`client::RESPONSE_TIMEOUT`] fails; none is tried again by itself.
    pub client: kube::Client,
    /// Every TrafficPolicy of the cluster, as it was last seen.
    pub policies: Arc<Policies>,
    /// Every AuthorizationPolicy, as it was last seen.
    pub authorizations: Arc<Policies>,
    /// Every HTTPRoute, as it was last seen.
    pub http_routes: Arc<Policies>,
    /// Every GRPCRoute, as it was last seen.
    pub grpc_routes: Arc<Policies>,
    /// How the watches are doing.
    pub watches: Arc<Watches>,
}

impl Cluster {
    /// The cluster of KUBECONFIG, of `~/.kube/config`, or the one that this
    /// process runs in. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When none of these says how to reach one.
    pub async fn infer() -> Result<Self, Error> {
        Ok(Self::of(client::infer().await?))
    }

    /// The cluster that a client speaks to.
    pub fn of(client: kube::Client) -> Self {
        Self {
            client,
            policies: Arc::default(),
            authorizations: Arc::default(),
            http_routes: Arc::default(),
            grpc_routes: Arc::default(),
            watches: Arc::default(),
        }
    }

    /// Feeds the core for as long as it takes events.
    ///
    /// # Errors
    /// Always in the end: this returns only when it can go on no more. That the
    /// API server is away, or refuses, is no reason.
    pub async fn run(
        self,
        events: mpsc::Sender<Vec<Event>>,
        problems: Arc<Problems>,
    ) -> Result<(), Error> {
        let outlet = follow::Outlet {
            events,
            problems,
            policies: self.policies,
            watches: self.watches,
        };
        let client = &self.client;
        let mut tasks = JoinSet::new();
        tasks.spawn(follow::kind::<Namespace>(client, &outlet));
        tasks.spawn(follow::kind::<Service>(client, &outlet));
        tasks.spawn(follow::kind::<EndpointSlice>(client, &outlet));
        tasks.spawn(follow::kind::<Pod>(client, &outlet));
        tasks.spawn(follow::kind::<TrafficPolicy>(client, &outlet));
        let with = |policies: &Arc<Policies>| follow::Outlet {
            policies: policies.clone(),
            ..outlet.clone()
        };
        let (guards, http) = (with(&self.authorizations), with(&self.http_routes));
        let grpc = with(&self.grpc_routes);
        tasks.spawn(follow::kind::<AuthorizationPolicy>(client, &guards));
        tasks.spawn(follow::kind::<HttpRoute>(client, &http));
        tasks.spawn(follow::kind::<GrpcRoute>(client, &grpc));
        tasks.spawn(follow::kind_of_two::<ReferenceGrant, ReferenceGrantV1beta1>(client, &outlet));
        drop((guards, http, grpc));
        drop(outlet);
        // The first that ends, ends all: dropping the set aborts the others.
        match tasks.join_next().await {
            Some(ended) => match ended? {
                Ok(never) => match never {},
                Err(error) => Err(error),
            },
            None => Ok(()),
        }
    }
}
