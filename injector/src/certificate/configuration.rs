//! `caBundle` of the webhook configuration: by it API servers know our
//! certificate. Kept as the Secret says, whoever changes it: a manifest that
//! is applied again says nothing of it, and must not empty it for long.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::PatchParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use remora_proto::well_known::INJECTOR;
use serde_json::json;
use tokio::sync::watch;

use super::Offered;
use crate::clock;
use crate::operations::at;
use crate::trouble::Trouble;
use crate::watching;

/// The pause between two writes: where somebody else writes against us, it
/// stays at this.
const PAUSE: Duration = Duration::from_secs(1);
/// How often what is missing is told again.
const TELL_AGAIN: Duration = Duration::from_secs(10);
/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// By these cert-manager is told to write `caBundle` itself.
const CERT_MANAGER: &str = "cert-manager.io/inject-";
const RULE: &str = "may this service account list, watch and patch the \
    MutatingWebhookConfiguration remora-injector (ClusterRole remora-injector)?";
const MISSING: &str = "apply manifests/install: without it no pod is injected";
const TWO_WRITERS: &str = "take the annotation away, or run the injector with \
    --certificate and the folder that cert-manager fills";

/// The bundle that all webhooks of the configuration have, PEM; `None` where
/// they differ, or there is none.
pub type InPlace = Option<Arc<Vec<u8>>>;

/// Keeps `caBundle`.
pub struct Keeper {
    api: Api<MutatingWebhookConfiguration>,
    offered: watch::Receiver<Option<Offered>>,
    in_place: watch::Sender<InPlace>,
    trouble: Trouble,
}

impl Keeper {
    /// Puts the bundle of what is offered in place, and tells what is there.
    pub fn new(
        client: kube::Client,
        offered: watch::Receiver<Option<Offered>>,
    ) -> (Self, watch::Receiver<InPlace>) {
        let (in_place, receiver) = watch::channel(None);
        let keeper = Keeper {
            api: Api::all(client),
            offered,
            in_place,
            trouble: Trouble::new("put caBundle into MutatingWebhookConfiguration remora-injector"),
        };
        (keeper, receiver)
    }

    /// Never ends.
    ///
    /// # Errors
    /// When the watch ends, which it does not by itself.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut watching = Trouble::new("watch MutatingWebhookConfiguration remora-injector");
        let events = watch_object(self.api.clone(), INJECTOR).backoff(watching::pauses());
        let mut events = std::pin::pin!(events);
        let mut seen: Option<Option<MutatingWebhookConfiguration>> = None;
        // When the next write may be.
        let mut quiet = tokio::time::interval(PAUSE);
        quiet.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wrong = self.look(seen.as_ref());
            tokio::select! {
                biased;
                event = events.try_next() => match event {
                    Ok(Some(configuration)) => {
                        watching.is_over();
                        seen = Some(configuration);
                    }
                    Ok(None) => anyhow::bail!("the watch of the webhook configuration ended"),
                    Err(error) => {
                        let check = watching::check(&error, RULE);
                        watching.is_there(clock::now(), &error, check);
                    }
                },
                changed = self.offered.changed() => changed?,
                () = tokio::time::sleep(TELL_AGAIN) => {}
                _ = quiet.tick(), if wrong.is_some() => {
                    if let Some(patch) = wrong
                        && let Some(written) = self.write(patch).await
                    {
                        seen = Some(Some(written));
                    }
                }
            }
        }
    }

    /// Tells what is in place, and returns what is to be written.
    fn look(&mut self, seen: Option<&Option<MutatingWebhookConfiguration>>) -> Option<Patch> {
        let configuration = match seen? {
            Some(configuration) => configuration,
            None => {
                self.tell(None);
                let missing = "there is none";
                self.trouble.is_there(clock::now(), &missing, MISSING);
                return None;
            }
        };
        let in_place = common_bundle(configuration).map(|bundle| Arc::new(bundle.to_vec()));
        self.tell(in_place.clone());
        let wanted = self.offered.borrow().as_ref()?.bundle.clone();
        let annotations = configuration.metadata.annotations.iter().flatten();
        if let Some((name, _)) = annotations
            .into_iter()
            .find(|(name, _)| name.starts_with(CERT_MANAGER))
        {
            let error = format!("its annotation {name} says that cert-manager does");
            self.trouble.is_there(clock::now(), &error, TWO_WRITERS);
            return None;
        }
        let patch = mended(configuration, &wanted);
        if patch.is_none() {
            self.trouble.is_over();
        }
        patch
    }

    fn tell(&self, in_place: InPlace) {
        self.in_place.send_if_modified(|before| {
            let changed = *before != in_place;
            *before = in_place;
            changed
        });
    }

    async fn write(&mut self, patch: Patch) -> Option<MutatingWebhookConfiguration> {
        let params = PatchParams {
            field_manager: Some(INJECTOR.to_owned()),
            ..PatchParams::default()
        };
        let patch = kube::api::Patch::Json::<()>(patch);
        let write = self.api.patch(INJECTOR, &params, &patch);
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(written)) => {
                tracing::info!("caBundle is in place in the webhook configuration");
                return Some(written);
            }
            // It has changed meanwhile (409, or 422 for the test in the patch):
            // the watch is about to say how.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 409 | 422) => {
                tracing::debug!(%status, "the webhook configuration has changed meanwhile");
            }
            Ok(Err(error)) => {
                let check = watching::check(&error, RULE);
                self.trouble.is_there(clock::now(), &error, check);
            }
            Err(late) => {
                let check = "does the API server answer?";
                self.trouble.is_there(clock::now(), &late, check);
            }
        }
        None
    }
}

fn common_bundle(configuration: &MutatingWebhookConfiguration) -> Option<&[u8]> {
    let mut bundles = configuration
        .webhooks
        .iter()
        .flatten()
        .map(|webhook| webhook.client_config.ca_bundle.as_ref());
    let first = bundles.next()??;
    bundles
        .all(|bundle| bundle == Some(first))
        .then_some(first.0.as_slice())
}

/// What gives every webhook this bundle; `None` where all have it.
fn mended(configuration: &MutatingWebhookConfiguration, bundle: &[u8]) -> Option<Patch> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let wrong = webhooks.iter().enumerate().filter(|(_, webhook)| {
        let now = webhook.client_config.ca_bundle.as_ref();
        now.is_none_or(|now| now.0 != bundle)
    });
    let value = json!(ByteString(bundle.to_vec()));
    let mut operations: Vec<PatchOperation> = wrong
        .map(|(index, _)| {
            let path = at(["webhooks", &index.to_string(), "clientConfig", "caBundle"]);
            let value = value.clone();
            PatchOperation::Add(AddOperation { path, value })
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    // Webhooks are addressed by position: only as they were seen.
    let path = at(["metadata", "resourceVersion"]);
    let value = json!(configuration.metadata.resource_version);
    let seen = PatchOperation::Test(TestOperation { path, value });
    operations.insert(0, seen);
    Some(Patch(operations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<serde_json::Value> = bundles
            .iter()
            .map(|bundle| {
                let bundle = bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec()));
                json!({
                    "name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": {"caBundle": bundle, "service": {"name": "x", "namespace": "y"}},
                })
            })
            .collect();
        let metadata = json!({"name": INJECTOR, "resourceVersion": "7"});
        serde_json::from_value(json!({"metadata": metadata, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn only_what_differs_is_written_and_only_to_what_was_seen() {
        let before = configuration(&[None, Some("new"), Some("old")]);
        assert_eq!(common_bundle(&before), None);
        let patch = mended(&before, b"new").unwrap();
        assert_eq!(patch.0.len(), 3, "{patch}");
        let mut value = serde_json::to_value(&before).unwrap();
        json_patch::patch(&mut value, &patch).unwrap();
        let after: MutatingWebhookConfiguration = serde_json::from_value(value).unwrap();
        assert_eq!(common_bundle(&after), Some(b"new".as_slice()));
        assert_eq!(mended(&after, b"new"), None);

        let mut changed = serde_json::to_value(&before).unwrap();
        changed["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut changed, &patch).is_err());
    }

    #[test]
    fn without_webhooks_there_is_nothing_to_write_and_nothing_in_place() {
        let empty = configuration(&[]);
        assert_eq!(mended(&empty, b"x"), None);
        assert_eq!(common_bundle(&empty), None);
    }
}
