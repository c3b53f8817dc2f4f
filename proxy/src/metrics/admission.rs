//! Admission at the pod's own ports.

use super::exposition::with;
use super::text::{Exposition, Labels, Samples};
use crate::policy::config::admission::Priority;
use crate::worker::Shared;

pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    let (mut in_flight, mut limit) = (Samples::new(), Samples::new());
    let (mut asked, mut refused, mut kept) = (Samples::new(), Samples::new(), Samples::new());
    for (port, gate) in shared.inbound.gates() {
        let figures = gate.figures();
        let of_port: Labels = vec![("port", port.to_string())];
        for priority in Priority::ALL {
            let at = priority.index();
            let labels = with(of_port.clone(), "priority", priority.word());
            asked.push((labels.clone(), figures.asked[at]));
            refused.push((labels.clone(), figures.refused[at]));
            kept.push((labels, figures.kept[at]));
        }
        if let Some(most) = figures.limit {
            limit.push((of_port.clone(), most));
        }
        in_flight.push((of_port, figures.in_flight));
    }
    text.gauge(
        "remora_admission_in_flight",
        "Requests that the application was given at a port and whose answer has not ended",
        &in_flight,
    );
    text.gauge(
        "remora_admission_limit",
        "How many may be in flight at the port; absent where it is not limited",
        &limit,
    );
    text.counter(
        "remora_admission_requests",
        "Requests that asked for admission, by priority",
        &asked,
    );
    text.counter(
        "remora_admission_refused",
        "Requests that were not admitted, by priority",
        &refused,
    );
    text.gauge(
        "remora_admission_kept",
        "Places that are kept from a priority for higher ones",
        &kept,
    );
}
