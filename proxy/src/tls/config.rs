//! What our handshakes are made of: TLS 1.3 alone, three cipher suites, three
//! groups; our certificate and the roots that are trusted, for both sides.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use remora_proto::spiffe::SpiffeId;
use remora_proto::well_known::mesh;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, Error, ServerConfig};

use super::certificate;
use super::verify::{Trust, Verifier};
use crate::clock;

/// Peers whose sessions a worker remembers; a further one takes a full handshake.
const SESSIONS: usize = 64;

/// Identities for which a worker keeps a configuration at hand; with one more
/// all of them are made anew as they are wanted.
const PEER_IDENTITIES: usize = 512;

/// What travels in a connection between sidecars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `remora-h2`
    H2,
    /// `remora-h1`
    H1,
    /// `remora-tcp`
    Tcp,
}

impl Alpn {
    /// All of them, in the order of [`mesh::ALL`].
    pub const ALL: [Self; 3] = [Self::H2, Self::H1, Self::Tcp];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H2 => mesh::H2,
            Self::H1 => mesh::H1,
            Self::Tcp => mesh::TCP,
        }
    }

    /// The one that is called so.
    pub fn named(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|alpn| alpn.name().as_bytes() == name)
    }
}

/// The cryptography: of aws-lc, what TLS 1.3 needs and no more.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let make = || {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
            ],
            ..aws_lc_rs::default_provider()
        })
    };
    Arc::clone(PROVIDER.get_or_init(make))
}

/// rustls asks the clock of this crate.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let age = std::time::Duration::from_secs(clock::system_seconds());
        Some(UnixTime::since_unix_epoch(age))
    }
}

/// Our own certificate, with its key.
#[derive(Debug)]
pub struct Own {
    /// Whose it is.
    pub id: SpiffeId,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    certified: Arc<CertifiedKey>,
}

/// A certificate of our own that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// There is none.
    #[error("the chain is empty")]
    Empty,
    /// It is not for this key, or no certificate.
    #[error("it does not fit its key: {0}")]
    Key(#[from] Error),
    /// It says too little, or too much.
    #[error("it is not an X.509-SVID of a pod ({0})")]
    NotAnIdentity(super::HandshakeResult),
}

impl Own {
    /// A chain, our own certificate first, and its key.
    ///
    /// # Errors
    /// See [`OwnError`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, OwnError> {
        let leaf = chain.first().ok_or(OwnError::Empty)?;
        let unreadable = OwnError::NotAnIdentity(super::HandshakeResult::Other);
        let read = certificate::read(leaf).ok_or(unreadable)?;
        let id = read.identity().map_err(OwnError::NotAnIdentity)?;
        let (not_before, not_after) = (read.not_before, read.not_after);
        let certified = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Self {
            id,
            not_before,
            not_after,
            certified: Arc::new(certified),
        })
    }

    #[cfg(test)]
    pub(super) fn unchecked(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        id: SpiffeId,
    ) -> Self {
        let key = provider().key_provider.load_private_key(key).unwrap();
        Self {
            id,
            not_before: 0,
            not_after: u64::MAX,
            certified: Arc::new(CertifiedKey::new(chain, key)),
        }
    }

    /// The chain as it is shown to peers.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

/// All that mutual TLS needs: made whole whenever our certificate or the roots
/// change, and with it sessions of before can no longer be resumed.
#[derive(Debug)]
pub struct Mutual {
    /// Who we are.
    pub own: Arc<Own>,
    /// Whom we believe.
    pub trust: Arc<Trust>,
    server: Arc<ServerConfig>,
}

impl Mutual {
    /// With this certificate, believing these roots.
    ///
    /// # Errors
    /// There is no randomness for the keys of tickets.
    pub fn new(own: Arc<Own>, trust: Arc<Trust>) -> Result<Arc<Self>, Error> {
        let verifier = Verifier::new(Arc::clone(&trust), None, &provider());
        let resolver = SingleCertAndKey::from(Arc::clone(&own.certified));
        let mut server = ServerConfig::builder_with_details(provider(), Arc::new(Clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(resolver));
        server.alpn_protocols = Alpn::ALL.map(|alpn| alpn.name().into()).to_vec();
        // One for each connection that may follow this one, and it tells the
        // client that we have taken its certificate.
        server.send_tls13_tickets = 1;
        server.ticketer = Arc::new(Tickets {
            made: aws_lc_rs::Ticketer::new()?,
            not_after: own.not_after,
        });
        Ok(Arc::new(Self {
            own,
            trust,
            server: Arc::new(server),
        }))
    }

    /// For callers.
    pub fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    fn clients(&self, expected: &SpiffeId, sessions: &Resumption) -> Result<Clients, Error> {
        let expected = Some(expected.clone());
        let verifier = Verifier::new(Arc::clone(&self.trust), expected, &provider());
        let resolver = SingleCertAndKey::from(Arc::clone(&self.own.certified));
        let mut client = ClientConfig::builder_with_details(provider(), Arc::new(Clock))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous() // because its verifier is our own; see `verify`
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(resolver));
        client.enable_sni = false;
        client.resumption = sessions.clone();
        Ok(Alpn::ALL.map(|alpn| {
            let mut client = client.clone();
            client.alpn_protocols = vec![alpn.name().into()];
            Arc::new(client)
        }))
    }
}

/// For the stream: the server is known by `expected`, and we show no certificate.
///
/// # Errors
/// Never with our own provider.
pub fn towards_control_plane(
    trust: Arc<Trust>,
    expected: SpiffeId,
) -> Result<Arc<ClientConfig>, Error> {
    let verifier = Verifier::new(trust, Some(expected), &provider());
    let mut client = ClientConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // as above
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(client))
}

/// For one identity, by what travels.
type Clients = [Arc<ClientConfig>; Alpn::ALL.len()];

/// A worker's configurations for its connections upstream, and the sessions
/// that may be resumed: both only as long as our certificate and the roots stay.
#[derive(Debug, Default)]
pub struct ClientConfigs(RefCell<Held>);

#[derive(Debug)]
struct Held {
    of: Option<Arc<Mutual>>,
    sessions: Resumption,
    clients: HashMap<SpiffeId, Clients>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            of: None,
            sessions: Resumption::disabled(),
            clients: HashMap::new(),
        }
    }
}

impl ClientConfigs {
    /// To whoever is `expected`, for `alpn`.
    ///
    /// # Errors
    /// Never with our own provider.
    pub fn of(
        &self,
        mutual: &Arc<Mutual>,
        expected: &SpiffeId,
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, Error> {
        let held = &mut *self.0.borrow_mut();
        let is_same = held.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, mutual));
        if !is_same {
            *held = Held {
                of: Some(Arc::clone(mutual)),
                sessions: Resumption::store(Arc::new(ClientSessionMemoryCache::new(SESSIONS))),
                clients: HashMap::new(),
            };
        }
        if let Some(clients) = held.clients.get(expected) {
            return Ok(Arc::clone(&clients[alpn as usize]));
        }
        if held.clients.len() >= PEER_IDENTITIES {
            held.clients.clear();
        }
        let clients = mutual.clients(expected, &held.sessions)?;
        let client = Arc::clone(&clients[alpn as usize]);
        held.clients.insert(expected.clone(), clients);
        Ok(client)
    }
}

/// Tickets that are of no use once our certificate has ended. (The client's
/// certificate is looked at when it comes back with one.)
#[derive(Debug)]
struct Tickets {
    made: Arc<dyn ProducesTickets>,
    not_after: u64,
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        let left = self.not_after.saturating_sub(clock::system_seconds());
        self.made
            .lifetime()
            .min(left.try_into().unwrap_or(u32::MAX))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.made.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        (clock::system_seconds() <= self.not_after)
            .then(|| self.made.decrypt(cipher))
            .flatten()
    }
}
