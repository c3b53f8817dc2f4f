//! A pod and its peer: two network namespaces joined by a veth pair.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use socket2::{Domain, SockRef, Socket, Type};

/// The pod's addresses.
pub const POD: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 1)),
];
/// Its peer's, which is also its default gateway.
pub const PEER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 77, 1, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd77, 1, 0, 0, 0, 0, 0, 2)),
];
/// A service's, which nobody has.
pub const CLUSTER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10)),
];

const PATIENCE: Duration = Duration::from_secs(3);

type Job = Box<dyn FnOnce() + Send>;

/// The other namespace; what is run here happens there.
pub struct Peer {
    jobs: mpsc::Sender<Job>,
}

impl Peer {
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (sender, receiver) = mpsc::channel();
        let job = Box::new(move || {
            let _ = sender.send(job());
        });
        if self.jobs.send(job).is_err() {
            bail!("the peer's thread has ended");
        }
        Ok(receiver.recv()?)
    }

    /// As [`ask`], from there.
    pub fn ask(&self, to: SocketAddr) -> Result<String> {
        self.run(move || ask(to))?
    }

    /// As [`answer`], there.
    pub fn answer(&self, name: &'static str, port: u16) -> Result<()> {
        self.run(move || answer(name, port))?
    }
}

/// Makes this process a pod with a peer. Must come before any other thread.
pub fn enter() -> Result<Peer> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET)?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        std::fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    }

    let (jobs, receiver) = mpsc::channel::<Job>();
    let peer = Peer { jobs };
    let (sender, namespace) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(own_namespace());
        for job in receiver {
            job();
        }
    });
    let namespace = namespace.recv()??;
    block_on(async |handle| {
        let veth = LinkVeth::new("eth0", "peer0").build();
        handle.link().add(veth).execute().await?;
        let peer = LinkUnspec::new_with_index(index(&handle, "peer0").await?)
            .setns_by_fd(namespace.as_raw_fd())
            .build();
        handle.link().set(peer).execute().await?;
        Ok(())
    })?;
    peer.run(|| set_up("peer0", PEER, None))??;
    set_up("eth0", POD, Some(PEER))?;
    peer.run(|| PEER.iter().try_for_each(|address| usable(*address)))??;
    POD.iter().try_for_each(|address| usable(*address))?;
    Ok(peer)
}

fn own_namespace() -> Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
}

fn block_on<T>(work: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        tokio::time::timeout(PATIENCE, work(handle)).await?
    })
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await?.context("no such link")?;
    Ok(link.header.index)
}

fn set_up(name: &str, addresses: [IpAddr; 2], gateways: Option<[IpAddr; 2]>) -> Result<()> {
    block_on(async |handle| {
        let link = index(&handle, name).await?;
        for up in [1, link] {
            let message = LinkUnspec::new_with_index(up).up().build();
            handle.link().set(message).execute().await?;
        }
        for address in addresses {
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            handle
                .address()
                .add(link, address, prefix)
                .execute()
                .await?;
        }
        for gateway in gateways.into_iter().flatten() {
            let route = match gateway {
                IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(v4).build(),
                IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(v6).build(),
            };
            handle.route().add(route).execute().await?;
        }
        Ok(())
    })
}

/// Waits for duplicate address detection, without which nothing can be bound.
fn usable(address: IpAddr) -> Result<()> {
    for _ in 0..100 {
        if TcpListener::bind((address, 0)).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    bail!("{address} cannot be bound after 5 s")
}

/// Serves this port of every address with one line: its name, and the original
/// destination that the kernel tells (`-` where it tells none).
pub fn answer(name: &'static str, port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .with_context(|| format!("listening at {port}"))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = writeln!(stream, "{name} {}", original_destination(&stream));
        }
    });
    Ok(())
}

fn original_destination(stream: &TcpStream) -> String {
    let socket = SockRef::from(stream);
    // An IPv4 peer of a [::] listener needs the IPv4 option.
    let mapped = stream
        .peer_addr()
        .is_ok_and(|peer| peer.ip().to_canonical().is_ipv4());
    let destination = if mapped {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    destination
        .ok()
        .and_then(|address| address.as_socket())
        .map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// Connects and reads the line by which whoever took the connection tells who
/// it is.
pub fn ask(to: SocketAddr) -> Result<String> {
    ask_with(to, |_| Ok(()))
}

/// As [`ask`], with something done to the socket before it connects.
pub fn ask_with(to: SocketAddr, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    prepare(&socket)?;
    socket
        .connect_timeout(&to.into(), PATIENCE)
        .with_context(|| format!("connecting to {to}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// As [`ask`], as another user.
pub fn ask_as(uid: u32, to: SocketAddr) -> Result<String> {
    let other = thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(uid))?;
        ask(to)
    });
    other
        .join()
        .map_err(|_| anyhow::anyhow!("the other user's thread panicked"))?
}
