//! What AuthorizationPolicies decided.

use super::text::{Exposition, Samples};
use crate::worker::Shared;

/// The labels are words of a closed list, and names of policies that the control
/// plane has put in force here.
pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    let decided = shared.inbound.authorization.decided();
    let samples: Samples<u64> = decided
        .into_iter()
        .map(|one| {
            let labels = vec![
                ("action", one.action.to_owned()),
                ("policy", one.policy.to_string()),
            ];
            (labels, one.count)
        })
        .collect();
    text.counter(
        "remora_authorization",
        "Requests and raw connections to the pod that an AuthorizationPolicy decided; \
         denied without a policy: what no Allow matches",
        &samples,
    );
}
