//! The bounds of durations and sizes, each written once: the schema carries
//! them to the API server, and [`super::parse`] holds files to the same ones.
//! Bounds of plain numbers stand in [`super::schema`], which both sides read; none
//! is beyond what sidecars take ([`remora_proto::bounds`]).

use std::fmt;

use kube::core::{Message, Rule};
pub use remora_proto::bounds::MAX_BUFFER_BYTES;
use remora_proto::bounds::{
    MAX_DURATION_MS, MAX_FAULT_DELAY_MS, MAX_PROBE_INTERVAL_MS, MAX_RATE_WINDOW_MS,
    MAX_WAIT_FOR_ENDPOINTS_MS, MIN_BUDGET_WINDOW_MS, MIN_PROBE_INTERVAL_MS, MIN_RATE_WINDOW_MS,
};

use super::forms;
use super::units::display_ms;

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// `circuitBreaker.baseEjection` and `maxEjection`.
pub const EJECTION: Span = Span::new(1, MAX_DURATION_MS);
/// `outbound.connectTimeout`
pub const CONNECT_TIMEOUT: Span = Span::new(1, 5 * MINUTE_MS);
/// `outbound.idleTimeout`
pub const IDLE_TIMEOUT: Span = Span::new(1, MAX_DURATION_MS);
/// `outbound.maxConnectionAge`
pub const CONNECTION_AGE: Span = Span::new(100, MAX_DURATION_MS);
/// `retries.backoff.base`
pub const BACKOFF_BASE: Span = Span::new(1, MINUTE_MS);
/// `retries.backoff.max`
pub const BACKOFF_MAX: Span = Span::new(1, 10 * MINUTE_MS);
/// `retries.maxRetryAfter`; 0 waits for none.
pub const RETRY_AFTER: Span = Span::new(0, HOUR_MS);
/// `retries.budget.window`
pub const BUDGET_WINDOW: Span = Span::new(MIN_BUDGET_WINDOW_MS, HOUR_MS);
/// Everything in `timeouts`, and `circuitBreaker.slowCallRate.duration`.
pub const TIMEOUT: Span = Span::new(1, MAX_DURATION_MS);
/// `circuitBreaker.failureRate.window` and `slowCallRate.window`
pub const RATE_WINDOW: Span = Span::new(MIN_RATE_WINDOW_MS, MAX_RATE_WINDOW_MS);
/// `retries.hedge.after`, where it is a duration.
pub const HEDGE_AFTER: Span = Span::new(1, HOUR_MS);
/// `loadBalancing.sessionPersistence.absoluteTimeout`; 0 is without end.
pub const SESSION: Span = Span::new(0, MAX_DURATION_MS);
/// `loadBalancing.slowStart.window`; 0 is at once.
pub const SLOW_START: Span = Span::new(0, HOUR_MS);
/// `loadBalancing.waitForEndpoints`; 0 is not at all.
pub const WAIT_FOR_ENDPOINTS: Span = Span::new(0, MAX_WAIT_FOR_ENDPOINTS_MS);
/// `healthCheck.interval`
pub const PROBE_INTERVAL: Span = Span::new(MIN_PROBE_INTERVAL_MS, MAX_PROBE_INTERVAL_MS);
/// `healthCheck.timeout`
pub const PROBE_TIMEOUT: Span = Span::new(1, MAX_PROBE_INTERVAL_MS);
/// `fault.delay.duration`
pub const FAULT_DELAY: Span = Span::new(1, MAX_FAULT_DELAY_MS);

/// A duration between two bounds, both allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The shortest that is allowed, in milliseconds.
    pub least_ms: u64,
    /// The longest that is allowed, in milliseconds.
    pub most_ms: u64,
}

impl Span {
    const fn new(least_ms: u64, most_ms: u64) -> Self {
        Self { least_ms, most_ms }
    }

    /// Whether a duration lies between the bounds.
    pub fn holds(self, ms: u64) -> bool {
        (self.least_ms..=self.most_ms).contains(&ms)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (display_ms(self.least_ms), display_ms(self.most_ms));
        write!(f, "from {least} to {most}")
    }
}

/// For a field that holds a duration. The form stands in the rule as well as in
/// the schema's pattern, whose message shows nothing but the pattern.
impl From<Span> for Rule {
    fn from(span: Span) -> Self {
        let (least, most) = (display_ms(span.least_ms), display_ms(span.most_ms));
        let form = forms::DURATION;
        let rule = format!(
            "self.matches('{form}') && \
             duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
        );
        Self::new(rule).message(Message::Message(format!("{DURATION_MESSAGE}{span}")))
    }
}

/// What is said of a wrong duration, before its [`Span`].
pub const DURATION_MESSAGE: &str = "must be a duration such as 250ms, 10s or 5m, ";

/// What `retries.hedge.after` must be.
pub const HEDGE_MESSAGE: &str = "must be a duration such as 50ms, from 1ms to 1h, or a percentile \
                                 from p1 to p99";

/// A duration or a percentile.
pub fn hedge_after() -> Rule {
    let (least, most) = (
        display_ms(HEDGE_AFTER.least_ms),
        display_ms(HEDGE_AFTER.most_ms),
    );
    let (form, percentile) = (forms::DURATION, forms::PERCENTILE);
    Rule::new(format!(
        "self.matches('{percentile}') || (self.matches('{form}') && \
         duration(self) >= duration('{least}') && duration(self) <= duration('{most}'))"
    ))
    .message(HEDGE_MESSAGE)
}

/// Two durations of one block, of which the first must not be longer than the
/// second; one that is not given counts with its default. (Over several levels
/// the merged pair is put in order when it is resolved.)
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Field and default in milliseconds.
    pub first: (&'static str, u64),
    /// Field and default in milliseconds.
    pub second: (&'static str, u64),
}

impl Pair {
    /// The fault at the first field, where that one is given.
    pub fn at_first(self) -> Rule {
        let ((first, _), (second, default_ms)) = (self.first, self.second);
        let (form, default) = (forms::DURATION, display_ms(default_ms));
        // What is no duration at all is refused by the field's own rule.
        let rule = format!(
            "!has(self.{first}) || !self.{first}.matches('{form}') || \
             (has(self.{second}) && !self.{second}.matches('{form}')) || \
             duration(self.{first}) <= duration(has(self.{second}) ? self.{second} : '{default}')"
        );
        let message = format!(
            "'is ' + self.{first} + ', must not be longer than {second}, which is ' + \
             (has(self.{second}) ? self.{second} : '{default} where it is not given')"
        );
        Rule::new(rule)
            .message(Message::Expression(message))
            .field_path(format!(".{first}"))
    }

    /// The fault at the second field, where it alone is given.
    pub fn at_second(self) -> Rule {
        let ((first, default_ms), (second, _)) = (self.first, self.second);
        let (form, default) = (forms::DURATION, display_ms(default_ms));
        let rule = format!(
            "has(self.{first}) || !has(self.{second}) || !self.{second}.matches('{form}') || \
             duration(self.{second}) >= duration('{default}')"
        );
        let message = format!(
            "'is ' + self.{second} + ', must not be shorter than {first}, \
             which is {default} where it is not given'"
        );
        Rule::new(rule)
            .message(Message::Expression(message))
            .field_path(format!(".{second}"))
    }

    /// The fault at the first field, where both are given; neither has a default.
    pub fn where_both(first: &str, second: &str) -> Rule {
        let form = forms::DURATION;
        let rule = format!(
            "!has(self.{first}) || !self.{first}.matches('{form}') || \
             !has(self.{second}) || !self.{second}.matches('{form}') || \
             duration(self.{first}) <= duration(self.{second})"
        );
        let message = format!(
            "'is ' + self.{first} + ', must not be longer than {second}, which is ' + self.{second}"
        );
        Rule::new(rule)
            .message(Message::Expression(message))
            .field_path(format!(".{first}"))
    }
}
