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
}

/// What the walk asks of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Requests in flight.
    pub in_flight: u32,
    /// Its weight.
    pub weight: u32,
}

impl Ring {
    /// Of these endpoints: what each is known by everywhere, and its weight.
    pub fn new<'a>(members: impl Iterator<Item = (&'a str, u32)> + Clone) -> Self {
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
        }
    }

    /// The endpoint for `hash`: the first from there that `load` knows (it may be
    /// taken) and that has room: at most `bound_percent` of the mean in flight.
    pub fn pick(
        &self,
        hash: u64,
        bound_percent: u32,
        count: usize,
        load: impl Fn(usize) -> Option<Load>,
    ) -> Option<usize> {
        let (mut in_flight, mut weight) = (0_u64, 0_u64);
        let mut least: Option<(u64, usize)> = None;
        for index in 0..count {
            let Some(load) = load(index) else { continue };
            in_flight += u64::from(load.in_flight);
            weight += u64::from(load.weight);
            let cost = u64::from(load.in_flight) * 1024 / u64::from(load.weight.max(1));
            if least.is_none_or(|(lowest, _)| cost < lowest) {
                least = Some((cost, index));
            }
        }
        let (_, least) = least?;
        let has_room = |load: Load| {
            let whole = u128::from(in_flight + 1) * u128::from(bound_percent);
            let most = (whole * u128::from(load.weight)).div_ceil(u128::from(weight.max(1)) * 100);
            u128::from(load.in_flight) < most
        };
        let first = self.points.partition_point(|(at, _)| *at < hash);
        let (before, after) = self.points.split_at(first);
        let walk = after.iter().chain(before).take(MAX_STEPS);
        let mut walk = walk.map(|(_, index)| *index as usize);
        let found = walk.find(|index| load(*index).is_some_and(has_room));
        Some(found.unwrap_or(least))
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

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("uid-{at}")).collect()
    }

    const IDLE: Option<Load> = Some(Load {
        in_flight: 0,
        weight: 1,
    });

    fn owner(names: &[String], hash: u64) -> &str {
        let at = ring(names).pick(hash, 1000, names.len(), |_| IDLE).unwrap();
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
        let even = ring(&names);
        let mut counts = [0_u32; 10];
        for key in 0..20_000_u64 {
            counts[even.pick(mixed(key), 1000, 10, |_| IDLE).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (1200..2900).contains(count)),
            "{counts:?}"
        );
        let uneven = Ring::new([("a", 10), ("b", 30)].into_iter());
        let load = |at: usize| {
            let weight = [10, 30][at];
            let in_flight = 0;
            Some(Load { in_flight, weight })
        };
        let of_b = (0..20_000_u64).filter(|key| uneven.pick(mixed(*key), 1000, 2, load) == Some(1));
        let of_b = of_b.count();
        assert!((13_500..16_500).contains(&of_b), "{of_b}");
    }

    #[test]
    fn a_ring_of_very_many_is_bounded() {
        let names = names(5000);
        assert!(ring(&names).points.len() <= MAX_POINTS);
        assert!(
            Ring::new([("a", 1), ("b", 1_000_000)].into_iter())
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
            loads in prop::collection::vec(prop::option::of((0..20_u32, 1..4_u32)), 1..8),
            hash in any::<u64>(),
            bound in 100..300_u32,
        ) {
            let names = names(loads.len());
            let load = |at: usize| loads[at].map(|(in_flight, weight)| Load { in_flight, weight });
            let picked = ring(&names).pick(hash, bound, loads.len(), load);
            prop_assert_eq!(picked.is_some(), loads.iter().any(Option::is_some));
            if let Some(picked) = picked {
                let (own, weight) = loads[picked].unwrap();
                let sum: u32 = loads.iter().flatten().map(|(in_flight, _)| in_flight).sum();
                let weights: u32 = loads.iter().flatten().map(|(_, weight)| weight).sum();
                let mean = f64::from(sum + 1) * f64::from(weight) / f64::from(weights);
                prop_assert!(f64::from(own) < (mean * f64::from(bound) / 100.0).ceil() + 1e-9);
            }
        }
    }
}
