//! Probes of the pod's own ports, and of endpoints without a sidecar.

use super::exposition::with;
use super::text::{Exposition, Labels, Samples};
use crate::health::board::Whose;
use crate::health::watch::ProbeResult;
use crate::worker::Shared;

pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    let mut samples = Samples::new();
    for (whose, counts) in shared.health.counts() {
        let (service, port) = match whose {
            Whose::Port(port) => (String::new(), port.to_string()),
            Whose::Service(service) => (service.to_string(), String::new()),
        };
        let labels: Labels = vec![("service", service), ("port", port)];
        for result in ProbeResult::ALL {
            let labels = with(labels.clone(), "result", result.word());
            samples.push((labels, counts[result as usize]));
        }
    }
    text.counter(
        "remora_health_checks",
        "Probes, of one of the pod's own ports or of a service's endpoints without a sidecar",
        &samples,
    );
}
