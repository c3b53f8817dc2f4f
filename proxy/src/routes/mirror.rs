//! A copy of a request, sent elsewhere while the request goes its way: nobody
//! waits for it, and nobody reads its answer.
//!
//! It is counted in the limits of where it goes, as any request there, and takes
//! only endpoints that are free; how it ends is told to no breaker.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http_body::Body;

use super::config::BackendReference;
use super::runtime::{BackendCounters, MirrorResult};
use crate::attempt::{self, Bounds, Held, Sent};
use crate::authorization;
use crate::body::Incoming;
use crate::body::request::RequestSource;
use crate::caller::{Caller, CallerState, Interim};
use crate::choice;
use crate::clock;
use crate::connect::Target;
use crate::exchange::release;
use crate::pipeline;
use crate::policy::limit::Kind;
use crate::policy::rate_limit::{self, Decision};
use crate::select::{self, Asking, Tried};
use crate::state::{Destination, Endpoint, MeshProtocols, Service};
use crate::upstream::Head;
use crate::wire::Wire;
use crate::worker::Worker;

/// Mirrored requests under way at a time, of one worker.
pub const MAX_MIRRORS: usize = 128;
/// After so long a mirrored request is given up, wherever it is.
pub const MIRROR_TIME: Duration = Duration::from_secs(30);
/// So much of an answer is read; the rest of a longer one is not waited for, or what
/// never ends would take the worker's time for as long as it may.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Counts itself among those under way.
struct Place(Rc<Worker>);

impl Place {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let under_way = worker.mirrors.get();
        (under_way < MAX_MIRRORS).then(|| {
            worker.mirrors.set(under_way + 1);
            Self(Rc::clone(worker))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get() - 1);
    }
}

/// Sends a copy of a request to `to`. `false` where too many are under way.
pub fn start(
    worker: &Rc<Worker>,
    to: &BackendReference,
    counters: &Arc<BackendCounters>,
    parts: &Parts,
    source: &RequestSource,
    peer: SocketAddr,
) -> bool {
    let Some(place) = Place::take(worker) else {
        return false;
    };
    let copy = Copy {
        to: to.clone(),
        parts: parts.clone(),
        source: source.mirrored(),
        peer,
    };
    let counters = Arc::clone(counters);
    tokio::task::spawn_local(async move {
        let sending = Box::pin(copy.send(&place.0));
        let result = match tokio::time::timeout(MIRROR_TIME, sending).await {
            Ok(result) => result,
            Err(_) => MirrorResult::TimedOut,
        };
        counters.mirrored(result);
    });
    true
}

struct Copy {
    to: BackendReference,
    parts: Parts,
    source: RequestSource,
    peer: SocketAddr,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The caller may go on sending for long after.
        if let RequestSource::Mirrored(body) = &self.source {
            body.give_up();
        }
    }
}

impl Copy {
    async fn send(mut self, worker: &Rc<Worker>) -> MirrorResult {
        let backend = worker.shared.mesh.resolve_backend(&self.to.service).await;
        let sent = match &backend {
            Some(backend) => self.send_to(worker, backend).await,
            None => None,
        };
        match (sent, &self.source) {
            (Some(()), _) => MirrorResult::Answered,
            (None, RequestSource::Mirrored(body)) if body.has_lagged() => MirrorResult::Lagged,
            (None, _) => MirrorResult::Failed,
        }
    }

    /// Nothing where no answer came whole.
    async fn send_to(&mut self, worker: &Rc<Worker>, backend: &Service) -> Option<()> {
        let began = clock::now();
        let tried = Tried::default();
        let source = self.peer.ip();
        let balancing = &backend.config.policy.load_balancing;
        let asking = Asking {
            port: self.to.port,
            source: Some(source),
            node: &worker.shared.config.node,
            hash: choice::hash(balancing, Some(&self.parts), source),
            counted: Kind::Requests,
            tried: &tried,
            now: began,
        };
        let endpoint = select::pick(backend, &asking, crate::random::next());
        let endpoint = endpoint.ok()?;
        let destination = Destination {
            address: None,
            port: self.to.port,
        };
        let address = endpoint.config.address_for(destination);
        let is_own_pod = worker.shared.is_own_pod(address.ip());
        if is_own_pod && !self.own_pod_takes(worker, address.port()) {
            return None;
        }
        let _permits = [
            backend.runtime.limits.try_acquire(Kind::Requests)?,
            endpoint.runtime.limits.try_acquire(Kind::Requests)?,
        ];
        let _load = endpoint.runtime.load.start(began);
        let mesh = match is_own_pod {
            true => MeshProtocols::default(),
            false => endpoint.config.mesh,
        };
        let target = Target {
            service: &backend.runtime,
            endpoint: &endpoint.runtime,
            address,
            wire: Wire::of(&self.parts, mesh),
            secured: worker.shared.secured(&endpoint.config, address),
            outbound: &backend.config.policy.outbound,
        };
        let (held, body) = self.ask(worker, &target, endpoint, is_own_pod).await?;
        throw_away(worker, held, body).await
    }

    async fn ask(
        &self,
        worker: &Rc<Worker>,
        target: &Target<'_>,
        endpoint: &Endpoint,
        is_own_pod: bool,
    ) -> Option<(Held, Incoming)> {
        let began = clock::now();
        // Nobody: what is told to a caller meanwhile is told to no one.
        let caller = Caller {
            state: CallerState::new(began, false),
            interim: Rc::new(Interim::default()),
        };
        let own = worker.shared.tls.own().clone().filter(|_| is_own_pod);
        let sent = Sent {
            head: Head {
                parts: &self.parts,
                attempt: Some(1),
                identity: own.as_ref().map(|own| &own.header),
            },
            source: &self.source,
            caller: &caller,
            safe: false,
            bounds: Bounds {
                until_headers: None,
                idle: None,
            },
            began,
        };
        let sent = attempt::send(worker, target, endpoint.config.sidecar, &sent).await;
        let (response, held) = sent.ok()?;
        Some((held, response.into_body()))
    }

    /// The connection to the pod itself passes no other sidecar.
    fn own_pod_takes(&mut self, worker: &Worker, port: u16) -> bool {
        let own = worker.shared.tls.own();
        let asks = authorization::Caller {
            peer: self.peer,
            identity: own.as_deref(),
            port,
        };
        let inbound = &worker.shared.inbound;
        if inbound
            .authorization
            .request(&mut self.parts, &asks)
            .is_err()
        {
            return false;
        }
        let inbound = inbound.port(port);
        let caller = rate_limit::Caller {
            address: self.peer.ip(),
            identity: own.as_deref(),
        };
        let facts = pipeline::Facts {
            parts: &self.parts,
            caller: &caller,
        };
        let applies = |limit: &_| inbound.applies(limit);
        let decision = inbound.limiter.check_those(&facts, clock::now(), applies);
        decision == Decision::Admitted
    }
}

/// Reads an answer to its end, so that its connection can be used again, where that
/// is not too far.
async fn throw_away(worker: &Rc<Worker>, held: Held, mut body: Incoming) -> Option<()> {
    let (mut whole, mut is_at_end, mut read) = (Some(()), true, 0);
    while !body.is_end_stream() {
        match std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) => whole = None,
            None => break,
        }
        if whole.is_none() || read > MAX_ANSWER_BYTES {
            is_at_end = false;
            break;
        }
    }
    let connection = body.take_connection().filter(|_| is_at_end);
    drop(body);
    release(worker, Some(held), connection, clock::now());
    whole
}
