//! Whether the served TrafficPolicy is the one that this program knows: field
//! by field, since an API server writes a schema in its own way.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What bounds a field, and is compared.
const COMPARED: [&str; 9] = [
    "type",
    "pattern",
    "enum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
];
/// Schemas within schemas that are looked into.
const MAX_DEPTH: usize = 32;

/// How two schemas differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Fields of ours that the other does not have.
    pub missing: Vec<String>,
    /// Fields of the other that ours does not have.
    pub unknown: Vec<String>,
    /// Fields with other bounds.
    pub changed: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The schema of a version of a CustomResourceDefinition.
pub fn of_version<'a>(definition: &'a Value, version: &str) -> Option<&'a Value> {
    let versions = definition["spec"]["versions"].as_array()?;
    let one = versions.iter().find(|one| one["name"] == version)?;
    one.pointer("/schema/openAPIV3Schema")
}

/// Compares what two schemas say of an object's `spec`.
pub fn difference(ours: &Value, served: &Value) -> Difference {
    let (ours, served) = (fields(ours), fields(served));
    let mut found = Difference::default();
    for (path, bounds) in &ours {
        match served.get(path) {
            None => found.missing.push(path.clone()),
            Some(other) if other != bounds => found.changed.push(path.clone()),
            Some(_) => {}
        }
    }
    let unknown = served.keys().filter(|path| !ours.contains_key(*path));
    found.unknown.extend(unknown.cloned());
    found
}

fn fields(schema: &Value) -> BTreeMap<String, Value> {
    let mut fields = BTreeMap::new();
    collect(&schema["properties"]["spec"], "spec", 0, &mut fields);
    fields
}

fn collect(schema: &Value, path: &str, depth: usize, into: &mut BTreeMap<String, Value>) {
    if depth > MAX_DEPTH {
        return;
    }
    into.insert(path.to_owned(), bounds(schema));
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        collect(inner, &format!("{path}.{name}"), depth + 1, into);
    }
    if schema["items"].is_object() {
        collect(&schema["items"], &format!("{path}[]"), depth + 1, into);
    }
}

fn bounds(schema: &Value) -> Value {
    let mut bounds = json!({});
    for name in COMPARED {
        let value = match &schema[name] {
            Value::Null => continue,
            // 1 and 1.0 are the same bound.
            Value::Number(number) => json!(number.as_f64()),
            // An API server keeps the order; a generator need not.
            Value::Array(words) => {
                let mut words: Vec<String> = words.iter().map(Value::to_string).collect();
                words.sort();
                json!(words)
            }
            other => other.clone(),
        };
        bounds[name] = value;
    }
    let rules = schema["x-kubernetes-validations"].as_array();
    let rules = rules.into_iter().flatten().map(|rule| rule["rule"].clone());
    let rules: Vec<Value> = rules.collect();
    if !rules.is_empty() {
        bounds["rules"] = json!(rules);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(spec: Value) -> Value {
        json!({"properties": {"spec": {"type": "object", "properties": spec}}})
    }

    #[test]
    fn the_same_schema_written_otherwise_is_the_same() {
        let ours = schema(
            json!({"a": {"type": "integer", "minimum": 0.0, "format": "uint32",
            "description": "x", "nullable": true}, "b": {"enum": ["x", "y"]}}),
        );
        let served =
            schema(json!({"b": {"enum": ["y", "x"]}, "a": {"type": "integer", "minimum": 0}}));
        assert!(difference(&ours, &served).is_empty());
    }

    #[test]
    fn what_differs_is_named() {
        let ours = schema(json!({
            "a": {"type": "array", "items": {"type": "object", "properties": {"b": {"maxLength": 5}}}},
            "new": {"type": "string"},
        }));
        let served = schema(json!({
            "a": {"type": "array", "items": {"type": "object", "properties": {"b": {"maxLength": 6}}}},
            "old": {"type": "string"},
        }));
        let wanted = Difference {
            missing: vec!["spec.new".to_owned()],
            unknown: vec!["spec.old".to_owned()],
            changed: vec!["spec.a[].b".to_owned()],
        };
        assert_eq!(difference(&ours, &served), wanted);
    }

    #[test]
    fn the_schema_of_a_version_is_found() {
        let definition = json!({"spec": {"versions": [
            {"name": "v1", "schema": {"openAPIV3Schema": 1}},
            {"name": "v2", "schema": {"openAPIV3Schema": 2}},
        ]}});
        assert_eq!(of_version(&definition, "v2"), Some(&json!(2)));
        assert_eq!(of_version(&definition, "v3"), None);
    }
}
