//! A backend of bounded concurrency under virtual time, and far more callers than
//! it can serve: what the gate makes of it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::gate::{Gate, Permit};
use crate::clock::Timestamp;
use crate::policy::config::admission::{Adaptive, Admission, Priority};

/// How long a request is worked at.
#[derive(Clone, Copy, Debug)]
enum Service {
    Fixed,
    /// Evenly from half to one and a half.
    Even,
    Exponential,
    /// Fixed, but one in fifty takes twenty times as long.
    Tailed,
}

#[derive(Clone, Copy, Debug)]
struct World {
    seed: u64,
    places: usize,
    service: Duration,
    spread: Service,
    /// Of what the backend can serve.
    load: f64,
    /// Shares of critical and default, the rest is sheddable.
    shares: (f64, f64),
    /// Instead of a limit that it finds: its places.
    is_fixed: bool,
}

/// What happened in a span of time.
#[derive(Clone, Debug, Default)]
struct Told {
    latencies: Vec<f64>,
    asked: [u64; 3],
    refused: [u64; 3],
    least_limit: u32,
    most_limit: u32,
    /// Seconds, of all places.
    in_use: f64,
}

impl Told {
    fn quantile(&self, share: f64) -> f64 {
        let mut all = self.latencies.clone();
        all.sort_by(f64::total_cmp);
        let at = (all.len() as f64 * share) as usize;
        all.get(at.min(all.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0.0)
    }

    fn refused_share(&self, priority: Priority) -> f64 {
        let at = priority.index();
        self.refused[at] as f64 / self.asked[at].max(1) as f64
    }
}

struct Simulation {
    world: World,
    random: fastrand::Rng,
    gate: Arc<Gate>,
    now: f64,
    next_arrival: f64,
    waiting: VecDeque<(f64, Permit)>,
    /// When it is done, and which it is.
    busy: BinaryHeap<Reverse<(u64, usize)>>,
    running: Vec<Option<(f64, Permit)>>,
    /// Makes every request slower by this.
    slowness: f64,
}

impl Simulation {
    fn new(world: World) -> Self {
        let gate = Gate::new();
        let admission = Admission {
            adaptive: (!world.is_fixed).then_some(Adaptive {
                min_requests: 4,
                max_requests: 1000,
                tolerance_percent: 200,
            }),
            max_requests: world.is_fixed.then_some(world.places as u32),
            ..Admission::default()
        };
        gate.configure(&[admission], at(0.0));
        Self {
            world,
            random: fastrand::Rng::with_seed(world.seed),
            gate,
            now: 0.0,
            next_arrival: 0.0,
            waiting: VecDeque::new(),
            busy: BinaryHeap::new(),
            running: (0..world.places).map(|_| None).collect(),
            slowness: 1.0,
        }
    }

    fn capacity(&self) -> f64 {
        self.world.places as f64 / (self.world.service.as_secs_f64() * self.mean_work())
    }

    fn mean_work(&self) -> f64 {
        let spread = match self.world.spread {
            Service::Tailed => 1.0 + 19.0 / 50.0,
            _ => 1.0,
        };
        spread * self.slowness
    }

    fn work(&mut self) -> f64 {
        let unit = match self.world.spread {
            Service::Fixed => 1.0,
            Service::Even => 0.5 + self.random.f64(),
            Service::Exponential => -(1.0 - self.random.f64()).ln(),
            Service::Tailed if self.random.u32(0..50) == 0 => 20.0,
            Service::Tailed => 1.0,
        };
        unit * self.world.service.as_secs_f64() * self.slowness
    }

    fn run(&mut self, seconds: f64) -> Told {
        let until = self.now + seconds;
        let mut told = Told {
            least_limit: u32::MAX,
            ..Told::default()
        };
        loop {
            let done = self.busy.peek().map(|Reverse((at, _))| *at as f64 / 1e9);
            let next = done.map_or(self.next_arrival, |done| done.min(self.next_arrival));
            let in_flight = f64::from(self.gate.figures().in_flight);
            told.in_use += in_flight * (next.min(until) - self.now);
            if next >= until {
                self.now = until;
                return told;
            }
            self.now = next;
            if done == Some(next) {
                self.complete(&mut told);
            } else {
                self.arrive(&mut told);
            }
            let limit = self.gate.figures().limit.unwrap();
            told.least_limit = told.least_limit.min(limit);
            told.most_limit = told.most_limit.max(limit);
        }
    }

    fn arrive(&mut self, told: &mut Told) {
        let rate = self.world.load * self.capacity() * self.slowness;
        self.next_arrival = self.now - (1.0 - self.random.f64()).ln() / rate;
        let (critical, default) = self.world.shares;
        let drawn = self.random.f64();
        let priority = if drawn < critical {
            Priority::Critical
        } else if drawn < critical + default {
            Priority::Default
        } else {
            Priority::Sheddable
        };
        told.asked[priority.index()] += 1;
        match self.gate.try_admit(priority, at(self.now)) {
            Some(permit) => self.waiting.push_back((self.now, permit)),
            None => told.refused[priority.index()] += 1,
        }
        self.start();
    }

    fn complete(&mut self, told: &mut Told) {
        let Some(Reverse((_, place))) = self.busy.pop() else {
            return;
        };
        if let Some((since, mut permit)) = self.running[place].take() {
            told.latencies.push(self.now - since);
            permit.answered(at(self.now));
        }
        self.start();
    }

    fn start(&mut self) {
        while let Some(place) = self.running.iter().position(Option::is_none) {
            let Some(request) = self.waiting.pop_front() else {
                return;
            };
            let done = self.now + self.work();
            self.busy.push(Reverse(((done * 1e9) as u64, place)));
            self.running[place] = Some(request);
        }
    }
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_nanos(1_000_000_000 + (seconds * 1e9) as u64)
}

fn unloaded(world: World) -> f64 {
    let mut quiet = Simulation::new(World { load: 0.1, ..world });
    let seconds = 20_000.0 / (0.1 * quiet.capacity());
    quiet.run(seconds).quantile(0.99)
}

const FIXED: World = World {
    seed: 0,
    places: 10,
    service: Duration::from_millis(10),
    spread: Service::Fixed,
    load: 3.0,
    shares: (0.2, 0.3),
    is_fixed: false,
};

/// Goodput, tail and order at three times what the backend can serve.
fn holds_its_bars(world: World) {
    let mut simulation = Simulation::new(world);
    // So that every shape of world has learnt from as much.
    let unit = (2_000.0 / simulation.capacity()).max(1.0);
    simulation.run(3.0 * unit);
    let told = simulation.run(10.0 * unit);
    let goodput = told.latencies.len() as f64 / (10.0 * unit) / simulation.capacity();
    let tail = told.quantile(0.99) / unloaded(world);
    let refused = Priority::ALL.map(|priority| told.refused_share(priority));
    let seen = format!(
        "{world:?}: goodput {goodput:.3}, p99 x{tail:.2}, refused {refused:.3?}, limit {}..{}",
        told.least_limit, told.most_limit
    );
    if std::env::var_os("ADMISSION_SHOW").is_some() {
        eprintln!("{seen}");
    }
    // Where the next request is anyone's guess, some places stand empty at times.
    let least = match world.spread {
        Service::Exponential => 0.8,
        Service::Tailed => 0.85,
        Service::Fixed | Service::Even => 0.9,
    };
    assert!(goodput >= least, "{seen}");
    assert!(tail < 3.0, "{seen}");
    let [sheddable, default, critical] = refused;
    assert!(sheddable > default && default > critical, "{seen}");
    assert!(critical < 0.05 && sheddable > 0.9, "{seen}");
}

#[test]
fn overloaded_threefold_it_keeps_goodput_tail_and_order() {
    for seed in 0..3 {
        for places in [10, 40, 150] {
            holds_its_bars(World {
                seed,
                places,
                ..FIXED
            });
        }
    }
}

/// The application becomes three times slower, and then as fast as before: the
/// limit follows without falling to its floor.
#[test]
fn it_follows_when_the_application_slows_down_and_recovers() {
    for seed in 0..3 {
        let world = World { seed, ..FIXED };
        let mut simulation = Simulation::new(world);
        simulation.run(6.0);
        for slowness in [3.0, 1.0] {
            simulation.slowness = slowness;
            let shift = simulation.run(12.0);
            let told = simulation.run(12.0);
            let goodput = told.latencies.len() as f64 / 12.0 / simulation.capacity();
            let least = shift.least_limit.min(told.least_limit);
            assert!(goodput >= 0.8, "{seed}: {goodput:.3} at {slowness}");
            assert!(
                least >= 5,
                "{seed}: the limit fell to {least} at {slowness}"
            );
        }
    }
}

#[test]
fn noise_does_not_move_it_away() {
    for seed in 0..3 {
        for spread in [Service::Even, Service::Exponential, Service::Tailed] {
            for places in [10, 40] {
                let service = Duration::from_millis(5);
                holds_its_bars(World {
                    seed,
                    places,
                    spread,
                    service,
                    ..FIXED
                });
            }
        }
    }
}

/// With a limit that is given, what is kept for the upper priorities is paid for in
/// places that stand empty: no more than a sixth of them does, and what is critical is
/// seldom refused as long as it wants less than there is.
#[test]
fn a_fixed_limit_is_used_by_all_priorities_together() {
    // The last: of critical, so much may be refused.
    let mixtures = [
        (0.05, 0.19, 0.05),
        (0.05, 0.3, 0.05),
        (0.2, 0.3, 0.15),
        (0.01, 0.5, 0.08),
        (0.3, 0.0, 0.3),
    ];
    for (seed, (critical, default, most_refused)) in (0..).zip(mixtures) {
        let shares = (critical, default);
        for places in [16, 100] {
            let world = World {
                seed,
                places,
                service: Duration::from_millis(400),
                shares,
                is_fixed: true,
                ..FIXED
            };
            let mut simulation = Simulation::new(world);
            let begin = simulation.run(5.0).in_use / 5.0 / places as f64;
            let told = simulation.run(60.0);
            let in_use = told.in_use / 60.0 / places as f64;
            let refused = Priority::ALL.map(|priority| told.refused_share(priority));
            let seen = format!("{world:?}: {begin:.3}, then {in_use:.3}, refused {refused:.3?}");
            if std::env::var_os("ADMISSION_SHOW").is_some() {
                eprintln!("{seen}");
            }
            assert!(begin >= 0.8 && in_use >= 0.83, "{seen}");
            let [sheddable, default, critical] = refused;
            let least = if shares.1 > 0.0 { default } else { sheddable };
            assert!(sheddable >= default && least > critical, "{seen}");
            assert!(critical <= most_refused, "{seen}");
        }
    }
}

#[test]
fn a_priority_alone_has_nearly_all_of_a_fixed_limit() {
    for shares in [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)] {
        for places in [16, 100] {
            let world = World {
                places,
                shares,
                is_fixed: true,
                ..FIXED
            };
            let told = Simulation::new(world).run(30.0);
            let in_use = told.in_use / 30.0 / places as f64;
            assert!(in_use >= 0.95, "{world:?}: {in_use:.3}");
        }
    }
}
