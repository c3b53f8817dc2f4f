//! One document to one object, or to all that is wrong with it, each with
//! its place.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use remora_proto::bounds::{is_label, is_subdomain};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::convert::{self, Errors};
use super::yaml::{self, Document, Node, Position};
use crate::core::authorizations::AuthorizationPolicy;
use crate::core::objects::{Created, Id, Key, Kind, Object, TrafficPolicy};
use crate::core::routes::{Route, RouteId, RouteKind};
use crate::core::scope::Scope;
use crate::gateway;
use crate::policy::check::FieldError;
use crate::policy::{authorization, parse};

/// What a document is.
// Nearly all are objects, and few are under way at once.
#[allow(clippy::large_enum_variant)]
pub enum Read {
    /// An object; a policy's generation is still to be counted.
    Object(Object),
    /// An object that is known by name, and wrong.
    Broken(Key, Vec<Located>),
    /// Not even the name can be read.
    Unknown(Vec<Located>),
    /// A kind that is of no meaning here, with its place.
    Skipped(String),
}

/// A document with its place in the file.
pub struct Placed {
    /// The line of its first field.
    pub line: u64,
    /// Where those fields stand that may be found wrong only beside other objects.
    pub fields: BTreeMap<String, Position>,
    /// What it is.
    pub read: Read,
}

/// An error with its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Line and column, from 1; 0 where they are not known.
    pub position: Position,
    /// The field; empty where it is about the whole.
    pub field: String,
    /// In words.
    pub message: String,
}

/// Reads all documents of a file.
pub fn read_all(text: &str) -> Vec<Placed> {
    yaml::documents(text).iter().map(read).collect()
}

fn read(document: &Document<'_>) -> Placed {
    let offset = document.line_offset;
    let shift = |(line, column): Position| (if line > 0 { line + offset } else { 0 }, column);
    let node = match yaml::read(document.text) {
        Ok(node) => node,
        Err(error) => {
            let message = format!("is not YAML: {}", error.message);
            let position = shift(error.position);
            let error = Located {
                position,
                field: String::new(),
                message,
            };
            return Placed {
                line: position.0,
                fields: BTreeMap::new(),
                read: Read::Unknown(vec![error]),
            };
        }
    };
    let value = node.value();
    let locate = |errors: Vec<FieldError>| -> Vec<Located> {
        let located = errors.into_iter().map(|error| Located {
            position: shift(node.place(&error.field)),
            field: error.field,
            message: error.message,
        });
        located.collect()
    };
    let line = shift(node.position).0;
    let read = match identity(&value) {
        Err(errors) => Read::Unknown(locate(errors)),
        Ok(None) => {
            let kind = format!("{} {}", text(&value["apiVersion"]), text(&value["kind"]));
            Read::Skipped(kind)
        }
        Ok(Some(key)) => match object(&key, document.text, &node, &value) {
            Ok(object) => Read::Object(object),
            Err(errors) => Read::Broken(key, locate(errors)),
        },
    };
    let fields = match &read {
        Read::Object(object) => noted_fields(object),
        _ => Vec::new(),
    };
    let fields = fields.into_iter().map(|field| {
        let position = shift(node.place(&field));
        (field, position)
    });
    Placed {
        line,
        fields: fields.collect(),
        read,
    }
}

/// The fields that [`crate::core::Note`]s are about.
fn noted_fields(object: &Object) -> Vec<String> {
    match object {
        Object::Service(_) => vec!["spec.externalName".to_owned(), "spec.clusterIP".to_owned()],
        Object::EndpointSlice(_) => vec!["metadata.labels".to_owned()],
        Object::TrafficPolicy(policy) => target_fields(&policy.scope),
        Object::AuthorizationPolicy(policy) => target_fields(&policy.scope),
        Object::Route(route) => {
            let parents = route.says.parents.iter();
            parents
                .map(|parent| format!("spec.parentRefs[{}]", parent.index))
                .collect()
        }
        Object::Namespace(_)
        | Object::Pod(_)
        | Object::ReferenceGrant(_)
        | Object::Deployment(_) => Vec::new(),
    }
}

/// Of a selector nothing is noted.
fn target_fields(scope: &Scope) -> Vec<String> {
    let indexes = 0..scope.targets().len();
    indexes
        .map(|index| format!("spec.targetRefs[{index}]"))
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Gateway API's group, and the versions that are read.
const GATEWAY: &str = "gateway.networking.k8s.io/";
const GATEWAY_V1: &str = "gateway.networking.k8s.io/v1";
const GATEWAY_V1BETA1: &str = "gateway.networking.k8s.io/v1beta1";

/// A kind by its names, `None` for one that has no meaning here; else the field
/// that is wrong, and what it must be.
fn known_kind(version: &str, kind: &str) -> Result<Option<Kind>, (&'static str, &'static str)> {
    Ok(Some(match (version, kind) {
        ("v1", "Namespace") => Kind::Namespace,
        ("v1", "Service") => Kind::Service,
        ("v1", "Pod") => Kind::Pod,
        ("discovery.k8s.io/v1", "EndpointSlice") => Kind::EndpointSlice,
        ("apps/v1", "Deployment") => Kind::Deployment,
        ("remora.io/v1alpha1", "TrafficPolicy") => Kind::TrafficPolicy,
        ("remora.io/v1alpha1", "AuthorizationPolicy") => Kind::AuthorizationPolicy,
        (GATEWAY_V1, "HTTPRoute") => Kind::HttpRoute,
        (GATEWAY_V1, "GRPCRoute") => Kind::GrpcRoute,
        (GATEWAY_V1 | GATEWAY_V1BETA1, "ReferenceGrant") => Kind::ReferenceGrant,
        (_, "Namespace" | "Service" | "Pod") => return Err(("apiVersion", "must be v1")),
        (_, "EndpointSlice") => return Err(("apiVersion", "must be discovery.k8s.io/v1")),
        (_, "Deployment") => return Err(("apiVersion", "must be apps/v1")),
        (_, "TrafficPolicy" | "AuthorizationPolicy") => {
            return Err(("apiVersion", "must be remora.io/v1alpha1"));
        }
        (version, "HTTPRoute" | "GRPCRoute" | "ReferenceGrant") if version.starts_with(GATEWAY) => {
            return Err(("apiVersion", "must be gateway.networking.k8s.io/v1"));
        }
        (version, _) if version.starts_with("remora.io/") => {
            return Err(("kind", "must be TrafficPolicy or AuthorizationPolicy"));
        }
        ("v1", "List") => {
            let message = "List is not read: write its items as documents of their own";
            return Err(("kind", message));
        }
        _ => return Ok(None),
    }))
}

/// Which object it is; `None` is one of a kind that has no meaning here.
fn identity(value: &Value) -> Result<Option<Key>, Vec<FieldError>> {
    let error = |field: &str, message: &str| {
        vec![FieldError {
            field: field.to_owned(),
            message: message.to_owned(),
        }]
    };
    if !value.is_object() {
        return Err(error("", "is not an object of Kubernetes"));
    }
    let kind = text(&value["kind"]);
    if kind.is_empty() {
        return Err(error("kind", "must be given, such as Service"));
    }
    let version = text(&value["apiVersion"]);
    if version.is_empty() {
        return Err(error("apiVersion", "must be given, such as v1"));
    }
    let known = known_kind(version, kind);
    let Some(kind) = known.map_err(|(field, message)| error(field, message))? else {
        return Ok(None);
    };
    let metadata = &value["metadata"];
    let name = text(&metadata["name"]);
    let message = "must be a name of Kubernetes: lower case letters, digits, - and ., at most 253";
    if !is_subdomain(name) {
        return Err(error("metadata.name", message));
    }
    let short = "must be a name of Kubernetes without dots: lower case letters, digits and -, at \
                 most 63";
    if matches!(kind, Kind::Namespace | Kind::Service) && !is_label(name) {
        return Err(error("metadata.name", short));
    }
    let namespace = match &metadata["namespace"] {
        Value::Null => "default",
        Value::String(namespace) if is_label(namespace) => namespace,
        _ => return Err(error("metadata.namespace", short)),
    };
    let namespace = if kind == Kind::Namespace {
        name
    } else {
        namespace
    };
    Ok(Some(Key {
        kind,
        id: Id::new(namespace, name),
    }))
}

fn object(key: &Key, text: &str, node: &Node, value: &Value) -> Result<Object, Vec<FieldError>> {
    let id = key.id.clone();
    let mut errors = Errors::default();
    let object = match key.kind {
        Kind::Namespace => {
            let namespace = typed::<core_v1::Namespace>(text, node)?;
            Object::Namespace(convert::namespace(id, &namespace.metadata))
        }
        Kind::Deployment => {
            typed::<Deployment>(text, node)?;
            Object::Deployment(id)
        }
        Kind::Service => Object::Service(convert::service(id, &typed(text, node)?, &mut errors)),
        Kind::Pod => Object::Pod(convert::pod(id, &typed(text, node)?, &mut errors)),
        Kind::EndpointSlice => {
            let slice = typed::<EndpointSlice>(text, node)?;
            Object::EndpointSlice(convert::endpoint_slice(id, &slice, &mut errors))
        }
        Kind::TrafficPolicy => Object::TrafficPolicy(Box::new(policy(id, value)?)),
        Kind::AuthorizationPolicy => {
            Object::AuthorizationPolicy(Box::new(authorization_policy(id, value)?))
        }
        Kind::HttpRoute => Object::Route(Box::new(whole_route(RouteKind::Http, id, value)?)),
        Kind::GrpcRoute => Object::Route(Box::new(whole_route(RouteKind::Grpc, id, value)?)),
        Kind::ReferenceGrant => {
            let (grant, mut faults) = gateway::grant::read(id, value);
            faults.extend(unknown_fields(value));
            if !faults.is_empty() {
                return Err(faults);
            }
            Object::ReferenceGrant(Box::new(grant))
        }
    };
    if errors.0.is_empty() {
        Ok(object)
    } else {
        Err(errors.0)
    }
}

/// One of Kubernetes' own types; fields that it does not know are passed over.
fn typed<T: DeserializeOwned>(text: &str, node: &Node) -> Result<T, Vec<FieldError>> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = yaml::SyntaxError::from(error);
        vec![FieldError {
            field: node.path_at(error.position),
            message: error.message,
        }]
    })
}

/// A route in which everything is of its form; its generation is still to be told.
fn whole_route(kind: RouteKind, id: Id, value: &Value) -> Result<Route, Vec<FieldError>> {
    let (route, faults) = route(kind, id, value);
    let mut errors = unknown_fields(value);
    errors.extend(faults);
    if errors.is_empty() {
        Ok(route)
    } else {
        Err(errors)
    }
}

/// A route, and what of it is not of its form; its generation is still to be told.
pub fn route(kind: RouteKind, id: Id, value: &Value) -> (Route, Vec<FieldError>) {
    let id = RouteId { kind, id };
    let (says, mut faults) = gateway::route::read(&id, value);
    let route = Route {
        created: created(value, &mut faults),
        generation: 0,
        id,
        says,
    };
    (route, faults)
}

/// An AuthorizationPolicy; its generation is still to be told.
pub(super) fn authorization_policy(
    id: Id,
    value: &Value,
) -> Result<AuthorizationPolicy, Vec<FieldError>> {
    let parsed = authorization::parse::spec(&id.namespace, &value["spec"]);
    let parsed = whole(parsed, unknown_fields(value))?;
    Ok(AuthorizationPolicy {
        id,
        generation: 0,
        scope: parsed.scope,
        says: parsed.says,
    })
}

/// What was read, where nothing beside it is wrong; else all faults together.
fn whole<T>(
    parsed: Result<T, Vec<FieldError>>,
    mut errors: Vec<FieldError>,
) -> Result<T, Vec<FieldError>> {
    match parsed {
        Ok(parsed) if errors.is_empty() => Ok(parsed),
        Ok(_) => Err(errors),
        Err(more) => {
            errors.extend(more);
            Err(errors)
        }
    }
}

/// What stands beside `spec` of a policy and is not known there.
fn unknown_fields(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    for name in value
        .as_object()
        .into_iter()
        .flat_map(|fields| fields.keys())
    {
        if !known.contains(&name.as_str()) {
            let message = format!("unknown field; allowed here: {}", known.join(", "));
            errors.push(FieldError {
                field: name.clone(),
                message,
            });
        }
    }
    errors
}

/// A policy; its generation is still to be told.
pub(super) fn policy(id: Id, value: &Value) -> Result<TrafficPolicy, Vec<FieldError>> {
    let mut errors = unknown_fields(value);
    let created = created(value, &mut errors);
    let parsed = parse::spec(&id.namespace, &id.name, &value["spec"]);
    let parsed = whole(parsed, errors)?;
    Ok(TrafficPolicy {
        id,
        created,
        generation: 0,
        scope: parsed.scope,
        settings: parsed.settings,
    })
}

/// Seconds since the Unix epoch at which the object was made, where it says so.
fn created(value: &Value, errors: &mut Vec<FieldError>) -> Created {
    let written = &value["metadata"]["creationTimestamp"];
    if written.is_null() {
        return None;
    }
    match serde_json::from_value::<Time>(written.clone()) {
        Ok(time) => Some(time.0.as_second()),
        Err(error) => {
            let message = format!("must be a time as in RFC 3339: {error}");
            errors.push(FieldError {
                field: "metadata.creationTimestamp".to_owned(),
                message,
            });
            None
        }
    }
}
