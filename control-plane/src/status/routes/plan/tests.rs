use super::*;
use crate::core::objects::Id;
use crate::core::routes::verdict::{ACCEPTED, RouteCondition};
use crate::core::routes::{RouteId, RouteKind};

const NOW: &str = "2026-02-02T00:00:00Z";

fn parent(name: &str, port: Option<u16>, accepted: bool) -> ParentVerdict {
    ParentVerdict {
        parent: ParentRef {
            index: 0,
            group: "".into(),
            namespace: None,
            name: name.into(),
            section_name: None,
            port,
        },
        conditions: vec![RouteCondition {
            kind: ACCEPTED,
            status: accepted,
            reason: if accepted {
                "Accepted"
            } else {
                "NoMatchingParent"
            },
            message: "as it is".to_owned(),
        }],
    }
}

fn verdict(generation: i64, parents: Vec<ParentVerdict>) -> RouteVerdict {
    RouteVerdict {
        route: RouteId {
            kind: RouteKind::Http,
            id: Id::new("shop", "a"),
        },
        generation,
        parents,
    }
}

/// Another controller's, with what we know nothing of.
fn foreign(name: &str) -> Value {
    json!({
        "controllerName": "example.com/gateway",
        "parentRef": {"name": name, "kind": "Gateway", "whatever": [1, {"b": null}]},
        "conditions": [{"type": "Odd", "lastTransitionTime": "1", "more": 1}],
    })
}

fn since(list: &[Value], at: usize) -> &str {
    list[at]["conditions"][0]["lastTransitionTime"]
        .as_str()
        .unwrap()
}

#[test]
fn the_entries_of_others_stay_as_they_are_and_where_they_are() {
    let verdict = verdict(3, vec![parent("web", Some(80), true)]);
    let others = [foreign("x"), foreign("y")];
    let list = merged(&others, &verdict, NOW).unwrap();
    assert_eq!(list[..2], others);
    assert_eq!(list.len(), 3);
    let ours = &list[2];
    assert_eq!(ours["controllerName"], well_known::CONTROLLER_NAME);
    assert_eq!(
        ours["parentRef"],
        json!({"group": "", "kind": "Service", "name": "web", "port": 80})
    );
    assert_eq!(ours["conditions"][0]["observedGeneration"], 3);
    assert_eq!(merged(&list, &verdict, "later"), None, "it is so already");
}

#[test]
fn the_time_changes_with_the_status_alone() {
    let first = merged(&[], &verdict(1, vec![parent("web", None, true)]), "then").unwrap();
    let again = merged(&first, &verdict(2, vec![parent("web", None, true)]), NOW).unwrap();
    assert_eq!((since(&first, 0), since(&again, 0)), ("then", "then"));
    assert_eq!(again[0]["conditions"][0]["observedGeneration"], 2);
    let turned = merged(&again, &verdict(2, vec![parent("web", None, false)]), NOW).unwrap();
    assert_eq!(since(&turned, 0), NOW);
}

#[test]
fn an_entry_of_a_parent_that_is_named_no_more_goes() {
    let two = vec![parent("web", None, true), parent("cart", None, true)];
    let list = merged(&[foreign("x")], &verdict(1, two), NOW).unwrap();
    let one = verdict(2, vec![parent("cart", None, true)]);
    let left = merged(&list, &one, NOW).unwrap();
    assert_eq!(left.len(), 2);
    assert_eq!(left[1]["parentRef"]["name"], "cart");
    let none = merged(&left, &verdict(3, Vec::new()), NOW).unwrap();
    assert_eq!(none, [foreign("x")]);
    assert_eq!(merged(&none, &verdict(3, Vec::new()), NOW), None);
}

#[test]
fn there_are_no_more_entries_than_a_status_may_have() {
    let others: Vec<Value> = (0..31).map(|n| foreign(&n.to_string())).collect();
    let two = vec![parent("web", None, true), parent("cart", None, true)];
    let list = merged(&others, &verdict(1, two), NOW).unwrap();
    assert_eq!(list.len(), MAX_PARENTS);
    assert_eq!(list[..31], others);
}
