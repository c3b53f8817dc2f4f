//! The Secret in which all replicas keep one certificate. Whoever comes first
//! makes or renews it; the API server lets only one of two writes through, and
//! the other replica takes what it finds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use remora_proto::well_known::INJECTOR;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::Offered;
use super::plan::{self, Kept, Step};
use crate::clock;
use crate::trouble::Trouble;
use crate::watching;

/// Its name.
pub const NAME: &str = "remora-injector-certificate";
/// At least so often it is looked at again: the machine's clock may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(60 * 60);
/// How soon after a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long a write may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
const RULE: &str = "may this service account create Secrets, and list, watch and update \
    the Secret remora-injector-certificate (Role remora-injector)?";

/// Keeps the Secret.
pub struct Keeper {
    api: Api<Secret>,
    names: Vec<String>,
    offered: watch::Sender<Option<Offered>>,
    /// Whom API servers trust because of what was kept before.
    trusted: Vec<CertificateDer<'static>>,
    writing: Trouble,
}

impl Keeper {
    /// For a certificate of these names, in this namespace.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        names: Vec<String>,
    ) -> (Self, watch::Receiver<Option<Offered>>) {
        let (offered, receiver) = watch::channel(None);
        let keeper = Keeper {
            api: Api::namespaced(client, namespace),
            names,
            offered,
            trusted: Vec::new(),
            writing: Trouble::new("write the Secret remora-injector-certificate"),
        };
        (keeper, receiver)
    }

    /// Never ends.
    ///
    /// # Errors
    /// When no certificate can be made at all.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut watching = Trouble::new("watch the Secret remora-injector-certificate");
        let events = watch_object(self.api.clone(), NAME).backoff(watching::pauses());
        let mut events = std::pin::pin!(events);
        // `None`: nobody has told yet whether there is one.
        let mut seen: Option<Option<Secret>> = None;
        loop {
            let pause = match &seen {
                Some(secret) => match self.step(secret.as_ref()).await? {
                    Next::Look(pause) => pause,
                    Next::Written(written) => {
                        seen = Some(Some(*written));
                        continue;
                    }
                },
                None => LOOK_AGAIN,
            };
            tokio::select! {
                event = events.try_next() => match event {
                    Ok(Some(secret)) => {
                        watching.is_over();
                        seen = Some(secret);
                    }
                    Ok(None) => anyhow::bail!("the watch of the certificate ended"),
                    Err(error) => {
                        let check = watching::check(&error, RULE);
                        watching.is_there(clock::now(), &error, check);
                    }
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn step(&mut self, secret: Option<&Secret>) -> anyhow::Result<Next> {
        let now = clock::since_epoch();
        let kept = secret.map(kept);
        if let Some(kept) = &kept {
            self.offer(kept, now);
        }
        match plan::step(kept.as_ref(), &self.trusted, &self.names, now)? {
            Step::Keep(until) => {
                self.writing.is_over();
                let pause = until.saturating_sub(now).clamp(RETRY, LOOK_AGAIN);
                Ok(Next::Look(pause))
            }
            Step::Write { kept, why } => Ok(self.write(secret, kept, &why).await),
        }
    }

    /// Offers what is good, even where it should be renewed.
    fn offer(&mut self, kept: &Kept, now: Duration) {
        let Ok(certificate) = kept.served(&self.names, now) else {
            return;
        };
        self.trusted = kept.authorities();
        let offered = Offered {
            certificate: Arc::new(certificate),
            bundle: Arc::new(kept.bundle.clone()),
        };
        self.offered.send_if_modified(|before| {
            let same = before.as_ref().is_some_and(|before| {
                before.bundle == offered.bundle
                    && before.certificate.key.cert == offered.certificate.key.cert
            });
            if !same {
                *before = Some(offered);
            }
            !same
        });
    }

    async fn write(&mut self, before: Option<&Secret>, kept: Kept, why: &str) -> Next {
        let params = PostParams {
            field_manager: Some(INJECTOR.to_owned()),
            ..PostParams::default()
        };
        let secret = with(before.cloned().unwrap_or_else(empty), kept);
        // The resourceVersion of what was seen goes along: of two replicas
        // that write, one is told of a conflict.
        let write = async {
            match before {
                Some(_) => self.api.replace(NAME, &params, &secret).await,
                None => self.api.create(&params, &secret).await,
            }
        };
        match tokio::time::timeout(WRITE_TIMEOUT, write).await {
            Ok(Ok(written)) => {
                tracing::info!(why, "made a new certificate");
                self.writing.is_over();
                return Next::Written(Box::new(written));
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                tracing::info!("another replica was first with the certificate");
            }
            Ok(Err(error)) => {
                let check = watching::check(&error, RULE);
                self.writing.is_there(clock::now(), &error, check);
            }
            Err(late) => {
                let check = "does the API server answer?";
                self.writing.is_there(clock::now(), &late, check);
            }
        }
        Next::Look(RETRY)
    }
}

enum Next {
    /// Wait for news, at most so long.
    Look(Duration),
    /// This is the Secret now.
    Written(Box<Secret>),
}

fn empty() -> Secret {
    let labels = [
        ("app.kubernetes.io/name", INJECTOR),
        ("app.kubernetes.io/part-of", "remora"),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(
                labels
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        ..Secret::default()
    }
}

fn kept(secret: &Secret) -> Kept {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let bytes = |key: &str| {
        data.get(key)
            .map(|bytes| bytes.0.clone())
            .unwrap_or_default()
    };
    Kept {
        certificate: bytes("tls.crt"),
        key: bytes("tls.key"),
        bundle: bytes("ca.crt"),
        authority_key: bytes("ca.key"),
    }
}

fn with(mut secret: Secret, kept: Kept) -> Secret {
    let data = secret.data.get_or_insert_default();
    for (key, bytes) in [
        ("tls.crt", kept.certificate),
        ("tls.key", kept.key),
        ("ca.crt", kept.bundle),
        ("ca.key", kept.authority_key),
    ] {
        data.insert(key.to_owned(), ByteString(bytes));
    }
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_others_added_stays() {
        let mut secret = empty();
        let data = secret.data.get_or_insert_default();
        data.insert("note".to_owned(), ByteString(b"x".to_vec()));
        let was = Kept {
            certificate: b"a".to_vec(),
            key: b"b".to_vec(),
            bundle: b"c".to_vec(),
            authority_key: b"d".to_vec(),
        };
        let secret = with(secret, was.clone());
        assert_eq!(kept(&secret), was);
        assert_eq!(secret.data.unwrap().len(), 5);
        assert_eq!(kept(&empty()), Kept::default());
    }
}
