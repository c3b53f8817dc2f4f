//! Policies by chance: a good one with a few fields set to something else,
//! the same ones in every run. Most are wrong in some way; what counts is that
//! the control plane and an API server agree about each.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::fields::{self, Field};
use super::table::{FULL_OF_PODS, full, spec};

/// A text that is right somewhere, or nearly.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "5xx",
        "reset",
        "429",
        "UNAVAILABLE",
        "OK",
        "GET",
        "get",
        "/a.B/C",
        "/a",
        "path",
        "header:x-a",
        "header:",
        "header:x-remora-a",
        "X-Remora-A",
        "x-a",
        "Service",
        "Namespace",
        "Endpoint",
        "Caller",
        "Shadow",
        "second",
        "Mesh",
        "p95",
        "50%",
        "200-299",
        "299-200",
        "sourceAddress",
        "query:id",
        "cookie:",
        "ConsistentHash",
        "Header",
        "Permanent",
        "timeout",
        "sheddable",
        "shop",
        "",
    ];
    prop_oneof![
        proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        "[0-9]{1,6}(ms|s|m|h|d)?",
        "[0-9]{1,3}(ms|s|m|h)[0-9]{1,3}(ms|s|m|h)",
        "[0-9]{1,9}(B|k|K|kB|M|Ki|KiB|Mi|MiB|Gi)?",
        "[ -~]{0,12}",
        "\\PC{0,4}",
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-2i64..1100).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => (0i64..40).prop_map(|quarters| json!(quarters as f64 / 4.0)),
    ]
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        word().prop_map(Value::from),
        number(),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
    ]
}

/// A value for a field: most often of its type.
fn value(field: &Field) -> BoxedStrategy<Value> {
    let list = |entry: BoxedStrategy<Value>| {
        proptest::collection::vec(entry, 0..3)
            .prop_map(Value::from)
            .boxed()
    };
    let text = word().prop_map(Value::from).boxed();
    let typed = match field.schema["type"].as_str() {
        Some("integer" | "number") => number().boxed(),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("string") => text,
        Some("array") => list(prop_oneof![text, number()].boxed()),
        Some("object") => Just(json!({})).boxed(),
        _ => prop_oneof![text, number()].boxed(),
    };
    prop_oneof![9 => typed, 1 => anything()].boxed()
}

/// So many policies.
pub fn policies(count: usize) -> Vec<Value> {
    let mut runner = TestRunner::deterministic();
    let all = fields::all();
    let changes = proptest::collection::vec(0..all.len(), 1..3);
    let mut policy = || {
        let changes = changes.new_tree(&mut runner).unwrap().current();
        // Beside a selector, where that alone is changed; else in one that is for targets.
        let is_of_pods = |index: &usize| all[*index].pointer.starts_with("/podSelector/");
        let of_pods = changes.iter().all(is_of_pods);
        let full = full();
        let mut policy = spec(if of_pods { FULL_OF_PODS } else { &full });
        for index in changes {
            let value = value(&all[index]).new_tree(&mut runner).unwrap();
            set(&mut policy, &all[index], value.current());
        }
        policy
    };
    (0..count).map(|_| policy()).collect()
}

/// Sets a field where what holds it is still there.
fn set(policy: &mut Value, field: &Field, value: Value) {
    let (parent, name) = field.pointer.rsplit_once('/').unwrap();
    match policy.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(name.to_owned(), value);
        }
        Some(Value::Array(items)) if !items.is_empty() => items[0] = value,
        _ => {}
    }
}
