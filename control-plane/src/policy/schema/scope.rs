//! Whom a policy of either kind is for: `targetRefs`, or `podSelector`.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::{Reason, Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::routes::RouteKind;
use crate::policy::forms;

/// What of `targetRefs` and `podSelector` is given.
pub const ONE_SCOPE: &str = "must have exactly one of: targetRefs, podSelector";
/// What of a [`LabelExpression`] is given.
pub const VALUES_FIT: &str =
    "must have values for In and NotIn, and none for Exists and DoesNotExist";

/// What the policy is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// The API group of the target: empty, which is the core group. Default: empty. Example: "".
    #[serde(default)]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self == ''").message("must be \"\" (the core group)"))]
    pub group: String,
    /// The kind of the target: a Service of the policy's namespace, or Namespace for all of them.
    ///
    /// Example: Service.
    pub kind: TargetKind,
    /// The name of the target. For kind Namespace it is the policy's own namespace; another one is
    /// not in force, and status says so.
    ///
    /// Example: catalog.
    #[schemars(length(min = 1, max = forms::NAME_LENGTH), extend("pattern" = forms::NAME))]
    pub name: String,
}

/// What a TrafficPolicy is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = group_fits())]
#[x_kube(validation = section_fits())]
pub struct AttachRef {
    /// The API group of the target: empty for a Service or a Namespace, gateway.networking.k8s.io
    /// for a route. Default: empty. Example: "".
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// The kind of the target: a Service of the policy's namespace, or Namespace for all of them;
    /// HTTPRoute or GRPCRoute, of the policy's namespace too, for what goes by that route.
    ///
    /// Example: Service.
    pub kind: AttachKind,
    /// The name of the target. For kind Namespace it is the policy's own namespace; another one is
    /// not in force, and status says so.
    ///
    /// Example: catalog.
    #[schemars(length(min = 1, max = forms::NAME_LENGTH), extend("pattern" = forms::NAME))]
    pub name: String,
    /// The name of one rule of the route: then the policy is for that rule alone, and wins over one
    /// for the whole route.
    ///
    /// Default: none. Example: canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = forms::NAME_LENGTH), extend("pattern" = forms::NAME))]
    pub section_name: Option<String>,
}

/// What a TrafficPolicy may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum AttachKind {
    /// One Service.
    Service,
    /// Every Service of the policy's namespace, by default.
    Namespace,
    /// One HTTPRoute, or a rule of it.
    #[serde(rename = "HTTPRoute")]
    HttpRoute,
    /// One GRPCRoute, or a rule of it.
    #[serde(rename = "GRPCRoute")]
    GrpcRoute,
}

impl AttachKind {
    /// The kind of route that it is, where it is one.
    pub fn route(self) -> Option<RouteKind> {
        match self {
            Self::Service | Self::Namespace => None,
            Self::HttpRoute => Some(RouteKind::Http),
            Self::GrpcRoute => Some(RouteKind::Grpc),
        }
    }
}

/// The group of an [`AttachRef`].
pub const GROUP_FITS: &str = "must be gateway.networking.k8s.io for HTTPRoute and GRPCRoute, and \"\" (the core group) for \
     Service and Namespace";
/// Its `sectionName`.
pub const SECTION_FITS: &str =
    "is the name of a rule of a route: a Service and a Namespace have none";

fn group_fits() -> Rule {
    Rule::new(
        "self.group == (self.kind in ['HTTPRoute', 'GRPCRoute'] ? 'gateway.networking.k8s.io' : '')",
    )
    .message(GROUP_FITS)
    .field_path(".group")
}

fn section_fits() -> Rule {
    Rule::new("!has(self.sectionName) || self.kind in ['HTTPRoute', 'GRPCRoute']")
        .message(SECTION_FITS)
        .field_path(".sectionName")
        .reason(Reason::FieldValueForbidden)
}

/// What a policy of either kind may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum TargetKind {
    /// One Service.
    Service,
    /// Every Service of the policy's namespace, by default.
    Namespace,
}

/// Pods by their labels, as in Kubernetes: all that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// Labels that a pod must have, with these values.
    ///
    /// Default: any labels. Example: {app: cart}.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 16, "additionalProperties" = forms::label_value()))]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// What must hold of a pod's labels, every one of these.
    ///
    /// Default: none. Example: [{key: track, operator: NotIn, values: [canary]}].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub match_expressions: Option<Vec<LabelExpression>>,
}

/// What must hold of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = values_fit())]
pub struct LabelExpression {
    /// The label's key.
    ///
    /// Example: track.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// In: the label has one of values. NotIn: it has none of them, or is not there. Exists, and
    /// DoesNotExist: it is there, or not, whatever its value.
    ///
    /// Example: NotIn.
    pub operator: Operator,
    /// The values of In and NotIn; Exists and DoesNotExist have none.
    ///
    /// Default: none. Example: [canary].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("items" = forms::label_value()))]
    pub values: Option<Vec<String>>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of them.
    NotIn,
    /// It is there.
    Exists,
    /// It is not.
    DoesNotExist,
}

/// For `targetRefs`.
pub fn targets_differ() -> Rule {
    Rule::new("self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name))")
        .message("names a target twice")
}

/// For those of a TrafficPolicy.
pub fn attached_differ() -> Rule {
    let same_rule = "(has(a.sectionName) ? a.sectionName : '') == \
                     (has(b.sectionName) ? b.sectionName : '')";
    Rule::new(format!(
        "self.all(a, self.exists_one(b, a.kind == b.kind && a.name == b.name && {same_rule}))"
    ))
    .message("names a target twice")
}

/// For the `spec` of a policy that is for targets or for pods.
pub fn one_scope() -> Rule {
    Rule::new("has(self.targetRefs) != has(self.podSelector)").message(ONE_SCOPE)
}

fn values_fit() -> Rule {
    Rule::new("(self.operator == 'In' || self.operator == 'NotIn') == has(self.values)")
        .message(VALUES_FIT)
}
