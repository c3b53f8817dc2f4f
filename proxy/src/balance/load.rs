//! How slow and how busy an endpoint is: a peak-sensitive moving average.
//!
//! ```text
//!   answer slower than the average ──▶ the average jumps to it
//!   answer faster                  ──▶ the average moves towards it, by the time since the last
//!   attempt failed or was refused  ──▶ a penalty: ten times the average, at least 1 s
//!   answer under a penalty         ──▶ half of the penalty goes
//!   time passes                    ──▶ average and penalty fade
//!
//!   load = (average + penalty) x (in flight + 1)
//! ```
//!
//! After Finagle's Peak EWMA. The penalty is kept apart from the average, so
//! that a row of failures does not multiply without bound and the average stays
//! a latency that can be shown. Latency is from the request's headers to the
//! response's headers.
//!
//! Under a penalty an endpoint would not be picked for half a minute, though
//! one request in a million had failed. So now and then one attempt is let try
//! it, as if there were no penalty: 50 ms after the first failure, and twice as
//! late after each further one in a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::math::fading;
use crate::clock::Timestamp;

/// In this time an average fades to a third (1/e): long enough to remember the
/// ranking between bursts, short enough that a peak of 1 s draws level with 10 ms
/// in half a minute without any traffic.
const FADE: Duration = Duration::from_secs(5);
/// A failed attempt weighs at least so much.
const FAILURE_AT_LEAST: Duration = Duration::from_secs(1);
/// ... and at least so many times the average.
const FAILURE_TIMES: f32 = 10.0;
/// An endpoint under a penalty is tried again after this, doubled with each failure in a row ...
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// ... so many times at most (6.4 s).
const RETRY_DOUBLINGS: u32 = 7;
/// An endpoint without an attempt for so many times its average is looked at again ...
const STALE_TIMES: u32 = 10;
/// ... but not within this.
const STALE_AT_LEAST: Duration = Duration::from_millis(250);
/// What an endpoint without any measurement is taken for once it has a request in
/// flight: so the first one is tried at once, and the rest wait for its answer.
const UNKNOWN_NANOS: f64 = 1e9;

/// The load of one endpoint, shared by all workers.
#[derive(Debug, Default)]
pub struct LoadMeter {
    average: Fading,
    penalty: Fading,
    in_flight: AtomicU32,
    failures_in_a_row: AtomicU32,
    /// Nanoseconds; has a meaning only under a penalty.
    try_again_at: AtomicU64,
    /// Nanoseconds; when an attempt last began.
    last_start: AtomicU64,
}

impl LoadMeter {
    /// Nothing measured, nothing in flight.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// An attempt begins: its headers are being sent.
    pub fn start(self: &Arc<Self>, now: Timestamp) -> LoadGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.last_start.store(now.as_nanos(), Ordering::Relaxed);
        if !self.penalty.is_clear() {
            self.postpone(now);
        }
        LoadGuard {
            meter: Arc::clone(self),
            started: now,
        }
    }

    /// What the balancer compares, without unit: lower is better.
    pub fn load(&self, now: Timestamp) -> f64 {
        let in_flight = f64::from(self.in_flight());
        let cost = f64::from(self.average.read(now)) + f64::from(self.penalty(now));
        if cost > 0.0 {
            cost * (in_flight + 1.0)
        } else {
            UNKNOWN_NANOS * in_flight
        }
    }

    /// Whether what is known of it is old: it has had no attempt for a while,
    /// though one slow answer may be all that speaks against it.
    ///
    /// The while is ten times its average, so that looking again costs a tenth
    /// of one request in flight, however slow it is. What is under a penalty is
    /// looked at by the penalty's own clock.
    pub fn is_stale(&self, now: Timestamp) -> bool {
        if self.in_flight() > 0 || !self.penalty.is_clear() {
            return false;
        }
        let last = Timestamp::from_nanos(self.last_start.load(Ordering::Relaxed));
        now.since(last) >= (self.latency(now) * STALE_TIMES).max(STALE_AT_LEAST)
    }

    /// The average latency of answers; zero when nothing was measured. Penalties are not in it.
    pub fn latency(&self, now: Timestamp) -> Duration {
        Duration::from_nanos(self.average.read(now) as u64)
    }

    /// Attempts in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn answered(&self, latency: Duration, now: Timestamp) {
        self.average.observe(nanos(latency), now);
        if !self.penalty.is_clear() {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
            self.postpone(now);
            let left = self.penalty.halve(now);
            if left < self.average.read(now) {
                self.penalty.clear();
            }
        }
    }

    fn failed(&self, latency: Duration, now: Timestamp) {
        let slow = (self.average.read(now) * FAILURE_TIMES)
            .max(nanos(FAILURE_AT_LEAST))
            .max(nanos(latency));
        self.penalty.raise(slow, now);
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        self.postpone(now);
    }

    fn postpone(&self, now: Timestamp) {
        let row = self.failures_in_a_row.load(Ordering::Relaxed);
        let doublings = row.saturating_sub(1).min(RETRY_DOUBLINGS);
        let at = now.after(RETRY_FIRST * (1 << doublings));
        self.try_again_at.store(at.as_nanos(), Ordering::Relaxed);
    }

    /// The penalty that counts now: none when it is time to try again.
    fn penalty(&self, now: Timestamp) -> f32 {
        if self.penalty.is_clear() || self.try_again_at.load(Ordering::Relaxed) <= now.as_nanos() {
            return 0.0;
        }
        self.penalty.read(now)
    }
}

/// One attempt in flight. Dropping it ends it; an attempt that the caller
/// cancelled is only dropped and says nothing of the endpoint.
#[derive(Debug)]
pub struct LoadGuard {
    meter: Arc<LoadMeter>,
    started: Timestamp,
}

impl LoadGuard {
    /// The response's headers came, and they were no failure.
    pub fn answered(&self, now: Timestamp) {
        self.meter.answered(now.since(self.started), now);
    }

    /// It was cancelled for another that was quicker: it is at least so slow.
    pub fn at_least(&self, now: Timestamp) {
        let so_far = nanos(now.since(self.started));
        self.meter.average.raise(so_far, now);
    }

    /// The attempt failed or was refused, however fast.
    pub fn failed(&self, now: Timestamp) {
        self.meter.failed(now.since(self.started), now);
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        let before = self.meter.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "ended twice");
    }
}

fn nanos(span: Duration) -> f32 {
    // Never zero: zero means that nothing was measured.
    (span.as_nanos() as f32).max(1.0)
}

/// A value that fades, and when it was last changed, in one word: the value as
/// `f32` in the high half, the time in units of about a millisecond in the low
/// half (a circle of 52 days). A change within the same unit as the last one is
/// left out unless it is a peak, which also keeps workers from contending.
#[derive(Debug, Default)]
struct Fading(AtomicU64);

/// One unit of the low half is 2^20 ns.
const UNIT_SHIFT: u32 = 20;
const UNIT_NANOS: f32 = (1_u64 << UNIT_SHIFT) as f32;

impl Fading {
    fn read(&self, now: Timestamp) -> f32 {
        let (value, at) = unpack(self.0.load(Ordering::Relaxed));
        value * remaining(age(at, now))
    }

    /// A new sample: jumps to a peak, moves slowly towards what is lower.
    fn observe(&self, sample: f32, now: Timestamp) {
        self.change(now, |value, age| {
            if value == 0.0 || sample >= value {
                return Some(sample);
            }
            let weight = remaining(age);
            (age > 0).then_some(value * weight + sample * (1.0 - weight))
        });
    }

    /// At least this from now on.
    fn raise(&self, sample: f32, now: Timestamp) {
        self.change(now, |value, age| {
            (sample > value * remaining(age)).then_some(sample)
        });
    }

    /// Takes half of it away; tells what is left.
    fn halve(&self, now: Timestamp) -> f32 {
        self.change(now, |value, age| Some(value * remaining(age) / 2.0));
        self.read(now)
    }

    fn is_clear(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn change(&self, now: Timestamp, change: impl Fn(f32, u32) -> Option<f32>) {
        // Fails only where there is nothing to change.
        let _unchanged = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                let (value, at) = unpack(word);
                change(value, age(at, now)).map(|value| pack(value, unit(now)))
            });
    }
}

const fn unit(now: Timestamp) -> u32 {
    (now.as_nanos() >> UNIT_SHIFT) as u32
}

/// Units since `at`; zero where another worker has read the clock a moment later.
fn age(at: u32, now: Timestamp) -> u32 {
    let age = unit(now).wrapping_sub(at);
    if age > u32::MAX / 2 { 0 } else { age }
}

/// What is left of a value after so many units.
fn remaining(age: u32) -> f32 {
    if age == 0 {
        return 1.0;
    }
    fading(age as f32 * UNIT_NANOS / FADE.as_nanos() as f32)
}

const fn pack(value: f32, unit: u32) -> u64 {
    ((value.to_bits() as u64) << 32) | unit as u64
}

const fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn start() -> Timestamp {
        Timestamp::from_millis(5000)
    }

    /// One attempt that takes `latency`, answered at the returned moment.
    fn answer(meter: &Arc<LoadMeter>, now: Timestamp, latency: Duration) -> Timestamp {
        let end = now.after(latency);
        meter.start(now).answered(end);
        end
    }

    fn is_about(value: Duration, expected: Duration) -> bool {
        (value.as_secs_f64() / expected.as_secs_f64() - 1.0).abs() < 0.01
    }

    #[test]
    fn a_peak_is_taken_over_at_once_and_forgotten_slowly() {
        let meter = LoadMeter::new();
        let now = answer(&meter, start(), MS(10));
        let now = answer(&meter, now, MS(500));
        assert!(is_about(meter.latency(now), MS(500)));
        let later = answer(&meter, now, MS(10));
        assert!(meter.latency(later) > MS(490));
        let much_later = now.after(FADE * 3);
        assert!(meter.latency(much_later) < MS(26));
    }

    #[test]
    fn an_endpoint_without_attempts_is_looked_at_again_by_how_slow_it_was() {
        let meter = LoadMeter::new();
        assert!(meter.is_stale(start()), "never tried");
        let fast = answer(&meter, start(), MS(1));
        assert!(!meter.is_stale(fast.after(MS(200))));
        assert!(meter.is_stale(fast.after(MS(260))));
        let slow = answer(&meter, fast, MS(500));
        assert!(!meter.is_stale(slow.after(MS(1500))));
        assert!(meter.is_stale(slow.after(MS(4500))));
        let busy = meter.start(slow);
        assert!(!meter.is_stale(slow.after(MS(60_000))), "one is in flight");
        drop(busy);
    }

    #[test]
    fn an_endpoint_under_a_penalty_is_not_stale() {
        let meter = LoadMeter::new();
        meter.start(start()).failed(start());
        assert!(!meter.is_stale(start().after(MS(1000))));
    }

    #[test]
    fn many_fast_answers_bring_the_average_down() {
        let meter = LoadMeter::new();
        let mut now = answer(&meter, start(), MS(500));
        for _ in 0..4000 {
            now = answer(&meter, now, MS(10));
        }
        assert!(meter.latency(now) < MS(12), "{:?}", meter.latency(now));
    }

    #[test]
    fn the_average_stays_true_when_answers_come_faster_than_the_unit_of_time() {
        let meter = LoadMeter::new();
        let mut now = answer(&meter, start(), MS(100));
        for _ in 0..400_000 {
            now = answer(&meter, now, Duration::from_micros(100));
        }
        assert!(meter.latency(now) < MS(1), "{:?}", meter.latency(now));
    }

    #[test]
    fn an_endpoint_that_fails_fast_looks_slow() {
        let fast_failer = LoadMeter::new();
        let honest = LoadMeter::new();
        let now = answer(&honest, start(), MS(40));
        fast_failer.start(now).failed(now.after(MS(1)));
        assert!(fast_failer.load(now) > honest.load(now) * 10.0);
    }

    #[test]
    fn answers_take_a_penalty_away_one_by_one() {
        let meter = LoadMeter::new();
        let mut now = answer(&meter, start(), MS(10));
        meter.start(now).failed(now);
        let mut answers = 0;
        while meter.load(now) > 1.1e7 {
            now = answer(&meter, now, MS(10));
            answers += 1;
        }
        assert_eq!(answers, 7, "1000 ms, 500, ... 10 ms");
    }

    #[test]
    fn in_flight_ends_with_the_guard_whatever_became_of_it() {
        let meter = LoadMeter::new();
        let now = answer(&meter, start(), MS(10));
        let before = meter.load(now);
        let cancelled = meter.start(now);
        let failed = meter.start(now);
        assert_eq!(meter.in_flight(), 2);
        assert!(meter.load(now) > before * 2.9);
        failed.failed(now);
        drop((cancelled, failed));
        assert_eq!(meter.in_flight(), 0);
    }

    #[test]
    fn the_first_answer_is_waited_for_before_more_is_sent() {
        let (new, known) = (LoadMeter::new(), LoadMeter::new());
        let now = answer(&known, start(), MS(10));
        assert!(new.load(now) < known.load(now));
        let _first = new.start(now);
        assert!(new.load(now) > known.load(now));
    }

    proptest! {
        #[test]
        fn a_failure_weighs_ten_averages_and_a_second_at_least(
            latencies in proptest::collection::vec(1..20_000_u64, 0..20),
            failures in 1..10_usize,
        ) {
            let meter = LoadMeter::new();
            let mut now = start();
            for latency in latencies {
                now = answer(&meter, now, MS(latency));
            }
            let average = meter.latency(now).as_nanos() as f64;
            for _ in 0..failures {
                meter.start(now).failed(now);
                // f32 carries seven digits.
                prop_assert!(meter.load(now) >= (average * 10.0).max(1e9) * 0.9999);
            }
            prop_assert!(meter.load(now) <= (average * 11.0).max(1e9 + average) * 1.0001);
            // As if nothing had been, for one attempt, when it is time.
            let again = now.after(RETRY_FIRST * (1 << (failures - 1).min(7)));
            prop_assert!(meter.load(again) <= average);
            meter.start(again);
            prop_assert!(average == 0.0 || meter.load(again) > average);
            prop_assert!(meter.load(now.after(FADE * 40)) < 1.0);
        }

        #[test]
        fn the_average_stays_among_the_samples(
            latencies in proptest::collection::vec(1..20_000_u64, 1..50),
        ) {
            let meter = LoadMeter::new();
            let mut now = start();
            for latency in &latencies {
                now = answer(&meter, now, MS(*latency));
                let shown = meter.latency(now).as_secs_f64() * 1000.0;
                let max = *latencies.iter().max().unwrap_or(&0) as f64;
                prop_assert!(shown <= max * 1.0001, "{shown}");
                prop_assert!(shown >= *latency as f64 * 0.9999 || shown >= 0.9999, "{shown}");
            }
        }
    }
}
