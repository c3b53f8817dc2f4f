//! When a certificate is asked for. Pure: time is handed in, in milliseconds of
//! the system's clock, and so is chance.
//!
//! ```text
//!              issued                 at 0.4 to 0.5 of its life
//!   None ───────────────► Valid ──────────────────────────────► Due
//!    ▲ │ failed: pause      ▲                                    │ │
//!    └─┘                    └───────────── issued ───────────────┘ │
//!    ▲                                                             │ failed: pause,
//!    └─────────────── its end, the pauses short again ◄────────────┘ the old one stays
//! ```

use std::time::Duration;

use crate::random;

/// The first pause after a failure is at most this long.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Without a valid certificate no pause is longer.
pub const LONGEST_PAUSE_WITHOUT: Duration = Duration::from_secs(5);
/// With one, none is longer than this and a twentieth of its life: after the
/// control plane was away its sidecars come back spread over so long.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// But it may always be so long.
const SHORTEST_CEILING: Duration = Duration::from_secs(1);

/// The renewal of one sidecar's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// When the present certificate came and when it ends.
    life: Option<(u64, u64)>,
    failures: u32,
    due_ms: u64,
}

impl Renewal {
    /// There is none: it is asked for at once.
    pub const fn new(now_ms: u64) -> Self {
        Self {
            life: None,
            failures: 0,
            due_ms: now_ms,
        }
    }

    /// When it is to be asked for.
    pub const fn due_ms(&self) -> u64 {
        self.due_ms
    }

    /// Whether there is a certificate that has not ended.
    pub fn is_valid(&self, now_ms: u64) -> bool {
        self.life.is_some_and(|(_, until)| now_ms < until)
    }

    /// A certificate came, which ends at `until_ms`.
    pub fn issued(&mut self, now_ms: u64, until_ms: u64, random: u64) {
        self.life = Some((now_ms, until_ms));
        self.failures = 0;
        let life = until_ms.saturating_sub(now_ms);
        // Never after its half: a control plane that is away for half a life is
        // then never noticed, whenever that begins.
        let part = 0.4 + 0.1 * random::unit(random);
        // A clock that is wrong must not make it a loop without a pause.
        let after = ((life as f64 * part) as u64).max(SHORTEST_CEILING.as_millis() as u64);
        self.due_ms = now_ms.saturating_add(after);
    }

    /// It was not to be had.
    pub fn failed(&mut self, now_ms: u64, random: u64) {
        let longest = match self.life {
            Some((from, until)) if now_ms < until => {
                let life = Duration::from_millis(until.saturating_sub(from));
                (life / 20).clamp(SHORTEST_CEILING, LONGEST_PAUSE)
            }
            _ => LONGEST_PAUSE_WITHOUT,
        };
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let ceiling = FIRST_PAUSE.saturating_mul(1 << doublings).min(longest);
        let pause = ceiling.mul_f64(random::unit(random));
        self.due_ms = now_ms.saturating_add(pause.as_millis() as u64);
    }

    /// The roots have changed so that the certificate is of no use any more: it
    /// is asked for within the longest pause after a failure, or as it was due.
    pub fn hurry(&mut self, now_ms: u64, random: u64) {
        let within = match self.life {
            Some((from, until)) => {
                let life = Duration::from_millis(until.saturating_sub(from));
                (life / 20).min(LONGEST_PAUSE_WITHOUT)
            }
            None => Duration::ZERO,
        };
        let pause = within.mul_f64(random::unit(random));
        self.due_ms = self
            .due_ms
            .min(now_ms.saturating_add(pause.as_millis() as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn it_is_renewed_about_half_way() {
        let mut renewal = Renewal::new(1_000);
        assert_eq!((renewal.due_ms(), renewal.is_valid(1_000)), (1_000, false));
        renewal.issued(1_000, 1_000 + DAY_MS, 0);
        assert_eq!(renewal.due_ms(), 1_000 + DAY_MS * 4 / 10);
        renewal.issued(1_000, 1_000 + DAY_MS, u64::MAX);
        let late = 1_000 + DAY_MS / 2;
        assert!(renewal.due_ms().abs_diff(late) <= 1);
        assert!(renewal.is_valid(DAY_MS) && !renewal.is_valid(1_000 + DAY_MS));
    }

    #[test]
    fn pauses_grow_to_what_the_life_allows_and_are_short_again_without_one() {
        let ceilings = |renewal: &mut Renewal, now: u64| -> Vec<u64> {
            let pause = |_| {
                renewal.failed(now, u64::MAX);
                renewal.due_ms() - now
            };
            (0..14).map(pause).collect()
        };
        let without = ceilings(&mut Renewal::new(0), 0);
        assert_eq!(without[..5], [100, 200, 400, 800, 1_600]);
        assert_eq!(without[13], 5_000);
        let mut renewal = Renewal::new(0);
        renewal.issued(0, DAY_MS, 0);
        assert_eq!(ceilings(&mut renewal, DAY_MS / 2)[13], 300_000);
        assert_eq!(ceilings(&mut renewal, DAY_MS)[0], 5_000);
        let mut short = Renewal::new(0);
        short.issued(0, 60_000, 0);
        assert_eq!(ceilings(&mut short, 30_000)[13], 3_000);
    }

    #[test]
    fn a_certificate_that_nobody_believes_is_replaced_soon() {
        let mut renewal = Renewal::new(0);
        renewal.issued(0, DAY_MS, 0);
        renewal.hurry(1_000, u64::MAX);
        assert_eq!(renewal.due_ms(), 6_000);
        renewal.hurry(1_000, 0);
        assert_eq!(renewal.due_ms(), 1_000);
    }

    /// Of so many sidecars, all with certificates of the same `life`, after a
    /// control plane was away for half of it: the most renewals in any one
    /// `span`, and the last renewal's distance from its return.
    fn after_an_outage(sidecars: u64, life: u64, span: u64) -> (usize, u64) {
        let (gone, back) = (life * 2 / 5, life * 9 / 10);
        let mut chance = 1_u64;
        let mut random = move || {
            chance = chance
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            chance
        };
        let mut renewed: Vec<u64> = (0..sidecars)
            .map(|_| {
                let mut renewal = Renewal::new(0);
                renewal.issued(0, life, random());
                while (gone..back).contains(&renewal.due_ms()) {
                    let now = renewal.due_ms();
                    assert!(renewal.is_valid(now));
                    renewal.failed(now, random());
                }
                assert!(renewal.is_valid(renewal.due_ms()));
                renewal.due_ms()
            })
            .collect();
        renewed.sort_unstable();
        let most = (0..renewed.len())
            .map(|at| {
                renewed[at..]
                    .iter()
                    .take_while(|due| **due < renewed[at] + span)
                    .count()
            })
            .max();
        (most.unwrap_or(0), renewed.last().unwrap_or(&0) - back)
    }

    /// None has ended, none waits for longer than a twentieth of its life, and
    /// they come spread over it: of 10,000 sidecars with certificates of a day
    /// not 100 in any second (evenly it would be 33).
    #[test]
    fn a_control_plane_that_was_away_is_not_stormed() {
        let (most, last) = after_an_outage(10_000, DAY_MS, 1_000);
        assert!(most <= 100, "{most} in one second");
        assert!(last <= 300_000, "the last {last} ms after its return");
        let (most, last) = after_an_outage(1_000, 60_000, 100);
        assert!(most <= 100, "{most} in 100 ms");
        assert!(last <= 3_000, "the last {last} ms after its return");
    }

    proptest! {
        #[test]
        fn with_a_control_plane_that_answers_it_is_never_without_a_certificate(
            lives in proptest::collection::vec(10_000_u64..100_000_000, 1..50),
            random: u64,
        ) {
            let mut renewal = Renewal::new(5);
            let mut until = None;
            for life in lives {
                let now = renewal.due_ms();
                prop_assert!(until.is_none_or(|until| now < until));
                renewal.issued(now, now + life, random);
                until = Some(now + life);
                prop_assert!(renewal.due_ms() > now);
            }
        }

        #[test]
        fn failures_never_make_it_wait_past_half_of_what_is_left(
            random in proptest::collection::vec(any::<u64>(), 1..200),
        ) {
            let mut renewal = Renewal::new(0);
            renewal.issued(0, DAY_MS, 0);
            for random in random {
                let now = renewal.due_ms();
                renewal.failed(now, random);
                prop_assert!(renewal.due_ms() - now <= 300_000);
            }
        }
    }
}
