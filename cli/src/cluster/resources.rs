//! The kinds that are asked for, and their paths in the API.

use std::fmt::Write;

/// A kind of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The group; empty is the core.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The plural, as in paths.
    pub plural: &'static str,
}

const fn resource(group: &'static str, version: &'static str, plural: &'static str) -> Resource {
    Resource {
        group,
        version,
        plural,
    }
}

/// Namespaces.
pub const NAMESPACES: Resource = resource("", "v1", "namespaces");
/// Pods.
pub const PODS: Resource = resource("", "v1", "pods");
/// Services.
pub const SERVICES: Resource = resource("", "v1", "services");
/// Secrets.
pub const SECRETS: Resource = resource("", "v1", "secrets");
/// ServiceAccounts.
pub const SERVICE_ACCOUNTS: Resource = resource("", "v1", "serviceaccounts");
/// Deployments.
pub const DEPLOYMENTS: Resource = resource("apps", "v1", "deployments");
/// EndpointSlices.
pub const ENDPOINT_SLICES: Resource = resource("discovery.k8s.io", "v1", "endpointslices");
/// Leases.
pub const LEASES: Resource = resource("coordination.k8s.io", "v1", "leases");
/// CustomResourceDefinitions.
pub const DEFINITIONS: Resource =
    resource("apiextensions.k8s.io", "v1", "customresourcedefinitions");
/// MutatingWebhookConfigurations.
pub const MUTATING_WEBHOOKS: Resource = resource(
    "admissionregistration.k8s.io",
    "v1",
    "mutatingwebhookconfigurations",
);
/// TrafficPolicies.
pub const TRAFFIC_POLICIES: Resource = resource("remora.io", "v1alpha1", "trafficpolicies");
/// AuthorizationPolicies.
pub const AUTHORIZATION_POLICIES: Resource =
    resource("remora.io", "v1alpha1", "authorizationpolicies");
/// HTTPRoutes.
pub const HTTP_ROUTES: Resource = resource("gateway.networking.k8s.io", "v1", "httproutes");
/// GRPCRoutes.
pub const GRPC_ROUTES: Resource = resource("gateway.networking.k8s.io", "v1", "grpcroutes");
/// ReferenceGrants.
pub const REFERENCE_GRANTS: Resource =
    resource("gateway.networking.k8s.io", "v1", "referencegrants");
/// ReferenceGrants, as releases before v1.5 have them.
pub const REFERENCE_GRANTS_V1BETA1: Resource =
    resource("gateway.networking.k8s.io", "v1beta1", "referencegrants");
/// PodDisruptionBudgets.
pub const DISRUPTION_BUDGETS: Resource = resource("policy", "v1", "poddisruptionbudgets");
/// NetworkPolicies.
pub const NETWORK_POLICIES: Resource = resource("networking.k8s.io", "v1", "networkpolicies");
/// PriorityClasses.
pub const PRIORITY_CLASSES: Resource = resource("scheduling.k8s.io", "v1", "priorityclasses");
/// ClusterRoles.
pub const CLUSTER_ROLES: Resource = resource("rbac.authorization.k8s.io", "v1", "clusterroles");
/// ClusterRoleBindings.
pub const CLUSTER_ROLE_BINDINGS: Resource =
    resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings");
/// Roles.
pub const ROLES: Resource = resource("rbac.authorization.k8s.io", "v1", "roles");
/// RoleBindings.
pub const ROLE_BINDINGS: Resource = resource("rbac.authorization.k8s.io", "v1", "rolebindings");
/// SelfSubjectAccessReviews.
pub const ACCESS_REVIEWS: Resource =
    resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews");

impl Resource {
    /// As RBAC and kubectl write it: `deployments.apps`.
    pub fn shown(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The path of all of them, or of one.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        // Writing to a String cannot fail.
        if let Some(namespace) = namespace {
            let _ = write!(path, "/namespaces/{namespace}");
        }
        let _ = write!(path, "/{}", self.plural);
        if let Some(name) = name {
            let _ = write!(path, "/{name}");
        }
        path
    }
}

/// A value in a query, by RFC 3986.
pub fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_apis() {
        assert_eq!(PODS.path(None, None), "/api/v1/pods");
        assert_eq!(
            DEPLOYMENTS.path(Some("shop"), Some("web")),
            "/apis/apps/v1/namespaces/shop/deployments/web"
        );
        assert_eq!(DEPLOYMENTS.shown(), "deployments.apps");
        assert_eq!(
            encoded("remora.io/inject=enabled"),
            "remora.io%2Finject%3Denabled"
        );
    }
}
