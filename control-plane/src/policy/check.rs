//! Holds an object to the custom resource's own schema and names every fault
//! with its path: serde stops at the first one, and an operator who mends a
//! file wants them all. What is at fault is taken out of the value, so that
//! the rest can still be read and examined.

use std::fmt;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{definition, forms};

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where: `spec.retries.budget.percent`, `spec.rateLimits[0].name`.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// What is said of a block without a value.
pub(super) const EMPTY: &str = "is empty: write {} for its defaults, or leave it out";

/// The schema of `spec`, as the definition that an API server is given has it.
static SPEC: LazyLock<Value> = LazyLock::new(|| definition::schema_of("spec"));

/// The same of an AuthorizationPolicy.
static AUTHORIZATION: LazyLock<Value> =
    LazyLock::new(|| definition::part_of(&definition::authorization(), "spec"));

/// Checks the `spec` of a TrafficPolicy against the schema; what is at fault is
/// removed from it.
pub fn spec(value: &mut Value) -> Vec<FieldError> {
    against(&SPEC, value)
}

/// The same of an AuthorizationPolicy.
pub fn authorization(value: &mut Value) -> Vec<FieldError> {
    against(&AUTHORIZATION, value)
}

fn against(schema: &Value, value: &mut Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(schema, value, "spec", &mut errors);
    errors
}

/// Whether the value may stay: it can still be read, what is at fault within it taken out.
fn node(schema: &Value, value: &mut Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let before = errors.len();
    if value.is_null() && schema["nullable"] == true {
        fault(errors, path, EMPTY.to_owned());
        return false;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_string() && !value.is_i64() && !value.is_u64() {
            fault(
                errors,
                path,
                format!("is {}, must be a number or a string", kind(value)),
            );
        }
    } else {
        match schema["type"].as_str() {
            Some("object") => return object(schema, value, path, errors),
            Some("array") => return array(schema, value, path, errors),
            Some("string") => return string(schema, value, path, errors),
            Some("integer") => {
                whole(value);
                integer(schema, value, path, errors);
            }
            Some("number") => number(schema, value, path, errors),
            Some("boolean") if !value.is_boolean() => {
                fault(
                    errors,
                    path,
                    format!("is {}, must be true or false", kind(value)),
                );
            }
            _ => {}
        }
    }
    errors.len() == before
}

/// An object stays, without its faulty fields, where it has all that it must have.
fn object(schema: &Value, value: &mut Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let Value::Object(fields) = value else {
        fault(
            errors,
            path,
            format!("is {}, must be an object", kind(value)),
        );
        return false;
    };
    if schema["additionalProperties"].is_object() {
        map(schema, fields, path, errors);
        return true;
    }
    let empty = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&empty);
    // A leaf without a value is one that is not given.
    let known_leaf = |name: &String| {
        known
            .get(name)
            .is_some_and(|schema| schema["nullable"] != true)
    };
    fields.retain(|name, field| !(field.is_null() && known_leaf(name)));
    fields.retain(|name, field| {
        let path = format!("{path}.{name}");
        match known.get(name) {
            Some(schema) => node(schema, field, &path, errors),
            None => {
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                fault(
                    errors,
                    &path,
                    format!("unknown field; allowed here: {}", names.join(", ")),
                );
                false
            }
        }
    });
    let mut is_whole = true;
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let path = format!("{path}.{name}");
        if fields.contains_key(name) {
            continue;
        }
        is_whole = false;
        if !errors.iter().any(|error| error.field.starts_with(&path)) {
            fault(errors, &path, "is missing and must be given".to_owned());
        }
    }
    is_whole
}

/// An object whose fields the user names.
fn map(schema: &Value, fields: &mut Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let most = schema["maxProperties"].as_u64();
    let count = fields.len() as u64;
    if most.is_some_and(|most| count > most) {
        let allowed = range(None, most.map(|n| n as f64));
        fault(
            errors,
            path,
            format!("has {count} entries, must have {allowed}"),
        );
        return;
    }
    let inner = &schema["additionalProperties"];
    fields.retain(|name, field| node(inner, field, &format!("{path}.{name}"), errors));
}

/// A list stays where each of its entries does: what comes after one that is taken out would
/// have another's number.
fn array(schema: &Value, value: &mut Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let Value::Array(items) = value else {
        fault(errors, path, format!("is {}, must be a list", kind(value)));
        return false;
    };
    let (least, most) = (schema["minItems"].as_u64(), schema["maxItems"].as_u64());
    let count = items.len() as u64;
    if least.is_some_and(|least| count < least) || most.is_some_and(|most| count > most) {
        let allowed = range(least.map(|n| n as f64), most.map(|n| n as f64));
        fault(
            errors,
            path,
            format!("has {count} items, must have {allowed}"),
        );
        return false;
    }
    let mut all_stay = true;
    for (index, item) in items.iter_mut().enumerate() {
        all_stay &= node(&schema["items"], item, &format!("{path}[{index}]"), errors);
    }
    all_stay
}

/// A text of another form than it should have can still be read, and so can what is beside it.
fn string(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) -> bool {
    let Value::String(text) = value else {
        let hint = if schema["pattern"] == forms::DURATION {
            "must be a duration such as 250ms, 10s, 5m"
        } else {
            "must be a string (put it in quotes)"
        };
        fault(errors, path, format!("is {}, {hint}", kind(value)));
        return false;
    };
    if let Some(allowed) = schema["enum"].as_array() {
        if !allowed.contains(value) {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            fault(
                errors,
                path,
                format!("is {text:?}, must be one of: {}", names.join(", ")),
            );
            return false;
        }
        return true;
    }
    let (least, most) = (schema["minLength"].as_u64(), schema["maxLength"].as_u64());
    let length = text.chars().count() as u64;
    if least.is_some_and(|least| length < least) || most.is_some_and(|most| length > most) {
        let allowed = range(least.map(|n| n as f64), most.map(|n| n as f64));
        fault(
            errors,
            path,
            format!("has {length} characters, must have {allowed}"),
        );
        return false;
    }
    let mut forms = forms::FORMS.iter();
    let form = forms.find(|form| schema["pattern"] == form.pattern);
    if let Some(form) = form.filter(|form| !(form.holds)(text)) {
        fault(errors, path, format!("is {}, {}", kind(value), form.words));
    }
    true
}

/// `5.0` is `5`: JSON knows one kind of number, and so does an API server.
fn whole(value: &mut Value) {
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && number.fract() == 0.0
        && number.abs() < i64::MAX as f64
    {
        *value = Value::from(number as i64);
    }
}

fn integer(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let allowed = range(schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let number = match value {
        Value::Number(number) if number.is_i64() || number.is_u64() => number.as_f64(),
        _ => None,
    };
    let Some(number) = number else {
        fault(
            errors,
            path,
            format!("is {}, must be a whole number {allowed}", kind(value)),
        );
        return;
    };
    let low = schema["minimum"]
        .as_f64()
        .is_some_and(|least| number < least);
    let high = schema["maximum"].as_f64().is_some_and(|most| number > most);
    if low || high {
        fault(errors, path, format!("is {value}, must be {allowed}"));
    }
}

/// A number that may have a fraction.
fn number(schema: &Value, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let allowed = range(least, most);
    match value.as_f64().filter(|_| value.is_number()) {
        None => {
            let message = format!("is {}, must be a number {allowed}", kind(value));
            fault(errors, path, message);
        }
        Some(number) => {
            let low = least.is_some_and(|least| number < least);
            let high = most.is_some_and(|most| number > most);
            if low || high {
                fault(errors, path, format!("is {value}, must be {allowed}"));
            }
        }
    }
}

fn range(least: Option<f64>, most: Option<f64>) -> String {
    match (least, most) {
        (Some(least), Some(most)) => format!("from {least} to {most}"),
        (None, Some(most)) => format!("from 0 to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, None) => "of any size".to_owned(),
    }
}

/// What a value is, in words, short enough for a log line.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn fault(errors: &mut Vec<FieldError>, field: &str, message: String) {
    errors.push(FieldError {
        field: field.to_owned(),
        message,
    });
}
