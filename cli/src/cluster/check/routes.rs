//! Routes whose parents are Services, and what their status says.

use serde::Deserialize;
use serde_json::Value;

use super::finding::Finding;
use crate::cluster::api::{Api, List};
use crate::cluster::error::Error;
use crate::cluster::resources::{GRPC_ROUTES, HTTP_ROUTES};
use crate::cluster::text;

const SUBJECT: &str = "routes";
/// Findings of one kind.
const MAX_ROUTES: usize = 20;
/// Whose entries of a status are the control plane's.
const CONTROLLER: &str = "remora.io/control-plane";
/// What to do where a status is not written.
const LEADER: &str = "the leading control plane writes it: see `leader` above; may it write \
    httproutes/status and grpcroutes/status (manifests/install)?";

/// A route as the API server gives it.
#[derive(Debug, Deserialize)]
pub struct Written {
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    generation: i64,
}

/// The routes of a namespace, or of all.
pub async fn findings(api: &Api, namespace: Option<&str>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (kind, resource) in [("HTTPRoute", &HTTP_ROUTES), ("GRPCRoute", &GRPC_ROUTES)] {
        let written = api.list(resource, namespace, "").await;
        found.extend(of_kind(kind, &written));
    }
    found
}

/// Those of a kind. Where it is not installed there is nothing to be said.
pub fn of_kind(kind: &str, found: &Result<List<Written>, Error>) -> Vec<Finding> {
    let routes = match found {
        Ok(routes) => &routes.items,
        Err(error) if error.is_not_found() => return Vec::new(),
        Err(error) => return vec![Finding::unread(SUBJECT, error)],
    };
    let ours: Vec<&Written> = routes.iter().filter(|route| parents(route) > 0).collect();
    if ours.is_empty() {
        return Vec::new();
    }
    let findings: Vec<Finding> = ours
        .iter()
        .flat_map(|route| of_route(kind, route))
        .take(MAX_ROUTES)
        .collect();
    if findings.is_empty() {
        let count = text::counted(ours.len(), kind);
        return vec![Finding::ok(SUBJECT, format!("{count}, all in force"))];
    }
    findings
}

/// How many Services it names as its parents.
fn parents(route: &Written) -> usize {
    let parents = route.spec["parentRefs"].as_array();
    let parents = parents.into_iter().flatten();
    parents
        .filter(|parent| {
            let group = parent["group"].as_str().unwrap_or("?");
            parent["kind"] == "Service" && matches!(group, "" | "core")
        })
        .count()
}

fn of_route(kind: &str, route: &Written) -> Vec<Finding> {
    let Metadata {
        namespace,
        name,
        generation,
    } = &route.metadata;
    let shown = format!("{kind} {namespace}/{name}");
    let said = route.status["parents"].as_array();
    let said = said.into_iter().flatten();
    let ours: Vec<&Value> = said
        .filter(|parent| parent["controllerName"] == CONTROLLER)
        .collect();
    if ours.len() < parents(route) {
        let message = format!("{shown} has no status yet");
        return vec![Finding::warning(SUBJECT, message, LEADER)];
    }
    let mut found: Vec<Finding> = Vec::new();
    for parent in ours {
        let service = parent["parentRef"]["name"].as_str().unwrap_or_default();
        let conditions = parent["conditions"].as_array();
        for condition in conditions.into_iter().flatten() {
            if condition["observedGeneration"].as_i64() < Some(*generation) {
                let message = format!("the status of {shown} is of an older generation");
                return vec![Finding::warning(SUBJECT, message, LEADER)];
            }
            let finding = of_condition(&shown, condition, || {
                format!("remora explain {service} -n {namespace}")
            });
            // Several parents say the same of what the route names.
            found.extend(finding.filter(|one| !found.contains(one)));
        }
    }
    found
}

fn of_condition(
    shown: &str,
    condition: &Value,
    explain: impl FnOnce() -> String,
) -> Option<Finding> {
    let word = |field: &str| condition[field].as_str().unwrap_or_default();
    let what = match (word("type"), word("status")) {
        ("Accepted", "True") | ("ResolvedRefs", "True") | ("PartiallyInvalid", "False") => {
            return None;
        }
        ("Accepted", _) => "is not in force",
        ("ResolvedRefs", _) => "names what cannot be taken",
        ("PartiallyInvalid", _) => "is in force in part",
        // One of a later version.
        _ => return None,
    };
    let message = format!("{shown} {what}: {}: {}", word("reason"), word("message"));
    Some(Finding::warning(SUBJECT, message, &explain()))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use serde_json::json;

    fn found(routes: Value) -> Vec<Finding> {
        let items = serde_json::from_value(routes).unwrap();
        let is_cut = false;
        of_kind("HTTPRoute", &Ok(List { items, is_cut }))
    }

    fn route(name: &str, conditions: Value) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name, "generation": 2},
            "spec": {"parentRefs": [
                {"group": "", "kind": "Service", "name": "payment"}, {"name": "edge"}]},
            "status": {"parents": [
                {"parentRef": {"name": "edge"}, "controllerName": "example.com/other",
                    "conditions": [{"type": "Accepted", "status": "False", "reason": "Theirs"}]},
                {"parentRef": {"name": "payment"}, "controllerName": CONTROLLER, "conditions": conditions}]}})
    }

    fn condition(kind: &str, status: &str, reason: &str, generation: i64) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "so it is",
            "observedGeneration": generation})
    }

    #[test]
    fn routes_that_are_in_force_are_counted_and_those_of_gateways_are_not_ours() {
        let good = json!([
            condition("Accepted", "True", "Accepted", 2),
            condition("ResolvedRefs", "True", "ResolvedRefs", 2),
        ]);
        let gateway = json!({"metadata": {"namespace": "shop", "name": "edge"},
            "spec": {"parentRefs": [{"name": "edge"}]}});
        let found = found(json!([route("a", good), gateway]));
        assert_eq!(found, [Finding::ok(SUBJECT, "1 HTTPRoute, all in force")]);
        assert_eq!(super::tests::found(json!([])), []);
    }

    #[test]
    fn what_is_not_in_force_not_resolved_or_only_in_part_is_told_with_what_to_ask() {
        let found = found(json!([
            route("a", json!([condition("Accepted", "False", "NoMatchingParent", 2)])),
            route("b", json!([
                condition("Accepted", "True", "Accepted", 2),
                condition("ResolvedRefs", "False", "RefNotPermitted", 2),
                condition("PartiallyInvalid", "True", "UnsupportedValue", 2),
            ])),
            route("c", json!([condition("Accepted", "True", "Accepted", 1)])),
            {"metadata": {"namespace": "shop", "name": "d"},
                "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "payment"}]}},
        ]));
        let told: Vec<_> = found.iter().map(|one| one.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "HTTPRoute shop/a is not in force: NoMatchingParent: so it is",
                "HTTPRoute shop/b names what cannot be taken: RefNotPermitted: so it is",
                "HTTPRoute shop/b is in force in part: UnsupportedValue: so it is",
                "the status of HTTPRoute shop/c is of an older generation",
                "HTTPRoute shop/d has no status yet",
            ]
        );
        assert!(found.iter().all(|one| one.level == Level::Warning));
        assert_eq!(found[1].action, "remora explain payment -n shop");
    }
}
