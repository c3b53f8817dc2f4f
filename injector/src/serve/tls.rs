//! Which certificate is served: exchanged whole, under open connections.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::certificate::pem::{Certificate, provider};

/// The certificate that new connections are served with.
#[derive(Debug, Default)]
pub struct Served(ArcSwapOption<Certificate>);

impl Served {
    /// From now on.
    pub fn set(&self, certificate: Arc<Certificate>) {
        self.0.store(Some(certificate));
    }

    /// Whether it is this one.
    pub fn has(&self, certificate: &Certificate) -> bool {
        let now = self.0.load();
        let now = now.as_ref();
        now.is_some_and(|now| now.key.cert == certificate.key.cert)
    }

    /// When it ends, since the Unix epoch; `None` where there is none.
    pub fn ends(&self) -> Option<Duration> {
        self.0.load().as_ref().map(|now| now.life.ends)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // By whatever name it was dialled: a client that wanted another name
        // will say so better than we can.
        self.0.load().as_ref().map(|now| now.key.clone())
    }
}

/// What turns TCP into TLS.
///
/// # Errors
/// When the provider of cryptography lacks what TLS needs.
pub fn acceptor(served: Arc<Served>) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(served);
    // API servers keep connections, not sessions.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
