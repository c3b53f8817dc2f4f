//! A pod and what is around it, as the control plane would take it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use remora_control_plane::core::Core;
use remora_control_plane::core::authorizations::AuthorizationPolicy;
use remora_control_plane::core::objects::{Event, Id, Object};
use remora_control_plane::core::store::{ResourceType, Store};
use remora_control_plane::policy::authorization::parse;
use remora_control_plane::source::convert::{self, Errors};
use remora_proto::v1;

use crate::cluster::api::Api;
use crate::cluster::error::Error;
use crate::cluster::explain::given::{Written, joined, typed};
use crate::cluster::mesh;
use crate::cluster::resources::{
    AUTHORIZATION_POLICIES, ENDPOINT_SLICES, SERVICES, TRAFFIC_POLICIES,
};

/// What is known of one pod.
#[derive(Debug)]
pub struct Given {
    /// `namespace/name`
    pub pod: String,
    /// The trust domain of its identity; absent: it has none.
    pub trust_domain: Option<String>,
    /// What its sidecar is told.
    pub workload: v1::Workload,
    /// Policies of its namespace that cannot be read, and why.
    pub invalid: Vec<String>,
}

/// Reads the pod, the Services and the policies of its namespace.
///
/// # Errors
/// When there is no such pod, it has no sidecar, or something cannot be read.
pub async fn from_cluster(api: &Api, namespace: &str, name: &str) -> Result<Given, Error> {
    let pod = mesh::pod(api, namespace, name).await?;
    if !mesh::has_sidecar(&pod) {
        return Err(Error::NotFound(format!(
            "pod {namespace}/{name} has no sidecar, so no policy guards it (`remora check -n \
             {namespace}` says why it has none)"
        )));
    }
    let read = convert::pod(Id::new(namespace, name), &pod, &mut Errors::default());
    let trust_domain = read.trust_domain.as_ref().map(ToString::to_string);
    let (mut objects, invalid) = around(api, namespace).await?;
    objects.push(Object::Pod(read));
    let workload = workload(objects, namespace, name).ok_or_else(|| Error::Answer {
        what: format!("get pods in namespace {namespace}"),
        cause: format!("the control plane's rules make no Workload of pod {name}"),
    })?;
    Ok(Given {
        pod: format!("{namespace}/{name}"),
        trust_domain,
        workload,
        invalid,
    })
}

/// Services and policies of a namespace, and the AuthorizationPolicies that
/// cannot be read.
async fn around(api: &Api, namespace: &str) -> Result<(Vec<Object>, Vec<String>), Error> {
    let scope = Some(namespace);
    let services = api.list::<Service>(&SERVICES, scope, "").await?;
    let slices = api
        .list::<EndpointSlice>(&ENDPOINT_SLICES, scope, "")
        .await?;
    let traffic = api.list::<Written>(&TRAFFIC_POLICIES, scope, "").await?;
    let authorization = api.list::<Written>(&AUTHORIZATION_POLICIES, scope, "");
    let authorization = authorization.await.map_err(|error| match error {
        Error::NotFound(message) => Error::NotFound(format!(
            "the API server knows no AuthorizationPolicy: {message} (is Remora installed, and of \
             this version? `remora check` says)"
        )),
        other => other,
    })?;
    let id = |metadata: &ObjectMeta| Id::new(namespace, metadata.name.as_deref().unwrap_or("?"));
    let errors = &mut Errors::default();
    let mut objects: Vec<Object> = Vec::new();
    for one in &services.items {
        let service = convert::service(id(&one.metadata), one, errors);
        objects.push(Object::Service(service));
    }
    for one in &slices.items {
        let slice = convert::endpoint_slice(id(&one.metadata), one, errors);
        objects.push(Object::EndpointSlice(slice));
    }
    let (traffic, _) = typed(namespace, traffic.items);
    let traffic = traffic.into_iter().map(Box::new);
    objects.extend(traffic.map(Object::TrafficPolicy));
    let mut invalid = Vec::new();
    for one in authorization.items {
        match authorization_policy(namespace, id(&one.metadata), one) {
            Ok(policy) => objects.push(Object::AuthorizationPolicy(Box::new(policy))),
            Err(why) => invalid.push(why),
        }
    }
    Ok((objects, invalid))
}

/// As the core takes it, or its name and what is wrong with it.
fn authorization_policy(
    namespace: &str,
    id: Id,
    written: Written,
) -> Result<AuthorizationPolicy, String> {
    let parsed = parse::spec(namespace, &written.spec);
    let parsed = parsed.map_err(|errors| format!("{}: {}", id.name, joined(&errors)))?;
    Ok(AuthorizationPolicy {
        generation: written.metadata.generation.unwrap_or_default(),
        scope: parsed.scope,
        says: parsed.says,
        id,
    })
}

/// What the control plane tells the pod's sidecar where there are these objects.
pub fn workload(objects: Vec<Object>, namespace: &str, name: &str) -> Option<v1::Workload> {
    let store = Arc::new(Store::default());
    let mut core = Core::new(store.clone(), None);
    core.handle(objects.into_iter().map(Event::Apply));
    let resource = store.find(ResourceType::Workload, &format!("{namespace}/{name}"))?;
    resource.open()
}
