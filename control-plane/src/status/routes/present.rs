//! The statuses of routes at the API server. `status.parents` is one list for
//! all controllers, and its fields are owned by none of them apart; so it is
//! read, changed, and written on the condition that it is still what was read.

use std::collections::HashMap;
use std::time::Instant;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use remora_proto::well_known;
use serde_json::{Value, json};

use super::super::objects::Objects;
use super::plan::merged;
use crate::answer::{self, RequestError};
use crate::clock;
use crate::core::objects::{Id, Name};
use crate::core::routes::RouteKind;
use crate::core::routes::verdict::RouteVerdict;
use crate::gateway::status::is_ours;
use crate::source::kubernetes::PolicySeen;
use crate::source::kubernetes::gateway::{GrpcRoute, HttpRoute};

/// How often in a row somebody else may be faster.
const MAX_TRIES: u32 = 4;

/// Our entries in the status of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct Present {
    /// Of which object of this name.
    pub uid: Name,
    /// As they are there.
    pub ours: Vec<Value>,
    /// When they were.
    pub at: Instant,
}

/// All of them.
#[derive(Clone)]
pub struct Statuses(Objects);

impl Statuses {
    /// Those of a cluster, of one kind of routes.
    pub fn new(client: kube::Client, kind: RouteKind) -> Self {
        let resource = match kind {
            RouteKind::Http => ApiResource::erase::<HttpRoute>(&()),
            RouteKind::Grpc => ApiResource::erase::<GrpcRoute>(&()),
        };
        Self(Objects::new(client, resource))
    }

    /// As RBAC names the kind.
    pub fn plural(&self) -> &str {
        self.0.plural()
    }

    /// All that there are now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn all(&self) -> Result<HashMap<Id, Present>, RequestError> {
        self.0.all(read).await
    }

    /// Writes one; what is there of ours then, and whether that was written now.
    ///
    /// # Errors
    /// When it was not written. Another object of the same name is a conflict, and
    /// so is a status that others keep changing.
    pub async fn write(
        &self,
        seen: &PolicySeen,
        verdict: &RouteVerdict,
        now: &str,
    ) -> Result<(Present, bool), RequestError> {
        let (namespace, name) = (&*seen.id.namespace, &*seen.id.name);
        let api = self.0.within(namespace);
        for _ in 0..MAX_TRIES {
            let object = answer::of(api.get(name)).await?;
            if object.metadata.uid.as_deref() != Some(&*seen.uid) {
                return Err(RequestError::Conflict);
            }
            let Some(parents) = merged(parents(&object), verdict, now) else {
                return Ok((read(&object), false));
            };
            let patch = json!({
                "metadata": {
                    "uid": &*seen.uid,
                    "resourceVersion": object.metadata.resource_version,
                },
                "status": { "parents": parents },
            });
            let parameters = PatchParams {
                field_manager: Some(well_known::CONTROL_PLANE.to_owned()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(&patch);
            let written = api.patch_status(name, &parameters, &patch);
            match answer::of(written).await {
                Ok(object) => return Ok((read(&object), true)),
                Err(RequestError::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(RequestError::Conflict)
    }
}

fn parents(object: &DynamicObject) -> &[Value] {
    let parents = object.data.pointer("/status/parents");
    let parents = parents.and_then(Value::as_array);
    parents.map_or(&[], Vec::as_slice)
}

fn read(object: &DynamicObject) -> Present {
    let ours = parents(object).iter().filter(|entry| is_ours(entry));
    Present {
        uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
        ours: ours.cloned().collect(),
        at: clock::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_status_only_our_entries_are_kept() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "a", "namespace": "shop", "uid": "u"},
            "spec": {"anything": true},
            "status": {"parents": [
                {"controllerName": "other", "parentRef": {"name": "x"}},
                {"controllerName": "remora.io/control-plane", "parentRef": {"name": "web"}},
            ]},
        }))
        .unwrap();
        let present = read(&object);
        assert_eq!(&*present.uid, "u");
        assert_eq!(present.ours.len(), 1);
        assert_eq!(present.ours[0]["parentRef"]["name"], "web");
        let bare: DynamicObject = serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u"}, "status": {"parents": "odd"},
        }))
        .unwrap();
        assert!(read(&bare).ours.is_empty());
    }
}
