use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

const LIMIT: Whole = Whole {
    requests: 1_000,
    per_ms: 1_000,
    burst: 100,
};

/// The same numbers in every run.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        self.0 >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn told(share: Share, grant: u64, asked: u64, over_ms: u64) -> Told {
    Told {
        share,
        grant,
        asked,
        over_ms,
    }
}

fn sum(shares: impl IntoIterator<Item = Share>) -> Share {
    shares.into_iter().fold(Share::default(), |sum, one| Share {
        parts_per_million: sum.parts_per_million + one.parts_per_million,
        burst: sum.burst + one.burst,
    })
}

#[test]
fn the_first_gets_all_and_gives_up_what_another_needs_before_that_one_has_it() {
    let mut limit = Apportioner::new(LIMIT, true);
    limit.tell(&"a", Told::default(), true, 0);
    let grants = limit.turn(0);
    assert_eq!(grants.len(), 1);
    let whole = grants[0].share;
    assert!(
        whole.parts_per_million > 990_000 && whole.burst == 100,
        "{whole:?}"
    );
    limit.tell(&"a", told(whole, 1, 1_000, 200), false, 200);
    limit.tell(&"b", told(Share::default(), 0, 400, 200), true, 200);
    let cut = limit.turn(200);
    assert_eq!(cut.len(), 1, "b has to wait: {cut:?}");
    assert_eq!((cut[0].holder, cut[0].number), ("a", 2));
    assert!(limit.turn(250).is_empty(), "the cut is under way");
    limit.tell(&"a", told(cut[0].share, 2, 250, 50), false, 260);
    let given = limit.turn(260);
    assert_eq!(given[0].holder, "b");
    let both = sum([cut[0].share, given[0].share]);
    assert!(both.parts_per_million <= 1_000_000 && both.burst <= 100);
    assert!(both.parts_per_million > 980_000, "{both:?}");
}

#[test]
fn what_is_not_wanted_is_shared_by_those_who_want_it() {
    let wants: Vec<((), u64)> = [50_000, 2_000_000, 2_000_000].map(|want| ((), want)).into();
    let given = fair(&wants, 1_000_000);
    assert!((50_000..60_000).contains(&given[0]), "{given:?}");
    // What does not divide goes to one of them.
    assert!(given[1].abs_diff(given[2]) <= 1, "{given:?}");
    assert!(given.iter().sum::<u64>() > 999_000, "{given:?}");
}

#[test]
fn a_stream_that_breaks_frees_nothing_and_a_pod_that_is_gone_frees_all() {
    let mut limit = Apportioner::new(LIMIT, true);
    limit.tell(&"a", Told::default(), true, 0);
    let share = limit.turn(0)[0].share;
    limit.tell(&"a", told(share, 1, 0, 0), false, 1);
    limit.disconnect(&"a");
    limit.tell(&"b", told(Share::default(), 0, 200, 200), true, 200);
    assert!(limit.turn(10_000).is_empty());
    limit.remove(&"a");
    assert!(limit.turn(10_001)[0].share.parts_per_million > 990_000);
}

#[test]
fn a_new_leader_gives_only_what_it_was_told_of_until_everybody_has_told() {
    let mut limit = Apportioner::new(LIMIT, false);
    let quarter = Share {
        parts_per_million: 250_000,
        burst: 25,
    };
    limit.tell(&"a", told(quarter, 0, 0, 0), true, 0);
    limit.tell(&"b", told(Share::default(), 0, 400, 200), true, 0);
    let cut = limit.turn(0);
    assert!(cut.iter().all(|grant| grant.holder == "a"), "{cut:?}");
    limit.tell(&"a", told(cut[0].share, 1, 0, 0), false, 10);
    let given = limit.turn(10);
    let both = sum([cut[0].share, given[0].share]);
    assert!(
        both.parts_per_million <= 250_000 && both.burst <= 25,
        "{both:?}"
    );
    limit.tell(&"b", told(given[0].share, 1, 0, 0), false, 20);
    limit.settle();
    let rest = limit.turn(20);
    let rest = sum(rest.iter().map(|grant| grant.share));
    assert!(rest.parts_per_million > 900_000, "{rest:?}");
}

#[test]
fn no_more_sidecars_hold_a_share_than_the_burst_has_tokens() {
    let few = Whole { burst: 2, ..LIMIT };
    let mut limit = Apportioner::new(few, true);
    for (key, asked) in [("a", 0), ("b", 100), ("c", 300)] {
        limit.tell(&key, told(Share::default(), 0, asked, 200), true, 0);
    }
    let holders: BTreeSet<&str> = limit.turn(0).iter().map(|grant| grant.holder).collect();
    assert_eq!(holders, ["b", "c"].into());
}

/// A sidecar: its bucket, as proxy/src/policy/rate_limit has it, and its stream.
struct Sidecar {
    share: Share,
    tokens: f64,
    /// Arrivals owed.
    due: f64,
    asked: u64,
    counted_from: u64,
    grant: u64,
    connected: bool,
    first: bool,
    to_sidecar: VecDeque<(u64, u64, Share)>,
    to_leader: VecDeque<(u64, Told)>,
}

impl Sidecar {
    fn take(&mut self, share: Share) {
        self.share = share;
        // An enlargement gives nothing at once; a cut takes what is beyond it.
        self.tokens = self.tokens.min(f64::from(share.burst));
    }

    fn step(&mut self, per_second: f64) -> u64 {
        let rate = f64::from(LIMIT.requests) * f64::from(self.share.parts_per_million) / 1e6;
        self.tokens = (self.tokens + rate / 1_000.0).min(f64::from(self.share.burst));
        self.due += per_second / 1_000.0;
        let mut admitted = 0;
        while self.due >= 1.0 {
            self.due -= 1.0;
            self.asked += 1;
            if self.tokens >= 1.0 {
                self.tokens -= 1.0;
                admitted += 1;
            }
        }
        admitted
    }

    fn report(&mut self, now_ms: u64, delay: u64) {
        let told = Told {
            share: self.share,
            grant: self.grant,
            asked: std::mem::take(&mut self.asked),
            over_ms: now_ms - self.counted_from,
        };
        self.counted_from = now_ms;
        self.to_leader.push_back((now_ms + delay, told));
    }
}

struct World {
    sidecars: Vec<Sidecar>,
    leader: Option<Apportioner<usize>>,
    told: BTreeSet<usize>,
    chance: Chance,
    admitted: Vec<u64>,
    wanted: f64,
}

impl World {
    fn new(count: usize) -> Self {
        let sidecar = |_| Sidecar {
            share: Share::default(),
            tokens: 0.0,
            due: 0.0,
            asked: 0,
            counted_from: 0,
            grant: 0,
            connected: true,
            first: true,
            to_sidecar: VecDeque::new(),
            to_leader: VecDeque::new(),
        };
        Self {
            sidecars: (0..count).map(sidecar).collect(),
            leader: Some(Apportioner::new(LIMIT, true)),
            told: BTreeSet::new(),
            chance: Chance(42),
            admitted: Vec::new(),
            wanted: 2_000.0,
        }
    }

    /// Skewed, and another one is the busiest every 5 s.
    fn demand(&self, at: usize, now_ms: u64) -> f64 {
        let count = self.sidecars.len();
        let place = (at + (now_ms / 5_000) as usize * 7) % count;
        let weight = |place: usize| 1.0 / (place + 1) as f64;
        let all: f64 = (0..count).map(weight).sum();
        self.wanted * weight(place) / all
    }

    fn away(&mut self) {
        self.leader = None;
        for sidecar in &mut self.sidecars {
            sidecar.connected = false;
            sidecar.to_sidecar.clear();
            sidecar.to_leader.clear();
        }
    }

    fn back(&mut self) {
        self.leader = Some(Apportioner::new(LIMIT, false));
        self.told.clear();
    }

    fn step(&mut self, now_ms: u64) {
        let mut admitted = 0;
        for at in 0..self.sidecars.len() {
            let per_second = self.demand(at, now_ms);
            let delay = 1 + self.chance.below(8);
            let joins = self.leader.is_some() && self.chance.below(500) == 0;
            let sidecar = &mut self.sidecars[at];
            admitted += sidecar.step(per_second);
            if !sidecar.connected && joins {
                (sidecar.connected, sidecar.first, sidecar.grant) = (true, true, 0);
                sidecar.report(now_ms, delay);
            }
            if now_ms == 0 || (sidecar.connected && now_ms % 200 == at as u64 * 10) {
                sidecar.report(now_ms, delay);
            }
            while let Some((_, number, share)) =
                sidecar.to_sidecar.pop_front_if(|(due, ..)| *due <= now_ms)
            {
                sidecar.grant = number;
                sidecar.take(share);
                sidecar.report(now_ms, delay);
            }
            let Some(leader) = &mut self.leader else {
                continue;
            };
            while let Some((_, told)) = sidecar.to_leader.pop_front_if(|(due, _)| *due <= now_ms) {
                leader.tell(&at, told, std::mem::take(&mut sidecar.first), now_ms);
                self.told.insert(at);
            }
        }
        self.admitted.push(admitted);
        if let Some(leader) = self.leader.as_mut().filter(|_| now_ms.is_multiple_of(50)) {
            if self.told.len() == self.sidecars.len() {
                leader.settle();
            }
            for grant in leader.turn(now_ms) {
                let due = now_ms + 1 + self.chance.below(8);
                let sidecar = &mut self.sidecars[grant.holder];
                sidecar
                    .to_sidecar
                    .push_back((due, grant.number, grant.share));
            }
        }
        let all = sum(self.sidecars.iter().map(|sidecar| sidecar.share));
        assert!(
            all.parts_per_million <= 1_000_000 && all.burst <= 100,
            "{all:?} at {now_ms}"
        );
    }

    /// The most in any second from `from_ms` on, and the least in any 10 s.
    fn figures(&self, from_ms: usize) -> (u64, u64) {
        let of = |window: usize| {
            let whole = self.admitted.windows(window).skip(from_ms);
            whole.map(|window| window.iter().sum::<u64>())
        };
        (of(1_000).max().unwrap_or(0), of(10_000).min().unwrap_or(0))
    }
}

/// The bar: 1,000/s with a burst of 100 over 20 sidecars, skewed and shifting demand.
#[test]
fn twenty_sidecars_never_exceed_the_limit_and_use_it() {
    let mut world = World::new(20);
    for now_ms in 0..60_000 {
        world.step(now_ms);
    }
    let (most, least) = (world.figures(0).0, world.figures(1_000).1);
    println!("at most {most} in a second, at least {least} in 10 s");
    assert!(most <= 1_100, "{most} in a second");
    assert!(least > 9_500, "{least} in 10 s");
}

#[test]
fn a_leader_that_is_away_for_30_s_never_lets_the_total_exceed() {
    let mut world = World::new(20);
    for now_ms in 0..90_000 {
        if now_ms == 20_000 {
            world.away();
        }
        if now_ms == 50_000 {
            world.back();
        }
        world.step(now_ms);
    }
    let (most, _) = world.figures(0);
    let (_, after) = world.figures(55_000);
    println!("at most {most} in a second, at least {after} in 10 s once it is back");
    assert!(most <= 1_100, "{most} in a second");
    assert!(after > 9_500, "{after} in 10 s once it is back");
}

/// Sidecars and leaders, with streams that carry messages in their order and break.
struct Mesh {
    /// What each sidecar has, the leader of its stream, and the grant of that stream.
    sidecars: Vec<Option<(Share, Option<usize>, u64)>>,
    leaders: Vec<(Apportioner<usize>, BTreeSet<usize>)>,
    down: Vec<VecDeque<(u64, Share)>>,
    up: Vec<VecDeque<(Told, bool)>>,
    now_ms: u64,
}

impl Mesh {
    fn new(count: usize) -> Self {
        Self {
            sidecars: vec![Some((Share::default(), None, 0)); count],
            leaders: vec![(Apportioner::new(LIMIT, true), BTreeSet::new())],
            down: vec![VecDeque::new(); count],
            up: vec![VecDeque::new(); count],
            now_ms: 0,
        }
    }

    fn say(&mut self, at: usize, first: bool, asked: u64) {
        if let Some((share, Some(_), grant)) = self.sidecars[at] {
            self.up[at].push_back((told(share, grant, asked, 200), first));
        }
    }

    /// One thing happens.
    fn step(&mut self, what: u8, at: usize, number: u64) {
        self.now_ms += number % 300;
        let newest = self.leaders.len() - 1;
        match what {
            // Its stream breaks, or it finds the newest leader.
            0 => {
                let Some((_, stream, _)) = &mut self.sidecars[at] else {
                    return;
                };
                if let Some(leader) = stream.take() {
                    self.leaders[leader].0.disconnect(&at);
                }
                self.down[at].clear();
                self.up[at].clear();
            }
            1 => {
                let Some((_, stream, grant)) = &mut self.sidecars[at] else {
                    return;
                };
                if stream.is_none() {
                    (*stream, *grant) = (Some(newest), 0);
                    self.say(at, true, number % 500);
                }
            }
            2 => self.say(at, false, number % 500),
            3 | 4 => {
                if let Some((number, given)) = self.down[at].pop_front()
                    && let Some((share, _, grant)) = &mut self.sidecars[at]
                {
                    (*share, *grant) = (given, number);
                    self.say(at, false, 0);
                }
            }
            5 | 6 => {
                let Some((_, Some(leader), _)) = self.sidecars[at] else {
                    return;
                };
                if let Some((told, first)) = self.up[at].pop_front() {
                    let (limit, heard) = &mut self.leaders[leader];
                    limit.tell(&at, told, first, self.now_ms);
                    heard.insert(at);
                }
            }
            7..=9 => self.turn(number as usize % self.leaders.len()),
            10 if number.is_multiple_of(4) => {
                // Another one leads, while the former goes on with who is still there.
                self.leaders
                    .push((Apportioner::new(LIMIT, false), BTreeSet::new()));
            }
            11 if number.is_multiple_of(4) => {
                self.sidecars[at] = None;
                self.down[at].clear();
                self.up[at].clear();
                self.leaders[newest].0.remove(&at);
            }
            _ => {}
        }
        self.settle();
    }

    fn settle(&mut self) {
        let Some((limit, heard)) = self.leaders.last_mut() else {
            return;
        };
        let living = self.sidecars.iter().enumerate();
        let mut living = living.filter(|(_, one)| one.is_some());
        if living.all(|(at, _)| heard.contains(&at)) {
            limit.settle();
        }
    }

    fn turn(&mut self, leader: usize) {
        for grant in self.leaders[leader].0.turn(self.now_ms) {
            let at = grant.holder;
            let is_here = matches!(self.sidecars[at], Some((_, Some(own), _)) if own == leader);
            if is_here {
                self.down[at].push_back((grant.number, grant.share));
            } else {
                self.leaders[leader].0.unsent(&at, grant.number);
            }
        }
    }

    /// What all may have: in force, or on its way.
    fn most(&self) -> Share {
        let each = self
            .sidecars
            .iter()
            .zip(&self.down)
            .filter_map(|(one, down)| {
                let (share, ..) = (*one)?;
                Some(
                    down.iter()
                        .fold(share, |most, (_, share)| most.most(*share)),
                )
            });
        sum(each)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_order_of_events_gives_more_than_the_whole(
        steps in prop::collection::vec((0u8..12, 0usize..6, any::<u64>()), 1..400),
    ) {
        let mut mesh = Mesh::new(6);
        for (what, at, number) in steps {
            mesh.step(what, at, number);
            let most = mesh.most();
            prop_assert!(most.parts_per_million <= 1_000_000, "{:?}", most);
            prop_assert!(most.burst <= 100, "{:?}", most);
        }
    }

    #[test]
    fn whatever_a_sidecar_says_nothing_panics(
        told in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<bool>()), 1..40),
        whole in (any::<u32>(), 1u64..=3_600_000, any::<u32>()),
    ) {
        let whole = Whole { requests: whole.0, per_ms: whole.1, burst: whole.2 };
        let mut limit = Apportioner::new(whole, false);
        for (at, (parts_per_million, burst, grant, asked, over_ms, first)) in told.into_iter().enumerate() {
            let share = Share { parts_per_million, burst };
            let told = Told { share, grant, asked, over_ms };
            limit.tell(&(at % 5), told, first, asked);
            let _ = limit.turn(over_ms);
        }
    }
}
