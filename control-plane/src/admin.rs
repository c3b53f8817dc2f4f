//! The admin endpoint: health, metrics, what is known of the sidecars, what
//! is wrong in the source. It only reads.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::core::store::{ResourceType, Store};
use crate::identity::figures::Figures as IdentityFigures;
use crate::identity::keep::Trust;
use crate::problems::Problems;
use crate::reports::Sidecars;
use crate::reports::mesh::Held;
use crate::source::kubernetes::watches::{Figures, Watches};
use crate::stream::sent::Sent;
use crate::{clock, cluster};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's body; nothing here takes one.
const MAX_BODY_BYTES: usize = 1_024;
/// Requests at once.
const MAX_CONCURRENT: usize = 64;

/// What the endpoint shows.
#[derive(Clone)]
pub struct Admin {
    /// The resources.
    pub store: Arc<Store>,
    /// The sidecars.
    pub sidecars: Arc<Sidecars>,
    /// What is wrong.
    pub problems: Arc<Problems>,
    /// How the watches are doing, where the source is a cluster.
    pub watches: Option<Arc<Watches>>,
    /// What sidecars were sent.
    pub sent: Arc<Sent>,
    /// Whether the source has told all it had at the start.
    pub synced: watch::Receiver<bool>,
    /// Who leads and what it wrote, where replicas elect a leader.
    pub election: Option<cluster::Shown>,
    /// The CA, where there are identities.
    pub identity: Option<Identity>,
}

/// What is shown of identities.
#[derive(Clone)]
pub struct Identity {
    trust: watch::Receiver<Option<Arc<Trust>>>,
    figures: Arc<IdentityFigures>,
}

impl Identity {
    /// Of these.
    pub fn of(identity: &crate::identity::start::Identity) -> Self {
        Self {
            trust: identity.trust.clone(),
            figures: identity.figures.clone(),
        }
    }
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route(
            "/sidecars",
            get(async |State(admin): State<Admin>| Json(admin.sidecars.shown())),
        )
        .route(
            "/problems",
            get(async |State(admin): State<Admin>| Json(admin.problems.all())),
        )
        .route(
            "/breakers",
            get(async |State(admin): State<Admin>| Json(admin.sidecars.breakers())),
        )
        .route("/leader", get(leader))
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
    let has_ca = |identity: &Identity| identity.trust.borrow().is_some();
    let lacking = if !*admin.synced.borrow() {
        "the source has not been read yet\n"
    } else if !admin.identity.as_ref().is_none_or(has_ca) {
        "there is no CA yet\n"
    } else {
        return "ready\n".into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, lacking).into_response()
}

/// Who leads. Without an election there is but one, and it has all reports.
#[derive(Serialize)]
struct Leader {
    leader: String,
    leading: bool,
    reports_address: String,
}

async fn leader(State(admin): State<Admin>) -> Json<Leader> {
    Json(match &admin.election {
        None => Leader {
            leader: String::new(),
            leading: true,
            reports_address: String::new(),
        },
        Some(election) => {
            let view = election.leadership.view();
            let address = view.reports_address.map(|address| address.to_string());
            Leader {
                leader: view.leader,
                leading: election.leadership.is_leading(clock::now()),
                reports_address: address.unwrap_or_default(),
            }
        }
    })
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, usize)]| {
        write_metric(&mut text, "gauge", (name, help), values);
    };
    let resources =
        ResourceType::ALL.map(|kind| (format!("{{type=\"{kind:?}\"}}"), admin.store.count(kind)));
    gauge(
        "remora_control_plane_resources",
        "Resources of the stream, by type.",
        &resources,
    );
    let connected = [(String::new(), admin.sidecars.connected())];
    gauge(
        "remora_control_plane_sidecars_connected",
        "Sidecars with a stream.",
        &connected,
    );
    // What is only to be known is nothing to be alarmed about.
    let problems = admin.problems.all().into_iter();
    let problems = problems.filter(|problem| !problem.information).count();
    let problems = [(String::new(), problems)];
    gauge(
        "remora_control_plane_problems",
        "Problems in the source now.",
        &problems,
    );
    write_mesh_limits(&mut text, &admin.sidecars.mesh().held());
    write_sent(&mut text, &admin.sent);
    if let Some(watches) = &admin.watches {
        write_watches(&mut text, watches);
    }
    if let Some(election) = &admin.election {
        write_election(&mut text, election);
    }
    if let Some(identity) = &admin.identity {
        write_identity(&mut text, &identity.figures);
    }
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    (kind, text).into_response()
}

/// Of every limit of the whole mesh who has how much of it; by the replica that leads alone.
fn write_mesh_limits(text: &mut String, held: &[Held]) {
    if held.is_empty() {
        return;
    }
    let labels = |one: &Held| {
        let name = one.key.1.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{{policy=\"{}\",limit=\"{name}\"}}", one.key.0)
    };
    let of = |value: fn(&Held) -> usize| -> Vec<(String, usize)> {
        held.iter().map(|one| (labels(one), value(one))).collect()
    };
    for (name, help, values) in [
        (
            "remora_control_plane_mesh_limit_holders",
            "Sidecars that have a share of a limit of the whole mesh.",
            of(|one| one.holders),
        ),
        (
            "remora_control_plane_mesh_limit_shares_ppm",
            "All shares of a limit of the whole mesh together, in millionths of it.",
            of(|one| one.sum.parts_per_million as usize),
        ),
        (
            "remora_control_plane_mesh_limit_burst",
            "All shares of its burst together.",
            of(|one| one.sum.burst as usize),
        ),
    ] {
        write_metric(text, "gauge", (name, help), &values);
    }
}

fn write_sent(text: &mut String, sent: &Sent) {
    for (name, help, counters) in [
        (
            "remora_control_plane_sent_responses_total",
            "Responses sent to sidecars on the stream, by type.",
            &sent.responses,
        ),
        (
            "remora_control_plane_sent_resources_total",
            "Resources sent to sidecars, by type, each as often as it was sent.",
            &sent.resources,
        ),
        (
            "remora_control_plane_sent_bytes_total",
            "Bytes of the responses sent to sidecars, by type, encoded.",
            &sent.bytes,
        ),
    ] {
        let values = counters.all();
        let values: Vec<_> = values
            .map(|(kind, count)| (format!("{{type=\"{kind}\"}}"), count))
            .collect();
        write_metric(text, "counter", (name, help), &values);
    }
}

fn write_watches(text: &mut String, watches: &Watches) {
    let figures = watches.figures();
    let of = |value: fn(&Figures) -> u64| {
        figures
            .each_ref()
            .map(|one| (format!("{{kind=\"{}\"}}", one.kind.as_str()), value(one)))
    };
    let events = (
        "remora_watch_events_total",
        "Objects that the API server told, listed or changed or gone, by kind.",
    );
    write_metric(text, "counter", events, &of(|one| one.events));
    let failures = (
        "remora_watch_failures_total",
        "Requests to list or watch that failed, by kind.",
    );
    write_metric(text, "counter", failures, &of(|one| one.failures));
    let synced = (
        "remora_watch_synced",
        "1 while what is known of the kind is whole and followed.",
    );
    write_metric(text, "gauge", synced, &of(|one| one.synced.into()));
}

fn write_metric(
    text: &mut String,
    kind: &str,
    (name, help): (&str, &str),
    values: &[(String, impl std::fmt::Display)],
) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

fn write_election(text: &mut String, election: &cluster::Shown) {
    let leads = election.leadership.is_leading(clock::now());
    let leader = ("remora_leader", "1 while this replica leads.");
    write_metric(text, "gauge", leader, &[(String::new(), u64::from(leads))]);
    let writes = (
        "remora_status_writes_total",
        "Writes of the status of policies, by what became of them.",
    );
    let counts = election.writes.all();
    let counts: Vec<_> = counts
        .map(|(result, count)| (format!("{{result=\"{result}\"}}"), count))
        .collect();
    write_metric(text, "counter", writes, &counts);
    let events = (
        "remora_events_total",
        "Kubernetes Events by reason; dropped: over the limit, or not taken.",
    );
    let counts = election.events.all();
    let counts: Vec<_> = counts
        .map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count))
        .collect();
    write_metric(text, "counter", events, &counts);
}

fn write_identity(text: &mut String, figures: &IdentityFigures) {
    let mut gauge = |name: &str, help: &str, value: u64| {
        write_metric(text, "gauge", (name, help), &[(String::new(), value)]);
    };
    gauge(
        "remora_ca_expires_seconds",
        "When the CA that issues ends, seconds since the Unix epoch; 0: there is none.",
        figures.ca_ends.load(Ordering::Relaxed),
    );
    gauge(
        "remora_serving_certificate_expires_seconds",
        "When the streams' own certificate ends, seconds since the Unix epoch; 0: there is none.",
        figures.serving_ends.load(Ordering::Relaxed),
    );
    gauge(
        "remora_trusted_roots",
        "Roots that sidecars trust, former ones among them.",
        figures.roots.load(Ordering::Relaxed),
    );
    gauge(
        "remora_ca_wrong",
        "1 while what is written as the CA cannot be used, read or recorded (the log says why).",
        u64::from(figures.ca_is_wrong.load(Ordering::Relaxed)),
    );
    let counted = |counts: Vec<(&'static str, u64)>| -> Vec<(String, u64)> {
        let labelled = |(word, count)| (format!("{{result=\"{word}\"}}"), count);
        counts.into_iter().map(labelled).collect()
    };
    let issued = (
        "remora_certificates_issued_total",
        "Requests for certificates, by what became of them.",
    );
    let counts = counted(figures.issued.all().collect());
    write_metric(text, "counter", issued, &counts);
    let checks = (
        "remora_token_checks_total",
        "Calls of sidecars, by what was found of their tokens.",
    );
    let counts = counted(figures.checks.all().collect());
    write_metric(text, "counter", checks, &counts);
}
