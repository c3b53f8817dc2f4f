//! A ReferenceGrant: of it what is about routes, TrafficPolicies and Services.

use remora_proto::bounds::{is_label, is_subdomain};
use serde_json::Value;

use super::GROUP;
use super::findings::Findings;
use crate::core::objects::{Id, Kind};
use crate::core::routes::{Grant, GrantFrom, is_core};
use crate::policy::check::FieldError;

/// That of policies.
const OUR_GROUP: &str = "remora.io";
/// Entries of one list, as Gateway API bounds them.
const MAX_ENTRIES: usize = 16;
const NAME: &str = "a name of Kubernetes";
const KIND: (fn(&str) -> bool, &str) = (|text| !text.is_empty(), "given");

/// What can be read, and what is not of its form: that allows nothing.
pub fn read(id: Id, value: &Value) -> (Grant, Vec<FieldError>) {
    let mut findings = Findings::default();
    let mut grant = Grant {
        id,
        from: Vec::new(),
        to: Vec::new(),
    };
    let spec = &value["spec"];
    if let Some(fields) = findings.object(spec, "spec", &["from", "to"]) {
        let from = findings.list(fields, "spec", "from", MAX_ENTRIES);
        for (index, value) in from.iter().enumerate() {
            let path = format!("spec.from[{index}]");
            let Some(fields) = findings.object(value, &path, &["group", "kind", "namespace"])
            else {
                continue;
            };
            let group = findings.text(fields, &path, "group").unwrap_or_default();
            let kind = findings.required(fields, &path, "kind", KIND);
            let namespace = findings.required(fields, &path, "namespace", (is_label, NAME));
            let kind = match kind {
                Some("HTTPRoute") if group == GROUP => Kind::HttpRoute,
                Some("GRPCRoute") if group == GROUP => Kind::GrpcRoute,
                Some("TrafficPolicy") if group == OUR_GROUP => Kind::TrafficPolicy,
                _ => continue,
            };
            grant.from.extend(namespace.map(|namespace| GrantFrom {
                kind,
                namespace: namespace.into(),
            }));
        }
        let to = findings.list(fields, "spec", "to", MAX_ENTRIES);
        for (index, value) in to.iter().enumerate() {
            let path = format!("spec.to[{index}]");
            let Some(fields) = findings.object(value, &path, &["group", "kind", "name"]) else {
                continue;
            };
            let group = findings.text(fields, &path, "group").unwrap_or_default();
            let kind = findings.required(fields, &path, "kind", KIND);
            let before = findings.count();
            let name = findings.optional(fields, &path, "name", (is_subdomain, NAME));
            if kind == Some("Service") && is_core(group) && findings.count() == before {
                grant.to.push(name.map(Into::into));
            }
        }
    }
    (grant, findings.faults().collect())
}
