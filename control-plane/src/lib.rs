//! Remora's control plane: objects in, resources out to the sidecars.
//!
//! # Layout
//! In the order in which a change meets them:
//! - [`source`]: where objects come from: a cluster, or a watched folder of YAML.
//! - [`policy`]: the custom resource TrafficPolicy, parsed once into typed settings.
//! - [`gateway`]: HTTPRoute, GRPCRoute and ReferenceGrant, parsed once.
//! - [`core`](mod@core): objects in, resources out; free of Kubernetes and of the transport.
//! - [`stream`]: the resources to the sidecars (xDS incremental).
//! - [`reports`]: what the sidecars tell.
//! - [`identity`]: the CA, and who a caller is.
//! - [`replicas`]: what the replicas tell each other.
//! - [`serve`]: the port of both, with or without TLS.
//! - [`cluster`]: what a replica does in a cluster besides serving.
//! - [`leader`]: which replica leads.
//! - [`status`]: the status of policies, which the leader writes.
//! - [`events`]: Kubernetes Events, which the leader writes.
//! - [`problems`]: all that is wrong in the source right now.
//! - [`admin`]: health, metrics, sidecars, problems over HTTP.
//! - [`answer`]: what an API server's refusals mean.
//! - [`bucket`], [`counters`]: how often something may be, and how often it was.
//! - [`text`]: text within its bounds.
//! - [`clock`]: the only reader of time; [`random`]: of chance.
//!
//! [`run`] starts them all and watches over them: a task that ends, ends the
//! process.

pub mod admin;
pub mod answer;
pub mod bucket;
pub mod clock;
pub mod cluster;
pub mod core;
pub mod counters;
pub mod events;
pub mod gateway;
pub mod identity;
pub mod leader;
pub mod policy;
pub mod problems;
pub mod random;
pub mod replicas;
pub mod reports;
pub mod serve;
pub mod source;
pub mod status;
pub mod stream;
pub mod text;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cluster::{Decided, ReplicaError};
use crate::core::Core;
use crate::core::objects::Event;
use crate::core::store::Store;
use crate::identity::keep::Trust;
use crate::identity::start::Identity;
use crate::leader::{Leadership, Replica};
use crate::problems::Problems;
use crate::reports::Sidecars;
use crate::source::kubernetes::Cluster;
use crate::source::origin::Origin;
pub use crate::source::origin::Source;
use crate::stream::peers::Peers;
use crate::stream::server::AdsServer;

/// How long streams may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// The task that serves the streams.
const STREAMS_TASK: &str = "the streams";
/// Batches of events that wait for the core.
const MAX_WAITING_EVENTS: usize = 64;

/// How the control plane is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where objects come from: kubernetes, the cluster of KUBECONFIG or the one
    /// that this runs in; or files:DIR, a folder of Kubernetes YAML that is
    /// watched. Several folders are one source.
    #[arg(long = "source", value_name = "kubernetes|files:DIR", required = true)]
    pub sources: Vec<Source>,
    /// Address of the streams to the sidecars (gRPC).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:15110")]
    pub listen: SocketAddr,
    /// Address of the admin endpoint (HTTP).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:15114")]
    pub admin: SocketAddr,
    /// Who pods are, and how they show it.
    #[command(flatten)]
    pub identity: identity::Options,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When an address or a folder cannot be had, or a part of it ends.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut running = start(options).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = running.ended() => return ended,
    }
    running.stop().await;
    Ok(())
}

/// The parts of a process, each by its name; none of them should end.
pub(crate) type Tasks = JoinSet<(&'static str, anyhow::Result<()>)>;

/// A control plane that runs. Dropping it ends it at once.
pub struct Running {
    /// Where its streams are served.
    pub listen: SocketAddr,
    /// Where its admin endpoint is.
    pub admin: SocketAddr,
    ending: watch::Sender<bool>,
    tasks: Tasks,
    /// Whose end [`Running::stop`] waits for.
    awaited: Vec<&'static str>,
}

impl Running {
    /// Resolves when one of its parts ends, which none should.
    ///
    /// # Errors
    /// Always: what ended, and why.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => bail!("{name} ended"),
            Some(Ok((name, Err(error)))) => Err(error.context(format!("{name} ended"))),
            Some(Err(error)) => {
                Err(anyhow::Error::new(error).context("a part of the control plane died"))
            }
            None => bail!("nothing runs"),
        }
    }

    /// Ends it: the Lease is given up, the streams are told, then closed.
    pub async fn stop(mut self) {
        tracing::info!("ending");
        self.ending.send_replace(true);
        let ended = async {
            while !self.awaited.is_empty() {
                match self.tasks.join_next().await {
                    Some(Ok((name, _))) => self.awaited.retain(|awaited| *awaited != name),
                    Some(Err(_)) => {}
                    None => break,
                }
            }
        };
        if tokio::time::timeout(END_TIMEOUT, ended).await.is_err() {
            let late = self.awaited.join(", ");
            tracing::warn!(timeout = ?END_TIMEOUT, late, "did not end in time");
        }
    }
}

/// Starts a control plane, which is the replica that the environment says.
///
/// # Errors
/// When an address or a folder cannot be had, or the environment is wrong.
pub async fn start(options: Options) -> anyhow::Result<Running> {
    let replica = |listen: SocketAddr| Replica::of_environment(listen.port());
    start_as(options, replica).await
}

/// Starts a control plane, which is the replica that `replica` says: it is
/// given the address of the streams. Only in a cluster there are several.
///
/// # Errors
/// When an address or a folder cannot be had, or `replica` fails.
pub async fn start_as(
    options: Options,
    replica: impl FnOnce(SocketAddr) -> Result<Option<Replica>, ReplicaError>,
) -> anyhow::Result<Running> {
    let origin = Origin::of(options.sources).await?;
    let watches = origin.watches();
    let streams = bind(options.listen).await?;
    let admin_listener = bind(options.admin).await?;
    let (listen, admin) = (streams.local_addr()?, admin_listener.local_addr()?);

    let (synced_sender, synced) = watch::channel(false);
    let (ending, ended) = watch::channel(false);
    let (event_sender, events) = mpsc::channel(MAX_WAITING_EVENTS);
    let common = Common::new(synced, ended);
    let mut tasks = JoinSet::new();
    let mut awaited = vec![STREAMS_TASK];
    let (mut election, mut this_replica) = (None, None);
    if let Origin::Kubernetes(_) = &origin {
        this_replica = replica(listen)?;
    }
    let own = this_replica.as_ref();
    let identity = identities(&mut tasks, options.identity, &origin, own, listen, &common)?;
    let own_pod = own.map(|replica| replica.pod.clone());
    if let Origin::Kubernetes(cluster) = &origin {
        let trust = identity.as_ref().map(|identity| identity.trust.clone());
        let shared = common.for_cluster(cluster, event_sender.clone(), trust);
        election = cluster::elect(&mut tasks, shared, this_replica);
        awaited.extend(election.is_some().then_some(cluster::LEADER_TASK));
    }
    let leadership = election.as_ref().map(|shown| shown.leadership.clone());
    let led = leadership.clone();
    common.use_reports(&mut tasks, &origin, led.clone(), event_sender.clone());
    common.follow(&mut tasks, led.zip(own_pod), identity.as_ref());
    tasks.spawn(origin.feed(event_sender, common.problems.clone()));
    let trust_domain = identity.as_ref().map(|identity| &*identity.trust_domain);
    let core = Core::new(common.store.clone(), trust_domain);
    let told = Told {
        problems: common.problems.clone(),
        decided: common.decided.clone(),
        synced: synced_sender,
    };
    tasks.spawn(feed(core, events, told));
    let peers = Peers::default();
    let ads = common.ads(peers.clone());
    let shown = admin::Admin {
        watches,
        sent: ads.sent(),
        election,
        identity: identity.as_ref().map(admin::Identity::of),
        store: common.store.clone(),
        sidecars: common.sidecars.clone(),
        problems: common.problems.clone(),
        synced: common.synced.clone(),
    };
    let services = common.services((ads, peers), leadership, identity.is_some());
    tasks.spawn(streams_task(streams, services, common.ended, identity));
    tasks.spawn(show(admin_listener, shown));
    tracing::info!(%listen, %admin, "the control plane runs");
    Ok(Running {
        listen,
        admin,
        ending,
        tasks,
        awaited,
    })
}

/// What the parts share.
struct Common {
    store: Arc<Store>,
    problems: Arc<Problems>,
    sidecars: Arc<Sidecars>,
    decided: Arc<Decided>,
    synced: watch::Receiver<bool>,
    ended: watch::Receiver<bool>,
}

impl Common {
    fn new(synced: watch::Receiver<bool>, ended: watch::Receiver<bool>) -> Self {
        let store = Arc::new(Store::default());
        Self {
            problems: Arc::default(),
            sidecars: Arc::new(Sidecars::new(store.clone())),
            decided: Arc::default(),
            store,
            synced,
            ended,
        }
    }

    fn for_cluster(
        &self,
        cluster: &Cluster,
        events: mpsc::Sender<Vec<Event>>,
        trust: Option<watch::Receiver<Option<Arc<Trust>>>>,
    ) -> cluster::Shared {
        cluster::Shared {
            cluster: cluster.clone(),
            store: self.store.clone(),
            sidecars: self.sidecars.clone(),
            decided: self.decided.clone(),
            events,
            trust,
            ending: self.ended.clone(),
        }
    }

    /// What comes of reports: shares, by the replica that leads (of files there is but one), and
    /// verdicts of probes.
    fn use_reports(
        &self,
        tasks: &mut Tasks,
        origin: &Origin,
        leadership: Option<Leadership>,
        events: mpsc::Sender<Vec<Event>>,
    ) {
        if matches!(origin, Origin::Files(_)) || leadership.is_some() {
            let known = self.decided.mesh_limits.subscribe();
            let limits = self.sidecars.mesh().clone();
            let mesh = reports::mesh::keep(limits, known, self.synced.clone(), leadership);
            tasks.spawn(async move { match mesh.await {} });
        }
        tasks.spawn(reports::verdicts::keep(self.sidecars.clone(), events));
    }

    /// Follows the replica that leads, where this one can show it who it is.
    fn follow(
        &self,
        tasks: &mut Tasks,
        replica: Option<(Leadership, String)>,
        identity: Option<&Identity>,
    ) {
        let Some((leadership, pod)) = replica else {
            return;
        };
        let credentials = identity.and_then(|identity| identity.towards_replicas.clone());
        if identity.is_some() && credentials.is_none() {
            tracing::warn!(
                "--own-token is not set: while another replica leads, this one does not know what \
                 probes say of pods' health"
            );
            return;
        }
        let inputs = replicas::follow::Inputs {
            pod,
            leadership,
            sidecars: self.sidecars.clone(),
            synced: self.synced.clone(),
            credentials,
        };
        tasks.spawn(async move { match replicas::follow::keep(inputs).await {} });
    }

    fn services(
        &self,
        (ads, peers): (AdsServer, Peers),
        leadership: Option<Leadership>,
        guarded: bool,
    ) -> serve::Services {
        let (sidecars, ended) = (&self.sidecars, &self.ended);
        let reports = reports::server::service(sidecars.clone(), ended.clone(), peers);
        let ended = ended.clone();
        let replicas = replicas::server::service(sidecars.clone(), leadership, guarded, ended);
        (ads, reports, replicas)
    }

    fn ads(&self, peers: Peers) -> AdsServer {
        AdsServer::new(
            self.store.clone(),
            self.sidecars.clone(),
            self.synced.clone(),
            self.ended.clone(),
            peers,
        )
    }
}

async fn streams_task(
    listener: TcpListener,
    services: serve::Services,
    ended: watch::Receiver<bool>,
    identity: Option<Identity>,
) -> (&'static str, anyhow::Result<()>) {
    let served = serve::serve(listener, services, identity, ended);
    (STREAMS_TASK, served.await)
}

/// Identities, where they are wanted.
fn identities(
    tasks: &mut Tasks,
    options: identity::Options,
    origin: &Origin,
    replica: Option<&Replica>,
    listen: SocketAddr,
    common: &Common,
) -> anyhow::Result<Option<Identity>> {
    let client = match origin {
        Origin::Files(_) => None,
        Origin::Kubernetes(cluster) => Some(cluster.client.clone()),
    };
    if !options.are_wanted(client.is_some())? {
        return Ok(None);
    }
    let mut addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let own = replica.map(|replica| replica.reports_address.ip());
    let bound = Some(listen.ip()).filter(|ip| !ip.is_unspecified());
    for address in own.into_iter().chain(bound) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let inputs = identity::start::Inputs {
        options,
        client,
        system_namespace: cluster::system_namespace(replica),
        addresses,
        store: common.store.clone(),
        synced: common.synced.clone(),
    };
    Ok(Some(identity::start::start(tasks, inputs)?))
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (is another process there?)"))
}

async fn show(listener: TcpListener, admin: admin::Admin) -> (&'static str, anyhow::Result<()>) {
    let served = axum::serve(listener, admin::router(admin)).await;
    ("the admin endpoint", served.map_err(Into::into))
}

/// Who is told what the core knows.
struct Told {
    problems: Arc<Problems>,
    decided: Arc<Decided>,
    synced: watch::Sender<bool>,
}

async fn feed(
    mut core: Core,
    mut events: mpsc::Receiver<Vec<Event>>,
    told: Told,
) -> (&'static str, anyhow::Result<()>) {
    while let Some(batch) = events.recv().await {
        tracing::debug!(events = batch.len(), "objects changed");
        // On a thread of its own: whatever there is to work out, streams are
        // served meanwhile, and probes answered.
        let worked = tokio::task::spawn_blocking(move || {
            core.handle(batch);
            core
        });
        core = match worked.await {
            Ok(core) => core,
            Err(panicked) => return ("the core", Err(panicked.into())),
        };
        told.problems.set_notes(core.notes());
        told.decided.tell(&core);
        if core.is_synced() {
            told.synced.send_replace(true);
        }
    }
    ("the core", Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_command_line_is_whole() {
        use clap::{CommandFactory, Parser};
        Line::command().debug_assert();
        let line = ["x", "--source=files:a", "--ca-dir=b", "--token-key=c"];
        let options = Line::try_parse_from(line).unwrap().options;
        assert_eq!(options.identity.are_wanted(false), Ok(true));
    }
}
