//! The workloads: pods that lack their sidecar, sidecars that are not as they
//! should be, policies that are not in force.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use remora_injector::decide::Verdict;
use remora_proto::well_known::{INJECT, INJECT_DISABLED, INJECT_ENABLED};
use serde::Deserialize;
use serde_json::Value;

use super::finding::Finding;
use crate::cluster::api::{Api, List};
use crate::cluster::error::Error;
use crate::cluster::mesh::{self, Namespaces};
use crate::cluster::resources::{AUTHORIZATION_POLICIES, PODS, TRAFFIC_POLICIES};
use crate::cluster::status::{self, Row, State};
use crate::cluster::text;
use crate::cluster::version::{OURS, is_supported};

/// Names that are shown of many.
const SHOWN: usize = 5;
/// Namespaces that get a finding of their own.
const MAX_NAMESPACES: usize = 20;
/// Reasons for which pods were declined that get a finding of their own.
const MAX_REASONS: usize = 20;
/// Policies that get a finding of their own.
const MAX_POLICIES: usize = 50;

/// Everything that runs in the mesh, of one namespace or of all.
/// `now` is the API server's clock, in seconds since 1970.
pub async fn findings(api: &Api, namespace: Option<&str>, now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    let pods = api.list::<Pod>(&PODS, namespace, "").await;
    let namespaces = Namespaces::read(api, namespace).await;
    match (&pods, &namespaces) {
        (Ok(pods), Ok(namespaces)) => found.extend(without_sidecar(&pods.items, namespaces)),
        (Err(error), _) | (_, Err(error)) => found.push(Finding::unread("pods", error)),
    }
    match (&pods, mesh::sidecars(api).await) {
        (Ok(pods), Ok(told)) => {
            let now_ms = u64::try_from(now).unwrap_or(0).saturating_mul(1_000);
            let rows = status::rows(&pods.items, &told, None, now_ms);
            found.extend(sidecars(&rows));
            if let Some(doubt) = told.doubt {
                found.push(Finding::warning(
                    "sidecars",
                    format!("not all may be known: {doubt}"),
                    "",
                ));
            }
        }
        (Ok(_), Err(error)) => found.push(Finding::unread("sidecars", &error)),
        // Said above already.
        (Err(_), _) => {}
    }
    for (kind, resource) in [
        ("TrafficPolicy", &TRAFFIC_POLICIES),
        ("AuthorizationPolicy", &AUTHORIZATION_POLICIES),
    ] {
        let written = api.list(resource, namespace, "").await;
        found.extend(policies(kind, &written));
    }
    found
}

/// Pods that are asked for and run without: those that only have to be made
/// anew, with what to restart, and those that were declined, with what to change.
pub fn without_sidecar(pods: &[Pod], namespaces: &Namespaces) -> Vec<Finding> {
    let mut lacking: BTreeMap<String, Lacking> = BTreeMap::new();
    let mut declined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let bare = |pod: &&Pod| mesh::lasts(pod) && !mesh::has_sidecar(pod);
    for pod in pods.iter().filter(bare) {
        let (namespace, name) = mesh::key(pod);
        let reason = match (namespaces.verdict(pod), mesh::declined(pod)) {
            (Verdict::Skip(_), _) => continue,
            (Verdict::Inject, None) => {
                let lacking = lacking.entry(namespace).or_default();
                lacking.owners.extend(mesh::owner(pod));
                lacking.names.push(name);
                continue;
            }
            (Verdict::Decline(reason), _) => reason,
            // What the injector knows and this program does not.
            (Verdict::Inject, Some(reason)) => reason.to_owned(),
        };
        let pods = declined.entry(reason).or_default();
        pods.push(format!("{namespace}/{name}"));
    }
    let mut found: Vec<Finding> = lacking
        .iter()
        .take(MAX_NAMESPACES)
        .map(|(namespace, lacking)| lacking.finding(namespace))
        .collect();
    if found.is_empty() {
        found.push(nobody_lacks(namespaces));
    }
    let declined = declined.iter().take(MAX_REASONS);
    found.extend(declined.map(|(reason, pods)| refusal(reason, pods)));
    found
}

/// What changes a reason for which pods are declined, by words of it. What may
/// quote a pod's author comes first.
const CHANGES: [(&str, &str); 10] = [
    (
        "annotation remora.io/",
        "mend that annotation in the pod template",
    ),
    ("label remora.io/", "mend that label"),
    (
        "of its own is named ",
        "give that container another name in the pod template",
    ),
    (
        "runs as user ",
        "give that container another runAsUser in the pod template",
    ),
    (
        "declares the port ",
        "let the application listen on another port, and declare that one",
    ),
    (
        "dnsPolicy",
        "set dnsPolicy: ClusterFirst in the pod template",
    ),
    (
        "Pod Security",
        "label the namespace pod-security.kubernetes.io/enforce=privileged, or move the pods to one that is",
    ),
    ("native sidecars", "upgrade the cluster"),
    (
        "leave no room",
        "shorten the annotations in the pod template",
    ),
    ("hostNetwork", "take hostNetwork out of the pod template"),
];
/// Reasons that lie in what a pod is for: to be known, and mostly not to be mended.
const BY_NATURE: [&str; 2] = ["hostNetwork", "the sidecar runs on Linux only"];

fn refusal(reason: &str, pods: &[String]) -> Finding {
    let message = format!(
        "{} asked for and declined: {reason}: {}",
        text::counted(pods.len(), "pod"),
        text::some_of(pods, SHOWN)
    );
    let opt_out = format!("opt out by the pods' label {INJECT}={INJECT_DISABLED}");
    let change = CHANGES.iter().find(|(words, _)| reason.contains(words));
    let action = match change {
        Some((_, change)) => format!("{change} (the pods have to be made anew), or {opt_out}"),
        None => opt_out,
    };
    if BY_NATURE.iter().any(|nature| reason.starts_with(nature)) {
        let info = Finding::info(INJECTION, message);
        return Finding { action, ..info };
    }
    Finding::warning(INJECTION, message, &action)
}

const INJECTION: &str = "injection";

/// Pods of one namespace that only have to be made anew.
#[derive(Default)]
struct Lacking {
    names: Vec<String>,
    owners: BTreeSet<String>,
}

impl Lacking {
    fn finding(&self, namespace: &str) -> Finding {
        let message = format!(
            "{} of namespace {namespace} without sidecar: {}",
            text::counted(self.names.len(), "pod"),
            text::some_of(&self.names, SHOWN)
        );
        let action = if self.owners.is_empty() {
            "nothing makes these pods anew: delete them and create them again".to_owned()
        } else {
            let owners: Vec<&str> = self.owners.iter().map(String::as_str).collect();
            let owners = owners.join(" ");
            format!("restart them: kubectl -n {namespace} rollout restart {owners}")
        };
        Finding::warning(INJECTION, message, &action)
    }
}

fn nobody_lacks(namespaces: &Namespaces) -> Finding {
    let asked = namespaces.facts().into_values().filter(|facts| {
        let label = facts.labels.get(INJECT);
        label.is_some_and(|value| value == INJECT_ENABLED)
    });
    match asked.count() {
        0 => Finding::info(
            INJECTION,
            format!("no namespace is labelled {INJECT}={INJECT_ENABLED}"),
        ),
        count => Finding::ok(
            INJECTION,
            format!(
                "{} labelled, and every pod there that can have a sidecar has one",
                text::counted(count, "namespace")
            ),
        ),
    }
}

/// The sidecars: connected, in sync, of a version that works with this one.
pub fn sidecars(rows: &[Row]) -> Vec<Finding> {
    const SUBJECT: &str = "sidecars";
    let names = |wanted: &dyn Fn(&Row) -> bool| -> Vec<String> {
        let rows = rows.iter().filter(|row| wanted(row));
        rows.map(|row| format!("{}/{}", row.namespace, row.pod))
            .collect()
    };
    let some = |names: &[String]| text::some_of(names, SHOWN);
    let mut found = Vec::new();
    let is_lost = |row: &Row| matches!(row.state, State::Disconnected | State::Unknown);
    let lost = names(&|row| is_lost(row) && !row.is_settling);
    if !lost.is_empty() {
        found.push(Finding::error(
            SUBJECT,
            format!("{} not connected: {}", text::counted(lost.len(), "sidecar"), some(&lost)),
            "see its log (kubectl logs POD -c remora-proxy): can it reach the control plane's Service, do NetworkPolicies let it?",
        ));
    }
    let refused = names(&|row| row.state == State::Refused);
    if !refused.is_empty() {
        found.push(Finding::error(
            SUBJECT,
            format!(
                "{} refused a part of their configuration: {}",
                text::counted(refused.len(), "sidecar"),
                some(&refused)
            ),
            "`remora status` shows what and why; they keep their last good version",
        ));
    }
    let apart = names(&|row| !row.version.is_empty() && !is_supported(&row.version, OURS));
    if !apart.is_empty() {
        found.push(Finding::warning(
            SUBJECT,
            format!(
                "{} more than one minor version from {OURS}: {}",
                text::counted(apart.len(), "sidecar"),
                some(&apart)
            ),
            "restart their workloads, so that they get today's sidecar",
        ));
    }
    let settling = names(&|row| is_lost(row) && row.is_settling);
    if !settling.is_empty() {
        let count = text::counted(settling.len(), "sidecar");
        let message = format!(
            "{count} not connected yet, of pods that are new or not ready: {}",
            some(&settling)
        );
        found.push(Finding::info(SUBJECT, message));
    }
    if found.is_empty() {
        let count = rows.iter().filter(|row| row.state == State::InSync).count();
        let message = format!(
            "{}, all connected and in sync",
            text::counted(count, "sidecar")
        );
        found.push(Finding::ok(SUBJECT, message));
    }
    found
}

/// What is read of a policy.
#[derive(Debug, Deserialize)]
pub struct Judged {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: Value,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    generation: i64,
}

/// The policies of a kind: judged, and accepted.
pub fn policies(kind: &str, found: &Result<List<Judged>, Error>) -> Vec<Finding> {
    const SUBJECT: &str = "policies";
    let policies = match found {
        Ok(policies) => &policies.items,
        // Without its definition there is none: said elsewhere.
        Err(error) if error.is_not_found() => return Vec::new(),
        Err(error) => return vec![Finding::unread(SUBJECT, error)],
    };
    let findings: Vec<Finding> = policies
        .iter()
        .filter_map(|one| policy(kind, one))
        .take(MAX_POLICIES)
        .collect();
    if findings.is_empty() {
        let count = text::counted(policies.len(), kind);
        let count = count.replace("Policys", "Policies");
        return vec![Finding::ok(SUBJECT, format!("{count}, all in force"))];
    }
    findings
}

fn policy(kind: &str, policy: &Judged) -> Option<Finding> {
    const SUBJECT: &str = "policies";
    let Metadata {
        namespace,
        name,
        generation,
    } = &policy.metadata;
    let lower = kind.to_lowercase();
    let describe = format!("kubectl -n {namespace} describe {lower} {name}");
    let shown = format!("{kind} {namespace}/{name}");
    let conditions = policy.status["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let accepted = conditions.find(|condition| condition["type"] == "Accepted");
    let Some(accepted) = accepted else {
        let message = format!("{shown} has no status yet");
        return Some(Finding::warning(
            SUBJECT,
            message,
            "the leading control plane writes it: see `leader` above",
        ));
    };
    let word = |field: &str| accepted[field].as_str().unwrap_or_default();
    if word("status") != "True" {
        let message = format!(
            "{shown} is not in force: {}: {}",
            word("reason"),
            word("message")
        );
        return Some(Finding::warning(SUBJECT, message, &describe));
    }
    let judged = accepted["observedGeneration"]
        .as_i64()
        .or(policy.status["observedGeneration"].as_i64());
    if judged.is_some_and(|judged| judged < *generation) {
        let message = format!("the status of {shown} is of an older generation");
        return Some(Finding::warning(
            SUBJECT,
            message,
            "the leading control plane writes it: see `leader` above",
        ));
    }
    let refused = policy.status["sidecars"]["refused"].as_u64().unwrap_or(0);
    (refused > 0).then(|| {
        let refused = usize::try_from(refused).unwrap_or(usize::MAX);
        let message = format!(
            "{shown} is refused by {}",
            text::counted(refused, "sidecar")
        );
        Finding::error(
            SUBJECT,
            message,
            "`remora status -A` shows by which, and why",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use serde_json::json;

    fn labelled(labels: Value) -> Namespaces {
        let shop = json!({"metadata": {"name": "shop", "labels": labels}});
        Namespaces::new(&[serde_json::from_value(shop).unwrap()], "remora-system")
    }

    #[test]
    fn pods_without_sidecar_are_told_with_what_to_restart() {
        let pod = |name: &str, owner: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": name, "ownerReferences": [owner],
                    "labels": {"pod-template-hash": "5d"}},
                "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"},
            }))
            .unwrap()
        };
        let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "1", "controller": true});
        let pods = [pod("web-5d-a", set.clone()), pod("web-5d-b", set)];
        let enabled = labelled(json!({"remora.io/inject": "enabled"}));
        let found = without_sidecar(&pods, &enabled);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].message,
            "2 pods of namespace shop without sidecar: web-5d-a, web-5d-b"
        );
        assert!(
            found[0]
                .action
                .ends_with("kubectl -n shop rollout restart deployment/web"),
            "{}",
            found[0].action
        );
        assert_eq!(without_sidecar(&[], &enabled)[0].level, Level::Ok);
        assert_eq!(
            without_sidecar(&pods, &labelled(json!({})))[0].level,
            Level::Info
        );
        let mut host = pods[0].clone();
        host.spec.as_mut().unwrap().host_network = Some(true);
        let found = without_sidecar(&[host], &enabled);
        assert_eq!((found[0].level, found[1].level), (Level::Ok, Level::Info));
        assert!(
            found[1].message.contains("hostNetwork") && found[1].message.ends_with("shop/web-5d-a")
        );
    }

    #[test]
    fn declined_pods_are_told_by_reason_with_what_to_change() {
        let pod = |name: &str, said: &str, container: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"namespace": "shop", "name": name,
                    "annotations": {"remora.io/injected": format!("false: {said}")}},
                "spec": {"containers": [{"name": container}]}, "status": {"phase": "Running"},
            }))
            .unwrap()
        };
        let wrong = "annotation remora.io/concurrency: `hostNetwork` is not a number from 1 to 256";
        let named = "a container of its own is named remora-proxy";
        let pods = [
            pod("a", wrong, "app"),
            pod("b", wrong, "app"),
            pod("c", named, "remora-proxy"),
        ];
        let enabled = labelled(json!({"remora.io/inject": "enabled"}));
        let found = without_sidecar(&pods, &enabled);
        let [_, rename, mend] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!(
            mend.message,
            format!("2 pods asked for and declined: {wrong}: shop/a, shop/b")
        );
        assert_eq!((mend.level, rename.level), (Level::Warning, Level::Warning));
        assert!(mend.action.starts_with("mend that annotation"), "{mend:?}");
        assert!(rename.message.contains(named), "{rename:?}");
        assert!(rename.action.contains("another name"), "{rename:?}");
        for finding in &found {
            assert!(!finding.action.contains("delete them"), "{finding:?}");
        }
    }

    #[test]
    fn sidecars_are_told_by_what_is_wrong() {
        let row = |pod: &str, state: State, version: &str| Row {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            node: String::new(),
            state,
            connected: true,
            applied: 1,
            refused: Vec::new(),
            version: version.to_owned(),
            last_report_seconds: None,
            is_settling: false,
        };
        let good = row("a", State::InSync, OURS);
        assert_eq!(sidecars(std::slice::from_ref(&good))[0].level, Level::Ok);
        let found = sidecars(&[
            good,
            row("b", State::Disconnected, OURS),
            row("c", State::Refused, OURS),
            row("d", State::InSync, "7.0.0"),
        ]);
        let new = Row {
            is_settling: true,
            ..row("e", State::Unknown, "")
        };
        let noted = sidecars(&[new]);
        assert_eq!((noted.len(), noted[0].level), (1, Level::Info));
        assert!(noted[0].message.contains("shop/e"), "{noted:?}");
        let levels: Vec<Level> = found.iter().map(|one| one.level).collect();
        assert_eq!(levels, [Level::Error, Level::Error, Level::Warning]);
        for (finding, pod) in found.iter().zip(["shop/b", "shop/c", "shop/d"]) {
            assert!(finding.message.contains(pod), "{finding:?}");
        }
    }

    #[test]
    fn policies_that_are_not_in_force_are_told() {
        let of = |status: Value| {
            let item = json!({"metadata": {"namespace": "shop", "name": "p", "generation": 2}, "status": status});
            let items = serde_json::from_value(json!([item])).unwrap();
            let list = List {
                items,
                is_cut: false,
            };
            policies("AuthorizationPolicy", &Ok(list))
        };
        let condition = |status: &str, generation: i64| {
            json!({"conditions": [{"type": "Accepted", "status": status, "reason": "Conflicted",
                "message": "older", "observedGeneration": generation}]})
        };
        assert_eq!(of(condition("True", 2))[0].level, Level::Ok);
        assert!(
            of(condition("False", 2))[0]
                .message
                .contains("AuthorizationPolicy shop/p is not in force: Conflicted: older")
        );
        assert!(
            of(condition("True", 1))[0]
                .message
                .contains("older generation")
        );
        assert!(of(json!({}))[0].message.contains("no status yet"));
        let mut refused = condition("True", 2);
        refused["sidecars"] = json!({"refused": 3});
        assert_eq!(of(refused)[0].level, Level::Error);
    }
}
