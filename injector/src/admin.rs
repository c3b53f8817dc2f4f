//! The admin endpoint: health and metrics. It only reads.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a request's body; nothing here takes one.
const MAX_BODY_BYTES: usize = 1_024;
/// Requests at once.
const MAX_CONCURRENT: usize = 64;

/// What the endpoint shows.
#[derive(Clone)]
pub struct Admin {
    /// Whether reviews may come.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
        .layer(CatchPanicLayer::new())
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            TIMEOUT,
        ))
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(
            MAX_CONCURRENT,
        ))
}

async fn ready(State(admin): State<Admin>) -> Response {
    match admin.readiness.check() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let ends = admin.readiness.served.ends().unwrap_or_default();
    let conditions = admin.readiness.conditions();
    let text = admin.metrics.shown(&conditions, ends.as_secs());
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, text).into_response()
}
