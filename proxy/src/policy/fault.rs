//! Which requests meet trouble on purpose, and which.
//!
//! Pure: the lots are handed in, one for the delay and one for the abort.

use std::time::Duration;

use super::config::trouble::{AbortKind, Fault};
use super::rate_limit::{Facts, matches};

/// What was drawn for a request: first it waits, then it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn {
    /// It waits so long.
    pub delay: Option<Duration>,
    /// It ends so, and goes nowhere.
    pub abort: Option<AbortKind>,
}

/// Draws for a request.
pub fn draw(fault: &Fault, facts: &impl Facts, lots: [u64; 2]) -> Drawn {
    if !matches(&fault.matches, facts) {
        return Drawn::default();
    }
    let delay = fault.delay.filter(|it| hits(it.parts_per_million, lots[0]));
    let abort = fault.abort.filter(|it| hits(it.parts_per_million, lots[1]));
    Drawn {
        delay: delay.map(|it| it.duration),
        abort: abort.map(|it| it.kind),
    }
}

/// Of 1,000,000 lots so many.
fn hits(parts_per_million: u32, lot: u64) -> bool {
    (u128::from(lot) * 1_000_000) >> 64 < u128::from(parts_per_million)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;
    use crate::policy::config::Match;
    use crate::policy::config::trouble::{FaultAbort, FaultDelay};
    use crate::policy::rate_limit::Bare;

    const GET: Bare = Bare("GET");

    fn fault(delay: u32, abort: u32, method: &str) -> Fault {
        Fault {
            delay: Some(FaultDelay {
                duration: Duration::from_secs(1),
                parts_per_million: delay,
            }),
            abort: Some(FaultAbort {
                kind: AbortKind::Http(StatusCode::IM_A_TEAPOT),
                parts_per_million: abort,
            }),
            matches: Match {
                methods: vec![method.to_owned()],
                ..Match::default()
            },
        }
    }

    #[test]
    fn all_and_none_are_just_that() {
        let all = fault(1_000_000, 1_000_000, "GET");
        for lot in [0, 1, u64::MAX / 2, u64::MAX] {
            let drawn = draw(&all, &GET, [lot, lot]);
            assert!(drawn.delay.is_some() && drawn.abort.is_some());
            assert_eq!(
                draw(&fault(0, 0, "GET"), &GET, [lot, lot]),
                Drawn::default()
            );
        }
        let others = fault(1_000_000, 1_000_000, "POST");
        assert_eq!(draw(&others, &GET, [0, 0]), Drawn::default());
    }

    proptest! {
        #[test]
        fn of_a_million_lots_so_many_are_hit(parts in 0..=1_000_000_u32) {
            let step = u64::MAX / 10_000;
            let hit = (0..10_000_u64).filter(|lot| hits(parts, lot * step)).count();
            prop_assert!(hit.abs_diff(parts as usize / 100) <= 2, "{} of {}", hit, parts);
        }
    }
}
