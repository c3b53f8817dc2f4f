//! The CA in a Secret, as cert-manager writes them too, and the record of roots
//! in the ConfigMap `remora-trust` beside it. Both are watched.
//!
//! The API server must allow, in our own namespace: `create` of `secrets`,
//! `list` and `watch` of the one; `list`, `watch`, `create` and `patch` of the
//! ConfigMap by its name. A CA that is there is never written to.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use remora_proto::well_known::{CONTROL_PLANE, TRUST_CONFIG_MAP, TRUST_KEY};

use super::keep::{Place, PlaceError, Seen, Written};
use super::material::{CERTIFICATE, KEY, Material, ROOTS};
use crate::answer::{self, RequestError};

/// The Secret of a CA of our own making.
pub const SECRET: &str = "remora-ca";

type Watch<K> = BoxStream<'static, watcher::Result<Option<K>>>;

/// The Secret and the ConfigMap.
pub struct SecretPlace {
    namespace: String,
    secret_name: String,
    secrets: Api<Secret>,
    records: Api<ConfigMap>,
    secret_watch: Watch<Secret>,
    record_watch: Watch<ConfigMap>,
    /// `None`: not heard of yet.
    secret: Option<Option<Secret>>,
    record: Option<Option<ConfigMap>>,
}

impl SecretPlace {
    /// The Secret of this name; one of another name than [`SECRET`] is brought,
    /// and waited for.
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let records: Api<ConfigMap> = Api::namespaced(client, namespace);
        let secret_watch = watcher::watch_object(secrets.clone(), name).default_backoff();
        let record_watch = watcher::watch_object(records.clone(), TRUST_CONFIG_MAP);
        Self {
            namespace: namespace.to_owned(),
            secret_name: name.to_owned(),
            secrets,
            records,
            secret_watch: secret_watch.boxed(),
            record_watch: record_watch.default_backoff().boxed(),
            secret: None,
            record: None,
        }
    }

    fn seen(&self) -> Seen {
        let Some((secret, record)) = self.secret.as_ref().zip(self.record.as_ref()) else {
            return Seen::default();
        };
        let record = record.as_ref().and_then(|record| record.data.as_ref());
        let record = record.and_then(|data| data.get(TRUST_KEY));
        Seen {
            ca: written(secret.as_ref()),
            record: record.cloned().unwrap_or_default(),
        }
    }

    /// Waits for the next news of either.
    async fn next(&mut self) -> Result<(), PlaceError> {
        let failed = |what: &str, error: watcher::Error| {
            PlaceError::Failed(format!(
                "{what} cannot be watched: {error} (compare the Role with manifests/install)"
            ))
        };
        tokio::select! {
            secret = self.secret_watch.next() => match secret {
                Some(Ok(secret)) => self.secret = Some(secret),
                Some(Err(error)) => return Err(failed("the Secret", error)),
                None => return Err(PlaceError::Failed("its watch ended".to_owned())),
            },
            record = self.record_watch.next() => match record {
                Some(Ok(record)) => self.record = Some(record),
                Some(Err(error)) => return Err(failed("the ConfigMap remora-trust", error)),
                None => return Err(PlaceError::Failed("its watch ended".to_owned())),
            },
        }
        Ok(())
    }
}

fn written(secret: Option<&Secret>) -> Written {
    let Some(secret) = secret else {
        return Written::Missing;
    };
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let text = |key: &str| match data.get(key) {
        Some(ByteString(bytes)) if !bytes.is_empty() => Ok(bytes.clone()),
        _ => Err(format!(
            "it lacks {key} (tls.crt, tls.key and ca.crt are wanted, in PEM)"
        )),
    };
    let material = || {
        Ok(Material {
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            roots: text(ROOTS)?,
        })
    };
    material().map_or_else(Written::Broken, Written::Material)
}

fn metadata(name: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/name", CONTROL_PLANE),
        ("app.kubernetes.io/part-of", "remora"),
    ];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels.into()),
        ..ObjectMeta::default()
    }
}

fn parameters() -> PostParams {
    PostParams {
        field_manager: Some(CONTROL_PLANE.to_owned()),
        ..PostParams::default()
    }
}

impl From<RequestError> for PlaceError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Conflict => Self::Conflict,
            error => Self::Failed(error.to_string()),
        }
    }
}

#[tonic::async_trait]
impl Place for SecretPlace {
    async fn look(&mut self, patience: Duration) -> Result<Seen, PlaceError> {
        match tokio::time::timeout(patience, self.next()).await {
            Ok(heard) => heard.map(|()| self.seen()),
            Err(_) => Ok(self.seen()),
        }
    }

    async fn create(&mut self, material: &Material) -> Result<(), PlaceError> {
        let data = [
            (CERTIFICATE, &material.certificate),
            (KEY, &material.key),
            (ROOTS, &material.roots),
        ];
        let data = data.map(|(key, bytes)| (key.to_owned(), ByteString(bytes.clone())));
        let secret = Secret {
            metadata: metadata(&self.secret_name),
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data.into()),
            ..Secret::default()
        };
        let made = answer::of(self.secrets.create(&parameters(), &secret)).await;
        // Ours or the winner's: the watch tells which.
        Ok(made.map(drop)?)
    }

    async fn write_record(&mut self, text: &str) -> Result<(), PlaceError> {
        let mut metadata = metadata(TRUST_CONFIG_MAP);
        // The version that was seen goes along: of two that write, one is told.
        let seen = self.record.as_ref().and_then(Option::as_ref);
        metadata.resource_version = seen.and_then(|seen| seen.metadata.resource_version.clone());
        let record = ConfigMap {
            metadata,
            data: Some([(TRUST_KEY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        };
        // Applied, because what is made so can be held to its name by RBAC.
        let params = PatchParams::apply(CONTROL_PLANE).force();
        let record = Patch::Apply(&record);
        let written = answer::of(self.records.patch(TRUST_CONFIG_MAP, &params, &record)).await;
        self.record = Some(Some(written?));
        Ok(())
    }

    fn generates(&self) -> bool {
        self.secret_name == SECRET
    }

    fn name(&self) -> String {
        format!("the Secret {}/{}", self.namespace, self.secret_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_ca_when_all_three_are_there() {
        assert!(matches!(written(None), Written::Missing));
        let mut secret = Secret::default();
        for key in [CERTIFICATE, KEY, ROOTS] {
            let broken = written(Some(&secret));
            assert!(
                matches!(&broken, Written::Broken(why) if why.contains(key)),
                "{broken:?}"
            );
            let data = secret.data.get_or_insert_default();
            data.insert(key.to_owned(), ByteString(key.into()));
        }
        let Written::Material(material) = written(Some(&secret)) else {
            panic!("it is whole");
        };
        assert_eq!(material.key, b"tls.key");
        assert_eq!(material.roots, b"ca.crt");
    }
}
