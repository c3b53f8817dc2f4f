//! What is found wrong while an object is read, and the reading of its fields.
//!
//! An API server refuses what is not of the form that the definition has. So of
//! a cluster only what the definition of another release allows comes here; of
//! files anything does.

use remora_proto::bounds::{MAX_DURATION_MS, MAX_HEADER_NAME, MAX_ROUTE_TEXT, is_header_name};
use serde_json::{Map, Value};

use crate::core::routes::{Fault, FaultReason, RuleFault};
use crate::policy::check::FieldError;
use crate::policy::units;
use crate::text::cut;

/// Findings that are kept of one rule: an object is bounded, its text need not be.
const MAX_FINDINGS: usize = 16;
/// Bytes of a text of the user that is shown.
const MAX_SHOWN: usize = 64;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Not of the form that the definition has: of a file the object is refused.
    Form,
    /// A value that this release does not know, or cannot do.
    Unsupported,
    /// Filters that cannot stand together.
    Incompatible,
}

struct Finding {
    why: Why,
    of_filters: bool,
    error: FieldError,
}

/// What was found wrong.
#[derive(Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    in_filters: bool,
    remarks: Vec<String>,
}

pub(super) type Fields = Map<String, Value>;

impl Findings {
    /// Not of its form.
    pub(super) fn form(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(Why::Form, field.into(), message.into());
    }

    /// Of its form, and nothing that can be done here.
    pub(super) fn unsupported(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(Why::Unsupported, field.into(), message.into());
    }

    /// Beside another filter.
    pub(super) fn incompatible(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.add(Why::Incompatible, field.into(), message.into());
    }

    /// What is done otherwise than it may be meant.
    pub(super) fn remark(&mut self, text: String) {
        if self.remarks.len() < MAX_FINDINGS {
            self.remarks.push(text);
        }
    }

    pub(super) fn into_remarks(self) -> Vec<String> {
        self.remarks
    }

    fn add(&mut self, why: Why, field: String, message: String) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(Finding {
                why,
                of_filters: self.in_filters,
                error: FieldError { field, message },
            });
        }
    }

    /// What `read` finds is of filters.
    pub(super) fn within_filters<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = std::mem::replace(&mut self.in_filters, true);
        let result = read(self);
        self.in_filters = before;
        result
    }

    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// What is not of its form.
    pub(super) fn faults(&self) -> impl Iterator<Item = FieldError> {
        let faults = self.list.iter().filter(|one| one.why == Why::Form);
        faults.map(|one| one.error.clone())
    }

    /// What a rule, or a route, is for it.
    pub(super) fn verdict(&self) -> Option<RuleFault> {
        let first = self.list.first()?;
        let message: Vec<String> = self.list.iter().map(|one| one.error.to_string()).collect();
        let incompatible = self.list.iter().all(|one| one.why == Why::Incompatible);
        let reason = if incompatible && first.why == Why::Incompatible {
            FaultReason::IncompatibleFilters
        } else {
            FaultReason::UnsupportedValue
        };
        Some(RuleFault {
            fault: Fault {
                reason,
                message: message.join("; "),
            },
            of_filters: self.list.iter().all(|one| one.of_filters),
        })
    }

    /// An object with these fields and no others.
    pub(super) fn object<'a>(
        &mut self,
        value: &'a Value,
        path: &str,
        known: &[&str],
    ) -> Option<&'a Fields> {
        let Value::Object(fields) = value else {
            self.form(path, "must be an object");
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = format!("unknown field; allowed here: {}", known.join(", "));
            self.form(format!("{path}.{name}"), message);
        }
        Some(fields)
    }

    /// The entries of a list; none where it is not there.
    pub(super) fn list<'a>(
        &mut self,
        fields: &'a Fields,
        path: &str,
        name: &str,
        most: usize,
    ) -> &'a [Value] {
        match fields.get(name) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(items)) if items.len() <= most => items,
            Some(Value::Array(items)) => {
                let message = format!("has {} entries, must have at most {most}", items.len());
                self.form(format!("{path}.{name}"), message);
                &items[..most]
            }
            Some(_) => {
                self.form(format!("{path}.{name}"), "must be a list");
                &[]
            }
        }
    }

    /// A text that may be absent.
    pub(super) fn text<'a>(
        &mut self,
        fields: &'a Fields,
        path: &str,
        name: &str,
    ) -> Option<&'a str> {
        match fields.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() <= MAX_ROUTE_TEXT => Some(text),
            Some(Value::String(text)) => {
                let message = format!(
                    "has {} bytes, must have at most {MAX_ROUTE_TEXT}",
                    text.len()
                );
                self.form(format!("{path}.{name}"), message);
                None
            }
            Some(_) => {
                self.form(
                    format!("{path}.{name}"),
                    "must be a string (put it in quotes)",
                );
                None
            }
        }
    }

    /// A text that must be there, and holds.
    pub(super) fn required<'a>(
        &mut self,
        fields: &'a Fields,
        path: &str,
        name: &str,
        form: (fn(&str) -> bool, &str),
    ) -> Option<&'a str> {
        if fields.get(name).is_none_or(Value::is_null) {
            self.form(format!("{path}.{name}"), "is missing and must be given");
            return None;
        }
        self.optional(fields, path, name, form)
    }

    /// A text that may be absent, and else holds.
    pub(super) fn optional<'a>(
        &mut self,
        fields: &'a Fields,
        path: &str,
        name: &str,
        (holds, words): (fn(&str) -> bool, &str),
    ) -> Option<&'a str> {
        let text = self.text(fields, path, name)?;
        if !holds(text) {
            let message = format!("is {}, must be {words}", shown(text));
            self.form(format!("{path}.{name}"), message);
            return None;
        }
        Some(text)
    }

    /// One of these words; another one is not known.
    pub(super) fn word<'a>(
        &mut self,
        fields: &'a Fields,
        path: &str,
        name: &str,
        known: &[&str],
    ) -> Option<&'a str> {
        let text = self.text(fields, path, name)?;
        if !known.contains(&text) {
            let message = format!("is {}, must be one of: {}", shown(text), known.join(", "));
            self.unsupported(format!("{path}.{name}"), message);
            return None;
        }
        Some(text)
    }

    /// A whole number between two.
    pub(super) fn number(
        &mut self,
        fields: &Fields,
        path: &str,
        name: &str,
        (least, most): (u32, u32),
    ) -> Option<u32> {
        let value = fields.get(name).filter(|value| !value.is_null())?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.form(
                format!("{path}.{name}"),
                format!("must be a whole number from {least} to {most}"),
            );
        }
        number
    }

    /// A port.
    pub(super) fn port(&mut self, fields: &Fields, path: &str) -> Option<u16> {
        let number = self.number(fields, path, "port", (1, 65_535))?;
        u16::try_from(number).ok()
    }

    /// True or false.
    pub(super) fn boolean(&mut self, fields: &Fields, path: &str, name: &str) -> Option<bool> {
        let value = fields.get(name).filter(|value| !value.is_null())?;
        if value.as_bool().is_none() {
            self.form(format!("{path}.{name}"), "must be true or false");
        }
        value.as_bool()
    }

    /// A duration of GEP-2257, in milliseconds.
    pub(super) fn duration(&mut self, fields: &Fields, path: &str, name: &str) -> Option<u64> {
        let text = self.text(fields, path, name)?;
        let field = format!("{path}.{name}");
        match units::duration_ms(text) {
            Some(ms) if ms <= MAX_DURATION_MS => return Some(ms),
            Some(_) => {
                let longest = units::display_ms(MAX_DURATION_MS);
                self.unsupported(field, format!("is {text:?}, must be at most {longest}"));
            }
            None => {
                let message = format!(
                    "is {}, must be a duration such as 250ms, 10s, 1m30s",
                    shown(text)
                );
                self.form(field, message);
            }
        }
        None
    }

    /// The name of a header, in lower case.
    pub(super) fn header_name(&mut self, text: &str, field: &str) -> Option<String> {
        let lower = text.to_ascii_lowercase();
        if is_header_name(&lower) {
            return Some(lower);
        }
        let message = format!("is {}, must be the name of a header", shown(text));
        if lower.len() > MAX_HEADER_NAME {
            self.unsupported(
                field,
                format!("{message}, of at most {MAX_HEADER_NAME} bytes"),
            );
        } else {
            self.form(field, message);
        }
        None
    }
}

/// A text of the user, in quotes, and short enough for a message.
pub(super) fn shown(text: &str) -> String {
    let mut text = text.to_owned();
    if text.len() > MAX_SHOWN {
        cut(&mut text, MAX_SHOWN);
        text.push('…');
    }
    format!("{text:?}")
}

/// Whether a text may be the value of a header that is matched or set.
pub(super) fn is_value(text: &str) -> bool {
    let blank = |byte: u8| byte == b' ' || byte == b'\t';
    let ends = [text.bytes().next(), text.bytes().last()];
    (1..=MAX_ROUTE_TEXT).contains(&text.len())
        && !ends.into_iter().flatten().any(blank)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() || blank(byte))
}

/// The form of [`is_value`], in words.
pub(super) const VALUE: &str =
    "1 to 4096 visible characters of ASCII, with blanks only between them";
