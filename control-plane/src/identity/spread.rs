//! The ConfigMap `remora-trust` in every namespace of the mesh: whom a sidecar
//! trusts at its first connection. The leader keeps them; none is ever removed,
//! because a pod that was made with it needs it for as long as it lives.
//!
//! The API server must allow `list`, `watch`, `create` and `patch` of
//! `configmaps` with this name, in every namespace. (Where one is made by
//! server-side apply, the name counts for `create` too.)

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use remora_proto::well_known::{CONTROL_PLANE, TRUST_CONFIG_MAP, TRUST_KEY};
use tokio::sync::watch;

use super::keep::Trust;
use crate::answer::{self, RequestError};
use crate::clock;
use crate::core::objects::Name;
use crate::leader::Leadership;

/// How long after a write that failed the next one of the same namespace.
const RETRY: Duration = Duration::from_secs(5);
/// How long at most until all are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What it goes by.
pub struct Inputs {
    /// The API server.
    pub client: kube::Client,
    /// Our own namespace, where the record itself is.
    pub system_namespace: String,
    /// Namespaces with sidecars, or that ask for them.
    pub namespaces: watch::Receiver<Arc<BTreeSet<Name>>>,
    /// Whom to trust.
    pub trust: watch::Receiver<Option<Arc<Trust>>>,
    /// Who leads.
    pub leadership: Leadership,
}

/// Keeps them while this replica leads.
pub async fn keep(mut inputs: Inputs) -> Infallible {
    let all: Api<ConfigMap> = Api::all(inputs.client.clone());
    let config = watcher::Config::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
    let mut events = watcher(all, config).map_ok(slim).default_backoff().boxed();
    let mut there = There::default();
    let mut failed: HashMap<Name, Instant> = HashMap::new();
    loop {
        let now = clock::now();
        if inputs.leadership.is_leading(now) && there.is_whole {
            write_all(&inputs, &mut there, &mut failed, now).await;
        }
        let pause = if failed.is_empty() { LOOK_AGAIN } else { RETRY };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => there.take(event),
                Some(Err(error)) => tracing::debug!(%error, "the watch of remora-trust broke; it begins anew"),
                None => tokio::time::sleep(RETRY).await,
            },
            Ok(()) = inputs.namespaces.changed() => {}
            Ok(()) = inputs.trust.changed() => {}
            () = inputs.leadership.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Namespace and text of each that is there.
#[derive(Default)]
struct There {
    texts: BTreeMap<Name, String>,
    listed: BTreeMap<Name, String>,
    is_whole: bool,
}

type Slim = watcher::Event<(ObjectMeta, String)>;

/// Without what is of no interest.
fn slim(event: watcher::Event<ConfigMap>) -> Slim {
    use watcher::Event;
    let read = |map: ConfigMap| {
        let text = map.data.and_then(|mut data| data.remove(TRUST_KEY));
        (map.metadata, text.unwrap_or_default())
    };
    match event {
        Event::Apply(map) => Event::Apply(read(map)),
        Event::Delete(map) => Event::Delete(read(map)),
        Event::Init => Event::Init,
        Event::InitApply(map) => Event::InitApply(read(map)),
        Event::InitDone => Event::InitDone,
    }
}

impl There {
    fn take(&mut self, event: Slim) {
        use watcher::Event;
        let place = |metadata: ObjectMeta| Name::from(metadata.namespace.unwrap_or_default());
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply((metadata, text)) => {
                self.listed.insert(place(metadata), text);
            }
            Event::InitDone => {
                self.texts = std::mem::take(&mut self.listed);
                self.is_whole = true;
            }
            Event::Apply((metadata, text)) => {
                self.texts.insert(place(metadata), text);
            }
            Event::Delete((metadata, _)) => {
                self.texts.remove(&place(metadata));
            }
        }
    }
}

/// Writes it wherever it is not there as it should be.
async fn write_all(
    inputs: &Inputs,
    there: &mut There,
    failed: &mut HashMap<Name, Instant>,
    now: Instant,
) {
    let Some(trust) = inputs.trust.borrow().clone() else {
        return;
    };
    let text = trust.record.text();
    let namespaces = inputs.namespaces.borrow().clone();
    failed.retain(|namespace, _| namespaces.contains(namespace));
    let lacking = namespaces.iter().filter(|namespace| {
        let waits = failed.get(*namespace).is_some_and(|at| now < *at + RETRY);
        ***namespace != *inputs.system_namespace.as_str()
            && there.texts.get(*namespace) != Some(&text)
            && !waits
    });
    for namespace in lacking.cloned().collect::<Vec<Name>>() {
        // One request after the other; who leads may change meanwhile.
        if !inputs.leadership.is_leading(clock::now()) {
            return;
        }
        match write(&inputs.client, &namespace, &text).await {
            Ok(()) => {
                failed.remove(&namespace);
                tracing::info!(%namespace, "wrote {TRUST_CONFIG_MAP}");
                there.texts.insert(namespace, text.clone());
            }
            Err(error) => {
                if failed.insert(namespace.clone(), clock::now()).is_none() {
                    tracing::warn!(
                        %namespace, %error,
                        "cannot write {TRUST_CONFIG_MAP}: new pods there wait for it"
                    );
                }
            }
        }
    }
}

async fn write(client: &kube::Client, namespace: &str, text: &str) -> Result<(), RequestError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let labels = [
        ("app.kubernetes.io/managed-by", CONTROL_PLANE),
        ("app.kubernetes.io/part-of", "remora"),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_CONFIG_MAP.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        data: Some([(TRUST_KEY.to_owned(), text.to_owned())].into()),
        ..ConfigMap::default()
    };
    let params = PatchParams::apply(CONTROL_PLANE).force();
    let written = answer::of(api.patch(TRUST_CONFIG_MAP, &params, &Patch::Apply(&map))).await;
    written.map(drop)
}
