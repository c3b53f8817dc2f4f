//! The end, in order, and the report.

use std::fs;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::{End, Show};
use crate::playground::capture::Capture;
use crate::playground::clock;
use crate::playground::measure::client::Client;
use crate::playground::measure::propagation::Config;
use crate::playground::measure::visitor::Load;
use crate::playground::member::Member;
use crate::playground::report::{Circumstances, Report, Sidecar};

/// How long all pods together may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

impl Show {
    pub(super) async fn finish(mut self, end: End) -> anyhow::Result<ExitCode> {
        let seconds = self
            .began
            .map_or(0.0, |began| (clock::now() - began).as_secs_f64());
        self.end_stage().await;
        self.end_trial_stage().await;
        let load = self.last_load().await;
        let sidecars = self.sidecars().await;
        if end == End::NeverReady {
            let what = self.waiting_for().unwrap_or_default();
            self.record.notice(format!(
                "The stage did not become ready: still waiting for {what}."
            ));
        }
        let report = self.report(end, seconds, &load, sidecars);
        self.take_down().await;
        self.end_capture();
        self.keep_logs();
        if self.plan.json {
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        }
        if let Some(verdict) = report.trial.as_ref().filter(|_| !self.plan.json) {
            verdict.lines().for_each(|line| println!("{line}"));
        }
        for problem in &report.problems {
            eprintln!("remora: {problem}");
        }
        let watched = !self.plan.json && self.plan.length_ms.is_none();
        Ok(if report.ok || watched {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The load's last word.
    async fn last_load(&mut self) -> Load {
        if let Some(watcher) = self.load_watcher.take() {
            watcher.abort();
        }
        let known = self.inputs.load();
        match self.world.load_stats() {
            Some(address) => Client::new(address).json("/stats").await.unwrap_or(known),
            None => known,
        }
    }

    async fn sidecars(&self) -> Vec<Sidecar> {
        let mut sidecars = Vec::new();
        for (pod, member) in self.world.pods() {
            let Some(admin) = member.admin else {
                continue;
            };
            let config: Option<Config> = Client::new(admin).json("/config").await.ok();
            let ready_ms = config
                .and_then(|config| config.ready_ms)
                .or(member.sidecar_ready_ms);
            sidecars.push(Sidecar {
                pod: pod.clone(),
                ready_ms,
                rss_bytes: rss_bytes(member),
            });
        }
        sidecars
    }

    fn report(&self, end: End, seconds: f64, load: &Load, sidecars: Vec<Sidecar>) -> Report {
        let scenario = self.plan.scenario;
        let is_complete = end == End::Complete;
        let mut noticed = self.record.notices.clone();
        noticed.extend(
            self.record
                .yaml
                .iter()
                .map(|problem| format!("In the YAML: {problem}")),
        );
        if self.world.load_stats().is_none() && scenario.trial().is_none() {
            noticed.push("Nothing made load: the folder has no Deployment `visitor`.".to_owned());
        }
        let total = &self.record.total;
        let mut report = Report {
            ok: false,
            problems: Vec::new(),
            scenario: scenario.word(),
            isolation: self.plan.isolation.word(),
            isolation_reason: self.plan.isolation_reason.clone(),
            seconds: (seconds * 1000.0).round() / 1000.0,
            requests: load.requests,
            failed: load.failed_idempotent,
            failed_other: load.failed_other,
            retries: total.retries,
            rate_limited: total.rate_limited,
            overloaded: total.overloaded,
            breaker: self.record.breaker,
            latency_ms: load.latency_ms.clone(),
            policy_propagation_ms: self.changes.spread(),
            killed: self.record.kill_report(),
            stages: self.stages.figures.clone(),
            trial: scenario.trial().map(|trial| self.playing.verdict(trial)),
            sidecars,
            identities: self.record.renewals.summary(),
            events: self.record.in_order(),
            failures: load.errors.clone(),
        };
        let circumstances = Circumstances {
            noticed,
            asked_rate: load.rate,
            is_complete,
            changes_after_outage: self
                .outage_ended
                .map(|moment| self.changes.arrived_after(moment)),
            has_load: self.world.load_stats().is_some(),
            identities_behind: self.record.renewals.behind(),
        };
        report.judge(scenario, &circumstances);
        report
    }

    /// Ends pods, then the control plane; what does not end in time is ended
    /// by the end of this process.
    async fn take_down(&mut self) {
        self.say("taking the stage down");
        for (_, watcher) in std::mem::take(&mut self.watchers) {
            watcher.abort();
        }
        let mut left = self.world.pods().len();
        self.world.end();
        let all_gone = async {
            while left > 0 {
                match self.inputs.next_pod_event().await {
                    Some(event)
                        if event.happening
                            == crate::playground::cluster::kubelet::Happening::Gone =>
                    {
                        left -= 1
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(END_WITHIN, all_gone).await.is_err() {
            eprintln!(
                "remora: {left} pods did not end in {} s and are killed",
                END_WITHIN.as_secs()
            );
        }
        self.control_plane.end().await;
    }

    fn end_capture(&mut self) {
        match self.capture.take().map(Capture::finish) {
            None => {}
            Some(Ok(captured)) => {
                let full = if captured.left_out > 0 {
                    format!(", and {} more when it was full", captured.left_out)
                } else {
                    String::new()
                };
                self.say(&format!("{} frames captured{full}", captured.frames));
            }
            Some(Err(error)) => eprintln!("remora: {error:#}"),
        }
    }

    fn keep_logs(&self) {
        let Some(target) = &self.plan.keep_logs else {
            return;
        };
        let copied = fs::create_dir_all(target).and_then(|()| {
            for entry in fs::read_dir(self.world.logs())? {
                let entry = entry?;
                fs::copy(entry.path(), target.join(entry.file_name()))?;
            }
            Ok(())
        });
        if let Err(error) = copied {
            eprintln!(
                "remora: logs cannot be kept in {}: {error}",
                target.display()
            );
        }
    }
}

/// The resident memory of a pod's sidecar.
fn rss_bytes(member: &Member) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", member.sidecar_pid?)).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kilobytes * 1024)
}
