//! The admin endpoint: health, metrics, and what the sidecar knows and does.
//!
//! Reading is for everyone who reaches the port. What changes state is POST,
//! and only from loopback.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::clock::{self, Timestamp};
use crate::metrics::counters::LATENCY_BOUNDS_MS;
use crate::metrics::exposition;
use crate::metrics::text::Format;
use crate::policy::limit::Kind;
use crate::runtime::{ServiceRuntime, label_of};
use crate::state::{Endpoint, Service};
use crate::worker::Shared;

/// What the admin endpoint reads and the one thing that it may change.
#[derive(Debug)]
pub struct Admin {
    /// What the workers share.
    pub shared: Arc<Shared>,
    /// True once draining has begun; `POST /drain` sets it.
    pub drain: watch::Sender<bool>,
    /// When the process began.
    pub started: Timestamp,
    /// When it turned ready.
    pub ready_at: watch::Receiver<Option<Timestamp>>,
}

/// Answers take at most so long, and take no body worth the name.
const TIMEOUT: Duration = Duration::from_secs(10);
const BODY_BYTES: usize = 1024;

/// The admin endpoint's routes.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .route("/identity", get(identity))
        .route("/breakers", get(breakers))
        .route("/health", get(health))
        .route("/stats", get(stats))
        .route("/drain", post(drain))
        .layer(RequestBodyLimitLayer::new(BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            TIMEOUT,
        ))
        .layer(CatchPanicLayer::new())
        .with_state(admin)
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, Cow<'static, str>) {
    if *admin.drain.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    if admin.ready_at.borrow().is_none() {
        return (StatusCode::SERVICE_UNAVAILABLE, not_ready(&admin.shared));
    }
    (StatusCode::OK, "ready\n".into())
}

fn not_ready(shared: &Shared) -> Cow<'static, str> {
    if let Some(why) = shared.mesh.refused_workload() {
        return format!(
            "this pod's Workload was refused: {why}; check the policies of its Services\n"
        )
        .into();
    }
    if !shared.mesh.is_ready() {
        return "the workload has not arrived; check that the control plane runs\n".into();
    }
    "there is no certificate yet; GET /identity says why\n".into()
}

/// In the form that the `Accept` asks for.
async fn metrics(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    let format = Format::asked(accept.filter_map(|value| value.to_str().ok()));
    let text = exposition::write(&admin.shared, format);
    ([(header::CONTENT_TYPE, format.content_type())], text).into_response()
}

async fn drain(
    State(admin): State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
) -> (StatusCode, &'static str) {
    if !crate::socket::is_loopback(peer.ip()) {
        return (
            StatusCode::FORBIDDEN,
            "only from loopback: run it inside the pod\n",
        );
    }
    crate::daemon::begin_drain(&admin.drain, "POST /drain");
    (StatusCode::ACCEPTED, "draining\n")
}

async fn config(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let shared = &admin.shared;
    let status = shared.mesh.status();
    let applied: Vec<Value> = status
        .applied
        .iter()
        .map(|applied| {
            let policies: Vec<Value> = applied
                .policies
                .iter()
                .map(|policy| {
                    json!({"namespace": policy.namespace, "name": policy.name, "generation": policy.generation})
                })
                .collect();
            json!({
                "type": applied.kind.name(), "name": applied.name, "version": applied.version,
                "applied_at_ms": applied.applied_at_ms, "policies": policies,
            })
        })
        .collect();
    let refused: Vec<Value> = status
        .refused
        .iter()
        .map(|refused| {
            json!({"type": refused.kind.name(), "name": refused.name, "version": refused.version, "reason": refused.reason})
        })
        .collect();
    let ready_at = *admin.ready_at.borrow();
    Json(json!({
        "sidecar": {
            "namespace": shared.config.namespace, "pod": shared.config.pod, "pod_uid": shared.config.pod_uid,
            "version": env!("CARGO_PKG_VERSION"),
        },
        "connected": status.connected,
        "ready": ready_at.is_some() && !*admin.drain.borrow(),
        "ready_ms": ready_at.map(|at| at.since(admin.started).as_millis() as u64),
        "draining": *admin.drain.borrow(),
        "subscriptions": status.counts.subscriptions,
        "unknown_addresses": status.counts.unknown_held,
        "applied": applied,
        "refused": refused,
    }))
}

async fn identity(State(admin): State<Arc<Admin>>) -> Json<Value> {
    Json(admin.shared.identity.json(&admin.shared.tls))
}

async fn breakers(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let now = clock::now();
    let snapshot = admin.shared.mesh.load_full();
    let services: Vec<Value> = snapshot
        .services()
        .map(|service| breakers_of(service, now))
        .collect();
    let changes: Vec<Value> = admin
        .shared
        .journal
        .since(0)
        .into_iter()
        .map(|change| {
            json!({
                "sequence": change.sequence, "at_ms": clock::unix_ms(change.at), "service": *change.service,
                "endpoint": label_of(&change.endpoint), "from": change.from.as_str(), "to": change.to.as_str(),
                "cause": change.cause,
            })
        })
        .collect();
    Json(json!({"services": services, "changes": changes}))
}

fn breakers_of(service: &Service, now: Timestamp) -> Value {
    let runtime = &service.runtime;
    let own = service
        .has_service_breaker()
        .then(|| runtime.service_breaker().describe(now).state.as_str());
    let limits: serde_json::Map<String, Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            (
                kind.as_str().to_owned(),
                json!({"in_use": runtime.limits.in_use(kind), "max": runtime.limits.max(kind)}),
            )
        })
        .collect();
    let endpoints: Vec<Value> = service
        .all_endpoints()
        .map(|endpoint| breaker_of(endpoint, now))
        .collect();
    json!({
        "service": *service.name, "state": own, "requests_in_flight": runtime.traffic.in_flight.load(Relaxed),
        "limits": limits, "endpoints": endpoints,
    })
}

fn breaker_of(endpoint: &Endpoint, now: Timestamp) -> Value {
    let runtime = &endpoint.runtime;
    let breaker = runtime.breaker.describe(now);
    json!({
        "endpoint": *runtime.name, "address": endpoint.config.address.to_string(),
        "ready": endpoint.config.ready, "draining": endpoint.config.draining, "health": endpoint.health().word(),
        "state": breaker.state.as_str(), "since_ms": clock::unix_ms(breaker.since), "cause": breaker.cause,
        "ejections": breaker.ejections, "in_flight": runtime.load.in_flight(),
        "latency_ms": runtime.load.latency(now).as_secs_f64() * 1_000.0,
        "requests": runtime.attempts.load(Relaxed), "failures": runtime.failures.load(Relaxed),
    })
}

/// What probes say, apart from what breakers do.
async fn health(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let ports = admin.shared.health.ports();
    let ports = ports.into_iter().map(|(port, verdict)| {
        json!({"port": port, "health": verdict.health.word(), "detail": verdict.detail})
    });
    let snapshot = admin.shared.mesh.load_full();
    let endpoints = snapshot.services().flat_map(|service| {
        service.all_endpoints().map(|endpoint| {
            json!({
                "service": *service.name, "endpoint": *endpoint.runtime.name,
                "address": endpoint.config.address.to_string(), "health": endpoint.health().word(),
                "probed_by": if endpoint.config.sidecar { "its sidecar" } else { "this sidecar" },
            })
        })
    });
    Json(json!({"ports": ports.collect::<Vec<_>>(), "endpoints": endpoints.collect::<Vec<_>>()}))
}

async fn stats(State(admin): State<Arc<Admin>>) -> Json<Value> {
    let shared = &admin.shared;
    let snapshot = shared.mesh.load_full();
    let outbound: Vec<Value> = snapshot
        .services()
        .map(|service| traffic_of("service", &service.name, &service.runtime))
        .collect();
    let inbound: Vec<Value> = shared
        .inbound
        .counted_ports()
        .iter()
        .map(|counted| traffic_of("port", &counted.runtime.name, &counted.runtime))
        .collect();
    Json(json!({
        "uptime_ms": clock::now().since(admin.started).as_millis() as u64,
        "connections_open": shared.connections.open.load(Relaxed),
        "bad_requests": shared.connections.bad_requests.load(Relaxed),
        "outbound": outbound,
        "inbound": inbound,
        "routes": snapshot.services().flat_map(routes_of).collect::<Vec<_>>(),
    }))
}

/// Each rule of a service's routes, with its backends.
fn routes_of(service: &Arc<Service>) -> Vec<Value> {
    let ports = service.routing.iter().flat_map(|routing| routing.ports());
    let rules = ports.flat_map(|port| port.rules().iter().map(move |rule| (port, rule)));
    rules
        .map(|(port, rule)| {
            let backends: Vec<Value> = rule
                .config
                .backends
                .iter()
                .zip(&rule.backends)
                .map(|(backend, counters)| {
                    json!({
                        "backend": *counters.name, "weight": backend.weight, "cannot": backend.to.cannot,
                        "classes": counters.classes(),
                    })
                })
                .collect();
            json!({
                "service": *service.name, "ports": port.config.ports, "kind": rule.config.route.kind,
                "route": *rule.route, "rule": *rule.label, "cannot": rule.config.cannot, "backends": backends,
                "nowhere": rule.nowhere.classes(),
                "requests_in_flight": rule.runtime.limits.in_use(Kind::Requests),
            })
        })
        .collect()
}

fn traffic_of(key: &str, name: &str, runtime: &ServiceRuntime) -> Value {
    let totals = runtime.traffic.totals();
    json!({
        key: name, "requests": totals.requests, "failures": totals.failures, "retries": totals.retries,
        "rate_limited": totals.rate_limited, "overloaded": totals.overloaded, "in_flight": totals.in_flight,
        "cancelled": runtime.traffic.cancelled.load(Relaxed),
        "tcp_connections": runtime.traffic.tcp_connections.load(Relaxed),
        "tcp_open": runtime.traffic.tcp_open.load(Relaxed),
        "latency_bounds_ms": LATENCY_BOUNDS_MS, "latency_counts": runtime.traffic.latency.counts(),
    })
}
