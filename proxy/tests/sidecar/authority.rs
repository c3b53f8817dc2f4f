//! The CA of a test's mesh: issues what it is asked for, turns its root over,
//! and goes away, as the test says.
//!
//! A token is the name of the service account, in `shop`.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use remora_proto::v1::certificates_server::{Certificates, CertificatesServer};
use remora_proto::v1::{CertificateRequest, CertificateResponse, TrustBundle};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// The trust domain of tests.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// The id of a service account in `shop`.
pub fn id(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/shop/sa/{account}")
}

/// A root that issues.
struct Root(CertifiedIssuer<'static, KeyPair>);

impl Root {
    fn new(number: usize) -> Self {
        let mut params = CertificateParams::default();
        let name = format!("root {number}");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }
}

struct Inner {
    /// All that are believed; the last issues, unless it is held back.
    roots: Vec<Root>,
    holds_back_newest: bool,
    made: usize,
    lifetime_seconds: i64,
    away: bool,
    issued: usize,
}

/// See the module's page.
#[derive(Clone)]
pub struct Authority(Arc<Mutex<Inner>>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn params(uri: &str, lifetime_seconds: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).unwrap())];
    params.not_before = now - Duration::seconds(60);
    params.not_after = now + Duration::seconds(lifetime_seconds);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

impl Authority {
    /// With one root; certificates live for an hour.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            roots: vec![Root::new(0)],
            holds_back_newest: false,
            made: 1,
            lifetime_seconds: 3_600,
            away: false,
            issued: 0,
        })))
    }

    /// How long certificates live from now on.
    pub fn lifetime_seconds(&self, seconds: i64) {
        self.0.lock().unwrap().lifetime_seconds = seconds;
    }

    /// Issues nothing as long as it is away.
    pub fn away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }

    /// How many certificates it has issued.
    pub fn issued(&self) -> usize {
        self.0.lock().unwrap().issued
    }

    /// A new root is believed, and does not issue yet.
    pub fn announce_root(&self) {
        let inner = &mut *self.0.lock().unwrap();
        inner.roots.push(Root::new(inner.made));
        inner.made += 1;
        inner.holds_back_newest = true;
    }

    /// The newest root issues.
    pub fn use_newest_root(&self) {
        self.0.lock().unwrap().holds_back_newest = false;
    }

    /// Only the newest root is believed any more.
    pub fn drop_old_roots(&self) {
        let inner = &mut *self.0.lock().unwrap();
        let newest = inner.roots.len() - 1;
        inner.roots.drain(..newest);
    }

    /// Whom to believe.
    pub fn bundle(&self) -> TrustBundle {
        let inner = self.0.lock().unwrap();
        TrustBundle {
            trust_domain: TRUST_DOMAIN.into(),
            roots: inner
                .roots
                .iter()
                .map(|root| root.der().to_vec().into())
                .collect(),
        }
    }

    /// The same as a file.
    pub fn roots_pem(&self) -> String {
        let inner = self.0.lock().unwrap();
        inner.roots.iter().map(|root| root.0.pem()).collect()
    }

    /// The service account whose token came with a call.
    pub fn account<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let said = request.metadata().get("authorization");
        let token = said.and_then(|said| said.to_str().ok()?.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| Status::unauthenticated("no token"))?;
        Ok(token.to_owned())
    }

    /// What a sidecar of this account would use.
    pub fn mutual(&self, account: &str) -> Arc<remora_proxy::tls::Mutual> {
        use remora_proxy::tls::{Mutual, Own, Trust};
        let made = remora_proxy::identity::request::KeyAndRequest::new().unwrap();
        let answer = self.issue(account, &made.request).unwrap();
        let der = |list: &[prost::bytes::Bytes]| -> Vec<CertificateDer<'static>> {
            let list = list.iter();
            list.map(|der| CertificateDer::from(der.to_vec())).collect()
        };
        let own = Own::new(der(&answer.chain), made.key).unwrap();
        let trust = Trust::new(TRUST_DOMAIN, der(&self.bundle().roots)).unwrap();
        Mutual::new(Arc::new(own), Arc::new(trust)).unwrap()
    }

    fn issue(&self, account: &str, request: &[u8]) -> Result<CertificateResponse, Status> {
        let trust_bundle = Some(self.bundle());
        let inner = &mut *self.0.lock().unwrap();
        if inner.away {
            return Err(Status::unavailable("the CA is away"));
        }
        let der = CertificateSigningRequestDer::from(request.to_vec());
        let mut asked = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        asked.params = params(&id(account), inner.lifetime_seconds);
        let place = inner.roots.len() - 1 - usize::from(inner.holds_back_newest);
        let certificate = asked.signed_by(&inner.roots[place].0).unwrap();
        inner.issued += 1;
        Ok(CertificateResponse {
            chain: vec![certificate.der().to_vec().into()],
            trust_bundle,
        })
    }

    fn server_config(&self) -> ServerConfig {
        let inner = self.0.lock().unwrap();
        let key = KeyPair::generate().unwrap();
        let uri = format!("spiffe://{TRUST_DOMAIN}/ns/remora-system/sa/remora-control-plane");
        let certificate = params(&uri, 3_600)
            .signed_by(&key, &inner.roots[0].0)
            .unwrap();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = remora_proxy::tls::config::provider();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// The control plane's connections under TLS.
    pub fn encrypted(&self, listener: TcpListener) -> ReceiverStream<std::io::Result<Encrypted>> {
        let acceptor = TlsAcceptor::from(Arc::new(self.server_config()));
        let (taken, incoming) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, taken) = (acceptor.clone(), taken.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(socket).await {
                        let _ = taken.send(Ok(Encrypted(stream))).await;
                    }
                });
            }
        });
        ReceiverStream::new(incoming)
    }
}

/// A connection of the control plane.
pub struct Encrypted(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Encrypted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The service that issues.
pub struct Issuing(Authority);

impl Issuing {
    /// Of this authority.
    pub fn service(authority: Authority) -> CertificatesServer<Self> {
        CertificatesServer::new(Self(authority))
    }
}

#[tonic::async_trait]
impl Certificates for Issuing {
    async fn create_certificate(
        &self,
        request: Request<CertificateRequest>,
    ) -> Result<Response<CertificateResponse>, Status> {
        let account = self.0.account(&request)?;
        let request = request.into_inner();
        self.0
            .issue(&account, &request.signing_request)
            .map(Response::new)
    }
}
