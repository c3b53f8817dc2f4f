//! The only place that makes random numbers. Everything else is handed a `u64`.
//!
//! Not for secrets, but for [`serial`]: these numbers spread what would else
//! happen at once. (Keys are made by the cryptographic library itself.)

use std::cell::RefCell;

thread_local! {
    static GENERATOR: RefCell<fastrand::Rng> = RefCell::new(fastrand::Rng::new());
}

/// The next number of this thread's generator.
pub fn next() -> u64 {
    GENERATOR.with_borrow_mut(|generator| generator.u64(..))
}

/// The serial number of a certificate: 128 bits that nobody can foretell
/// (CA/Browser Forum's Baseline Requirements ask for 64), never zero.
///
/// # Errors
/// When the system gives no random numbers.
pub fn serial() -> Result<[u8; 16], aws_lc_rs::error::Unspecified> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial)?;
    if serial == [0; 16] {
        serial[15] = 1;
    }
    Ok(serial)
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
