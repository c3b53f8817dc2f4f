//! Two choices without replacement, among the best tier that has anything.
//!
//! | tier | endpoints |
//! | --- | --- |
//! | 0 | serving, not tried yet by this request |
//! | 3 | serving, already tried |
//! | 6 | doubtful (terminating, or on a node that is not heard of), not tried yet |
//! | 9 | doubtful, already tried |
//! | none | not available: its breaker refuses |
//!
//! One that topology hints reserve for other zones comes after its like, one tier
//! further; and so does one that starts slowly, in most picks.
//!
//! Of two endpoints of a tier the one with the lower load for its weight is
//! taken. One whose breaker waits for an answer is taken before that, whatever
//! its load: with its penalty it would hardly ever be tried, and a breaker that
//! hears nothing can neither open nor close.

use super::math::ln;
use crate::random;

/// Whether the endpoint's breaker admits an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It refuses.
    No,
    /// It admits.
    Yes,
    /// It admits, and waits to learn how the endpoint is: half-open, or after a failure.
    Probe,
}

/// What is known of an endpoint at this moment, for this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether its breaker admits an attempt.
    pub availability: Availability,
    /// This request has tried it already.
    pub tried: bool,
    /// Its pod is being deleted, or its node is not heard of.
    pub doubtful: bool,
}

impl Standing {
    /// Lower is better; `None` must not be taken.
    const fn tier(self) -> Option<u8> {
        if matches!(self.availability, Availability::No) {
            return None;
        }
        Some(self.doubtful as u8 * 6 + self.tried as u8 * 3)
    }

    const fn waits_for_answer(self) -> bool {
        matches!(self.availability, Availability::Probe) && !self.tried && !self.doubtful
    }
}

/// The endpoints of a service, by their place in the list.
pub trait Candidates {
    /// How many there are.
    fn count(&self) -> usize;
    /// Whether all weights are the same, so that they need not be looked at.
    fn is_even(&self) -> bool;
    /// The endpoint's share of traffic; zero is taken only when all others are zero too.
    fn weight(&self, index: usize) -> u32;
    /// How it stands now.
    fn standing(&self, index: usize) -> Standing;
    /// How loaded it is, [`super::LoadMeter::load`]: lower is better.
    fn load(&self, index: usize) -> f64;
    /// How far it comes after its like, 0 to 2: one step for each reason.
    fn behind(&self, _index: usize) -> u8 {
        0
    }
    /// Lower is better; `None` must not be taken.
    fn tier(&self, index: usize) -> Option<u8> {
        let tier = self.standing(index).tier()?;
        Some(tier + self.behind(index))
    }
}

/// The place of the endpoint to use; `None` when none is available.
///
/// Never allocates. With even weights and all well, two endpoints are looked
/// at, however many there are.
pub fn pick(candidates: &impl Candidates, random: u64) -> Option<usize> {
    pick_the(candidates, random, better)
}

/// The same by [`Candidates::load`] over weight alone: of requests in flight the fewest.
pub fn least_requests(candidates: &impl Candidates, random: u64) -> Option<usize> {
    pick_the(candidates, random, fewer)
}

/// One by chance, by weight.
pub fn by_chance(candidates: &impl Candidates, random: u64) -> Option<usize> {
    pick_the(candidates, random, |_, first, _| first)
}

fn pick_the<C: Candidates>(
    candidates: &C,
    random: u64,
    choose: impl Fn(&C, usize, usize) -> usize,
) -> Option<usize> {
    let mut chance = Chance(random);
    if candidates.is_even()
        && let Some((first, second)) = two_of(candidates.count(), &mut chance)
        && candidates.tier(first) == Some(0)
        && candidates.tier(second) == Some(0)
    {
        return Some(choose(candidates, first, second));
    }
    let best = survey(candidates, &mut chance)?;
    Some(match best {
        (only, None) => only,
        (first, Some(second)) => choose(candidates, first, second),
    })
}

/// Among equals the first: of those the chance is by weight.
fn fewer(candidates: &impl Candidates, first: usize, second: usize) -> usize {
    let cost = |index| candidates.load(index) / f64::from(candidates.weight(index).max(1));
    if cost(second) < cost(first) {
        second
    } else {
        first
    }
}

/// Two different places, each pair as likely as any other.
fn two_of(count: usize, chance: &mut Chance) -> Option<(usize, usize)> {
    if count < 2 {
        return None;
    }
    let first = chance.below(count);
    let second = chance.below(count - 1);
    Some((first, if second >= first { second + 1 } else { second }))
}

/// Costs within this factor of each other say nothing: without it the faster
/// of two by a hair would get all that does not come at the same time.
const ALIKE: f64 = 1.5;

fn better(candidates: &impl Candidates, first: usize, second: usize) -> usize {
    let waits = |index| candidates.standing(index).waits_for_answer();
    match (waits(first), waits(second)) {
        (true, false) => return first,
        (false, true) => return second,
        (true, true) | (false, false) => {}
    }
    // The pair comes in an order of chance, so that of two which are about
    // alike each is taken as often.
    if cost(candidates, second) * ALIKE < cost(candidates, first) {
        second
    } else {
        first
    }
}

fn cost(candidates: &impl Candidates, index: usize) -> f64 {
    let load = candidates.load(index);
    if candidates.is_even() {
        return load;
    }
    // The smallest load that counts, so that among idle endpoints weights still decide.
    load.max(f64::MIN_POSITIVE) / f64::from(candidates.weight(index))
}

/// Looks at every endpoint once and draws two of the best tier, the chance of
/// each by its weight (Efraimidis and Spirakis, "Weighted random sampling with
/// a reservoir", 2006: the lowest of `-ln(u) / weight` win).
fn survey(candidates: &impl Candidates, chance: &mut Chance) -> Option<(usize, Option<usize>)> {
    let mut draw: Option<Draw> = None;
    for index in 0..candidates.count() {
        let Some(tier) = candidates.tier(index) else {
            continue;
        };
        let weight = candidates.weight(index);
        // A weight of zero comes after every other, but before a lower tier
        // only within its own: doubtful endpoints still wait for it.
        let rank = (tier, weight == 0);
        let ticket = Ticket {
            index,
            key: chance.key(weight, candidates.is_even()),
        };
        match &mut draw {
            Some(held) if held.rank < rank => {}
            Some(held) if held.rank == rank => held.enter(ticket),
            _ => draw = Some(Draw::of(rank, ticket)),
        }
    }
    draw.map(|draw| (draw.first.index, draw.second.map(|second| second.index)))
}

#[derive(Clone, Copy)]
struct Ticket {
    index: usize,
    key: f64,
}

/// The two lowest keys of the best rank so far.
struct Draw {
    rank: (u8, bool),
    first: Ticket,
    second: Option<Ticket>,
}

impl Draw {
    const fn of(rank: (u8, bool), first: Ticket) -> Self {
        Self {
            rank,
            first,
            second: None,
        }
    }

    fn enter(&mut self, ticket: Ticket) {
        if ticket.key < self.first.key {
            self.second = Some(self.first);
            self.first = ticket;
        } else if self.second.is_none_or(|second| ticket.key < second.key) {
            self.second = Some(ticket);
        }
    }
}

/// Many numbers out of one (SplitMix64, Steele, Lea and Flood 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly among `0..count`; the unevenness of the multiplication is below 2^-32.
    fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }

    fn key(&mut self, weight: u32, even: bool) -> f64 {
        let unit = random::unit(self.next());
        if even || weight == 0 {
            return unit;
        }
        -ln(unit.max(f64::MIN_POSITIVE)) / f64::from(weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Endpoint {
        weight: u32,
        standing: Standing,
        load: f64,
    }

    struct List(Vec<Endpoint>);

    impl Candidates for List {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn is_even(&self) -> bool {
            self.0
                .windows(2)
                .all(|pair| pair[0].weight == pair[1].weight)
        }
        fn weight(&self, index: usize) -> u32 {
            self.0[index].weight
        }
        fn standing(&self, index: usize) -> Standing {
            self.0[index].standing
        }
        fn load(&self, index: usize) -> f64 {
            self.0[index].load
        }
    }

    const READY: Standing = Standing {
        availability: Availability::Yes,
        tried: false,
        doubtful: false,
    };

    const fn endpoint(load: f64) -> Endpoint {
        Endpoint {
            weight: 1,
            standing: READY,
            load,
        }
    }

    fn shares(list: &List, picks: u64) -> Vec<f64> {
        let mut counts = vec![0_u64; list.0.len()];
        for random in 0..picks {
            if let Some(index) = pick(list, random.wrapping_mul(0x2545_f491_4f6c_dd1d)) {
                counts[index] += 1;
            }
        }
        counts
            .iter()
            .map(|count| *count as f64 / picks as f64)
            .collect()
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        assert_eq!(pick(&List(Vec::new()), 1), None);
        let mut refused = endpoint(1.0);
        refused.standing.availability = Availability::No;
        assert_eq!(pick(&List(vec![refused.clone(), refused]), 1), None);
        assert_eq!(pick(&List(vec![endpoint(1.0)]), 1), Some(0));
    }

    #[test]
    fn equally_loaded_endpoints_share_evenly() {
        let list = List(vec![endpoint(1.0); 5]);
        for share in shares(&list, 50_000) {
            assert!((share - 0.2).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn of_two_the_less_loaded_is_always_taken() {
        // Without replacement: with replacement the slow one would get a quarter.
        let list = List(vec![endpoint(5.0), endpoint(1.0)]);
        assert_eq!(shares(&list, 1000), [0.0, 1.0]);
    }

    #[test]
    fn the_most_loaded_of_many_gets_nothing() {
        let list = List(vec![
            endpoint(1.0),
            endpoint(1.0),
            endpoint(9.0),
            endpoint(1.0),
        ]);
        assert_eq!(shares(&list, 10_000)[2], 0.0);
    }

    #[test]
    fn weights_decide_among_the_idle_and_scale_the_load() {
        let mut list = List(vec![endpoint(0.0), endpoint(0.0), endpoint(0.0)]);
        list.0[0].weight = 10;
        let idle = shares(&list, 10_000);
        assert!(idle[0] > 0.95, "{idle:?}");
        // Twenty times as busy with ten times the weight: it is the others' turn.
        list.0[0].load = 20.0;
        list.0[1].load = 1.0;
        list.0[2].load = 1.0;
        assert_eq!(shares(&list, 1000)[0], 0.0);
    }

    #[test]
    fn weight_zero_is_taken_only_when_all_others_cannot_be() {
        let mut list = List(vec![endpoint(9.0), endpoint(0.0)]);
        list.0[1].weight = 0;
        assert_eq!(shares(&list, 1000), [1.0, 0.0]);
        list.0[0].standing.availability = Availability::No;
        assert_eq!(shares(&list, 1000), [0.0, 1.0]);
    }

    #[test]
    fn an_endpoint_that_waits_for_a_probe_is_taken_however_loaded() {
        let mut list = List(vec![endpoint(1.0), endpoint(1.0), endpoint(1e9)]);
        list.0[2].standing.availability = Availability::Probe;
        let share = shares(&list, 10_000)[2];
        assert!((share - 2.0 / 3.0).abs() < 0.02, "{share}");
        list.0[2].standing.tried = true;
        assert_eq!(shares(&list, 1000)[2], 0.0);
    }

    fn any_endpoint() -> impl Strategy<Value = Endpoint> {
        let availability = prop_oneof![
            2 => Just(Availability::No),
            3 => Just(Availability::Yes),
            1 => Just(Availability::Probe),
        ];
        (
            availability,
            any::<bool>(),
            any::<bool>(),
            0..4_u32,
            0..100_u32,
        )
            .prop_map(|(availability, tried, doubtful, weight, load)| Endpoint {
                weight,
                standing: Standing {
                    availability,
                    tried,
                    doubtful,
                },
                load: f64::from(load),
            })
    }

    proptest! {
        #[test]
        fn the_pick_is_always_of_the_best_tier(
            endpoints in proptest::collection::vec(any_endpoint(), 0..8),
            even in any::<bool>(),
            random in any::<u64>(),
        ) {
            let mut list = List(endpoints);
            if even {
                list.0.iter_mut().for_each(|endpoint| endpoint.weight = 1);
            }
            // In words, not by tier(): serving before doubtful, untried before tried.
            let usable = |endpoint: &&Endpoint| endpoint.standing.availability != Availability::No;
            let best = list.0.iter().filter(usable)
                .map(|it| (it.standing.doubtful, it.standing.tried)).min();
            let picked = pick(&list, random);
            prop_assert_eq!(picked.is_some(), best.is_some());
            if let Some(picked) = picked {
                let chosen = &list.0[picked];
                prop_assert!(chosen.standing.availability != Availability::No);
                prop_assert_eq!(Some((chosen.standing.doubtful, chosen.standing.tried)), best);
                let peers = list.0.iter().filter(usable)
                    .filter(|it| Some((it.standing.doubtful, it.standing.tried)) == best);
                if chosen.weight == 0 {
                    prop_assert!(peers.into_iter().all(|peer| peer.weight == 0));
                }
            }
        }

        #[test]
        fn the_worst_of_a_tier_is_never_picked_from_several(
            loads in proptest::collection::vec(1..50_u32, 2..8),
            random in any::<u64>(),
        ) {
            let mut list = List(loads.iter().map(|load| endpoint(f64::from(*load))).collect());
            list.0.push(endpoint(100.0));
            prop_assert_ne!(pick(&list, random), Some(loads.len()));
        }
    }
}
