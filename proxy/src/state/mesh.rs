//! What the rest of the sidecar holds of the configuration: it reads the
//! snapshot without locks and asks for what is not there yet.
//!
//! Workers run on other threads than the stream. They reach it by a bounded
//! channel and get their answer by a one-shot channel, which works across runtimes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::decode::names;
use super::ledger::{Applied, Ledger, Refused};
use super::snapshot::{Known, Service, Snapshot};
use super::subscriptions::Target;
use crate::clock::Timestamp;
use crate::policy::breaker::Journal;
use crate::stream::Kind;
use crate::tls::Trust;

/// So long a caller waits for the stream's answer.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Questions on their way to the control thread; the next gets no answer.
pub const MAX_QUEUED_DEMANDS: usize = 1024;

/// Which service an address or name belongs to.
#[derive(Clone, Debug)]
pub enum Resolution {
    /// This one; its endpoints have arrived.
    Service(Arc<Service>),
    /// None of the mesh.
    Unknown,
    /// Nobody could say: no control plane and never seen before, too many
    /// questions, or a configuration that cannot be taken.
    NoAnswer,
}

/// A question of a worker.
#[derive(Debug)]
pub struct Demand {
    pub(crate) target: Target,
    /// A caller named it; else a route leads to it.
    pub(crate) is_called: bool,
    pub(crate) reply: oneshot::Sender<Resolution>,
}

#[derive(Debug, Default)]
struct Counters {
    unknown: AtomicU64,
    no_answer: AtomicU64,
    updates: AtomicU64,
    refusals: AtomicU64,
    subscriptions: AtomicU64,
    unknown_held: AtomicU64,
}

/// How the configuration stands, for the admin endpoint and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The stream is open.
    pub connected: bool,
    /// The workload has arrived once.
    pub ready: bool,
    /// What is in force.
    pub applied: Vec<Applied>,
    /// What was refused and not followed by a good version.
    pub refused: Vec<Refused>,
    /// The numbers.
    pub counts: Counts,
}

/// Numbers about the configuration; all but the last two only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Look-ups of what belongs to nothing in the mesh.
    pub unknown: u64,
    /// Look-ups that nobody could answer in time.
    pub no_answer: u64,
    /// Resources taken.
    pub updates: u64,
    /// Resources refused.
    pub refusals: u64,
    /// Addresses and names subscribed to now.
    pub subscriptions: u64,
    /// Of these, such as belong to nothing in the mesh.
    pub unknown_held: u64,
}

/// The configuration as the rest of the sidecar sees it.
#[derive(Debug)]
pub struct Mesh {
    snapshot: ArcSwap<Snapshot>,
    demands: mpsc::Sender<Demand>,
    counters: Counters,
    connected: AtomicBool,
    ready: watch::Sender<bool>,
    workload_changes: watch::Sender<u64>,
    draining: watch::Sender<bool>,
    reports_address: watch::Sender<Option<SocketAddr>>,
    trust: watch::Sender<Option<Arc<Trust>>>,
    ledger: Mutex<Ledger>,
    news: Notify,
    journal: Arc<Journal>,
}

impl Mesh {
    /// An empty one, and where its questions come out.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<Demand>) {
        let (demands, questions) = mpsc::channel(MAX_QUEUED_DEMANDS);
        let mesh = Self {
            snapshot: ArcSwap::default(),
            demands,
            counters: Counters::default(),
            connected: AtomicBool::new(false),
            ready: watch::Sender::new(false),
            workload_changes: watch::Sender::new(0),
            journal: Journal::new(),
            draining: watch::Sender::new(false),
            reports_address: watch::Sender::new(None),
            trust: watch::Sender::new(None),
            ledger: Mutex::new(Ledger::default()),
            news: Notify::new(),
        };
        (Arc::new(mesh), questions)
    }

    /// The present picture, without waiting. Do not hold it across an await.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// The present picture, to be held for longer.
    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Where the breakers of all services write their changes.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Rises with each new version of the workload.
    pub fn workload_changes(&self) -> watch::Receiver<u64> {
        self.workload_changes.subscribe()
    }

    /// What is known of an address without waiting; counts as a use of it.
    pub fn lookup(&self, address: IpAddr, now: Timestamp) -> Option<Resolution> {
        self.known(self.load().address(address)?, now)
    }

    /// As [`Mesh::lookup`], by `namespace/name` or `pod/namespace/pod`.
    pub fn lookup_name(&self, name: &str, now: Timestamp) -> Option<Resolution> {
        self.known(self.load().name(name)?, now)
    }

    /// Which service an address belongs to. Where that is not known yet, asks
    /// the control plane and waits up to [`RESOLVE_TIMEOUT`].
    pub async fn resolve_address(&self, address: IpAddr, now: Timestamp) -> Resolution {
        match self.lookup(address, now) {
            Some(resolution) => resolution,
            None => {
                self.ask(Target::Address(address.to_canonical()), true)
                    .await
            }
        }
    }

    /// As [`Mesh::resolve_address`], by `namespace/name` or
    /// `pod/namespace/pod`. A name that no service can have is unknown at once.
    pub async fn resolve_name(&self, name: &str, now: Timestamp) -> Resolution {
        match self.lookup_name(name, now) {
            Some(resolution) => resolution,
            None if names::is_service_name(name) => self.ask(Target::Name(name.into()), true).await,
            None => self.counted(Resolution::Unknown),
        }
    }

    /// The service of this name, to which a route leads. Where it is not known yet,
    /// asks the control plane and waits up to [`RESOLVE_TIMEOUT`].
    pub async fn resolve_backend(&self, name: &Arc<str>) -> Option<Arc<Service>> {
        if let Some(service) = self.load().service(name) {
            return Some(Arc::clone(service));
        }
        match self.ask(Target::Name(Arc::clone(name)), false).await {
            Resolution::Service(service) => Some(service),
            Resolution::Unknown | Resolution::NoAnswer => None,
        }
    }

    /// How the configuration stands. Copies the whole list: not for the data path.
    pub fn status(&self) -> Status {
        let ledger = self.ledger.lock();
        Status {
            connected: self.is_connected(),
            ready: self.is_ready(),
            applied: ledger.applied().cloned().collect(),
            refused: ledger.refused().cloned().collect(),
            counts: self.counts(),
        }
    }

    /// The numbers alone.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            unknown: read(&self.counters.unknown),
            no_answer: read(&self.counters.no_answer),
            updates: read(&self.counters.updates),
            refusals: read(&self.counters.refusals),
            subscriptions: read(&self.counters.subscriptions),
            unknown_held: read(&self.counters.unknown_held),
        }
    }

    /// Whether the stream is open.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// True once the workload has arrived; never false again.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Whether the workload has arrived once.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Why the pod's own Workload could not be taken as it was last sent;
    /// `None` where it was, or none was sent. The reason is one line.
    pub fn refused_workload(&self) -> Option<String> {
        let ledger = self.ledger.lock();
        let mut refused = ledger.refused();
        let workload = refused.find(|refused| refused.kind == Kind::Workload)?;
        Some(workload.reason.clone())
    }

    /// Whether the pod is being deleted.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Where reports go; `None`: to where the stream is.
    pub fn reports_address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.reports_address.subscribe()
    }

    /// The trust bundle, once it has arrived.
    pub fn trust(&self) -> watch::Receiver<Option<Arc<Trust>>> {
        self.trust.subscribe()
    }

    /// Makes the next report go out soon, because something outside of the
    /// configuration changed: a breaker.
    pub fn report_soon(&self) {
        self.news.notify_one();
    }

    fn known(&self, known: &Known, now: Timestamp) -> Option<Resolution> {
        Some(match known {
            Known::Service(service) => {
                service.touch(now);
                Resolution::Service(service.clone())
            }
            Known::Unknown(usage) => {
                usage.touch(now);
                self.counted(Resolution::Unknown)
            }
            Known::Refused(usage) => {
                usage.touch(now);
                self.counted(Resolution::NoAnswer)
            }
        })
    }

    async fn ask(&self, target: Target, is_called: bool) -> Resolution {
        let (reply, answer) = oneshot::channel();
        let demand = Demand {
            target,
            is_called,
            reply,
        };
        let resolution = match self.demands.try_send(demand) {
            Ok(()) => match tokio::time::timeout(RESOLVE_TIMEOUT, answer).await {
                Ok(Ok(resolution)) => resolution,
                Ok(Err(_)) | Err(_) => Resolution::NoAnswer,
            },
            Err(_) => Resolution::NoAnswer,
        };
        self.counted(resolution)
    }

    fn counted(&self, resolution: Resolution) -> Resolution {
        match resolution {
            Resolution::Service(_) => {}
            Resolution::Unknown => rise(&self.counters.unknown),
            Resolution::NoAnswer => rise(&self.counters.no_answer),
        }
        resolution
    }
}

/// What the control thread does to it.
impl Mesh {
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(crate) fn set_ready(&self) {
        self.ready
            .send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    pub(crate) fn workload_changed(&self) {
        self.workload_changes.send_modify(|version| *version += 1);
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining
            .send_if_modified(|was| std::mem::replace(was, draining) != draining);
    }

    pub(crate) fn set_reports_address(&self, address: Option<SocketAddr>) {
        self.reports_address
            .send_if_modified(|was| std::mem::replace(was, address) != address);
    }

    pub(crate) fn set_trust(&self, trust: Arc<Trust>) {
        self.trust.send_replace(Some(trust));
    }

    pub(crate) fn set_held(&self, subscriptions: usize, unknown: usize) {
        let counters = &self.counters;
        counters
            .subscriptions
            .store(subscriptions as u64, Ordering::Relaxed);
        counters
            .unknown_held
            .store(unknown as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_update(&self) {
        rise(&self.counters.updates);
    }

    pub(crate) fn count_refusal(&self) {
        rise(&self.counters.refusals);
    }

    pub(crate) fn ledger(&self) -> parking_lot::MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }

    pub(crate) fn news(&self) -> &Notify {
        &self.news
    }
}

fn rise(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
