//! What is known of the cluster's namespaces: their labels, from a watch.
//!
//! A namespace that the watch has not told of yet (it was made a moment ago),
//! or whose labels it may tell too late, is asked for by name.

use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::{Semaphore, watch};

use crate::clock;
use crate::options::is_dns_label;
use crate::settings::NamespaceFacts;
use crate::trouble::Trouble;
use crate::watching;

/// How long the API server may take to tell of one namespace: the webhook's
/// own timeout is 5 s, and a pod waits for the answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Namespaces that are asked for at once. Anyone who reaches the webhook may
/// name any namespace; the API server must not feel it.
const MAX_ASKED: usize = 8;
const RULE: &str = "may this service account get, list and watch namespaces \
    (ClusterRole remora-injector)?";

type Known = PartialObjectMeta<Namespace>;

/// The namespaces.
pub struct Namespaces {
    store: reflector::Store<Known>,
    api: Api<Known>,
    asked: Semaphore,
}

/// Why nothing is known of a namespace.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// Not a name that a namespace may have.
    #[error("{0:?} is no namespace's name")]
    Name(String),
    /// It does not exist, as far as the API server says.
    #[error("there is no namespace {0}")]
    Missing(String),
    /// The API server refused, or was not reached.
    #[error("the API server did not tell of the namespace {0}: {1}")]
    Refused(String, #[source] Box<kube::Error>),
    /// Not in time.
    #[error("the API server did not tell of the namespace {0} within {ASK_TIMEOUT:?}")]
    Late(String),
}

/// Keeps the namespaces known.
pub struct Watch {
    api: Api<Known>,
    writer: reflector::store::Writer<Known>,
    known: watch::Sender<bool>,
}

impl Namespaces {
    /// Nothing known yet; the watch must be run. The last is whether all
    /// namespaces were known once.
    pub fn new(client: kube::Client) -> (Self, Watch, watch::Receiver<bool>) {
        let api = Api::all(client);
        let (store, writer) = reflector::store();
        let (known, is_known) = watch::channel(false);
        let namespaces = Namespaces {
            store,
            api: api.clone(),
            asked: Semaphore::new(MAX_ASKED),
        };
        (namespaces, Watch { api, writer, known }, is_known)
    }

    /// What is known of a namespace, asked for where nothing is.
    ///
    /// # Errors
    /// When nobody can say within a second.
    pub async fn facts(&self, name: &str) -> Result<NamespaceFacts, Unknown> {
        match self.store.get(&ObjectRef::new(name)) {
            Some(known) => Ok(facts(name, &known.metadata)),
            None => self.asked_anew(name).await,
        }
    }

    /// What the API server says of a namespace now.
    ///
    /// # Errors
    /// When it says nothing within a second.
    pub async fn asked_anew(&self, name: &str) -> Result<NamespaceFacts, Unknown> {
        // The name becomes a part of a URL.
        if !is_dns_label(name) {
            return Err(Unknown::Name(name.chars().take(64).collect()));
        }
        let ask = async {
            // Closed never.
            let _permit = self.asked.acquire().await.ok();
            self.api.get_metadata_opt(name).await
        };
        match tokio::time::timeout(ASK_TIMEOUT, ask).await {
            Ok(Ok(Some(namespace))) => Ok(facts(name, &namespace.metadata)),
            Ok(Ok(None)) => Err(Unknown::Missing(name.to_owned())),
            Ok(Err(error)) => Err(Unknown::Refused(name.to_owned(), Box::new(error))),
            Err(_) => Err(Unknown::Late(name.to_owned())),
        }
    }
}

fn facts(name: &str, metadata: &ObjectMeta) -> NamespaceFacts {
    NamespaceFacts {
        name: name.to_owned(),
        labels: metadata.labels.clone().unwrap_or_default(),
    }
}

impl Watch {
    /// Never ends.
    ///
    /// # Errors
    /// None; the watch goes on.
    pub async fn run(self) -> anyhow::Result<()> {
        let Watch { api, writer, known } = self;
        let mut trouble = Trouble::new("watch namespaces");
        let events = watcher(api, watcher::Config::default())
            .modify(only_labels)
            .backoff(watching::pauses());
        let mut events = std::pin::pin!(kube::runtime::reflector(writer, events));
        loop {
            match events.try_next().await {
                Ok(Some(event)) => {
                    trouble.is_over();
                    if matches!(event, watcher::Event::InitDone) {
                        known.send_replace(true);
                    }
                }
                // A watch begins anew by itself.
                Ok(None) => anyhow::bail!("the watch of namespaces ended"),
                Err(error) => {
                    let check = watching::check(&error, RULE);
                    trouble.is_there(clock::now(), &error, check);
                }
            }
        }
    }
}

/// Everything else is memory for nothing.
fn only_labels(namespace: &mut Known) {
    let metadata = std::mem::take(&mut namespace.metadata);
    namespace.metadata = ObjectMeta {
        name: metadata.name,
        labels: metadata.labels,
        resource_version: metadata.resource_version,
        ..ObjectMeta::default()
    };
}
