//! What the routes of a Service depend on, from a cluster: routes and policies
//! of other namespaces, the Services that they name, and who grants them that.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use remora_control_plane::core::objects::{Id, Name, Object};
use remora_control_plane::core::routes::{Route, RouteKind};
use remora_control_plane::gateway::grant;
use remora_control_plane::source::convert::{self, Errors};
use remora_control_plane::source::document;
use serde_json::Value;

use super::given::{Written, typed};
use crate::cluster::api::Api;
use crate::cluster::error::Error;
use crate::cluster::resources::{
    GRPC_ROUTES, HTTP_ROUTES, REFERENCE_GRANTS, REFERENCE_GRANTS_V1BETA1, Resource, SERVICES,
    TRAFFIC_POLICIES,
};

/// Namespaces that are read for the routes of one Service, at most.
const MAX_NAMESPACES: usize = 64;

/// What was found.
#[derive(Debug, Default)]
pub struct Around {
    /// The objects.
    pub objects: Vec<Object>,
    /// What could not be looked at, where something could not.
    pub doubt: Option<String>,
}

/// Everything but the Service and the policies of its own namespace; nothing where
/// it has no routes.
///
/// # Errors
/// When something is there and cannot be read.
pub async fn read(api: &Api, service: &Id) -> Result<Around, Error> {
    let mut doubt = None;
    let mut routes = Vec::new();
    for (kind, resource) in [
        (RouteKind::Http, &HTTP_ROUTES),
        (RouteKind::Grpc, &GRPC_ROUTES),
    ] {
        routes.extend(of_kind(api, kind, resource, service, &mut doubt).await?);
    }
    routes.retain(|route| {
        let namespace = &route.id.id.namespace;
        let mut parents = route.says.parents.iter();
        parents.any(|parent| parent.service(namespace) == *service)
    });
    let objects = if routes.is_empty() {
        Vec::new()
    } else {
        named(api, service, routes).await?
    };
    Ok(Around { objects, doubt })
}

/// Routes, and what they name.
async fn named(api: &Api, service: &Id, routes: Vec<Route>) -> Result<Vec<Object>, Error> {
    let mut backends = BTreeSet::from([service.namespace.clone()]);
    let mut callers = BTreeSet::new();
    for route in &routes {
        let own = &route.id.id.namespace;
        backends.extend(route.backends().map(|backend| backend.id(own).namespace));
        callers.insert(own.clone());
    }
    callers.remove(&service.namespace);
    let mut objects: Vec<Object> = routes
        .into_iter()
        .map(|route| Object::Route(Box::new(route)))
        .collect();
    for namespace in backends.iter().take(MAX_NAMESPACES) {
        objects.extend(services(api, namespace).await?);
        if *namespace != service.namespace || !callers.is_empty() {
            objects.extend(grants(api, namespace).await?);
        }
    }
    // A route's policies are of its own namespace.
    for namespace in callers.iter().take(MAX_NAMESPACES) {
        let policies = api
            .list::<Written>(&TRAFFIC_POLICIES, Some(namespace), "")
            .await?;
        let (policies, _) = typed(namespace, policies.items);
        let policies = policies.into_iter().map(Box::new);
        objects.extend(policies.map(Object::TrafficPolicy));
    }
    Ok(objects)
}

/// All objects of a kind; none where its definition is not installed.
async fn list(
    api: &Api,
    resource: &Resource,
    namespace: Option<&str>,
) -> Result<Vec<Value>, Error> {
    match api.list::<Value>(resource, namespace, "").await {
        Ok(list) => Ok(list.items),
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The routes of a kind; only those of the Service's own namespace where others may
/// not be read.
async fn of_kind(
    api: &Api,
    kind: RouteKind,
    resource: &Resource,
    service: &Id,
    doubt: &mut Option<String>,
) -> Result<Vec<Route>, Error> {
    let listed = match list(api, resource, None).await {
        Err(error) if error.is_forbidden() => {
            let own = &service.namespace;
            *doubt = Some(format!(
                "routes of other namespaces than {own} were not looked at: {error}"
            ));
            match list(api, resource, Some(own)).await {
                Err(error) if error.is_forbidden() => {
                    *doubt = Some(format!("routes were not looked at: {error}"));
                    Vec::new()
                }
                listed => listed?,
            }
        }
        listed => listed?,
    };
    let routes = listed.iter().map(|value| {
        let (mut route, _) = document::route(kind, id(value), value);
        let generation = value["metadata"]["generation"].as_i64();
        route.generation = generation.unwrap_or_default();
        route
    });
    Ok(routes.collect())
}

async fn services(api: &Api, namespace: &Name) -> Result<Vec<Object>, Error> {
    let listed = api.list::<Service>(&SERVICES, Some(namespace), "").await?;
    let services = listed.items.iter().map(|service| {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let id = Id::new(namespace, name);
        Object::Service(convert::service(id, service, &mut Errors::default()))
    });
    Ok(services.collect())
}

async fn grants(api: &Api, namespace: &Name) -> Result<Vec<Object>, Error> {
    let mut listed = list(api, &REFERENCE_GRANTS, Some(namespace)).await?;
    if listed.is_empty() {
        listed = list(api, &REFERENCE_GRANTS_V1BETA1, Some(namespace)).await?;
    }
    let grants = listed.iter().map(|value| {
        let (grant, _) = grant::read(id(value), value);
        Object::ReferenceGrant(Box::new(grant))
    });
    Ok(grants.collect())
}

fn id(value: &Value) -> Id {
    let word = |name: &str| value["metadata"][name].as_str().unwrap_or_default();
    Id::new(word("namespace"), word("name"))
}
