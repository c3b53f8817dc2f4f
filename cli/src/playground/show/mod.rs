//! The loop that ties it all together: what happens on the stage comes in as
//! [`Input`], one after the other; what is to happen goes out.
//!
//! - [`inputs`]: everything that can happen, from one place.
//! - [`record`]: what is remembered of it.
//! - [`acts`]: what the scenario, the keys and the socket do; [`stages`]: the
//!   stages of a scenario of routes, [`trials`]: those of one of policies.
//! - [`changes`]: the policy that is changed to see how fast it is in force.
//! - [`ending`]: the end, in order, and the report.
//! - [`scene`]: what is shown of it all.

mod acts;
mod changes;
mod ending;
mod inputs;
mod record;
mod scene;
mod stages;
mod trials;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::capture::Capture;
use super::clock;
use super::cluster::kubelet::{Happening, PodEvent};
use super::control_plane::ControlPlane;
use super::control_socket;
use super::measure::propagation::Propagation;
use super::measure::{sidecar, visitor};
use super::options::Plan;
use super::routing;
use super::scenario::Act;
use super::view::View;
use super::world::World;
use changes::Changes;
use inputs::{Input, Inputs, News};
use record::Record;
use stages::Stages;
use trials::Playing;

/// The loop's own beat: acts and changes are at most this late.
pub const BEAT: Duration = Duration::from_millis(50);
/// The stage must be ready within this time, when nobody watches.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often the control plane is asked what is wrong in the YAML.
const PROBLEMS_EVERY: Duration = Duration::from_secs(1);
/// How often what is being waited for is said, without a live view.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Why the loop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The time is over.
    Complete,
    /// Somebody ended it.
    Interrupted,
    /// The stage did not become ready.
    NeverReady,
}

/// Everything.
struct Show {
    plan: Plan,
    world: World,
    control_plane: ControlPlane,
    capture: Option<Capture>,
    inputs: Inputs,
    record: Record,
    changes: Changes,
    acts: VecDeque<(Duration, Act)>,
    stages: Stages,
    playing: Playing,
    watchers: BTreeMap<String, JoinHandle<()>>,
    load_watcher: Option<JoinHandle<()>>,
    is_load_asked_for: bool,
    view: Option<View>,
    created: Instant,
    began: Option<Instant>,
    outage_ended: Option<Instant>,
    drawn_at: Option<Instant>,
    load_seen: u64,
    history: VecDeque<u64>,
    slowed: BTreeSet<String>,
    broken: BTreeSet<String>,
    asked_problems: Instant,
    said_progress: Instant,
}

/// Runs the whole show.
///
/// # Errors
/// When the stage cannot be set up or our own files not be written.
pub async fn run(plan: Plan) -> anyhow::Result<ExitCode> {
    let mut show = Show::set_up(plan).await?;
    let end = show.play().await;
    if let Some(view) = show.view.take() {
        view.close();
    }
    show.finish(end?).await
}

impl Show {
    async fn set_up(plan: Plan) -> anyhow::Result<Self> {
        let now = clock::now();
        let mut inputs = Inputs::open(&plan)?;
        let address = ControlPlane::address(plan.isolation);
        // First the folders, which the control plane watches, and the bridge,
        // where it listens.
        let mut world = World::create(&plan, address, inputs.pod_sender()).await?;
        let capture = plan.capture.as_deref().map(Capture::start).transpose()?;
        let mut control_plane = ControlPlane::start(&plan)?;
        control_plane.until_ready().await?;
        control_socket::listen(&plan.socket(), inputs.asked_sender())?;
        let mut changes = Changes::default();
        world.sync().await?;
        if plan.length_ms.is_some() && plan.scenario.measures_changes() {
            changes.prepare(&mut world)?;
        }
        let view = if plan.json {
            None
        } else {
            inputs.open_keys();
            Some(View::open()?)
        };
        let mut show = Self {
            acts: VecDeque::new(),
            stages: Stages::default(),
            playing: Playing::default(),
            watchers: BTreeMap::new(),
            load_watcher: None,
            is_load_asked_for: false,
            record: Record::new(now),
            created: now,
            began: None,
            outage_ended: None,
            drawn_at: None,
            load_seen: 0,
            history: VecDeque::new(),
            slowed: BTreeSet::new(),
            broken: BTreeSet::new(),
            asked_problems: now,
            said_progress: now,
            plan,
            world,
            control_plane,
            capture,
            inputs,
            changes,
            view,
        };
        if let Some(first) = routing::stages(show.plan.scenario).first() {
            show.apply_stage(first).await?;
        }
        if let Some(trial) = show.plan.scenario.trial() {
            show.apply_trial(trial, 0).await?;
        }
        show.say(&format!(
            "pods run with --isolation {}",
            show.plan.isolation.word()
        ));
        Ok(show)
    }

    /// A line of progress, where there is no live view.
    fn say(&mut self, line: &str) {
        if self.view.is_none() {
            let after = (clock::now() - self.created).as_secs_f64();
            eprintln!("remora: {after:6.2} s  {line}");
        }
    }

    async fn play(&mut self) -> anyhow::Result<End> {
        loop {
            let input = self.inputs.next(&mut self.control_plane).await;
            let end = match input {
                Input::Signal => Some(End::Interrupted),
                Input::Beat => self.beat().await?,
                Input::Key(key) => self.key(key).await,
                other => {
                    self.take(other).await?;
                    None
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    async fn take(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Pod(event) => self.on_pod(event).await?,
            Input::Said(pod, said) => self.record.said(&pod, said),
            Input::Files => self.on_files().await?,
            Input::Asked(request, reply) => {
                let answer = self.obey(&request).await;
                // Whoever asked may be gone.
                let _ = reply.send(answer);
            }
            Input::News(News::StageInForce(stage, took)) => match self.plan.scenario.trial() {
                Some(trial) => self.trial_in_force(trial, stage, took).await,
                None => self.stage_in_force(stage, took).await,
            },
            Input::News(news) => self.on_news(news),
            Input::ControlPlaneEnded(status) => {
                self.record
                    .notice(format!("The control plane ended by itself ({status})."));
                self.control_plane.start_again()?;
            }
            Input::Signal | Input::Beat | Input::Key(_) => {}
        }
        Ok(())
    }

    async fn on_pod(&mut self, event: PodEvent) -> anyhow::Result<()> {
        self.world.note(&event).await?;
        let pod = &event.pod;
        match &event.happening {
            Happening::SidecarStarted { .. } => self.watch_sidecar(pod),
            Happening::SidecarReady { after_ms } => {
                self.record
                    .event("sidecar_ready", json!({"pod": pod, "ready_ms": after_ms}));
            }
            Happening::Ready => self.record.event("pod_ready", json!({"pod": pod})),
            // Noted when it was ordered.
            Happening::Killed => {}
            Happening::Restarting { why } => {
                self.record.notice(format!("{pod}: {why}"));
                self.record
                    .event("restarting", json!({"pod": pod, "why": why}));
            }
            Happening::Failed { why } => {
                self.record.notice(format!("{pod}: {why}"));
                self.record.event("failed", json!({"pod": pod, "why": why}));
                self.say(&format!("{pod}: {why}"));
            }
            Happening::Gone => {
                if let Some(watcher) = self.watchers.remove(pod) {
                    watcher.abort();
                }
                self.record.forget(pod);
                self.record.event("removed", json!({"pod": pod}));
            }
        }
        Ok(())
    }

    fn watch_sidecar(&mut self, pod: &str) {
        let admin = self.world.member(pod).ok().and_then(|member| member.admin);
        let Some(admin) = admin else {
            return;
        };
        if let Some(before) = self.watchers.remove(pod) {
            before.abort();
        }
        let watcher = sidecar::watch(pod.to_owned(), admin, self.inputs.said_sender());
        self.watchers.insert(pod.to_owned(), watcher);
    }

    async fn on_files(&mut self) -> anyhow::Result<()> {
        let before = self.world.policies();
        match self.world.sync().await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                self.record
                    .event("problem", json!({"message": format!("{error:#}")}));
                return Ok(());
            }
        }
        self.changes
            .note_edits(&before, &mut self.world, &self.inputs)?;
        self.record.event("yaml_changed", json!({}));
        self.ask_problems();
        Ok(())
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Propagated(propagation) => {
                self.on_propagation(&propagation);
            }
            News::Problems(problems) => {
                let own = self.world.problems();
                self.record.problems(own, problems);
            }
            News::Before(before) => self.changes.remember(before),
            // Taken before: it has to ask the buyer.
            News::StageInForce(..) => {}
        }
    }

    fn on_propagation(&mut self, propagation: &Propagation) {
        let is_ours = self.changes.arrived(propagation);
        let policy = format!("{}/{}", propagation.policy.0, propagation.policy.1);
        if propagation.missing.is_empty() {
            let ms = propagation.slowest.map(clock::millis);
            let details = json!({"policy": policy, "ms": ms, "sidecars": propagation.sidecars});
            if !is_ours || self.view.is_none() {
                self.record.event("policy_in_force", details);
            }
        } else if is_ours || self.record.yaml.is_empty() {
            // An edit of the user's that is wrong is not in force on purpose.
            let pods = propagation.missing.join(", ");
            let sentence = format!("A change of {policy} did not reach {pods} within 5 s.");
            self.record.event("problem", json!({"message": sentence}));
            self.record.notice(sentence);
        }
    }

    fn ask_problems(&mut self) {
        self.asked_problems = clock::now();
        self.inputs.ask_problems(&self.plan);
        let admins = self.admins();
        self.inputs.ask_before(admins);
    }

    /// The sidecars that should answer now.
    fn admins(&self) -> Vec<(String, std::net::SocketAddr)> {
        let pods = self.world.pods().iter();
        let ready = pods.filter(|(_, member)| member.state == super::member::State::Ready);
        ready
            .filter_map(|(name, member)| Some((name.clone(), member.admin?)))
            .collect()
    }

    async fn beat(&mut self) -> anyhow::Result<Option<End>> {
        let now = clock::now();
        if now - self.asked_problems >= PROBLEMS_EVERY {
            self.ask_problems();
        }
        let Some(began) = self.began else {
            return self.wait_for_stage(now).await;
        };
        let at = now - began;
        while self.acts.front().is_some_and(|(due, _)| *due <= at) {
            if let Some((_, act)) = self.acts.pop_front() {
                self.act(act).await?;
            }
        }
        if let Some(trial) = self.plan.scenario.trial() {
            let is_over = self.trial_beat(trial, now).await?;
            self.draw();
            return Ok(is_over.then_some(End::Complete));
        }
        if let Some(length) = self.plan.length() {
            if at >= length {
                return Ok(Some(End::Complete));
            }
            if self.plan.scenario.changes_policy(at, length) {
                let admins = self.admins();
                self.changes
                    .change_if_due(now, &mut self.world, admins, &self.inputs)
                    .await?;
            }
        }
        self.draw();
        Ok(None)
    }

    /// Before the load: starts it when all else is ready, begins when it runs.
    async fn wait_for_stage(&mut self, now: Instant) -> anyhow::Result<Option<End>> {
        self.draw();
        let mut waiting_for = self.waiting_for();
        if waiting_for.is_none() {
            waiting_for = self.counts_are_awaited().await.map(str::to_owned);
        }
        if waiting_for.is_none() {
            self.begin(now);
            self.begin_stages().await;
            return Ok(None);
        }
        if self.world.is_settled() && !self.is_load_asked_for {
            self.is_load_asked_for = true;
            self.world.start_load().await?;
            if let Some(address) = self.world.load_stats() {
                self.load_watcher = Some(visitor::watch(address, self.inputs.load_sender()));
            }
        }
        if let Some(what) = waiting_for.filter(|_| now - self.said_progress >= PROGRESS_EVERY) {
            self.said_progress = now;
            self.say(&format!("waiting for {what}"));
        }
        if now - self.created > READY_WITHIN && self.view.is_none() {
            return Ok(Some(End::NeverReady));
        }
        Ok(None)
    }

    /// What is still being waited for, in words.
    fn waiting_for(&self) -> Option<String> {
        let pods = self.world.pods().iter();
        let unready: Vec<_> = pods
            .filter(|(_, member)| !member.was_ready)
            .map(|(name, _)| name.as_str())
            .collect();
        if !unready.is_empty() {
            return Some(format!("pods to be ready: {}", unready.join(", ")));
        }
        if !self.is_load_asked_for {
            return Some("the load to be started".to_owned());
        }
        // A folder without a visitor has no load.
        let has_load = self.world.load_stats().is_some();
        (has_load && !self.inputs.load().started).then(|| "the load to begin".to_owned())
    }

    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
        self.record.begin(now);
        if let Some(length) = self.plan.length() {
            self.acts = self.plan.scenario.acts(length).into();
        }
        let length = self.plan.length();
        let stages = routing::beginnings(self.plan.scenario, length);
        let stages = stages.into_iter();
        self.acts
            .extend(stages.map(|(at, index)| (at, Act::EnterStage(index))));
        self.changes.begin(now);
        let pods = self.world.pods().len();
        self.say(&format!("{pods} pods are ready and under load"));
    }
}
