//! What must not be written, and where.

use super::Finding;
use super::source::Source;

/// Work left undone.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!"];
/// What may panic on bytes from a network.
const PANICS: &[&str] = &[".unwrap()", ".expect(", "panic!", "unreachable!"];
/// Time and chance that were not handed in.
const CLOCKS: &[&str] = &["Instant::now", "SystemTime::now", "fastrand"];
/// The files that may read them.
const CLOCK_FILES: &[&str] = &["/clock.rs", "/random.rs"];

/// `todo!` and its kin, in any crate, outside of tests.
pub fn unfinished(sources: &[Source]) -> Vec<Finding> {
    occurrences(sources, UNFINISHED, |_| true)
}

/// What may panic in the sidecar and in what it reads from the wire.
pub fn panics(sources: &[Source]) -> Vec<Finding> {
    occurrences(sources, PANICS, |source| {
        matches!(source.folder(), "proxy" | "proto")
    })
}

/// The sidecar's clocks and chance outside their own files.
pub fn clocks(sources: &[Source]) -> Vec<Finding> {
    occurrences(sources, CLOCKS, |source| {
        source.folder() == "proxy" && !CLOCK_FILES.iter().any(|file| source.path.ends_with(file))
    })
}

/// Lints that are switched off and nobody says why: neither `reason = ".."`,
/// nor a comment on the line or on the one above.
pub fn unexplained_allows(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for pattern in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
            for (at, _) in source.code.match_indices(pattern) {
                let end = at + source.code[at..].find(")]").unwrap_or(0);
                let line = source.line(at);
                if !source.code[at..end].contains("reason =") && !is_explained(source, line, end) {
                    findings.push(Finding::new(
                        &source.path,
                        line,
                        "a lint is off without a reason",
                    ));
                }
            }
        }
    }
    findings
}

/// Whether a comment stands behind `end`, or on the line above `line`.
fn is_explained(source: &Source, line: usize, end: usize) -> bool {
    let rest = source.text[end..].lines().next().unwrap_or_default();
    let above = line
        .checked_sub(2)
        .and_then(|index| source.text.lines().nth(index));
    let above = above.unwrap_or_default().trim_start();
    let is_comment =
        above.starts_with("//") && !above.starts_with("///") && !above.starts_with("//!");
    rest.contains("// ") || is_comment
}

fn occurrences(
    sources: &[Source],
    words: &[&str],
    in_scope: impl Fn(&Source) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| in_scope(source)) {
        for (line, code) in source.product_lines() {
            for word in words.iter().filter(|word| code.contains(**word)) {
                findings.push(Finding::new(&source.path, line, format!("`{word}`")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod unit {
    use super::*;

    const SAMPLE: &str = "fn a() {\n    // todo!() .unwrap()\n    b(\"panic!\").unwrap();\n    todo!();\n    \
        Instant::now();\n}\n#[cfg(test)]\nmod tests {\n    fn c() { todo!(); a().unwrap(); Instant::now(); }\n}\n";

    fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn words_are_found_in_code_but_not_in_comments_literals_and_tests() {
        let sources = [Source::new("proxy/src/a.rs", SAMPLE)];
        assert_eq!(lines(&unfinished(&sources)), [4]);
        assert_eq!(lines(&panics(&sources)), [3]);
        assert_eq!(lines(&clocks(&sources)), [5]);
    }

    #[test]
    fn each_word_has_its_scope() {
        let elsewhere = [Source::new("cli/src/a.rs", SAMPLE)];
        assert!(panics(&elsewhere).is_empty() && clocks(&elsewhere).is_empty());
        assert_eq!(lines(&unfinished(&elsewhere)), [4]);
        assert!(clocks(&[Source::new("proxy/src/clock.rs", SAMPLE)]).is_empty());
    }

    #[test]
    fn an_allow_needs_a_reason() {
        let text = "#[allow(a)]\nfn a() {}\n#[allow(b)] // because\nfn b() {}\n// because\n#[allow(c)]\nfn c() {}\n\
            #[allow(\n    d,\n    reason = \"because\"\n)]\nfn d() {}\n/// Not a reason.\n#[allow(e)]\nfn e() {}\n";
        let found = unexplained_allows(&[Source::new("cli/src/a.rs", text)]);
        assert_eq!(lines(&found), [1, 14]);
    }
}
