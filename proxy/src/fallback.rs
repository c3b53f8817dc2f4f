//! `fallback`: what is answered in the place of a refusal of Remora's own.
//!
//! Another Service is not asked for what the first may have done (`timeout` and
//! `retries_exhausted` after an attempt), unless it does no harm twice.
//!
//! ```text
//!   refusal, its word in `when`? ─► response ──────────────────────────► marked
//!                │ no                   backendRef ─► one attempt there ─► marked
//!                ▼                                        │ none came
//!            as it is ◄───────────────────────────────────┘
//! ```

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::answer::Reason;
use crate::attempts::{Attempting, Later, Way};
use crate::body::request::RequestSource;
use crate::body::response::ResponseBody;
use crate::clock::{self, Timestamp};
use crate::exchange::Exchange;
use crate::grpc;
use crate::headers::REASON;
use crate::pipeline;
use crate::policy::config::Retries;
use crate::policy::config::trouble::{Fallback, FallbackAction, FallbackBackend, FallbackResponse};
use crate::policy::limit::Kind;
use crate::policy::retry;
use crate::state::Destination;
use crate::worker::Worker;

/// So long another Service may take to its response's headers where the request's
/// own time is over.
const GRACE: Duration = Duration::from_secs(1);

/// What of a policy a fallback goes by.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// `fallback`.
    pub fallback: Option<&'a Arc<Fallback>>,
    /// `retries`, which says what does no harm when it is sent twice.
    pub retries: Option<&'a Retries>,
    /// `timeouts.request`.
    pub timeout: Option<Duration>,
}

/// What is kept of a request for its fallback.
#[derive(Debug)]
pub struct Kept {
    fallback: Arc<Fallback>,
    worker: Rc<Worker>,
    peer: SocketAddr,
    /// Where another Service may be asked.
    request: Option<(Parts, RequestSource)>,
    /// It does no harm when two get it.
    is_safe: bool,
    ends: Option<Timestamp>,
}

impl Kept {
    /// Of a request under this policy; nothing where there is no fallback.
    pub fn of(
        policy: &Policy<'_>,
        worker: &Rc<Worker>,
        peer: SocketAddr,
        (parts, source): (&Parts, &RequestSource),
        exchange: &mut Exchange,
    ) -> Option<Self> {
        let fallback = policy.fallback?;
        if let FallbackAction::Response(response) = &fallback.action
            && parts.method == Method::CONNECT
            && response.status.is_success()
        {
            // It would say that there is a tunnel.
            return None;
        }
        exchange.falls_back_on(&fallback.when);
        let asks = matches!(&fallback.action, FallbackAction::Backend(it) if it.cannot.is_none());
        let of_call = exchange.is_grpc.then(|| grpc::timeout(&parts.headers));
        let ends = [policy.timeout, of_call.flatten()];
        let ends = ends.into_iter().flatten().min();
        let is_grpc = exchange.is_grpc;
        Some(Self {
            fallback: Arc::clone(fallback),
            worker: Rc::clone(worker),
            peer,
            request: asks.then(|| (parts.clone(), source.clone())),
            is_safe: asks
                && retry::Request::of(parts, is_grpc, policy.retries).may_repeat(policy.retries),
            ends: ends.map(|span| exchange.started().after(span)),
        })
    }

    /// What is answered where `going` gives the answer without a fallback.
    pub async fn guard(
        self,
        going: impl Future<Output = Response<ResponseBody>>,
    ) -> Response<ResponseBody> {
        let answer = going.await;
        self.instead(answer).await
    }

    /// What is answered: `answer`, or what the policy has in its place.
    async fn instead(mut self, answer: Response<ResponseBody>) -> Response<ResponseBody> {
        let word = answer.headers().get(REASON);
        let reason = word.and_then(|word| Reason::from_word(word.as_bytes()));
        let Some(reason) = reason.filter(|reason| self.fallback.when.contains(reason)) else {
            return answer;
        };
        let (head, body) = answer.into_parts();
        let (bytes, mut exchange) = match body.into_own() {
            Ok((bytes, Some(exchange))) => (bytes, exchange),
            // Never so: refusals are our own words, and hold what they answer.
            Ok((bytes, None)) => {
                return Response::from_parts(head, ResponseBody::own(bytes));
            }
            Err(body) => return Response::from_parts(head, *body),
        };
        let fallback = Arc::clone(&self.fallback);
        match &fallback.action {
            FallbackAction::Response(config) => {
                let answer = response(config, exchange.is_grpc);
                exchange.fell_back(reason, &answer, clock::now());
                return pipeline::answering(answer, exchange);
            }
            FallbackAction::Backend(backend) => {
                exchange = match self.ask(backend, reason, exchange).await {
                    Ok(answer) => return answer,
                    Err(exchange) => exchange,
                };
            }
        }
        // What the rule does with answers is done to it already.
        let answer = Response::from_parts(head, ResponseBody::own(bytes));
        exchange.did_not_fall_back(reason, &answer, clock::now());
        answer.map(|body| body.answering(exchange))
    }

    /// One attempt at another Service; gives the exchange back where nothing came of it.
    async fn ask(
        &mut self,
        backend: &FallbackBackend,
        reason: Reason,
        mut exchange: Box<Exchange>,
    ) -> Result<Response<ResponseBody>, Box<Exchange>> {
        let Some((parts, source)) = self.request.take() else {
            return Err(exchange);
        };
        // Behind another Service may be the same application, or one that charges the
        // same card: what may have been done is asked of nobody else.
        let may_be_done = matches!(reason, Reason::Timeout | Reason::RetriesExhausted);
        if !source.replayable() || (may_be_done && exchange.attempts > 0 && !self.is_safe) {
            return Err(exchange);
        }
        let at_least = clock::now().after(GRACE);
        let ends = self.ends.map(|ends| match reason {
            Reason::Timeout => ends.max(at_least),
            _ => ends,
        });
        // First, as the fallback may name the very service that was called.
        exchange.leaves_service();
        let mesh = &self.worker.shared.mesh;
        let Some(service) = mesh.resolve_backend(&backend.service).await else {
            return Err(exchange);
        };
        let runtime = &service.runtime;
        exchange.permit = runtime.limits.try_acquire(Kind::Requests);
        exchange.service_breaker = runtime.service_breaker().try_admit(clock::now());
        if exchange.permit.is_none() || exchange.service_breaker.is_none() {
            return Err(exchange);
        }
        let destination = Destination {
            address: None,
            port: backend.port,
        };
        let later = Later::default();
        let way = Way::to(&service, destination, &later);
        let worker = Rc::clone(&self.worker);
        let attempting = Attempting::new(&worker, way, self.peer, parts, source, exchange);
        let ends = ends.or((reason == Reason::Timeout).then_some(at_least));
        Box::pin(attempting.once(ends, reason)).await
    }
}

fn response(config: &FallbackResponse, is_grpc: bool) -> Response<ResponseBody> {
    if is_grpc {
        let mut answer = Response::new(ResponseBody::own(Bytes::new()));
        let (code, message) = (config.grpc_status, &config.grpc_message);
        *answer.headers_mut() = grpc::alone(Reason::Fallback, code, message);
        return answer;
    }
    let body = match config.status {
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            Bytes::new()
        }
        _ => config.body.clone(),
    };
    let mut answer = Response::new(ResponseBody::own(body));
    *answer.status_mut() = config.status;
    for (name, value) in &config.headers {
        answer.headers_mut().append(name.clone(), value.clone());
    }
    let word = HeaderValue::from_static(Reason::Fallback.word());
    answer.headers_mut().insert(REASON, word);
    answer
}
