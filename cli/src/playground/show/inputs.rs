//! Everything that can happen, from one place.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use crossterm::event::{Event as TerminalEvent, EventStream, KeyEvent};
use futures_util::StreamExt;
use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::playground::cluster::catalogue::Problem;
use crate::playground::cluster::kubelet::PodEvent;
use crate::playground::control_plane::ControlPlane;
use crate::playground::control_socket::{Answer, Asked, Request};
use crate::playground::measure::propagation::{Before, Propagation};
use crate::playground::measure::sidecar::Said;
use crate::playground::measure::visitor::Load;
use crate::playground::options::Plan;

/// How much may wait for the loop in each channel.
const MOST_WAITING: usize = 1024;
/// After a file changed: as long as changes follow this fast, they belong together.
const QUIET: Duration = Duration::from_millis(4);
/// But no longer than this many times.
const MOST_QUIET: u32 = 10;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// In a pod.
    Pod(PodEvent),
    /// A sidecar said something.
    Said(String, Said),
    /// The user's folder changed.
    Files,
    /// Another terminal wants something.
    Asked(Request, oneshot::Sender<Answer>),
    /// Something that we asked for is known.
    News(News),
    /// A key.
    Key(KeyEvent),
    /// The control plane ended by itself.
    ControlPlaneEnded(ExitStatus),
    /// We are told to end.
    Signal,
    /// Time passes.
    Beat,
}

/// The result of a task that the loop started.
#[derive(Debug)]
pub enum News {
    /// A policy is in force, or lost.
    Propagated(Propagation),
    /// What is wrong in the YAML.
    Problems(Vec<Problem>),
    /// What is in force in every sidecar.
    Before(Before),
    /// A stage of the scenario is in force everywhere after this time, or is not.
    StageInForce(usize, Option<Duration>),
}

/// A channel with both its ends.
type Both<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// All the places where something can happen.
pub struct Inputs {
    pods: Both<PodEvent>,
    said: Both<(String, Said)>,
    asked: Both<Asked>,
    news: Both<News>,
    files: mpsc::Receiver<()>,
    load: (watch::Sender<Load>, watch::Receiver<Load>),
    keys: Option<EventStream>,
    signals: [Signal; 3],
    beat: Interval,
    // Watches for as long as it is kept.
    _watcher: RecommendedWatcher,
}

impl Inputs {
    /// Opens them; the user's folder, and the scenario's, are watched from now on.
    ///
    /// # Errors
    /// When a folder cannot be watched or signals not be caught.
    pub fn open(plan: &Plan) -> anyhow::Result<Self> {
        let (changed, raw) = mpsc::channel(1);
        let (settled, files) = mpsc::channel(1);
        tokio::spawn(settle(raw, settled));
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Our own reading is no change; a full channel means that one is known.
                let is_reading = event.as_ref().is_ok_and(|event| is_reading(event.kind));
                if !is_reading {
                    let _ = changed.try_send(());
                }
            })?;
        // The stages' YAML, which is within, too: a weight can be changed while it is
        // in force.
        let folder = &plan.manifests;
        watcher
            .watch(folder, RecursiveMode::Recursive)
            .with_context(|| format!("{} cannot be watched", folder.display()))?;
        let mut beat = interval(super::BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let signals = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Self {
            pods: mpsc::channel(MOST_WAITING),
            said: mpsc::channel(MOST_WAITING),
            asked: mpsc::channel(MOST_WAITING),
            news: mpsc::channel(MOST_WAITING),
            files,
            load: watch::channel(Load::default()),
            keys: None,
            signals,
            beat,
            _watcher: watcher,
        })
    }

    /// What happens next.
    pub async fn next(&mut self, control_plane: &mut ControlPlane) -> Input {
        let [terminate, interrupt, hangup] = &mut self.signals;
        tokio::select! {
            biased;
            _ = terminate.recv() => Input::Signal,
            _ = interrupt.recv() => Input::Signal,
            _ = hangup.recv() => Input::Signal,
            _ = self.beat.tick() => Input::Beat,
            Some(key) = next_key(&mut self.keys) => Input::Key(key),
            Some((request, reply)) = self.asked.1.recv() => Input::Asked(request, reply),
            Some(event) = self.pods.1.recv() => Input::Pod(event),
            Some(()) = self.files.recv() => Input::Files,
            Some(news) = self.news.1.recv() => Input::News(news),
            status = control_plane.ended() => Input::ControlPlaneEnded(status),
            Some((pod, said)) = self.said.1.recv() => Input::Said(pod, said),
        }
    }

    /// Waits for the next happening in a pod only: for the end.
    pub async fn next_pod_event(&mut self) -> Option<PodEvent> {
        self.pods.1.recv().await
    }

    /// Listens to the keyboard from now on.
    pub fn open_keys(&mut self) {
        self.keys = Some(EventStream::new());
    }

    /// Where pods' happenings go.
    pub fn pod_sender(&self) -> mpsc::Sender<PodEvent> {
        self.pods.0.clone()
    }

    /// Where sidecars' words go.
    pub fn said_sender(&self) -> mpsc::Sender<(String, Said)> {
        self.said.0.clone()
    }

    /// Where requests from other terminals go.
    pub fn asked_sender(&self) -> mpsc::Sender<Asked> {
        self.asked.0.clone()
    }

    /// Where the results of tasks go.
    pub fn news_sender(&self) -> mpsc::Sender<News> {
        self.news.0.clone()
    }

    /// Where the load's counts go.
    pub fn load_sender(&self) -> watch::Sender<Load> {
        self.load.0.clone()
    }

    /// The load's newest counts.
    pub fn load(&self) -> Load {
        self.load.1.borrow().clone()
    }

    /// Asks the control plane what is wrong; the answer is news.
    pub fn ask_problems(&self, plan: &Plan) {
        let (plan, news) = (plan.clone(), self.news_sender());
        tokio::spawn(async move {
            if let Some(problems) = ControlPlane::problems(&plan).await {
                let _ = news.send(News::Problems(problems)).await;
            }
        });
    }

    /// Asks the sidecars what is in force; the answer is news.
    pub fn ask_before(&self, admins: Vec<(String, SocketAddr)>) {
        let news = self.news_sender();
        tokio::spawn(async move {
            let _ = news.send(News::Before(Before::ask(admins).await)).await;
        });
    }
}

fn is_reading(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

async fn next_key(keys: &mut Option<EventStream>) -> Option<KeyEvent> {
    let Some(keys) = keys else {
        return std::future::pending().await;
    };
    loop {
        match keys.next().await {
            Some(Ok(TerminalEvent::Key(key))) if key.is_press() => return Some(key),
            Some(Ok(_)) => {}
            // The terminal is gone: SIGHUP says so too.
            Some(Err(_)) | None => return std::future::pending().await,
        }
    }
}

/// Passes changes of files on, once writing has paused. A task of its own: a
/// change that is half waited for must not be forgotten.
async fn settle(mut raw: mpsc::Receiver<()>, settled: mpsc::Sender<()>) {
    while raw.recv().await.is_some() {
        for _ in 0..MOST_QUIET {
            if tokio::time::timeout(QUIET, raw.recv()).await.is_err() {
                break;
            }
        }
        if settled.send(()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::path::Path;

    use crate::playground::options::Isolation;
    use crate::playground::scenario::Scenario;

    fn plan(place: &Path) -> Plan {
        Plan {
            isolation: Isolation::Loopback,
            isolation_reason: None,
            folder: place.to_owned(),
            manifests: place.join("demo"),
            scenario: Scenario::Canary,
            length_ms: None,
            json: false,
            keep_logs: None,
            capture: None,
        }
    }

    #[tokio::test]
    async fn the_yaml_of_the_folder_and_of_the_scenario_is_watched() {
        let place = tempfile::tempdir().unwrap();
        let files = ["demo/policies.yaml", "demo/scenarios/canary/2-half.yaml"];
        let files = files.map(|file| place.path().join(file));
        for file in &files {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
        }
        let mut inputs = Inputs::open(&plan(place.path())).unwrap();
        for file in &files {
            fs::write(file, "kind: HTTPRoute\n").unwrap();
            let changed = tokio::time::timeout(Duration::from_secs(10), inputs.files.recv());
            assert!(changed.await.is_ok(), "{}", file.display());
            // What else is told of the same writing.
            while tokio::time::timeout(Duration::from_millis(200), inputs.files.recv())
                .await
                .is_ok()
            {}
        }
    }
}
