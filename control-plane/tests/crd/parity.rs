//! What the control plane itself says to every object of the table.

use remora_control_plane::core::resolve::service_policy;
use remora_control_plane::policy::parse;
use serde_json::{Value, json};

use super::reference::Text;
use super::table::{self, NAMESPACE, spec};
use super::{blocks, fields, files};

fn faults(spec: &Value) -> Vec<String> {
    let parsed = parse::spec(NAMESPACE, "policy", spec);
    let faults = parsed.err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.field).collect()
}

#[test]
fn every_good_policy_is_taken() {
    let mut wrong = Vec::new();
    for spec in table::good() {
        wrong.extend(
            faults(&spec)
                .into_iter()
                .map(|field| format!("{field} in {spec}")),
        );
    }
    for (what, spec) in fields::good() {
        wrong.extend(
            faults(&spec)
                .into_iter()
                .map(|field| format!("{field} in {what}")),
        );
    }
    wrong.extend(faults(&table::largest()));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_bad_policy_is_refused_for_the_field_that_is_wrong() {
    let mut wrong = Vec::new();
    for bad in table::bad().into_iter().chain(fields::bad()) {
        let faults = faults(&bad.spec);
        if !faults.contains(&bad.field) {
            wrong.push(format!(
                "{} is not among {faults:?} of {}",
                bad.field, bad.spec
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The bar: every field wrong, and a message for each.
#[test]
fn a_policy_with_every_field_wrong_is_refused_with_a_message_for_each() {
    let found = faults(&spec(blocks::ALL_WRONG));
    for field in blocks::WRONG {
        let field = format!("spec.{field}");
        let count = found.iter().filter(|found| **found == field).count();
        assert_eq!(count, 1, "{field} in {found:#?}");
    }
    assert_eq!(found.len(), blocks::WRONG.len(), "{found:#?}");
}

#[test]
fn the_policies_of_the_demo_are_taken() {
    let policies = files::demo();
    assert!(policies.len() > 3);
    for policy in policies {
        assert_eq!(faults(&policy["spec"]), [""; 0], "{policy}");
    }
}

/// Every default that a description names, written out, changes nothing.
#[test]
fn the_defaults_of_the_descriptions_are_the_defaults() {
    let empty = spec(
        "{circuitBreaker: {failureRate: {}, slowCallRate: {duration: 1s}}, outbound: {}, \
         retries: {backoff: {}, budget: {}, hedge: {}}, \
         loadBalancing: {sessionPersistence: {}, slowStart: {}}, \
         healthCheck: {http: {path: /}}, fallback: {response: {}}, \
         fault: {delay: {duration: 1s}, abort: {status: 503}}}",
    );
    let mut written = empty.clone();
    let mut count = 0;
    for field in fields::all() {
        let Some(default) = Text::of(&field).default else {
            continue;
        };
        let (parent, name) = field.pointer.rsplit_once('/').unwrap();
        let in_words = [
            "not limited",
            "1024, by each sidecar",
            "none",
            "empty",
            "any body",
            "all requests",
            "that of the policy",
            "what unhealthyThreshold is",
        ]
        .contains(&default.as_str());
        if let Some(block) = written.pointer_mut(parent).filter(|_| !in_words) {
            block[name] = serde_saphyr::from_str(&default).unwrap();
            count += 1;
        }
    }
    assert_eq!(count, 49, "{written}");
    let policy = |spec: &Value| {
        let parsed = parse::spec(NAMESPACE, "policy", spec).unwrap();
        service_policy(&parsed.settings)
    };
    assert_eq!(policy(&written), policy(&empty));
    written["retries"]["budget"]["percent"] = json!(21);
    assert_ne!(policy(&written), policy(&empty));
}
