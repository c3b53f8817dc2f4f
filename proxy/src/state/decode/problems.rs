//! Everything that is wrong with one resource, each with its field's path.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use remora_proto::bounds;

/// So many problems of one resource are spelled out.
pub const MAX_PROBLEMS: usize = 16;
/// A value of a resource is quoted up to this many characters.
const MAX_QUOTED: usize = 64;

/// A resource cannot be taken; says every reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DecodeError {
    /// One for each problem: `field.path: what is wrong`.
    pub problems: Vec<String>,
    /// Problems that were not spelled out.
    pub omitted: usize,
}

impl DecodeError {
    /// An error with one problem.
    pub fn new(problem: impl Into<String>) -> Self {
        Self {
            problems: vec![problem.into()],
            omitted: 0,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.problems.join("; "))?;
        if self.omitted > 0 {
            write!(formatter, "; and {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// Collects problems while a resource is decoded.
#[derive(Debug, Default)]
pub struct Problems {
    path: Vec<String>,
    found: Vec<String>,
    omitted: usize,
}

impl Problems {
    /// Ends the decoding: `value`, or every problem that was met.
    pub fn finish<T>(self, value: T) -> Result<T, DecodeError> {
        if self.found.is_empty() {
            Ok(value)
        } else {
            Err(DecodeError {
                problems: self.found,
                omitted: self.omitted,
            })
        }
    }

    /// Whether there is none so far.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Decodes a part below `field`.
    pub fn within<T>(
        &mut self,
        field: impl Into<String>,
        decode: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.path.push(field.into());
        let value = decode(self);
        self.path.pop();
        value
    }

    /// Records that `field` is wrong.
    pub fn add(&mut self, field: &str, problem: impl fmt::Display) {
        if self.found.len() >= MAX_PROBLEMS {
            self.omitted += 1;
            return;
        }
        let mut path = self.path.join(".");
        if !field.is_empty() {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(field);
        }
        self.found.push(if path.is_empty() {
            problem.to_string()
        } else {
            format!("{path}: {problem}")
        });
    }

    /// A number within its bounds.
    pub fn number<N>(&mut self, field: &str, value: N, bounds: RangeInclusive<N>) -> N
    where
        N: PartialOrd + fmt::Display,
    {
        if !bounds.contains(&value) {
            let (low, high) = (bounds.start(), bounds.end());
            self.add(field, format_args!("is {value}, must be {low} to {high}"));
        }
        value
    }

    /// A number that may be unset.
    pub fn optional(
        &mut self,
        field: &str,
        value: Option<u32>,
        bounds: RangeInclusive<u32>,
    ) -> Option<u32> {
        value.map(|value| self.number(field, value, bounds))
    }

    /// A duration in milliseconds, at least `at_least_ms` and at most a day.
    pub fn duration(&mut self, field: &str, value_ms: u64, at_least_ms: u64) -> Duration {
        let most_ms = bounds::MAX_DURATION_MS;
        if !(at_least_ms..=most_ms).contains(&value_ms) {
            self.add(
                field,
                format_args!("is {value_ms} ms, must be {at_least_ms} ms to {most_ms} ms"),
            );
        }
        Duration::from_millis(value_ms)
    }

    /// A port number.
    pub fn port(&mut self, field: &str, value: u32) -> u16 {
        match u16::try_from(value) {
            Ok(port) if port != 0 => port,
            _ => {
                self.add(field, format_args!("is {value}, must be 1 to 65535"));
                0
            }
        }
    }

    /// A list no longer than `at_most`; beyond that it is cut, so that the
    /// rest of the decoding stays bounded too.
    pub fn list<'a, T>(&mut self, field: &str, values: &'a [T], at_most: usize) -> &'a [T] {
        if values.len() > at_most {
            let count = values.len();
            self.add(
                field,
                format_args!("has {count} entries, at most {at_most}"),
            );
        }
        &values[..values.len().min(at_most)]
    }

    /// A text that `valid` accepts; `what` names what it must be.
    pub fn text(
        &mut self,
        field: &str,
        value: &str,
        valid: impl FnOnce(&str) -> bool,
        what: &str,
    ) -> String {
        if valid(value) {
            return value.to_owned();
        }
        self.add(field, format_args!("is {}, must be {what}", quote(value)));
        String::new()
    }
}

/// `value` as it may be shown in a log: escaped and cut.
pub fn quote(value: &str) -> String {
    let mut quoted: String = value.chars().take(MAX_QUOTED).collect();
    if quoted.len() < value.len() {
        quoted.push('…');
    }
    format!("{quoted:?}")
}
