//! Endpoints in turn, by weight, all workers of a sidecar by one position.
//!
//! ```text
//!   weights a 3, b 1     a a b a │ a a b a │ ...
//!                              ▲ position: one further with each pick
//! ```
//!
//! Smooth: the turns of one endpoint lie as far apart as they can (each turn goes
//! to the one whose next is due first). Over a cycle the shares are exact. The turn
//! of an endpoint that cannot be taken goes to the others in turn.

use std::sync::atomic::{AtomicU64, Ordering};

use super::choose::Candidates;

/// A cycle is no longer; weights that need a longer one are rounded.
const MAX_CYCLE: u64 = 1 << 14;

/// The order of turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// None: everybody once, as they are listed.
    cycle: Option<Box<[u32]>>,
}

impl Turns {
    /// By these weights, which are at least 1.
    pub fn new(weights: &[u32]) -> Self {
        let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        if is_even {
            return Self::default();
        }
        let divisor = weights
            .iter()
            .fold(0, |so_far, weight| gcd(so_far, *weight));
        let mut shares: Vec<u64> = weights
            .iter()
            .map(|weight| u64::from(weight / divisor.max(1)).max(1))
            .collect();
        let whole: u64 = shares.iter().sum();
        if whole > MAX_CYCLE {
            for share in &mut shares {
                *share = (*share * MAX_CYCLE / whole).max(1);
            }
        }
        Self {
            cycle: Some(smooth(&shares)),
        }
    }

    /// The next one's place.
    pub fn pick(&self, position: &AtomicU64, candidates: &impl Candidates) -> Option<usize> {
        let count = candidates.count();
        if count == 0 {
            return None;
        }
        let position = position.fetch_add(1, Ordering::Relaxed);
        let length = self.cycle.as_ref().map_or(count, |cycle| cycle.len()) as u64;
        let at = position % length;
        let turn = match &self.cycle {
            Some(cycle) => cycle[at as usize] as usize,
            None => at as usize,
        };
        if turn < count && candidates.tier(turn) == Some(0) {
            return Some(turn);
        }
        // One further with each cycle: or the turns of one would all go to another.
        instead(candidates, turn, at.wrapping_add(position / length))
    }
}

/// In the place of `turn`: among the best, by weight, at `point` of their sum.
fn instead(candidates: &impl Candidates, turn: usize, point: u64) -> Option<usize> {
    let all = || (0..candidates.count()).filter_map(|at| Some((candidates.tier(at)?, at)));
    let best = all().map(|(tier, _)| tier).min()?;
    let of_best = || all().filter(|(tier, _)| *tier == best).map(|(_, at)| at);
    let is_alone = of_best().take(2).count() == 1;
    let others = || of_best().filter(|at| is_alone || *at != turn);
    let weight = |at: usize| u64::from(candidates.weight(at).max(1));
    let whole: u64 = others().map(weight).sum();
    let mut point = point.checked_rem(whole)?;
    others().find(|at| {
        let own = weight(*at);
        let is_there = point < own;
        point = point.saturating_sub(own);
        is_there
    })
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Each share so often, evenly spread: earliest deadline first.
fn smooth(shares: &[u64]) -> Box<[u32]> {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    let whole: u64 = shares.iter().sum();
    // Turn k of a share s is due at (2k + 1) / 2s of the cycle; compared as whole numbers.
    let due = |k: u64, share: u64| (2 * k + 1) * (1 << 40) / (2 * share);
    let mut heap: BinaryHeap<_> = shares
        .iter()
        .enumerate()
        .map(|(at, share)| Reverse((due(0, *share), at, 0_u64)))
        .collect();
    let mut cycle = Vec::with_capacity(whole as usize);
    while let Some(Reverse((_, at, k))) = heap.pop() {
        cycle.push(at as u32);
        if k + 1 < shares[at] {
            heap.push(Reverse((due(k + 1, shares[at]), at, k + 1)));
        }
    }
    debug_assert_eq!(cycle.len() as u64, whole);
    cycle.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::{Availability, Standing};

    struct List {
        weights: Vec<u32>,
        away: Vec<usize>,
    }

    impl Candidates for List {
        fn count(&self) -> usize {
            self.weights.len()
        }
        fn is_even(&self) -> bool {
            false
        }
        fn weight(&self, index: usize) -> u32 {
            self.weights[index]
        }
        fn standing(&self, index: usize) -> Standing {
            Standing {
                availability: match self.away.contains(&index) {
                    true => Availability::No,
                    false => Availability::Yes,
                },
                tried: false,
                doubtful: false,
            }
        }
        fn load(&self, _: usize) -> f64 {
            0.0
        }
    }

    fn counts(list: &List, picks: usize) -> Vec<u32> {
        let turns = Turns::new(&list.weights);
        let position = AtomicU64::new(7);
        let mut counts = vec![0; list.weights.len()];
        for _ in 0..picks {
            counts[turns.pick(&position, list).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn everybody_has_the_same_number_of_turns() {
        let list = List {
            weights: vec![1; 5],
            away: Vec::new(),
        };
        assert_eq!(counts(&list, 50), [10; 5]);
    }

    #[test]
    fn weights_are_exact_over_a_cycle_and_the_turns_lie_apart() {
        let list = List {
            weights: vec![30, 10, 20],
            away: Vec::new(),
        };
        assert_eq!(counts(&list, 12), [6, 2, 4]);
        let cycle = Turns::new(&[4, 1, 1]).cycle.unwrap();
        let mut twice = cycle
            .windows(3)
            .filter(|three| three.iter().all(|at| *at == 0));
        assert_eq!(twice.next(), None, "{cycle:?}");
    }

    #[test]
    fn the_turns_of_those_who_cannot_be_taken_go_to_the_others_in_turn() {
        for (count, away) in [
            (3, vec![0]),
            (4, vec![0, 2]),
            (4, vec![1]),
            (10, vec![0, 1, 2, 3, 4]),
        ] {
            let left = (count - away.len()) as u32;
            let list = List {
                weights: vec![1; count],
                away: away.clone(),
            };
            let counts = counts(&list, 1200);
            for (at, share) in counts.iter().enumerate() {
                let fair = if away.contains(&at) { 0 } else { 1200 / left };
                assert!(share.abs_diff(fair) <= 12, "{away:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn where_nobody_can_be_taken_nobody_is() {
        let list = List {
            weights: vec![1, 1],
            away: vec![0, 1],
        };
        assert_eq!(
            Turns::new(&list.weights).pick(&AtomicU64::new(0), &list),
            None
        );
        let none = List {
            weights: Vec::new(),
            away: Vec::new(),
        };
        assert_eq!(Turns::default().pick(&AtomicU64::new(0), &none), None);
    }

    proptest! {
        #[test]
        fn a_cycle_has_each_by_its_weight(weights in prop::collection::vec(1..60_u32, 2..9)) {
            let whole: u32 = weights.iter().sum();
            let divisor = weights.iter().fold(0, |so_far, weight| gcd(so_far, *weight));
            let list = List { weights: weights.clone(), away: Vec::new() };
            let counts = counts(&list, whole as usize);
            prop_assert_eq!(counts, weights);
            prop_assert!(divisor > 0);
        }

        #[test]
        fn no_weights_make_it_large(weights in prop::collection::vec(1..1_000_000_u32, 2..50)) {
            let cycle = Turns::new(&weights).cycle;
            let length = cycle.map_or(0, |cycle| cycle.len());
            prop_assert!(length <= MAX_CYCLE as usize + weights.len());
        }
    }
}
