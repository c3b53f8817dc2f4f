//! The clock, the mischief, and the sidecar in the middle: two workers of one sidecar
//! with their real pipeline, pools and engines, on one thread under a paused clock.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use remora_proto::v1::fallback::Action;

use super::SERVICES;
use super::book::{self, Book};
use super::calls::{self, Facts};
use super::control::{self, Control, NAMES, Pod};
use super::network::{self, Listening, Mood, Network};
use super::settings;
use crate::access_log::AccessLogger;
use crate::callers::Callers;
use crate::clock::{self, Timestamp};
use crate::config::Config;
use crate::inbound::Inbound;
use crate::patience::Patience;
use crate::pool::Pool;
use crate::relay::Scratch;
use crate::state::Service;
use crate::worker::{self, ConnectionCounters, Shared, Worker};

/// Workers of the sidecar; what they share is what races.
const WORKERS: usize = 2;
/// Callers that come, one after the other.
const ARRIVALS: usize = 40;
/// Each service begins with so many pods, and has never more than twice as many.
const PODS: u8 = 5;
/// Longer than any caller waits, and any application takes.
const REST: Duration = Duration::from_secs(30);

/// What a seed came to.
#[derive(Debug)]
pub struct Outcome {
    pub trace: u64,
    pub events: Vec<String>,
    pub counts: std::collections::BTreeMap<&'static str, u64>,
}

/// Plays a seed.
///
/// # Errors
/// The promise that was broken, with the last events.
pub fn play(seed: u64) -> Result<Outcome, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    book::open(seed);
    runtime.block_on(async {
        clock::begin_anew();
        crate::random::begin_anew(seed);
        crate::runtime::begin_anew();
        let mut world = World::new(seed);
        world.play().await;
    });
    drop(runtime);
    network::set(None);
    let book = book::close().expect("it was open");
    match book.broken {
        None => Ok(Outcome {
            trace: book.trace(),
            events: book.events,
            counts: book.counts,
        }),
        Some(ref broken) => Err(format!(
            "{broken}\nthe last events:\n{}",
            book.last_events()
        )),
    }
}

pub struct World {
    pub random: fastrand::Rng,
    pub control: Control,
    pub network: Rc<Network>,
    pub applications: HashMap<(usize, u8), Rc<Listening>>,
    pub workers: Vec<Rc<Worker>>,
    next_pod: [u8; SERVICES],
    swept: Timestamp,
    pub books: super::checks::Books,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let policies = (0..SERVICES).map(|it| settings::policy(it, &mut random));
        let control = Control::new(policies.collect());
        let network = Rc::new(Network::default());
        network::set(Some(Rc::clone(&network)));
        let mut world = Self {
            workers: workers(&control),
            random,
            control,
            network,
            applications: HashMap::new(),
            next_pod: [1; SERVICES],
            swept: clock::now(),
            books: super::checks::Books::default(),
        };
        for service in 0..SERVICES {
            for _ in 0..PODS {
                world.add_pod(service);
            }
            world.put_policy(service, world.control.policies[service].clone());
        }
        world
    }

    async fn play(&mut self) {
        for worker in &self.workers {
            spawn(worker::lend(Rc::clone(worker)));
        }
        for _ in 0..ARRIVALS {
            if self.random.u8(..3) > 0 {
                // Bursts, and pauses in which ejections pass.
                let pause = match self.random.u8(..8) {
                    0 => self.random.u64(..1_500),
                    _ => self.random.u64(1..30),
                };
                self.pass(Duration::from_millis(pause)).await;
            }
            self.arrive();
            if self.random.u8(..3) == 0 {
                settle().await;
                self.mischief().await;
            }
            if book::with(|book| book.broken.is_some()) {
                return;
            }
        }
        self.pass(REST).await;
        self.check_recovery().await;
        self.pass(REST).await;
        self.check_rest();
    }

    /// Time passes, and what is due is done.
    pub async fn pass(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
        settle().await;
        let now = clock::now();
        if now.since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            for worker in &self.workers {
                worker.pool.sweep(now);
                worker.callers.sweep(now);
            }
            self.control.sweep();
        }
        self.check();
    }

    pub fn arrive(&mut self) {
        let service = self.random.usize(..SERVICES);
        let worker = &self.workers[self.random.usize(..WORKERS)];
        let requests = self.random.u8(1..3);
        let Some(target) = self.control.service(service) else {
            book::with(|book| book.breaks(format!("{service} is not known")));
            return;
        };
        spawn(calls::call(Rc::clone(worker), target, service, requests));
    }

    async fn mischief(&mut self) {
        let service = self.random.usize(..SERVICES);
        let pods: Vec<u8> = self.pods_of(service);
        let pod = pods.get(self.random.usize(..pods.len().max(1))).copied();
        match (self.random.u8(..16), pod) {
            (0..6, Some(pod)) => {
                let mood = Mood::draw(&mut self.random);
                book::with(|book| book.tell(format!("{service}/{pod} is {mood:?}")));
                self.applications[&(service, pod)].mood.set(mood);
            }
            (6, Some(pod)) => self.leave(service, pod),
            // Killed first, and taken out of the list when somebody has noticed.
            (7, Some(pod)) => self.kill(service, pod),
            (8 | 9, _) if pods.len() < usize::from(PODS) * 2 => self.add_pod(service),
            // Nobody serves for a while.
            (10, Some(_)) if self.random.u8(..3) == 0 => {
                for pod in pods {
                    let mut told = self.control.pods[&(service, pod)];
                    (told.ready, told.serving) = (false, false);
                    self.control.put_pod(service, pod, Some(told));
                }
            }
            (10, Some(pod)) => {
                let mut told = self.control.pods[&(service, pod)];
                (told.ready, told.serving) = (self.random.bool(), self.random.bool());
                self.control.put_pod(service, pod, Some(told));
            }
            (11, _) => {
                let span = Duration::from_millis(self.random.u64(..5_000));
                book::with(|book| book.tell(format!("the clock jumps by {span:?}")));
                tokio::time::advance(span).await;
                // What was due meanwhile is done now, in no time.
                tokio::time::sleep(Duration::from_millis(2)).await;
                settle().await;
            }
            (12 | 13, _) => {
                self.control.routes = settings::routes(&mut self.random);
                self.put_policy(0, self.control.policies[0].clone());
            }
            (14, _) => {
                // One after the other, so that the worst of each is met.
                for pod in pods {
                    let mood = Mood::draw(&mut self.random);
                    self.applications[&(service, pod)].mood.set(mood);
                }
            }
            // A storm.
            _ => {
                for _ in 0..self.random.u8(1..5) {
                    let policy = settings::policy(service, &mut self.random);
                    self.put_policy(service, policy);
                }
            }
        }
        self.check();
    }

    pub fn pods_of(&self, service: usize) -> Vec<u8> {
        let pods = self.control.pods.keys();
        pods.filter(|(of, _)| *of == service)
            .map(|(_, pod)| *pod)
            .collect()
    }

    fn add_pod(&mut self, service: usize) {
        let pod = self.next_pod[service];
        self.next_pod[service] += 1;
        let address = control::address(service, pod);
        let listening = Rc::new(Listening {
            address,
            mood: Cell::new(Mood::Well),
            killed: tokio::sync::Notify::new(),
        });
        self.network.listen(Rc::clone(&listening));
        self.applications.insert((service, pod), listening);
        book::with(|book| book.tell(format!("{address} comes")));
        book::with(|book| book.listed.insert(address, service));
        let told = Pod {
            ready: true,
            serving: true,
        };
        self.control.put_pod(service, pod, Some(told));
    }

    fn leave(&mut self, service: usize, pod: u8) {
        let address = control::address(service, pod);
        book::with(|book| book.tell(format!("{address} leaves")));
        self.control.put_pod(service, pod, None);
        book::with(|book| book.listed.remove(&address));
    }

    fn kill(&mut self, service: usize, pod: u8) {
        let address = control::address(service, pod);
        book::with(|book| book.tell(format!("{address} is killed")));
        self.applications[&(service, pod)].mood.set(Mood::Refusing);
        self.network.kill(address);
        if self.random.bool() {
            self.leave(service, pod);
        }
    }

    pub fn put_policy(&mut self, service: usize, policy: remora_proto::v1::ServicePolicy) {
        self.before_change(service);
        let text = format!("{policy:?}");
        book::with(|book| book.tell(format!("{service} has another policy: {text}")));
        self.control.policies[service] = policy;
        self.control.put_service(service);
        self.after_change(service);
        let facts = self.facts(service);
        book::with(|book| book.facts[service] = facts);
    }

    fn facts(&self, service: usize) -> Facts {
        let policy = &self.control.policies[service];
        let retries = policy.retries.as_ref();
        let balancing = policy.load_balancing.as_ref();
        let persistence = balancing.and_then(|it| it.persistence.as_ref());
        let fallback = policy.fallback.as_ref();
        let rules = if service == 0 {
            &*self.control.routes
        } else {
            &[]
        };
        let backends = |rule: &Vec<(usize, u32)>| rule.iter().map(|(to, _)| *to).collect();
        Facts {
            timeout_ms: policy.timeouts.as_ref().and_then(|it| it.request_ms),
            posts_are_safe: retries.is_some_and(|it| it.methods.iter().any(|it| it == "POST")),
            has_key: retries.is_some_and(|it| !it.idempotency_header.is_empty()),
            hedges: retries.and_then(|it| it.hedge).map_or(0, |it| it.max),
            pinning: balancing.is_some_and(|it| it.pinning),
            session: persistence.map(|it| it.strict),
            when: fallback.map_or_else(Vec::new, |it| it.when.clone()),
            asks: fallback.and_then(|it| match &it.action {
                Some(Action::Backend(of)) => NAMES.iter().position(|it| *it == of.service),
                _ => None,
            }),
            rules: rules.iter().map(backends).collect(),
        }
    }
}

/// A worker, and a service that it knows.
pub fn worker_and_service() -> (Rc<Worker>, Arc<Service>) {
    let mut control = Control::new(vec![settings::generous(); SERVICES]);
    let told = Pod {
        ready: true,
        serving: true,
    };
    control.put_pod(0, 1, Some(told));
    let service = control.service(0).expect("it is known");
    (workers(&control).remove(0), service)
}

/// As many workers as there are, of one sidecar.
fn workers(control: &Control) -> Vec<Rc<Worker>> {
    let variables = [
        ("REMORA_NAMESPACE", "shop"),
        ("REMORA_POD", "web-1"),
        ("REMORA_POD_UID", "uid-web-1"),
        ("REMORA_POD_IPS", "10.2.0.1"),
        ("REMORA_CONTROL_PLANE", "http://127.0.0.1:1"),
        ("REMORA_MODE", "intercept"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_variables(&HashMap::from(variables)).expect("a configuration");
    let shared = Arc::new(Shared {
        access_log: AccessLogger::open(&config.access_log).expect("no log"),
        journal: Arc::clone(control.mesh.journal()),
        mesh: Arc::clone(&control.mesh),
        inbound: Inbound::default(),
        connections: ConnectionCounters::default(),
        tls: crate::tls::Context::default(),
        health: crate::health::Board::default(),
        loops: crate::metrics::process::Loops::default(),
        identity: crate::identity::Status::default(),
        connection_wanted: tokio::sync::Notify::new(),
        config,
    });
    let worker = || Worker {
        shared: Arc::clone(&shared),
        pool: Pool::default(),
        callers: Callers::default(),
        scratch: Scratch::default(),
        tls_clients: crate::tls::ClientConfigs::default(),
        patience: Patience::default(),
        mirrors: Cell::new(0),
        draining: Cell::new(false),
    };
    (0..WORKERS).map(|_| Rc::new(worker())).collect()
}

/// A task whose panic is a broken promise.
pub fn spawn(work: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(async move {
        let caught = std::panic::AssertUnwindSafe(work).catch_unwind().await;
        if caught.is_err() {
            book::with(|book: &mut Book| book.breaks("it panicked".into()));
        }
    });
}

/// All that can happen at this moment has happened.
pub async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}
