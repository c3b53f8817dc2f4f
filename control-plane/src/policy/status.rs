//! What the control plane writes back into a policy's `status`: the shape that
//! Gateway API asks of a policy (GEP-713, `PolicyStatus`), and beside it how
//! many sidecars have the policy and what its breakers are doing.
//!
//! Only the shape is here. What stands in it, and when it is written, is not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the policy. Written by the control plane alone.
// Unknown fields are taken: a status may have been written by a newer replica.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyStatus {
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
    /// is the gravest of theirs: Invalid before Conflicted before TargetNotFound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<StatusCondition>,
    /// How many sidecars are to have the policy, have it, and refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarCounts>,
    /// What the breakers of the policy's targets are doing, over all sidecars that report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breakers: Option<BreakerCounts>,
}

/// What became of a policy at one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The target, as spec.targetRefs names it.
    pub ancestor_ref: AncestorRef,
    /// Who wrote this entry: remora.io/control-plane.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// Accepted: whether the policy is in force at this target, and why where it is not.
    /// ResolvedRefs: whether what fallback.backendRef names can be taken; only where it is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<StatusCondition>,
    /// What is in force at this target, of all policies together, field by field, as
    /// `remora explain` prints it: at most 128 fields, and 256 bytes of each value. Of a route it
    /// is what the policies of the route and its rule say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "atomic"))]
    pub effective: Vec<EffectiveField>,
}

/// One field that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EffectiveField {
    /// Its path below spec, such as retries.budget.percent.
    #[schemars(length(max = 253))]
    pub field: String,
    /// Its value, as a policy would write it.
    #[schemars(length(max = 1024))]
    pub value: String,
    /// The policy that says so; not given where it is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub from: Option<String>,
}

/// A target of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// The API group of the target; empty is the core group.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// The kind of the target: Service or Namespace.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The namespace of the target. Not given where the target is a Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// The name of the target.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The part of the target that is meant; not given where it is the whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// One condition, in the form that Kubernetes uses everywhere (metav1.Condition).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusCondition {
    /// What is judged: Accepted, or ResolvedRefs.
    #[schemars(length(min = 1, max = 316))]
    pub r#type: String,
    /// True, False or Unknown.
    #[schemars(extend("enum" = ["True", "False", "Unknown"]))]
    pub status: String,
    /// Why, in one word: Accepted, Invalid, Conflicted or TargetNotFound.
    #[schemars(
        length(min = 1, max = 1024),
        extend("pattern" = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")
    )]
    pub reason: String,
    /// Why, in words: what is wrong and what to check.
    #[schemars(length(max = 32_768))]
    pub message: String,
    /// When status last changed (RFC 3339), such as 2026-11-20T12:00:00Z.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The metadata.generation that this condition is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
}

/// Sidecars, by what they did with the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarCounts {
    /// Sidecars that subscribe to something in which the policy takes part.
    pub total: u32,
    /// Those of them in which this generation of the policy is in force.
    pub applied: u32,
    /// Those of them that did not take it; each goes on with the last good one. An Event at the
    /// policy says why.
    pub refused: u32,
}

/// Breakers that are not closed. Each sidecar has its own breaker for an endpoint, and each counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerCounts {
    /// Breakers that are open: the endpoint (or service) gets no traffic from that sidecar.
    pub open: u32,
    /// Breakers that are half open: a few requests go through to see whether it is well again.
    pub half_open: u32,
}
