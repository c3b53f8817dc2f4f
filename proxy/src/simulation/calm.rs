//! What each algorithm promises when nothing else goes on: lists of endpoints drawn by
//! seeds, told by the real controller, and picks of them with requests held in flight.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use remora_proto::v1::load_balancing::Algorithm;
use remora_proto::v1::{self, HashPart, LoadBalancing};

use super::control::{self, Control, PORT, Pod};
use super::{SERVICES, settings};
use crate::clock;
use crate::policy::limit::{Kind, Permit};
use crate::select::{self, Asking, Tried};

const SEEDS: u64 = 48;
const READY: Pod = Pod {
    ready: true,
    serving: true,
};
/// Of the mean no endpoint has more in flight.
const BOUND_PERCENT: u32 = 125;

struct Calm {
    control: Control,
    random: fastrand::Rng,
    /// How long after everything was told it is.
    later: Duration,
}

impl Calm {
    /// One service under this policy, with these pods from the beginning.
    fn new(seed: u64, balancing: LoadBalancing, pods: &[u8]) -> Self {
        let policy = v1::ServicePolicy {
            load_balancing: Some(balancing),
            ..settings::generous()
        };
        let mut control = Control::new(vec![policy; SERVICES]);
        for pod in pods {
            control.put_pod(0, *pod, Some(READY));
        }
        Self {
            control,
            random: fastrand::Rng::with_seed(seed),
            later: Duration::ZERO,
        }
    }

    /// Where the next request goes, and its place there.
    fn pick(&mut self, key: Option<u64>) -> (SocketAddr, Option<Permit>) {
        self.pick_for(None, key)
    }

    fn pick_for(
        &mut self,
        source: Option<IpAddr>,
        key: Option<u64>,
    ) -> (SocketAddr, Option<Permit>) {
        let service = self.control.service(0).expect("it is known");
        let asking = Asking {
            port: PORT,
            source,
            node: "",
            hash: key.map(spread),
            counted: Kind::Requests,
            tried: &Tried::default(),
            now: clock::now().after(self.later),
        };
        let endpoint = select::pick(&service, &asking, self.random.u64(..)).expect("one is ready");
        let permit = endpoint.runtime.limits.try_acquire(Kind::Requests);
        (endpoint.config.address, permit)
    }

    fn counts(&mut self, picks: usize) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.pick(None).0).or_default() += 1;
        }
        counts
    }

    fn owners(&mut self, keys: u64) -> Vec<SocketAddr> {
        (0..keys).map(|key| self.pick(Some(key)).0).collect()
    }
}

/// Hashes are even: SplitMix64.
fn spread(key: u64) -> u64 {
    let value = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ (value >> 27)
}

fn by(algorithm: Algorithm) -> LoadBalancing {
    let is_hashed = algorithm == Algorithm::ConsistentHash;
    let user = v1::hash_part::Part::Header("x-user".into());
    LoadBalancing {
        algorithm: algorithm as i32,
        hash_on: is_hashed
            .then_some(HashPart { part: Some(user) })
            .into_iter()
            .collect(),
        hash_load_bound_percent: if is_hashed { BOUND_PERCENT } else { 0 },
        ignore_zones: true,
        ..LoadBalancing::default()
    }
}

/// Plays it with each seed, under a clock that only moves when it is told to.
fn each_seed(play: impl Fn(u64, &[u8])) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for seed in 0..SEEDS {
            clock::begin_anew();
            crate::random::begin_anew(seed);
            crate::runtime::begin_anew();
            let count = fastrand::Rng::with_seed(seed).u8(2..9);
            let pods: Vec<u8> = (1..=count).collect();
            play(seed, &pods);
        }
    });
}

#[test]
fn in_turn_shares_are_exact_in_every_cycle() {
    each_seed(|seed, pods| {
        let mut calm = Calm::new(seed, by(Algorithm::RoundRobin), pods);
        for _ in 0..5 {
            let counts = calm.counts(pods.len());
            let is_exact = counts.len() == pods.len() && counts.values().all(|it| *it == 1);
            assert!(is_exact, "seed {seed}: {counts:?}");
        }
    });
}

#[test]
fn a_key_stays_where_it_is_until_its_endpoint_leaves_and_comes_back_with_it() {
    each_seed(|seed, pods| {
        let mut calm = Calm::new(seed, by(Algorithm::ConsistentHash), pods);
        let before = calm.owners(300);
        assert_eq!(before, calm.owners(300), "seed {seed}");
        let gone = pods[seed as usize % pods.len()];
        calm.control.put_pod(0, gone, None);
        let address = control::address(0, gone);
        for (key, (was, is)) in before.iter().zip(calm.owners(300)).enumerate() {
            let may_move = *was == address;
            assert!(
                may_move || *was == is,
                "seed {seed}: {key} moved from {was} to {is}"
            );
        }
        calm.control.put_pod(0, gone, Some(READY));
        assert_eq!(before, calm.owners(300), "seed {seed}");
    });
}

#[test]
fn nobody_has_more_than_the_bound_of_the_mean_whatever_keys_there_are() {
    each_seed(|seed, pods| {
        let mut calm = Calm::new(seed, by(Algorithm::ConsistentHash), pods);
        let keys = fastrand::Rng::with_seed(seed).u64(1..5);
        let (mut held, mut counts) = (Vec::new(), BTreeMap::<SocketAddr, usize>::new());
        for at in 0..100_usize {
            let (address, permit) = calm.pick(Some(at as u64 % keys));
            held.push(permit);
            let count = counts.entry(address).or_default();
            *count += 1;
            let most = (at + 1) * BOUND_PERCENT as usize;
            let most = most.div_ceil(pods.len() * 100);
            assert!(
                *count <= most,
                "seed {seed}: {count} of {} at {address}",
                at + 1
            );
        }
    });
}

#[test]
fn the_busiest_of_all_is_never_taken_by_requests_in_flight() {
    each_seed(|seed, pods| {
        let mut calm = Calm::new(seed, by(Algorithm::LeastRequest), pods);
        let mut held: BTreeMap<SocketAddr, Vec<_>> = BTreeMap::new();
        for step in 0..200 {
            let counts: Vec<_> = held.iter().map(|(at, held)| (held.len(), *at)).collect();
            let (address, permit) = calm.pick(None);
            let of = |at| held.get(&at).map_or(0, Vec::len);
            let busier = counts.iter().filter(|(_, at)| of(*at) >= of(address));
            let is_busiest = of(address) > 0 && busier.count() == 1;
            assert!(
                !is_busiest,
                "seed {seed}, step {step}: {counts:?}, and {address}"
            );
            held.entry(address).or_default().push(permit);
            if step % 3 == 0 {
                let ending = pods[calm.random.usize(..pods.len())];
                held.get_mut(&control::address(0, ending))
                    .and_then(Vec::pop);
            }
        }
    });
}

#[test]
fn by_chance_and_by_latency_everybody_has_about_as_much() {
    each_seed(|seed, pods| {
        for algorithm in [Algorithm::Random, Algorithm::PeakEwma] {
            let mut calm = Calm::new(seed, by(algorithm), pods);
            let counts = calm.counts(100 * pods.len());
            let is_fair = pods.iter().all(|pod| {
                let count = counts.get(&control::address(0, *pod)).copied();
                (50..=160).contains(&count.unwrap_or(0))
            });
            assert!(is_fair, "seed {seed}, {algorithm:?}: {counts:?}");
        }
    });
}

#[test]
fn the_share_of_one_that_comes_grows_to_its_whole_and_no_further() {
    let algorithms = [
        Algorithm::RoundRobin,
        Algorithm::Random,
        Algorithm::LeastRequest,
        Algorithm::PeakEwma,
    ];
    each_seed(|seed, pods| {
        let algorithm = algorithms[seed as usize % algorithms.len()];
        let window = Duration::from_secs(10);
        let balancing = LoadBalancing {
            slow_start_ms: 10_000,
            ..by(algorithm)
        };
        let mut calm = Calm::new(seed, balancing, pods);
        calm.counts(10);
        let new = pods.len() as u8 + 1;
        calm.control.put_pod(0, new, Some(READY));
        let fair = 600;
        let mut shares = Vec::new();
        for _ in 0..4 {
            let counts = calm.counts(fair * (pods.len() + 1));
            let count = counts.get(&control::address(0, new)).copied().unwrap_or(0);
            shares.push(count as f64 / fair as f64);
            calm.later += window / 3;
        }
        let [first, second, third, last] = shares[..] else {
            unreachable!("four looks")
        };
        let told = format!(
            "seed {seed}, {algorithm:?}, {} pods: {shares:?}",
            pods.len()
        );
        // The look takes its time, in which the share grows; it begins with a tenth.
        assert!(first < 0.45, "{told}");
        assert!(first < second && second < third + 0.1, "{told}");
        assert!(third < last + 0.1, "{told}");
        assert!((0.75..1.3).contains(&last), "{told}");
    });
}

#[test]
fn other_zones_are_left_alone_while_one_of_this_can_be_taken() {
    each_seed(|seed, pods| {
        let algorithm = Algorithm::try_from((seed % 5) as i32).expect("one of five");
        let balancing = LoadBalancing {
            ignore_zones: seed % 2 == 0,
            ..by(algorithm)
        };
        // Every fourth is kept for another zone.
        let pods: Vec<u8> = pods.iter().copied().chain([12, 16]).collect();
        let mut calm = Calm::new(seed, balancing, &pods);
        let is_far = |at: &SocketAddr| match at.ip() {
            IpAddr::V4(ip) => ip.octets()[3] % 4 == 0,
            IpAddr::V6(_) => false,
        };
        let picks: Vec<_> = (0..400).map(|key| calm.pick(Some(key)).0).collect();
        let far = picks.iter().any(is_far);
        assert_eq!(far, seed % 2 == 0, "seed {seed}, {algorithm:?}");
        for pod in pods.iter().filter(|pod| **pod % 4 != 0) {
            calm.control.put_pod(0, *pod, None);
        }
        assert!(is_far(&calm.pick(Some(7)).0), "seed {seed}");
    });
}

#[test]
fn one_that_comes_starts_slowly_where_all_are_kept_for_another_zone_too() {
    each_seed(|seed, _| {
        let balancing = LoadBalancing {
            slow_start_ms: 60_000,
            ignore_zones: false,
            ..by(Algorithm::Random)
        };
        // Every fourth is kept for another zone.
        let mut calm = Calm::new(seed, balancing, &[4, 8]);
        calm.counts(10);
        calm.control.put_pod(0, 12, Some(READY));
        let counts = calm.counts(300);
        let new = counts.get(&control::address(0, 12)).copied();
        // An even share is 100, and it begins with a tenth of that.
        assert!(new.unwrap_or(0) < 45, "seed {seed}: {counts:?}");
    });
}

#[test]
fn a_source_with_affinity_is_not_moved_to_and_fro_while_its_endpoint_starts() {
    each_seed(|seed, pods| {
        let balancing = LoadBalancing {
            slow_start_ms: 60_000,
            ..by(Algorithm::PeakEwma)
        };
        let mut calm = Calm::new(seed, balancing, pods);
        calm.control.has_affinity = true;
        calm.control.put_service(0);
        calm.counts(1);
        let new = pods.len() as u8 + 1;
        calm.control.put_pod(0, new, Some(READY));
        for host in 0..20 {
            let source = Some(IpAddr::V4(Ipv4Addr::new(10, 2, 0, host)));
            let first = calm.pick_for(source, None).0;
            for _ in 0..10 {
                assert_eq!(calm.pick_for(source, None).0, first, "seed {seed}");
            }
        }
    });
}
