//! What happens on the stage, when, and what the mesh must have done for the
//! run to be called good.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::trials::{self, Trial};

/// The scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum Scenario {
    /// The shop under load; with `--for`, a catalog pod is killed and revived.
    Demo,
    /// The control plane is killed for 10 s (at most a third of the time) and comes back.
    ControlPlaneOutage,
    /// Certificates live 60 s, and the control plane is away for 40 s.
    CaOutage,
    /// Certificates live 60 s, and the root of the mesh's CA is replaced twice.
    RootRotation,
    /// A new version of payment gets a tenth, half, all of the charges.
    Canary,
    /// All charges go to the other version at once, and back.
    BlueGreen,
    /// A cookie decides which version takes the money.
    AbCookie,
    /// The new version hears all charges, and gets into trouble.
    Mirror,
    /// Load and nothing else.
    Steady,
    /// One of a section of TrafficPolicy, by its name.
    Trial(&'static str),
}

/// Those that are no trials, each with what it shows.
const OTHERS: [(Scenario, &str, &str); 9] = [
    (
        Scenario::Demo,
        "demo",
        "the shop under load; with --for, a catalog pod is killed and revived",
    ),
    (
        Scenario::ControlPlaneOutage,
        "control-plane-outage",
        "the control plane is killed for 10 s (at most a third of the time) and comes back",
    ),
    (
        Scenario::CaOutage,
        "ca-outage",
        "certificates live 60 s, and the control plane is away for 40 s",
    ),
    (
        Scenario::RootRotation,
        "root-rotation",
        "certificates live 60 s, and the root of the mesh's CA is replaced twice",
    ),
    (
        Scenario::Canary,
        "canary",
        "routes: a new version of payment gets a tenth, half, all of the charges",
    ),
    (
        Scenario::BlueGreen,
        "blue-green",
        "routes: all charges go to the other version at once, and back",
    ),
    (
        Scenario::AbCookie,
        "ab-cookie",
        "routes: a cookie decides which version takes the money",
    ),
    (
        Scenario::Mirror,
        "mirror",
        "routes: the new version hears all charges, and gets into trouble",
    ),
    (Scenario::Steady, "steady", "load and nothing else"),
];

impl From<Scenario> for String {
    fn from(scenario: Scenario) -> Self {
        scenario.word().to_owned()
    }
}

// By hand: derived, it would want what it reads to live as long as the names here.
impl<'de> Deserialize<'de> for Scenario {
    fn deserialize<D: serde::Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let word = String::deserialize(reader)?;
        Self::try_from(word).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<String> for Scenario {
    type Error = String;

    fn try_from(word: String) -> Result<Self, String> {
        let all = Self::all();
        let found = all.into_iter().find(|one| one.word() == word);
        found.ok_or_else(|| format!("no scenario {word}: --scenario list has them all"))
    }
}

/// How long certificates live where they are what a scenario is about: the
/// least that a control plane takes.
const SHORT_LIFETIME: Duration = Duration::from_secs(60);
/// The control plane's absence, where certificates are due in the meantime.
const CA_OUTAGE: Duration = Duration::from_secs(40);
/// The shortest run in which a certificate is renewed before, within and after.
const SHORTEST_WITH_RENEWALS: Duration = Duration::from_secs(150);

/// The longest outage of the control plane.
const LONGEST_OUTAGE: Duration = Duration::from_secs(10);

/// Something that the scenario does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// SIGKILL of the processes of the last catalog pod.
    KillCatalog,
    /// Its processes are started again.
    ReviveCatalog,
    /// SIGKILL of the control plane.
    KillControlPlane,
    /// A new control plane.
    StartControlPlane,
    /// Another root in the place of the CA's.
    ReplaceRoot,
    /// A stage of a scenario of routes begins.
    EnterStage(usize),
}

impl Scenario {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let trials = trials::table::ALL.iter();
        let trials = trials.map(|trial| Self::Trial(trial.name));
        OTHERS
            .iter()
            .map(|(one, _, _)| *one)
            .chain(trials)
            .collect()
    }

    /// Its name, as typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Trial(name) => name,
            other => told(other).map_or("", |told| told.1),
        }
    }

    /// What it shows, in a line.
    pub fn says(self) -> &'static str {
        match self.trial() {
            Some(trial) => trial.says,
            None => told(self).map_or("", |told| told.2),
        }
    }

    /// What it is where it is one of a section of TrafficPolicy.
    pub fn trial(self) -> Option<&'static Trial> {
        match self {
            Self::Trial(name) => trials::table::find(name),
            _ => None,
        }
    }

    /// Whether the policy of the whole namespace is changed on and on, to measure how
    /// fast that is in force.
    pub fn measures_changes(self) -> bool {
        self.trial().is_none()
    }

    /// How long certificates live, where it is not the control plane's default.
    pub fn identity_lifetime(self) -> Option<Duration> {
        matches!(self, Self::CaOutage | Self::RootRotation).then_some(SHORT_LIFETIME)
    }

    /// The shortest run in which all of it happens.
    pub fn shortest(self) -> Duration {
        self.identity_lifetime()
            .map_or(Duration::ZERO, |_| SHORTEST_WITH_RENEWALS)
    }

    /// What happens when, in a run of this length.
    pub fn acts(self, length: Duration) -> Vec<(Duration, Act)> {
        let third = length / 3;
        match self {
            Self::Demo => vec![(third, Act::KillCatalog), (third * 2, Act::ReviveCatalog)],
            Self::ControlPlaneOutage => {
                let outage = third.min(LONGEST_OUTAGE);
                let begin = (length - outage) / 2;
                vec![
                    (begin, Act::KillControlPlane),
                    (begin + outage, Act::StartControlPlane),
                ]
            }
            Self::CaOutage => {
                let begin = (length.saturating_sub(CA_OUTAGE)) / 2;
                vec![
                    (begin, Act::KillControlPlane),
                    (begin + CA_OUTAGE, Act::StartControlPlane),
                ]
            }
            Self::RootRotation => {
                let fifth = length / 5;
                vec![(fifth, Act::ReplaceRoot), (fifth * 3, Act::ReplaceRoot)]
            }
            // What happens there are stages.
            Self::Canary
            | Self::BlueGreen
            | Self::AbCookie
            | Self::Mirror
            | Self::Steady
            | Self::Trial(_) => Vec::new(),
        }
    }

    /// Whether a policy is changed at this moment of the run, to measure how
    /// fast it is in force everywhere. In the middle third pods are dead.
    pub fn changes_policy(self, at: Duration, length: Duration) -> bool {
        if !self.measures_changes() {
            return false;
        }
        let third = length / 3;
        // A revived sidecar gets its time to be ready, and the last change its time to flow.
        let settled = Duration::from_secs(1);
        let (quiet_from, quiet_to) = match (self.acts(length).first(), self.acts(length).last()) {
            (Some(first), Some(last)) => (first.0, last.0 + settled),
            _ => (third, third * 2),
        };
        let before_end = length.saturating_sub(settled);
        at + settled / 2 < quiet_from || (at > quiet_to && at < before_end)
    }
}

fn told(scenario: Scenario) -> Option<&'static (Scenario, &'static str, &'static str)> {
    OTHERS.iter().find(|(one, _, _)| *one == scenario)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_a_line() {
        let all = Scenario::all();
        let words: std::collections::BTreeSet<_> = all.iter().map(|one| one.word()).collect();
        assert_eq!(words.len(), all.len());
        for one in all {
            assert!(one.says().len() > 10, "{one:?}");
            assert_eq!(Scenario::try_from(String::from(one)), Ok(one));
        }
        assert!(Scenario::try_from("nonsense".to_owned()).is_err());
    }

    const RUN: Duration = Duration::from_secs(30);

    #[test]
    fn the_demo_kills_at_a_third_and_revives_at_two() {
        let seconds: Vec<_> = Scenario::Demo
            .acts(RUN)
            .iter()
            .map(|(at, _)| at.as_secs())
            .collect();
        assert_eq!(seconds, [10, 20]);
    }

    #[test]
    fn the_outage_is_ten_seconds_or_a_third() {
        let length = |run: u64| {
            let acts = Scenario::ControlPlaneOutage.acts(Duration::from_secs(run));
            acts[1].0 - acts[0].0
        };
        assert_eq!(length(60), Duration::from_secs(10));
        assert_eq!(length(9), Duration::from_secs(3));
    }

    #[test]
    fn certificates_are_renewed_before_within_and_after_what_they_are_to_bear() {
        for scenario in [Scenario::CaOutage, Scenario::RootRotation] {
            let (life, run) = (scenario.identity_lifetime().unwrap(), scenario.shortest());
            let acts = scenario.acts(run);
            assert!(acts[1].0 - acts[0].0 > life / 2, "{scenario:?}");
            assert!(run - acts[1].0 > life / 2, "{scenario:?}");
        }
        assert_eq!(Scenario::Demo.shortest(), Duration::ZERO);
    }

    #[test]
    fn no_policy_is_changed_while_something_is_down() {
        let changes = |second| Scenario::Demo.changes_policy(Duration::from_secs(second), RUN);
        assert!(changes(1) && changes(9) && changes(22));
        assert!(!changes(10) && !changes(15) && !changes(20) && !changes(30));
    }
}
