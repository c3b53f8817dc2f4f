//! The life of a review: read, decide, answer. Owns what is done when
//! something is in doubt (the pod is let through, and it is said), not how
//! requests come in.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::core::v1::Pod;

use crate::decide::hangs_on_namespace;
use crate::metrics::{Metrics, Outcome};
use crate::namespaces::Namespaces;
use crate::review::{self, Review, ReviewError, Subject};
use crate::settings::{NamespaceFacts, Settings};
use crate::trouble::Lines;
use crate::{Decision, clock, patch};

/// Bytes of a name in the log.
const MAX_NAME: usize = 253;
/// Bytes of a doubt, in the log and in the warning.
const MAX_DOUBT: usize = 400;

/// What answers reviews.
pub struct Webhook {
    /// How sidecars are made; `None` until the API server's version is known.
    pub settings: Arc<ArcSwapOption<Settings>>,
    /// The cluster's.
    pub namespaces: Namespaces,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What is written of single pods: anyone may ask, and often.
    pub lines: Lines,
}

impl Webhook {
    /// Answers one review.
    ///
    /// # Errors
    /// When it is no review. In every other case the pod is allowed.
    pub async fn admit(&self, body: &[u8]) -> Result<Vec<u8>, ReviewError> {
        let begun = clock::now();
        let review = review::read(body)?;
        let (outcome, answer) = match &review.subject {
            Subject::Pod(pod) => match self.decide(pod, &review).await {
                Ok(decision) => self.answered(&review, &decision),
                Err(doubt) => self.failed(&review, &doubt),
            },
            Subject::Other(what) => {
                tracing::debug!(?what, "asked about something that is no new pod");
                (Outcome::Skipped, review::answer(&review.uid, None, &[]))
            }
            Subject::Unreadable(why) => self.failed(&review, &format!("it cannot be read: {why}")),
        };
        self.metrics.answered(outcome, clock::now() - begun);
        Ok(answer)
    }

    async fn decide(&self, pod: &Pod, review: &Review) -> Result<Decision, String> {
        let settings = self.settings.load_full();
        let settings = settings.ok_or("the API server's version is not known yet")?;
        let name = review.namespace.as_deref();
        let name = name.ok_or("the review names no namespace")?;
        let told = |unknown| format!("{unknown}");
        let mut facts = self.namespaces.facts(name).await.map_err(told)?;
        // The API server asks about pods that its own view of the namespace
        // selects. Where ours does not, ours may be late by a moment: a
        // namespace is labelled, and its pods come at once.
        if hangs_on_namespace(pod, &facts, &settings)
            && let Ok(anew) = self.namespaces.asked_anew(name).await
        {
            facts = anew;
        }
        unpanicked(pod, &facts, &settings)
    }

    fn answered(&self, review: &Review, decision: &Decision) -> (Outcome, Vec<u8>) {
        let (namespace, pod) = named(review);
        let dry_run = review.dry_run;
        // By `?`: what its author wrote may hold line breaks.
        let outcome = match decision {
            Decision::Inject { warnings, .. } => {
                tracing::debug!(?namespace, ?pod, dry_run, ?warnings, "injected");
                Outcome::Injected
            }
            Decision::Decline { reason, .. } => {
                if self.lines.may(clock::since_epoch()) {
                    tracing::info!(?namespace, ?pod, dry_run, ?reason, "no sidecar");
                }
                Outcome::Declined
            }
            Decision::Skip { reason } => {
                tracing::debug!(?namespace, ?pod, dry_run, ?reason, "left as it is");
                Outcome::Skipped
            }
        };
        let answer = review::answer(&review.uid, decision.patch(), decision.warnings());
        (outcome, answer)
    }

    fn failed(&self, review: &Review, doubt: &str) -> (Outcome, Vec<u8>) {
        let (namespace, pod) = named(review);
        // It may quote what was sent, at any length.
        let doubt = review::cut(doubt, MAX_DOUBT);
        if self.lines.may(clock::since_epoch()) {
            tracing::warn!(
                ?namespace,
                ?pod,
                ?doubt,
                "the pod is let through without a sidecar"
            );
        }
        let warning = format!("remora: no sidecar for this pod: {doubt}");
        (
            Outcome::Failed,
            review::answer(&review.uid, None, &[warning]),
        )
    }
}

/// Namespace and name, for the log.
fn named(review: &Review) -> (&str, &str) {
    let namespace = review.namespace.as_deref().unwrap_or_default();
    let cut = |text| review::cut(text, MAX_NAME);
    (cut(namespace), cut(&review.name))
}

/// A panic would close the connection, and with it every review on it.
fn unpanicked(
    pod: &Pod,
    namespace: &NamespaceFacts,
    settings: &Settings,
) -> Result<Decision, String> {
    // Nothing is shared that a panic could leave half done.
    std::panic::catch_unwind(AssertUnwindSafe(|| patch(pod, namespace, settings)))
        .map_err(|_| "the injector met a fault of its own (its log has it)".to_owned())
}
