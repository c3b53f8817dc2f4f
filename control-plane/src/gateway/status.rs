//! `status.parents` of a route: one list for all controllers, of which only the
//! entries with our name are ours.

use std::hash::{DefaultHasher, Hash, Hasher};

use remora_proto::well_known;
use serde_json::Value;

/// Whether an entry is ours.
pub fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == well_known::CONTROLLER_NAME
}

/// A hash of entries as they are there: another one says that somebody wrote them.
pub fn mark<'a>(entries: impl Iterator<Item = &'a Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for entry in entries {
        entry.to_string().hash(&mut hasher);
    }
    hasher.finish()
}
