//! The custom resource definition as it is installed: what [`super::schema`]
//! derives, and beside it what deriving cannot say.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::authorization::schema::AuthorizationPolicy;
use super::bounds::DURATION_MESSAGE;
use super::forms;
use super::schema::TrafficPolicy;

/// Where the schema stands in the definition.
const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

/// The definition of `TrafficPolicy`, as JSON.
pub fn definition() -> Value {
    of::<TrafficPolicy>()
}

/// The definition of `AuthorizationPolicy`, as JSON.
pub fn authorization() -> Value {
    of::<AuthorizationPolicy>()
}

fn of<K: CustomResourceExt>() -> Value {
    let mut definition = serde_json::to_value(K::crd()).unwrap_or_default();
    if let Some(schema) = definition.pointer_mut(SCHEMA) {
        tidy(schema);
        if let Some(spec) = schema.pointer_mut("/properties/spec") {
            tell_bounds(spec);
        }
    }
    definition
}

/// The schema of one part of a TrafficPolicy: `spec` or `status`.
pub fn schema_of(part: &str) -> Value {
    part_of(&definition(), part)
}

/// The schema of one part of a definition's objects: `spec` or `status`.
pub fn part_of(definition: &Value, part: &str) -> Value {
    let schema = definition.pointer(&format!("{SCHEMA}/properties/{part}"));
    schema.cloned().unwrap_or_default()
}

fn tidy(schema: &mut Value) {
    let Value::Object(fields) = schema else {
        return;
    };
    // OpenAPI knows no unsigned formats, and an API server warns of them.
    let unsigned = |format: &Value| {
        format
            .as_str()
            .is_some_and(|format| format.starts_with('u'))
    };
    if fields.get("format").is_some_and(unsigned) {
        fields.remove("format");
    }
    // A leaf that is null is a leaf that is not given: an API server takes the
    // null out where it may not stand. A block that is null is a mistake (is it
    // absent, or empty?). No rule of a schema sees it, to CEL it is absent; so
    // it may stand, and the control plane refuses the policy for it.
    if fields.get("type") != Some(&json!("object")) {
        fields.remove("nullable");
    }
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for bound in ["minimum", "maximum"] {
        // Whole numbers, which are written as such.
        if let Some(number) = fields.get(bound).and_then(Value::as_f64) {
            fields.insert(bound.to_owned(), json!(number as i64));
        }
    }
    if let Some(nested) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        nested.values_mut().for_each(tidy);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            tidy(inner);
        }
    }
}

/// Adds to each description what the schema bounds the field by: one text,
/// which cannot say something else than what is enforced.
fn tell_bounds(schema: &mut Value) {
    let sentence = bounds(schema);
    let Value::Object(fields) = schema else {
        return;
    };
    if let (Some(sentence), Some(Value::String(text))) = (sentence, fields.get_mut("description")) {
        *text = format!("{text} {sentence}.");
    }
    if let Some(nested) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        nested.values_mut().for_each(tell_bounds);
    }
    if let Some(items) = fields.get_mut("items") {
        tell_bounds(items);
    }
}

/// What bounds a field, in words: `From 1 to 1000`.
pub fn bounds(schema: &Value) -> Option<String> {
    let number = |name: &str| schema[name].as_u64();
    match schema["type"].as_str()? {
        "integer" | "number" => {
            let (least, most) = (number("minimum").unwrap_or(0), number("maximum")?);
            Some(format!("From {least} to {most}"))
        }
        "array" => {
            let most = number("maxItems")?;
            Some(match number("minItems") {
                Some(least) => format!("From {least} to {most} entries"),
                None => format!("At most {most} entries"),
            })
        }
        "object" => {
            let most = number("maxProperties")?;
            Some(format!("At most {most} entries"))
        }
        "string" if schema["pattern"] == forms::DURATION => {
            let rules = schema["x-kubernetes-validations"].as_array()?;
            let mut messages = rules.iter().filter_map(|rule| rule["message"].as_str());
            let span = messages.find_map(|message| message.strip_prefix(DURATION_MESSAGE))?;
            Some(span.replacen("from", "From", 1))
        }
        "string" if schema["enum"].is_null() => {
            let most = number("maxLength")?;
            Some(format!("At most {most} characters"))
        }
        _ => None,
    }
}
