//! Every field of the schema, wrong once in each way that one field can be:
//! its type, its bounds, its presence. Made from the schema itself, so that a
//! new field cannot be forgotten.

use remora_control_plane::policy::definition::{bounds, schema_of};
use remora_control_plane::policy::forms;
use remora_control_plane::policy::units::duration_ms;
use serde_json::{Value, json};

use super::blocks::ALTERNATIVES;
use super::table::{Bad, FULL_OF_PODS, FULL_OF_ROUTES, Server, full, spec};

/// One field: its place in an object, and its schema.
pub struct Field {
    /// A JSON pointer within `spec`.
    pub pointer: String,
    /// `spec.retries.on[0]`
    pub path: String,
    /// Its schema.
    pub schema: Value,
    /// Whether the object that holds it must have it.
    pub required: bool,
}

impl Field {
    /// Whether other fields are in it.
    pub fn is_block(&self) -> bool {
        self.schema["properties"].is_object()
    }
}

/// All fields of `spec`, outer ones first; of a list its first entry.
pub fn all() -> Vec<Field> {
    let fields = of(&schema_of("spec"));
    assert!(fields.len() > 60, "only {} fields", fields.len());
    fields
}

/// All fields of the `spec` with this schema.
pub fn of(spec: &Value) -> Vec<Field> {
    let mut fields = Vec::new();
    properties(spec, "", "spec", &mut fields);
    fields
}

fn properties(schema: &Value, pointer: &str, path: &str, fields: &mut Vec<Field>) {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let field = Field {
            pointer: format!("{pointer}/{name}"),
            path: format!("{path}.{name}"),
            schema: property.clone(),
            required: required.contains(&json!(name)),
        };
        push(field, fields);
    }
}

fn push(field: Field, fields: &mut Vec<Field>) {
    let (pointer, path, schema) = (
        field.pointer.clone(),
        field.path.clone(),
        field.schema.clone(),
    );
    fields.push(field);
    properties(&schema, &pointer, &path, fields);
    if schema["items"].is_object() {
        let item = Field {
            pointer: format!("{pointer}/0"),
            path: format!("{path}[0]"),
            schema: schema["items"].clone(),
            required: false,
        };
        push(item, fields);
    }
}

/// The full object in which a field stands.
pub fn around(field: &Field) -> Value {
    let full = full();
    let mut object = spec(if field.pointer.starts_with("/podSelector") {
        FULL_OF_PODS
    } else if field.pointer.ends_with("/sectionName") {
        FULL_OF_ROUTES
    } else {
        &full
    });
    for (parent, fields) in ALTERNATIVES {
        let rest = field.pointer.strip_prefix(parent);
        let Some(rest) = rest.and_then(|rest| rest.strip_prefix('/')) else {
            continue;
        };
        let named = rest.split('/').next().unwrap_or_default();
        let sample = fields.iter().find(|(name, _)| *name == named);
        let holder = object.pointer_mut(parent).and_then(Value::as_object_mut);
        if let (Some((_, sample)), Some(holder)) = (sample, holder)
            && !holder.contains_key(named)
        {
            holder.retain(|name, _| fields.iter().all(|(other, _)| name != other));
            let sample = serde_saphyr::from_str(sample).unwrap();
            holder.insert(named.to_owned(), sample);
        }
    }
    object
}

/// The full object with one field changed; `None` takes the field out.
pub fn with(field: &Field, value: Option<Value>) -> Value {
    let mut object = around(field);
    if field.pointer == "/podSelector" && value == Some(Value::Null) {
        // It counts as absent, and one of the two must be there.
        object = spec(&full());
    }
    let is_route = |value: &Value| value == "HTTPRoute" || value == "GRPCRoute";
    if value.as_ref().is_some_and(is_route) {
        object = spec(FULL_OF_ROUTES);
    }
    let (parent, name) = field.pointer.rsplit_once('/').unwrap();
    let parent = object
        .pointer_mut(parent)
        .unwrap_or_else(|| panic!("{} is not in FULL", field.path));
    match parent {
        Value::Array(items) => items[0] = value.unwrap_or(Value::Null),
        Value::Object(fields) => {
            fields.remove(name);
            // It is for that one alone.
            if name == "algorithm" && value != Some(json!("ConsistentHash")) {
                fields.remove("consistentHash");
            }
            // It must not be less.
            if name == "unhealthyThreshold" {
                fields.remove("window");
            }
            // These two have no values.
            if name == "operator"
                && (value == Some(json!("Exists")) || value == Some(json!("DoesNotExist")))
            {
                fields.remove("values");
            }
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        }
        _ => panic!("{} is in nothing that holds fields", field.path),
    }
    object
}

/// Every field, wrong in each way.
pub fn bad() -> Vec<Bad> {
    let mut bad = Vec::new();
    for field in all() {
        for value in wrong(&field) {
            // To the rules of a schema a block that is null is one that is absent.
            let kept = value.is_null() && field.schema["nullable"] == true;
            bad.push(Bad {
                spec: with(&field, Some(value)),
                field: field.path.clone(),
                server: if kept {
                    without(&field)
                } else {
                    Server::SameField
                },
            });
        }
        if field.required {
            bad.push(Bad {
                spec: with(&field, None),
                field: field.path.clone(),
                server: Server::SameField,
            });
        }
        if field.is_block() {
            let mut block = around(&field).pointer(&field.pointer).unwrap().clone();
            block["nonsense"] = json!(1);
            bad.push(Bad {
                spec: with(&field, Some(block)),
                field: format!("{}.nonsense", field.path),
                server: Server::SameField,
            });
        }
    }
    bad
}

/// What an API server says where a block is null, which to its rules is absent.
fn without(field: &Field) -> Server {
    match field.pointer.as_str() {
        "/healthCheck/http" | "/healthCheck/tcp" | "/healthCheck/grpc" => {
            Server::Names("spec.healthCheck")
        }
        "/fallback/response" | "/fallback/backendRef" => Server::Names("spec.fallback"),
        "/loadBalancing/consistentHash" => Server::SameField,
        _ => Server::Keeps,
    }
}

fn wrong(field: &Field) -> Vec<Value> {
    let schema = &field.schema;
    if schema["x-kubernetes-int-or-string"] == true {
        return vec![
            json!(true),
            json!([]),
            json!({}),
            json!("nonsense"),
            json!(-1),
            json!(1.5),
        ];
    }
    match schema["type"].as_str().unwrap() {
        "object" => vec![json!("text"), json!([]), Value::Null],
        "boolean" => vec![json!("yes"), json!(1)],
        "integer" => {
            let (least, most) = (
                schema["minimum"].as_i64().unwrap(),
                schema["maximum"].as_i64().unwrap(),
            );
            vec![
                json!("1"),
                json!(1.5),
                json!(least - 1),
                json!(most + 1),
                json!({}),
                json!(i64::MAX),
            ]
        }
        "number" => vec![
            json!("1"),
            json!(true),
            json!(-0.1),
            json!(100.1),
            json!({}),
        ],
        "array" => {
            let first = &around(field)
                .pointer(&format!("{}/0", field.pointer))
                .unwrap()
                .clone();
            let most = schema["maxItems"].as_u64().unwrap() as usize;
            let mut values = vec![
                json!("text"),
                json!({}),
                Value::from(vec![first.clone(); most + 1]),
            ];
            if schema["minItems"].is_u64() {
                values.push(json!([]));
            }
            values
        }
        "string" => text(schema, field.pointer.ends_with("/0")),
        other => panic!("{}: what is a {other}?", field.path),
    }
}

fn text(schema: &Value, is_item: bool) -> Vec<Value> {
    let mut values = vec![json!(1), json!(true), json!(["a"])];
    if is_item {
        values.push(Value::Null);
    }
    if schema["enum"].is_array() {
        values.push(json!("Nonsense"));
    } else {
        let most = schema["maxLength"].as_u64().unwrap() as usize;
        values.push(json!("a".repeat(most + 1)));
    }
    if schema["minLength"].is_u64() {
        values.push(json!(""));
    }
    if let Some((least_ms, most_ms)) = span(schema) {
        values.extend([json!("soon"), json!("5"), json!("1.5s"), json!("-1s")]);
        if least_ms > 0 {
            values.push(json!(format!("{}ms", least_ms - 1)));
        }
        values.push(json!(format!("{}s1ms", most_ms / 1000)));
    }
    values
}

/// The bounds of a duration.
pub fn span(schema: &Value) -> Option<(u64, u64)> {
    let bounds = bounds(schema).filter(|_| schema["pattern"] == forms::DURATION)?;
    let (least, most) = bounds.strip_prefix("From ")?.split_once(" to ")?;
    Some((duration_ms(least)?, duration_ms(most)?))
}

/// Every field at each of its bounds, and as its own description shows it.
pub fn good() -> Vec<(String, Value)> {
    let mut good = Vec::new();
    for field in all() {
        let schema = &field.schema;
        let mut values: Vec<Value> = ["minimum", "maximum"]
            .iter()
            .filter(|_| schema["type"] == "integer")
            .map(|bound| schema[bound].clone())
            .collect();
        for value in schema["enum"].as_array().into_iter().flatten() {
            values.push(value.clone());
        }
        if let Some(example) = super::reference::Text::of(&field).example {
            values.push(
                serde_saphyr::from_str(&example)
                    .unwrap_or_else(|error| panic!("{}: {error}", field.path)),
            );
        }
        good.extend(values.into_iter().map(|value| {
            let what = format!("{} = {value}", field.path);
            (what, with(&field, Some(value)))
        }));
    }
    good
}
