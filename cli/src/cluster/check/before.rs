//! Before an installation: whether the cluster can take it.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use remora_injector::KubernetesVersion;
use remora_proto::well_known::{CONTROL_PLANE, INJECT, INJECT_ENABLED, INJECTOR};
use serde_json::Value;

use super::DEFINITION;
use super::finding::Finding;
use crate::cluster::api::{Access, Api, List, Server};
use crate::cluster::error::Error;
use crate::cluster::resources::{
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, DEFINITIONS, DEPLOYMENTS, DISRUPTION_BUDGETS,
    MUTATING_WEBHOOKS, NAMESPACES, NETWORK_POLICIES, ROLE_BINDINGS, ROLES, Resource,
    SERVICE_ACCOUNTS, SERVICES,
};
use crate::cluster::text;

/// Questions of access that are asked at once.
const MAX_AT_ONCE: usize = 16;
/// Names that are shown of many.
const SHOWN: usize = 5;
/// What `kubectl apply` does.
const VERBS: [&str; 3] = ["get", "create", "patch"];
/// What manifests/install holds: for the cluster, and in Remora's namespace.
const OF_CLUSTER: [&Resource; 5] = [
    &NAMESPACES,
    &DEFINITIONS,
    &CLUSTER_ROLES,
    &CLUSTER_ROLE_BINDINGS,
    &MUTATING_WEBHOOKS,
];
const OF_NAMESPACE: [&Resource; 7] = [
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &DEPLOYMENTS,
    &ROLES,
    &ROLE_BINDINGS,
    &DISRUPTION_BUDGETS,
    &NETWORK_POLICIES,
];
/// Words in the names of other meshes' webhooks that put sidecars into pods.
const OTHERS: [(&str, &str); 6] = [
    ("istio", "Istio"),
    ("linkerd", "Linkerd"),
    ("kuma", "Kuma"),
    ("consul", "Consul"),
    ("osm", "Open Service Mesh"),
    ("traefik-mesh", "Traefik Mesh"),
];
/// A CustomResourceDefinition of the Gateway API.
const ROUTES: &str = "httproutes.gateway.networking.k8s.io";

/// The API server and its version.
pub fn server(server: &Server) -> Finding {
    const SUBJECT: &str = "kubernetes";
    let oldest = KubernetesVersion::NATIVE_SIDECARS;
    let shown = format!("{} at {}", server.version, server.url);
    match server.version.parse::<KubernetesVersion>() {
        Ok(version) if version >= oldest => Finding::ok(SUBJECT, shown),
        Ok(_) => Finding::error(
            SUBJECT,
            format!("{shown} has no native sidecars"),
            &format!(
                "upgrade to Kubernetes {oldest} or later: on older ones no pod gets a sidecar"
            ),
        ),
        Err(error) => Finding::warning(SUBJECT, error.to_string(), ""),
    }
}

/// Whether whoever asks may install.
pub async fn rights(api: &Api) -> Finding {
    const SUBJECT: &str = "rights";
    let system = api.system_namespace.as_str();
    let of_cluster = OF_CLUSTER.map(|resource| (resource, None));
    let of_namespace = OF_NAMESPACE.map(|resource| (resource, Some(system)));
    let all = of_cluster.into_iter().chain(of_namespace);
    let questions = all.flat_map(|(resource, namespace)| {
        VERBS.map(|verb| Access {
            verb,
            resource,
            namespace,
        })
    });
    let asked = questions.map(|access| async move { (access.need(), api.may(&access).await) });
    let answers: Vec<_> = futures_util::stream::iter(asked)
        .buffered(MAX_AT_ONCE)
        .collect()
        .await;
    let mut missing = Vec::new();
    for (need, answer) in answers {
        match answer {
            Ok(true) => {}
            Ok(false) => missing.push(need.to_string()),
            Err(error) => return Finding::unread(SUBJECT, &error),
        }
    }
    if missing.is_empty() {
        return Finding::ok(SUBJECT, "you may install Remora here");
    }
    Finding::error(
        SUBJECT,
        format!(
            "to install, you lack: {}",
            text::some_of(&missing, 2 * SHOWN)
        ),
        "let somebody install who is a cluster administrator",
    )
}

/// Other meshes that put sidecars into pods.
pub fn others(
    webhooks: &Result<List<MutatingWebhookConfiguration>, Error>,
    namespaces: &Result<List<Namespace>, Error>,
) -> Finding {
    const SUBJECT: &str = "other meshes";
    let webhooks = match webhooks {
        Ok(webhooks) => webhooks,
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let mut found = BTreeSet::new();
    for configuration in &webhooks.items {
        let own = configuration.metadata.name.iter();
        let hooks = configuration.webhooks.iter().flatten();
        let names = own.chain(hooks.map(|hook| &hook.name));
        for name in names.filter(|name| !name.contains("remora")) {
            let known = OTHERS.iter().filter(|(word, _)| has_word(name, word));
            found.extend(known.map(|(_, mesh)| *mesh));
        }
    }
    if found.is_empty() {
        return Finding::ok(SUBJECT, "none puts sidecars into pods here");
    }
    let meshes = found.into_iter().collect::<Vec<_>>().join(", ");
    let both = asked_by_two(namespaces);
    if both.is_empty() {
        return Finding::warning(
            SUBJECT,
            format!("{meshes} puts sidecars into pods too"),
            &format!(
                "label no namespace for both: a pod with two sidecars loses its connections ({INJECT} belongs where the other is off)"
            ),
        );
    }
    Finding::warning(
        SUBJECT,
        format!(
            "{meshes} and Remora are both asked for in: {}",
            text::some_of(&both, SHOWN)
        ),
        "take one of the two labels away, and restart the pods there",
    )
}

/// Whether a word stands in a name between its dots and dashes.
fn has_word(name: &str, word: &str) -> bool {
    let parts = name.split(['.', '-']).collect::<Vec<_>>().join(" ");
    let word = word.replace('-', " ");
    format!(" {parts} ").contains(&format!(" {word} ")) || (word.len() > 4 && parts.contains(&word))
}

fn asked_by_two(namespaces: &Result<List<Namespace>, Error>) -> Vec<String> {
    let all = namespaces.as_ref().map_or(&[][..], |list| &list.items);
    let both = all.iter().filter(|namespace| {
        let labels = namespace.metadata.labels.iter().flatten();
        let annotations = namespace.metadata.annotations.iter().flatten();
        let ours = labels
            .clone()
            .any(|(name, value)| name == INJECT && value == INJECT_ENABLED);
        let theirs = labels.chain(annotations).any(|(name, value)| {
            matches!(
                (name.as_str(), value.as_str()),
                (
                    "istio-injection" | "linkerd.io/inject" | "kuma.io/sidecar-injection",
                    "enabled"
                ) | ("istio.io/rev", _)
            )
        });
        ours && theirs
    });
    both.filter_map(|namespace| namespace.metadata.name.clone())
        .collect()
}

/// What of ours is there already: name, and whether it is.
pub async fn present(api: &Api) -> Result<Vec<(&'static str, bool)>, Error> {
    let system = api.system_namespace.as_str();
    let there = |found: Option<Value>| found.is_some();
    let namespace = there(api.find(&NAMESPACES, None, system).await?);
    let definition = there(api.find(&DEFINITIONS, None, DEFINITION).await?);
    let webhook = there(api.find(&MUTATING_WEBHOOKS, None, INJECTOR).await?);
    let deployment = async |name| {
        let found = api
            .find::<Deployment>(&DEPLOYMENTS, Some(system), name)
            .await;
        found.map(|found| found.is_some())
    };
    Ok(vec![
        ("the namespace", namespace),
        ("the CustomResourceDefinition", definition),
        (
            "the control plane's Deployment",
            deployment(CONTROL_PLANE).await?,
        ),
        ("the injector's Deployment", deployment(INJECTOR).await?),
        ("the webhook configuration", webhook),
    ])
}

/// Whether an installation has stopped half way.
pub fn half_installed(present: &Result<Vec<(&'static str, bool)>, Error>) -> Finding {
    const SUBJECT: &str = "installation";
    let present = match present {
        Ok(present) => present,
        Err(error) => return Finding::unread(SUBJECT, error),
    };
    let parts = |wanted: bool| {
        let parts = present.iter().filter(|(_, there)| *there == wanted);
        parts.map(|(what, _)| *what).collect::<Vec<_>>().join(", ")
    };
    match (parts(true), parts(false)) {
        (there, _) if there.is_empty() => Finding::ok(SUBJECT, "nothing of Remora is there yet"),
        (_, gone) if gone.is_empty() => Finding::info(
            SUBJECT,
            "Remora is installed already: `remora check` looks at it",
        ),
        (there, gone) => Finding::warning(
            SUBJECT,
            format!("half there: {there}; missing: {gone}"),
            "run kubectl apply -k manifests/install again, or kubectl delete -k manifests/install first",
        ),
    }
}

/// Whether the Gateway API's routes are known. Nothing here needs them.
pub fn gateway_api(definition: &Result<Option<Value>, Error>) -> Finding {
    const SUBJECT: &str = "gateway api";
    match definition {
        Ok(Some(_)) => Finding::info(
            SUBJECT,
            "its definitions are there (not needed by this version)",
        ),
        Ok(None) => Finding::info(
            SUBJECT,
            "its definitions are not there (not needed by this version)",
        ),
        Err(error) => Finding::unread(SUBJECT, error),
    }
}

/// Everything that is looked at before an installation, the server apart.
pub async fn findings(api: &Api) -> Vec<Finding> {
    let webhooks = api.list(&MUTATING_WEBHOOKS, None, "").await;
    let namespaces = api.list(&NAMESPACES, None, "").await;
    vec![
        rights(api).await,
        half_installed(&present(api).await),
        others(&webhooks, &namespaces),
        gateway_api(&api.find(&DEFINITIONS, None, ROUTES).await),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    fn list<T: DeserializeOwned>(items: Value) -> Result<List<T>, Error> {
        Ok(List {
            items: serde_json::from_value(items).unwrap(),
            is_cut: false,
        })
    }

    fn at(version: &str) -> Level {
        let url = "https://x".to_owned();
        let version = version.to_owned();
        let now = None;
        server(&Server { url, version, now }).level
    }

    #[test]
    fn native_sidecars_are_needed() {
        assert_eq!(at("v1.34.4"), Level::Ok);
        assert_eq!(at("v1.29.0-eks-1"), Level::Ok);
        assert_eq!(at("v1.28.9"), Level::Error);
        assert_eq!(at("unknown"), Level::Warning);
    }

    #[test]
    fn other_meshes_are_known_by_their_webhooks() {
        let hooks = |name: &str| {
            list::<MutatingWebhookConfiguration>(
                json!([{"metadata": {"name": name}, "webhooks": []}]),
            )
        };
        let shop = |labels: Value| {
            list::<Namespace>(json!([{"metadata": {"name": "shop", "labels": labels}}]))
        };
        let none = shop(json!({}));
        for (name, mesh) in [
            ("istio-sidecar-injector-1-24", "Istio"),
            ("linkerd-proxy-injector-webhook-config", "Linkerd"),
            ("kuma-admission-mutating-webhook-configuration", "Kuma"),
            ("osm-webhook-osm", "Open Service Mesh"),
        ] {
            let found = others(&hooks(name), &none);
            assert_eq!(found.level, Level::Warning, "{name}");
            assert!(found.message.contains(mesh), "{name}: {}", found.message);
        }
        for name in ["cert-manager-webhook", "remora-injector", "cosmos-operator"] {
            assert_eq!(others(&hooks(name), &none).level, Level::Ok, "{name}");
        }
        let both = shop(json!({"istio-injection": "enabled", "remora.io/inject": "enabled"}));
        let found = others(&hooks("istio-sidecar-injector"), &both);
        assert!(found.message.contains("in: shop"), "{}", found.message);
    }

    #[test]
    fn half_an_installation_is_told_with_its_parts() {
        let half = Ok(vec![("a", true), ("b", false)]);
        let found = half_installed(&half);
        assert_eq!(found.level, Level::Warning);
        assert_eq!(found.message, "half there: a; missing: b");
        assert_eq!(half_installed(&Ok(vec![("a", false)])).level, Level::Ok);
        assert_eq!(half_installed(&Ok(vec![("a", true)])).level, Level::Info);
    }
}
