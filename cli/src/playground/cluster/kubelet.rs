//! A pod's life, as the kubelet leads it.
//!
//! ```text
//! init containers in order ──> containers ──> ready ──> removed: application, then sidecars
//!  (native sidecars stay, and    ^   │ │
//!   the next waits for their     │   │ └─ a container ended by itself: started again
//!   start-up probe)              └───┘
//!                              killed, revived
//! ```
//! A killed pod keeps its addresses, its namespace and its redirect rules, as
//! a pod whose processes were killed does.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::select_all;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use remora_proto::well_known::SIDECAR_CONTAINER;
use tokio::process::Child;
use tokio::sync::mpsc;

use super::container::Surroundings;
use super::probes;
use crate::playground::clock;

/// What becomes ready does so within this time, or the pod has failed.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// How long an init container may run.
const INIT_WITHIN: Duration = Duration::from_secs(15);
/// How long a container may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(7);
/// The first pause before a container that ended by itself is started again.
const FIRST_RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The longest.
const LONGEST_RESTART_PAUSE: Duration = Duration::from_secs(5);
/// Orders that may wait for a pod.
const MOST_ORDERS: usize = 16;

/// What a pod is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// SIGKILL all processes and leave it so.
    Kill,
    /// Start them again.
    Revive,
    /// End in order.
    Remove,
}

/// What happened in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The sidecar's process runs.
    SidecarStarted {
        /// Its process id.
        pid: u32,
    },
    /// The sidecar passed its start-up probe.
    SidecarReady {
        /// Milliseconds since its process was started.
        after_ms: u64,
    },
    /// All containers run and are ready.
    Ready,
    /// All processes were killed, as ordered.
    Killed,
    /// A container ended by itself and will be started again.
    Restarting {
        /// Which, how, and its last words.
        why: String,
    },
    /// The pod could not be started; it is tried again.
    Failed {
        /// Why.
        why: String,
    },
    /// The pod has ended, as ordered.
    Gone,
}

/// A happening and where it was.
#[derive(Debug, Clone)]
pub struct PodEvent {
    /// The pod's name.
    pub pod: String,
    /// What happened.
    pub happening: Happening,
}

/// A container whose process runs.
struct Running {
    container: Container,
    is_sidecar: bool,
    child: Child,
}

/// Starts a pod's life; orders go to the sender that is returned.
pub fn start(around: Surroundings, events: mpsc::Sender<PodEvent>) -> mpsc::Sender<Order> {
    let (orders, received) = mpsc::channel(MOST_ORDERS);
    let name = around.pod.metadata.name.clone().unwrap_or_default();
    let life = Life {
        name,
        around,
        events,
        orders: received,
    };
    tokio::spawn(life.live());
    orders
}

struct Life {
    name: String,
    around: Surroundings,
    events: mpsc::Sender<PodEvent>,
    orders: mpsc::Receiver<Order>,
}

impl Life {
    async fn live(mut self) {
        let mut pause = FIRST_RESTART_PAUSE;
        let mut initialised = false;
        loop {
            let mut running = Vec::new();
            let starting = start_all(
                &self.around,
                &self.events,
                &self.name,
                &mut initialised,
                &mut running,
            );
            let started = tokio::select! {
                started = starting => Ok(started),
                order = self.orders.recv() => Err(order),
            };
            let order = match started {
                Ok(Ok(())) => {
                    pause = FIRST_RESTART_PAUSE;
                    self.tell(Happening::Ready).await;
                    self.supervise(&mut running).await
                }
                Ok(Err(error)) => {
                    self.tell(Happening::Failed {
                        why: format!("{error:#}"),
                    })
                    .await;
                    let ordered = tokio::time::timeout(pause, self.orders.recv()).await;
                    pause = (pause * 2).min(LONGEST_RESTART_PAUSE);
                    match ordered {
                        Ok(order) => order,
                        Err(_) => continue,
                    }
                }
                Err(order) => order,
            };
            match order {
                Some(Order::Kill) => {
                    kill_all(&mut running).await;
                    self.tell(Happening::Killed).await;
                    if !self.revived().await {
                        return self.tell(Happening::Gone).await;
                    }
                }
                Some(Order::Revive) => kill_all(&mut running).await,
                Some(Order::Remove) | None => {
                    end_in_order(running).await;
                    return self.tell(Happening::Gone).await;
                }
            }
        }
    }

    /// Waits for a revival; false when the pod is to go.
    async fn revived(&mut self) -> bool {
        loop {
            match self.orders.recv().await {
                Some(Order::Revive) => return true,
                Some(Order::Kill) => {}
                Some(Order::Remove) | None => return false,
            }
        }
    }

    /// Starts again what ends by itself, until an order other than `Revive`.
    async fn supervise(&mut self, running: &mut [Running]) -> Option<Order> {
        let mut pause = FIRST_RESTART_PAUSE;
        loop {
            let ended = tokio::select! {
                ended = first_end(running) => ended,
                order = self.orders.recv() => match order {
                    Some(Order::Revive) => continue,
                    order => return order,
                },
            };
            let (index, status) = ended;
            let why = format!(
                "{} {}{}",
                running[index].container.name,
                in_words(status),
                self.last_words(&running[index].container.name)
            );
            self.tell(Happening::Restarting { why }).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                order = self.orders.recv() => if order != Some(Order::Revive) { return order },
            }
            pause = (pause * 2).min(LONGEST_RESTART_PAUSE);
            match self.around.start(&running[index].container) {
                Ok(child) => {
                    if running[index].container.name == SIDECAR_CONTAINER {
                        self.tell(Happening::SidecarStarted {
                            pid: child.id().unwrap_or_default(),
                        })
                        .await;
                    }
                    running[index].child = child;
                    let container = running[index].container.clone();
                    tokio::select! {
                        outcome = wait_all(&self.around, &container, running) => match outcome {
                            Ok(()) => self.tell(Happening::Ready).await,
                            Err(error) => self.tell(Happening::Failed { why: format!("{error:#}") }).await,
                        },
                        order = self.orders.recv() => if order != Some(Order::Revive) { return order },
                    }
                }
                Err(error) => {
                    self.tell(Happening::Failed {
                        why: format!("{error:#}"),
                    })
                    .await
                }
            }
        }
    }

    fn last_words(&self, container: &str) -> String {
        last_words(&self.around, container)
    }

    async fn tell(&self, happening: Happening) {
        tell(&self.events, &self.name, happening).await;
    }
}

async fn tell(events: &mpsc::Sender<PodEvent>, pod: &str, happening: Happening) {
    // A closed channel means that the stage is being taken down.
    let _ = events
        .send(PodEvent {
            pod: pod.to_owned(),
            happening,
        })
        .await;
}

/// Starts everything in order and waits until it is ready. Init containers
/// that have run to their end once are not run again: the pod is the same.
async fn start_all(
    around: &Surroundings,
    events: &mpsc::Sender<PodEvent>,
    name: &str,
    initialised: &mut bool,
    running: &mut Vec<Running>,
) -> anyhow::Result<()> {
    let spec = around.pod.spec.clone().unwrap_or_default();
    let PodSpec {
        init_containers,
        containers,
        ..
    } = spec;
    for container in init_containers.unwrap_or_default() {
        if around.skips(&container) {
            continue;
        }
        if container.restart_policy.as_deref() == Some("Always") {
            start_sidecar(around, events, name, running, container).await?;
        } else if !*initialised {
            run_to_end(around, &container).await?;
        }
    }
    *initialised = true;
    for container in &containers {
        let child = around.start(container)?;
        let is_sidecar = container.name == SIDECAR_CONTAINER;
        running.push(Running {
            container: container.clone(),
            is_sidecar,
            child,
        });
    }
    for container in &containers {
        wait_all(around, container, running).await?;
    }
    Ok(())
}

/// Waits until a container's probes pass.
async fn wait_all(
    around: &Surroundings,
    container: &Container,
    running: &mut [Running],
) -> anyhow::Result<()> {
    let probes = [&container.startup_probe, &container.readiness_probe];
    for probe in probes.into_iter().flatten() {
        wait_ready(around, container, probe, running).await?;
    }
    Ok(())
}

async fn start_sidecar(
    around: &Surroundings,
    events: &mpsc::Sender<PodEvent>,
    name: &str,
    running: &mut Vec<Running>,
    container: Container,
) -> anyhow::Result<()> {
    let started_at = clock::now();
    let child = around.start(&container)?;
    let is_ours = container.name == SIDECAR_CONTAINER;
    if is_ours {
        tell(
            events,
            name,
            Happening::SidecarStarted {
                pid: child.id().unwrap_or_default(),
            },
        )
        .await;
    }
    running.push(Running {
        container: container.clone(),
        is_sidecar: true,
        child,
    });
    if let Some(probe) = &container.startup_probe {
        wait_ready(around, &container, probe, running).await?;
    }
    if is_ours {
        let after_ms = clock::millis(clock::now() - started_at);
        tell(events, name, Happening::SidecarReady { after_ms }).await;
    }
    Ok(())
}

/// Runs an init container to its end.
async fn run_to_end(around: &Surroundings, container: &Container) -> anyhow::Result<()> {
    let mut child = around.start(container)?;
    let status = tokio::time::timeout(INIT_WITHIN, child.wait())
        .await
        .with_context(|| {
            format!(
                "init container {} did not end within {} s",
                container.name,
                INIT_WITHIN.as_secs()
            )
        })??;
    if !status.success() {
        bail!(
            "init container {} {}{}",
            container.name,
            in_words(status),
            last_words(around, &container.name)
        );
    }
    Ok(())
}

/// Waits until a probe passes, or a container ends, or patience does.
async fn wait_ready(
    around: &Surroundings,
    container: &Container,
    probe: &k8s_openapi::api::core::v1::Probe,
    running: &mut [Running],
) -> anyhow::Result<()> {
    let Some(question) = probes::question(probe, &around.pod, around.address) else {
        return Ok(());
    };
    tokio::select! {
        () = probes::until_passed(&question) => Ok(()),
        (index, status) = first_end(running) => {
            let ended = running[index].container.name.clone();
            bail!("container {ended} {}{}", in_words(status), last_words(around, &ended))
        }
        () = tokio::time::sleep(READY_WITHIN) => {
            bail!(
                "container {} is not ready after {} s ({question:?}){}",
                container.name, READY_WITHIN.as_secs(), last_words(around, &container.name)
            )
        }
    }
}

/// The first container that ends; never returns when there is none.
async fn first_end(running: &mut [Running]) -> (usize, ExitStatus) {
    if running.is_empty() {
        return std::future::pending().await;
    }
    let ends = running.iter_mut().map(|one| Box::pin(one.child.wait()));
    let (status, index, _) = select_all(ends).await;
    (index, status.unwrap_or_else(|_| ExitStatus::from_raw(0)))
}

async fn kill_all(running: &mut Vec<Running>) {
    for one in running.iter() {
        signal(&one.child, Signal::SIGKILL);
    }
    for mut one in running.drain(..) {
        let _ = one.child.wait().await;
    }
}

/// The application first, then the sidecars, last started first.
async fn end_in_order(running: Vec<Running>) {
    let (sidecars, mut application): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|one| one.is_sidecar);
    end_together(&mut application).await;
    for sidecar in sidecars.into_iter().rev() {
        end_together(&mut [sidecar]).await;
    }
}

async fn end_together(running: &mut [Running]) {
    for one in running.iter() {
        signal(&one.child, Signal::SIGTERM);
    }
    let all = async {
        for one in running.iter_mut() {
            let _ = one.child.wait().await;
        }
    };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        for one in running.iter_mut() {
            signal(&one.child, Signal::SIGKILL);
            let _ = one.child.wait().await;
        }
    }
}

/// Signals a container's whole process group.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        let _ = killpg(Pid::from_raw(pid), signal);
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last line of a container's log, for the sentence about its end.
fn last_words(around: &Surroundings, container: &str) -> String {
    let text = std::fs::read_to_string(around.log(container)).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(String::new, |line| format!("; it said: {}", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(in_words(ExitStatus::from_raw(0x100)), "ended with status 1");
        assert_eq!(in_words(ExitStatus::from_raw(9)), "was ended by signal 9");
    }
}
