//! A sidecar's side of the streams' TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

pub fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub fn signing_request(names: &[&str]) -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

pub fn config(
    roots: Vec<CertificateDer<'static>>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(roots);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub async fn handshake(
    to: SocketAddr,
    from: &str,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    let from: IpAddr = from.parse().unwrap();
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

pub async fn channel(to: SocketAddr, from: &str, roots: Vec<CertificateDer<'static>>) -> Channel {
    let from = from.to_owned();
    let connect = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let config = config(roots.clone(), &[&rustls::version::TLS13]);
        let from = from.clone();
        async move { handshake(to, &from, config).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("https://localhost");
    endpoint.connect_with_connector(connect).await.unwrap()
}
