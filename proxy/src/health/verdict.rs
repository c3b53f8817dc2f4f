//! What probes come to: a pure state machine.
//!
//! ```text
//!              one went well                 so many of the last `window` failed
//!   Unknown ──────────────────▶ Healthy ───────────────────────────────────▶ Unhealthy
//!      │                           ▲                                             │
//!      │                           └──── `healthyThreshold` in a row went well ──┘
//!      └── so many failed ──▶ Unhealthy
//! ```

use crate::policy::config::HealthCheck;
use crate::state::Health;

/// The verdict of one check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    health: Health,
    /// One bit for each probe, the last one lowest; set where it failed.
    failed: u128,
    /// That went well, in a row.
    row: u32,
}

impl Verdict {
    /// How it stands.
    pub fn health(&self) -> Health {
        self.health
    }

    /// A probe ended; the new verdict where it is another.
    pub fn record(&mut self, went_well: bool, check: &HealthCheck) -> Option<Health> {
        let before = self.health;
        self.failed = (self.failed << 1) | u128::from(!went_well);
        self.row = if went_well {
            self.row.saturating_add(1)
        } else {
            0
        };
        // Windows have at most 100 probes.
        let window = check.window.clamp(1, 127);
        let failed = (self.failed & ((1_u128 << window) - 1)).count_ones();
        match self.health {
            Health::Unhealthy if self.row >= check.healthy_threshold => {
                self.health = Health::Healthy;
                // What was before counts no more.
                self.failed = 0;
            }
            Health::Unhealthy => {}
            _ if failed >= check.unhealthy_threshold => self.health = Health::Unhealthy,
            Health::Unknown if went_well => self.health = Health::Healthy,
            _ => {}
        }
        (self.health != before).then_some(self.health)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::config::health::Probe;

    fn check(window: u32, unhealthy_threshold: u32, healthy_threshold: u32) -> HealthCheck {
        HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            window,
            unhealthy_threshold,
            healthy_threshold,
        }
    }

    fn after(probes: &str, check: &HealthCheck) -> Health {
        let mut verdict = Verdict::default();
        for probe in probes.chars() {
            verdict.record(probe == '+', check);
        }
        verdict.health()
    }

    #[test]
    fn so_many_of_the_last_make_it_unhealthy_and_so_many_in_a_row_healthy() {
        let (three, two_of_four) = (check(3, 3, 1), check(4, 2, 2));
        for (probes, check, health) in [
            ("", &three, Health::Unknown),
            ("--", &three, Health::Unknown),
            ("---", &three, Health::Unhealthy),
            ("+", &three, Health::Healthy),
            ("+--+--", &three, Health::Healthy),
            ("---+", &three, Health::Healthy),
            ("---+--", &three, Health::Healthy),
            ("+-++-", &two_of_four, Health::Unhealthy),
            ("+-+++-", &two_of_four, Health::Healthy),
            ("--+", &two_of_four, Health::Unhealthy),
            ("--+-+", &two_of_four, Health::Unhealthy),
            ("--++-", &two_of_four, Health::Healthy),
        ] {
            assert_eq!(after(probes, check), health, "{probes}");
        }
    }

    proptest! {
        #[test]
        fn it_is_as_a_list_of_the_last_probes_says(
            window in 1_u32..=100,
            threshold in 1_u32..=100,
            healthy in 1_u32..=5,
            probes in proptest::collection::vec(any::<bool>(), 0..300),
        ) {
            let check = check(window, threshold.min(window), healthy);
            let mut verdict = Verdict::default();
            let (mut last, mut row, mut health) = (VecDeque::new(), 0, Health::Unknown);
            for went_well in probes {
                let changed = verdict.record(went_well, &check);
                last.push_back(went_well);
                if last.len() > window as usize {
                    last.pop_front();
                }
                row = if went_well { row + 1 } else { 0 };
                let before = health;
                if health == Health::Unhealthy {
                    if row >= healthy {
                        health = Health::Healthy;
                        last.clear();
                    }
                } else if last.iter().filter(|ok| !**ok).count() >= check.unhealthy_threshold as usize {
                    health = Health::Unhealthy;
                } else if went_well {
                    health = Health::Healthy;
                }
                prop_assert_eq!(verdict.health(), health);
                prop_assert_eq!(changed, (health != before).then_some(health));
            }
        }
    }
}
