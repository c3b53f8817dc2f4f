//! Gateway API's kinds as an API server has them. Of them nothing is kept but
//! what [`super::read`] makes of them, so these types have no values.

use std::borrow::Cow;

use kube::Resource;
use kube::api::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde_json::Value;

use super::read::{Watchable, generation};
use crate::core::objects::{Id, Kind, Object};
use crate::core::routes::RouteKind;
use crate::gateway::{self, GROUP};
use crate::policy::check::FieldError;
use crate::source::convert::Errors;
use crate::source::document;

/// A kind of the group, at one version of it.
macro_rules! kind {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $plural:literal, $version:literal) => {
        $(#[$doc])*
        pub enum $name {}

        impl Resource for $name {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group(_: &()) -> Cow<'_, str> {
                GROUP.into()
            }

            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                match *self {}
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                match *self {}
            }
        }
    };
}

kind!(
    /// gateway.networking.k8s.io/v1 HTTPRoute
    HttpRoute, "HTTPRoute", "httproutes", "v1"
);
kind!(
    /// gateway.networking.k8s.io/v1 GRPCRoute
    GrpcRoute, "GRPCRoute", "grpcroutes", "v1"
);
kind!(
    /// gateway.networking.k8s.io/v1 ReferenceGrant
    ReferenceGrant, "ReferenceGrant", "referencegrants", "v1"
);
kind!(
    /// gateway.networking.k8s.io/v1beta1 ReferenceGrant: all that releases before
    /// v1.5 have.
    ReferenceGrantV1beta1, "ReferenceGrant", "referencegrants", "v1beta1"
);

impl Watchable for HttpRoute {
    const KIND: Kind = Kind::HttpRoute;

    fn object(id: Id, value: &Value, _: &mut Errors) -> Result<Object, Vec<FieldError>> {
        Ok(route(RouteKind::Http, id, value))
    }
}

impl Watchable for GrpcRoute {
    const KIND: Kind = Kind::GrpcRoute;

    fn object(id: Id, value: &Value, _: &mut Errors) -> Result<Object, Vec<FieldError>> {
        Ok(route(RouteKind::Grpc, id, value))
    }
}

/// What of it cannot be is said in its status, rule by rule.
fn route(kind: RouteKind, id: Id, value: &Value) -> Object {
    let (mut route, _) = document::route(kind, id, value);
    route.generation = generation(value);
    Object::Route(Box::new(route))
}

impl Watchable for ReferenceGrant {
    const KIND: Kind = Kind::ReferenceGrant;

    fn object(id: Id, value: &Value, faults: &mut Errors) -> Result<Object, Vec<FieldError>> {
        Ok(grant(id, value, faults))
    }
}

impl Watchable for ReferenceGrantV1beta1 {
    const KIND: Kind = Kind::ReferenceGrant;

    fn object(id: Id, value: &Value, faults: &mut Errors) -> Result<Object, Vec<FieldError>> {
        Ok(grant(id, value, faults))
    }
}

/// An entry that cannot be read allows nothing.
fn grant(id: Id, value: &Value, faults: &mut Errors) -> Object {
    let (grant, errors) = gateway::grant::read(id, value);
    faults.0.extend(errors);
    Object::ReferenceGrant(Box::new(grant))
}
