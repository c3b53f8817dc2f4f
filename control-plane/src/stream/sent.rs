//! How much was sent to sidecars, by type, for the metrics.

use crate::core::store::ResourceType;
use crate::counters::Counters;

/// The types, and what is of none of them.
const WORDS: [&str; 5] = ["Service", "Endpoint", "Workload", "TrustBundle", "other"];

/// What was sent since the process began.
#[derive(Debug)]
pub struct Sent {
    /// Responses, those without any resource among them.
    pub responses: Counters<5>,
    /// Resources in them, each as often as it was sent.
    pub resources: Counters<5>,
    /// Bytes of the responses, encoded; what gRPC adds is not counted.
    pub bytes: Counters<5>,
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            responses: Counters::new(WORDS),
            resources: Counters::new(WORDS),
            bytes: Counters::new(WORDS),
        }
    }
}

impl Sent {
    /// A response of so many resources and bytes.
    pub fn count(&self, kind: Option<ResourceType>, resources: usize, bytes: usize) {
        let word = match kind {
            Some(ResourceType::Service) => "Service",
            Some(ResourceType::Endpoint) => "Endpoint",
            Some(ResourceType::Workload) => "Workload",
            Some(ResourceType::TrustBundle) => "TrustBundle",
            None => "other",
        };
        self.responses.count(word);
        self.resources.add(word, resources as u64);
        self.bytes.add(word, bytes as u64);
    }
}
