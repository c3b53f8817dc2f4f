//! The sidecars, asked again and again: bounded in how many, and how many at once.

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use remora_proto::well_known::ADMIN_PORT;

use crate::cluster::api::Api;
use crate::cluster::error::Error;
use crate::cluster::mesh;
use crate::cluster::resources::PODS;
use crate::playground::measure::breakers::Breakers;
use crate::playground::measure::stats::Stats;

/// Sidecars that are asked at once.
const MAX_AT_ONCE: usize = 16;
/// Sidecars that are asked at all.
const MAX_PODS: usize = 500;
/// Every so many looks the pods are listed anew.
const LIST_EVERY: u32 = 5;

/// What one sidecar answered.
#[derive(Debug)]
pub struct Answer {
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// What it said, or why nothing.
    pub said: Result<(Stats, Breakers), String>,
    /// All of its metrics, as text; empty where it did not tell.
    pub metrics: String,
}

/// What came of one look.
#[derive(Debug, Default)]
pub struct Look {
    /// Of each sidecar, by namespace and pod.
    pub answers: Vec<Answer>,
    /// How many more there are than are asked.
    pub unasked: usize,
}

impl Look {
    /// What may be missing.
    pub fn doubts(&self) -> Vec<String> {
        let cut = (self.unasked > 0).then(|| {
            format!(
                "only {MAX_PODS} sidecars are asked, {} more are not shown: choose a namespace",
                self.unasked
            )
        });
        cut.into_iter().collect()
    }
}

/// Asks the sidecars of a namespace, or of all.
pub struct Poller {
    api: Api,
    namespace: Option<String>,
    pods: Vec<(String, String)>,
    unasked: usize,
    looks: u32,
}

impl Poller {
    /// Of a namespace, or (`None`) of all.
    pub fn new(api: Api, namespace: Option<String>) -> Self {
        Self {
            api,
            namespace,
            pods: Vec::new(),
            unasked: 0,
            looks: 0,
        }
    }

    /// Asks every sidecar once.
    ///
    /// # Errors
    /// When pods cannot be listed, or may not be asked.
    pub async fn look(&mut self) -> Result<Look, Error> {
        if self.looks.is_multiple_of(LIST_EVERY) {
            self.list().await?;
        }
        self.looks = self.looks.wrapping_add(1);
        let asked = self.pods.clone().into_iter().map(|(namespace, pod)| {
            let api = self.api.clone();
            async move {
                let said = ask(&api, &namespace, &pod).await;
                // Of a sidecar that does not tell them nothing is shown of its policies.
                let metrics = api.pod_text(&namespace, &pod, ADMIN_PORT, "/metrics").await;
                (namespace, pod, said, metrics.unwrap_or_default())
            }
        });
        let said: Vec<_> = futures_util::stream::iter(asked)
            .buffered(MAX_AT_ONCE)
            .collect()
            .await;
        let mut answers = Vec::with_capacity(said.len());
        for (namespace, pod, said, metrics) in said {
            let said = match said {
                Ok(said) => Ok(said),
                // Who may not ask one may ask none.
                Err(error) if error.is_forbidden() => return Err(error),
                Err(error) => Err(short(&error)),
            };
            answers.push(Answer {
                namespace,
                pod,
                said,
                metrics,
            });
        }
        Ok(Look {
            answers,
            unasked: self.unasked,
        })
    }

    async fn list(&mut self) -> Result<(), Error> {
        let pods = self.api.list::<Pod>(&PODS, self.namespace.as_deref(), "");
        let pods = pods.await?.items;
        let runs = |pod: &&Pod| mesh::has_sidecar(pod) && mesh::phase(pod) == "Running";
        self.pods = pods.iter().filter(runs).map(mesh::key).collect();
        self.pods.sort();
        self.unasked = self.pods.len().saturating_sub(MAX_PODS);
        self.pods.truncate(MAX_PODS);
        Ok(())
    }
}

async fn ask(api: &Api, namespace: &str, pod: &str) -> Result<(Stats, Breakers), Error> {
    let stats = api.pod_admin(namespace, pod, ADMIN_PORT, "/stats").await?;
    let breakers = api.pod_admin(namespace, pod, ADMIN_PORT, "/breakers");
    Ok((stats, breakers.await?))
}

/// In a few words: there is one line for it.
fn short(error: &Error) -> String {
    match error {
        Error::NotFound(_) => "gone".to_owned(),
        Error::Timeout { .. } => "no answer in time".to_owned(),
        Error::Pod { .. } => "does not answer".to_owned(),
        other => other.to_string(),
    }
}
