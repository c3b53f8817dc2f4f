//! Scenarios of policies, one for each section of TrafficPolicy: what is applied and
//! done when, under which load, and what must come of it.
//!
//! Owns them as plain data, and the judging; a stage of them is played by
//! `show::trials` on this machine, and by the tests in a cluster.
//!
//! - [`table`]: all of them.
//! - [`figures`]: what a stage came to, as names and numbers.
//! - [`claims`]: what must hold of them.

pub mod claims;
pub mod figures;
pub mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use claims::{Claim, Judged};
use figures::Figures;

/// The folder of scenarios that every trial stands on.
pub const GROUND: &str = "trials";
/// Its YAML.
pub const COMMON: [&str; 3] = ["reviews.yaml", "ledger.yaml", "shopper.yaml"];
/// Who makes the load.
pub const SHOPPER: &str = "shopper";
/// On whom it is tried, with how many pods each.
pub const TARGETS: [(&str, usize); 2] = [("reviews", 3), ("ledger", 2)];
/// How long after a change is in force it is counted from: what began before it is
/// over then.
pub const SETTLE: Duration = Duration::from_millis(400);

/// A scenario of one section.
#[derive(Debug)]
pub struct Trial {
    /// Its name, as typed.
    pub name: &'static str,
    /// What it shows, in a line.
    pub says: &'static str,
    /// What happens.
    pub stages: &'static [Stage],
    /// What must hold.
    pub claims: &'static [Claim],
}

/// One stage: from its beginning to that of the next.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// By what its figures are named.
    pub name: &'static str,
    /// The file of the trial's folder that is in force.
    pub file: &'static str,
    /// How long it is counted.
    pub seconds: u32,
    /// What is told to which pods when it begins: `reviews` is all of them,
    /// `reviews.0` the first by name. See `remora demo`.
    pub orders: &'static [(&'static str, &'static str)],
    /// The shopper's streams; `{reviews.1}` stands for a pod's name.
    pub load: &'static [&'static str],
}

impl Trial {
    /// How long it takes where nobody says.
    pub fn length(&self) -> Duration {
        let seconds = self.stages.iter().map(|stage| u64::from(stage.seconds));
        Duration::from_secs(seconds.sum())
    }

    /// The files of a stage below the folder of scenarios: those that all trials
    /// have, and its own.
    pub fn files(&self, scenarios: &Path, stage: &Stage) -> Vec<PathBuf> {
        let common = COMMON.map(|file| scenarios.join(GROUND).join(file));
        let own = scenarios.join(self.name).join(stage.file);
        common.into_iter().chain([own]).collect()
    }
}

impl Stage {
    /// What the shopper is told: `pod` knows the name of the n-th pod of a Deployment.
    pub fn streams(&self, pod: impl Fn(&str, usize) -> Option<String>) -> String {
        let mut query = self
            .load
            .iter()
            .map(|stream| format!("stream={stream}"))
            .collect::<Vec<_>>()
            .join("&");
        for (target, pods) in TARGETS {
            for index in 0..pods {
                let hole = format!("{{{target}.{index}}}");
                if query.contains(&hole) {
                    query = query.replace(&hole, &pod(target, index).unwrap_or_default());
                }
            }
        }
        format!("/streams?{query}")
    }
}

/// What a stage came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Played {
    /// Its name.
    pub stage: &'static str,
    /// What was in force.
    pub file: &'static str,
    /// Milliseconds from the file's change to the last sidecar's having it; none: it
    /// never came.
    pub in_force_ms: Option<u64>,
    /// By name, without the stage's.
    pub figures: Figures,
}

/// What a trial came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What held and what did not.
    pub claims: Vec<Judged>,
    /// Stage by stage.
    pub stages: Vec<Played>,
}

impl Verdict {
    /// Judges what was played.
    pub fn new(trial: &Trial, stages: Vec<Played>) -> Self {
        let figures = stages.iter().flat_map(|played| {
            let named = played.figures.iter();
            named.map(|(name, value)| (format!("{}:{name}", played.stage), *value))
        });
        let figures: Figures = figures.collect();
        Self {
            claims: trial
                .claims
                .iter()
                .map(|claim| claim.judge(&figures))
                .collect(),
            stages,
        }
    }

    /// What became of each claim of which all that it is about was played: who watches
    /// may leave early.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let was_played = |term: &str| {
            let stage = term.split_once(':').map(|(stage, _)| stage);
            self.stages.iter().any(|played| Some(played.stage) == stage)
        };
        let played = move |judged: &&Judged| claims::terms(judged.of).all(was_played);
        self.claims.iter().filter(played).map(Judged::line)
    }

    /// What is wrong, in sentences.
    pub fn problems(&self) -> Vec<String> {
        let never = self
            .stages
            .iter()
            .filter(|played| played.in_force_ms.is_none());
        let never = never.map(|played| format!("{} was never in force.", played.file));
        let claims = self.claims.iter().filter(|judged| !judged.held);
        never.chain(claims.map(Judged::sentence)).collect()
    }
}

/// Whom an order is for: a Deployment, and which of its pods; none: all.
pub fn addressee(text: &str) -> (&str, Option<usize>) {
    match text.split_once('.') {
        Some((target, index)) => (target, index.parse().ok()),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playground::routing::narration;

    fn scenarios() -> PathBuf {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        top.join("manifests/demo/scenarios")
    }

    #[test]
    fn every_stage_has_its_yaml_and_a_sentence_for_it() {
        for trial in table::ALL {
            for stage in trial.stages {
                let files = trial.files(&scenarios(), stage);
                for file in &files {
                    assert!(file.is_file(), "{}", file.display());
                }
                let text = std::fs::read_to_string(files.last().unwrap()).unwrap();
                let words = narration(&text);
                assert!(words.contains(['.', '?']), "{} {}", trial.name, stage.file);
            }
        }
    }

    #[test]
    fn no_yaml_of_a_trial_is_without_a_stage() {
        for trial in table::ALL {
            let folder = std::fs::read_dir(scenarios().join(trial.name)).unwrap();
            for file in folder.map(|entry| entry.unwrap().file_name()) {
                let is_used = |stage: &Stage| file == stage.file;
                assert!(trial.stages.iter().any(is_used), "{} {file:?}", trial.name);
            }
        }
    }

    #[test]
    fn what_a_stage_orders_is_understood() {
        let switches = crate::demo::trouble::Switches::default();
        for trial in table::ALL {
            for stage in trial.stages {
                for (to, order) in stage.orders {
                    let (target, index) = addressee(to);
                    let known = TARGETS.iter().find(|(name, _)| *name == target);
                    let pods = known.map(|(_, pods)| *pods).unwrap_or(0);
                    assert!(index.unwrap_or(0) < pods, "{to}");
                    let (path, query) = order.split_once('?').unwrap_or((order, ""));
                    let obeyed = switches.obey(path, query);
                    assert_eq!(obeyed, Some(Ok(())), "{} {order}", trial.name);
                }
                for stream in stage.load {
                    crate::demo::shopper::stream::Asked::parse(stream).unwrap();
                }
            }
        }
    }

    #[test]
    fn claims_are_about_figures_that_there_will_be() {
        for trial in table::ALL {
            assert!(!trial.claims.is_empty(), "{}", trial.name);
            for claim in trial.claims {
                for term in claim.terms() {
                    let (stage, figure) = term.split_once(':').unwrap();
                    let stage = trial.stages.iter().find(|one| one.name == stage);
                    let stage = stage.unwrap_or_else(|| panic!("{} {term}", trial.name));
                    let head = figure.split('.').next().unwrap();
                    let is_stream = stage
                        .load
                        .iter()
                        .any(|load| load.split('&').next() == Some(head));
                    let is_target = TARGETS.iter().any(|(name, _)| *name == head);
                    assert!(
                        is_stream || is_target || figure == "seconds",
                        "{} {term}",
                        trial.name
                    );
                }
            }
        }
    }

    #[test]
    fn who_leaves_early_is_told_of_what_was_played() {
        let trial = &table::ALL[0];
        let first = trial.stages[0].name;
        let played = Played {
            stage: first,
            file: trial.stages[0].file,
            in_force_ms: Some(0),
            figures: Figures::new(),
        };
        let count = |stages| Verdict::new(trial, stages).lines().count();
        let of_first = |claim: &&Claim| claim.terms().all(|term| term.starts_with(first));
        assert_eq!(count(Vec::new()), 0);
        assert_eq!(
            count(vec![played]),
            trial.claims.iter().filter(of_first).count()
        );
    }

    #[test]
    fn a_trial_is_short() {
        for trial in table::ALL {
            assert!(
                (4..=20).contains(&trial.length().as_secs()),
                "{}",
                trial.name
            );
        }
    }

    #[test]
    fn a_pod_is_named_where_a_stream_asks_for_one() {
        let stage = Stage {
            name: "a",
            file: "a.yaml",
            seconds: 1,
            orders: &[],
            load: &[
                "a&to=reviews:8080&rate=1&header=x-remora-endpoint:{reviews.1}",
                "b&rate=2",
            ],
        };
        let told = stage.streams(|target, index| Some(format!("{target}-x{index}")));
        assert_eq!(
            told,
            "/streams?stream=a&to=reviews:8080&rate=1&header=x-remora-endpoint:reviews-x1&stream=b&rate=2"
        );
        assert_eq!(
            (addressee("reviews.2"), addressee("ledger")),
            (("reviews", Some(2)), ("ledger", None))
        );
    }
}
