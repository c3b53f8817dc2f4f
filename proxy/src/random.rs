//! The only place that makes random numbers. Everything else is handed a `u64`.
//!
//! Not for secrets: these numbers spread load and jitter timers.

use std::cell::RefCell;

thread_local! {
    static GENERATOR: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::new());
}

/// The next number of this thread's generator.
pub fn next() -> u64 {
    GENERATOR.with_borrow_mut(|generator| generator.u64(..))
}

/// This thread's generator begins anew, so that a simulation can be played again.
#[cfg(test)]
pub fn begin_anew(seed: u64) {
    GENERATOR.with_borrow_mut(|generator| generator.seed(seed));
}

/// Maps `random` evenly onto `0.0 ..= 1.0`.
pub fn unit(random: u64) -> f64 {
    (random >> 11) as f64 / ((1_u64 << 53) - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_spans_the_interval() {
        assert_eq!(unit(0), 0.0);
        assert_eq!(unit(u64::MAX), 1.0);
        assert!((0.0..=1.0).contains(&unit(next())));
    }
}
