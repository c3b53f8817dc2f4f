//! Kubernetes Events (events.k8s.io/v1), written by the replica that leads: a
//! policy that is refused or not in force, a breaker that opens, a running pod
//! that should have a sidecar and has none. What operators must act on; never
//! one for each request or each retry.
//!
//! # Layout
//! - here: the task that writes.
//! - [`decide`]: what is an Event.
//! - [`limit`]: how many there may be.
//! - [`record`]: the Event object; the same again is counted in it.
//!
//! The API server must allow `create` and `patch` of `events` (events.k8s.io)
//! and `list` of `services` (for the uid of one whose breaker opened).

pub mod decide;
pub mod limit;
pub mod record;

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use tokio::sync::{mpsc, watch};

use self::decide::{Kind, Notice, Uninjected};
use self::limit::Limit;
use self::record::Recorder;
use crate::answer::{self, Complaints};
use crate::clock;
use crate::core::objects::Name;
use crate::core::store::{ResourceType, Store};
use crate::counters::Counters;
use crate::leader::Leadership;
use crate::reports::Sidecars;
use crate::stream::session::Node;

/// Notices that wait to be written; further ones are dropped and counted.
const MAX_WAITING: usize = 256;
/// Breakers that open so close together are one Event for each target.
const GATHER: Duration = Duration::from_secs(1);

/// Events by reason, for the metrics.
pub type Written = Counters<8>;

/// None yet. `dropped` were over the limit or could not be written.
pub const fn written() -> Written {
    Counters::new([
        decide::REFUSED,
        decide::INVALID,
        decide::CONFLICTED,
        decide::TARGET_NOT_FOUND,
        decide::BREAKER_OPENED,
        decide::NOT_INJECTED,
        "dropped",
        "other",
    ])
}

/// Takes notices from the rest of the control plane, without waiting.
#[derive(Clone)]
pub struct Notices {
    sender: mpsc::Sender<Notice>,
    written: Arc<Written>,
}

impl Notices {
    /// Where notices go in, and where they come out.
    pub fn new(written: Arc<Written>) -> (Self, mpsc::Receiver<Notice>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self { sender, written }, receiver)
    }

    /// Tells one.
    pub fn tell(&self, notice: Notice) {
        if self.sender.try_send(notice).is_err() {
            self.written.count("dropped");
        }
    }
}

/// Where Events come from.
pub struct Inputs {
    /// Speaks to the API server.
    pub client: kube::Client,
    /// This replica's pod, as the Events name who tells.
    pub pod: String,
    /// What others tell.
    pub notices: mpsc::Receiver<Notice>,
    /// Breakers that opened.
    pub sidecars: Arc<Sidecars>,
    /// Knows the uid of every pod.
    pub store: Arc<Store>,
    /// Running pods of labelled namespaces without a sidecar.
    pub uninjected: watch::Receiver<Arc<Vec<Uninjected>>>,
    /// Who leads.
    pub leadership: Leadership,
    /// For the metrics.
    pub written: Arc<Written>,
}

/// Writes for as long as this replica leads, and whenever it does.
pub async fn keep(mut inputs: Inputs) -> Infallible {
    let mut leadership = inputs.leadership.clone();
    loop {
        leadership.begun().await;
        let mut writer = Writer {
            recorder: Recorder::new(inputs.client.clone(), &inputs.pod),
            limit: Limit::new(clock::now()),
            told: HashSet::new(),
            complaints: Complaints::default(),
            inputs: &mut inputs,
        };
        leadership.while_leading(writer.write()).await;
    }
}

/// One time of leading.
struct Writer<'a> {
    inputs: &'a mut Inputs,
    recorder: Recorder,
    limit: Limit,
    /// The uids of the pods that were told to have no sidecar.
    told: HashSet<Name>,
    complaints: Complaints,
}

impl Writer<'_> {
    async fn write(&mut self) -> Infallible {
        loop {
            let uninjected = self.inputs.uninjected.borrow_and_update().clone();
            for notice in decide::of_uninjected(&uninjected, &mut self.told) {
                // What stands can be told later: a namespace full of them is.
                if self.may_write(&notice) {
                    self.write_one(notice).await;
                } else if let Some(uid) = &notice.uid {
                    self.told.remove(uid);
                }
            }
            let mut opened = self.inputs.sidecars.take_opened();
            decide::keep_endpoints(&self.inputs.store, &mut opened);
            for notice in decide::of_opened(opened) {
                self.write_or_drop(notice).await;
            }
            let next = tokio::time::sleep(GATHER);
            tokio::select! {
                // Its sender, for the status, lives as long as this task does.
                Some(notice) = self.inputs.notices.recv() => self.write_or_drop(notice).await,
                () = next => {}
            }
        }
    }

    fn may_write(&mut self, notice: &Notice) -> bool {
        self.limit.take(notice.kind, &notice.id, clock::now())
    }

    async fn write_or_drop(&mut self, notice: Notice) {
        if self.may_write(&notice) {
            self.write_one(notice).await;
        } else {
            self.inputs.written.count("dropped");
        }
    }

    async fn write_one(&mut self, mut notice: Notice) {
        if notice.uid.is_none() {
            notice.uid = self.uid(&notice).await;
        }
        if !self.inputs.leadership.is_leading(clock::now()) {
            return;
        }
        let recorded = self.recorder.record(&notice, clock::unix_ms()).await;
        match recorded {
            Ok(()) => {
                self.complaints.end();
                self.inputs.written.count(notice.reason);
            }
            Err(error) => {
                self.inputs.written.count("dropped");
                let what = "create or patch events.events.k8s.io";
                self.complaints.tell(what, &error);
            }
        }
    }

    /// What `kubectl describe` finds an Event by.
    async fn uid(&self, notice: &Notice) -> Option<Name> {
        match notice.kind {
            Kind::TrafficPolicy | Kind::AuthorizationPolicy => None,
            Kind::Pod => {
                let name = format!("{}/{}", notice.id.namespace, notice.id.name);
                let workload = self.inputs.store.exact(ResourceType::Workload, &name)?;
                let node = Node::parse(workload.only_for.as_deref()?).ok()?;
                (!node.pod_uid.is_empty()).then(|| node.pod_uid.as_str().into())
            }
            Kind::Service => {
                let client = self.inputs.client.clone();
                let api: Api<Service> = Api::namespaced(client, &notice.id.namespace);
                let named = format!("metadata.name={}", notice.id.name);
                let named = ListParams::default().fields(&named).limit(1);
                let found = answer::of(api.list_metadata(&named)).await.ok()?;
                let uid = found.items.into_iter().next()?.metadata.uid?;
                Some(uid.as_str().into())
            }
        }
    }
}
