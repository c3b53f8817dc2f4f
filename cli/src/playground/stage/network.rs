//! The pods' network: a bridge, and for each pod a network namespace with one
//! virtual cable to it.
//!
//! ```text
//! enclosing namespace                                        pod's namespace
//!   gateway 10.77.0.1/16 ═══ gateway-port ┐
//!                                         ├ bridge ┬ pod7 ═══ eth0 10.77.1.7/16
//!                                         ┘        └ pod8 ═══ ...
//! ```
//! The gateway is a cable of its own, because the kernel tells a bridge of its
//! carrier up to a second late, and a cable at once.
//!
//! Everything is said to the kernel by netlink; no `ip` program is needed. A
//! pod's namespace lives as long as its descriptor or a process in it.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::TryStreamExt;
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{LinkAttribute, State as LinkState};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};
use tokio::net::TcpStream;

/// The bridge's name.
pub const BRIDGE: &str = "remora0";
/// Our own end of our own cable to it.
pub const GATEWAY: &str = "gateway";
/// The bridge's end.
const GATEWAY_PORT: &str = "gateway-port";
/// The gateway's address: where the control plane listens and the kubelet asks from.
pub const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// How long the kernel may take to notice a carrier.
const UP_WITHIN: Duration = Duration::from_secs(3);
/// How long a program inside of a pod may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Bits of the pods' network.
const PREFIX_LENGTH: u8 = 16;
/// Bits of the pods' IPv6 network.
const PREFIX_LENGTH_V6: u8 = 64;

/// The IPv4 address of the pod with this number.
pub fn pod_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 1, number)
}

/// The IPv6 address of the pod with this number (a unique local one).
pub fn pod_address_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd52, 0x4d52, 0x4177, 0, 0, 0, 1, u16::from(number))
}

/// The gateway's IPv6 address.
fn gateway_address_v6() -> Ipv6Addr {
    Ipv6Addr::new(0xfd52, 0x4d52, 0x4177, 0, 0, 0, 0, 1)
}

/// The bridge, ready for pods.
#[derive(Debug)]
pub struct Network {
    handle: Handle,
    bridge: u32,
    /// Whether this kernel does IPv6.
    pub has_v6: bool,
}

impl Network {
    /// Makes the bridge in the namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn create() -> anyhow::Result<Self> {
        let handle = connect()?;
        let link = handle.link();
        link.add(LinkBridge::new(BRIDGE).up().build())
            .execute()
            .await
            .context("no bridge can be made")?;
        let bridge = index_of(&handle, BRIDGE).await?;
        link.add(LinkVeth::new(GATEWAY, GATEWAY_PORT).build())
            .execute()
            .await
            .context("no virtual cable (veth) can be made")?;
        let gateway = index_of(&handle, GATEWAY).await?;
        add_address(&handle, gateway, GATEWAY_ADDRESS.into(), PREFIX_LENGTH).await?;
        let has_v6 = add_address(
            &handle,
            gateway,
            gateway_address_v6().into(),
            PREFIX_LENGTH_V6,
        )
        .await
        .is_ok();
        set_up(&handle, "lo").await?;
        set_up(&handle, GATEWAY).await?;
        let network = Self {
            handle,
            bridge,
            has_v6,
        };
        network.plug_in(GATEWAY_PORT).await?;
        Ok(network)
    }

    /// Makes a pod's network namespace and its cable to the bridge.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn add_pod(&self, number: u8) -> anyhow::Result<OwnedFd> {
        let enclosing: OwnedFd = File::open("/proc/self/ns/net")?.into();
        let has_v6 = self.has_v6;
        let namespace = in_a_thread(move || make_pod_side(number, &enclosing, has_v6)).await?;
        self.plug_in(&cable_name(number)).await?;
        // What is sent before the kernel has noticed the carrier is lost, and
        // the first lost packet costs a second.
        until_up(&self.handle, &cable_name(number)).await?;
        let inside = namespace.try_clone()?;
        in_a_thread(move || wait_inside(&inside)).await?;
        Ok(namespace)
    }

    /// Plugs a cable's end into the bridge.
    async fn plug_in(&self, end: &str) -> anyhow::Result<()> {
        let port = index_of(&self.handle, end).await?;
        let link = LinkUnspec::new_with_index(port)
            .controller(self.bridge)
            .up()
            .build();
        let plugged = self.handle.link().change(link).execute().await;
        plugged.with_context(|| format!("{end} cannot be plugged into the bridge"))
    }
}

fn cable_name(number: u8) -> String {
    format!("pod{number}")
}

/// A thread, unlike a task, may be in another network namespace than the rest;
/// it ends when its work is done.
async fn in_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let joined = tokio::task::spawn_blocking(|| std::thread::spawn(work).join()).await?;
    joined.map_err(|_| anyhow!("a thread in a pod's network namespace panicked"))?
}

/// Runs in a thread of its own: waits until the pod's end is up.
fn wait_inside(namespace: &OwnedFd) -> anyhow::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { until_up(&connect()?, "eth0").await })
}

/// A connection to an address inside of a pod's namespace, from inside of it.
///
/// # Errors
/// What the kernel refused.
pub async fn connect_inside(
    namespace: Arc<OwnedFd>,
    address: SocketAddr,
) -> anyhow::Result<TcpStream> {
    let stream = in_a_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        let stream = std::net::TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    Ok(TcpStream::from_std(stream.await?)?)
}

/// Waits until the kernel has noticed that the link's other end is there.
async fn until_up(handle: &Handle, name: &str) -> anyhow::Result<()> {
    let is_up = async {
        loop {
            let mut links = handle.link().get().match_name(name.to_owned()).execute();
            let link = links
                .try_next()
                .await
                .with_context(|| format!("no network link {name}"))?;
            let up = LinkAttribute::OperState(LinkState::Up);
            if link.is_some_and(|link| link.attributes.contains(&up)) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(UP_WITHIN, is_up)
        .await
        .with_context(|| format!("{name} does not come up"))?
}

/// Runs in a thread of its own: a new network namespace, its `lo` and `eth0`.
fn make_pod_side(number: u8, enclosing: &OwnedFd, has_v6: bool) -> anyhow::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace for a pod (unshare)")?;
    let namespace: OwnedFd = File::open("/proc/thread-self/ns/net")?.into();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let handle = connect()?;
        let cable = cable_name(number);
        handle
            .link()
            .add(LinkVeth::new("eth0", &cable).build())
            .execute()
            .await
            .context("no virtual cable (veth) can be made")?;
        let outer_end = index_of(&handle, &cable).await?;
        handle
            .link()
            .change(
                LinkUnspec::new_with_index(outer_end)
                    .setns_by_fd(enclosing.as_raw_fd())
                    .build(),
            )
            .execute()
            .await
            .context("the cable's other end cannot be moved out of the pod")?;
        set_up(&handle, "lo").await?;
        set_up(&handle, "eth0").await?;
        let inner_end = index_of(&handle, "eth0").await?;
        add_address(
            &handle,
            inner_end,
            pod_address(number).into(),
            PREFIX_LENGTH,
        )
        .await?;
        // Cluster IPs need a route, or connect() fails before the redirect sees it.
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(GATEWAY_ADDRESS)
            .build();
        handle
            .route()
            .add(route)
            .execute()
            .await
            .context("no default route for a pod")?;
        if has_v6 {
            add_address(
                &handle,
                inner_end,
                pod_address_v6(number).into(),
                PREFIX_LENGTH_V6,
            )
            .await?;
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .gateway(gateway_address_v6())
                .build();
            handle
                .route()
                .add(route)
                .execute()
                .await
                .context("no IPv6 default route for a pod")?;
        }
        anyhow::Ok(())
    })?;
    Ok(namespace)
}

fn connect() -> anyhow::Result<Handle> {
    let (connection, handle, _messages) = new_connection().context("no netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index_of(handle: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("no network link {name}"))?;
    link.map(|link| link.header.index)
        .with_context(|| format!("no network link {name}"))
}

async fn set_up(handle: &Handle, name: &str) -> anyhow::Result<()> {
    let index = index_of(handle, name).await?;
    handle
        .link()
        .change(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .with_context(|| format!("{name} cannot be set up"))
}

/// Adds an address; IPv6 ones without duplicate detection, which would hold
/// them back for a second.
async fn add_address(
    handle: &Handle,
    link: u32,
    address: IpAddr,
    prefix: u8,
) -> anyhow::Result<()> {
    let mut request = handle.address().add(link, address, prefix);
    if address.is_ipv6() {
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request
        .execute()
        .await
        .with_context(|| format!("the address {address} cannot be set"))
}
