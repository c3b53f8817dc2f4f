//! `targetRefs` or `podSelector` of a policy of either kind, read.

use serde_json::Value;

use super::forms;
use super::parse::Faults;
use super::schema::{AttachKind, AttachRef, GROUP_FITS, SECTION_FITS, TargetKind, TargetRef};
use super::schema::{LabelExpression, ONE_SCOPE, Operator, PodSelector, VALUES_FIT};
use crate::core::objects::Target;
use crate::core::scope::{Requirement, Scope, Selector};
use crate::gateway::GROUP;

/// A target as a policy of either kind writes it.
pub(super) trait Attach {
    /// The target, in a namespace, and what is wrong with it.
    fn target(&self, namespace: &str, field: &str, faults: &mut Faults) -> Target;
}

impl Attach for TargetRef {
    fn target(&self, namespace: &str, field: &str, faults: &mut Faults) -> Target {
        if !self.group.is_empty() {
            let message = format!("is {:?}, must be \"\" (the core group)", self.group);
            faults.add(format!("{field}.group"), message);
        }
        match self.kind {
            TargetKind::Service => Target::Service(self.name.as_str().into()),
            TargetKind::Namespace => own_namespace(&self.name, namespace, field, faults),
        }
    }
}

impl Attach for AttachRef {
    fn target(&self, namespace: &str, field: &str, faults: &mut Faults) -> Target {
        let route = self.kind.route();
        let group = route.map_or("", |_| GROUP);
        if self.group != group {
            let message = format!("is {:?}, {GROUP_FITS}", self.group);
            faults.add(format!("{field}.group"), message);
        }
        if route.is_none() && self.section_name.is_some() {
            faults.add(format!("{field}.sectionName"), SECTION_FITS);
        }
        let name = self.name.as_str();
        match (self.kind, route) {
            (_, Some(kind)) => Target::Route {
                kind,
                name: name.into(),
                rule: self.section_name.as_deref().map(Into::into),
            },
            (AttachKind::Namespace, None) => own_namespace(name, namespace, field, faults),
            (_, None) => Target::Service(name.into()),
        }
    }
}

fn own_namespace(name: &str, namespace: &str, field: &str, faults: &mut Faults) -> Target {
    if name != namespace {
        let message =
            format!("is {name:?}, must be {namespace:?}: a policy is for its own namespace only");
        faults.add(format!("{field}.name"), message);
    }
    Target::Namespace
}

/// Whom the policy with this `spec` is for, of which `read` could be read.
pub(super) fn read<T: Attach>(
    namespace: &str,
    read: (Option<&Vec<T>>, Option<&PodSelector>),
    written: &Value,
    faults: &mut Faults,
) -> Scope {
    // What is there and faulty is there.
    let has = |field: &str| written.get(field).is_some_and(|value| !value.is_null());
    if has("targetRefs") == has("podSelector") && !faults.are_below("spec.podSelector") {
        faults.add("spec", ONE_SCOPE);
    }
    match read {
        (_, Some(selector)) => Scope::Pods(pods(selector, faults)),
        (Some(refs), None) => Scope::Targets(targets(namespace, refs, faults)),
        (None, None) => Scope::Targets(Vec::new()),
    }
}

fn targets<T: Attach>(namespace: &str, refs: &[T], faults: &mut Faults) -> Vec<Target> {
    let mut targets = Vec::new();
    for (index, reference) in refs.iter().enumerate() {
        let field = format!("spec.targetRefs[{index}]");
        let target = reference.target(namespace, &field, faults);
        if targets.contains(&target) {
            faults.add(field, "names a target that stands before it already");
        } else {
            targets.push(target);
        }
    }
    targets
}

fn pods(selector: &PodSelector, faults: &mut Faults) -> Selector {
    let mut requirements = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        if !forms::is_label_value(value) {
            let field = format!("spec.podSelector.matchLabels.{key}");
            faults.add(
                field,
                format!("is {value:?}, must be {}", forms::LABEL_VALUE),
            );
        }
        requirements.push(Requirement::In(key.clone(), vec![value.clone()]));
    }
    let expressions = selector.match_expressions.iter().flatten();
    for (index, expression) in expressions.enumerate() {
        let at = format!("spec.podSelector.matchExpressions[{index}]");
        requirements.push(requirement(&at, expression, faults));
    }
    Selector(requirements)
}

fn requirement(at: &str, expression: &LabelExpression, faults: &mut Faults) -> Requirement {
    let values = expression.values.as_ref();
    faults.words(
        &format!("{at}.values"),
        values,
        forms::is_label_value,
        forms::LABEL_VALUE,
    );
    let needs = matches!(expression.operator, Operator::In | Operator::NotIn);
    if needs == values.is_none() {
        faults.add(at, VALUES_FIT);
    }
    let (key, values) = (expression.key.clone(), values.cloned().unwrap_or_default());
    match expression.operator {
        Operator::In => Requirement::In(key, values),
        Operator::NotIn => Requirement::NotIn(key, values),
        Operator::Exists => Requirement::Exists(key),
        Operator::DoesNotExist => Requirement::DoesNotExist(key),
    }
}
