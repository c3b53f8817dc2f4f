//! What the pod's author wishes, by annotations `remora.io/...`.
//!
//! All that is wrong is reported together. An annotation of ours that is not
//! known is wrong too: a misspelt `exclude-inbound-ports` must not be taken for
//! no wish at all.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use remora_proto::well_known::{IDENTITY, INJECT, MESH_PROTOCOLS, PREFIX};

use crate::INJECTED;
use crate::settings::Resources;
use crate::values;

/// What one annotation becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// A flag of `remora-proxy intercept`.
    Flag(&'static str),
    /// A variable of the sidecar.
    Variable(&'static str),
    /// Of the sidecar's resources.
    Quantity,
}

type Check = fn(&str) -> Result<(), String>;

fn quantity(text: &str) -> Result<(), String> {
    values::quantity(text).map(|_| ())
}

const CPU_REQUEST: &str = "cpu-request";
const CPU_LIMIT: &str = "cpu-limit";
const MEMORY_REQUEST: &str = "memory-request";
const MEMORY_LIMIT: &str = "memory-limit";

/// Every annotation of a pod, without its prefix.
const KNOWN: [(&str, Target, Check); 13] = [
    (
        "exclude-inbound-ports",
        Target::Flag("exclude-inbound-ports"),
        values::ports,
    ),
    (
        "exclude-outbound-ports",
        Target::Flag("exclude-outbound-ports"),
        values::ports,
    ),
    (
        "exclude-outbound-cidrs",
        Target::Flag("exclude-outbound-cidrs"),
        values::networks,
    ),
    ("exclude-uids", Target::Flag("exclude-uid"), values::users),
    (
        "opaque-ports",
        Target::Variable("REMORA_OPAQUE_PORTS"),
        values::ports,
    ),
    (
        "log-level",
        Target::Variable("REMORA_LOG"),
        values::log_filter,
    ),
    (
        "concurrency",
        Target::Variable("REMORA_CONCURRENCY"),
        values::concurrency,
    ),
    (
        "access-log",
        Target::Variable("REMORA_ACCESS_LOG"),
        values::access_log,
    ),
    (
        "drain-timeout",
        Target::Variable("REMORA_DRAIN_TIMEOUT"),
        values::drain_timeout,
    ),
    (CPU_REQUEST, Target::Quantity, quantity),
    (CPU_LIMIT, Target::Quantity, quantity),
    (MEMORY_REQUEST, Target::Quantity, values::memory),
    (MEMORY_LIMIT, Target::Quantity, values::memory),
];

/// What is wished, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// For `remora-proxy intercept`, as `--name=value`.
    pub flags: Vec<String>,
    /// For the sidecar, by name.
    pub variables: Vec<(&'static str, String)>,
    /// The sidecar's resources.
    pub resources: Resources,
}

/// Everything that is wrong with a pod's annotations.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Wrong(Vec<String>);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Wishes {
    /// Of a pod that has no wishes.
    pub fn none(defaults: &Resources) -> Self {
        Wishes {
            flags: Vec::new(),
            variables: Vec::new(),
            resources: defaults.clone(),
        }
    }

    /// Reads the annotations; what they do not say is as `defaults` says.
    ///
    /// # Errors
    /// With all that is wrong.
    pub fn of(pod: &Pod, defaults: &Resources) -> Result<Self, Wrong> {
        let empty = BTreeMap::new();
        let annotations = pod.metadata.annotations.as_ref().unwrap_or(&empty);
        let mut wrong: Vec<String> = unknown(annotations).collect();
        let mut wishes = Wishes::none(defaults);
        let mut quantities = BTreeMap::new();
        for (name, target, check) in KNOWN {
            let Some(value) = annotations.get(&format!("{PREFIX}{name}")) else {
                continue;
            };
            let value = value.trim();
            if let Err(why) = check(value) {
                wrong.push(format!("annotation {PREFIX}{name}: {why}"));
                continue;
            }
            match target {
                // Spaces are allowed in lists, but not by every reader of flags.
                Target::Flag(flag) => wishes
                    .flags
                    .push(format!("--{flag}={}", value.replace(' ', ""))),
                Target::Variable(variable) => {
                    wishes.variables.push((variable, value.replace(' ', "")));
                }
                Target::Quantity => {
                    quantities.insert(name, value.to_owned());
                }
            }
        }
        let resources = &mut wishes.resources;
        for (request, limit, names) in [
            (
                &mut resources.cpu_request,
                &mut resources.cpu_limit,
                [CPU_REQUEST, CPU_LIMIT],
            ),
            (
                &mut resources.memory_request,
                &mut resources.memory_limit,
                [MEMORY_REQUEST, MEMORY_LIMIT],
            ),
        ] {
            let wished = names.map(|name| quantities.remove(name));
            wrong.extend(fit(request, limit, names, wished));
        }
        if wrong.is_empty() {
            Ok(wishes)
        } else {
            Err(Wrong(wrong))
        }
    }
}

fn unknown(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    let ours = annotations.keys().filter(|key| key.starts_with(PREFIX));
    ours.filter(|key| {
        let name = key.strip_prefix(PREFIX);
        let known = KNOWN.iter().any(|(known, ..)| name == Some(known));
        !known && ![INJECT, INJECTED, MESH_PROTOCOLS, IDENTITY].contains(&key.as_str())
    })
    .map(|key| format!("annotation {key} is not known"))
}

/// Sets what is wished. The API server refuses a pod that requests more than
/// its limit, so a default gives way to a wish, and two wishes must fit.
fn fit(
    request: &mut Option<String>,
    limit: &mut Option<String>,
    names: [&str; 2],
    wished: [Option<String>; 2],
) -> Option<String> {
    let [wished_request, wished_limit] = wished;
    let both = wished_request.is_some() && wished_limit.is_some();
    let limit_wins = wished_limit.is_some();
    *request = wished_request.or(request.take());
    *limit = wished_limit.or(limit.take());
    let (Some(low), Some(high)) = (request.clone(), limit.clone()) else {
        return None;
    };
    // What cannot be compared was refused before, or is the operator's default.
    if values::quantity(&low).ok()? <= values::quantity(&high).ok()? {
        return None;
    }
    if both {
        let [request, limit] = names;
        return Some(format!(
            "annotation {PREFIX}{request}: `{low}` is more than {PREFIX}{limit}, `{high}`"
        ));
    }
    if limit_wins {
        *request = Some(high);
    } else {
        *limit = Some(low);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(annotations: serde_json::Value) -> Result<Wishes, String> {
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": []}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Wishes::of(&pod, &Resources::default()).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn wishes_become_flags_variables_and_resources() {
        let wishes = read(json!({
            "remora.io/inject": "enabled",
            "remora.io/exclude-inbound-ports": "22, 7000-7010",
            "remora.io/exclude-uids": "1000",
            "remora.io/log-level": "debug",
            "remora.io/cpu-limit": "2",
            "other.io/thing": "x",
        }))
        .unwrap();
        assert_eq!(
            wishes.flags,
            ["--exclude-inbound-ports=22,7000-7010", "--exclude-uid=1000"]
        );
        assert_eq!(wishes.variables, [("REMORA_LOG", "debug".to_owned())]);
        assert_eq!(wishes.resources.cpu_limit.as_deref(), Some("2"));
        assert_eq!(wishes.resources.cpu_request.as_deref(), Some("10m"));
    }

    #[test]
    fn all_that_is_wrong_is_told_together_by_name_and_value() {
        let error = read(json!({
            "remora.io/exclude-inbound-ports": "22,ssh",
            "remora.io/concurrency": "0",
            "remora.io/exclude-inbound-port": "22",
        }))
        .unwrap_err();
        for part in [
            "remora.io/exclude-inbound-ports: `ssh`",
            "remora.io/concurrency: `0`",
            "remora.io/exclude-inbound-port is not known",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn less_memory_than_a_sidecar_needs_is_refused() {
        for name in [MEMORY_REQUEST, MEMORY_LIMIT] {
            let error = read(json!({format!("remora.io/{name}"): "1Mi"})).unwrap_err();
            assert!(
                error.contains(name) && error.contains("`1Mi`") && error.contains("16Mi"),
                "{error}"
            );
            read(json!({format!("remora.io/{name}"): "16Mi"})).unwrap();
        }
    }

    #[test]
    fn a_request_never_exceeds_its_limit() {
        let resources = |annotations| read(annotations).map(|wishes| wishes.resources);
        let small = resources(json!({"remora.io/cpu-limit": "5m"})).unwrap();
        assert_eq!(small.cpu_request.as_deref(), Some("5m"));
        let large = resources(json!({"remora.io/memory-request": "1Gi"})).unwrap();
        assert_eq!(large.memory_limit.as_deref(), Some("1Gi"));
        let error = resources(json!({
            "remora.io/cpu-request": "2", "remora.io/cpu-limit": "500m",
        }))
        .unwrap_err();
        assert!(error.contains("`2`") && error.contains("`500m`"), "{error}");
    }
}
