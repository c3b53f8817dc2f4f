//! Sockets: listeners that the workers share, connections that the redirect
//! rules let pass, and where a redirected connection was going.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that wait to be accepted, for each listener.
const BACKLOG: i32 = 4096;

/// A peer that vanished without a word is noticed after about two minutes, so
/// that raw connections without an idle timeout do not stay for ever.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Binds `address` with SO_REUSEPORT, so that each worker has a listener of its
/// own and the kernel spreads the connections. `[::]` takes IPv4 as well; where
/// the machine has no IPv6, `0.0.0.0` stands in for it.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match bind(address) {
        Err(error)
            if address.ip().is_unspecified()
                && address.is_ipv6()
                && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) =>
        {
            bind(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What a connection needs before it is used: no delay, and keepalive probes.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL),
    )
}

/// Opens a connection that carries `mark`, so that the redirect rules let it pass.
pub async fn connect(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    let stream = socket.connect(address).await?;
    prepare(&stream)?;
    Ok(stream)
}

/// Has the kernel end `stream` when nothing of what was sent on it has been
/// acknowledged for `limit` (TCP_USER_TIMEOUT, RFC 5482): a peer whose node has
/// gone says nothing, and the kernel would send again for a quarter of an hour.
pub fn end_unacknowledged(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(limit))
}

/// Where a redirected connection was going (SO_ORIGINAL_DST). `None` where it
/// was not redirected: it came to the listener itself.
pub fn original_destination(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    // An IPv4 peer of a `[::]` listener is kept by the IPv4 connection tracker.
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    match original {
        Ok(original) => {
            let original = original.as_socket().map(canonical);
            Ok(original.filter(|original| *original != local))
        }
        // ENOENT: the connection is not tracked, so nothing redirected it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `address` with an IPv4-mapped IPv6 address written as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Makes closing `stream` a reset: the peer sees that the connection was
/// refused, not that it ended in good order.
pub fn reset_on_close(stream: &TcpStream) {
    // A socket that cannot take the option is already broken; closing it is all that is left.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A read that did not fill its buffer took all that had come. Saying so saves
/// the call that would find nothing; what comes later is an event of its own.
pub fn has_no_more(stream: &TcpStream) {
    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    // It gives back what it was given.
    let _ = stream.try_io(Interest::READABLE, nothing);
}

/// Whether `address` is this machine's own and never leaves it.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_direct_connection_has_no_original_destination() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let client = connect(address, None).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(original_destination(&server).ok().flatten(), None);
        drop(client);
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_ends_the_connection() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let stream = connect(listener.local_addr().unwrap(), None).await.unwrap();
        let limit = Duration::from_secs(30);
        end_unacknowledged(&stream, limit).unwrap();
        let set = SockRef::from(&stream).tcp_user_timeout().unwrap();
        assert_eq!(set, Some(limit));
    }

    #[tokio::test]
    async fn several_workers_bind_one_address() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let second = listen(first.local_addr().unwrap());
        assert!(second.is_ok());
    }
}
