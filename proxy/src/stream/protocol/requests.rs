//! What the client sends: introductions, changes of subscription, ACK and NACK.

use std::collections::HashMap;

use remora_proto::discovery::{DeltaDiscoveryRequest, Status};

use super::{Acknowledgement, Change, Kind, Machine, is_collection};

/// Names in one request; a longer change is told in several.
pub const MAX_NAMES_PER_REQUEST: usize = 512;
/// `google.rpc.Code.INVALID_ARGUMENT`, the customary code of a NACK.
const INVALID_ARGUMENT: i32 = 3;

impl Machine {
    pub(super) fn next_acknowledgement(&mut self) -> Option<DeltaDiscoveryRequest> {
        let Acknowledgement {
            type_url,
            nonce,
            error,
        } = self.acknowledgements.pop_front()?;
        Some(DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            error_detail: error.map(|message| Status {
                code: INVALID_ARGUMENT,
                message,
                details: Vec::new(),
            }),
            ..Default::default()
        })
    }

    /// The first request of a type on this stream: all that is wanted, and the
    /// versions held from before. Never one without a name: that would be read
    /// as a subscription to everything.
    pub(super) fn introduction(&mut self, kind: Kind) -> Option<DeltaDiscoveryRequest> {
        let state = &mut self.types[kind.index()];
        if state.introduced || state.wanted.is_empty() {
            return None;
        }
        state.introduced = true;
        // Collections that were never answered are asked for one by one, after this.
        let (mut names, mut later): (Vec<String>, Vec<String>) = state
            .wanted
            .iter()
            .cloned()
            .partition(|name| !is_collection(name) || self.collections.is_answered(name));
        if names.is_empty() {
            let first = later.remove(0);
            self.collections.asked(&first);
            names.push(first);
        } else if kind == Kind::Endpoint {
            self.collections.repeated();
        }
        state.changes = later.into_iter().map(Change::Subscribe).collect();
        let versions: HashMap<String, String> = state
            .held
            .iter()
            .map(|(name, held)| (name.clone(), held.version.clone()))
            .collect();
        Some(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: versions,
            ..Default::default()
        })
    }

    /// Tells the changes in their order. A name is in one request once only:
    /// `unsubscribe x, subscribe x` makes the server send `x` again, and the
    /// two in one request would have no order.
    pub(super) fn next_change(&mut self, kind: Kind) -> Option<DeltaDiscoveryRequest> {
        let state = &mut self.types[kind.index()];
        if !state.introduced || state.changes.is_empty() {
            return None;
        }
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            ..Default::default()
        };
        let mut told = std::collections::BTreeSet::new();
        let mut collection_asked = false;
        while let Some(change) = state.changes.front() {
            let (Change::Subscribe(name) | Change::Unsubscribe(name)) = change;
            let asks_collection = matches!(change, Change::Subscribe(_)) && is_collection(name);
            if told.len() >= MAX_NAMES_PER_REQUEST
                || told.contains(name)
                || (asks_collection && collection_asked)
            {
                break;
            }
            told.insert(name.clone());
            if asks_collection {
                collection_asked = true;
                self.collections.asked(name);
            }
            match state.changes.pop_front() {
                Some(Change::Subscribe(name)) => request.resource_names_subscribe.push(name),
                Some(Change::Unsubscribe(name)) => request.resource_names_unsubscribe.push(name),
                None => break,
            }
        }
        Some(request)
    }
}
