//! The callers of a simulation: they send, wait as long as they care to, and go away.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::book::{self, Request};
use super::control::{self, PORT};
use super::pipe::Pipe;
use super::settings::{IDEMPOTENCY_HEADER, PREFIXES};
use crate::clock;
use crate::engine::Spoken;
use crate::io::{Prefixed, Stream};
use crate::outbound_connection;
use crate::state::{Destination, Service};
use crate::worker::Worker;

/// What callers must know to say what may become of their requests: as the control
/// plane has told it at that moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub timeout_ms: Option<u64>,
    pub posts_are_safe: bool,
    pub has_key: bool,
    /// `retries.hedge.max`.
    pub hedges: u32,
    /// `loadBalancing.pinning`; `sessionPersistence`, and whether it is strict.
    pub pinning: bool,
    pub session: Option<bool>,
    /// `fallback.when`, and whom it asks; nobody: it answers itself.
    pub when: Vec<String>,
    pub asks: Option<usize>,
    /// By rule; the last is for all other paths.
    pub rules: Vec<Vec<usize>>,
}

/// What a request wishes of its endpoint, as the policy allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The pod that it names, or nowhere.
    Pod(SocketAddr),
    /// The one of its session, or nowhere.
    Session(SocketAddr),
    /// The one of its session, while it can be.
    Rather(SocketAddr),
}

/// One caller's connection, with some requests on it.
pub async fn call(worker: Rc<Worker>, target: Arc<Service>, service: usize, requests: u8) {
    let (theirs, mut ours) = Pipe::pair();
    let stream = Prefixed::new(Bytes::new(), Stream::Simulated(theirs));
    let peer: SocketAddr = ([10, 2, 0, 1], 40_000).into();
    let destination = Destination {
        address: None,
        port: PORT,
    };
    let serving =
        outbound_connection::http(&worker, Spoken::Http1, stream, peer, target, destination);
    let calling = async {
        for _ in 0..requests {
            if !ask(&mut ours, service).await {
                break;
            }
        }
        drop(ours);
    };
    tokio::join!(serving, calling);
}

/// What a caller sends.
struct Plan {
    id: u64,
    head: String,
    body: Vec<u8>,
    /// Between the two halves of the body.
    pause: Duration,
    patience: Duration,
}

/// What chance says of a request.
struct Drawn {
    method: &'static str,
    /// Its place in [`PREFIXES`]; beyond them: none of these.
    rule: usize,
    user: u8,
    has_key: bool,
    /// Of its body.
    length: usize,
    patience: Duration,
}

impl Drawn {
    fn new(random: &mut fastrand::Rng) -> Self {
        let method = *random
            .choice(&["GET", "GET", "PUT", "POST", "POST"])
            .unwrap_or(&"GET");
        Self {
            method,
            rule: random.usize(..PREFIXES.len() + 1),
            user: random.u8(..4),
            has_key: random.u8(..4) == 0,
            length: match method {
                "GET" => 0,
                _ => *random.choice(&[0, 10, 400, 2_000]).unwrap_or(&0),
            },
            patience: Duration::from_millis(match random.u8(..8) {
                0 => random.u64(..200),
                _ => random.u64(3_000..12_000),
            }),
        }
    }
}

/// Whether the connection may be used again.
async fn ask(pipe: &mut Pipe, service: usize) -> bool {
    let plan = book::with(|book| book.plan(service));
    let exchange = async {
        pipe.write_all(plan.head.as_bytes()).await.ok()?;
        let (first, second) = plan.body.split_at(plan.body.len() / 2);
        pipe.write_all(first).await.ok()?;
        if !second.is_empty() {
            tokio::time::sleep(plan.pause).await;
            pipe.write_all(second).await.ok()?;
        }
        read_answer(pipe).await
    };
    let answer = tokio::time::timeout(plan.patience, exchange).await;
    book::with(|book| book.ended(plan.id, &answer));
    matches!(answer, Ok(Some(Answer { whole: true, .. })))
}

/// What a caller got.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Which the sidecar has given it.
    pub session: String,
    pub whole: bool,
}

async fn read_answer(pipe: &mut Pipe) -> Option<Answer> {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if !matches!(pipe.read_buf(&mut seen).await, Ok(1..)) {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).into_owned();
    let value = |name: &str| {
        head.lines().find_map(|line| {
            let said = line.get(..name.len())?;
            said.eq_ignore_ascii_case(name).then(|| &line[name.len()..])
        })
    };
    let length = value("content-length: ").and_then(|it| it.parse::<usize>().ok());
    let mut answer = Answer {
        status: head.get(9..12)?.parse().ok()?,
        reason: value("x-remora-reason: ").unwrap_or_default().to_owned(),
        session: value("x-session: ").unwrap_or_default().to_owned(),
        whole: false,
    };
    let closes = value("connection: ").is_some_and(|it| it.contains("close"));
    let length = length.unwrap_or(usize::MAX);
    while seen.len() - end - 4 < length {
        if !matches!(pipe.read_buf(&mut seen).await, Ok(1..)) {
            return Some(answer);
        }
    }
    answer.whole = !closes;
    Some(answer)
}

impl book::Book {
    fn plan(&mut self, service: usize) -> Plan {
        self.last_request += 1;
        let id = self.last_request;
        let facts = self.facts[service].clone();
        let Drawn {
            method,
            rule,
            user,
            has_key,
            length,
            patience,
        } = Drawn::new(&mut self.random);
        let path = PREFIXES.get(rule).copied().unwrap_or("/other");
        let backends = facts.rules.get(rule).cloned();
        let backends = backends.unwrap_or_else(|| vec![service]);
        let is_routed = backends != [service];
        let (wish, wishes) = match is_routed {
            true => (None, String::new()),
            false => self.wish(service, user, &facts),
        };
        let random = &mut self.random;
        let key = if has_key {
            format!("{IDEMPOTENCY_HEADER}: {id}\r\n")
        } else {
            String::new()
        };
        let plan = Plan {
            id,
            head: format!(
                "{method} {path}/{id} HTTP/1.1\r\nhost: shop\r\nx-id: {id}\r\nx-user: {user}\r\n\
                 {key}{wishes}content-length: {length}\r\n\r\n"
            ),
            body: vec![b'b'; length],
            pause: Duration::from_millis(if random.u8(..6) == 0 {
                random.u64(..100)
            } else {
                0
            }),
            patience,
        };
        let is_safe = method != "POST" || facts.posts_are_safe || (facts.has_key && has_key);
        let request = Request {
            service,
            started: clock::now(),
            user,
            is_safe,
            fallbacks: facts.asks.into_iter().collect(),
            // Where the way is known whose fallback it is.
            when: (!is_routed).then(|| (facts.when.clone(), facts.asks.is_none())),
            wish,
            at_once: 1 + if is_safe { facts.hedges } else { 0 },
            backends,
            timeout_ms: facts.timeout_ms,
            tried: Vec::new(),
            probes: std::collections::BTreeMap::new(),
            deliveries: 0,
            is_open: true,
            admitted: None,
        };
        self.tell(format!(
            "request {id} to {service}: {method} {path}, {length} bytes"
        ));
        self.requests.insert(id, request);
        plan
    }

    /// Which endpoint a request wishes, and the fields that say so.
    fn wish(&mut self, service: usize, user: u8, facts: &Facts) -> (Option<Wish>, String) {
        let random = &mut self.random;
        if random.u8(..6) == 0 {
            let pod = random.u8(1..9);
            let name = control::pod_name(service, pod);
            let wish = Wish::Pod(control::address(service, pod));
            let fields = format!("x-remora-endpoint: {name}\r\n");
            return (facts.pinning.then_some(wish), fields);
        }
        let session = self.sessions.get(&(service, user)).cloned();
        let Some((token, address)) = session else {
            return (None, String::new());
        };
        let wish = facts.session.map(|strict| match strict {
            true => Wish::Session(address),
            false => Wish::Rather(address),
        });
        (wish, format!("x-session: {token}\r\n"))
    }

    fn ended(&mut self, id: u64, answer: &Result<Option<Answer>, tokio::time::error::Elapsed>) {
        self.tell(match answer {
            Ok(Some(answer)) => format!("request {id}: {} {}", answer.status, answer.reason),
            Ok(None) => format!("request {id}: broke off"),
            Err(_) => format!("request {id}: its caller goes away"),
        });
        self.count(match answer {
            Ok(Some(answer)) => match answer.reason.as_str() {
                "" if answer.status == 200 => "answered",
                "rate_limited" => "rate limited",
                "overloaded" => "overloaded",
                "timeout" => "timed out",
                "no_endpoints" => "no endpoints",
                "breaker_open" => "breaker open",
                "connect_failed" => "connect failed",
                "bad_request" => "bad request",
                "fallback" => "fell back",
                "fault" => "faults",
                _ => "failed",
            },
            Ok(None) => "broke off",
            Err(_) => "cancelled",
        });
        if let Some(request) = self.requests.get_mut(&id) {
            request.is_open = false;
            if let Ok(Some(answer)) = answer {
                // What lies behind a fallback nobody says.
                let is_known = !matches!(answer.reason.as_str(), "fallback" | "fault");
                let passed = is_known.then_some(answer.reason != "rate_limited");
                request.admitted = request.admitted.or(passed);
            }
        }
        if let Ok(Some(answer)) = answer {
            self.check_answer(id, answer);
        }
    }
}
