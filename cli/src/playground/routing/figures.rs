//! What a stage came to, and whether that is good.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Expected, MIRRORED, Stage};

/// How far a share may be from what was asked for, in points.
const MOST_POINTS: f64 = 1.5;
/// Chance alone keeps a share within so many of its deviations.
const DEVIATIONS: f64 = 4.0;
/// Fewer requests say nothing.
const LEAST_REQUESTS: u64 = 100;
/// A caller's median and slowest hundredth may differ so much between two
/// stages of a machine that does other things too: by a factor, and by time.
const MOST_SLOWER: (f64, f64, f64) = (1.5, 1.0, 20.0);

/// The answer of the buyer's `POST /stretch`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Stretch {
    /// Whether it has been charged at all.
    pub started: bool,
    /// Sent and answered.
    pub requests: u64,
    /// Of them failed.
    pub failed: u64,
    /// By group, then by version.
    pub answers: BTreeMap<String, BTreeMap<String, u64>>,
    /// From sending to the answer's end.
    pub latency_ms: Latency,
}

/// Of the buyer's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// Of a hundred, one is slower.
    pub p99: f64,
}

/// What a stage came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// The YAML that was applied.
    pub file: &'static str,
    /// What was done besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Milliseconds from the file's change to the last sidecar's having it.
    pub in_force_ms: Option<u64>,
    /// Requests from that moment on to the stage's end.
    pub requests: u64,
    /// Of them failed.
    pub failed: u64,
    /// Who answered.
    pub versions: BTreeMap<String, u64>,
    /// Who answered whom, by the group of the buyer's cookie.
    pub groups: BTreeMap<String, BTreeMap<String, u64>>,
    /// What it took.
    pub latency_ms: Latency,
    /// Requests that reached the pod which is mirrored to, by its own sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<u64>,
}

impl Figures {
    /// From what the buyer counted.
    pub fn new(
        stage: &Stage,
        in_force_ms: Option<u64>,
        stretch: Stretch,
        mirrored: Option<u64>,
    ) -> Self {
        let mut versions: BTreeMap<String, u64> = BTreeMap::new();
        for (version, count) in stretch.answers.values().flatten() {
            *versions.entry(version.clone()).or_default() += count;
        }
        Self {
            file: stage.file,
            trouble: stage.trouble.map(super::Trouble::words),
            in_force_ms,
            requests: stretch.requests,
            failed: stretch.failed,
            versions,
            groups: stretch.answers,
            latency_ms: stretch.latency_ms,
            mirrored,
        }
    }
}

/// What is wrong with what the stages came to, in sentences.
pub fn judged(stages: &[Stage], figures: &[Figures]) -> Vec<String> {
    let mut problems = Vec::new();
    if figures.len() < stages.len() {
        problems.push(format!(
            "Only {} of {} stages took place.",
            figures.len(),
            stages.len()
        ));
    }
    for (stage, one) in stages.iter().zip(figures) {
        let mut wrong = wrong(stage, one);
        if stage.expected == Expected::Unmoved {
            wrong.extend(figures.first().and_then(|calm| slower(calm, one)));
        }
        let name = one.trouble.as_deref().unwrap_or(one.file);
        problems.extend(wrong.into_iter().map(|what| format!("{name}: {what}")));
    }
    problems
}

fn wrong(stage: &Stage, one: &Figures) -> Vec<String> {
    let mut wrong = Vec::new();
    if one.in_force_ms.is_none() {
        wrong.push("It was never in force in every sidecar.".to_owned());
    }
    if one.requests < LEAST_REQUESTS {
        wrong.push(format!("Only {} requests were made.", one.requests));
    }
    if one.failed > 0 {
        wrong.push(format!("{} requests failed; none may.", one.failed));
    }
    match stage.expected {
        Expected::Shares(shares) => {
            let answered: u64 = one.versions.values().sum();
            let shares = shares.iter();
            wrong.extend(shares.filter_map(|(version, percent)| {
                let got = one.versions.get(*version).copied().unwrap_or(0);
                not_its_share(version, *percent, got, answered)
            }));
        }
        Expected::ByCookie => {
            let strays = one.groups.iter().flat_map(|(group, versions)| {
                let right = if group == "b" { "v2" } else { "v1" };
                let versions = versions.iter();
                versions.filter(move |(version, _)| *version != right)
            });
            let strays: u64 = strays.map(|(_, count)| count).sum();
            if strays > 0 {
                wrong.push(format!(
                    "{strays} requests went where their cookie does not send them."
                ));
            }
            if one.groups.len() < 3 {
                wrong.push("Not every group made requests.".to_owned());
            }
        }
        Expected::Unmoved => {
            let elsewhere = one.versions.keys().filter(|version| *version != "v1");
            if elsewhere.count() > 0 {
                wrong.push("Another version than the first one answered.".to_owned());
            }
            if stage.trouble.is_none() && one.mirrored == Some(0) {
                wrong.push(format!("Nothing was mirrored to {MIRRORED}."));
            }
        }
    }
    wrong
}

#[allow(
    clippy::cast_precision_loss,
    reason = "shares of counts far below 2^52"
)]
fn not_its_share(version: &str, percent: u32, got: u64, answered: u64) -> Option<String> {
    if percent == 0 {
        return (got > 0).then(|| format!("{version} got {got} requests; not one may reach it."));
    }
    let (share, answered) = (f64::from(percent) / 100.0, answered.max(1) as f64);
    let deviation = (share * (1.0 - share) / answered).sqrt() * 100.0;
    let most = (deviation * DEVIATIONS).max(MOST_POINTS);
    let points = got as f64 / answered * 100.0;
    let off = (points - f64::from(percent)).abs();
    (off > most).then(|| {
        format!(
            "{version} got {points:.1} % instead of {percent} %; {most:.1} points are the most."
        )
    })
}

fn slower(calm: &Figures, one: &Figures) -> Option<String> {
    let (factor, median_ms, hundredth_ms) = MOST_SLOWER;
    let (before, now) = (calm.latency_ms, one.latency_ms);
    let most = [
        before.p50 * factor + median_ms,
        before.p99 * factor + hundredth_ms,
    ];
    (now.p50 > most[0] || now.p99 > most[1]).then(|| {
        format!(
            "Its callers waited {} ms (median) and {} ms (one in a hundred); after a stage \
             without a mirror {:.1} and {:.1} is the most.",
            now.p50, now.p99, most[0], most[1]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::stages;
    use super::*;
    use crate::playground::scenario::Scenario;

    fn stretch(answers: &[(&str, &str, u64)]) -> Stretch {
        let mut stretch = Stretch {
            latency_ms: Latency { p50: 1.0, p99: 4.0 },
            ..Stretch::default()
        };
        for (group, version, count) in answers {
            let of_group = stretch.answers.entry((*group).to_owned()).or_default();
            *of_group.entry((*version).to_owned()).or_default() += count;
            stretch.requests += count;
        }
        stretch
    }

    fn told(scenario: Scenario, index: usize, stretch: Stretch) -> String {
        let stage = stages(scenario)[index];
        let one = Figures::new(&stage, Some(20), stretch, Some(0));
        wrong(&stage, &one).join(" ")
    }

    #[test]
    fn a_share_may_be_off_by_as_much_as_is_said_and_no_more() {
        let at = |v2: u64| stretch(&[("", "v1", 10_000 - v2), ("a", "v2", v2)]);
        for good in [860, 1000, 1140] {
            assert_eq!(told(Scenario::Canary, 1, at(good)), "", "{good}");
        }
        for bad in [840, 1160] {
            let told = told(Scenario::Canary, 1, at(bad));
            assert!(told.contains("1.5 points"), "{bad}: {told}");
        }
    }

    #[test]
    fn where_nothing_may_go_one_request_is_too_many() {
        let one = stretch(&[("", "v1", 1), ("", "v2", 9_999)]);
        let told = told(Scenario::BlueGreen, 1, one);
        assert!(told.contains("v1 got 1 requests"), "{told}");
    }

    #[test]
    fn the_cookie_decides_without_exception() {
        let good = [("", "v1", 50), ("a", "v1", 50), ("b", "v2", 100)];
        assert_eq!(told(Scenario::AbCookie, 0, stretch(&good)), "");
        let bad = [("", "v1", 50), ("a", "v2", 1), ("b", "v2", 100)];
        assert!(told(Scenario::AbCookie, 0, stretch(&bad)).contains("1 requests went"));
        assert!(told(Scenario::AbCookie, 0, stretch(&good[1..])).contains("every group"));
    }

    #[test]
    fn failures_silence_and_what_was_never_in_force_are_told() {
        let mut few = stretch(&[("", "v1", 99)]);
        few.failed = 2;
        let said = told(Scenario::Canary, 0, few);
        assert!(
            said.contains("Only 99") && said.contains("2 requests failed"),
            "{said}"
        );
        let stage = stages(Scenario::Canary)[0];
        let one = Figures::new(&stage, None, stretch(&[("", "v1", 200)]), None);
        assert!(wrong(&stage, &one)[0].contains("never in force"));
        assert!(judged(stages(Scenario::Canary), &[])[0].contains("0 of 4"));
    }

    #[test]
    fn a_mirror_may_cost_its_callers_nothing() {
        let stages = stages(Scenario::Mirror);
        let v1 = || stretch(&[("", "v1", 1000)]);
        let figures = |p50: f64, mirrored: u64| {
            let all = stages.iter().enumerate().map(|(index, stage)| {
                let mut stretch = v1();
                if index == 2 {
                    stretch.latency_ms.p50 = p50;
                }
                Figures::new(stage, Some(1), stretch, Some(mirrored))
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(judged(stages, &figures(1.2, 500)), Vec::<String>::new());
        let slow = judged(stages, &figures(900.0, 500));
        assert!(
            slow.len() == 1 && slow[0].contains("callers waited 900 ms"),
            "{slow:?}"
        );
        let deaf = judged(stages, &figures(1.0, 0));
        assert!(deaf[0].contains("Nothing was mirrored"), "{deaf:?}");
    }
}
