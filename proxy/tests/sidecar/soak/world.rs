//! Two sidecars of one control plane, and the applications behind them: some
//! are called directly, some through the second sidecar, by mutual TLS.

use std::net::SocketAddr;
use std::time::Duration;

use remora_proto::v1::{Protocol, ServicePolicy};
use remora_proto::well_known::mesh::{ALL, H1, H2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::authority::{Authority, id};
use crate::http2_app::Http2App;
use crate::mesh::{Mesh, PORT, policy};
use crate::sidecar::{Options, Sidecar};
use crate::tap::{Says, Tap};
use crate::upstream::{App, Received, Reply, status};

/// Connections upstream that carry nothing go after this.
const IDLE_TIMEOUT_MS: u64 = 1_000;

/// Certificates live so long: they are renewed all the time.
const LIFETIME_SECONDS: i64 = 20;

/// The last byte of the second pod's address; its applications' is one more.
const SECOND: u8 = 3;

/// What a service of HTTP/1.1 answers.
fn handler(request: &Received) -> Reply {
    match request.path.as_str() {
        "/never" => Reply::Never,
        "/large" => status(200).body(&"x".repeat(200_000)),
        "/reset" => Reply::Reset,
        "/cut" => Reply::ResetInBody,
        "/error" => status(503),
        _ => status(200).after_ms(request.number % 3),
    }
}

/// An application that lives until it is dropped.
type Application = Box<dyn std::any::Any>;

/// The application of raw TCP: says back what it hears.
struct Echo(JoinHandle<()>);

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An application's kind, address, and itself unless it is dead.
struct Place {
    kind: Protocol,
    upgrades: bool,
    address: SocketAddr,
    application: Option<Application>,
}

/// All of it.
pub struct World {
    /// The caller's sidecar and the control plane.
    pub mesh: Mesh,
    target: Sidecar,
    places: Vec<Place>,
    kills: usize,
    changes: usize,
    outages: usize,
}

/// The services by name, with what they speak: `catalog` and `streams` also
/// through the second sidecar.
pub const SERVICES: [(&str, Protocol); 4] = [
    ("catalog", Protocol::Http1),
    ("streams", Protocol::Http2),
    ("chat", Protocol::Http1),
    ("inventory", Protocol::Tcp),
];

impl World {
    /// Starts everything.
    pub async fn start() -> Self {
        let authority = Authority::new();
        authority.lifetime_seconds(LIFETIME_SECONDS);
        let options = Options {
            authority: Some(authority),
            ..Options::default()
        };
        let mesh = Mesh::start_with(options.clone()).await;
        let target = mesh.beside(SECOND, options).await;
        let direct = |last| mesh.net.at(last);
        let behind = |port| SocketAddr::new(mesh.net.ip(SECOND + 1), port);
        let places = vec![
            Place::new(Protocol::Http1, direct(10)),
            Place::new(Protocol::Http1, behind(PORT)),
            Place::new(Protocol::Http2, direct(20)),
            Place::new(Protocol::Http2, behind(7000)),
            Place {
                upgrades: true,
                ..Place::new(Protocol::Http1, direct(30))
            },
            Place::new(Protocol::Tcp, direct(40)),
        ];
        let mut world = Self {
            mesh,
            target,
            places,
            kills: 0,
            changes: 0,
            outages: 0,
        };
        for at in 0..world.places.len() {
            world.revive(at).await;
        }
        world.endpoints();
        world.policies(&policy());
        world
    }

    /// Both sidecars: the caller's, then the target's.
    pub fn sidecars(&self) -> [&Sidecar; 2] {
        [&self.mesh.sidecar, &self.target]
    }

    /// Something about each sidecar.
    pub fn each<T>(&self, what: impl Fn(&Sidecar) -> T) -> [T; 2] {
        self.sidecars().map(what)
    }

    /// The second sidecar's own ports, at which strangers may call too.
    pub fn target_ports(&self) -> [SocketAddr; 2] {
        [self.target.inbound(PORT), self.target.inbound(7000)]
    }

    /// Puts every endpoint.
    pub fn endpoints(&self) {
        for last in [10, 20, 30, 40] {
            let service = match last {
                10 => "catalog",
                20 => "streams",
                30 => "chat",
                _ => "inventory",
            };
            self.mesh
                .endpoint(service, 0, self.mesh.net.at(last), |_| ());
        }
        self.second_endpoints(true);
    }

    /// Puts the endpoints behind the second sidecar, with its identity or as an
    /// older sidecar's, which is sent plaintext.
    pub fn second_endpoints(&self, has_identity: bool) {
        for (service, port) in [("catalog", PORT), ("streams", 7000)] {
            let address = SocketAddr::new(self.mesh.net.ip(SECOND), port);
            self.mesh.endpoint(service, 1, address, |endpoint| {
                endpoint.sidecar = true;
                if has_identity {
                    endpoint.identity = id(&format!("web-{SECOND}"));
                    endpoint.mesh_protocols = ALL.map(str::to_owned).to_vec();
                } else {
                    endpoint.mesh_protocols = [H2, H1].map(str::to_owned).to_vec();
                }
            });
        }
    }

    /// Takes one of them away.
    pub fn remove_second(&self, service: &str) {
        self.mesh.remove_endpoint(service, 1);
    }

    /// Gives every service this policy.
    pub fn policies(&self, policy: &ServicePolicy) {
        for (service, protocol) in SERVICES {
            self.policy(service, protocol, policy.clone());
        }
    }

    /// Gives one service a policy.
    pub fn policy(&self, name: &str, protocol: Protocol, mut policy: ServicePolicy) {
        // A connection keeps the idle timeout under which it was opened, and in
        // the end all of them are to be closed soon.
        let outbound = policy.outbound.as_mut().unwrap();
        outbound.idle_timeout_ms = outbound.idle_timeout_ms.min(IDLE_TIMEOUT_MS);
        self.mesh.service_with(name, |service| {
            service.policy = Some(policy);
            service.ports[0].protocol = protocol as i32;
        });
    }

    /// How many applications there are.
    pub fn applications(&self) -> usize {
        self.places.len()
    }

    /// An application ends, with all its connections.
    pub fn kill(&mut self, at: usize) {
        self.kills += 1;
        self.places[at].application = None;
    }

    /// It is back, if it was dead.
    pub async fn revive(&mut self, at: usize) {
        let place = &mut self.places[at];
        if place.application.is_none() {
            let application = start(place.kind, place.upgrades, place.address).await;
            place.application = Some(application);
        }
    }

    /// The control plane is away for so long.
    pub async fn outage(&mut self, span: Duration) {
        self.outages += 1;
        self.mesh.control.go_away();
        tokio::time::sleep(span).await;
        self.mesh.control.come_back();
    }

    /// A change is counted.
    pub fn changed(&mut self) {
        self.changes += 1;
    }

    /// Everybody is back, and nothing is out of the ordinary. They are started
    /// anew, so that no connection to them is left in a pool.
    pub async fn restore(&mut self) {
        for place in &mut self.places {
            place.application = None;
        }
        for at in 0..self.places.len() {
            self.revive(at).await;
        }
        self.endpoints();
        self.policies(&policy());
    }

    /// Both sidecars end when they are told to.
    pub async fn end(mut self) {
        for sidecar in [&mut self.mesh.sidecar, &mut self.target] {
            sidecar.terminate();
            assert!(sidecar.ended().await, "it ended badly");
        }
    }

    /// What was done to it, in words.
    pub fn deeds(&self) -> String {
        let Self {
            kills,
            changes,
            outages,
            ..
        } = self;
        format!(
            "{kills} kills, {changes} changes of policy, {outages} outages of the control plane"
        )
    }
}

impl Place {
    fn new(kind: Protocol, address: SocketAddr) -> Self {
        Self {
            kind,
            upgrades: false,
            address,
            application: None,
        }
    }
}

async fn start(kind: Protocol, upgrades: bool, address: SocketAddr) -> Application {
    match kind {
        _ if upgrades => {
            let head =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            Box::new(Tap::start(address, Says::now(head).then_echoes()).await)
        }
        Protocol::Http2 => Box::new(Http2App::start(address).await),
        Protocol::Tcp => Box::new(Echo(echo(address).await)),
        // It keeps no requests: the soak may be long.
        _ => Box::new(App::start_with_bar(address, 100_000, handler).await),
    }
}

async fn echo(address: SocketAddr) -> JoinHandle<()> {
    let listener = crate::bind(address).await;
    tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            tasks.spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 || stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
            while tasks.try_join_next().is_some() {}
        }
    })
}
