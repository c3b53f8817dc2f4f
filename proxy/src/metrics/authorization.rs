//! What AuthorizationPolicies decided.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::exposition::{Samples, counter};
use crate::worker::Shared;

/// The labels are words of a closed list, and names of policies that the control
/// plane has put in force here.
pub(super) fn encode(shared: &Shared, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let decided = shared.inbound.authorization.decided();
    if decided.is_empty() {
        return Ok(());
    }
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
    counter(
        encoder,
        "remora_authorization",
        "Requests and raw connections to the pod that an AuthorizationPolicy decided; \
         denied without a policy: what no Allow matches",
        &samples,
    )
}
