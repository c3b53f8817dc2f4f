//! The control plane's process.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use remora_proto::well_known::{CONTROL_PLANE_ADMIN_PORT, CONTROL_PLANE_PORT};
use tokio::process::{Child, Command};

use super::cluster::catalogue::Problem;
use super::cluster::container::OURSELVES;
use super::identity;
use super::measure::client::Client;
use super::options::{Isolation, Plan};
use super::process::become_process;
use super::stage::network::GATEWAY_ADDRESS;

/// How long it may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// The control plane of the stage.
#[derive(Debug)]
pub struct ControlPlane {
    plan: Plan,
    child: Option<Child>,
}

impl ControlPlane {
    /// Where sidecars find it, on this kind of stage.
    pub fn address(isolation: Isolation) -> SocketAddr {
        let ip = match isolation {
            Isolation::Netns => GATEWAY_ADDRESS,
            Isolation::Loopback => [127, 77, 0, 1].into(),
        };
        SocketAddr::new(ip.into(), CONTROL_PLANE_PORT)
    }

    /// Where its admin endpoint is.
    pub fn admin(isolation: Isolation) -> SocketAddr {
        SocketAddr::new(Self::address(isolation).ip(), CONTROL_PLANE_ADMIN_PORT)
    }

    /// Starts it.
    ///
    /// # Errors
    /// A port that is taken, a process that cannot be started.
    pub fn start(plan: &Plan) -> anyhow::Result<Self> {
        for address in [Self::address(plan.isolation), Self::admin(plan.isolation)] {
            std::net::TcpListener::bind(address).with_context(|| {
                format!("{address} is taken: does another playground or control plane run here?")
            })?;
        }
        let mut control_plane = Self {
            plan: plan.clone(),
            child: None,
        };
        control_plane.start_again()?;
        Ok(control_plane)
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let stage = self.plan.stage();
        let source = |folder: &str| format!("files:{}", stage.join(folder).display());
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(Self::log(&self.plan))?;
        let mut command = become_process::beside();
        command
            .args([OURSELVES, "control-plane"])
            .args([
                "--source",
                &source("user"),
                "--source",
                &source("generated"),
            ])
            .args(identity::flags(
                &stage,
                self.plan.scenario.identity_lifetime(),
            ))
            .args(["--listen", &Self::address(self.plan.isolation).to_string()])
            .args(["--admin", &Self::admin(self.plan.isolation).to_string()])
            .env_remove(Plan::VARIABLE)
            .stdout(log.try_clone()?)
            .stderr(Stdio::from(log));
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut command = Command::from(command);
        self.child = Some(
            command
                .kill_on_drop(true)
                .spawn()
                .context("the control plane cannot be started")?,
        );
        Ok(())
    }

    fn log(plan: &Plan) -> std::path::PathBuf {
        plan.stage().join("logs").join("control-plane.log")
    }

    /// Waits until it answers that it is ready.
    ///
    /// # Errors
    /// When it ends before, or is not ready after 10 s.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let mut client = Client::new(Self::admin(self.plan.isolation));
        let ready = async {
            while !matches!(client.get("/ready").await, Ok((200, _))) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let log = Self::log(&self.plan);
        tokio::select! {
            () = ready => Ok(()),
            status = self.ended() => bail!("the control plane ended ({status}){}", last_line(&log)),
            () = tokio::time::sleep(READY_WITHIN) => {
                bail!("the control plane is not ready after {} s{}", READY_WITHIN.as_secs(), last_line(&log))
            }
        }
    }

    /// Returns when the process ends by itself; never while there is none.
    pub async fn ended(&mut self) -> ExitStatus {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status,
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// SIGTERM, and SIGKILL when it does not help.
    pub async fn end(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    /// Everything that it finds wrong in the folders, under the user's names.
    pub async fn problems(plan: &Plan) -> Option<Vec<Problem>> {
        let problems: Vec<Problem> = Client::new(Self::admin(plan.isolation))
            .json("/problems")
            .await
            .ok()?;
        let (user, generated) = (plan.stage().join("user"), plan.stage().join("generated"));
        let named = problems.into_iter().map(|mut problem| {
            let path = Path::new(&problem.file).to_owned();
            let inside = path
                .strip_prefix(&user)
                .or_else(|_| path.strip_prefix(&generated));
            if let Ok(inside) = inside {
                problem.file = inside.to_string_lossy().into_owned();
            }
            problem
        });
        Some(named.collect())
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(String::new, |line| format!("; it said: {line}"))
}
