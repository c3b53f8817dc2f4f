//! Remora: the real sidecar with the real control plane over a folder of YAML.
//!
//! The sidecar runs in explicit mode, so that no redirect rules are needed: the
//! `Host` of each request names the service. That is a little more work for
//! each request than an intercepted connection is, whose service is settled
//! once by its original destination.
//!
//! HTTP goes through the sidecar's outbound side. TCP goes through its inbound
//! side: there the sidecar itself binds the pod's address, and the Workload says
//! that the upstreams' ports, which play the pod's application, speak TCP (the
//! outbound side of explicit mode wants a CONNECT first, which no load generator
//! sends).
//!
//! Every sidecar has an identity. For mutual TLS there are four:
//!
//! ```text
//!  the load's core                       the system's core
//!
//!               mtls-out, mtls-bulk-out, mtls-pair, mtls-bulk
//!  load ───────────────────────────────► caller ──┐ TLS
//!    │  mtls-in, mtls-bulk-in              │ TLS  │ mtls-pair, mtls-bulk
//!    └────► far caller ─────────────────── │ ───┐ │
//!                         TLS              │    ▼ ▼
//!  upstream ◄─ far callee ◄────────────────┘   callee ─► upstream
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Door, PATIENCE, Running, Stage, System, Target};
use crate::clock::Moment;
use crate::http;
use crate::identity::TRUST_DOMAIN;
use crate::process::{Process, free_port, loopback};
use crate::scenario::Scenario;
use crate::stop;

const OBJECTS: &str = include_str!("../../peers/remora.yaml");

/// Its name in every table.
pub const NAME: &str = "Remora";

pub(super) const SYSTEM: System = System {
    name: NAME,
    word: "remora",
    lacks: |_| None,
    start,
    version: |stage| super::ask_version(&stage.remora.sidecar, "--version", 1),
};

/// Remora's programs, release builds.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `remora-proxy`
    pub sidecar: PathBuf,
    /// `remora-control-plane`
    pub control_plane: PathBuf,
}

impl Programs {
    /// Those in `folder`; by default in that of the running program.
    ///
    /// # Errors
    /// When they are not there.
    pub fn find(folder: Option<&Path>) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let folder = match folder {
            Some(folder) => folder,
            None => own.parent().context("this program has no folder")?,
        };
        Ok(Self {
            sidecar: program(folder, "remora-proxy")?,
            control_plane: program(folder, "remora-control-plane")?,
        })
    }

    /// The sidecar of a build in `folder`, with the control plane of the same
    /// build or, where there is none, that of `spare` (by default the running
    /// program's folder).
    ///
    /// # Errors
    /// When they are not there.
    pub fn of_build(folder: &Path, spare: Option<&Path>) -> anyhow::Result<Self> {
        let control_plane = match program(folder, "remora-control-plane") {
            Ok(own) => own,
            Err(_) => Self::find(spare)?.control_plane,
        };
        Ok(Self {
            sidecar: program(folder, "remora-proxy")?,
            control_plane,
        })
    }
}

fn program(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: cargo build --release -p remora-proxy -p remora-control-plane",
            path.display()
        );
    }
    Ok(path)
}

/// Which pod of [`OBJECTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// On the system's core, and measured.
    Caller = 1,
    /// The same.
    Callee = 2,
    /// On the load's core.
    FarCaller = 3,
    /// The same.
    FarCallee = 4,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Callee => "callee",
            Self::FarCaller => "far-caller",
            Self::FarCallee => "far-callee",
        }
    }

    /// Its address, where the first pod has `pod`.
    pub const fn address(self, pod: Ipv4Addr) -> Ipv4Addr {
        let [first, second, _, last] = pod.octets();
        Ipv4Addr::new(first, second, self as u8, last)
    }

    const fn core(self, stage: &Stage) -> usize {
        match self {
            Self::Caller | Self::Callee => stage.cores.system,
            Self::FarCaller | Self::FarCallee => stage.cores.load,
        }
    }

    /// The ports that its sidecar binds for the upstreams, which play its application.
    fn inbound(self, stage: &Stage) -> Vec<u16> {
        let ports = stage.upstream;
        match self {
            Self::Caller => vec![ports.http1, ports.bulk],
            Self::Callee | Self::FarCallee => vec![ports.http1, ports.bulk_http],
            Self::FarCaller => Vec::new(),
        }
    }
}

/// A control plane that serves [`OBJECTS`].
#[derive(Debug)]
pub struct ControlPlane {
    /// It.
    pub process: Process,
    /// Its stream.
    pub url: String,
}

/// A sidecar that connects to it.
#[derive(Debug)]
pub struct Sidecar {
    /// It.
    pub process: Process,
    /// The pod's outgoing connections.
    pub outbound: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
    /// From just before its start until `/ready` said 200.
    pub ready_after: Duration,
}

/// Starts the control plane on the load's core.
///
/// # Errors
/// When it does not become ready, or finds anything wrong with the objects.
pub fn control_plane(stage: &Stage) -> anyhow::Result<ControlPlane> {
    let folder = stage.dir.join("objects");
    std::fs::create_dir_all(&folder)?;
    stage.write("objects/bench.yaml", OBJECTS, &[])?;
    let (stream, admin) = (free_port()?, loopback(free_port()?));
    let mut command = Command::new(&stage.remora.control_plane);
    command
        .arg("--source")
        .arg(format!("files:{}", folder.display()))
        .args(["--listen", &format!("127.0.0.1:{stream}")])
        .args(["--admin", &admin.to_string()])
        .args(["--trust-domain", TRUST_DOMAIN])
        .arg("--ca-dir")
        .arg(stage.identities.ca())
        .arg("--token-key")
        .arg(stage.identities.token_key());
    let cores = stage.cores;
    let mut process = Process::start("control-plane", &command, cores.load, cores, &stage.dir)?;
    wait_ready(&mut process, admin, Duration::from_millis(10))?;
    let (_, problems) = http::get(admin, "/problems")?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&problems)?;
    if !list.is_empty() {
        bail!("the control plane finds problems in the objects: {problems}");
    }
    Ok(ControlPlane {
        process,
        url: format!("https://127.0.0.1:{stream}"),
    })
}

/// Starts a pod's sidecar, and waits until it is ready: its certificate is in hand.
///
/// # Errors
/// When it does not become ready.
pub fn sidecar(stage: &Stage, control_plane: &str, role: Role) -> anyhow::Result<Sidecar> {
    let (name, address) = (role.name(), role.address(stage.pod));
    // Another for each stage: tokens lie beside each other.
    let uid = format!("{name}-{}", stage.pod.octets()[3]);
    let token = stage.identities.token("bench", name, &uid)?;
    let inbound: Vec<String> = role.inbound(stage).iter().map(u16::to_string).collect();
    let outbound = loopback(free_port()?);
    let admin = loopback(free_port()?);
    let mut command = Command::new(&stage.remora.sidecar);
    command
        .env("REMORA_NAMESPACE", "bench")
        .env("REMORA_POD", name)
        .env("REMORA_POD_UID", &uid)
        .env("REMORA_POD_IPS", address.to_string())
        .env("REMORA_CONTROL_PLANE", control_plane)
        .env("REMORA_TRUST_DOMAIN", TRUST_DOMAIN)
        .env("REMORA_TOKEN_FILE", token)
        .env("REMORA_TRUST_FILE", stage.identities.ca().join("ca.crt"))
        .env("REMORA_MODE", "explicit")
        .env("REMORA_APP_ADDRESS", "127.0.0.1")
        .env("REMORA_EXPLICIT_INBOUND", inbound.join(","))
        .env("REMORA_OUTBOUND_LISTEN", outbound.to_string())
        .env("REMORA_ADMIN_LISTEN", admin.to_string())
        .env("REMORA_PROBE_LISTEN", "127.0.0.1:0")
        .env("REMORA_CONCURRENCY", "1");
    let cores = stage.cores;
    let started = Moment::now();
    let mut process = Process::start(name, &command, role.core(stage), cores, &stage.dir)?;
    wait_ready(&mut process, admin, Duration::from_millis(1))?;
    let ready_after = started.elapsed();
    Ok(Sidecar {
        process,
        outbound,
        admin,
        ready_after,
    })
}

fn wait_ready(process: &mut Process, admin: SocketAddr, glance: Duration) -> anyhow::Result<()> {
    let began = Moment::now();
    loop {
        if matches!(http::get(admin, "/ready"), Ok((200, _))) {
            return Ok(());
        }
        process.check_alive()?;
        if began.elapsed() > PATIENCE {
            bail!("not ready after {PATIENCE:?}: {}", process.said());
        }
        stop::sleep(glance)?;
    }
}

/// Starts all.
///
/// # Errors
/// When one does not become ready.
pub fn start(stage: &Stage) -> anyhow::Result<Running> {
    let control_plane = control_plane(stage)?;
    let sidecar = |role| sidecar(stage, &control_plane.url, role);
    let callee = sidecar(Role::Callee)?;
    let far_callee = sidecar(Role::FarCallee)?;
    let caller = sidecar(Role::Caller)?;
    let far_caller = sidecar(Role::FarCaller)?;
    let (first, second) = (caller.process.id(), callee.process.id());
    let called = |scenario, host| Target {
        scenario,
        address: caller.outbound,
        host,
        pids: vec![first],
    };
    let own = |scenario, port| Target {
        address: (stage.pod, port).into(),
        ..called(scenario, "own")
    };
    let pair = |scenario, host| Target {
        pids: vec![first, second],
        ..called(scenario, host)
    };
    let inbound = |scenario, host| Target {
        scenario,
        address: far_caller.outbound,
        host,
        pids: vec![second],
    };
    let targets = vec![
        called(Scenario::Http1, "plain"),
        called(Scenario::Http1Features, "guarded"),
        called(Scenario::Http2, "http2"),
        own(Scenario::Http1AsTcp, stage.upstream.http1),
        own(Scenario::TcpBulk, stage.upstream.bulk),
        called(Scenario::MtlsOut, "far-callee"),
        inbound(Scenario::MtlsIn, "callee"),
        pair(Scenario::MtlsPair, "callee"),
        pair(Scenario::MtlsBulk, "callee-bulk"),
        called(Scenario::MtlsBulkOut, "far-callee-bulk"),
        inbound(Scenario::MtlsBulkIn, "callee-bulk"),
    ];
    let address = Role::Callee.address(stage.pod);
    Ok(Running {
        measured: Some(caller.process),
        helpers: vec![
            callee.process,
            far_callee.process,
            far_caller.process,
            control_plane.process,
        ],
        targets,
        door: Some(Door {
            address: (address, stage.upstream.http1).into(),
            alpn: "remora-h1",
            pid: second,
        }),
    })
}
