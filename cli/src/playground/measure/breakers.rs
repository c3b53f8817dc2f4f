//! `/breakers` of a sidecar: states to show, changes to count, each once.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The answer of `GET /breakers`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Breakers {
    /// By service.
    #[serde(default)]
    pub services: Vec<ServiceBreakers>,
    /// The last changes, oldest first.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// The breakers towards one service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ServiceBreakers {
    /// `namespace/name`.
    pub service: String,
    /// The state of the breaker of the whole service, where its policy has one.
    #[serde(default)]
    pub state: Option<String>,
    /// By endpoint.
    #[serde(default)]
    pub endpoints: Vec<EndpointBreaker>,
}

/// The breaker towards one endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct EndpointBreaker {
    /// The pod.
    pub endpoint: String,
    /// `closed`, `open`, `half_open`, `would_open`.
    #[serde(default)]
    pub state: String,
    /// Since when, in milliseconds since 1970.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Why it opened.
    #[serde(default)]
    pub cause: Option<String>,
    /// Attempts in flight.
    #[serde(default)]
    pub in_flight: u64,
}

/// A breaker that changed its state.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
pub struct Change {
    /// Rises by one with each change of a sidecar's process.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
    /// The service.
    #[serde(default)]
    pub service: String,
    /// The endpoint; absent for the breaker of a whole service.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The state before.
    #[serde(default)]
    pub from: Option<String>,
    /// The state after.
    #[serde(default)]
    pub to: String,
    /// Why.
    #[serde(default)]
    pub cause: Option<String>,
}

/// Where each sidecar's changes were read up to.
#[derive(Debug, Default)]
pub struct Cursor {
    next: BTreeMap<String, u64>,
}

impl Cursor {
    /// The changes of this caller that were not seen yet.
    pub fn unseen(&mut self, caller: &str, breakers: &Breakers) -> Vec<Change> {
        let Some(last) = breakers.changes.last() else {
            return Vec::new();
        };
        let next = self.next.entry(caller.to_owned()).or_insert(0);
        // A sequence that went back belongs to a process that started again.
        if last.sequence + 1 < *next {
            *next = 0;
        }
        let unseen = breakers
            .changes
            .iter()
            .filter(|change| change.sequence >= *next)
            .cloned()
            .collect();
        *next = last.sequence + 1;
        unseen
    }

    /// Forgets a caller whose process was killed: its next one counts from the start.
    pub fn forget(&mut self, caller: &str) {
        self.next.remove(caller);
    }
}

/// How often breakers changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// To open.
    pub opened: u64,
    /// To half-open.
    pub half_opened: u64,
    /// From open or half-open to closed: what never kept traffic away does not count.
    pub closed: u64,
}

impl Counts {
    /// Counts a change.
    pub fn count(&mut self, change: &Change) {
        match change.to.as_str() {
            "open" => self.opened += 1,
            "half_open" => self.half_opened += 1,
            "closed" if change.from.as_deref() != Some("would_open") => self.closed += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(sequences: &[u64]) -> Breakers {
        let changes = sequences.iter().map(|&sequence| Change {
            sequence,
            to: "open".to_owned(),
            ..Change::default()
        });
        Breakers {
            services: Vec::new(),
            changes: changes.collect(),
        }
    }

    fn seen(cursor: &mut Cursor, sequences: &[u64]) -> Vec<u64> {
        cursor
            .unseen("web-1", &with(sequences))
            .iter()
            .map(|change| change.sequence)
            .collect()
    }

    #[test]
    fn each_change_is_seen_once() {
        let mut cursor = Cursor::default();
        assert_eq!(seen(&mut cursor, &[0, 1]), [0, 1]);
        assert_eq!(seen(&mut cursor, &[0, 1, 2]), [2]);
        assert!(seen(&mut cursor, &[0, 1, 2]).is_empty());
        assert_eq!(seen(&mut cursor, &[0]), [0], "a sidecar that started again");
        assert!(seen(&mut cursor, &[]).is_empty());
    }

    #[test]
    fn changes_are_counted_by_their_new_state() {
        let mut counts = Counts::default();
        for to in [
            "open",
            "half_open",
            "open",
            "half_open",
            "closed",
            "would_open",
        ] {
            counts.count(&Change {
                to: to.to_owned(),
                ..Change::default()
            });
        }
        counts.count(&Change {
            from: Some("would_open".to_owned()),
            to: "closed".to_owned(),
            ..Change::default()
        });
        assert_eq!(
            counts,
            Counts {
                opened: 2,
                half_opened: 2,
                closed: 1
            }
        );
    }
}
