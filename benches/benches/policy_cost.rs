//! What the policies cost a request: CPU time of the worker's thread and allocations,
//! with each kind on against a service without any.
//!
//! Caller and worker share the bench's thread, one request at a time over real
//! sockets. CPU time of such a thread wavers by more than what is looked for, so
//! services take turns in short batches, and what counts is the median of the
//! differences between neighbours. All threads have one processor: waking a thread on
//! another one costs the waker several microseconds, now and then. `cargo bench --bench
//! policy_cost`; it fails where what most services have (`together`) costs more than
//! the bar or allocates anything.

mod stage;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use remora_proxy::policy::config::Limits;
use remora_proxy::policy::config::balancing::Algorithm;
use stage::{BODY_BYTES, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests of one batch.
const BATCH: u32 = 50;
/// Batches of each service.
const BATCHES: usize = 500;
/// What retries, breaker, limits, timeouts and a rate limit may add to a request.
const BAR_MICROSECONDS: f64 = 1.5;

/// Each with the policy of its service, and how many endpoints that has; none of them
/// ever refuses anything, hedges, or falls back.
const POLICIES: [(&str, &str, u8); 15] = [
    ("same", "", 1),
    (
        "retries",
        "retries: {attempts: 2, budget: {percent: 20}}",
        1,
    ),
    (
        "hedge",
        "retries: {attempts: 0, hedge: {after: 10s, max: 1}}",
        1,
    ),
    (
        "limits",
        "circuitBreaker: {maxRequests: 1000, maxConnections: 1000, maxRetries: 100, \
         perEndpoint: {maxRequests: 500}, consecutiveFailures: 1000}",
        1,
    ),
    (
        "rates",
        "circuitBreaker: {consecutiveFailures: 1000, failureRate: {threshold: 100%}, \
         slowCallRate: {duration: 10s, threshold: 100%}}",
        1,
    ),
    ("timeouts", "timeouts: {request: 10s, perTry: 5s}", 1),
    (
        "rate-limit",
        "rateLimits: [{name: all, limit: {requests: 1000000, per: second, burst: 1000000}, \
         key: [remoteAddress], enforcedAt: Caller}]",
        1,
    ),
    (
        "fallback",
        "fallback: {when: [breaker_open, no_endpoints], response: {status: 200, body: \"[]\"}}",
        1,
    ),
    // What an algorithm costs is the difference to the first of these.
    ("peak-ewma", "loadBalancing: {algorithm: PeakEwma}", 4),
    (
        "least-request",
        "loadBalancing: {algorithm: LeastRequest}",
        4,
    ),
    ("round-robin", "loadBalancing: {algorithm: RoundRobin}", 4),
    ("random", "loadBalancing: {algorithm: Random}", 4),
    (
        "consistent-hash",
        "loadBalancing: {algorithm: ConsistentHash, \
         consistentHash: {on: [\"header:x-user\"]}}",
        4,
    ),
    (
        TOGETHER,
        "retries: {attempts: 2, budget: {percent: 20}}\n  \
         circuitBreaker: {maxRequests: 1000, maxConnections: 1000, maxRetries: 100, \
         perEndpoint: {maxRequests: 500}, consecutiveFailures: 1000, \
         failureRate: {threshold: 100%}, slowCallRate: {duration: 10s, threshold: 100%}}\n  \
         timeouts: {request: 10s, perTry: 5s}\n  \
         rateLimits: [{name: all, limit: {requests: 1000000, per: second, burst: 1000000}, \
         key: [remoteAddress], enforcedAt: Caller}]",
        1,
    ),
    (
        ALL,
        "retries: {attempts: 2, budget: {percent: 20}, hedge: {after: 10s, max: 1}}\n  \
         circuitBreaker: {maxRequests: 1000, maxConnections: 1000, maxRetries: 100, \
         perEndpoint: {maxRequests: 500}, consecutiveFailures: 1000, \
         failureRate: {threshold: 100%}, slowCallRate: {duration: 10s, threshold: 100%}}\n  \
         timeouts: {request: 10s, perTry: 5s}\n  \
         rateLimits: [{name: all, limit: {requests: 1000000, per: second, burst: 1000000}, \
         key: [remoteAddress], enforcedAt: Caller}]\n  \
         fallback: {when: [breaker_open, no_endpoints], response: {status: 200, body: \"[]\"}}\n  \
         loadBalancing: {algorithm: ConsistentHash, consistentHash: {on: [\"header:x-user\"]}}",
        1,
    ),
];
const TOGETHER: &str = "together";
const ALL: &str = "all";

/// Its service, its endpoints, and its policy.
fn objects(number: usize, name: &str, policy: &str, endpoints: u8) -> String {
    let endpoint = |last| {
        format!("{{addresses: [\"127.0.0.{last}\"], conditions: {{ready: true, serving: true}}}}")
    };
    let endpoints: Vec<String> = (1..=endpoints).map(endpoint).collect();
    let endpoints = endpoints.join(", ");
    let policy = match policy {
        "" => String::new(),
        policy => format!(
            "---\napiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: {name}, namespace: bench}}\nspec:\n  \
             targetRefs: [{{group: \"\", kind: Service, name: {name}}}]\n  {policy}\n"
        ),
    };
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{clusterIP: 10.96.1.{number}, ports: [{{name: http, port: 80, targetPort: @UPSTREAM@}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: @UPSTREAM@}}]\n\
         endpoints: [{endpoints}]\n{policy}"
    )
}

/// A caller of one service, on a connection of its own.
struct Caller {
    name: &'static str,
    request: Vec<u8>,
    answer: Vec<u8>,
    client: TcpStream,
    /// Microseconds of each request, by batch.
    spent: Vec<f64>,
    allocations: u64,
}

impl Caller {
    fn new(stage: &Stage, name: &'static str) -> Self {
        let request = format!("GET /products/17 HTTP/1.1\r\nHost: {name}\r\nx-user: 7\r\n\r\n");
        let answer = vec![0; stage.first_answer(request.as_bytes())];
        Self {
            name,
            request: request.into_bytes(),
            answer,
            client: stage.connect(),
            spent: Vec::new(),
            allocations: 0,
        }
    }

    fn batch(&mut self, stage: &Stage) {
        let Self {
            client,
            request,
            answer,
            ..
        } = self;
        let before = thread_microseconds();
        let counted = allocation_counter::measure(|| {
            stage.runtime.block_on(async {
                for _ in 0..BATCH {
                    let sent = client.write_all(request).await;
                    let came = client.read_exact(answer).await;
                    assert!(sent.is_ok() && came.is_ok(), "the worker has gone");
                }
            });
        });
        self.spent
            .push((thread_microseconds() - before) / f64::from(BATCH));
        self.allocations += counted.count_total;
        assert!(self.answer.starts_with(b"HTTP/1.1 200"), "no 200");
    }

    fn allocations_for_each(&self) -> f64 {
        self.allocations as f64 / (f64::from(BATCH) * self.spent.len() as f64)
    }
}

/// Whether the sidecar has what the service's name says.
fn is_in_force(stage: &Stage, name: &str) -> bool {
    let snapshot = stage.mesh.load();
    let service = snapshot.service(&format!("bench/{name}"));
    service.is_some_and(|service| {
        let policy = &service.config.policy;
        let breaker = policy.circuit_breaker.as_ref();
        let trip = breaker.map(|breaker| &breaker.trip);
        let retries = policy.retries.as_ref();
        let algorithm = &policy.load_balancing.algorithm;
        let has = [
            ("retries", retries.is_some_and(|it| it.attempts > 0)),
            ("hedge", retries.is_some_and(|it| it.hedge.is_some())),
            (
                "limits",
                breaker.is_some_and(|it| it.limits != Limits::default()),
            ),
            (
                "rates",
                trip.is_some_and(|it| it.failure_rate.is_some() && it.slow_calls.is_some()),
            ),
            ("timeouts", policy.timeouts.request.is_some()),
            ("rate-limit", !policy.rate_limits.is_empty()),
            ("fallback", policy.fallback.is_some()),
            ("least-request", *algorithm == Algorithm::LeastRequest),
            ("round-robin", *algorithm == Algorithm::RoundRobin),
            ("random", *algorithm == Algorithm::Random),
            (
                "consistent-hash",
                matches!(algorithm, Algorithm::ConsistentHash(_)),
            ),
        ];
        let of_together = ["retries", "limits", "rates", "timeouts", "rate-limit"];
        let algorithms = ["least-request", "round-robin", "random"];
        has.iter().all(|(what, has)| {
            let wanted = match name {
                TOGETHER => of_together.contains(what),
                ALL => !algorithms.contains(what),
                _ => *what == name,
            };
            *has == wanted
        })
    })
}

/// CPU time of this thread, system calls included.
fn thread_microseconds() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0.0, |time| {
        time.tv_sec() as f64 * 1e6 + time.tv_nsec() as f64 / 1e3
    })
}

/// Of all values, the one with so large a part below it.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// This thread, and all that it starts, on one processor.
fn stay_on_one_processor() {
    let this = Pid::from_raw(0);
    let mut one = CpuSet::new();
    let allowed = sched_getaffinity(this);
    let first = allowed.and_then(|all| {
        let mut numbers = 0..CpuSet::count();
        let first = numbers.find(|at| all.is_set(*at) == Ok(true));
        one.set(first.unwrap_or_default())
    });
    if let Err(error) = first.and_then(|()| sched_setaffinity(this, &one)) {
        eprintln!("not on one processor ({error}): the times waver by more than they tell");
    }
}

fn main() {
    stay_on_one_processor();
    let further = POLICIES.iter().zip(1..);
    let further = further
        .map(|((name, policy, endpoints), number)| objects(number, name, policy, *endpoints));
    let stage = Stage::new(&further.collect::<String>());
    let mut plain = Caller::new(&stage, "plain");
    let mut callers: Vec<Caller> = POLICIES
        .iter()
        .map(|(name, ..)| Caller::new(&stage, name))
        .collect();
    for caller in callers.iter_mut().chain([&mut plain]) {
        // Warm.
        caller.batch(&stage);
        (caller.spent, caller.allocations) = (Vec::new(), 0);
    }
    for (name, ..) in POLICIES.iter().filter(|(name, ..)| *name != "same") {
        assert!(
            is_in_force(&stage, name),
            "the policy of {name} is not in force"
        );
    }
    let mut differences = vec![Vec::new(); callers.len()];
    for _ in 0..BATCHES {
        for (caller, differences) in callers.iter_mut().zip(&mut differences) {
            plain.batch(&stage);
            caller.batch(&stage);
            let of = |caller: &Caller| caller.spent.last().copied().unwrap_or_default();
            differences.push(of(caller) - of(&plain));
        }
    }
    let none = plain.allocations_for_each();
    println!(
        "body: {BODY_BYTES} bytes; plain: {:.2} us, {none:.2} allocations",
        quantile(&plain.spent, 0.5)
    );
    println!("| on | adds, median | quartiles | allocations added |\n| --- | --- | --- | --- |");
    let mut verdict = Ok(());
    for (caller, differences) in callers.iter().zip(&differences) {
        let [first, median, third] = [0.25, 0.5, 0.75].map(|part| quantile(differences, part));
        let allocations = caller.allocations_for_each() - none;
        let name = caller.name;
        println!("| {name} | {median:+.2} us | {first:+.2} to {third:+.2} | {allocations:+.2} |");
        if name == TOGETHER && (median > BAR_MICROSECONDS || allocations > 0.05) {
            verdict = Err("more than the bar");
        }
    }
    assert_eq!(verdict, Ok(()));
}
