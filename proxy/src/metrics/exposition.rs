//! Everything that is counted, written at each scrape.
//!
//! docs/metrics.md is the catalogue; a test holds it against what a sidecar serves
//! in which everything happens.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::counters::Traffic;
use super::text::{Exposition, Format, Labels, Samples};
use crate::runtime::ServiceRuntime;
use crate::worker::Shared;

/// One service or port, with the labels that tell it from others.
pub(super) struct Subject {
    pub(super) direction: &'static str,
    pub(super) service: Arc<str>,
    pub(super) runtime: Arc<ServiceRuntime>,
}

impl Subject {
    pub(super) fn labels(&self) -> Labels {
        vec![
            ("direction", self.direction.to_owned()),
            ("service", self.service.to_string()),
        ]
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.runtime.traffic
    }

    /// The labels of what only callers have.
    pub(super) fn service(&self) -> Labels {
        vec![("service", self.service.to_string())]
    }
}

/// Those of the caller's side.
pub(super) fn outbound(subjects: &[Subject]) -> impl Iterator<Item = &Subject> {
    let is_outbound = |subject: &&Subject| subject.direction == "outbound";
    subjects.iter().filter(is_outbound)
}

/// `labels` and one more.
pub(super) fn with(mut labels: Labels, name: &'static str, value: impl ToString) -> Labels {
    labels.push((name, value.to_string()));
    labels
}

/// The one sample of a family without labels.
pub(super) fn one<T>(value: T) -> Samples<T> {
    vec![(Labels::new(), value)]
}

/// All of it, as `format` has it.
pub fn write(shared: &Shared, format: Format) -> String {
    let mut text = Exposition::new(format);
    let subjects = subjects(shared);
    super::requests::write(&subjects, &mut text);
    super::policies::write(shared, &subjects, &mut text);
    super::admission::write(shared, &mut text);
    super::breakers::write(shared, &mut text);
    super::caller::write(shared, &mut text);
    super::health::write(shared, &mut text);
    super::routes::write(shared, &mut text);
    super::authorization::write(shared, &mut text);
    super::identity::write(shared, &mut text);
    sidecar(shared, &mut text);
    super::process::write(shared, &mut text);
    text.finish()
}

fn subjects(shared: &Shared) -> Vec<Subject> {
    let snapshot = shared.mesh.load();
    let outbound = snapshot.services().map(|service| Subject {
        direction: "outbound",
        service: Arc::clone(&service.name),
        runtime: Arc::clone(&service.runtime),
    });
    let inbound = shared
        .inbound
        .counted_ports()
        .into_iter()
        .map(|counted| Subject {
            direction: "inbound",
            service: Arc::clone(&counted.runtime.name),
            runtime: counted.runtime,
        });
    outbound.chain(inbound).collect()
}

fn sidecar(shared: &Shared, text: &mut Exposition) {
    let connections = &shared.connections;
    text.gauge(
        "remora_connections_open",
        "Connections of callers",
        &one(connections.open.load(Relaxed)),
    );
    let counts = shared.mesh.counts();
    for (name, help, value) in [
        (
            "remora_passed_unknown",
            "Connections relayed untouched: their address belongs to nothing in the mesh",
            connections.passed_unknown.load(Relaxed),
        ),
        (
            "remora_passed_unanswered",
            "Connections relayed untouched: nobody could say what their address belongs to",
            connections.passed_unanswered.load(Relaxed),
        ),
        (
            "remora_bad_requests",
            "Malformed requests that were refused",
            connections.bad_requests.load(Relaxed),
        ),
        (
            "remora_without_destination",
            "Connections to a listener itself, closed at once",
            connections.without_destination.load(Relaxed),
        ),
        (
            "remora_access_log_dropped",
            "Lines of the access log that were dropped",
            shared.access_log.dropped(),
        ),
        (
            "remora_configuration_updates",
            "Resources taken from the control plane",
            counts.updates,
        ),
        (
            "remora_configuration_refusals",
            "Resources that were refused",
            counts.refusals,
        ),
    ] {
        text.counter(name, help, &one(value));
    }
    text.gauge(
        "remora_control_plane_connected",
        "1 while the stream to the control plane is open",
        &one(u8::from(shared.mesh.is_connected())),
    );
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    text.gauge(
        "remora_build_info",
        "1, with the sidecar's version",
        &vec![(version, 1)],
    );
}
