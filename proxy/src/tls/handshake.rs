//! Both sides of a handshake, on a socket.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::ServerConnection;
use rustls::{ClientConfig, Connection, HandshakeKind};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::certificate;
use super::config::{Alpn, Mutual};
use super::context::Peer;
use super::outcome::{HandshakeError, HandshakeResult};
use super::stream::{Socket, TlsStream};
use crate::clock;

/// A caller has so long for its part of a handshake.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server of ours sends a ticket once it has taken our certificate, which TLS
/// 1.3 does not tell otherwise. One that sends none is believed after so long.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// One read while a handshake is under way.
const READ_BYTES: usize = 4 * 1024;

/// What an accepted connection is.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TlsStream,
    /// What travels in it.
    pub alpn: Alpn,
    /// Who is there.
    pub peer: Arc<Peer>,
}

/// The server's part, on a socket of which `seen` was read.
///
/// # Errors
/// See [`HandshakeResult`]; the peer has been told, as far as TLS tells it.
pub async fn accept(
    mutual: &Mutual,
    socket: TcpStream,
    seen: &[u8],
) -> Result<Accepted, HandshakeError> {
    let mut session: Connection = ServerConnection::new(Arc::clone(mutual.server()))?.into();
    let shaking = async {
        let fed = feed(&mut session, seen);
        answer_then(&socket, &mut session, fed).await?;
        shake(&socket, &mut session).await
    };
    match tokio::time::timeout(ACCEPT_TIMEOUT, shaking).await {
        Ok(shaken) => shaken?,
        Err(_) => return Err(late()),
    }
    let alpn = session.alpn_protocol().and_then(Alpn::named);
    let alpn = alpn.ok_or_else(|| {
        HandshakeError::new(
            HandshakeResult::NoAlpn,
            "the caller asks for no protocol of ours",
        )
    })?;
    let peer = peer_of(&session)?;
    let stream = TlsStream::new(socket, session);
    Ok(Accepted { stream, alpn, peer })
}

/// The client's part, with whoever is at `address`; complete once the server
/// has taken our certificate.
///
/// # Errors
/// See [`HandshakeResult`].
pub async fn connect(
    config: Arc<ClientConfig>,
    socket: TcpStream,
    address: IpAddr,
) -> Result<TlsStream, HandshakeError> {
    let asks_for_ours = config
        .alpn_protocols
        .first()
        .is_some_and(|name| Alpn::named(name).is_some());
    // Never sent: it only names the session.
    let name = ServerName::IpAddress(address.into());
    let mut session: Connection = ClientConnection::new(config, name)?.into();
    shake(&socket, &mut session).await?;
    if session.alpn_protocol().is_none() {
        let detail = "the server takes no protocol of ours";
        return Err(HandshakeError::new(HandshakeResult::NoAlpn, detail));
    }
    if asks_for_ours {
        peer_of(&session)?;
        // Nobody who is silent for longer is waited for.
        if let Ok(confirmed) =
            tokio::time::timeout(CONFIRMATION, confirm(&socket, &mut session)).await
        {
            confirmed?;
        }
    }
    Ok(TlsStream::new(socket, session))
}

/// It took too long.
pub fn late() -> HandshakeError {
    HandshakeError::new(HandshakeResult::Timeout, "the handshake took too long")
}

/// We ourselves have nothing to show.
pub fn no_certificate() -> HandshakeError {
    let detail = "this sidecar has no certificate yet; GET /identity says why";
    HandshakeError::new(HandshakeResult::NoCertificate, detail)
}

/// Until both have said their parts of the handshake, and ours has gone out.
async fn shake(socket: &TcpStream, session: &mut Connection) -> Result<(), HandshakeError> {
    loop {
        write(socket, session).await?;
        if !session.is_handshaking() {
            return Ok(());
        }
        read(socket, session).await?;
    }
}

/// Until the server's ticket, or its first words, have come.
async fn confirm(socket: &TcpStream, session: &mut Connection) -> Result<(), HandshakeError> {
    loop {
        let has_ticket = match &*session {
            Connection::Client(client) => client.tls13_tickets_received() > 0,
            Connection::Server(_) => true,
        };
        let speaks = session.reader().into_first_chunk().is_ok();
        if has_ticket || speaks {
            return Ok(());
        }
        read(socket, session).await?;
    }
}

async fn read(socket: &TcpStream, session: &mut Connection) -> Result<(), HandshakeError> {
    let fed = loop {
        socket.readable().await?;
        // Not held over a wait: nothing is waited for with it.
        let mut buffer = [0; READ_BYTES];
        match socket.try_read(&mut buffer) {
            Ok(0) => {
                let detail = "the peer closed the connection within the handshake";
                return Err(HandshakeError::new(HandshakeResult::Closed, detail));
            }
            Ok(read) => break feed(session, &buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    };
    answer_then(socket, session, fed).await
}

/// What went wrong is told to the peer before it is told to us.
async fn answer_then(
    socket: &TcpStream,
    session: &mut Connection,
    fed: Result<(), HandshakeError>,
) -> Result<(), HandshakeError> {
    if fed.is_err() {
        // That it cannot be told any more is the lesser failure.
        let _ = write(socket, session).await;
        let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write);
    }
    fed
}

fn feed(session: &mut Connection, mut bytes: &[u8]) -> Result<(), HandshakeError> {
    while !bytes.is_empty() {
        if session.read_tls(&mut bytes)? == 0 {
            break;
        }
        session.process_new_packets()?;
    }
    Ok(())
}

async fn write(socket: &TcpStream, session: &mut Connection) -> io::Result<()> {
    while session.wants_write() {
        match session.write_tls(&mut Socket(socket)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.ready(Interest::WRITABLE).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Who is there. A chain was verified in the handshake; one that comes back by
/// a ticket was verified then, and may have ended since.
fn peer_of(session: &Connection) -> Result<Arc<Peer>, HandshakeError> {
    let leaf = session
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or_else(|| HandshakeError::from(rustls::Error::NoCertificatesPresented))?;
    let unreadable = || {
        HandshakeError::new(
            HandshakeResult::Other,
            "the peer's certificate cannot be read",
        )
    };
    let read = certificate::read(leaf).ok_or_else(unreadable)?;
    if session.handshake_kind() == Some(HandshakeKind::Resumed)
        && read.not_after < clock::system_seconds()
    {
        let detail = "the certificate of the session that was resumed has ended";
        return Err(HandshakeError::new(HandshakeResult::Expired, detail));
    }
    let id = read
        .identity()
        .map_err(|result| HandshakeError::new(result, "the peer's certificate names nobody"))?;
    Peer::new(id).ok_or_else(unreadable)
}
