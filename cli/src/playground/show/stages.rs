//! The stages of a scenario of routes: applied one after the other, and counted
//! from the moment on at which each is in force.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::Show;
use super::inputs::News;
use crate::playground::clock;
use crate::playground::control_socket::{Deed, Request};
use crate::playground::measure::client::{Client, Place};
use crate::playground::measure::versions::Versions;
use crate::playground::routing::figures::{Figures, Stretch};
use crate::playground::routing::{self, MIRRORED, Stage, Trouble};
use crate::playground::trials::SHOPPER;

/// The Service that the scenarios route.
const SERVICE: &str = "shop/payment";

/// What has come of the stages so far.
#[derive(Debug, Default)]
pub(super) struct Stages {
    current: Option<Running>,
    /// Of the stages that are over.
    pub(super) figures: Vec<Figures>,
}

/// The stage that is on.
#[derive(Debug)]
struct Running {
    index: usize,
    in_force_ms: Option<u64>,
    mirrored_before: u64,
}

impl Show {
    fn stage(&self, index: usize) -> Option<&'static Stage> {
        routing::stages(self.plan.scenario).get(index)
    }

    /// Puts the YAML of a stage into the folder.
    pub(super) async fn apply_stage(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let files = routing::files(&self.plan.manifests, self.plan.scenario, stage)?;
        self.apply_files(files).await
    }

    /// Puts these files into the folder, of which the last one says what it is about.
    pub(super) async fn apply_files(&mut self, files: Vec<PathBuf>) -> anyhow::Result<()> {
        if let Some(file) = files.last() {
            let words = routing::narration(&fs::read_to_string(file)?);
            self.narrate(words);
        }
        self.world.overlay(files);
        self.world.sync().await?;
        Ok(())
    }

    pub(super) fn narrate(&mut self, words: String) {
        self.say(&words);
        self.record.event("narrator", json!({"message": words}));
    }

    /// The load has begun, and with it the first stage.
    pub(super) async fn begin_stages(&mut self) {
        if self.stage(0).is_some() {
            self.stages.current = Some(self.running(0));
            // It was applied before anything ran.
            self.stage_in_force(0, Some(Duration::ZERO)).await;
        }
        if let Some(trial) = self.plan.scenario.trial() {
            self.begin_trial(trial).await;
        }
    }

    fn running(&self, index: usize) -> Running {
        Running {
            index,
            in_force_ms: None,
            mirrored_before: self.record.inbound(MIRRORED),
        }
    }

    /// The next stage: its YAML where that is another, its trouble where it has one.
    pub(super) async fn enter_stage(&mut self, index: usize) -> anyhow::Result<()> {
        self.end_stage().await;
        let (Some(stage), Some(before)) = (self.stage(index), self.stage(index - 1)) else {
            return Ok(());
        };
        self.stages.current = Some(self.running(index));
        if stage.file != before.file {
            let versions = Versions::ask(self.admins(), SERVICE).await;
            let changed_at = clock::now();
            self.apply_stage(stage).await?;
            let news = self.inputs.news_sender();
            tokio::spawn(async move {
                let took = versions.until_changed(changed_at).await;
                let _ = news.send(News::StageInForce(index, took)).await;
            });
        }
        if let Some(trouble) = stage.trouble {
            self.narrate(trouble.words());
            self.make_trouble(trouble).await;
            self.stage_in_force(index, Some(Duration::ZERO)).await;
        }
        Ok(())
    }

    async fn make_trouble(&mut self, trouble: Trouble) {
        let deeds = match trouble {
            Trouble::Slow(ms) => vec![Deed::Slow(ms)],
            Trouble::Broken(status) => vec![Deed::Slow(0), Deed::Break(status)],
            Trouble::Killed => vec![Deed::Kill],
        };
        for deed in deeds {
            let pod = MIRRORED.to_owned();
            let answer = self.obey(&Request { pod, deed }).await;
            if !answer.ok {
                self.record.notice(answer.message);
            }
        }
    }

    /// From now on it is counted.
    pub(super) async fn stage_in_force(&mut self, index: usize, took: Option<Duration>) {
        let is_on = |running: &&mut Running| running.index == index;
        let Some(running) = self.stages.current.as_mut().filter(is_on) else {
            return;
        };
        running.in_force_ms = took.map(clock::millis);
        if let Some(ms) = running.in_force_ms.filter(|ms| *ms > 0) {
            let details = json!({"policy": format!("{SERVICE}'s route"), "ms": ms});
            self.record.event("policy_in_force", details);
        }
        self.count_anew().await;
    }

    /// The stage is over: what it came to.
    pub(super) async fn end_stage(&mut self) {
        let Some(running) = self.stages.current.take() else {
            return;
        };
        let stretch = self.count_anew().await.unwrap_or_default();
        let Some(stage) = self.stage(running.index) else {
            return;
        };
        let mirrored = self
            .record
            .inbound(MIRRORED)
            .saturating_sub(running.mirrored_before);
        let is_mirrored = stage.expected == routing::Expected::Unmoved;
        let figures = Figures::new(
            stage,
            running.in_force_ms,
            stretch,
            is_mirrored.then_some(mirrored),
        );
        self.record.event("stage", json!({"figures": figures}));
        self.stages.figures.push(figures);
    }

    /// What the buyer counted since it last began anew.
    async fn count_anew(&mut self) -> Option<Stretch> {
        let place = self.world.buyer()?;
        let asked = Client::new(place).post("/stretch").await;
        let stretch = asked
            .ok()
            .and_then(|(_, body)| serde_json::from_slice(&body).ok());
        if stretch.is_none() {
            self.record
                .notice("The buyer did not tell what it counted.".to_owned());
        }
        stretch
    }

    /// Who of those that count is still to be waited for.
    pub(super) async fn counts_are_awaited(&self) -> Option<&'static str> {
        let (who, what) = match (self.stage(0), self.plan.scenario.trial()) {
            (Some(_), _) => (self.world.buyer(), "the buyer to be charged"),
            (_, Some(_)) => (self.world.place_of(SHOPPER), "the shopper to be served"),
            (None, None) => return None,
        };
        let has_started = match who {
            Some(place) => Self::has_started(place).await,
            None => false,
        };
        (!has_started).then_some(what)
    }

    async fn has_started(place: Place) -> bool {
        let stats: Result<Stretch, _> = Client::new(place).json("/stats").await;
        stats.is_ok_and(|stats| stats.started)
    }
}
