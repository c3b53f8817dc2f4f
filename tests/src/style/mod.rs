//! What the house asks of the source, as far as a program can see it.
//!
//! Owns the rules, each a pure function from sources to findings; it does not
//! read the tree, so that each rule is tried on a small sample of its own.
//!
//! - [`source`]: one file, with what is code, comment and test told apart.
//! - [`functions`]: where functions begin and end.
//! - [`arrows`]: who may import whom.
//! - [`size`]: files and functions are short.
//! - [`words`]: what must not be written, and where.
//! - [`tests`]: every test can fail, and runs.
//! - [`documents`]: what must be described somewhere.
//! - [`fields`]: a table that names every field of an API, and a test for each.

use std::fmt;

pub mod arrows;
pub mod documents;
pub mod fields;
pub mod functions;
pub mod size;
pub mod source;
pub mod tests;
pub mod words;

/// One place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, from the top of the repository.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl Finding {
    /// A finding at a place.
    pub fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        let (file, what) = (file.to_owned(), what.into());
        Self { file, line, what }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// All findings as text, one a line, under the rule that they break.
pub fn report(rule: &str, findings: &[Finding]) -> String {
    let lines: Vec<_> = findings
        .iter()
        .map(|finding| format!("  {finding}"))
        .collect();
    format!("{rule}\n{}", lines.join("\n"))
}
