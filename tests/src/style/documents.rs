//! What must be described somewhere.

use super::Finding;
use super::source::Source;

/// What a reader looks for at the top of the repository.
pub const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "LEXICON.md",
    "CHANGELOG.md",
    "LICENSE",
    "deny.toml",
    ".ci/run",
    "benches/README.md",
];

/// Modules that `lib.rs` declares and its `# Layout` does not name.
pub fn unnamed_modules(lib: &Source) -> Vec<Finding> {
    let docs: Vec<_> = lib
        .text
        .lines()
        .filter(|line| line.starts_with("//!"))
        .collect();
    let Some(layout) = docs
        .iter()
        .position(|line| line.starts_with("//! # Layout"))
    else {
        return vec![Finding::new(
            &lib.path,
            1,
            "no `# Layout` in its documentation",
        )];
    };
    let map = docs[layout..].join("\n");
    let mut findings = Vec::new();
    for (number, line) in lib.product_lines() {
        let declared = ["pub mod ", "mod ", "pub(crate) mod "]
            .iter()
            .find_map(|prefix| line.strip_prefix(prefix))
            .and_then(|rest| rest.split([';', ' ']).next());
        let Some(name) = declared else { continue };
        let named = [
            format!("`{name}`"),
            format!("`{name}()`"),
            format!("`mod@{name}`"),
        ];
        let is_generated = generated(lib, number);
        if !is_generated && !named.iter().any(|name| map.contains(name)) {
            let what = format!("`# Layout` does not name `{name}`");
            findings.push(Finding::new(&lib.path, number, what));
        }
    }
    findings
}

/// Whether the private module that begins here only includes generated code.
fn generated(lib: &Source, line: usize) -> bool {
    let mut rest = lib.text.lines().skip(line - 1);
    let first = rest.next().unwrap_or_default();
    let body = rest.take_while(|line| *line != "}").collect::<Vec<_>>();
    first.starts_with("mod ")
        && first.ends_with('{')
        && body.iter().any(|line| line.contains("include!("))
}

/// Variables that a crate reads and no document names.
pub fn undocumented_variables(sources: &[Source], folder: &str, documents: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.folder() == folder) {
        for (at, _) in source.text.match_indices("\"REMORA_") {
            let name = source.text[at + 1..].split('"').next().unwrap_or_default();
            let line = source.line(at);
            // A quote that stands in code too opens a literal, not a comment.
            let in_code = source.code.as_bytes().get(at) == Some(&b'"');
            let is_name = name
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            if in_code && is_name && !source.is_test(line) && !names(documents, name) {
                let what = format!("`{name}` is read and documented nowhere");
                findings.push(Finding::new(&source.path, line, what));
            }
        }
    }
    findings
}

/// Whether the text has this very name, not only a longer one.
fn names(documents: &str, name: &str) -> bool {
    documents.match_indices(name).any(|(at, _)| {
        let after = documents[at + name.len()..].chars().next();
        after.is_none_or(|c| !c.is_ascii_uppercase() && c != '_')
    })
}

/// Documents that are not there, of those that must be.
pub fn missing_documents(is_there: impl Fn(&str) -> bool) -> Vec<Finding> {
    let missing = DOCUMENTS.iter().filter(|document| !is_there(document));
    missing
        .map(|document| Finding::new(document, 1, "is missing"))
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_module_that_the_map_leaves_out_is_found() {
        let text = "//! A crate.\n//!\n//! # Layout\n//! - [`a`]: first.\npub mod a;\nmod b;\n#[cfg(test)]\nmod c;\n\
            mod d {\n    include!(\"generated/d.rs\");\n}\n";
        let found = unnamed_modules(&Source::new("proxy/src/lib.rs", text));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].line, found[0].what.as_str()),
            (6, "`# Layout` does not name `b`")
        );
        let without = unnamed_modules(&Source::new(
            "proxy/src/lib.rs",
            "//! A crate: `a`.\npub mod a;\n",
        ));
        assert!(without[0].what.contains("no `# Layout`"));
    }

    #[test]
    fn a_variable_without_a_word_about_it_is_found() {
        let text = "fn a() {\n    env(\"REMORA_POD\");\n    env(\"REMORA_POD_UID\"); // \"REMORA_COMMENT\"\n}\n";
        let sources = [Source::new("proxy/src/config.rs", text)];
        let found = undocumented_variables(&sources, "proxy", "| REMORA_POD_UID | the uid |");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].line, 2);
        assert!(undocumented_variables(&sources, "proxy", "REMORA_POD, REMORA_POD_UID").is_empty());
    }

    #[test]
    fn a_missing_document_is_found() {
        let found = missing_documents(|document| document != "LEXICON.md");
        assert_eq!(found, [Finding::new("LEXICON.md", 1, "is missing")]);
    }
}
