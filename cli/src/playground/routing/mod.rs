//! Scenarios of routes: what is applied when, and what must have come of it.
//!
//! Owns the stages as plain data, their YAML's place and words, and the judging
//! of what was counted; applying and counting are `show::stages`'.
//!
//! - [`figures`]: what a stage came to, and whether that is good.

pub mod figures;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::scenario::Scenario;

/// Parts of a run in which the stages' beginnings are given.
const PARTS: u32 = 12;
/// How long a run is taken to be where nobody says: the live view goes on after it.
const UNSAID: Duration = Duration::from_secs(60);
/// The pod whose trouble a mirror's caller must not feel.
pub const MIRRORED: &str = "payment-v2-1";
/// How late a slow mirror answers: longer than payment's own time limit.
const SLOW_MS: u32 = 3000;
/// What a broken mirror answers.
const BROKEN_STATUS: u16 = 503;

/// What is done to the pod that is mirrored to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It answers so many milliseconds later.
    Slow(u32),
    /// It answers this status.
    Broken(u16),
    /// It is killed.
    Killed,
}

/// Who must have answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Each version its share, in percent. What has none gets not one request.
    Shares(&'static [(&'static str, u32)]),
    /// Version 2 whom the cookie says to be in group b, version 1 everybody else.
    ByCookie,
    /// Version 1 alone, as fast as in the first stage, while version 2 hears all.
    Unmoved,
}

/// One stage: from its beginning to that of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// When it begins, in twelfths of the run.
    pub begins: u32,
    /// The file of the scenario that is applied.
    pub file: &'static str,
    /// What is done besides.
    pub trouble: Option<Trouble>,
    /// What must come of it.
    pub expected: Expected,
}

const fn stage(begins: u32, file: &'static str, expected: Expected) -> Stage {
    Stage {
        begins,
        file,
        trouble: None,
        expected,
    }
}

const fn troubled(begins: u32, trouble: Trouble) -> Stage {
    Stage {
        begins,
        file: "mirror.yaml",
        trouble: Some(trouble),
        expected: Expected::Unmoved,
    }
}

const V1: Expected = Expected::Shares(&[("v1", 100), ("v2", 0)]);
const V2: Expected = Expected::Shares(&[("v1", 0), ("v2", 100)]);
const ONE_IN_TEN: Expected = Expected::Shares(&[("v1", 90), ("v2", 10)]);
const HALF: Expected = Expected::Shares(&[("v1", 50), ("v2", 50)]);

const CANARY: &[Stage] = &[
    stage(0, "0-before.yaml", V1),
    // The longest, because a tenth is to be told from an eighth.
    stage(1, "1-one-in-ten.yaml", ONE_IN_TEN),
    stage(7, "2-half.yaml", HALF),
    stage(10, "3-after.yaml", V2),
];
const BLUE_GREEN: &[Stage] = &[
    stage(0, "blue.yaml", V1),
    stage(4, "green.yaml", V2),
    stage(8, "blue.yaml", V1),
];
const AB_COOKIE: &[Stage] = &[
    stage(0, "experiment.yaml", Expected::ByCookie),
    stage(8, "won.yaml", V2),
];
const MIRROR: &[Stage] = &[
    stage(0, "before.yaml", V1),
    stage(3, "mirror.yaml", Expected::Unmoved),
    troubled(5, Trouble::Slow(SLOW_MS)),
    troubled(7, Trouble::Broken(BROKEN_STATUS)),
    troubled(9, Trouble::Killed),
];

/// The stages of a scenario; none where it is not about routes.
pub fn stages(scenario: Scenario) -> &'static [Stage] {
    match scenario {
        Scenario::Canary => CANARY,
        Scenario::BlueGreen => BLUE_GREEN,
        Scenario::AbCookie => AB_COOKIE,
        Scenario::Mirror => MIRROR,
        _ => &[],
    }
}

/// When each stage but the first begins.
pub fn beginnings(scenario: Scenario, length: Option<Duration>) -> Vec<(Duration, usize)> {
    let part = length.unwrap_or(UNSAID) / PARTS;
    let stages = stages(scenario).iter().enumerate().skip(1);
    stages
        .map(|(index, stage)| (part * stage.begins, index))
        .collect()
}

impl Trouble {
    /// What is done, in words.
    pub fn words(self) -> String {
        match self {
            Self::Slow(ms) => format!("{MIRRORED}, which only listens, is {ms} ms late."),
            Self::Broken(status) => format!("{MIRRORED} answers {status} to everything."),
            Self::Killed => format!("{MIRRORED} is killed."),
        }
    }
}

/// Where the YAML of all scenarios is: in the folder that is run, which is read
/// without it.
pub fn scenarios(manifests: &Path) -> PathBuf {
    manifests.join("scenarios")
}

/// Where a scenario's YAML is.
pub fn folder(manifests: &Path, scenario: Scenario) -> PathBuf {
    scenarios(manifests).join(scenario.word())
}

/// The files of a stage: those that all scenarios of routes have, and its own.
///
/// # Errors
/// When they are not there.
pub fn files(manifests: &Path, scenario: Scenario, stage: &Stage) -> anyhow::Result<Vec<PathBuf>> {
    let folder = folder(manifests, scenario);
    let common = scenarios(manifests).join("common");
    let files = ["versions.yaml", "buyer.yaml"].map(|file| common.join(file));
    let files: Vec<_> = files.into_iter().chain([folder.join(stage.file)]).collect();
    check(&files, scenario)?;
    Ok(files)
}

/// Whether the files of a scenario are there.
///
/// # Errors
/// When one is not.
pub fn check(files: &[PathBuf], scenario: Scenario) -> anyhow::Result<()> {
    for file in files {
        fs::metadata(file).with_context(|| {
            format!(
                "--scenario {} needs {}, as in Remora's repository",
                scenario.word(),
                file.display()
            )
        })?;
    }
    Ok(())
}

/// What a stage's YAML says of itself: the comment at its beginning.
pub fn narration(yaml: &str) -> String {
    let lines = yaml.lines().map_while(|line| line.strip_prefix("# "));
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> PathBuf {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        top.join("manifests/demo")
    }

    #[test]
    fn every_stage_has_its_yaml_and_a_sentence_for_it() {
        let mut stages_seen = 0;
        for scenario in &Scenario::all() {
            for stage in stages(*scenario) {
                let files = files(&demo(), *scenario, stage).unwrap();
                let text = fs::read_to_string(files.last().unwrap()).unwrap();
                assert!(narration(&text).ends_with('.'), "{}", stage.file);
                stages_seen += 1;
            }
        }
        assert_eq!(stages_seen, 14);
    }

    #[test]
    fn a_scenario_without_its_folder_says_where_it_looked() {
        let error = files(Path::new("/nowhere/demo"), Scenario::Canary, &CANARY[0]).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("/nowhere/demo/scenarios/common"), "{said}");
    }

    #[test]
    fn stages_follow_each_other_and_all_fit() {
        for scenario in &Scenario::all() {
            let length = Duration::from_secs(24);
            let begins = beginnings(*scenario, Some(length));
            assert!(begins.is_sorted(), "{scenario:?}");
            assert!(begins.iter().all(|(at, _)| *at < length), "{scenario:?}");
        }
        let canary = beginnings(Scenario::Canary, None);
        assert_eq!(canary[0], (Duration::from_secs(5), 1));
    }
}
