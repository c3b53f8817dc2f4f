//! The two functions that the balancer needs of the mathematics library.
//!
//! Written out because they would be all that a sidecar uses of that library,
//! which costs 300 KiB of memory in every pod; and these are exact enough for
//! averages and for drawing lots.

use std::f64::consts::LN_2;

/// e to the power of -`x`, for `x` of at least 0; off by less than 0.002. Falls as `x` rises.
pub fn fading(x: f32) -> f32 {
    // (1 - x/1024) to the power of 1024.
    let mut factor = (1.0 - x * (1.0 / 1024.0)).max(0.0);
    for _ in 0..10 {
        factor *= factor;
    }
    factor
}

/// The natural logarithm of a normal `x` above 0, to about six digits.
pub fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as f64 - 1023.0;
    let mantissa = f64::from_bits((bits & MANTISSA) | (1023 << 52));
    // ln m = 2 artanh((m - 1) / (m + 1)), and m lies between 1 and 2.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = 1.0
        + square * (1.0 / 3.0 + square * (1.0 / 5.0 + square * (1.0 / 7.0 + square * (1.0 / 9.0))));
    exponent * LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fading_is_close_to_the_exponential() {
        for step in 0..2000_u16 {
            let x = f32::from(step) * 0.01;
            let exact = (-x).exp();
            assert!(
                (fading(x) - exact).abs() < 0.002,
                "{x}: {} for {exact}",
                fading(x)
            );
        }
        assert_eq!(fading(5000.0), 0.0);
        assert_eq!(fading(0.0), 1.0);
    }

    #[test]
    fn the_logarithm_is_close() {
        for x in [1e-300, 1e-9, 0.1, 0.5, 0.999_999, 1.0, 1.5, 2.0, 1e12] {
            let error = (ln(x) - f64::ln(x)).abs();
            assert!(error < 1e-4, "{x}: off by {error}");
        }
    }
}
