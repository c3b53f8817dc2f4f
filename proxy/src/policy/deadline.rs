//! Which deadline of a request is next, and what it means that it passed.
//!
//! ```text
//!  request's headers ──────────────────────── request ──────────────────────────▶│
//!        attempt ├── response_headers ──▶│
//!                ├────────── per_try ────────────▶│
//!                               headers ├───── idle ─────▶│ (anew with each byte)
//! ```
//!
//! No attempt outlives the request: where several deadlines fall together the
//! request's is the one that passed. This module starts no timer.

use std::time::Duration;

use super::config::Timeouts;
use crate::clock::Timestamp;

/// Which bound passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The whole request: nothing more is tried.
    Request,
    /// This attempt: another may follow.
    PerTry,
    /// This attempt gave no response headers: another may follow.
    ResponseHeaders,
    /// No byte went either way: the stream ends.
    Idle,
}

impl Bound {
    /// The word for it in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::PerTry => "per_try",
            Self::ResponseHeaders => "response_headers",
            Self::Idle => "idle",
        }
    }

    /// The field of `timeouts` that sets it.
    pub const fn field(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::PerTry => "perTry",
            Self::ResponseHeaders => "responseHeaders",
            Self::Idle => "idle",
        }
    }

    /// Whether only the attempt has ended, so that a retry is a question at all.
    pub const fn ends_attempt_only(self) -> bool {
        matches!(self, Self::PerTry | Self::ResponseHeaders)
    }
}

/// The moment at which something passes, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When.
    pub at: Timestamp,
    /// What.
    pub bound: Bound,
}

/// The deadlines of one request.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    request: Option<Timestamp>,
    per_try: Option<Duration>,
    response_headers: Option<Duration>,
}

impl Deadlines {
    /// Of a request whose headers were complete at `start`.
    pub fn new(timeouts: &Timeouts, start: Timestamp) -> Self {
        Self {
            request: timeouts.request.map(|span| start.after(span)),
            per_try: timeouts.per_try,
            response_headers: timeouts.response_headers,
        }
    }

    /// Takes a bound of the caller's own over (`grpc-timeout`), where it is earlier.
    pub fn shorten(&mut self, at: Timestamp) {
        self.request = Some(self.request.map_or(at, |own| own.min(at)));
    }

    /// When the whole request ends; `None` is not limited.
    pub fn request(&self) -> Option<Timestamp> {
        self.request
    }

    /// What is left of the request at `now`, zero when it is over; `None` is not limited.
    pub fn time_left(&self, now: Timestamp) -> Option<Duration> {
        self.request.map(|at| at.since(now))
    }

    /// The deadlines of an attempt that begins at `began`.
    pub fn attempt(&self, began: Timestamp) -> Attempt {
        let request = bound(self.request, Bound::Request);
        let per_try = bound(self.per_try.map(|span| began.after(span)), Bound::PerTry);
        let headers = bound(
            self.response_headers.map(|span| began.after(span)),
            Bound::ResponseHeaders,
        );
        let whole = earlier(request, per_try);
        let attempt = Attempt {
            until_headers: earlier(whole, headers),
            until_end: whole,
        };
        debug_assert!(attempt.is_within(self.request));
        attempt
    }
}

/// The deadlines of one attempt.
///
/// After a 101, after the 200 of a CONNECT and after the response headers of a
/// gRPC stream neither holds any longer, and `idle` alone governs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What is next while the response's headers have not come.
    pub until_headers: Option<Deadline>,
    /// What is next once they have.
    pub until_end: Option<Deadline>,
}

impl Attempt {
    fn is_within(&self, request: Option<Timestamp>) -> bool {
        let within = |deadline: Option<Deadline>| match (deadline, request) {
            (Some(deadline), Some(request)) => deadline.at <= request,
            (None, Some(_)) => false,
            (_, None) => true,
        };
        within(self.until_headers) && within(self.until_end)
    }
}

fn bound(at: Option<Timestamp>, bound: Bound) -> Option<Deadline> {
    at.map(|at| Deadline { at, bound })
}

/// The earlier of the two; the first where they fall together.
pub fn earlier(first: Option<Deadline>, second: Option<Deadline>) -> Option<Deadline> {
    match (first, second) {
        (Some(first), Some(second)) if second.at < first.at => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const AT: fn(u64) -> Timestamp = Timestamp::from_millis;

    fn timeouts(request: Option<u64>, per_try: Option<u64>, headers: Option<u64>) -> Timeouts {
        Timeouts {
            request: request.map(MS),
            per_try: per_try.map(MS),
            idle: None,
            response_headers: headers.map(MS),
        }
    }

    #[test]
    fn without_timeouts_nothing_is_limited() {
        let deadlines = Deadlines::new(&Timeouts::default(), AT(5));
        let attempt = deadlines.attempt(AT(6));
        assert_eq!((attempt.until_headers, attempt.until_end), (None, None));
        assert_eq!(deadlines.time_left(AT(1000)), None);
    }

    #[test]
    fn request_wins_where_deadlines_fall_together() {
        let deadlines = Deadlines::new(&timeouts(Some(30), Some(20), Some(20)), AT(0));
        let attempt = deadlines.attempt(AT(10));
        let request = Some(Deadline {
            at: AT(30),
            bound: Bound::Request,
        });
        assert_eq!(
            (attempt.until_headers, attempt.until_end),
            (request, request)
        );
        assert!(!Bound::Request.ends_attempt_only());
    }

    #[test]
    fn response_headers_ends_with_the_headers_and_per_try_does_not() {
        let deadlines = Deadlines::new(&timeouts(Some(100), Some(20), Some(5)), AT(0));
        let attempt = deadlines.attempt(AT(10));
        let bounds =
            [attempt.until_headers, attempt.until_end].map(|it| it.map(|it| (it.at, it.bound)));
        assert_eq!(
            bounds,
            [
                Some((AT(15), Bound::ResponseHeaders)),
                Some((AT(30), Bound::PerTry))
            ]
        );
    }

    #[test]
    fn a_caller_can_shorten_the_request_but_not_prolong_it() {
        let mut deadlines = Deadlines::new(&timeouts(Some(100), None, None), AT(0));
        deadlines.shorten(AT(200));
        assert_eq!(deadlines.request(), Some(AT(100)));
        deadlines.shorten(AT(50));
        assert_eq!(deadlines.time_left(AT(20)), Some(MS(30)));
        assert_eq!(deadlines.time_left(AT(60)), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn no_attempt_outlives_its_request(
            request in proptest::option::of(0..1000_u64),
            per_try in proptest::option::of(0..1000_u64),
            headers in proptest::option::of(0..1000_u64),
            began in 0..1500_u64,
        ) {
            let deadlines = Deadlines::new(&timeouts(request, per_try, headers), AT(7));
            let attempt = deadlines.attempt(AT(began));
            let of = |spans: &[Option<u64>]| spans.iter().flatten().map(|span| AT(began + span)).min();
            let whole = request.map(|span| AT(7 + span));
            let expected = |own: Option<Timestamp>| [own, whole].into_iter().flatten().min();
            prop_assert_eq!(attempt.until_headers.map(|it| it.at), expected(of(&[per_try, headers])));
            prop_assert_eq!(attempt.until_end.map(|it| it.at), expected(of(&[per_try])));
            for deadline in [attempt.until_headers, attempt.until_end].into_iter().flatten() {
                prop_assert!(whole.is_none_or(|whole| deadline.at <= whole));
                prop_assert_eq!(Some(deadline.at) == whole, deadline.bound == Bound::Request);
            }
        }
    }
}
