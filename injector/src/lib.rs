//! The injector: which pods get a sidecar, and how, and the webhook that asks.
//!
//! Owns one pure function, [`patch()`], from a Pod to a JSON patch (RFC 6902),
//! and the mutating admission webhook around it. It writes no pod and emits no
//! Events: the webhook has no side effects, and the control plane tells of
//! running pods without a sidecar.
//!
//! # Layout
//! The pure part:
//! - [`settings`]: what the operator decided once for the cluster.
//! - [`decide`]: whether a pod is asked for, and whether it can be had.
//! - [`annotations`]: what the pod's author wishes; [`values`]: how it is read.
//! - [`probes`]: the kubelet's probes and hooks, pointed at the sidecar.
//! - [`containers`]: the redirect step and the sidecar.
//! - [`identity`]: what the sidecar shows who it is by.
//! - [`operations`]: the patch, one operation at a time.
//!
//! The webhook, in the order in which a review meets it:
//! - [`options`]: how it is run; [`daemon`]: its parts, started and watched over.
//! - [`serve`]: HTTPS; [`certificate`]: made, renewed and made known by itself.
//! - [`review`]: AdmissionReview; [`webhook`]: the life of one.
//! - [`namespaces`], [`version`]: what is known of the cluster, by [`watching`].
//! - [`admin`]: health and metrics; [`readiness`]; [`metrics`].
//! - [`trouble`]: errors that last; [`clock`]: the only reader of time.
//!
//! # What a patched pod has
//! Two init containers in front of all others, side by side: `remora-intercept`
//! (sets the redirect rules and ends) and `remora-proxy` (a native sidecar:
//! `restartPolicy: Always`, so Jobs finish and other init containers already
//! have the mesh). httpGet (over plain HTTP), tcpSocket and grpc probes and
//! httpGet hooks of all other containers go to the sidecar's probe port. The annotation
//! `remora.io/injected` is `true`, and `remora.io/mesh-protocols` says what the
//! sidecar takes from others. With identities there are two volumes more, which
//! the sidecar alone mounts, and the annotation `remora.io/trust-domain`.
//!
//! # A second run
//! The API server calls webhooks again when a later one has changed the pod
//! (`reinvocationPolicy: IfNeeded`). A second run moves the two containers back
//! to the front, takes over the probes of containers that were added
//! meanwhile, and touches nothing else: neither what the API server has
//! defaulted in our containers nor what other webhooks have mounted there.

use k8s_openapi::api::core::v1::Pod;

pub mod admin;
pub mod annotations;
pub mod certificate;
pub mod clock;
pub mod containers;
pub mod daemon;
pub mod decide;
pub mod identity;
pub mod metrics;
pub mod namespaces;
pub mod operations;
pub mod options;
pub mod probes;
pub mod readiness;
pub mod review;
pub mod serve;
pub mod settings;
pub mod trouble;
pub mod values;
pub mod version;
pub mod watching;
pub mod webhook;

pub use daemon::{Running, run, start};

pub use json_patch::Patch;
pub use options::Options;
pub use settings::{KubernetesVersion, NamespaceFacts, Resources, Settings};

use annotations::Wishes;
use decide::Verdict;
use operations::Operations;

/// The annotation that says whether a pod was injected: `true`, or
/// `false: <reason>`.
pub const INJECTED: &str = "remora.io/injected";

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It gets the sidecar.
    Inject {
        /// What to change; empty where nothing is left to do.
        patch: Patch,
        /// What the author should know.
        warnings: Vec<String>,
    },
    /// It was asked for, but cannot have the sidecar, or not as its author
    /// wishes; it runs without.
    ///
    /// This is how a wrong annotation ends. To refuse the pod would turn a typo
    /// into an outage (a ReplicaSet that cannot make pods, at night, on the
    /// next node drain); to inject it without the wish would send through the
    /// sidecar what its author had excluded. A pod without the mesh works as it
    /// did before, is told apart by its annotation, by this warning and by the
    /// control plane's Event, and is refused where strict mTLS must refuse it.
    Decline {
        /// Why not; also in the annotation.
        reason: String,
        /// Writes the annotation, and nothing else.
        patch: Patch,
        /// The reason, for whoever creates the pod.
        warnings: Vec<String>,
    },
    /// Nobody asked for it, or it must never be; it stays as it is.
    Skip {
        /// Why, for the log.
        reason: String,
    },
}

impl Decision {
    /// What to change in the pod.
    pub fn patch(&self) -> Option<&Patch> {
        match self {
            Decision::Inject { patch, .. } | Decision::Decline { patch, .. } => Some(patch),
            Decision::Skip { .. } => None,
        }
    }

    /// What to answer beside the patch.
    pub fn warnings(&self) -> &[String] {
        match self {
            Decision::Inject { warnings, .. } | Decision::Decline { warnings, .. } => warnings,
            Decision::Skip { .. } => &[],
        }
    }
}

/// Decides on a pod that is being created.
///
/// `namespace` is the one in which the pod is being made: the pod itself need
/// not name it yet.
pub fn patch(pod: &Pod, namespace: &NamespaceFacts, settings: &Settings) -> Decision {
    match decide::verdict(pod, namespace, settings) {
        Verdict::Skip(reason) => return Decision::Skip { reason },
        _ if is_full(pod) => return decline_unwritten(),
        Verdict::Decline(reason) => return decline(pod, reason),
        Verdict::Inject => {}
    }
    if let Some(reason) = identity::conflict(pod, settings) {
        return decline(pod, reason);
    }
    let mut warnings = Vec::new();
    let wishes = match Wishes::of(pod, &settings.resources) {
        Ok(wishes) => wishes,
        // A wish that came after the first run is too late to be granted, but
        // to decline now would say "no sidecar" of a pod that has one.
        Err(wrong) if containers::are_present(pod) => {
            warnings.push(format!(
                "remora: not in force, the pod has its sidecar already: {wrong}"
            ));
            Wishes::none(&settings.resources)
        }
        Err(wrong) => return decline(pod, wrong.to_string()),
    };
    warnings.extend(doubts(pod, settings));
    let mut operations = Operations::new();
    let mut annotations = vec![(INJECTED, "true".to_owned())];
    // For a sidecar that is there already whoever put it there has spoken: it
    // may be of another version.
    if containers::sidecar_of(pod).is_none() {
        annotations.extend(identity::annotations(settings));
        identity::unsay(pod, settings, &mut operations);
    }
    operations.annotate(pod, &annotations);
    identity::place(pod, settings, &mut operations);
    let rewritten = probes::rewrite(pod, &mut operations, &mut warnings);
    containers::place(pod, &rewritten, &wishes, settings, &mut operations);
    Decision::Inject {
        patch: operations.into_patch(),
        warnings,
    }
}

/// What may keep an injected pod from working.
fn doubts(pod: &Pod, settings: &Settings) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let doubts = if containers::are_present(pod) {
        // The first run has told the rest.
        decide::clash(spec)
    } else {
        decide::unresolved(spec, &settings.control_plane)
    };
    let doubts = doubts.into_iter();
    doubts.map(|doubt| format!("remora: {doubt}")).collect()
}

/// Bytes of all annotations of an object (apimachinery,
/// `TotalAnnotationSizeLimitB`): with more it is refused.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Bytes that ours may take.
const ROOM: usize = 2 * 1024;
/// Bytes of a reason, which may quote what the pod's author wrote.
const MAX_REASON: usize = 1024;

/// Whether an annotation more could make the API server refuse the pod.
fn is_full(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.iter().flatten();
    let bytes = annotations.map(|(name, value)| name.len() + value.len());
    bytes.sum::<usize>() + ROOM > MAX_ANNOTATIONS && !containers::are_present(pod)
}

/// Where not even the annotation can be had.
fn decline_unwritten() -> Decision {
    let reason = "its annotations leave no room for ours".to_owned();
    Decision::Decline {
        patch: Patch::default(),
        warnings: vec![format!("remora: no sidecar for this pod: {reason}")],
        reason,
    }
}

fn decline(pod: &Pod, reason: String) -> Decision {
    let reason = review::cut(&reason, MAX_REASON).to_owned();
    let mut operations = Operations::new();
    operations.annotate(pod, &[(INJECTED, format!("false: {reason}"))]);
    Decision::Decline {
        patch: operations.into_patch(),
        warnings: vec![format!("remora: no sidecar for this pod: {reason}")],
        reason,
    }
}

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The pod is not what the patch was made for.
    #[error("the patch does not fit the pod: {0}")]
    Patch(#[from] json_patch::PatchError),
    /// The result is no pod.
    #[error("the patched pod is none: {0}")]
    Pod(#[from] serde_json::Error),
}

/// The pod after the patch, as the API server makes it.
///
/// # Errors
/// When the patch was made for another pod.
pub fn apply(pod: &Pod, patch: &Patch) -> Result<Pod, ApplyError> {
    let mut value = serde_json::to_value(pod)?;
    json_patch::patch(&mut value, patch)?;
    Ok(serde_json::from_value(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn injected(annotations: Value, spec: Value) -> (Pod, Decision) {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "app"}]);
        }
        let pod = json!({"metadata": {"annotations": annotations}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let labels = [("remora.io/inject".to_owned(), "enabled".to_owned())];
        let shop = NamespaceFacts {
            name: "shop".to_owned(),
            labels: labels.into(),
        };
        let decision = patch(&pod, &shop, &Settings::default());
        let after = match decision.patch() {
            Some(patch) => apply(&pod, patch).unwrap(),
            None => pod,
        };
        (after, decision)
    }

    fn ours(pod: &Pod) -> &[k8s_openapi::api::core::v1::Container] {
        &pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[..2]
    }

    /// The API server refuses a pod whose annotations are too large, even by
    /// what a webhook wrote.
    #[test]
    fn no_pod_is_refused_for_what_we_write_into_its_annotations() {
        let bytes = |pod: &Pod| -> usize {
            let all = pod.metadata.annotations.iter().flatten();
            all.map(|(name, value)| name.len() + value.len()).sum()
        };
        for (name, size) in [
            ("remora.io/concurrency", 200_000),
            ("remora.io/concurrency", 262_000),
            ("other.io/x", 262_000),
            ("other.io/x", 259_000),
        ] {
            let (pod, decision) = injected(json!({name: "ü".repeat(size / 2)}), json!({}));
            assert!(bytes(&pod) <= MAX_ANNOTATIONS, "{name} {size}");
            let is_injected = matches!(decision, Decision::Inject { .. });
            assert_eq!(is_injected, size == 259_000, "{name} {size}");
            let warned = decision
                .warnings()
                .iter()
                .all(|warning| warning.len() < 2_000);
            assert!(warned && (is_injected || !decision.warnings().is_empty()));
        }
    }

    /// A name is not enough to be taken for ours, nor is an annotation that
    /// says so: without the redirect step a sidecar serves nobody, and without
    /// the sidecar the redirect cuts the pod off.
    #[test]
    fn a_container_that_only_has_our_name_is_not_taken_for_ours() {
        let forged = json!({"remora.io/injected": "true", "remora.io/mesh-protocols": "remora-h2"});
        let sidecar = json!({"name": "remora-proxy", "image": "x", "restartPolicy": "Always"});
        let redirect = json!({"name": "remora-intercept", "image": "x", "command": ["true"]});
        for annotations in [json!({}), forged] {
            for init in [
                json!([sidecar]),
                json!([redirect]),
                json!([{"name": "remora-proxy", "command": ["remora-proxy"]}]),
                json!([redirect, sidecar]),
            ] {
                let spec = json!({"initContainers": init});
                let (pod, decision) = injected(annotations.clone(), spec.clone());
                let Decision::Decline {
                    reason, warnings, ..
                } = &decision
                else {
                    panic!("{decision:?}");
                };
                assert!(reason.contains("of its own is named remora-"), "{reason}");
                assert_eq!(warnings.len(), 1);
                assert_eq!(
                    serde_json::to_value(&pod).unwrap()["spec"]["initContainers"],
                    init
                );
                let said = &pod.metadata.annotations.as_ref().unwrap()["remora.io/injected"];
                assert_eq!(*said, format!("false: {reason}"));
                // Asked again, it says the same and changes nothing.
                let again = injected(json!(pod.metadata.annotations), spec).1;
                let Decision::Decline {
                    reason: other,
                    patch,
                    ..
                } = again
                else {
                    panic!("{again:?}");
                };
                assert_eq!((&other, patch.0.len()), (reason, 0));
            }
        }
    }

    #[test]
    fn ours_beside_one_that_is_not_is_declined() {
        let (pod, _) = injected(json!({}), json!({}));
        let mut spec = serde_json::to_value(&pod).unwrap()["spec"].take();
        spec["initContainers"][1]["env"] = json!([]);
        let (_, decision) = injected(json!({"remora.io/injected": "true"}), spec);
        assert!(matches!(decision, Decision::Decline { .. }), "{decision:?}");
    }

    #[test]
    fn a_command_that_another_webhook_wrapped_is_still_ours() {
        let (pod, _) = injected(json!({}), json!({}));
        let annotations = json!(pod.metadata.annotations);
        let mut spec = serde_json::to_value(&pod).unwrap()["spec"].take();
        let init = &mut spec["initContainers"];
        init[0]["args"] = init[0]["command"].take();
        init[0]["command"] = json!(["/wrap/env"]);
        init[1]["command"] = json!(["/wrap/env", "remora-proxy"]);
        // A port of ours that comes so late is warned of.
        spec["containers"][0]["ports"] = json!([{"containerPort": 15120}]);
        let (_, decision) = injected(annotations, spec);
        let Decision::Inject { patch, warnings } = decision else {
            panic!("{decision:?}");
        };
        assert!(patch.0.is_empty(), "{patch:?}");
        assert!(warnings[0].contains("15120"), "{warnings:?}");
    }

    #[test]
    fn a_pod_with_its_own_resolver_is_injected_and_warned_of() {
        let dns = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}});
        let (_, decision) = injected(json!({}), dns);
        let Decision::Inject { warnings, .. } = &decision else {
            panic!("{decision:?}");
        };
        assert!(warnings[0].contains("dnsPolicy None"), "{warnings:?}");
    }

    #[test]
    fn what_the_pod_has_as_a_whole_our_containers_share() {
        let whole = json!({"resources": {"limits": {"cpu": "1", "memory": "64Mi"}}});
        let (pod, _) = injected(json!({}), whole.clone());
        for container in ours(&pod) {
            let resources = container.resources.clone().unwrap_or_default();
            assert_eq!((resources.requests, resources.limits), (None, None));
        }
        // Its author may wish otherwise.
        let (pod, _) = injected(json!({"remora.io/memory-limit": "32Mi"}), whole);
        for container in ours(&pod) {
            let limits = container.resources.clone().unwrap().limits.unwrap();
            assert_eq!(limits["memory"].0, "32Mi");
        }
    }

    #[test]
    fn the_token_that_the_api_server_would_mount_is_mounted_at_once() {
        let app = json!([{"name": "app", "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "kube-api-access-x7", "readOnly": true,
             "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
        ]}]);
        let (pod, _) = injected(json!({}), json!({"containers": app}));
        for container in ours(&pod) {
            let mounts = container.volume_mounts.as_ref().unwrap();
            assert_eq!(mounts.len(), 1);
            assert_eq!(mounts[0].name, "kube-api-access-x7");
            assert_eq!(mounts[0].read_only, Some(true));
        }
        let (pod, _) = injected(json!({}), json!({}));
        assert!(
            ours(&pod)
                .iter()
                .all(|container| container.volume_mounts.is_none())
        );
    }
}
