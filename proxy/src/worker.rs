//! A data worker: one thread, one current-thread runtime, with its own
//! listeners, pool and callers; and what all workers share.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::access_log::AccessLogger;
use crate::callers::Callers;
use crate::clock;
use crate::config::{Config, Mode};
use crate::inbound::Inbound;
use crate::metrics::process::Loops;
use crate::patience::Patience;
use crate::policy::breaker::Journal;
use crate::pool::Pool;
use crate::relay::Scratch;
use crate::state::{EndpointConfig, Mesh, Secured};
use crate::{health, identity, inbound_connection, outbound_connection, tls};

/// How often a worker looks through its pool and its callers.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Connections that a worker holds at a time; beyond it nothing is accepted
/// until one ends, so that a flood cannot take the memory of the pod.
const CONNECTIONS: usize = 50_000;

/// What all workers share, and the control thread reads.
#[derive(Debug)]
pub struct Shared {
    /// What the sidecar was told at its start.
    pub config: Config,
    /// What the control plane says.
    pub mesh: Arc<Mesh>,
    /// The pod's own ports.
    pub inbound: Inbound,
    /// Where finished requests are told.
    pub access_log: AccessLogger,
    /// Changes of breakers.
    pub journal: Arc<Journal>,
    /// Numbers about connections.
    pub connections: ConnectionCounters,
    /// Who we are, and whom we believe.
    pub tls: tls::Context,
    /// How our certificate stands.
    pub identity: identity::Status,
    /// What probes have found.
    pub health: health::Board,
    /// The event loops of the threads.
    pub loops: Loops,
    /// A request waits at `maxConnections`, perhaps for what another worker keeps idle.
    pub connection_wanted: Notify,
}

/// Numbers about connections, all workers together.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    /// Open now, callers' side.
    pub open: AtomicU64,
    /// To addresses that belong to nothing in the mesh.
    pub passed_unknown: AtomicU64,
    /// To addresses about which nobody could say anything.
    pub passed_unanswered: AtomicU64,
    /// Malformed requests that were refused.
    pub bad_requests: AtomicU64,
    /// That came to the listener itself, without an original destination.
    pub without_destination: AtomicU64,
}

impl Shared {
    /// Whether `address` is the sidecar's own pod, so that a connection there
    /// passes no other sidecar. In explicit mode the sidecar itself listens
    /// there, and its own pod is like any other.
    pub fn is_own_pod(&self, address: IpAddr) -> bool {
        self.config.mode == Mode::Intercept && self.config.pod_ips.contains(&address)
    }

    /// Who must prove to be at `address` of an endpoint; `None` where it is sent
    /// plaintext: it has no identity, or this sidecar has none, or it is the
    /// pod's own application.
    pub fn secured<'a>(
        &self,
        endpoint: &'a EndpointConfig,
        address: SocketAddr,
    ) -> Option<&'a Secured> {
        let secured = endpoint.secured.as_ref()?;
        (self.tls.has_identity() && !self.is_own_pod(address.ip())).then_some(secured)
    }

    /// Where the application listens that is reached at `address`.
    pub fn application_address(&self, address: SocketAddr) -> SocketAddr {
        match self.config.mode {
            Mode::Intercept => address,
            Mode::Explicit { application, .. } => SocketAddr::new(application, address.port()),
        }
    }
}

/// One data worker.
#[derive(Debug)]
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Its idle connections upstream.
    pub pool: Pool,
    /// Its callers' connections.
    pub callers: Callers,
    /// The read buffer of its raw connections.
    pub scratch: Scratch,
    /// For its connections upstream.
    pub tls_clients: tls::ClientConfigs,
    /// With callers that have not spoken yet.
    pub patience: Patience,
    /// Mirrored requests under way.
    pub mirrors: Cell<usize>,
    /// True once draining has begun: each answer asks its caller to go elsewhere.
    pub draining: Cell<bool>,
}

/// The listeners of one worker.
#[derive(Debug)]
pub struct Listeners {
    /// The pod's outgoing connections.
    pub outbound: TcpListener,
    /// Connections to the pod.
    pub inbound: Vec<TcpListener>,
}

/// Runs a worker on this thread's runtime until `stop` turns true.
pub async fn run(
    shared: Arc<Shared>,
    listeners: Listeners,
    drain: watch::Receiver<bool>,
    mut stop: watch::Receiver<bool>,
) {
    let worker = Rc::new(Worker {
        shared,
        pool: Pool::default(),
        callers: Callers::default(),
        scratch: Scratch::default(),
        tls_clients: tls::ClientConfigs::default(),
        patience: Patience::default(),
        mirrors: Cell::new(0),
        draining: Cell::new(false),
    });
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_local(accept(
        Rc::clone(&worker),
        listeners.outbound,
        Arc::clone(&slots),
        Direction::Outbound,
    ));
    for listener in listeners.inbound {
        tasks.spawn_local(accept(
            Rc::clone(&worker),
            listener,
            Arc::clone(&slots),
            Direction::Inbound,
        ));
    }
    tasks.spawn_local(sweep(Rc::clone(&worker)));
    tasks.spawn_local(lend(Rc::clone(&worker)));
    tasks.spawn_local(follow_drain(Rc::clone(&worker), drain));
    tokio::select! {
        // Whoever runs the worker ends the process when it ends without being told to.
        ended = tasks.join_next() => tracing::error!(?ended, "a worker's task ended"),
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Outbound,
    Inbound,
}

async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    slots: Arc<tokio::sync::Semaphore>,
    direction: Direction,
) {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: the connections that are there must end first.
                tracing::warn!(%error, "cannot accept a connection; check the limit of open files");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            let _slot = slot;
            serve(&worker, stream, crate::socket::canonical(peer), direction).await;
        });
    }
}

async fn serve(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, direction: Direction) {
    if let Err(error) = crate::socket::prepare(&stream) {
        tracing::debug!(%peer, %error, "a connection broke before it was served");
        return;
    }
    let open = &worker.shared.connections.open;
    open.fetch_add(1, Relaxed);
    match direction {
        Direction::Outbound => outbound_connection::serve(worker, stream, peer).await,
        Direction::Inbound => inbound_connection::serve(worker, stream, peer).await,
    }
    open.fetch_sub(1, Relaxed);
}

/// Gives connections up that requests at other workers wait for.
pub(crate) async fn lend(worker: Rc<Worker>) {
    let mut wanted = std::pin::pin!(worker.shared.connection_wanted.notified());
    loop {
        // Listening before looking, so that no call is missed in between.
        wanted.as_mut().enable();
        worker.pool.lend();
        wanted.as_mut().await;
        wanted.set(worker.shared.connection_wanted.notified());
    }
}

async fn follow_drain(worker: Rc<Worker>, mut drain: watch::Receiver<bool>) {
    if drain.wait_for(|draining| *draining).await.is_ok() {
        worker.draining.set(true);
        worker.callers.wake();
    }
    // A task that ended would look like one that died.
    std::future::pending::<()>().await;
}

async fn sweep(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let now = clock::now();
        worker.pool.sweep(now);
        worker.callers.sweep(now);
    }
}
