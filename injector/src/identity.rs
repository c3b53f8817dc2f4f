//! What a sidecar needs to show who it is: the pod's token for the control
//! plane, the roots by which it knows that one, and the word that it has them.

use k8s_openapi::api::core::v1::{Pod, Volume};
use remora_proto::well_known::{
    IDENTITY, MESH_PROTOCOLS, TOKEN_AUDIENCE, TRUST_CONFIG_MAP, TRUST_KEY, mesh,
};
use serde_json::{Value, json};

use crate::containers;
use crate::operations::{Operations, at};
use crate::settings::Settings;

/// The volume of the token, and where the sidecar reads it: `token` in there.
const TOKEN_VOLUME: &str = "remora-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/remora.io";
const TOKEN_FILE: &str = "token";
/// How long a token is valid; the kubelet renews it after four fifths.
const TOKEN_SECONDS: u32 = 3_600;
/// The volume of the roots, and where the sidecar reads them: `ca.crt` in there.
const TRUST_VOLUME: &str = "remora-trust";
const TRUST_FOLDER: &str = "/var/run/configmaps/remora.io";

/// What is said of a pod that gets its sidecar now.
pub fn annotations(settings: &Settings) -> Vec<(&'static str, String)> {
    match &settings.trust_domain {
        // Bytes too travel encrypted.
        Some(trust_domain) => vec![
            (MESH_PROTOCOLS, mesh::ALL.join(",")),
            (IDENTITY, trust_domain.clone()),
        ],
        None => vec![(MESH_PROTOCOLS, mesh::PLAINTEXT.to_owned())],
    }
}

/// Takes away what a pod says of itself though its sidecar has no identity.
pub fn unsay(pod: &Pod, settings: &Settings, operations: &mut Operations) {
    let said = pod.metadata.annotations.as_ref();
    if settings.trust_domain.is_none() && said.is_some_and(|said| said.contains_key(IDENTITY)) {
        operations.remove(at(["metadata", "annotations", IDENTITY]));
    }
}

/// The sidecar's variables.
pub fn variables(settings: &Settings) -> impl Iterator<Item = (&'static str, String)> {
    let trust_domain = settings.trust_domain.iter();
    trust_domain.map(|name| ("REMORA_TRUST_DOMAIN", name.clone()))
}

/// The sidecar's mounts.
pub fn mounts(settings: &Settings) -> Vec<Value> {
    if settings.trust_domain.is_none() {
        return Vec::new();
    }
    [(TOKEN_VOLUME, TOKEN_FOLDER), (TRUST_VOLUME, TRUST_FOLDER)]
        .map(|(name, path)| json!({"name": name, "mountPath": path, "readOnly": true}))
        .into()
}

/// Why the pod's own volumes stand in the way, if they do: one that has the
/// name of ours would be mounted in its place.
pub fn conflict(pod: &Pod, settings: &Settings) -> Option<String> {
    if settings.trust_domain.is_none() || containers::sidecar_of(pod).is_some() {
        return None;
    }
    let ours = |name: &str| [TOKEN_VOLUME, TRUST_VOLUME].contains(&name);
    let other = volumes(pod)
        .iter()
        .find(|volume| ours(&volume.name) && !is_ours(volume))?;
    Some(format!(
        "its volume {:?} has a name that is the sidecar's",
        other.name
    ))
}

/// Whether a volume is as it is made here (the API server adds defaults).
fn is_ours(volume: &Volume) -> bool {
    let token = || {
        let sources = volume.projected.as_ref()?.sources.as_ref()?;
        let [source] = &sources[..] else { return None };
        source.service_account_token.as_ref()?.audience.as_deref()
    };
    let roots = || Some(&*volume.config_map.as_ref()?.name);
    match volume.name.as_str() {
        TOKEN_VOLUME => token() == Some(TOKEN_AUDIENCE),
        _ => roots() == Some(TRUST_CONFIG_MAP),
    }
}

/// Gives the pod the volumes that its sidecar mounts; those that are there stay.
pub fn place(pod: &Pod, settings: &Settings, operations: &mut Operations) {
    if settings.trust_domain.is_none() || !mounts_them(pod) {
        return;
    }
    let there = |name: &str| volumes(pod).iter().any(|volume| volume.name == name);
    let token = json!({
        "name": TOKEN_VOLUME,
        "projected": {"sources": [{"serviceAccountToken": {
            "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_FILE,
        }}]},
    });
    // Not optional: without it the sidecar could not know whom to tell its token.
    let roots = json!({
        "name": TRUST_VOLUME,
        "configMap": {
            "name": TRUST_CONFIG_MAP,
            "items": [{"key": TRUST_KEY, "path": TRUST_KEY}],
        },
    });
    let lacking: Vec<Value> = [(TOKEN_VOLUME, token), (TRUST_VOLUME, roots)]
        .into_iter()
        .filter(|(name, _)| !there(name))
        .map(|(_, volume)| volume)
        .collect();
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|spec| spec.volumes.is_some()) {
        for volume in lacking {
            operations.add(at(["spec", "volumes", "-"]), volume);
        }
    } else if !lacking.is_empty() {
        operations.add(at(["spec", "volumes"]), lacking.into());
    }
}

/// Whether the sidecar mounts them: one that is put there now does; one that
/// another injector put there may not.
fn mounts_them(pod: &Pod) -> bool {
    let Some(sidecar) = containers::sidecar_of(pod) else {
        return true;
    };
    let mounts = sidecar.volume_mounts.iter().flatten();
    mounts.into_iter().any(|mount| mount.name == TOKEN_VOLUME)
}

fn volumes(pod: &Pod) -> &[Volume] {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_of_the_pods_own_with_our_name_is_seen() {
        let settings = Settings {
            trust_domain: Some("cluster.local".to_owned()),
            ..Settings::default()
        };
        let with = |volume: Value| -> Pod {
            let pod = json!({"spec": {"containers": [], "volumes": [volume]}});
            serde_json::from_value(pod).unwrap()
        };
        for (volume, wanted) in [
            (json!({"name": "data", "emptyDir": {}}), false),
            (json!({"name": "remora-trust", "emptyDir": {}}), true),
            (
                json!({"name": "remora-trust", "configMap": {"name": "mine"}}),
                true,
            ),
            (
                json!({"name": "remora-trust", "configMap": {"name": "remora-trust", "defaultMode": 420}}),
                false,
            ),
            (
                json!({"name": "remora-token", "secret": {"secretName": "x"}}),
                true,
            ),
            (
                json!({"name": "remora-token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
                true,
            ),
            (
                json!({"name": "remora-token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "audience": "remora.io"}}]}}),
                false,
            ),
        ] {
            let pod = with(volume.clone());
            assert_eq!(conflict(&pod, &settings).is_some(), wanted, "{volume}");
            assert_eq!(conflict(&pod, &Settings::default()), None);
        }
    }
}
