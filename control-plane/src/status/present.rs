//! The statuses at the API server: read as they are, whatever the rest of the
//! object says, and written by server-side apply.

use std::collections::HashMap;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use remora_proto::well_known;
use serde_json::json;

use super::objects::Objects;
use super::plan::ACCEPTED;
use crate::answer::{self, RequestError};
use crate::core::objects::{Id, Kind, Name};
use crate::policy::authorization::schema::AuthorizationPolicy;
use crate::policy::schema::TrafficPolicy;
use crate::policy::status::TrafficPolicyStatus;
use crate::source::kubernetes::PolicySeen;

/// The status of one object. That of an AuthorizationPolicy has the same form,
/// without breakers.
#[derive(Clone, Debug, PartialEq)]
pub struct Present {
    /// Of which object of this name.
    pub uid: Name,
    /// As it is there; none where there is none, or one that is not ours.
    pub status: Option<TrafficPolicyStatus>,
}

/// All of them.
#[derive(Clone)]
pub struct Statuses(Objects);

impl Statuses {
    /// Those of a cluster, of one kind of policies.
    pub fn new(client: kube::Client, kind: Kind) -> Self {
        let resource = match kind {
            Kind::AuthorizationPolicy => ApiResource::erase::<AuthorizationPolicy>(&()),
            _ => ApiResource::erase::<TrafficPolicy>(&()),
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

    /// Writes one; the status that is there then.
    ///
    /// # Errors
    /// When it was not written. The uid goes along, so that another object of
    /// the same name is a conflict.
    pub async fn write(
        &self,
        seen: &PolicySeen,
        status: &TrafficPolicyStatus,
    ) -> Result<TrafficPolicyStatus, RequestError> {
        let (namespace, name) = (&*seen.id.namespace, &*seen.id.name);
        let api = self.0.within(namespace);
        let applied = json!({
            "apiVersion": self.0.resource.api_version,
            "kind": self.0.resource.kind,
            "metadata": { "namespace": namespace, "name": name, "uid": &*seen.uid },
            "status": status,
        });
        let parameters = PatchParams::apply(well_known::CONTROL_PLANE).force();
        let patch = Patch::Apply(&applied);
        let written = answer::of(api.patch_status(name, &parameters, &patch)).await?;
        // What is there is what was sent, unless somebody changes it on the way.
        Ok(read(&written).status.unwrap_or_else(|| status.clone()))
    }
}

fn read(object: &DynamicObject) -> Present {
    let status = object.data.get("status").cloned();
    let status = status.and_then(|status| serde_json::from_value(status).ok());
    Present {
        uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
        status: status.map(ours),
    }
}

/// Without the conditions of others, which may stand beside ours: what we never
/// write must not make ours look different, again and again.
fn ours(mut status: TrafficPolicyStatus) -> TrafficPolicyStatus {
    status.conditions.retain(|one| one.r#type == ACCEPTED);
    for ancestor in &mut status.ancestors {
        ancestor.conditions.retain(|one| one.r#type == ACCEPTED);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(status: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "remora.io/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": "a", "namespace": "shop", "uid": "u"},
            "spec": {"whatever": 1},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_condition_of_somebody_else_does_not_make_ours_differ() {
        let condition = |word: &str| {
            json!({"type": word, "status": "True", "reason": "Fine", "message": "",
                   "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1})
        };
        let alone = read(&object(json!({"conditions": [condition("Accepted")]})));
        let beside = json!({"conditions": [condition("Healthy"), condition("Accepted")]});
        assert_eq!(read(&object(beside)), alone);
        assert_eq!(alone.status.map(|status| status.conditions.len()), Some(1));
    }

    #[test]
    fn a_status_is_read_whatever_the_rest_says_and_one_that_is_not_ours_is_none() {
        let ours = read(&object(
            json!({"observedGeneration": 2, "conditions": [], "more": 1}),
        ));
        assert_eq!(&*ours.uid, "u");
        let generation = ours.status.and_then(|status| status.observed_generation);
        assert_eq!(generation, Some(2));
        for other in [json!(null), json!("x"), json!({"conditions": 3})] {
            let present = read(&object(other.clone()));
            assert_eq!(present.status, None, "{other}");
        }
    }
}
