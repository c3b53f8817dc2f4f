//! The stages of a trial: what is applied and told when, and what is counted.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::Show;
use super::inputs::News;
use crate::playground::clock;
use crate::playground::measure::client::{Client, Place};
use crate::playground::measure::versions::Applied;
use crate::playground::routing;
use crate::playground::trials::figures::{self, Told};
use crate::playground::trials::{
    Played, SETTLE, SHOPPER, Stage, TARGETS, Trial, Verdict, addressee,
};

/// What has come of the stages so far.
#[derive(Debug, Default)]
pub(super) struct Playing {
    current: Option<Running>,
    played: Vec<Played>,
    /// What the shopper was told last.
    load: String,
}

/// The stage that is on.
#[derive(Debug)]
struct Running {
    stage: &'static Stage,
    index: usize,
    in_force_ms: Option<u64>,
    /// Since when it is counted.
    counted: Option<Instant>,
}

impl Playing {
    /// What it all came to.
    pub(super) fn verdict(&self, trial: &Trial) -> Verdict {
        Verdict::new(trial, self.played.clone())
    }
}

impl Show {
    /// Puts the YAML of a stage into the folder.
    pub(super) async fn apply_trial(
        &mut self,
        trial: &'static Trial,
        index: usize,
    ) -> anyhow::Result<()> {
        let Some(stage) = trial.stages.get(index) else {
            return Ok(());
        };
        let scenarios = routing::scenarios(&self.plan.manifests);
        self.apply_files(trial.files(&scenarios, stage)).await
    }

    /// The shopper shops, and with that the first stage begins.
    pub(super) async fn begin_trial(&mut self, trial: &'static Trial) {
        if let Some(stage) = trial.stages.first() {
            self.playing.current = Some(Running {
                stage,
                index: 0,
                in_force_ms: None,
                counted: None,
            });
            self.trial_in_force(trial, 0, Some(Duration::ZERO)).await;
        }
    }

    /// When a stage has been counted for its time the next one begins; whether that
    /// was the last one. (Not by the clock of the run: a machine that is slow to bring
    /// a change about would leave nothing to be counted.)
    pub(super) async fn trial_beat(
        &mut self,
        trial: &'static Trial,
        now: Instant,
    ) -> anyhow::Result<bool> {
        let Some(running) = &self.playing.current else {
            return Ok(false);
        };
        let scale = self.plan.length().map_or(1.0, |length| {
            length.as_secs_f64() / trial.length().as_secs_f64()
        });
        let seconds = Duration::from_secs(running.stage.seconds.into()).mul_f64(scale);
        let is_over = |counted: Instant| now.saturating_duration_since(counted) >= seconds;
        if !running.counted.is_some_and(is_over) {
            return Ok(false);
        }
        let next = running.index + 1;
        if next < trial.stages.len() {
            self.enter_trial(trial, next).await?;
            return Ok(false);
        }
        // Watched, it goes on as it is.
        Ok(self.plan.length_ms.is_some())
    }

    /// The next stage: its YAML where that is another.
    async fn enter_trial(&mut self, trial: &'static Trial, index: usize) -> anyhow::Result<()> {
        self.end_trial_stage().await;
        let (Some(stage), Some(before)) = (trial.stages.get(index), trial.stages.get(index - 1))
        else {
            return Ok(());
        };
        self.playing.current = Some(Running {
            stage,
            index,
            in_force_ms: None,
            counted: None,
        });
        if stage.file == before.file {
            self.trial_in_force(trial, index, Some(Duration::ZERO))
                .await;
            return Ok(());
        }
        let admins = self.admins().into_iter();
        let concerned = admins.filter(|(pod, _)| is_concerned(pod));
        let applied = Applied::ask(concerned.map(|(_, admin)| admin).collect()).await;
        let changed_at = clock::now();
        self.apply_trial(trial, index).await?;
        let news = self.inputs.news_sender();
        tokio::spawn(async move {
            let took = applied.until_changed(changed_at).await;
            tokio::time::sleep(SETTLE).await;
            let _ = news.send(News::StageInForce(index, took)).await;
        });
        Ok(())
    }

    /// From now on it is counted, and what it orders is told.
    pub(super) async fn trial_in_force(
        &mut self,
        trial: &'static Trial,
        index: usize,
        took: Option<Duration>,
    ) {
        let is_on = |running: &&mut Running| running.index == index;
        let Some(running) = self.playing.current.as_mut().filter(is_on) else {
            return;
        };
        running.in_force_ms = took.map(clock::millis);
        let stage = running.stage;
        if let Some(ms) = running.in_force_ms.filter(|ms| *ms > 0) {
            let details = json!({"policy": format!("{}/{}", trial.name, stage.file), "ms": ms});
            self.record.event("policy_in_force", details);
        }
        let streams = stage.streams(|target, index| {
            let pods = self.world.places_of(target);
            pods.into_iter().nth(index).map(|(name, _)| name)
        });
        if streams != self.playing.load {
            let shopper = self.world.place_of(SHOPPER);
            self.tell(SHOPPER, shopper, &streams).await;
            self.playing.load = streams;
        }
        // After the load has changed: the last of the old one would be counted else.
        self.count_trial().await;
        if let Some(running) = &mut self.playing.current {
            running.counted = Some(clock::now());
        }
        for (to, order) in stage.orders {
            let (target, index) = addressee(to);
            let pods = self.world.places_of(target).into_iter().enumerate();
            for (_, (pod, place)) in pods.filter(|(n, _)| index.is_none_or(|index| index == *n)) {
                self.tell(&pod, place, order).await;
            }
            self.narrate(format!("{to}: {order}"));
        }
    }

    /// The stage is over: what it came to.
    pub(super) async fn end_trial_stage(&mut self) {
        let Some(running) = self.playing.current.take() else {
            return;
        };
        let told = self.count_trial().await;
        let played = Played {
            stage: running.stage.name,
            file: running.stage.file,
            in_force_ms: running.in_force_ms,
            figures: figures::of(&told),
        };
        self.record.event("stage", json!({"played": played}));
        self.playing.played.push(played);
    }

    /// What was counted since this was last asked.
    async fn count_trial(&mut self) -> Told {
        let shopper = self.world.place_of(SHOPPER);
        let mut told = Told {
            stretch: self.tell(SHOPPER, shopper, "/stretch").await,
            ..Told::default()
        };
        for (target, _) in TARGETS {
            let mut tallies = Vec::new();
            for (pod, place) in self.world.places_of(target) {
                let tally = self.tell(&pod, place, "/tally").await;
                tallies.push((pod, tally));
            }
            told.tallies.insert(target.to_owned(), tallies);
        }
        told
    }

    /// POSTs to a pod's application; what it answered.
    async fn tell(&mut self, pod: &str, place: Option<Place>, path: &str) -> Value {
        let asked = match place {
            Some(place) => Client::new(place).post(path).await,
            None => return Value::Null,
        };
        match asked {
            Ok((200, body)) => serde_json::from_slice(&body).unwrap_or_default(),
            Ok((status, body)) => {
                let body = String::from_utf8_lossy(&body);
                let sentence = format!("{pod} answered {path} with {status}: {body}");
                self.record.notice(sentence);
                Value::Null
            }
            Err(error) => {
                self.record
                    .notice(format!("{pod} was not told {path}: {error}"));
                Value::Null
            }
        }
    }
}

/// Whether a trial's policies are in this pod's sidecar.
pub(super) fn is_concerned(pod: &str) -> bool {
    let targets = TARGETS.iter().map(|(target, _)| *target);
    targets
        .chain([SHOPPER])
        .any(|deployment| pod.starts_with(deployment))
}
