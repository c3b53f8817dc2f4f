//! The Event object. Its name is made of what it says, so that the same said
//! again, by whichever replica, is counted in the Event that is there.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use remora_proto::well_known;
use serde_json::json;

use super::decide::{Kind, Notice};
use crate::answer::{self, RequestError};
use crate::text::cut;

/// Bytes of an Event's note, as the API server has it.
const MAX_NOTE_BYTES: usize = 1_000;
/// Bytes of a reporting instance, as the API server has it.
const MAX_INSTANCE_BYTES: usize = 128;
/// Bytes of the object's name in the Event's.
const MAX_NAME_BYTES: usize = 200;
/// Events whose repetitions are counted here; then counting begins anew.
const MAX_COUNTED: usize = 1_024;

/// Writes Events.
pub struct Recorder {
    client: kube::Client,
    instance: String,
    /// By the Event's namespace and name, how often it was said.
    counts: HashMap<(String, String), i32>,
}

impl Recorder {
    /// As this pod.
    pub fn new(client: kube::Client, pod: &str) -> Self {
        let mut instance = pod.to_owned();
        cut(&mut instance, MAX_INSTANCE_BYTES);
        Self {
            client,
            instance,
            counts: HashMap::new(),
        }
    }

    /// Writes one, or counts it where it is there already.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub async fn record(&mut self, notice: &Notice, unix_ms: u64) -> Result<(), RequestError> {
        let event = event(notice, &self.instance, unix_ms);
        let namespace = notice.id.namespace.to_string();
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = (namespace, name);
        if !self.counts.contains_key(&key) {
            match answer::of(api.create(&PostParams::default(), &event)).await {
                Err(RequestError::Conflict) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    self.remember(key, 1);
                    return Ok(());
                }
            }
        }
        // A series begins with two (events.k8s.io/v1).
        let count = self
            .counts
            .get(&key)
            .map_or(2, |count| count.saturating_add(1));
        let series = json!({"series": {
            "count": count,
            "lastObservedTime": event.event_time,
        }});
        let parameters = PatchParams::default();
        let patched = answer::of(api.patch(&key.1, &parameters, &Patch::Merge(&series))).await;
        match patched {
            Ok(_) => {
                self.remember(key, count);
                Ok(())
            }
            // It has run out; the next time it is made anew.
            Err(RequestError::NotFound) => {
                self.counts.remove(&key);
                answer::of(api.create(&PostParams::default(), &event)).await?;
                self.remember(key, 1);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn remember(&mut self, key: (String, String), count: i32) {
        if self.counts.len() >= MAX_COUNTED && !self.counts.contains_key(&key) {
            self.counts.clear();
        }
        self.counts.insert(key, count);
    }
}

/// The Event of a notice.
fn event(notice: &Notice, instance: &str, unix_ms: u64) -> Event {
    let (api_version, kind) = match notice.kind {
        Kind::TrafficPolicy => ("remora.io/v1alpha1", "TrafficPolicy"),
        Kind::AuthorizationPolicy => ("remora.io/v1alpha1", "AuthorizationPolicy"),
        Kind::Pod => ("v1", "Pod"),
        Kind::Service => ("v1", "Service"),
    };
    let mut note = notice.note.clone();
    cut(&mut note, MAX_NOTE_BYTES);
    let namespace = notice.id.namespace.to_string();
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            name: Some(name(notice)),
            ..ObjectMeta::default()
        },
        event_time: time.map(MicroTime),
        action: Some(notice.action.to_owned()),
        reason: Some(notice.reason.to_owned()),
        note: Some(note),
        type_: Some("Warning".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace),
            name: Some(notice.id.name.to_string()),
            uid: notice.uid.as_ref().map(ToString::to_string),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(well_known::CONTROLLER_NAME.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

fn name(notice: &Notice) -> String {
    let mut hasher = DefaultHasher::new();
    let uid = notice.uid.as_deref();
    (uid, notice.kind, notice.reason, &notice.note).hash(&mut hasher);
    let mut name = notice.id.name.to_string();
    cut(&mut name, MAX_NAME_BYTES);
    // A name's parts begin and end with a letter or a digit.
    let name = name.trim_end_matches(['.', '-']);
    format!("{name}.{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::objects::Id;

    fn notice(note: &str) -> Notice {
        Notice {
            kind: Kind::Pod,
            id: Id::new("shop", "catalog-1"),
            uid: Some("u1".into()),
            reason: super::super::decide::BREAKER_OPENED,
            action: "Break",
            note: note.to_owned(),
        }
    }

    #[test]
    fn the_same_said_again_has_the_same_name_and_anything_else_another() {
        let said = name(&notice("opened"));
        assert_eq!(said, name(&notice("opened")));
        let mut others = vec![notice("opened again")];
        others.push(Notice {
            uid: Some("u2".into()),
            ..notice("opened")
        });
        for other in &others {
            assert_ne!(said, name(other));
        }
        assert!(said.starts_with("catalog-1."), "{said}");
    }

    #[test]
    fn what_is_too_long_is_cut_where_the_api_server_would_refuse_it() {
        let mut long = notice(&"ü".repeat(2_000));
        long.id = Id::new("shop", &"a.".repeat(126));
        let event = event(&long, "me", 1_700_000_000_000);
        assert!(event.note.is_some_and(|note| note.len() <= MAX_NOTE_BYTES));
        let name = event.metadata.name.unwrap_or_default();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        let regarding = event.regarding.unwrap_or_default();
        assert_eq!(regarding.namespace.as_deref(), Some("shop"));
    }
}
