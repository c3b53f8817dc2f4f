//! The demo shop: an application with no knowledge of the mesh.
//!
//! Owns the roles that `manifests/demo` runs; does not start pods, read
//! policies or know that a sidecar stands between its processes.
//!
//! # Layout
//! - [`server`]: an HTTP/1.1 server that ends as the kubelet expects; [`trouble`]:
//!   the switches by which a pod is made slow or broken, [`door`]: its port,
//!   [`tally`]: what reached it.
//! - [`client`]: a small connection pool for one upstream; [`dial`]: how a
//!   connection is made, directly or through `HTTP_PROXY`; [`names`]: to which address.
//! - [`shop`]: the roles web, catalog, cart and payment.
//! - [`inventory`]: the plain TCP role, whose server speaks first.
//! - [`visitor`]: the load; [`record`]: what became of it, `GET /stats`.
//! - [`shopper`]: load as it is ordered, for the scenarios of policies.
//! - [`buyer`]: who only pays, and which version took the money; [`pace`]: the rate
//!   of these two.
//! - [`caller`]: requests from inside a pod; [`echo`]: tells what reached it.
//!
//! # HTTP of each role
//! - `GET /healthz`: 200 `{"role":"web","pod":"web-1"}`, and `caller` where a
//!   mesh says who that is. (All roles; inventory serves HTTP at `CONTROL_PORT`.)
//! - `POST /slow?ms=N`: answers come N ms late (0 to 60000; 0 mends).
//!   `POST /break?status=N`: every answer is that status (400 to 599; 0 mends);
//!   the inventory closes its connections instead. More in [`trouble`]. `GET /tally`:
//!   what reached it, see [`tally`]. (All roles but visitor, buyer and shopper,
//!   which serve nothing that could be slow.)
//! - web: `GET /` (asks catalog and cart), `GET /products` (catalog),
//!   `GET /cart` (cart), `POST /checkout` (`POST /charge` of payment).
//! - catalog: `GET /products`. cart: `GET /cart` (asks the inventory).
//!   payment: `POST /charge`. reviews: everything.
//! - inventory: lines over TCP, see [`inventory`].
//! - visitor: `GET /stats`, see [`record`]. buyer: `GET /stats`, `POST /stretch`.
//!   shopper: these and `POST /streams`, see [`shopper`].
//!
//! An upstream's refusal is passed on with its status; one that cannot be
//! reached becomes 502, one that does not answer 504.

pub mod buyer;
pub mod caller;
pub mod client;
pub mod clock;
pub mod dial;
pub mod door;
pub mod echo;
pub mod inventory;
pub mod names;
pub mod pace;
pub mod record;
pub mod server;
pub mod shop;
pub mod shopper;
pub mod tally;
pub mod trouble;
pub mod visitor;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use client::Client;
use dial::Dialer;
use door::Door;
use tally::Tally;
use trouble::Switches;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What one demo process is.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// The part of the shop to play
    pub role: Role,
    /// The address to listen at [default: every one, of both families]
    #[arg(long, env = "BIND")]
    pub bind: Option<IpAddr>,
    /// The port to listen at [default: 8080, inventory: 7000]
    #[arg(long, env = "PORT")]
    pub port: Option<u16>,
    /// Where the inventory serves HTTP, and the reviews take orders too
    #[arg(long, env = "CONTROL_PORT", default_value_t = 8080)]
    pub control_port: u16,
    /// Send everything through this HTTP proxy (http://host:port)
    #[arg(
        long,
        env = "HTTP_PROXY",
        default_value = "",
        hide_default_value = true
    )]
    pub http_proxy: String,
    /// Where web is
    #[arg(long, env = "WEB", default_value = "web:8080")]
    pub web: String,
    /// Where the catalog is
    #[arg(long, env = "CATALOG", default_value = "catalog:8080")]
    pub catalog: String,
    /// Where the cart is
    #[arg(long, env = "CART", default_value = "cart:8080")]
    pub cart: String,
    /// Where payment is
    #[arg(long, env = "PAYMENT", default_value = "payment:8080")]
    pub payment: String,
    /// Where the inventory is
    #[arg(long, env = "INVENTORY", default_value = "inventory:7000")]
    pub inventory: String,
    /// Where the reviews are
    #[arg(long, env = "REVIEWS", default_value = "reviews:8080")]
    pub reviews: String,
    /// The version that payment, or echo, names in its answers
    #[arg(long, env = "PAYMENT_VERSION", default_value = "v1")]
    pub payment_version: String,
    /// What the caller asks.
    #[command(flatten)]
    pub ask: caller::Ask,
    /// Requests a second that the visitor, or the buyer, sends
    #[arg(long, env = "RATE", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate: u32,
    /// Requests that it has under way at most; what would be more is skipped
    #[arg(long, env = "CONCURRENCY", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub concurrency: u16,
}

/// A part of the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The front.
    Web,
    /// What there is to buy.
    Catalog,
    /// What somebody is about to buy.
    Cart,
    /// Takes the money.
    Payment,
    /// How much of everything there is (plain TCP).
    Inventory,
    /// What others thought of it.
    Reviews,
    /// The load.
    Visitor,
    /// Who only pays, some of them with a cookie.
    Buyer,
    /// Load as it is ordered.
    Shopper,
    /// Tells what reached it; HTTP/1.1, HTTP/2 and gRPC.
    Echo,
    /// Requests; prints the answer as JSON, and ends.
    Caller,
}

impl Role {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Role::Web => "web",
            Role::Catalog => "catalog",
            Role::Cart => "cart",
            Role::Payment => "payment",
            Role::Inventory => "inventory",
            Role::Reviews => "reviews",
            Role::Visitor => "visitor",
            Role::Buyer => "buyer",
            Role::Shopper => "shopper",
            Role::Echo => "echo",
            Role::Caller => "caller",
        }
    }
}

/// Plays the role until SIGTERM or SIGINT; requests under way are finished.
/// Meant for a current-thread runtime.
///
/// # Errors
/// When the port cannot be had, or an address is none.
pub async fn run(options: DemoOptions) -> anyhow::Result<()> {
    // Before the port opens: whoever sees it open may send the signal.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    let role = play(options, stopped);
    tokio::pin!(role);
    tokio::select! {
        ended = &mut role => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    role.await
}

/// Plays the role until `stopped` turns true.
///
/// # Errors
/// As [`run`].
pub async fn play(options: DemoOptions, stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let dialer = Dialer::new(&options.http_proxy)?;
    if options.role == Role::Caller {
        return caller::run(&dialer, &options.ask).await;
    }
    let client = |authority: &str| Client::new(dialer.clone(), authority).map(Arc::new);
    let default_port = match options.role {
        Role::Inventory => inventory::DEFAULT_PORT,
        _ => 8080,
    };
    let listener = listen(options.bind, options.port.unwrap_or(default_port))?;
    let switches = Arc::new(Switches::default());
    let role = options.role.name();
    match options.role {
        Role::Web => {
            let web = shop::Web {
                catalog: client(&options.catalog)?,
                cart: client(&options.cart)?,
                payment: client(&options.payment)?,
            };
            server::serve(listener, role, web, Some(switches), stopped).await;
        }
        Role::Catalog => {
            server::serve(listener, role, shop::Catalog, Some(switches), stopped).await;
        }
        Role::Cart => {
            let cart = shop::Cart {
                inventory: inventory::Client::new(dialer, &options.inventory)?,
            };
            server::serve(listener, role, cart, Some(switches), stopped).await;
        }
        Role::Payment => {
            let payment = shop::Payment {
                version: options.payment_version,
            };
            server::serve(listener, role, payment, Some(switches), stopped).await;
        }
        Role::Inventory => {
            let control = listen(options.bind, options.control_port)?;
            let (switched, tally) = (Arc::clone(&switches), Arc::<Tally>::default());
            let counted = Arc::clone(&tally);
            let lines = inventory::serve(listener, switched, counted, stopped.clone());
            tokio::join!(lines, take_orders(control, role, switches, tally, stopped));
        }
        Role::Reviews => reviews(listener, &options, switches, stopped).await?,
        Role::Shopper => shop_as_told(listener, dialer, &options, stopped).await?,
        Role::Visitor => {
            let web = client(&options.web)?;
            let visitor = visitor::Visitor::new(web, options.rate, options.concurrency);
            let stats = visitor::Stats(Arc::clone(&visitor));
            let http = server::serve(listener, role, stats, None, stopped.clone());
            tokio::join!(visitor.run(stopped), http);
        }
        Role::Buyer => {
            let payment = client(&options.payment)?;
            let buyer = buyer::Buyer::new(payment, options.rate, options.concurrency)?;
            let stats = buyer::Stats(Arc::clone(&buyer));
            let http = server::serve(listener, role, stats, None, stopped.clone());
            tokio::join!(buyer.run(stopped), http);
        }
        Role::Echo => {
            let echo = echo::Echo::new(options.payment_version);
            echo.serve(listener, stopped).await;
        }
        // Done above: it listens nowhere.
        Role::Caller => {}
    }
    Ok(())
}

/// Sends what it is told to.
async fn shop_as_told(
    listener: TcpListener,
    dialer: Dialer,
    options: &DemoOptions,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let reviews = Arc::new(Client::new(dialer.clone(), &options.reviews)?);
    let shopper = shopper::Shopper::new(dialer);
    let orders = shopper::Orders(Arc::clone(&shopper));
    let role = options.role.name();
    let http = server::serve(listener, role, orders, None, stopped.clone());
    tokio::join!(shopper.run(reviews, stopped), http);
    Ok(())
}

/// The reviews, whose orders come by another port too where one is named.
async fn reviews(
    listener: TcpListener,
    options: &DemoOptions,
    switches: Arc<Switches>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let role = options.role.name();
    let tally = Arc::<Tally>::default();
    let is_other = listener.local_addr()?.port() != options.control_port;
    let control = is_other.then(|| listen(options.bind, options.control_port));
    if let Some(control) = control.transpose()? {
        let (switches, tally) = (Arc::clone(&switches), Arc::clone(&tally));
        tokio::spawn(take_orders(control, role, switches, tally, stopped.clone()));
    }
    let door = Door::new(listener, Some(Arc::clone(&switches)));
    server::serve_with(door, role, shop::Reviews, Some(switches), tally, stopped).await;
    Ok(())
}

/// At a port of their own, which is never closed.
async fn take_orders(
    control: TcpListener,
    role: &'static str,
    switches: Arc<Switches>,
    tally: Arc<Tally>,
    stopped: watch::Receiver<bool>,
) {
    let door = Door::new(control, None);
    server::serve_with(door, role, shop::Nothing, Some(switches), tally, stopped).await;
}

/// The library's own way waits with 128 connections only, which a burst of 500
/// requests a second fills while the process is not scheduled for a moment.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen(address: Option<IpAddr>, port: u16) -> anyhow::Result<TcpListener> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    if address.is_none()
        && let Ok(listener) = bind(any)
    {
        return Ok(listener);
    }
    // A machine may have no IPv6.
    let address = SocketAddr::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port);
    bind(address).with_context(|| format!("listening at {address} (BIND, PORT)"))
}
