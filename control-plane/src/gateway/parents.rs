//! `parentRefs`: those that are Services. The others are for somebody else.

use remora_proto::bounds::{is_label, is_subdomain};
use serde_json::Value;

use super::GROUP;
use super::findings::{Fields, Findings};
use crate::core::routes::{ParentRef, is_core};

/// Parents of one route, as Gateway API bounds them.
const MAX_PARENTS: usize = 32;
const NAME: &str = "a name of Kubernetes";

/// The Services among them, none twice.
pub(super) fn read(spec: &Fields, findings: &mut Findings) -> Vec<ParentRef> {
    let mut parents: Vec<ParentRef> = Vec::new();
    let listed = findings.list(spec, "spec", "parentRefs", MAX_PARENTS);
    for (index, value) in listed.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        let Some(parent) = parent(index, value, &path, findings) else {
            continue;
        };
        let same = |known: &ParentRef| {
            (&known.namespace, &known.name) == (&parent.namespace, &parent.name)
                && (&known.section_name, known.port) == (&parent.section_name, parent.port)
        };
        if parents.iter().any(same) {
            findings.form(path, "names a parent that stands before it already");
        } else {
            parents.push(parent);
        }
    }
    parents
}

fn parent(index: usize, value: &Value, path: &str, findings: &mut Findings) -> Option<ParentRef> {
    let known = ["group", "kind", "namespace", "name", "sectionName", "port"];
    let fields = findings.object(value, path, &known)?;
    let group = findings.text(fields, path, "group").unwrap_or(GROUP);
    let kind = findings.text(fields, path, "kind").unwrap_or("Gateway");
    let name = findings.required(fields, path, "name", (is_subdomain, NAME));
    let namespace = findings.optional(fields, path, "namespace", (is_label, NAME));
    let section_name = findings.optional(fields, path, "sectionName", (is_subdomain, NAME));
    let port = findings.port(fields, path);
    if kind != "Service" || !is_core(group) {
        return None;
    }
    Some(ParentRef {
        index,
        group: group.into(),
        namespace: namespace.map(Into::into),
        name: name?.into(),
        section_name: section_name.map(Into::into),
        port,
    })
}
