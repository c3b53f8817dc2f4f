//! Whether a pod is asked for, and whether it can be had.

use std::net::SocketAddr;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use remora_proto::well_known::{
    ADMIN_PORT, INBOUND_PORT, INJECT, INJECT_DISABLED, INJECT_ENABLED, INTERCEPT_CONTAINER,
    NEVER_INJECTED, OUTBOUND_PORT, PROBE_PORT, SIDECAR_CONTAINER, SIDECAR_UID,
};

use crate::containers::{are_present, is_made_by_us};
use crate::settings::{KubernetesVersion, NamespaceFacts, Settings};

/// The namespace label by which Pod Security Admission enforces a standard.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// The one standard (of three) that allows NET_ADMIN.
const PRIVILEGED: &str = "privileged";
/// On what the API server shows of a pod that a node runs from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The domain of a cluster that has not chosen another.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// On which the sidecar listens, on every address of the pod.
const PORTS: [u16; 4] = [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT, PROBE_PORT];

/// As [`crate::Decision`], before there is a patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Asked for, and possible.
    Inject,
    /// Asked for, and not possible.
    Decline(String),
    /// Not asked for.
    Skip(String),
}

/// Decides by what the pod and its namespace say.
///
/// The pod's label or annotation `remora.io/inject` wins over its namespace's
/// label, but for one word: `disabled`, wherever it stands, is final. Who runs
/// a namespace can so keep the mesh out of it, and who writes a pod can keep
/// out of the mesh. (The API server sends pods of an unlabelled namespace by
/// their *label* alone: it cannot select by annotation.)
pub fn verdict(pod: &Pod, namespace: &NamespaceFacts, settings: &Settings) -> Verdict {
    if let Some(name) = never(namespace, settings) {
        return Verdict::Skip(format!("nothing is ever injected in the namespace {name}"));
    }
    if annotation(pod, MIRROR).is_some() {
        return Verdict::Skip(
            "a node runs it from a file, whatever the API server says".to_owned(),
        );
    }
    match asked(pod, namespace) {
        Ok(true) => {}
        Ok(false) => return Verdict::Skip("injection is not enabled".to_owned()),
        Err(wrong) => return Verdict::Decline(wrong),
    }
    match impossible(pod, namespace, settings) {
        Some(reason) => Verdict::Decline(reason),
        None => Verdict::Inject,
    }
}

/// Whether the pod is left alone because of what is known of its namespace,
/// which may be known too late.
pub fn hangs_on_namespace(pod: &Pod, namespace: &NamespaceFacts, settings: &Settings) -> bool {
    never(namespace, settings).is_none()
        && annotation(pod, MIRROR).is_none()
        && asked(pod, namespace) == Ok(false)
        && own_word(pod) != Ok(Some(false))
}

fn never<'a>(namespace: &'a NamespaceFacts, settings: &Settings) -> Option<&'a str> {
    let name = namespace.name.as_str();
    // A fault here would take away the means to mend it.
    (NEVER_INJECTED.contains(&name) || name == settings.system_namespace).then_some(name)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a String> {
    pod.metadata.annotations.as_ref()?.get(name)
}

fn word(what: &str, value: Option<&String>) -> Result<Option<bool>, String> {
    match value.map(String::as_str) {
        None => Ok(None),
        Some(INJECT_ENABLED) => Ok(Some(true)),
        Some(INJECT_DISABLED) => Ok(Some(false)),
        Some(value) => Err(format!(
            "{what} {INJECT}: `{value}` is neither {INJECT_ENABLED} nor {INJECT_DISABLED}"
        )),
    }
}

/// What the pod itself says.
fn own_word(pod: &Pod) -> Result<Option<bool>, String> {
    let labels = pod.metadata.labels.as_ref();
    let label = word("label", labels.and_then(|labels| labels.get(INJECT)))?;
    let annotation = word("annotation", annotation(pod, INJECT))?;
    Ok(match (label, annotation) {
        (Some(label), Some(annotation)) => Some(label && annotation),
        (one, other) => one.or(other),
    })
}

/// Whether somebody asked.
fn asked(pod: &Pod, namespace: &NamespaceFacts) -> Result<bool, String> {
    let namespaces = namespace.labels.get(INJECT);
    match own_word(pod)? {
        Some(own) => Ok(own && namespaces.is_none_or(|word| word != INJECT_DISABLED)),
        None => Ok(word("namespace label", namespaces)?.unwrap_or(false)),
    }
}

/// Why this pod cannot be had, if so.
fn impossible(pod: &Pod, namespace: &NamespaceFacts, settings: &Settings) -> Option<String> {
    let oldest = KubernetesVersion::NATIVE_SIDECARS;
    if settings.kubernetes < oldest {
        return Some(format!(
            "Kubernetes {} has no native sidecars: {oldest} or later is needed",
            settings.kubernetes
        ));
    }
    // A pod that has its redirect step already was let through with it, or
    // will not be: that is no longer ours to say.
    if !are_present(pod)
        && let Some(reason) = insecure(namespace)
    {
        return Some(reason);
    }
    let Some(spec) = pod.spec.as_ref() else {
        return Some("the pod has no spec".to_owned());
    };
    if spec.host_network == Some(true) {
        return Some("hostNetwork: its traffic cannot be told from the node's".to_owned());
    }
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Some("the sidecar runs on Linux only".to_owned());
    }
    // Its sidecar would look for the control plane for ever, and hold the pod back.
    if spec.dns_policy.as_deref() == Some("Default") && is_by_name(&settings.control_plane) {
        return Some(format!(
            "dnsPolicy Default: the node's resolver does not know {}",
            settings.control_plane
        ));
    }
    if let Some(reason) = misnamed(spec) {
        return Some(reason);
    }
    if let Some(container) = others(spec).find(|c| runs_as_us(c, spec)) {
        return Some(format!(
            "container {} runs as user {SIDECAR_UID}, which is the sidecar's: \
             its connections could not be told apart",
            container.name
        ));
    }
    // A port that came after the sidecar takes nothing away: it is warned of.
    clash(spec).filter(|_| !are_present(pod))
}

/// A container of the pod's own that has the name of one of ours: both cannot
/// be in one pod.
fn misnamed(spec: &PodSpec) -> Option<String> {
    let init = spec.init_containers.iter().flatten();
    let init = init.filter(|container| !is_made_by_us(container));
    let init = init.map(|container| ("an init container", container));
    let main = spec.containers.iter();
    let mut all = main
        .map(|container| ("a container", container))
        .chain(init)
        .filter(|(_, container)| is_ours(&container.name));
    all.next()
        .map(|(what, taken)| format!("{what} of its own is named {}", taken.name))
}

/// The application's containers.
fn others(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    all.filter(|container| !is_ours(&container.name))
}

/// The application declares a port on which the sidecar listens: whichever
/// comes second cannot.
pub fn clash(spec: &PodSpec) -> Option<String> {
    others(spec).find_map(|container| {
        let declared = container.ports.iter().flatten();
        let mut tcp = declared
            .filter(|port| port.protocol.as_deref().is_none_or(|name| name == "TCP"))
            .filter_map(|port| u16::try_from(port.container_port).ok());
        let port = tcp.find(|port| PORTS.contains(port))?;
        let name = &container.name;
        Some(format!(
            "container {name} declares the port {port}, on which the sidecar listens"
        ))
    })
}

/// Whether an address such as `http://host:port` has to be looked up.
fn is_by_name(url: &str) -> bool {
    let authority = url.rsplit('/').next().unwrap_or_default();
    authority.parse::<SocketAddr>().is_err()
}

/// Why a pod that brings its own resolver may not find the control plane. Not
/// whether its nameservers are the cluster's: that cannot be seen from here.
pub fn unresolved(spec: &PodSpec, control_plane: &str) -> Option<String> {
    if spec.dns_policy.as_deref() != Some("None") || !is_by_name(control_plane) {
        return None;
    }
    let dns = spec.dns_config.as_ref();
    let names = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let nameservers = names(dns.and_then(|dns| dns.nameservers.as_ref()));
    let searches = names(dns.and_then(|dns| dns.searches.as_ref()));
    let is_cluster = |search: &String| {
        let domain = search.trim_end_matches('.');
        let services = format!("svc.{domain}");
        domain == CLUSTER_DOMAIN
            || searches
                .iter()
                .any(|other| other.trim_end_matches('.') == services)
    };
    let lacking = if nameservers.is_empty() {
        "names no nameserver"
    } else if is_short(control_plane) && !searches.iter().any(is_cluster) {
        "lacks the cluster's search path (such as cluster.local)"
    } else {
        return None;
    };
    Some(format!(
        "dnsPolicy None, and the dnsConfig {lacking}: the sidecar has to find {control_plane} by \
         it, and holds the pod back until it does"
    ))
}

/// Whether the host of a URL ends at `svc`, before the cluster's domain.
fn is_short(url: &str) -> bool {
    let authority = url.rsplit('/').next().unwrap_or_default();
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.ends_with(".svc")
}

/// Why Pod Security would refuse the pod with our redirect step in it, so that
/// it would not exist at all. What a namespace does not say, an API server may
/// say for all namespaces: that cannot be seen from here.
fn insecure(namespace: &NamespaceFacts) -> Option<String> {
    let standard = namespace.labels.get(POD_SECURITY)?;
    // A word that is none of the three is enforced as the strictest.
    (standard != PRIVILEGED).then(|| {
        format!(
            "the namespace enforces the Pod Security standard {standard:?}, and the redirect \
             step needs the capability NET_ADMIN, which only {PRIVILEGED:?} allows"
        )
    })
}

/// Whether the name is one of our two containers'.
pub fn is_ours(name: &str) -> bool {
    name == SIDECAR_CONTAINER || name == INTERCEPT_CONTAINER
}

fn runs_as_us(container: &Container, spec: &PodSpec) -> bool {
    let own = container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    let pods = spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    own.or(pods) == Some(i64::from(SIDECAR_UID))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(metadata: serde_json::Value, spec: serde_json::Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "app"}]);
        }
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn namespace(name: &str, inject: Option<&str>) -> NamespaceFacts {
        NamespaceFacts {
            name: name.to_owned(),
            labels: inject
                .map(|v| (INJECT.to_owned(), v.to_owned()))
                .into_iter()
                .collect(),
        }
    }

    #[test]
    fn a_pod_that_cannot_look_up_the_control_plane_is_declined() {
        let decided = |policy: &str, control_plane: &str| {
            let settings = Settings {
                control_plane: control_plane.to_owned(),
                ..Settings::default()
            };
            let pod = pod(json!({}), json!({"dnsPolicy": policy}));
            verdict(&pod, &namespace("shop", Some("enabled")), &settings)
        };
        let named = "http://remora-control-plane.remora-system.svc:15110";
        let declined = decided("Default", named);
        let Verdict::Decline(reason) = &declined else {
            panic!("{declined:?}");
        };
        assert!(reason.contains("dnsPolicy") && reason.contains(named));
        for (policy, control_plane) in [
            ("ClusterFirst", named),
            ("Default", "http://10.96.0.9:15110"),
            ("Default", "http://[fd00::9]:15110"),
        ] {
            assert_eq!(decided(policy, control_plane), Verdict::Inject);
        }
    }

    fn decided(metadata: serde_json::Value, inject: Option<&str>) -> Verdict {
        verdict(
            &pod(metadata, json!({})),
            &namespace("shop", inject),
            &Settings::default(),
        )
    }

    #[test]
    fn the_pod_wins_over_its_namespace_and_no_over_yes() {
        let label = |value: &str| json!({"labels": {INJECT: value}});
        let annotation = |value: &str| json!({"annotations": {INJECT: value}});
        let both = json!({"labels": {INJECT: "enabled"}, "annotations": {INJECT: "disabled"}});
        let skipped = |verdict| matches!(verdict, Verdict::Skip(_));
        assert!(skipped(decided(json!({}), None)));
        assert!(skipped(decided(json!({}), Some("disabled"))));
        assert_eq!(decided(json!({}), Some("enabled")), Verdict::Inject);
        assert_eq!(decided(label("enabled"), None), Verdict::Inject);
        assert_eq!(decided(annotation("enabled"), None), Verdict::Inject);
        assert!(skipped(decided(annotation("enabled"), Some("disabled"))));
        assert!(skipped(decided(label("enabled"), Some("disabled"))));
        assert!(skipped(decided(label("disabled"), Some("enabled"))));
        assert!(skipped(decided(annotation("disabled"), Some("enabled"))));
        assert!(skipped(decided(both, Some("enabled"))));
    }

    #[test]
    fn a_word_that_is_neither_is_declined_and_named() {
        for verdict in [
            decided(json!({"labels": {INJECT: "true"}}), None),
            decided(json!({"annotations": {INJECT: "true"}}), Some("enabled")),
            decided(json!({}), Some("true")),
        ] {
            let Verdict::Decline(reason) = verdict else {
                panic!("{verdict:?}");
            };
            assert!(
                reason.contains("`true`") && reason.contains(INJECT),
                "{reason}"
            );
        }
    }

    #[test]
    fn the_clusters_own_namespaces_are_never_touched() {
        let asked = pod(json!({"labels": {INJECT: "enabled"}}), json!({}));
        for name in [
            "kube-system",
            "kube-public",
            "kube-node-lease",
            "remora-system",
        ] {
            let verdict = verdict(
                &asked,
                &namespace(name, Some("enabled")),
                &Settings::default(),
            );
            assert!(matches!(verdict, Verdict::Skip(_)), "{name}: {verdict:?}");
        }
    }

    fn declined(spec: serde_json::Value, settings: &Settings) -> String {
        match verdict(
            &pod(json!({}), spec),
            &namespace("shop", Some("enabled")),
            settings,
        ) {
            Verdict::Decline(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_had_is_declined_with_its_reason() {
        let settings = Settings::default();
        let reason = declined(json!({"hostNetwork": true}), &settings);
        assert!(reason.contains("hostNetwork"), "{reason}");
        let reason = declined(json!({"os": {"name": "windows"}}), &settings);
        assert!(reason.contains("Linux"), "{reason}");
        let reason = declined(json!({"containers": [{"name": "remora-proxy"}]}), &settings);
        assert!(reason.contains("remora-proxy"), "{reason}");
        for port in PORTS {
            let spec = json!({"containers": [{"name": "app", "ports": [
                {"containerPort": 8080}, {"containerPort": port}]}]});
            let reason = declined(spec, &settings);
            assert!(reason.contains(&format!("port {port},")), "{reason}");
        }
        let reason = declined(json!({"securityContext": {"runAsUser": 2102}}), &settings);
        assert!(reason.contains("2102"), "{reason}");
        let old = Settings {
            kubernetes: "v1.28.9".parse().unwrap(),
            ..Settings::default()
        };
        let reason = declined(json!({}), &old);
        assert!(
            reason.contains("1.28") && reason.contains("1.29"),
            "{reason}"
        );
    }

    #[test]
    fn a_port_of_another_protocol_does_not_clash() {
        let udp = json!({"containers": [{"name": "app", "ports": [
            {"containerPort": 15101, "protocol": "UDP"}, {"containerPort": 15102}]}]});
        let shop = namespace("shop", Some("enabled"));
        let verdict = verdict(&pod(json!({}), udp), &shop, &Settings::default());
        assert_eq!(verdict, Verdict::Inject);
    }

    #[test]
    fn an_own_resolver_without_the_clusters_path_is_told() {
        let short = "http://remora-control-plane.remora-system.svc:15110";
        let told = |dns: serde_json::Value, control_plane: &str| {
            let spec = json!({"dnsPolicy": "None", "dnsConfig": dns});
            unresolved(pod(json!({}), spec).spec.as_ref().unwrap(), control_plane)
        };
        let reason = told(json!({"nameservers": ["10.96.0.10"]}), short).unwrap();
        assert!(
            reason.contains("search path") && reason.contains(short),
            "{reason}"
        );
        let reason = told(json!({"searches": ["cluster.local"]}), short).unwrap();
        assert!(reason.contains("no nameserver"), "{reason}");
        let with = |searches| json!({"nameservers": ["10.96.0.10"], "searches": searches});
        assert!(told(with(json!(["corp.example"])), short).is_some());
        assert_eq!(told(with(json!(["cluster.local"])), short), None);
        assert_eq!(
            told(with(json!(["svc.k8s.example", "k8s.example."])), short),
            None
        );
        let bare = json!({"nameservers": ["10.96.0.10"]});
        for found in [
            "http://remora-control-plane.remora-system.svc.cluster.local:15110",
            "http://10.96.0.9:15110",
        ] {
            assert_eq!(told(bare.clone(), found), None, "{found}");
        }
    }

    fn enforcing(standard: &str) -> NamespaceFacts {
        let mut shop = namespace("shop", Some("enabled"));
        shop.labels
            .insert(POD_SECURITY.to_owned(), standard.to_owned());
        shop
    }

    #[test]
    fn where_pod_security_would_refuse_the_redirect_step_it_is_said() {
        let plain = pod(json!({}), json!({}));
        let settings = Settings::default();
        for standard in ["restricted", "baseline", "Privileged", ""] {
            let Verdict::Decline(reason) = verdict(&plain, &enforcing(standard), &settings) else {
                panic!("{standard} was not declined");
            };
            assert!(
                reason.contains("NET_ADMIN") && reason.contains(&format!("{standard:?}")),
                "{reason}"
            );
        }
        let allowed = verdict(&plain, &enforcing("privileged"), &settings);
        assert_eq!(allowed, Verdict::Inject);
        // What is only warned of or written down refuses nobody.
        let mut warned = namespace("shop", Some("enabled"));
        let label = "pod-security.kubernetes.io/warn".to_owned();
        warned.labels.insert(label, "restricted".to_owned());
        assert_eq!(verdict(&plain, &warned, &settings), Verdict::Inject);
        // A second run does not deny the sidecar that is there.
        let both = json!([
            {"name": "remora-intercept", "command": ["remora-proxy", "intercept"]},
            {"name": "remora-proxy", "restartPolicy": "Always", "env": [
                {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]},
        ]);
        let injected = pod(json!({}), json!({"initContainers": both}));
        let again = verdict(&injected, &enforcing("restricted"), &settings);
        assert_eq!(again, Verdict::Inject);
    }

    #[test]
    fn what_a_node_runs_from_a_file_is_not_touched() {
        let mirror = json!({"annotations": {MIRROR: "0123"}});
        let verdict = decided(mirror, Some("enabled"));
        assert!(matches!(verdict, Verdict::Skip(_)), "{verdict:?}");
    }

    #[test]
    fn a_namespace_may_be_known_too_late_only_where_it_decides() {
        let settings = Settings::default();
        let hangs = |metadata, facts: &NamespaceFacts| {
            hangs_on_namespace(&pod(metadata, json!({})), facts, &settings)
        };
        let says = |word: &str| json!({"labels": {INJECT: word}});
        assert!(hangs(json!({}), &namespace("shop", None)));
        assert!(hangs(json!({}), &namespace("shop", Some("disabled"))));
        assert!(hangs(says("enabled"), &namespace("shop", Some("disabled"))));
        assert!(!hangs(says("enabled"), &namespace("shop", None)));
        assert!(!hangs(json!({}), &namespace("shop", Some("enabled"))));
        assert!(!hangs(says("disabled"), &namespace("shop", None)));
        assert!(!hangs(json!({}), &namespace("kube-system", None)));
    }

    #[test]
    fn a_container_may_run_as_another_user_than_its_pod_says() {
        let spec = json!({
            "securityContext": {"runAsUser": 2102},
            "containers": [{"name": "app", "securityContext": {"runAsUser": 1000}}],
        });
        let shop = namespace("shop", Some("enabled"));
        let verdict = verdict(&pod(json!({}), spec), &shop, &Settings::default());
        assert_eq!(verdict, Verdict::Inject);
    }
}
