//! What is counted of attempts, and what is done beside one: rates and hedges, read.

use remora_proto::v1;

use super::forms::IntOrString;
use super::parse::Faults;
use super::{bounds, schema, units};
use crate::core::settings;

/// A rate of failures or of slow calls.
pub(super) fn rate(
    at: &str,
    threshold: Option<&IntOrString>,
    window: Option<&String>,
    min_requests: Option<u32>,
    faults: &mut Faults,
) -> settings::Rate {
    let threshold_percent = threshold.and_then(|written| {
        let (number, shown) = match written {
            IntOrString::Int(number) => (u32::try_from(*number).ok(), number.to_string()),
            IntOrString::String(text) => (percent(text), format!("{text:?}")),
        };
        let number = number.filter(|number| (1..=100).contains(number));
        if number.is_none() {
            let message = format!("is {shown}, must be from 1% to 100%, or a number from 1 to 100");
            faults.add(format!("{at}.threshold"), message);
        }
        number
    });
    settings::Rate {
        threshold_percent,
        window_ms: faults.duration(&format!("{at}.window"), window, bounds::RATE_WINDOW),
        min_requests,
    }
}

/// `50%`, as the schema's pattern has it.
fn percent(text: &str) -> Option<u32> {
    let digits = text.strip_suffix('%')?;
    let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| is_plain)
}

/// `retries.hedge`
pub(super) fn hedge(block: &schema::Hedge, faults: &mut Faults) -> settings::Hedge {
    use v1::hedge::After;
    let after = block.after.as_deref().and_then(|text| {
        let percentile = text.strip_prefix('p').filter(|digits| {
            let is_plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            (1..=2).contains(&digits.len()) && is_plain && !digits.starts_with('0')
        });
        let after = match percentile {
            Some(digits) => digits.parse().ok().map(After::AfterPercentile),
            None => units::duration_ms(text)
                .filter(|ms| bounds::HEDGE_AFTER.holds(*ms))
                .map(After::AfterMs),
        };
        if after.is_none() {
            let message = format!("is {text:?}, {}", bounds::HEDGE_MESSAGE);
            faults.add("spec.retries.hedge.after", message);
        }
        after
    });
    settings::Hedge {
        after,
        max: block.max,
    }
}
