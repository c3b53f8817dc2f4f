//! Every test can fail, and runs.

use std::collections::BTreeSet;

use super::Finding;
use super::functions::{Function, functions};
use super::source::Source;

/// What can fail a test.
const CAN_FAIL: &[&str] = &[
    "assert",
    "panic!",
    ".unwrap",
    ".expect(",
    "ensure!",
    "bail!",
    "unreachable!",
];

/// Tests that nobody runs.
pub fn ignored(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (at, _) in source.code.match_indices("#[ignore") {
            let what = "an ignored test: mend it, or say SKIPPED when it runs";
            findings.push(Finding::new(&source.path, source.line(at), what));
        }
    }
    findings
}

/// Tests in which nothing can fail: no assertion in them, nor in what they
/// call within their own crate.
pub fn without_assertion(sources: &[Source]) -> Vec<Finding> {
    let folders: BTreeSet<_> = sources.iter().map(Source::folder).collect();
    let mut findings = Vec::new();
    for folder in folders {
        let crate_sources: Vec<_> = sources.iter().filter(|s| s.folder() == folder).collect();
        let in_tests: Vec<_> = crate_sources
            .iter()
            .flat_map(|source| functions(source).into_iter().map(move |f| (*source, f)))
            .filter(|(source, function)| source.is_test(function.line))
            .collect();
        let asserting = asserting(&in_tests);
        for (source, function) in in_tests {
            if is_test(&function) && !can_fail(&function, &asserting) {
                let what = format!("nothing in `{}` can fail", function.name);
                findings.push(Finding::new(&source.path, function.line, what));
            }
        }
    }
    findings
}

fn is_test(function: &Function<'_>) -> bool {
    ["#[test]", "#[tokio::test"]
        .iter()
        .any(|attribute| function.attributes.contains(attribute))
}

fn can_fail(function: &Function<'_>, asserting: &BTreeSet<&str>) -> bool {
    let (head, body) = function.code.split_once('{').unwrap_or((function.code, ""));
    CAN_FAIL.iter().any(|word| body.contains(word))
        || function.attributes.contains("should_panic")
        // A test that says that nothing panics fails by that very panic.
        || function.name.contains("panic")
        || (head.contains("Result") && body.contains('?'))
        || calls(body).any(|name| asserting.contains(name))
}

/// The helpers, directly or by what they call, that assert something.
fn asserting<'a>(all: &[(&Source, Function<'a>)]) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    loop {
        let before = known.len();
        for (_, function) in all {
            if can_fail(function, &known) {
                known.insert(function.name);
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

/// Names that are followed by `(` or `!(`.
fn calls(body: &str) -> impl Iterator<Item = &str> {
    body.match_indices('(').filter_map(|(at, _)| {
        let before = body[..at].trim_end_matches('!');
        let begin = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |i| i + 1);
        (begin < before.len()).then(|| &before[begin..])
    })
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_ignored_test_is_found() {
        let source = Source::new(
            "proxy/tests/a.rs",
            "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n",
        );
        assert_eq!(ignored(&[source])[0].line, 2);
    }

    #[test]
    fn a_test_must_be_able_to_fail_by_itself_or_by_its_helpers() {
        let text = "#[test]\nfn empty() {\n    helper();\n}\nfn helper() {\n    let a = 1;\n}\n\
            #[tokio::test(start_paused = true)]\nasync fn by_helper() {\n    deep().await;\n}\n\
            async fn deep() {\n    check(1);\n}\nfn check(a: u8) {\n    assert_eq!(a, 1);\n}\n\
            #[test]\nfn by_result() -> Result<()> {\n    helper()?;\n    Ok(())\n}\n\
            #[test]\nfn no_bytes_panic() {\n    helper();\n}\n\
            #[test]\nfn unfailing() -> Result<()> {\n    helper();\n    Ok(())\n}\n";
        let found = without_assertion(&[Source::new("proxy/tests/a.rs", text)]);
        let names: Vec<_> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(
            names,
            [
                "nothing in `empty` can fail",
                "nothing in `unfailing` can fail"
            ]
        );
    }
}
