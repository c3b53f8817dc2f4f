//! Which replica of the control plane leads: it alone writes status and
//! Events, and sidecars report to it. Every replica serves configuration,
//! whoever leads. What the leader does is not decided here.
//!
//! # Layout
//! - here: what the rest asks, and the task that keeps it true.
//! - [`machine`]: the rules, without a clock and without Kubernetes.
//! - [`lease`]: the Lease object.
//!
//! The API server must allow `get`, `create`, `update`, `list` and `watch` of
//! `leases` (coordination.k8s.io) in our own namespace.

pub mod lease;
pub mod machine;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Instant;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use remora_proto::well_known;
use tokio::sync::watch;

use self::machine::{Machine, Record, Seen, Step};
use crate::answer::{self, Complaints, RequestError};
use crate::{clock, random};

/// One replica, as it calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Our own namespace, where the Lease is.
    pub namespace: String,
    /// The name of this replica's pod.
    pub pod: String,
    /// Where this replica takes reports, `ip:port`.
    pub reports_address: SocketAddr,
}

/// What is known of who leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The pod that leads; empty where nobody is known to.
    pub leader: String,
    /// This replica leads until then, unless it renews the Lease before.
    pub leading_until: Option<Instant>,
    /// Where reports go; the last known while nobody leads.
    pub reports_address: Option<SocketAddr>,
}

/// Who leads, now and whenever it changes.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<View>);

impl Leadership {
    /// As told by [`keep`] through this channel.
    pub fn new(view: watch::Receiver<View>) -> Self {
        Self(view)
    }

    /// What is known now.
    pub fn view(&self) -> View {
        self.0.borrow().clone()
    }

    /// Whether this replica leads at `now`. Ask before every write.
    pub fn is_leading(&self, now: Instant) -> bool {
        self.0
            .borrow()
            .leading_until
            .is_some_and(|until| now < until)
    }

    /// Resolves when this replica leads.
    pub async fn begun(&mut self) {
        let leading = |view: &View| view.leading_until.is_some_and(|until| clock::now() < until);
        if self.0.wait_for(leading).await.is_err() {
            // The task that tells is gone, and with it soon the process.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when this replica leads no more.
    pub async fn ended(&mut self) {
        loop {
            let until = self.0.borrow_and_update().leading_until;
            let Some(until) = until.filter(|until| clock::now() < *until) else {
                return;
            };
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                changed = self.0.changed() => if changed.is_err() {
                    return;
                }
            }
        }
    }

    /// Works for as long as this replica leads: what is under way at the end of it is
    /// dropped, since another may write from then on.
    pub async fn while_leading(&mut self, work: impl Future<Output = Infallible>) {
        tokio::select! {
            biased;
            () = self.ended() => {}
            never = work => match never {},
        }
    }

    /// Resolves when anything of it changed since the last time.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes part in the election until `ending` turns true; then gives the Lease
/// up where this replica has it.
pub async fn keep(
    client: kube::Client,
    replica: Replica,
    view: watch::Sender<View>,
    mut ending: watch::Receiver<bool>,
) {
    let mut candidate = Candidate {
        api: Api::namespaced(client, &replica.namespace),
        machine: Machine::new(&replica.pod, clock::now()),
        replica,
        latest: None,
        view,
        complaints: Complaints::default(),
    };
    let name = well_known::CONTROL_PLANE;
    let changes = watcher::watch_object(candidate.api.clone(), name).default_backoff();
    let changes = std::pin::pin!(changes);
    tokio::select! {
        never = candidate.run(changes) => match never {},
        _ = ending.wait_for(|ending| *ending) => {}
    }
    candidate.release().await;
}

struct Candidate {
    api: Api<Lease>,
    machine: Machine,
    replica: Replica,
    /// The Lease as last read or written, so that what others wrote in it stays.
    latest: Option<Lease>,
    view: watch::Sender<View>,
    complaints: Complaints,
}

impl Candidate {
    async fn run(
        &mut self,
        mut changes: impl Stream<Item = watcher::Result<Option<Lease>>> + Unpin,
    ) -> Infallible {
        loop {
            let step = self.machine.step(clock::now(), unix_us());
            self.tell();
            let until = match step {
                Step::Wait(until) => until,
                step => {
                    self.attempt(step).await;
                    continue;
                }
            };
            tokio::select! {
                change = changes.next() => match change {
                    // It may be there again: a deletion tells no version.
                    Some(Ok(None)) => self.read().await,
                    Some(Ok(Some(lease))) => self.observe(Some(lease)),
                    Some(Err(error)) => tracing::debug!(%error, "the watch of the Lease broke; it begins anew"),
                    None => tokio::time::sleep_until(until.into()).await,
                },
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    async fn attempt(&mut self, step: Step) {
        let begun = clock::now();
        let written = match step {
            Step::Wait(_) => return,
            Step::Read => return self.read().await,
            Step::Create(record) => {
                let lease = self.lease(None, &record, None);
                answer::of(self.api.create(&PostParams::default(), &lease)).await
            }
            Step::Replace(record, over) => {
                let lease = self.lease(self.latest.clone(), &record, Some(&over));
                self.replace(&lease).await
            }
        };
        match written {
            Ok(lease) => {
                self.complaints.end();
                self.machine
                    .written(lease::read(&lease), begun, clock::now());
                self.latest = Some(lease);
            }
            Err(error) => {
                self.complain("write", &error);
                // Somebody was first: who, and since when?
                if error.is_usual() {
                    self.read().await;
                }
                self.machine
                    .failed(clock::now(), random::unit(random::next()));
            }
        }
    }

    async fn read(&mut self) {
        match answer::of(self.api.get_opt(well_known::CONTROL_PLANE)).await {
            Ok(lease) => self.observe(lease),
            Err(error) => {
                self.complain("read", &error);
                self.machine
                    .failed(clock::now(), random::unit(random::next()));
            }
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, RequestError> {
        let name = well_known::CONTROL_PLANE;
        answer::of(self.api.replace(name, &PostParams::default(), lease)).await
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let seen = lease.as_ref().map(lease::read);
        self.machine.observe(seen.clone(), clock::now());
        if self.machine.seen() == seen.as_ref() {
            self.latest = lease;
        }
    }

    fn lease(&self, before: Option<Lease>, record: &Record, over: Option<&str>) -> Lease {
        let address = self.replica.reports_address.to_string();
        let address = (!record.holder.is_empty()).then_some(address.as_str());
        lease::write(before, &self.replica.namespace, record, over, address)
    }

    async fn release(mut self) {
        let released = self.machine.release(unix_us());
        self.tell();
        let Some((record, over)) = released else {
            return;
        };
        let lease = self.lease(self.latest.clone(), &record, Some(&over));
        let mut given_up = self.replace(&lease).await.map(drop);
        // A renewal may have been on its way when the end came.
        if matches!(given_up, Err(RequestError::Conflict)) {
            given_up = self.release_what_is_there(&record).await;
        }
        match given_up {
            Ok(()) => tracing::info!("the Lease is given up"),
            Err(error) => {
                tracing::warn!(%error, "the Lease could not be given up; another replica leads when it has run out");
            }
        }
    }

    async fn release_what_is_there(&self, record: &Record) -> Result<(), RequestError> {
        let held = answer::of(self.api.get(well_known::CONTROL_PLANE)).await?;
        let seen = lease::read(&held);
        if seen.record.holder == self.replica.pod {
            let over = seen.resource_version;
            let lease = self.lease(Some(held), record, Some(&over));
            self.replace(&lease).await?;
        }
        Ok(())
    }

    /// Tells the rest what is known now.
    fn tell(&self) {
        let seen = self.machine.seen();
        let held = seen.filter(|seen| !seen.record.holder.is_empty());
        let address = held.and_then(|seen: &Seen| lease::address(&seen.address));
        let leader = held.map(|seen| seen.record.holder.clone());
        let leading_until = self.machine.leading_until();
        self.view.send_if_modified(|view| {
            let now = View {
                leader: leader.unwrap_or_default(),
                leading_until,
                reports_address: address.or(view.reports_address),
            };
            let (was, is) = (view.leading_until.is_some(), leading_until.is_some());
            if was != is || view.leader != now.leader {
                tracing::info!(
                    leader = now.leader,
                    leading = is,
                    "the control plane's leader"
                );
            }
            let changed = *view != now;
            *view = now;
            changed
        });
    }

    fn complain(&mut self, verb: &str, error: &RequestError) {
        if !error.is_usual() {
            let (namespace, name) = (&self.replica.namespace, well_known::CONTROL_PLANE);
            let what = format!("{verb} the Lease {namespace}/{name}");
            self.complaints.tell(&what, error);
        }
    }
}

fn unix_us() -> i64 {
    i64::try_from(clock::unix_ms().saturating_mul(1_000)).unwrap_or(i64::MAX)
}
