//! The sidecar as a process: its threads, its supervision, its end.
//!
//! ```text
//!  control thread: stream, reports, admin, probes, signals
//!  worker threads: listeners, connections, pools
//! ```
//! Whatever ends without having been told to ends the process, with an error:
//! a sidecar of which half is gone must not look alive.

mod told;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::access_log::AccessLogger;
use crate::admin::{self, Admin};
use crate::clock;
use crate::config::{Config, Mode};
use crate::health;
use crate::heap;
use crate::identity;
use crate::inbound::Inbound;
use crate::metrics::process::Loops;
use crate::probes::{self, ProbeTarget};
use crate::socket;
use crate::state::MtlsMode;
use crate::stream::{ControlPlane, Identity, Options, Streams};
use crate::tls;
use crate::worker::{self, ConnectionCounters, Listeners, Shared};

/// So often the end of a drain is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// Runs the sidecar until it is told to end and what was in flight has ended.
///
/// # Errors
/// It cannot start, or a part of it ended by itself.
pub fn run(config: Config) -> anyhow::Result<()> {
    let started = clock::now();
    log_to_stderr(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(control(config, started))
}

/// The library that reads HTTP/2. It warns of single frames, so a peer could
/// write thousands of lines a second; what is a flood we say ourselves, once.
const FRAME_LIBRARY: &str = "h2";

/// A filter by targets and levels only: the one with regular expressions would
/// add a megabyte to what every pod carries.
fn log_to_stderr(filter: &str) -> anyhow::Result<()> {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let asked: Targets = filter.parse().with_context(|| {
        format!("REMORA_LOG={filter:?}: expected such as info,remora_proxy=debug")
    })?;
    let names = |(target, _): (&str, LevelFilter)| target.starts_with(FRAME_LIBRARY);
    let targets = if asked.iter().any(names) {
        asked
    } else {
        asked.with_target(FRAME_LIBRARY, LevelFilter::ERROR)
    };
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(targets)
        .with(lines)
        .init();
    Ok(())
}

async fn control(config: Config, started: clock::Timestamp) -> anyhow::Result<()> {
    let options = stream_options(&config)?;
    let control_plane = options.control_plane.clone();
    let (mesh, streams) = Streams::new(options);
    let shared = Arc::new(Shared {
        access_log: AccessLogger::open(&config.access_log)?,
        journal: Arc::clone(mesh.journal()),
        mesh,
        // Where there are identities, nobody is let in on a guess.
        inbound: Inbound::new(match config.identity {
            Some(_) => MtlsMode::Strict,
            None => MtlsMode::Permissive,
        }),
        tls: tls::Context::new(config.identity.is_some()),
        identity: identity::Status::default(),
        connections: ConnectionCounters::default(),
        health: health::Board::default(),
        loops: Loops::default(),
        connection_wanted: tokio::sync::Notify::new(),
        config,
    });
    shared.loops.add("control");
    let (drain, draining) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    let workers = start_workers(&shared, &draining, &stopping)?;
    let mut running = streams.spawn(Arc::new(told::Source(Arc::clone(&shared))));
    let ready_at = when_ready(&shared, started);
    let giving_back = give_memory_back(&shared, ready_at.clone());
    let admin = Arc::new(Admin {
        shared: Arc::clone(&shared),
        drain: drain.clone(),
        started,
        ready_at,
    });
    let admin_server = serve_admin(&shared, admin);
    let probe_server = serve_probes(&shared);
    let workload = follow_workload(&shared, &drain);
    let probing = health::keep::keep_checks(Arc::clone(&shared), application(&shared));
    let identity = keep_identity(&shared, control_plane);
    let ended = tokio::select! {
        result = admin_server => result.context("the admin endpoint ended"),
        result = probe_server => result.context("the probe endpoint ended"),
        result = &mut running.configuration => Err(anyhow!("the configuration stream's task ended: {result:?}")),
        result = &mut running.reports => Err(anyhow!("the report stream's task ended: {result:?}")),
        () = giving_back => Err(anyhow!("the task that gives memory back ended")),
        () = workload => Err(anyhow!("the workload's task ended")),
        () = probing => Err(anyhow!("the prober's task ended")),
        () = identity => Err(anyhow!("the identity's task ended")),
        name = workers => Err(anyhow!("worker {name} ended")),
        // Meanwhile the others go on: a drain can be watched, and is watched over.
        () = drained_when_told(&shared, &drain) => Ok(()),
    };
    stop.send_replace(true);
    ended
}

/// Who we are on the streams, and to whom they go.
fn stream_options(config: &Config) -> anyhow::Result<Options> {
    let files = config.identity.as_ref();
    Ok(Options {
        identity: Identity {
            namespace: config.namespace.clone(),
            pod: config.pod.clone(),
            pod_uid: config.pod_uid.clone(),
            service_account: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: files.map(|files| files.trust_domain.clone()),
        },
        control_plane: ControlPlane::parse(&config.control_plane, config.socket_mark, files)?,
    })
}

/// Where the sidecar has an identity: its certificate and the trust bundle.
async fn keep_identity(shared: &Shared, control_plane: ControlPlane) {
    let Some(files) = &shared.config.identity else {
        return std::future::pending().await;
    };
    let agent = identity::Agent::new(
        control_plane,
        &shared.config.namespace,
        &files.trust_domain,
        &shared.mesh,
        &shared.tls,
        &shared.identity,
    );
    agent.run().await;
}

async fn drained_when_told(shared: &Shared, drain: &watch::Sender<bool>) {
    told_to_end().await;
    begin_drain(drain, "a signal");
    finish(shared).await;
}

/// Begins to drain, and says so once in the log with who asked for it.
pub fn begin_drain(drain: &watch::Sender<bool>, asked: &str) {
    if drain.send_if_modified(|drain| !std::mem::replace(drain, true)) {
        tracing::info!(
            asked,
            "draining: not ready any more, and each answer sends its caller elsewhere"
        );
    }
}

/// After SIGTERM: ends as soon as nothing is in flight, at most the drain timeout later.
async fn finish(shared: &Shared) {
    let deadline = clock::now().after(shared.config.drain_timeout);
    while in_flight(shared) > 0 && clock::now() < deadline {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    let left = in_flight(shared);
    if left > 0 {
        tracing::warn!(
            left,
            "ending although requests are in flight: the drain timeout has passed"
        );
    }
}

fn in_flight(shared: &Shared) -> u64 {
    let inbound = shared
        .inbound
        .counted_ports()
        .into_iter()
        .map(|counted| counted.runtime);
    let snapshot = shared.mesh.load();
    let outbound = snapshot
        .services()
        .map(|service| Arc::clone(&service.runtime));
    inbound
        .chain(outbound)
        .map(|runtime| {
            runtime.traffic.in_flight.load(Relaxed) + runtime.traffic.tcp_open.load(Relaxed)
        })
        .sum()
}

/// Once it has been ready for a moment, and after each peak; see [`heap`].
async fn give_memory_back(shared: &Shared, ready_at: watch::Receiver<Option<clock::Timestamp>>) {
    let mut trimmer = heap::Trimmer::default();
    let mut was_ready = false;
    loop {
        tokio::time::sleep(heap::LOOK_EVERY).await;
        let demand = in_flight(shared) + shared.connections.open.load(Relaxed);
        let is_started = !was_ready && ready_at.borrow().is_some();
        if is_started {
            was_ready = true;
            heap::give_back_program();
        }
        if is_started || trimmer.look(demand, heap::resident_bytes()) {
            heap::give_back();
            trimmer.trimmed(demand, heap::resident_bytes());
        }
    }
}

async fn told_to_end() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without signals only SIGKILL ends the sidecar.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Starts the workers; gives the name of the first one that ends.
fn start_workers(
    shared: &Arc<Shared>,
    drain: &watch::Receiver<bool>,
    stop: &watch::Receiver<bool>,
) -> anyhow::Result<impl Future<Output = String>> {
    let (ended, mut endings) = tokio::sync::mpsc::channel(shared.config.concurrency);
    for number in 0..shared.config.concurrency {
        let name = format!("worker-{number}");
        let (shared, drain, stop) = (Arc::clone(shared), drain.clone(), stop.clone());
        let ended = ended.clone();
        let (listening, is_listening) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                run_worker(&name, shared, drain, stop, listening);
                // The receiver is gone only when the process is ending anyway.
                let _ = ended.try_send(name);
            })?;
        is_listening.blocking_recv_on_start()??;
    }
    Ok(async move { endings.recv().await.unwrap_or_default() })
}

/// Waits for a thread that has just been started; it answers within microseconds.
trait OnStart<T> {
    fn blocking_recv_on_start(self) -> anyhow::Result<T>;
}

impl<T> OnStart<T> for oneshot::Receiver<T> {
    fn blocking_recv_on_start(mut self) -> anyhow::Result<T> {
        loop {
            match self.try_recv() {
                Ok(value) => return Ok(value),
                Err(oneshot::error::TryRecvError::Empty) => std::thread::yield_now(),
                Err(oneshot::error::TryRecvError::Closed) => {
                    return Err(anyhow!("a worker ended while it started"));
                }
            }
        }
    }
}

fn run_worker(
    name: &str,
    shared: Arc<Shared>,
    drain: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
    listening: oneshot::Sender<anyhow::Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = listening.send(Err(error.into()));
            return;
        }
    };
    runtime.block_on(async move {
        shared.loops.add(name);
        match listen(&shared.config) {
            Ok(listeners) => {
                let _ = listening.send(Ok(()));
                worker::run(shared, listeners, drain, stop).await;
            }
            Err(error) => {
                let _ = listening.send(Err(error));
            }
        }
    });
}

fn listen(config: &Config) -> anyhow::Result<Listeners> {
    let bind = |address: SocketAddr, what: &str| {
        socket::listen(address)
            .with_context(|| format!("cannot listen on {address} for {what} connections"))
    };
    let inbound = match &config.mode {
        Mode::Intercept => vec![bind(config.inbound_listen, "inbound")?],
        Mode::Explicit { inbound_ports, .. } => {
            let addresses = config.pod_ips.iter().flat_map(|address| {
                inbound_ports
                    .iter()
                    .map(|port| SocketAddr::new(*address, *port))
            });
            addresses
                .map(|address| bind(address, "inbound"))
                .collect::<anyhow::Result<_>>()?
        }
    };
    Ok(Listeners {
        outbound: bind(config.outbound_listen, "outbound")?,
        inbound,
    })
}

async fn serve_admin(shared: &Shared, admin: Arc<Admin>) -> anyhow::Result<()> {
    let address = shared.config.admin_listen;
    let listener =
        socket::listen(address).with_context(|| format!("cannot listen on {address}"))?;
    let service = admin::router(admin).into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, service).await?)
}

/// Where probes find the application.
fn application(shared: &Shared) -> IpAddr {
    let application = match shared.config.mode {
        Mode::Intercept => shared.config.pod_ips.first().copied(),
        Mode::Explicit { application, .. } => Some(application),
    };
    application.unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

async fn serve_probes(shared: &Shared) -> anyhow::Result<()> {
    if shared.config.probes.is_empty() {
        return std::future::pending().await;
    }
    let address = shared.config.probe_listen;
    let listener =
        socket::listen(address).with_context(|| format!("cannot listen on {address}"))?;
    let target = ProbeTarget {
        probes: shared.config.probes.clone(),
        application: application(shared),
        socket_mark: shared.config.socket_mark,
    };
    Ok(axum::serve(listener, probes::router(target)).await?)
}

/// Says when the workload had arrived, and the certificate where there is to be one.
fn when_ready(
    shared: &Arc<Shared>,
    started: clock::Timestamp,
) -> watch::Receiver<Option<clock::Timestamp>> {
    let (sender, receiver) = watch::channel(None);
    let mut ready = shared.mesh.ready();
    let mut certified = shared.identity.certified();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if shared.tls.has_identity() && certified.wait_for(|certified| *certified).await.is_err() {
            return;
        }
        if ready.wait_for(|ready| *ready).await.is_ok() {
            let now = clock::now();
            sender.send_replace(Some(now));
            tracing::info!(ready_ms = now.since(started).as_millis() as u64, "ready");
        }
    });
    receiver
}

/// Takes each version of the workload over, and begins to drain when it says so.
async fn follow_workload(shared: &Arc<Shared>, drain: &watch::Sender<bool>) {
    let mut changes = shared.mesh.workload_changes();
    let mut draining = shared.mesh.draining();
    loop {
        if let Some(workload) = shared.mesh.load().workload() {
            shared.inbound.configure(&workload.config);
        }
        if *draining.borrow_and_update() {
            begin_drain(drain, "the control plane: the pod is being deleted");
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = draining.changed() => if changed.is_err() { return },
        }
    }
}
