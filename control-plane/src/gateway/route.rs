//! A whole route, and its rules.

use remora_proto::bounds::MAX_ROUTE_WEIGHT;
use remora_proto::v1::route_match;
use serde_json::Value;

use super::filters::{self, At};
use super::findings::{Fields, Findings};
use super::{conduct, matches, parents};
use crate::core::objects::Name;
use crate::core::routes::{Backend, Filter, RouteId, RouteKind, Rule, Says};
use crate::policy::check::FieldError;

/// Rules of one route, matches of one rule and of all, as Gateway API bounds them.
const MAX_RULES: usize = 16;
const MAX_MATCHES: usize = 64;
const MAX_ALL_MATCHES: usize = 128;
/// Backends of one rule.
const MAX_BACKENDS: usize = 16;
/// Host names of one route.
const MAX_HOSTNAMES: usize = 16;
/// Fields of a rule of an HTTPRoute.
const HTTP_FIELDS: &[&str] = &[
    "name",
    "matches",
    "filters",
    "backendRefs",
    "timeouts",
    "retry",
    "sessionPersistence",
];
/// The same of a GRPCRoute.
const GRPC_FIELDS: &[&str] = &[
    "name",
    "matches",
    "filters",
    "backendRefs",
    "sessionPersistence",
];
/// What becomes of host names.
const HOSTNAMES: &str = "hostnames are not looked at: of calls inside the mesh the address alone \
                         chooses the Service (match the header host instead)";
const LABELS: &str = "a name of lower case letters, digits, - and .";

/// What a route says, and what of it is not of its form: of a file such an object
/// is refused, of a cluster those rules are.
pub fn read(id: &RouteId, value: &Value) -> (Says, Vec<FieldError>) {
    let mut findings = Findings::default();
    let mut says = Says::default();
    let mut faults = Vec::new();
    let known = ["parentRefs", "useDefaultGateways", "hostnames", "rules"];
    if let Some(spec) = findings.object(&value["spec"], "spec", &known) {
        says.parents = parents::read(spec, &mut findings);
        // Which Gateways take it is for those to say.
        findings.word(spec, "spec", "useDefaultGateways", &["All", "None"]);
        let hostnames = findings.list(spec, "spec", "hostnames", MAX_HOSTNAMES);
        if !hostnames.is_empty() {
            findings.remark(HOSTNAMES.to_owned());
        }
        let listed = findings.list(spec, "spec", "rules", MAX_RULES);
        let empty = Value::Object(Fields::new());
        // As the definition has it: a rule that every call matches.
        let default = (id.kind == RouteKind::Http && spec.get("rules").is_none_or(Value::is_null))
            .then_some(&empty);
        for (index, value) in listed.iter().chain(default).enumerate() {
            let before = says.rules.iter().map(|rule| rule.pattern_bytes);
            let (rule, found) = rule(id, (index, before.sum()), value);
            faults.extend(found.faults());
            says.rules.push(rule);
            says.remarks.extend(found.into_remarks());
        }
        let count: usize = says.rules.iter().map(|rule| rule.matches.len()).sum();
        if count > MAX_ALL_MATCHES {
            let message = format!("have {count} matches, may have {MAX_ALL_MATCHES} together");
            findings.form("spec.rules", message);
        }
        for (index, rule) in says.rules.iter().enumerate().skip(1) {
            let before = &says.rules[..index];
            if !rule.name.is_empty() && before.iter().any(|other| other.name == rule.name) {
                let field = format!("spec.rules[{index}].name");
                findings.form(field, "is the name of a rule before it already");
            }
        }
    }
    says.fault = findings.verdict().map(|found| found.fault);
    faults.extend(findings.faults());
    says.remarks.extend(findings.into_remarks());
    (says, faults)
}

/// `at`: its place, and the bytes of the patterns of the rules before it.
fn rule(id: &RouteId, at: (usize, usize), value: &Value) -> (Rule, Findings) {
    let mut findings = Findings::default();
    let rule = rule_fields(id, at, value, &mut findings).unwrap_or_default();
    let rule = Rule {
        fault: findings.verdict(),
        ..rule
    };
    (rule, findings)
}

fn rule_fields(
    id: &RouteId,
    (index, spent): (usize, usize),
    value: &Value,
    findings: &mut Findings,
) -> Option<Rule> {
    let path = format!("spec.rules[{index}]");
    let known = match id.kind {
        RouteKind::Http => HTTP_FIELDS,
        RouteKind::Grpc => GRPC_FIELDS,
    };
    let fields = findings.object(value, &path, known)?;
    let form: (fn(&str) -> bool, &str) = (remora_proto::bounds::is_subdomain, LABELS);
    let name = findings.optional(fields, &path, "name", form);
    let mut matched = matches::Read::after(spent);
    let listed = findings.list(fields, &path, "matches", MAX_MATCHES);
    for (index, value) in listed.iter().enumerate() {
        matched.add(
            id.kind,
            value,
            &format!("{path}.matches[{index}]"),
            findings,
        );
    }
    let every = Value::Object(Fields::new());
    if id.kind == RouteKind::Http && listed.is_empty() {
        matched.add(id.kind, &every, &path, findings);
    }
    let one_prefix = matches!(&matched.matches[..], [one] if
        matches!(one.path, Some(route_match::Path::PathPrefix(_))));
    let at = At {
        kind: id.kind,
        of_backend: false,
        one_prefix,
    };
    let filters = filters::read(fields, &path, at, findings);
    let backends = backends(fields, &path, at, findings);
    let redirects = filters.iter().any(|filter| {
        use remora_proto::v1::route_filter::Filter as Of;
        matches!(filter, Filter::Plain(plain) if matches!(plain.filter, Some(Of::Redirect(_))))
    });
    if redirects && !backends.is_empty() {
        let message = "must not be given beside the filter RequestRedirect";
        findings.form(format!("{path}.backendRefs"), message);
    }
    Some(Rule {
        name: Name::from(name.unwrap_or_default()),
        matches: matched.matches,
        pattern_bytes: matched.pattern_bytes,
        filters,
        backends,
        timeouts: conduct::timeouts(fields, &path, findings),
        retry: conduct::retry(fields, &path, findings),
        session_persistence: conduct::session_persistence(id, index, fields, &path, findings),
        fault: None,
    })
}

fn backends(fields: &Fields, path: &str, at: At, findings: &mut Findings) -> Vec<Backend> {
    let known = [
        "group",
        "kind",
        "name",
        "namespace",
        "port",
        "weight",
        "filters",
    ];
    let listed = findings.list(fields, path, "backendRefs", MAX_BACKENDS);
    let mut read = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        let Some(fields) = findings.object(value, &path, &known) else {
            continue;
        };
        let weight = findings.number(fields, &path, "weight", (0, MAX_ROUTE_WEIGHT));
        let at = At {
            of_backend: true,
            ..at
        };
        let filters = filters::read(fields, &path, at, findings);
        let backend = filters::backend_ref(fields, &path, findings);
        read.extend(backend.map(|backend| Backend {
            backend,
            weight: weight.unwrap_or(1),
            filters,
        }));
    }
    read
}

#[cfg(test)]
mod tests;
