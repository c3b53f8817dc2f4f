//! Children: pinned to a core, ended with the harness on every way out.
//!
//! A child ends with its [`Process`]; where the harness itself is killed, the
//! kernel ends it (`setpriv --pdeathsig`, where util-linux has it).

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::clock::Moment;
use crate::stop;

/// After SIGTERM a child has so long, then comes SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The two cores of every measurement.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    /// Generator, upstream, and the harness itself.
    pub load: usize,
    /// The system under test alone.
    pub system: usize,
}

impl Cores {
    /// The first two cores that the harness may use.
    ///
    /// # Errors
    /// When there are not two.
    pub fn find() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot read the allowed cores")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        match (cores.next(), cores.next()) {
            (Some(load), Some(system)) => Ok(Self { load, system }),
            _ => bail!("two cores are needed: one for the load, one for the system under test"),
        }
    }
}

/// Binds this thread, and what it starts from now on, to `core`.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("cannot pin to core {core}"))
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on `core`; what it says goes to `<dir>/<name>.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &str,
        command: &Command,
        core: usize,
        cores: Cores,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log)?;
        let mut wrapped = dying_with_parent(command);
        wrapped
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        // The child inherits this thread's cores.
        pin(core)?;
        let child = wrapped.spawn();
        pin(cores.load)?;
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log,
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When that takes longer than `patience`, or the harness is told to end.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let began = Moment::now();
        while began.elapsed() < patience {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            stop::sleep(Duration::from_millis(10))?;
        }
        bail!("{} has not ended after {patience:?}", self.name)
    }

    /// Waits until it listens on `address`.
    ///
    /// # Errors
    /// When it ends instead, or after `patience`; with what it said.
    pub fn wait_for(&mut self, address: SocketAddr, patience: Duration) -> anyhow::Result<()> {
        let began = Moment::now();
        while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
            self.check_alive()?;
            if began.elapsed() > patience {
                bail!(
                    "{} does not listen on {address}: {}",
                    self.name,
                    self.said()
                );
            }
            stop::sleep(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// # Errors
    /// When it has ended; with what it said.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}): {}", self.name, self.said());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Not reaped yet, so the id is still this child's.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let began = Moment::now();
        while began.elapsed() < GRACE {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `command` under `setpriv`, which executes it in its own place.
fn dying_with_parent(command: &Command) -> Command {
    let mut wrapped = match find_program("setpriv") {
        Some(setpriv) => {
            let mut wrapped = Command::new(setpriv);
            wrapped.args(["--pdeathsig", "KILL", "--"]);
            wrapped.arg(command.get_program());
            wrapped
        }
        None => Command::new(command.get_program()),
    };
    wrapped.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped
}

/// The program called `name`, on the path or where Debian keeps daemons.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Lets this process and those that it starts have `wanted` descriptors, or as
/// many as it may, at least `needed`.
///
/// # Errors
/// When that is less: more than the hard limit needs CAP_SYS_RESOURCE.
pub fn allow_descriptors(needed: u64, wanted: u64) -> anyhow::Result<()> {
    let present = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>, count| limit.is_none_or(|limit| limit >= count);
    if enough(present.current, wanted) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: present.maximum.map(|maximum| maximum.max(wanted)),
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(());
    }
    if !enough(present.maximum, needed) {
        bail!(
            "{needed} descriptors are needed, {:?} are allowed: ulimit -n {wanted}",
            present.maximum
        );
    }
    let most = Rlimit {
        current: present.maximum,
        maximum: present.maximum,
    };
    setrlimit(Resource::Nofile, most).context("the limit of descriptors cannot be raised")
}

/// A loopback port that nothing uses now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// `port` on 127.0.0.1.
pub const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
