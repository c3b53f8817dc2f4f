//! The harness's own client of mutual TLS: X25519 alone, TLS 1.3 with AES-128,
//! no resumption. It takes any certificate for the server's, because what that
//! costs is on the load's core and says nothing of the system.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::Context;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, NamedGroup,
    SignatureScheme,
};

use crate::identity::{Identities, NAME};

/// What clients are made of.
#[derive(Clone, Debug)]
pub struct Client(Arc<ClientConfig>);

/// A connection on which TLS has been agreed.
#[derive(Debug)]
pub struct Session {
    socket: TcpStream,
    tls: ClientConnection,
}

#[derive(Debug)]
struct TakesAny;

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl Client {
    /// For a protocol by ALPN.
    ///
    /// # Errors
    /// When the certificate does not fit its key.
    pub fn new(identities: &Identities, alpn: &str) -> anyhow::Result<Self> {
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let (certificate, key) = identities.client()?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous() // see the module's page
            .with_custom_certificate_verifier(Arc::new(TakesAny))
            .with_client_auth_cert(vec![certificate], key)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![alpn.into()];
        Ok(Self(Arc::new(config)))
    }

    /// The client's part of a full handshake. (The server may yet refuse our
    /// certificate: the first read tells.)
    ///
    /// # Errors
    /// When it fails.
    pub fn shake_hands(&self, mut socket: TcpStream) -> anyhow::Result<Session> {
        let name = ServerName::try_from(NAME)?;
        let mut tls = ClientConnection::new(Arc::clone(&self.0), name)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        anyhow::ensure!(
            tls.handshake_kind() == Some(HandshakeKind::Full),
            "the handshake was not a full one"
        );
        let group = tls.negotiated_key_exchange_group();
        let group = group.context("no group was agreed on")?.name();
        anyhow::ensure!(
            group == NamedGroup::X25519,
            "keys were agreed on by {group:?}"
        );
        Ok(Session { socket, tls })
    }
}

impl Session {
    /// Says that no more will come, and waits until the server says so too: then
    /// it has taken our certificate.
    ///
    /// # Errors
    /// When it refuses, or says anything else.
    pub fn close(mut self) -> anyhow::Result<()> {
        self.tls.send_close_notify();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.socket)?;
        }
        loop {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => break,
                Ok(_) => {
                    let state = self.tls.process_new_packets();
                    state.context("the server refused the handshake")?;
                }
                Err(error) => return Err(error).context("the server did not close"),
            }
        }
        // No TIME_WAIT is left of thousands each second.
        rustix::net::sockopt::set_socket_linger(&self.socket, Some(std::time::Duration::ZERO))?;
        Ok(())
    }
}

impl Read for Session {
    fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut self.socket).read(target)
    }
}

impl Write for Session {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        rustls::Stream::new(&mut self.tls, &mut self.socket).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        rustls::Stream::new(&mut self.tls, &mut self.socket).flush()
    }
}
