//! What happens on the stage, when, and what the mesh must have done for the
//! run to be called good.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// The shop under load; with `--for`, a catalog pod is killed and revived.
    Demo,
    /// The control plane is killed for 10 s (at most a third of the time) and comes back.
    ControlPlaneOutage,
    /// Load and nothing else.
    Steady,
}

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
}

impl Scenario {
    /// Its name, as typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::ControlPlaneOutage => "control-plane-outage",
            Self::Steady => "steady",
        }
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
            Self::Steady => Vec::new(),
        }
    }

    /// Whether a policy is changed at this moment of the run, to measure how
    /// fast it is in force everywhere. In the middle third pods are dead.
    pub fn changes_policy(self, at: Duration, length: Duration) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn no_policy_is_changed_while_something_is_down() {
        let changes = |second| Scenario::Demo.changes_policy(Duration::from_secs(second), RUN);
        assert!(changes(1) && changes(9) && changes(22));
        assert!(!changes(10) && !changes(15) && !changes(20) && !changes(30));
    }
}
