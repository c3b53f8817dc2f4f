//! One object of the API, read at once to what is needed of it: what a list or
//! a watch brings is turned into the core's object while it is parsed, and
//! nothing else of it (managedFields least of all) is kept.
//!
//! Reading never fails: an object that cannot be understood comes out as one
//! that is wrong, with its name. So it cannot stop a list or a watch.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

use crate::core::objects::{Id, Kind, Name, Object, Target};
use crate::core::routes::RouteKind;
use crate::gateway;
use crate::policy::authorization::schema::AuthorizationPolicy;
use crate::policy::check::FieldError;
use crate::policy::schema::TrafficPolicy;
use crate::source::convert::{self, Errors};
use crate::source::document;

/// One object, as far as it matters.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Namespace and name.
    pub id: Id,
    /// metadata.uid
    pub uid: Name,
    /// metadata.generation; 0 where the kind has none.
    pub generation: i64,
    /// The core's object, or why there is none.
    pub object: Result<Object, Vec<FieldError>>,
    /// What is wrong with it though it can be used: those fields are as if
    /// they were not there.
    pub faults: Vec<FieldError>,
    /// The targets of a policy, those that can be read.
    pub targets: Vec<Target>,
    /// Of a route a mark of its status, [`gateway::status::mark`].
    pub status: u64,
}

/// A kind that is watched.
pub trait Watchable: Resource<DynamicType = ()> + Send + Sync + 'static {
    /// Which.
    const KIND: Kind;
    /// Whether its metadata is all that is needed.
    const METADATA_ONLY: bool = false;

    /// The core's object.
    ///
    /// # Errors
    /// Why there is none.
    fn object(id: Id, value: &Value, faults: &mut Errors) -> Result<Object, Vec<FieldError>>;
}

impl Watchable for Namespace {
    const KIND: Kind = Kind::Namespace;
    const METADATA_ONLY: bool = true;

    fn object(id: Id, value: &Value, _: &mut Errors) -> Result<Object, Vec<FieldError>> {
        let metadata = typed(&value["metadata"])?;
        Ok(Object::Namespace(convert::namespace(id, &metadata)))
    }
}

impl Watchable for Service {
    const KIND: Kind = Kind::Service;

    fn object(id: Id, value: &Value, faults: &mut Errors) -> Result<Object, Vec<FieldError>> {
        Ok(Object::Service(convert::service(
            id,
            &typed(value)?,
            faults,
        )))
    }
}

impl Watchable for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn object(id: Id, value: &Value, faults: &mut Errors) -> Result<Object, Vec<FieldError>> {
        let slice = convert::endpoint_slice(id, &typed(value)?, faults);
        Ok(Object::EndpointSlice(slice))
    }
}

impl Watchable for Pod {
    const KIND: Kind = Kind::Pod;

    fn object(id: Id, value: &Value, faults: &mut Errors) -> Result<Object, Vec<FieldError>> {
        Ok(Object::Pod(convert::pod(id, &typed(value)?, faults)))
    }
}

impl Watchable for TrafficPolicy {
    const KIND: Kind = Kind::TrafficPolicy;

    /// A policy is taken whole or not at all: it has no faults beside.
    fn object(id: Id, value: &Value, _: &mut Errors) -> Result<Object, Vec<FieldError>> {
        let mut policy = document::policy(id, value)?;
        policy.generation = generation(value);
        Ok(Object::TrafficPolicy(Box::new(policy)))
    }
}

impl Watchable for AuthorizationPolicy {
    const KIND: Kind = Kind::AuthorizationPolicy;

    /// Taken whole or not at all.
    fn object(id: Id, value: &Value, _: &mut Errors) -> Result<Object, Vec<FieldError>> {
        let mut policy = document::authorization_policy(id, value)?;
        policy.generation = generation(value);
        Ok(Object::AuthorizationPolicy(Box::new(policy)))
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<FieldError>> {
    T::deserialize(value).map_err(|error| {
        vec![FieldError {
            field: String::new(),
            message: format!("cannot be read: {error}"),
        }]
    })
}

pub(super) fn generation(value: &Value) -> i64 {
    value["metadata"]["generation"].as_i64().unwrap_or_default()
}

/// What kube lists and watches in the place of `K`.
pub struct Watched<K> {
    /// For kube: names, and the version from which a watch goes on.
    metadata: ObjectMeta,
    seen: Seen,
    kind: PhantomData<fn() -> K>,
}

impl<K> Watched<K> {
    /// What was seen.
    pub fn into_seen(self) -> Seen {
        self.seen
    }
}

impl<K: Watchable> Watched<K> {
    fn read(value: &Value) -> Self {
        let text = |field: &str| value["metadata"][field].as_str().map(ToOwned::to_owned);
        let (name, namespace) = (text("name"), text("namespace"));
        // A cluster-wide object (a Namespace) stands under its own name.
        let place = namespace.as_ref().or(name.as_ref());
        let id = Id::new(
            place.map(String::as_str).unwrap_or_default(),
            name.as_deref().unwrap_or_default(),
        );
        let mut faults = Errors::default();
        let object = K::object(id.clone(), value, &mut faults);
        Self {
            seen: Seen {
                uid: text("uid").unwrap_or_default().into(),
                generation: generation(value),
                object,
                faults: faults.0,
                targets: targets(&id, value),
                status: status(K::KIND, value),
                id,
            },
            metadata: ObjectMeta {
                name,
                namespace,
                resource_version: text("resourceVersion"),
                ..ObjectMeta::default()
            },
            kind: PhantomData,
        }
    }
}

/// What `spec.targetRefs` names, as far as it can be read; of a `podSelector` it
/// is the Namespace.
fn targets(id: &Id, value: &Value) -> Vec<Target> {
    if value["spec"]["podSelector"].is_object() {
        return vec![Target::Namespace];
    }
    let route = |kind, name: &str, reference: &Value| Target::Route {
        kind,
        name: name.into(),
        rule: reference["sectionName"].as_str().map(Into::into),
    };
    let listed = value["spec"]["targetRefs"].as_array();
    let target = |reference: &Value| {
        let name = reference["name"].as_str()?;
        match reference["kind"].as_str()? {
            "Service" => Some(Target::Service(name.into())),
            "Namespace" if name == &*id.namespace => Some(Target::Namespace),
            "HTTPRoute" => Some(route(RouteKind::Http, name, reference)),
            "GRPCRoute" => Some(route(RouteKind::Grpc, name, reference)),
            _ => None,
        }
    };
    listed.into_iter().flatten().filter_map(target).collect()
}

/// Of kinds whose status is written beside others.
fn status(kind: Kind, value: &Value) -> u64 {
    let parents = value["status"]["parents"].as_array();
    let parents = parents.filter(|_| kind.route().is_some());
    gateway::status::mark(
        parents
            .into_iter()
            .flatten()
            .filter(|entry| gateway::status::is_ours(entry)),
    )
}

impl<'de, K: Watchable> Deserialize<'de> for Watched<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // One object at a time stands here whole, whatever the size of a list.
        Ok(Self::read(&Value::deserialize(deserializer)?))
    }
}

impl<K> Clone for Watched<K> {
    fn clone(&self) -> Self {
        Self {
            metadata: self.metadata.clone(),
            seen: self.seen.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> fmt::Debug for Watched<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seen.fmt(f)
    }
}

impl<K: Watchable> Resource for Watched<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::METADATA_ONLY
    }

    fn kind(at: &()) -> Cow<'_, str> {
        K::kind(at)
    }

    fn group(at: &()) -> Cow<'_, str> {
        K::group(at)
    }

    fn version(at: &()) -> Cow<'_, str> {
        K::version(at)
    }

    fn plural(at: &()) -> Cow<'_, str> {
        K::plural(at)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;

    fn read<K: Watchable>(value: &Value) -> Seen {
        Watched::<K>::read(value).into_seen()
    }

    #[test]
    fn one_object_that_is_wrong_leaves_the_list_whole() {
        let list = json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
            "items": [
                {"metadata": {"name": "a", "namespace": "shop", "uid": "1", "resourceVersion": "3"},
                 "spec": {"containers": "none"}},
                {"metadata": {"name": "b", "namespace": "shop", "uid": "2", "resourceVersion": "4",
                              "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}]},
                 "spec": {"containers": [{"name": "app"}], "nodeName": "n"},
                 "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}},
            ],
        });
        let list: ObjectList<Watched<Pod>> = serde_json::from_str(&list.to_string()).unwrap();
        let [a, b] = &list.items[..] else {
            panic!("{list:?}");
        };
        assert_eq!(a.meta().resource_version.as_deref(), Some("3"));
        assert_eq!(a.seen.id, Id::new("shop", "a"));
        let errors = a.seen.object.as_ref().unwrap_err();
        assert!(errors[0].message.contains("cannot be read"), "{errors:?}");
        assert!(b.meta().managed_fields.is_none());
        let Ok(Object::Pod(pod)) = &b.seen.object else {
            panic!("{b:?}");
        };
        assert_eq!((pod.addresses.len(), pod.running), (2, true));
    }

    #[test]
    fn what_can_be_used_is_used_and_the_rest_is_said() {
        let seen = read::<Service>(&json!({
            "metadata": {"name": "db", "namespace": "shop",
                         "annotations": {"remora.io/opaque-ports": "many"}},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 3306}]},
        }));
        assert!(matches!(seen.object, Ok(Object::Service(_))), "{seen:?}");
        assert_eq!(
            seen.faults[0].field,
            "metadata.annotations.remora.io/opaque-ports"
        );
    }

    #[test]
    fn a_policy_is_taken_whole_with_its_generation_or_not_at_all() {
        let policy = |spec: Value| {
            json!({
                "apiVersion": "remora.io/v1alpha1", "kind": "TrafficPolicy",
                "metadata": {"name": "a", "namespace": "shop", "uid": "u", "generation": 4,
                             "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": spec,
            })
        };
        let target = json!([{"group": "", "kind": "Service", "name": "catalog"}]);
        let good = read::<TrafficPolicy>(&policy(json!({"targetRefs": target, "retries": {}})));
        let Ok(Object::TrafficPolicy(read_policy)) = good.object else {
            panic!("{good:?}");
        };
        assert_eq!((read_policy.generation, good.generation), (4, 4));
        assert!(read_policy.created.is_some());
        let wrong = json!({"targetRefs": target, "retries": {"attempts": 99}, "hedge": {}});
        let bad = read::<TrafficPolicy>(&policy(wrong));
        assert_eq!(bad.object.unwrap_err().len(), 2);
        assert_eq!(bad.targets, [Target::Service("catalog".into())]);
        let of_pods = read::<TrafficPolicy>(&policy(json!({"podSelector": {}, "retries": {}})));
        assert_eq!(of_pods.object.unwrap_err().len(), 2);
        assert_eq!(of_pods.targets, [Target::Namespace]);
    }

    #[test]
    fn of_a_namespace_the_metadata_is_enough() {
        let label = |value: &str| {
            json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": "shop", "labels": {"remora.io/inject": value}},
            })
        };
        for (value, wanted) in [("enabled", true), ("disabled", false), ("", false)] {
            let seen = read::<Namespace>(&label(value));
            let Ok(Object::Namespace(namespace)) = seen.object else {
                panic!("{seen:?}");
            };
            assert_eq!(namespace.id, Id::new("shop", "shop"));
            assert_eq!(namespace.inject, wanted);
        }
    }
}
