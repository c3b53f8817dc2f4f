//! Whether what a route, or the fallback of a policy, names as a backend can be taken.

use remora_proto::v1;

use super::{BackendRef, GrantFrom, Route};
use crate::core::index::Index;
use crate::core::objects::{Id, Kind, Reach};
use crate::core::settings::trouble::FallbackBackend;

/// Why a reference cannot be taken, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefReason {
    /// Of a kind that is no Service.
    InvalidKind,
    /// In another namespace, which grants it not.
    RefNotPermitted,
    /// It is not there.
    BackendNotFound,
    /// What it speaks is not what the route carries.
    UnsupportedProtocol,
}

impl RefReason {
    /// As it stands in a status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidKind => "InvalidKind",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::BackendNotFound => "BackendNotFound",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
        }
    }
}

/// A reference that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// In one word.
    pub reason: RefReason,
    /// In words: the field, what is wrong, and what to do.
    pub message: String,
}

/// A backend of the calls to `parent` as sidecars get it, and why it cannot be
/// taken where it cannot.
pub fn backend(
    index: &Index,
    parent: &Id,
    route: &Route,
    written: &BackendRef,
) -> (v1::BackendReference, Option<Unresolved>) {
    let unresolved = fault(index, parent, route, written).map(|(reason, why)| Unresolved {
        reason,
        message: format!("{}: {why}", written.field),
    });
    let id = written.id(&route.id.id.namespace);
    let reference = v1::BackendReference {
        namespace: id.namespace.to_string(),
        service: id.name.to_string(),
        port: written.port.unwrap_or(0).into(),
        cannot: unresolved
            .as_ref()
            .map(|unresolved| unresolved.message.clone())
            .unwrap_or_default(),
    };
    (reference, unresolved)
}

fn fault(
    index: &Index,
    parent: &Id,
    route: &Route,
    written: &BackendRef,
) -> Option<(RefReason, String)> {
    let own = &route.id.id.namespace;
    if !written.is_service() {
        return Some((RefReason::InvalidKind, no_service(written)));
    }
    let id = written.id(own);
    // Calls to the backend itself reach it anyway; those to another parent do not,
    // and may come from callers who are let in there while the route's owner is not.
    let from = || GrantFrom {
        kind: route.id.kind.kind(),
        namespace: own.clone(),
    };
    let is_granted = || id == *parent || index.routes.is_granted(&from(), &id);
    // Before anything is said of what is there: that too is not for everybody.
    if id.namespace != *own && !is_granted() {
        let why = not_granted(&id, &route.id.kind.kind(), own);
        return Some((RefReason::RefNotPermitted, why));
    }
    port_fault(index, &id, written.port)
}

/// Why the backend of a policy's fallback cannot be taken, where it cannot.
pub fn fallback(index: &Index, written: &FallbackBackend) -> Option<Unresolved> {
    let FallbackBackend {
        from,
        service: id,
        port,
    } = written;
    let from = GrantFrom {
        kind: Kind::TrafficPolicy,
        namespace: from.clone(),
    };
    let is_foreign = id.namespace != from.namespace;
    // Before anything is said of what is there: that too is not for everybody.
    let fault = if is_foreign && !index.routes.is_granted(&from, id) {
        let why = not_granted(id, &from.kind, &from.namespace);
        Some((RefReason::RefNotPermitted, why))
    } else {
        port_fault(index, id, Some(*port))
    };
    fault.map(|(reason, why)| Unresolved {
        reason,
        message: format!("spec.fallback.backendRef: {why}"),
    })
}

/// The same in words, of the calls to a Service: to send one of them there again would be a retry
/// that no budget knows.
pub fn cannot<'a>(
    index: &'a Index,
    called: Option<&'a Id>,
) -> impl Fn(&FallbackBackend) -> Option<String> + 'a {
    move |backend| match called.filter(|called| **called == backend.service) {
        Some(itself) => Some(format!(
            "spec.fallback.backendRef: Service {itself} is the called one itself, must be another"
        )),
        None => fallback(index, backend).map(|unresolved| unresolved.message),
    }
}

fn not_granted(id: &Id, kind: &Kind, namespace: &str) -> String {
    format!(
        "Service {id} is in another namespace: a ReferenceGrant in {} must allow it from {} of \
         {namespace}",
        id.namespace,
        kind.as_str()
    )
}

/// Why no endpoints of a Service's port can be had, where they cannot.
fn port_fault(index: &Index, id: &Id, port: Option<u16>) -> Option<(RefReason, String)> {
    let Some(service) = index.services.get(id) else {
        let why = format!("Service {id} does not exist");
        return Some((RefReason::BackendNotFound, why));
    };
    if service.reach == Reach::ExternalName {
        let why = format!("Service {id} is an ExternalName, of which there are no endpoints");
        return Some((RefReason::BackendNotFound, why));
    }
    let Some(number) = port else {
        return Some((
            RefReason::BackendNotFound,
            format!("a port of Service {id} must be given"),
        ));
    };
    let Some(port) = service.ports.iter().find(|port| port.port == number) else {
        let ports: Vec<String> = service
            .ports
            .iter()
            .map(|one| one.port.to_string())
            .collect();
        let ports = ports.join(", ");
        return Some((
            RefReason::BackendNotFound,
            format!("Service {id} has no port {number}; it has: {ports}"),
        ));
    };
    (port.protocol == v1::Protocol::Tcp).then(|| {
        (
            RefReason::UnsupportedProtocol,
            format!(
                "port {number} of Service {id} carries bytes, not HTTP, as its appProtocol, its \
                 name or remora.io/opaque-ports says"
            ),
        )
    })
}

fn no_service(written: &BackendRef) -> String {
    let group = match &*written.group {
        "" => "core",
        group => group,
    };
    format!(
        "{} of {group} is no backend here: name a Service",
        written.kind
    )
}
