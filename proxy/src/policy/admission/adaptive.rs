//! The adaptive limit: a pure state machine that climbs to where more requests at
//! a time would only wait for each other.
//!
//! ```text
//!            limited: some were refused            not limited: nothing is learnt
//!   ┌──────────────────────────────────────┐       of the limit, it stays
//!   ▼                                      │
//!   Below ── a window at limit/STEP ──▶ Above ── a window at limit x STEP ──┐
//!   ▲                                                                       │
//!   └──── slope = ln(latency above / below) / ln(limit above / below) ◀─────┘
//!              about 0: none waits for another, the limit rises
//!              about 1: who comes in addition only waits, it falls
//! ```
//!
//! So the gradient of latency decides, by what two neighbouring limits really
//! gave; no stored notion of an unloaded latency has to be right, and none has to
//! be measured by a collapse of the limit: the lower of the two is an eighth below
//! the middle, which rests a little above the knee. An application that becomes
//! slower altogether has a slope of zero, and keeps its limit.
//!
//! Where latency grows gently with concurrency, over a long way, the long term
//! decides too: `tolerance` times the latency of quiet windows is the most.

use std::time::Duration;

use crate::policy::config::admission::Adaptive as Config;

/// Where a limit begins that knows nothing.
const START: f64 = 20.0;
/// Above and below the middle by this.
const STEP: f64 = 1.15;
/// Slopes above this make the limit fall ...
const STEEP: f64 = 0.8;
/// ... and below this rise.
const FLAT: f64 = 0.5;
/// What a new pair of windows weighs in the slope.
const WEIGHT: f64 = 0.35;
/// The limit rises at most by this at once, faster while it keeps rising.
const FASTEST: f64 = 1.35;
/// Of the logarithm of two windows' limits, what tells them apart.
const LEAST_WIDTH: f64 = 0.05;
/// Below this, times the long-term latency, waiting is too little to matter: noise
/// and uneven requests would keep places empty.
const NEAR: f64 = 1.12;
/// How fast the long-term latency follows windows in which nothing waits.
const FOLLOWS: f64 = 0.1;

/// What a window saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Window {
    /// The geometric mean of the latencies of those that were admitted in it: a
    /// few that are a hundred times slower hardly move it.
    pub(super) latency: Duration,
    /// Whether all places were taken, so that somebody was refused.
    pub(super) limited: bool,
}

/// What one window says: under this limit, so slow (seconds).
#[derive(Clone, Copy, Debug)]
struct Point {
    limit: f64,
    latency: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Below,
    Above,
}

/// See the module's page.
#[derive(Clone, Debug)]
pub(super) struct Adaptive {
    middle: f64,
    phase: Phase,
    /// The window below, in the pair that is under way.
    below: Option<Point>,
    slope: Option<f64>,
    /// Rises in a row.
    rises: i32,
    /// Of windows in which nothing waited; seconds.
    long_term: Option<f64>,
}

impl Adaptive {
    pub(super) fn new(config: &Config) -> Self {
        let mut machine = Self {
            middle: START,
            phase: Phase::Below,
            below: None,
            slope: None,
            rises: 0,
            long_term: None,
        };
        machine.bound(config);
        machine
    }

    /// How many may be in flight now.
    pub(super) fn limit(&self, config: &Config) -> u32 {
        // Rounded away from the middle: between equals there is no slope.
        let limit = match self.phase {
            Phase::Below => (self.middle / STEP).floor(),
            Phase::Above => (self.middle * STEP).ceil(),
        };
        (limit as u32).clamp(config.min_requests, config.max_requests)
    }

    /// A window has ended, in which [`Self::limit`] was in force.
    pub(super) fn step(&mut self, window: Window, config: &Config) {
        let latency = window.latency.as_secs_f64().max(1e-9);
        let point = Point {
            limit: f64::from(self.limit(config)),
            latency,
        };
        if !window.limited {
            self.below = None;
            self.phase = Phase::Above;
            self.follow(latency, FOLLOWS);
            return;
        }
        match (self.phase, self.below.take()) {
            (Phase::Below, _) => {
                self.below = Some(point);
                self.phase = Phase::Above;
            }
            (Phase::Above, None) => self.phase = Phase::Below,
            (Phase::Above, Some(below)) => {
                self.phase = Phase::Below;
                self.judge(below, point, config);
            }
        }
        debug_assert!(self.limit(config) >= config.min_requests);
    }

    fn judge(&mut self, below: Point, above: Point, config: &Config) {
        let width = (above.limit / below.limit).ln();
        // Too near to each other, as at its bounds: then the long term alone decides.
        let measured = if width > LEAST_WIDTH {
            ((above.latency / below.latency).ln() / width).clamp(-1.0, 2.0)
        } else {
            f64::midpoint(STEEP, FLAT)
        };
        let slope = self
            .slope
            .map_or(measured, |held| held + WEIGHT * (measured - held));
        self.slope = Some(slope);
        if slope < FLAT {
            // Nothing waits for another: what is slow is the application itself.
            self.follow(below.latency, 3.0 * FOLLOWS);
        }
        let lift = self.lift(below.latency);
        let excess = if slope < FLAT {
            0.0
        } else {
            lift * 100.0 / f64::from(config.tolerance_percent)
        };
        let is_near = self.long_term.is_some() && lift < NEAR;
        if excess > 1.0 || (slope > STEEP && !is_near) {
            self.rises = 0;
            self.middle /= STEP.max(excess.sqrt().min(FASTEST));
        } else if slope < FLAT {
            self.middle *= STEP.powi(1 + self.rises).min(FASTEST);
            self.rises = (self.rises + 1).min(3);
        } else {
            self.rises = 0;
            if is_near {
                self.middle *= STEP.sqrt();
            }
        }
        self.bound(config);
    }

    /// How many times the long-term latency it is; 1 where none is known. A lower one
    /// becomes the long-term latency, so it is never below 1.
    fn lift(&mut self, latency: f64) -> f64 {
        let Some(held) = self.long_term else {
            return 1.0;
        };
        let long_term = held.min(latency);
        self.long_term = Some(long_term);
        latency / long_term
    }

    /// The long-term latency comes nearer to one in which nothing waited: by `weight`,
    /// and by half where it is lower.
    fn follow(&mut self, latency: f64, weight: f64) {
        let held = self.long_term.unwrap_or(latency);
        let weight = if latency < held { 0.5 } else { weight };
        self.long_term = Some(held + weight * (latency - held));
    }

    /// Also after a change of the policy.
    pub(super) fn bound(&mut self, config: &Config) {
        let (min, max) = (
            f64::from(config.min_requests),
            f64::from(config.max_requests),
        );
        self.middle = self.middle.clamp(min, max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the application and its callers may do in a window.
    fn windows() -> impl Strategy<Value = Vec<Window>> {
        let window = (0_u64..20_000_000_000, any::<bool>()).prop_map(|(nanos, limited)| Window {
            latency: Duration::from_nanos(nanos),
            limited,
        });
        proptest::collection::vec(window, 0..300)
    }

    proptest! {
        #[test]
        fn whatever_it_sees_it_stays_within_its_bounds_and_moves_by_steps(
            min in 1_u32..100,
            more in 0_u32..1000,
            tolerance_percent in 101_u32..1000,
            windows in windows(),
        ) {
            let config = Config { min_requests: min, max_requests: min + more, tolerance_percent };
            let mut machine = Adaptive::new(&config);
            for window in windows {
                let before = machine.middle;
                machine.step(window, &config);
                let (limit, moved) = (machine.limit(&config), machine.middle / before);
                prop_assert!((min..=min + more).contains(&limit), "{limit}");
                prop_assert!(machine.middle.is_finite());
                let at_most = FASTEST + 1e-9;
                prop_assert!((1.0 / at_most..=at_most).contains(&moved), "{moved}");
                prop_assert!(window.limited || moved == 1.0, "nothing was learnt: {moved}");
            }
        }

        /// An application that serves so many at a time, and of which the others wait:
        /// the limit comes to rest around that, wherever it begins.
        #[test]
        fn it_comes_to_rest_a_little_above_the_knee(
            knee in 8_u32..300,
            service_ms in 1_u64..500,
            begin in 4.0..900.0_f64,
        ) {
            let config = Config { min_requests: 4, max_requests: 1000, tolerance_percent: 200 };
            let mut machine = Adaptive::new(&config);
            machine.middle = begin;
            let mut after = Vec::new();
            for number in 0..400 {
                let waiting = f64::from(machine.limit(&config)) / f64::from(knee);
                let latency = Duration::from_millis(service_ms).mul_f64(waiting.max(1.0));
                machine.step(Window { latency, limited: true }, &config);
                if number >= 200 {
                    after.push(f64::from(machine.limit(&config)) / f64::from(knee));
                }
            }
            for share in after {
                prop_assert!((0.7..2.5).contains(&share), "{share} of the knee");
            }
        }
    }
}
