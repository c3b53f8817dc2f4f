//! Medians, which hold on a noisy machine where means do not.

/// The median; `None` of nothing. Of an even number the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Where the median of what `values` were drawn from lies, with a confidence of
/// at least 95 %: an interval between two of the values (the sign test's; no
/// distribution is assumed). `None` of fewer than 6, which cannot tell.
pub fn median_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    // P(at most k of count coins show heads), for k = 0, 1, ...
    let mut exactly = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut at_most = exactly;
    let mut left_out = 0;
    while at_most <= 0.025 {
        left_out += 1;
        exactly *= (count + 1 - left_out) as f64 / left_out as f64;
        at_most += exactly;
    }
    (left_out > 0).then(|| (sorted[left_out - 1], sorted[count - left_out]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_taken_whatever_the_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn the_interval_leaves_out_what_the_sign_test_allows() {
        let values = |count: u32| (1..=count).map(f64::from).collect::<Vec<_>>();
        assert_eq!(median_interval(&values(5)), None);
        assert_eq!(median_interval(&values(6)), Some((1.0, 6.0)));
        // Tables of the binomial: of 20 the 6th and the 15th.
        assert_eq!(median_interval(&values(20)), Some((6.0, 15.0)));
    }
}
