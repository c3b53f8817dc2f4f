//! What the cluster would give pods so that they can show who they are, and know
//! the control plane: a token each, and the roots of the mesh's CA.
//!
//! The files are of the stage's own folder, which nobody else may enter. Pods of
//! a playground are processes of one user: they are kept apart for show.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use remora_control_plane::identity::material::{CERTIFICATE, KEY, Material, ROOTS};
use remora_control_plane::identity::tokens::Caller;
use remora_control_plane::identity::tokens::key::TokenKey;
use remora_control_plane::random;
use remora_proto::well_known::{TRUST_DOMAIN, TRUST_KEY};

use super::clock;

/// Longer than a playground runs.
const TOKEN_SECONDS: u64 = 7 * 24 * 60 * 60;
/// Bytes of the key by which tokens are minted.
const KEY_BYTES: usize = 32;

/// The identities of one stage.
#[derive(Debug)]
pub struct Identities {
    folder: PathBuf,
    key: TokenKey,
}

/// The flags by which the control plane of a stage knows the same.
pub fn flags(stage: &Path, lifetime: Option<Duration>) -> Vec<String> {
    let mut flags = vec![
        format!("--ca-dir={}", ca(stage).display()),
        format!("--token-key={}", key(stage).display()),
        format!("--trust-domain={TRUST_DOMAIN}"),
    ];
    flags.extend(lifetime.map(|lifetime| format!("--identity-lifetime={}s", lifetime.as_secs())));
    flags
}

/// Puts another CA in the place of the one that there is, as an operator does
/// who replaces it whole: its former root is nowhere in it.
///
/// # Errors
/// A file that cannot be written.
pub fn replace_root(stage: &Path) -> anyhow::Result<()> {
    let now = clock::unix_ms() / 1000;
    let material = Material::generate(TRUST_DOMAIN, random::serial()?, now)?;
    for (name, text) in [
        (ROOTS, &material.roots),
        (KEY, &material.key),
        (CERTIFICATE, &material.certificate),
    ] {
        let path = ca(stage).join(name);
        let whole = path.with_extension("new");
        write_privately(&whole, text)?;
        fs::rename(&whole, &path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn folder(stage: &Path) -> PathBuf {
    stage.join("identity")
}

fn ca(stage: &Path) -> PathBuf {
    folder(stage).join("ca")
}

fn key(stage: &Path) -> PathBuf {
    folder(stage).join("token.key")
}

impl Identities {
    /// New ones.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn make(stage: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder(stage))?;
        let mut bytes = [0; KEY_BYTES];
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_privately(&key(stage), text.as_bytes())?;
        Ok(Self {
            folder: folder(stage),
            key: TokenKey::parse(&text).context("the key of tokens")?,
        })
    }

    /// Mints a pod's token; the variables by which its sidecar finds it and the
    /// roots.
    ///
    /// # Errors
    /// A pod that is nobody, a file that cannot be written.
    pub fn provide(&self, pod: &Pod) -> anyhow::Result<Vec<(&'static str, String)>> {
        let metadata = &pod.metadata;
        let account = pod.spec.as_ref().and_then(|spec| {
            let name = spec.service_account_name.as_deref();
            name.filter(|name| !name.is_empty())
        });
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let caller = Caller::new(
            metadata.namespace.as_deref().unwrap_or_default(),
            account.unwrap_or("default"),
            metadata.name.as_deref().unwrap_or_default(),
            uid,
        )
        .context("a pod's token")?;
        let token = self.folder.join(format!("{uid}.token"));
        let expires = clock::unix_ms() / 1000 + TOKEN_SECONDS;
        write_privately(&token, self.key.mint(&caller, expires).as_bytes())?;
        let roots = self.folder.join("ca").join(TRUST_KEY);
        Ok(vec![
            ("REMORA_TOKEN_FILE", token.display().to_string()),
            ("REMORA_TRUST_FILE", roots.display().to_string()),
        ])
    }
}

fn write_privately(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text));
    written.with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_pods_token_says_who_it_is_and_only_its_owner_may_read_it() {
        let stage = tempfile::tempdir().unwrap();
        let identities = Identities::make(stage.path()).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web-1", "uid": "u-1"},
            "spec": {"containers": [], "serviceAccountName": "web"},
        }))
        .unwrap();
        let provided = identities.provide(&pod).unwrap();
        assert_eq!(provided[0].0, "REMORA_TOKEN_FILE");
        let token = fs::read_to_string(&provided[0].1).unwrap();
        let known = TokenKey::of_file(&key(stage.path())).unwrap();
        let caller = known.read(&token, clock::unix_ms() / 1000).unwrap();
        assert_eq!(caller, Caller::new("shop", "web", "web-1", "u-1").unwrap());
        let mode = fs::metadata(&provided[0].1).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
        identities.provide(&Pod::default()).unwrap_err();
    }
}
