//! What the policies cost a request: CPU time of the worker's thread and allocations,
//! with each kind on against a service without any.
//!
//! Caller and worker share the bench's thread, one request at a time over real
//! sockets. CPU time of such a thread wavers by more than what is looked for, so
//! services take turns in short batches, and what counts is the median of the
//! differences between neighbours. `cargo bench --bench policy_cost`; it fails where
//! all of them together cost more than the bar or allocate anything.

mod stage;

use nix::time::{ClockId, clock_gettime};
use stage::{BODY_BYTES, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests of one batch.
const BATCH: u32 = 50;
/// Batches of each service.
const BATCHES: usize = 700;
/// What all policies together may add to a request.
const BAR_MICROSECONDS: f64 = 1.5;

/// Each with the policy of its service; none of them ever refuses anything.
const POLICIES: [(&str, &str); 6] = [
    ("same", ""),
    ("retries", "retries: {attempts: 2, budget: {percent: 20}}"),
    (
        "limits",
        "circuitBreaker: {maxRequests: 1000, maxConnections: 1000, maxRetries: 100, \
         perEndpoint: {maxRequests: 500}, consecutiveFailures: 1000}",
    ),
    ("timeouts", "timeouts: {request: 10s, perTry: 5s}"),
    (
        "rate-limit",
        "rateLimits: [{name: all, limit: {requests: 1000000, per: second, burst: 1000000}, \
         key: [remoteAddress], enforcedAt: Caller}]",
    ),
    (ALL, ""),
];
const ALL: &str = "all";

/// Its service, its one endpoint, and its policy.
fn objects(number: usize, name: &str, policy: &str) -> String {
    let policy = match policy {
        "" => String::new(),
        policy => format!(
            "---\napiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\n\
             metadata: {{name: {name}, namespace: bench}}\nspec:\n  \
             targetRefs: [{{group: \"\", kind: Service, name: {name}}}]\n{policy}"
        ),
    };
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: bench}}\n\
         spec: {{clusterIP: 10.96.1.{number}, ports: [{{name: http, port: 80, targetPort: @UPSTREAM@}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: bench, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: @UPSTREAM@}}]\n\
         endpoints: [{{addresses: [\"127.0.0.1\"], conditions: {{ready: true, serving: true}}}}]\n{policy}"
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
        let has = [
            ("retries", policy.retries.is_some()),
            ("limits", policy.circuit_breaker.is_some()),
            ("timeouts", policy.timeouts.request.is_some()),
            ("rate-limit", !policy.rate_limits.is_empty()),
        ];
        has.iter()
            .all(|(what, has)| *has == (*what == name || name == ALL))
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

fn main() {
    let all: Vec<&str> = POLICIES.iter().map(|(_, policy)| *policy).collect();
    let indented = |policies: &[&str]| {
        let lines = policies.iter().filter(|policy| !policy.is_empty());
        lines.fold(String::new(), |text, line| format!("{text}  {line}\n"))
    };
    let further = POLICIES.iter().zip(1..);
    let further = further.map(|((name, policy), number)| match *name {
        ALL => objects(number, name, &indented(&all)),
        _ => objects(number, name, &indented(&[policy])),
    });
    let stage = Stage::new(&further.collect::<String>());
    let mut plain = Caller::new(&stage, "plain");
    let mut callers: Vec<Caller> = POLICIES
        .iter()
        .map(|(name, _)| Caller::new(&stage, name))
        .collect();
    for caller in callers.iter_mut().chain([&mut plain]) {
        // Warm.
        caller.batch(&stage);
        (caller.spent, caller.allocations) = (Vec::new(), 0);
    }
    for (name, _) in POLICIES.iter().filter(|(name, _)| *name != "same") {
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
        if name == ALL && (median > BAR_MICROSECONDS || allocations > 0.05) {
            verdict = Err("more than the bar");
        }
    }
    assert_eq!(verdict, Ok(()));
}
