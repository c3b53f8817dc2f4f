//! A container's variables and command, resolved as the kubelet does:
//! `valueFrom.fieldRef` and `$(NAME)`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use thiserror::Error;

/// The name of the only node.
pub const NODE: &str = "playground";

/// A variable that cannot be resolved.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("container {container}: env {variable}: {why}")]
pub struct Unresolved {
    container: String,
    variable: String,
    why: String,
}

/// The variables of `container` in `pod`; later ones may name earlier ones.
///
/// # Errors
/// The first that needs what the playground does not have.
pub fn variables(pod: &Pod, container: &Container) -> Result<BTreeMap<String, String>, Unresolved> {
    // What the container's own name server would say, as the runtime sets it.
    let host = pod.metadata.name.clone();
    let host = host.map(|name| ("HOSTNAME".to_owned(), name));
    let mut resolved: BTreeMap<_, _> = host.into_iter().collect();
    for variable in container.env.iter().flatten() {
        let unresolved = |why: String| Unresolved {
            container: container.name.clone(),
            variable: variable.name.clone(),
            why,
        };
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => expand(value, &resolved),
            (None, None) => String::new(),
            (None, Some(source)) => match &source.field_ref {
                Some(reference) => field(pod, &reference.field_path).ok_or_else(|| {
                    unresolved(format!(
                        "fieldPath {} is not known here",
                        reference.field_path
                    ))
                })?,
                None if is_optional(source) => continue,
                None => {
                    return Err(unresolved(
                        "only value and valueFrom.fieldRef are resolved in the playground"
                            .to_owned(),
                    ));
                }
            },
        };
        resolved.insert(variable.name.clone(), value);
    }
    Ok(resolved)
}

fn is_optional(source: &k8s_openapi::api::core::v1::EnvVarSource) -> bool {
    let map = source
        .config_map_key_ref
        .as_ref()
        .and_then(|reference| reference.optional);
    let secret = source
        .secret_key_ref
        .as_ref()
        .and_then(|reference| reference.optional);
    map.or(secret).unwrap_or(false) || source.resource_field_ref.is_some()
}

/// A field by its path, as the downward API names them.
fn field(pod: &Pod, path: &str) -> Option<String> {
    let metadata = &pod.metadata;
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "spec.nodeName" => Some(NODE.to_owned()),
        "spec.serviceAccountName" => Some(
            spec.and_then(|spec| spec.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
        ),
        "status.podIP" => status?.pod_ip.clone(),
        "status.podIPs" => {
            let addresses: Vec<_> = status?
                .pod_ips
                .iter()
                .flatten()
                .map(|address| address.ip.clone())
                .collect();
            Some(addresses.join(","))
        }
        "status.hostIP" => status?.host_ip.clone(),
        _ => map_entry(pod, path),
    }
}

/// `metadata.labels['x']` and `metadata.annotations['x']`.
fn map_entry(pod: &Pod, path: &str) -> Option<String> {
    let (map, rest) = if let Some(rest) = path.strip_prefix("metadata.labels['") {
        (&pod.metadata.labels, rest)
    } else {
        (
            &pod.metadata.annotations,
            path.strip_prefix("metadata.annotations['")?,
        )
    };
    let key = rest.strip_suffix("']")?;
    Some(
        map.as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default(),
    )
}

/// Puts variables in the place of `$(NAME)`; `$$` is a `$`, an unknown name stays.
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            result.push('$');
            rest = after;
            continue;
        }
        let name = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, rest)| Some((variables.get(name)?, rest))) {
            Some((value, after)) => {
                result.push_str(value);
                rest = after;
            }
            None => {
                result.push('$');
                rest = after;
            }
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "status": {"podIP": "10.77.1.1", "podIPs": [{"ip": "10.77.1.1"}, {"ip": "fd52::1"}]}
        }))
        .unwrap()
    }

    fn resolved(env: serde_json::Value) -> Result<BTreeMap<String, String>, Unresolved> {
        let container: Container =
            serde_json::from_value(json!({"name": "c", "env": env})).unwrap();
        variables(&pod(), &container)
    }

    #[test]
    fn fields_are_resolved_as_the_kubelet_does() {
        let by_path = |path: &str| {
            let env = json!([{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]);
            resolved(env).map(|all| all["X"].clone())
        };
        assert_eq!(by_path("metadata.name").unwrap(), "web-1");
        assert_eq!(by_path("status.podIPs").unwrap(), "10.77.1.1,fd52::1");
        assert_eq!(by_path("spec.nodeName").unwrap(), NODE);
        assert_eq!(by_path("metadata.labels['app']").unwrap(), "web");
        let error = by_path("status.phase").unwrap_err().to_string();
        assert!(
            error.contains("env X") && error.contains("status.phase"),
            "{error}"
        );
    }

    #[test]
    fn earlier_variables_are_expanded() {
        let all = resolved(
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$$(A)-$(C)"}]),
        )
        .unwrap();
        assert_eq!(all["B"], "1-$(A)-$(C)");
    }
}
