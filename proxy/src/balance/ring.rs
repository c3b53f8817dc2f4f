//! Consistent hashing: who calls alike is served alike, for as long as the
//! endpoint is there, whichever sidecar it is and whenever it started.
//!
//! ```text
//!        hash of the request
//!             │      first point from there: its endpoint
//!   ──●───●───┼────●──────●────●──▶  points of all endpoints, by hash
//!     b   a        c      a    b
//!                  └ full or away: the next point's
//! ```
//!
//! The ring (Karger and others 1997) is built when the endpoints change; one that
//! comes or leaves moves only what it gets or had. Bounded loads (Mirrokni, Thorup
//! and Zadimoghaddam 2016): none has more than so much of the mean.

/// Points of an endpoint, at an even weight and few endpoints.
const POINTS: usize = 128;
/// A ring has about so many points at most: beyond that endpoints have fewer.
const MAX_POINTS: usize = 1 << 17;
/// An endpoint has at most so many times the points of the lightest.
const MAX_SHARE: u32 = 64;
/// A request walks past so many points; then the least loaded takes it.
const MAX_STEPS: usize = 4096;

/// The points of the endpoints of one list.
#[derive(Debug)]
pub struct Ring {
    points: Box<[(u64, u32)]>,
    /// None has more than so much of the mean in flight.
    bound_percent: u32,
}

/// What the walk asks of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Lower is better, see [`super::Candidates::tier`].
    pub tier: u8,
    /// Requests in flight.
    pub in_flight: u32,
    /// Its weight.
    pub weight: u32,
}

impl Ring {
    /// Of these endpoints: what each is known by everywhere, and its weight. None is to
    /// have more than `bound_percent` of the mean in flight, which is at least 100.
    pub fn new<'a>(
        members: impl Iterator<Item = (&'a str, u32)> + Clone,
        bound_percent: u32,
    ) -> Self {
        let count = members.clone().count().max(1);
        let lightest = members.clone().map(|(_, weight)| weight.max(1)).min();
        let lightest = lightest.unwrap_or(1);
        // By powers of two, so that one more endpoint seldom changes the others' points.
        let mut each = POINTS;
        while each > 1 && each * count > MAX_POINTS {
            each /= 2;
        }
        let mut points = Vec::new();
        for (index, (name, weight)) in members.enumerate() {
            let share = (weight.max(1) / lightest).clamp(1, MAX_SHARE) as usize;
            let mut hash = StableHash::new();
            hash.write(name.as_bytes());
            let of_name = hash.finish();
            for point in 0..(each * share).min(MAX_POINTS / count).max(1) {
                let at = mixed(of_name ^ mixed(point as u64 + 1));
                points.push((at, index as u32));
            }
        }
        points.sort_unstable();
        Self {
            points: points.into(),
            bound_percent,
        }
    }

    /// The endpoint for `hash`: the first from there that is of the best tier and has
    /// room. `load` is nothing for one that may not be taken.
    ///
    /// At rest one endpoint is looked at, however many there are; all of them where the
    /// first has a request in flight.
    pub fn pick(
        &self,
        hash: u64,
        count: usize,
        load: impl Fn(usize) -> Option<Load>,
    ) -> Option<usize> {
        let first = self.points.partition_point(|(at, _)| *at < hash);
        let (before, after) = self.points.split_at(first);
        let walk = after.iter().chain(before).take(MAX_STEPS);
        let mut walk = walk.map(|(_, index)| *index as usize);
        if let Some(own) = walk.clone().next()
            && load(own).is_some_and(|load| load.tier == 0 && load.in_flight == 0)
        {
            // None is better, and whoever has nothing has room.
            return Some(own);
        }
        let all = Together::of((0..count).filter_map(|index| Some((index, load(index)?))))?;
        let has_room = |load| all.leaves_room(load, self.bound_percent);
        let found = walk.find(|index| load(*index).is_some_and(has_room));
        Some(found.unwrap_or(all.least))
    }
}

/// The endpoints of the best tier that has any.
struct Together {
    tier: u8,
    in_flight: u64,
    weight: u64,
    /// Who has the least for its weight, and how much.
    least: usize,
    least_cost: u64,
}

impl Together {
    fn of(loads: impl Iterator<Item = (usize, Load)>) -> Option<Self> {
        let mut all: Option<Self> = None;
        for (index, load) in loads {
            let cost = u64::from(load.in_flight) * 1024 / u64::from(load.weight.max(1));
            match &mut all {
                Some(all) if all.tier < load.tier => {}
                Some(all) if all.tier == load.tier => {
                    all.in_flight += u64::from(load.in_flight);
                    all.weight += u64::from(load.weight);
                    if cost < all.least_cost {
                        (all.least, all.least_cost) = (index, cost);
                    }
                }
                _ => {
                    all = Some(Self {
                        tier: load.tier,
                        in_flight: load.in_flight.into(),
                        weight: load.weight.into(),
                        least: index,
                        least_cost: cost,
                    });
                }
            }
        }
        all
    }

    /// Whether one of them has room for a request more.
    fn leaves_room(&self, load: Load, bound_percent: u32) -> bool {
        let whole = u128::from(self.in_flight + 1) * u128::from(bound_percent);
        let weights = u128::from(self.weight.max(1)) * 100;
        let most = (whole * u128::from(load.weight)).div_ceil(weights);
        load.tier == self.tier && u128::from(load.in_flight) < most
    }
}

/// A hash that is the same in every sidecar and every version of it (FNV-1a,
/// and SplitMix64's last step to spread it). Who knows it can send all its
/// requests to one endpoint; the bound on its load is what stands against that.
#[derive(Clone, Copy, Debug)]
pub struct StableHash(u64);

impl StableHash {
    /// Of nothing yet.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Takes these bytes in.
    pub fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Of all that was written.
    pub const fn finish(self) -> u64 {
        mixed(self.0)
    }
}

impl Default for StableHash {
    fn default() -> Self {
        Self::new()
    }
}

const fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(names: &[String], bound_percent: u32) -> Ring {
        Ring::new(names.iter().map(|name| (name.as_str(), 1)), bound_percent)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("uid-{at}")).collect()
    }

    const IDLE: Option<Load> = Some(Load {
        tier: 0,
        in_flight: 0,
        weight: 1,
    });

    fn owner(names: &[String], hash: u64) -> &str {
        let at = ring(names, 125).pick(hash, names.len(), |_| IDLE).unwrap();
        &names[at]
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        let mut hash = StableHash::new();
        hash.write(b"user-7");
        assert_eq!(hash.finish(), 429_055_275_220_457_532);
    }

    #[test]
    fn endpoints_share_about_evenly_and_by_weight() {
        let names = names(10);
        let even = ring(&names, 125);
        let mut counts = [0_u32; 10];
        for key in 0..20_000_u64 {
            counts[even.pick(mixed(key), 10, |_| IDLE).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (1200..2900).contains(count)),
            "{counts:?}"
        );
        let uneven = Ring::new([("a", 10), ("b", 30)].into_iter(), 125);
        let load = |at: usize| {
            let weight = [10, 30][at];
            let in_flight = 0;
            let tier = 0;
            Some(Load {
                tier,
                in_flight,
                weight,
            })
        };
        let of_b = (0..20_000_u64).filter(|key| uneven.pick(mixed(*key), 2, load) == Some(1));
        let of_b = of_b.count();
        assert!((13_500..16_500).contains(&of_b), "{of_b}");
    }

    #[test]
    fn at_rest_one_is_looked_at_however_many_there_are() {
        let (names, looks) = (names(10_000), std::cell::Cell::new(0));
        let ring = ring(&names, 125);
        for key in 0..100_u64 {
            let load = |_| {
                looks.set(looks.get() + 1);
                IDLE
            };
            assert!(ring.pick(mixed(key), names.len(), load).is_some());
        }
        assert_eq!(looks.get(), 100);
    }

    #[test]
    fn a_ring_of_very_many_is_bounded() {
        let names = names(5000);
        assert!(ring(&names, 125).points.len() <= MAX_POINTS);
        assert!(
            Ring::new([("a", 1), ("b", 1_000_000)].into_iter(), 125)
                .points
                .len()
                < 10_000
        );
    }

    proptest! {
        #[test]
        fn one_that_leaves_moves_only_what_it_had(count in 2..12_usize, gone in any::<prop::sample::Index>(), keys in prop::collection::vec(any::<u64>(), 1..100)) {
            let before = names(count);
            let gone = gone.index(count);
            let mut after = before.clone();
            let gone = after.remove(gone);
            for key in keys {
                let was = owner(&before, key);
                if was != gone {
                    prop_assert_eq!(was, owner(&after, key));
                }
            }
        }

        #[test]
        fn none_gets_more_than_its_bound_while_another_has_room(
            loads in prop::collection::vec(prop::option::of((0..3_u8, 0..20_u32, 1..4_u32)), 1..8),
            hash in any::<u64>(),
            bound in 100..300_u32,
        ) {
            let names = names(loads.len());
            let load = |at: usize| {
                loads[at].map(|(tier, in_flight, weight)| Load { tier, in_flight, weight })
            };
            let picked = ring(&names, bound).pick(hash, loads.len(), load);
            let best = loads.iter().flatten().map(|(tier, ..)| *tier).min();
            prop_assert_eq!(picked.is_some(), best.is_some());
            if let Some(picked) = picked {
                let (tier, own, weight) = loads[picked].unwrap();
                prop_assert_eq!(Some(tier), best);
                let of_best = || loads.iter().flatten().filter(|(tier, ..)| Some(*tier) == best);
                let sum: u32 = of_best().map(|(_, in_flight, _)| in_flight).sum();
                let weights: u32 = of_best().map(|(.., weight)| weight).sum();
                let mean = f64::from(sum + 1) * f64::from(weight) / f64::from(weights);
                prop_assert!(f64::from(own) < (mean * f64::from(bound) / 100.0).ceil() + 1e-9);
            }
        }
    }
}
