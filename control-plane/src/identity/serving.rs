//! The control plane's own certificate, by which sidecars know the streams'
//! port: issued by the CA, renewed at about half its life, and changed under
//! running connections. Its key is never anywhere but here.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rcgen::KeyPair;
use remora_proto::spiffe::SpiffeId;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::figures::Figures;
use super::issue::{IssueError, Leaf, Lifetime};
use super::keep::Trust;
use crate::{clock, random};

/// What is spoken on the port.
const HTTP2: &[u8] = b"h2";
/// How long until a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long at most until the time is looked at again: clocks are set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum ServingError {
    /// The CA gave none.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No key could be made or used.
    #[error("no key: {0}")]
    Key(String),
}

/// What the certificate is for.
#[derive(Clone, Debug)]
pub struct Names {
    /// Its id.
    pub id: SpiffeId,
    /// DNS names by which it is reached.
    pub names: Vec<String>,
    /// Addresses by which it is reached.
    pub addresses: Vec<IpAddr>,
}

/// The certificate of now.
#[derive(Debug, Default)]
pub struct Serving {
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

/// The streams' TLS: 1.3 alone, no certificate of the client (it has none yet),
/// nothing resumed (a stream lives for days).
///
/// # Errors
/// When the library does not have what is asked for.
pub fn config(serving: Arc<Serving>) -> Result<ServerConfig, rustls::Error> {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    let provider = CryptoProvider {
        kx_groups: vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
        ..aws_lc_rs::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Keeps the certificate, for as long as there is a CA.
pub async fn keep(
    serving: Arc<Serving>,
    names: Names,
    lifetime_seconds: u64,
    mut trust: watch::Receiver<Option<Arc<Trust>>>,
    figures: Arc<Figures>,
) -> Infallible {
    let mut due = 0;
    loop {
        let current = trust.borrow_and_update().clone();
        let now = clock::unix_seconds();
        let pause = match current {
            None => LOOK_AGAIN,
            Some(trust) if due <= now => {
                match issue(&serving, &trust, &names, lifetime_seconds, now) {
                    Ok(life) => {
                        due = renewal(life, now, random::next());
                        figures.serving_ends.store(life.ends, Ordering::Relaxed);
                        tracing::info!(id = %names.id, ends = life.ends, "the streams have a new certificate");
                        Duration::from_secs(due.saturating_sub(now))
                    }
                    Err(error) => {
                        tracing::error!(%error, "the streams' certificate cannot be renewed");
                        RETRY
                    }
                }
            }
            Some(_) => Duration::from_secs(due - now),
        };
        tokio::select! {
            changed = trust.changed() => if changed.is_err() {
                // Whoever tells is gone, and with it soon the process.
                std::future::pending::<()>().await;
            },
            () = tokio::time::sleep(pause.min(LOOK_AGAIN)) => {}
        }
    }
}

/// At half of what is left, a tenth of it sooner or later.
fn renewal(life: Lifetime, now: u64, chance: u64) -> u64 {
    let left = life.ends.saturating_sub(now) as f64;
    let share = 0.45 + 0.1 * random::unit(chance);
    now.saturating_add((left * share) as u64).max(now + 1)
}

fn issue(
    serving: &Serving,
    trust: &Trust,
    names: &Names,
    lifetime_seconds: u64,
    now: u64,
) -> Result<Lifetime, ServingError> {
    let no_key = |error: &dyn std::fmt::Display| ServingError::Key(error.to_string());
    let key = KeyPair::generate().map_err(|error| no_key(&error))?;
    let serial = random::serial().map_err(|error| no_key(&error))?;
    let leaf = Leaf {
        id: &names.id,
        names: &names.names,
        addresses: &names.addresses,
        lifetime_seconds,
    };
    let issued = trust.issuing.issue(&key, &leaf, serial, now)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| no_key(&error))?;
    let certified = Arc::new(CertifiedKey::new(issued.chain, key));
    let mut current = serving
        .current
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    *current = Some(certified);
    Ok(issued.life)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_renewed_at_about_half_of_what_is_left() {
        let life = Lifetime {
            begins: 0,
            ends: 1_000 + 86_400,
        };
        assert_eq!(renewal(life, 1_000, 0), 1_000 + 38_880);
        assert_eq!(renewal(life, 1_000, u64::MAX), 1_000 + 47_520);
        // Never at once again, however short.
        assert_eq!(renewal(life, life.ends, 0), life.ends + 1);
    }

    #[test]
    fn nothing_older_than_tls_1_3_is_spoken() {
        let config = config(Arc::default()).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2"]);
        assert_eq!(
            (config.send_tls13_tickets, config.max_early_data_size),
            (0, 0)
        );
        let groups = &config.crypto_provider().kx_groups;
        assert_eq!(groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }
}
