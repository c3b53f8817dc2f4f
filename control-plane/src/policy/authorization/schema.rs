//! The custom resource AuthorizationPolicy as users write it. What is said of
//! [`crate::policy::schema`] holds here too.

use kube::core::Rule;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words;
use crate::policy::forms;
use crate::policy::schema::{PodSelector, TargetRef, one_scope, targets_differ};
use crate::policy::status::{PolicyAncestorStatus, SidecarCounts, StatusCondition};

/// Who may call the pods that it is for. A Deny that matches wins. A port of a pod for which no
/// Allow counts is open to all whom no Deny matches; where there is one or more, only what one of
/// them matches may pass. What may not is answered with 403, PERMISSION_DENIED for gRPC, or a
/// reset connection where it is not HTTP.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "remora.io",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced,
    shortname = "ap",
    category = "remora",
    status = "AuthorizationPolicyStatus",
    doc = "Who may call the pods of a Service, of a Namespace, or those that a selector names.",
    label("gateway.networking.k8s.io/policy", "Inherited"),
    printcolumn(
        name = "Action",
        type_ = "string",
        json_path = ".spec.action",
        description = "What a call that matches means"
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the policy is in force at all of its targets"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason",
        description = "Why it is, or is not"
    ),
    printcolumn(
        name = "Sidecars",
        type_ = "integer",
        json_path = ".status.sidecars.total",
        description = "Sidecars that are to have the policy"
    ),
    printcolumn(
        name = "Applied",
        type_ = "integer",
        json_path = ".status.sidecars.applied",
        description = "Sidecars in which it is in force"
    ),
    printcolumn(
        name = "Refused",
        type_ = "integer",
        json_path = ".status.sidecars.refused",
        description = "Sidecars that did not take it"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[allow(
    clippy::duplicated_attributes,
    reason = "columns of one type, each with its own attribute"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = one_scope())]
pub struct AuthorizationPolicySpec {
    /// What the policy is for: Services of its own namespace, whose ports it guards in the pods
    /// that they cover; or that namespace itself, with every port of all of its pods. No target is
    /// named twice. Either this or podSelector is given.
    ///
    /// Example: [{group: "", kind: Service, name: cart}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = targets_differ())]
    pub target_refs: Option<Vec<TargetRef>>,
    /// The pods of the policy's namespace that it is for, with every port; an empty selector
    /// selects all of them. Either this or targetRefs is given.
    ///
    /// Example: {matchLabels: {app: cart}}.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<PodSelector>,
    /// What it means where from and to match. Allow: it may pass. Deny: it may not, whatever is
    /// allowed. Audit: it is counted and logged, and nothing is refused.
    ///
    /// Example: Allow.
    pub action: Action,
    /// Of whom, any of these entries. Callers have an identity only by mutual TLS between
    /// sidecars.
    ///
    /// Default: everybody, callers without an identity too. Example: [{identities: [shop/web]}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub from: Option<Vec<From>>,
    /// What, any of these entries. On a connection that is not HTTP an Allow with methods, paths
    /// or grpcMethods never matches, and a Deny or Audit matches on its other fields. A Deny with
    /// neither from nor to denies everything.
    ///
    /// Default: everything. Example: [{methods: [GET], paths: [/items/*]}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub to: Option<Vec<To>>,
}

/// What a call that matches means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum Action {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// It is told.
    Audit,
}

/// Callers: all fields that are given must match, in a list any entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = from_says_something())]
pub struct From {
    /// Who the caller is: the whole SPIFFE id, or namespace/service account for the mesh's own
    /// trust domain.
    ///
    /// Default: anybody in namespaces. Example: [shop/web].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("items" = words::identity()))]
    pub identities: Option<Vec<String>>,
    /// The namespace of the caller's identity.
    ///
    /// Default: any namespace. Example: [shop].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("items" = words::namespace()))]
    pub namespaces: Option<Vec<String>>,
}

/// Requests and connections: all fields that are given must match, in a list any entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = to_says_something())]
pub struct To {
    /// The HTTP method, in capitals. A method that X-HTTP-Method-Override, X-HTTP-Method or
    /// X-Method-Override asks for counts too: it must be allowed as well, and is denied as well.
    ///
    /// Default: any method. Example: [GET, HEAD].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("items" = forms::http_method()))]
    pub methods: Option<Vec<String>>,
    /// The path without what follows a question mark: /exact, or /prefix/* for /prefix and all
    /// below it. Compared in its normal form, in which the application receives it too; a path
    /// that servers read in more than one way is answered with 400.
    ///
    /// Default: any path. Example: [/healthz, /items/*].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("items" = words::path()))]
    pub paths: Option<Vec<String>>,
    /// Methods of gRPC: package.Service/Method, or package.Service/* for all of the service.
    ///
    /// Default: any method. Example: [shop.Cart/Add].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), extend("items" = words::grpc_method()))]
    pub grpc_methods: Option<Vec<String>>,
    /// The pod's ports, on which the application listens (not the Service's).
    ///
    /// Default: any port that the policy is for. Example: [8080].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(range(min = 1, max = 65_535)))]
    pub ports: Option<Vec<u32>>,
}

/// What became of the policy. Written by the control plane alone.
// Unknown fields are taken: a status may have been written by a newer replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicyStatus {
    /// The metadata.generation that the rest of the status is about. Where it is less than the
    /// object's own, the control plane has not yet looked at the newest change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What became of the policy at each of its targets, one entry for each, at most 16
    /// (Gateway API policy attachment, GEP-713). Of a podSelector it is the Namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub ancestors: Vec<PolicyAncestorStatus>,
    /// The policy as a whole. Accepted is True where it is True at every target; else the reason
    /// is the gravest of theirs: Invalid before TargetNotFound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<StatusCondition>,
    /// How many sidecars are to have the policy, have it, and refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarCounts>,
}

fn from_says_something() -> Rule {
    Rule::new("has(self.identities) || has(self.namespaces)")
        .message("must have at least one of: identities, namespaces")
}

fn to_says_something() -> Rule {
    Rule::new("has(self.methods) || has(self.paths) || has(self.grpcMethods) || has(self.ports)")
        .message("must have at least one of: methods, paths, grpcMethods, ports")
}
