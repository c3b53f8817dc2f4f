//! What an attack may cost: while it lasts, memory and processor time are
//! watched and another caller, who does nothing wrong, is served.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use remora_proto::v1::{InboundPort, Protocol};

use crate::client::Client;
use crate::eventually;
use crate::http2_app::{Http2App, Http2Caller};
use crate::http2_frames::Peer;
use crate::mesh::{Mesh, PORT, policy};
use crate::process::{MIB, Process};
use crate::sidecar::Options;
use crate::upstream::App;

/// A debug build on a busy machine answers a simple request within this.
const ANSWER: Duration = Duration::from_secs(3);
/// The other caller asks so often.
const EVERY: Duration = Duration::from_millis(10);

/// A sidecar with one application behind each of its sides.
pub struct Ground {
    /// The sidecar and its control plane.
    pub mesh: Mesh,
    /// The service `catalog`, behind the outbound side.
    pub catalog: App,
    /// The pod's own application, behind the inbound side.
    pub own: App,
}

impl Ground {
    /// Both applications answer 200; the inbound port is declared as HTTP/1.1.
    pub async fn start() -> Self {
        let mesh = Mesh::start_with(Options::default()).await;
        let catalog = App::ok(mesh.net.at(10)).await;
        let own = App::ok(mesh.net.at(2)).await;
        mesh.catalog(policy(), &[catalog.address()]);
        declare(&mesh, Protocol::Http1);
        let ground = Self { mesh, catalog, own };
        for face in ground.faces() {
            let mut client = Client::connect(face).await;
            assert_eq!(client.get("catalog:8080", "/warm").await.status, 200);
        }
        ground
    }

    /// The outbound listener and the pod's port: both take HTTP from strangers.
    pub fn faces(&self) -> [SocketAddr; 2] {
        [
            self.mesh.sidecar.outbound(),
            self.mesh.sidecar.inbound(PORT),
        ]
    }

    /// How many requests reached an application, the warming ones not counted.
    pub fn reached(&self) -> usize {
        self.catalog.count() + self.own.count() - 2
    }

    /// Watches what the sidecar takes from now on, and has another caller
    /// served at the pod's port.
    pub async fn attack(&self) -> Attack {
        Attack::begin(&self.mesh, self.mesh.sidecar.inbound(PORT)).await
    }
}

/// A sidecar with an HTTP/2 application behind each of its sides.
pub struct Http2Ground {
    /// The sidecar and its control plane.
    pub mesh: Mesh,
    /// The service `catalog`, behind the outbound side.
    pub catalog: Http2App,
    /// The pod's own application, behind the inbound side.
    pub own: Http2App,
}

impl Http2Ground {
    /// All of it declared as HTTP/2.
    pub async fn start() -> Self {
        let mesh = Mesh::start().await;
        let catalog = Http2App::start(mesh.net.at(10)).await;
        let own = Http2App::start(mesh.net.at(2)).await;
        mesh.endpoint("catalog", 0, catalog.address(), |_| ());
        mesh.service_with("catalog", |service| {
            service.policy = Some(policy());
            service.ports[0].protocol = Protocol::Http2 as i32;
        });
        declare(&mesh, Protocol::Http2);
        let ground = Self { mesh, catalog, own };
        for face in ground.faces() {
            eventually("both sides speak HTTP/2", async || {
                let mut caller = Http2Caller::connect(face).await;
                caller
                    .get("/warm")
                    .await
                    .is_ok_and(|answer| answer.status == 200)
            })
            .await;
        }
        ground
    }

    /// The outbound listener and the pod's port.
    pub fn faces(&self) -> [SocketAddr; 2] {
        [
            self.mesh.sidecar.outbound(),
            self.mesh.sidecar.inbound(PORT),
        ]
    }

    /// An attacker at the pod's port, and what is watched meanwhile.
    pub async fn attacker(&self) -> (Peer, Attack) {
        let address = self.mesh.sidecar.inbound(PORT);
        let attack = Attack::begin_http2(&self.mesh, address).await;
        (Peer::client(address).await, attack)
    }
}

/// Declares what the pod's port speaks.
pub fn declare(mesh: &Mesh, protocol: Protocol) {
    mesh.workload(|workload| {
        workload.ports = vec![InboundPort {
            port: PORT.into(),
            protocol: protocol as i32,
            ..InboundPort::default()
        }];
    });
}

/// An attack that is going on.
#[derive(Debug)]
pub struct Attack {
    process: Process,
    resident: u64,
    time: Duration,
    over: Arc<AtomicBool>,
    bystander: JoinHandle<Served>,
}

/// The other caller.
enum Bystander {
    Http1(Client),
    Http2(Http2Caller),
}

impl Bystander {
    async fn ask(&mut self) {
        match self {
            Self::Http1(client) => {
                let answer = client.get("catalog:8080", "/bystander").await;
                assert_eq!(answer.status, 200, "to another caller: {}", answer.text());
            }
            Self::Http2(caller) => {
                let answer = caller.get("/bystander").await.expect("to another caller");
                assert_eq!(answer.status, 200, "to another caller: {answer:?}");
            }
        }
    }
}

/// What the other caller saw.
#[derive(Debug, Default)]
struct Served {
    answers: u32,
    slowest: Duration,
}

impl Attack {
    /// From here on it counts; the other caller calls at `address`, by HTTP/1.1.
    pub async fn begin(mesh: &Mesh, address: SocketAddr) -> Self {
        let bystander = Bystander::Http1(Client::connect(address).await);
        Self::with(mesh, bystander)
    }

    /// As [`Attack::begin`], the other caller by HTTP/2.
    pub async fn begin_http2(mesh: &Mesh, address: SocketAddr) -> Self {
        let bystander = Bystander::Http2(Http2Caller::connect(address).await);
        Self::with(mesh, bystander)
    }

    fn with(mesh: &Mesh, mut bystander: Bystander) -> Self {
        let process = mesh.sidecar.process();
        process.forget_peak();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let bystander = tokio::spawn(async move {
            let mut served = Served::default();
            while !until.load(SeqCst) {
                let began = Instant::now();
                bystander.ask().await;
                served.answers += 1;
                served.slowest = served.slowest.max(began.elapsed());
                tokio::time::sleep(EVERY).await;
            }
            served
        });
        Self {
            process,
            resident: process.resident(),
            time: process.processor_time(),
            over,
            bystander,
        }
    }

    /// How much more memory than before the attack was resident at the most.
    pub fn grown(&self) -> u64 {
        self.process.peak().saturating_sub(self.resident)
    }

    /// Processor time since it began.
    pub fn took(&self) -> Duration {
        self.process.processor_time() - self.time
    }

    /// It is over: it made the sidecar take at most `mib` MiB more memory and
    /// `seconds` of processor time (of a debug build), and the other caller was served.
    pub async fn end(self, what: &str, mib: u64, seconds: f64) {
        let (grown, took) = (self.grown(), self.took());
        self.over.store(true, SeqCst);
        let served = self.bystander.await.expect("another caller was not served");
        println!(
            "{what}: {:.1} MiB, {took:?} of processor time; another caller had {} answers, the slowest in {:?}",
            grown as f64 / MIB as f64,
            served.answers,
            served.slowest
        );
        assert!(served.answers > 0, "{what}: another caller had no answer");
        assert!(served.slowest < ANSWER, "{what}: {served:?}");
        assert!(
            grown <= mib * MIB,
            "{what}: {grown} bytes, at most {mib} MiB"
        );
        assert!(
            took.as_secs_f64() <= seconds,
            "{what}: {took:?}, at most {seconds} s"
        );
    }
}

/// All that came back on a connection.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// As it came.
    pub bytes: Vec<u8>,
    /// The other side has closed.
    pub ended: bool,
}

impl Heard {
    /// As text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The statuses of the answers in it, whose bodies hold no status line.
    pub fn statuses(&self) -> Vec<u16> {
        self.text()
            .match_indices("HTTP/1.1 ")
            .filter_map(|(at, start)| self.text().get(at + start.len()..)?.get(..3)?.parse().ok())
            .collect()
    }

    /// One answer, 400 in our own words, and the connection's end.
    pub fn is_refusal(&self) -> bool {
        self.statuses() == [400]
            && self
                .text()
                .to_lowercase()
                .contains("x-remora-reason: bad_request\r\n")
            && self.ended
    }
}

/// Sends `bytes` and listens until the other side closes or has been silent
/// for `silence`.
pub async fn exchange(address: SocketAddr, bytes: &[u8], silence: Duration) -> Heard {
    let mut stream = connect(address).await;
    // It may have been refused before all of it was taken.
    let _ = stream.write_all(bytes).await;
    listen(&mut stream, silence).await
}

/// Listens until the other side closes or has been silent for `silence`.
pub async fn listen(stream: &mut TcpStream, silence: Duration) -> Heard {
    let mut heard = Heard::default();
    loop {
        match tokio::time::timeout(silence, stream.read_buf(&mut heard.bytes)).await {
            Ok(Ok(read)) if read > 0 => {}
            Ok(_) => {
                heard.ended = true;
                return heard;
            }
            Err(_) => return heard,
        }
    }
}

/// A connection without delays.
pub async fn connect(address: SocketAddr) -> TcpStream {
    let stream = crate::soon("connecting", TcpStream::connect(address)).await;
    let stream = stream.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
