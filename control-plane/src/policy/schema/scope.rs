//! Whom a policy of either kind is for: `targetRefs`, or `podSelector`.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// What a policy may be attached to.
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

/// For the `spec` of a policy that is for targets or for pods.
pub fn one_scope() -> Rule {
    Rule::new("has(self.targetRefs) != has(self.podSelector)").message(ONE_SCOPE)
}

fn values_fit() -> Rule {
    Rule::new("(self.operator == 'In' || self.operator == 'NotIn') == has(self.values)")
        .message(VALUES_FIT)
}
