//! Files and functions are short.

use super::Finding;
use super::functions::functions;
use super::source::Source;

/// Lines of a file, its tests not counted.
pub const FILE_LINES: usize = 500;
/// Lines of a function.
pub const FUNCTION_LINES: usize = 70;

/// Files that are longer than they should be: path, and the length that they
/// may have until somebody shortens them. A ratchet: it only goes down.
pub type Ratchet = [(&'static str, usize)];

/// Files over their length.
pub fn long_files(sources: &[Source], ratchet: &Ratchet) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let lines = source.in_test.iter().filter(|test| !**test).count();
        let excused = ratchet.iter().find(|(path, _)| *path == source.path);
        let limit = excused.map_or(FILE_LINES, |(_, lines)| *lines);
        if lines > limit {
            let what = format!("{lines} lines without tests, at most {limit}: part it");
            findings.push(Finding::new(&source.path, 1, what));
        } else if excused.is_some() && lines < limit {
            let what = format!("{lines} lines now: lower its entry in the ratchet ({limit})");
            findings.push(Finding::new(&source.path, 1, what));
        }
    }
    for (path, _) in ratchet {
        if !sources.iter().any(|source| source.path == *path) {
            findings.push(Finding::new(path, 1, "is gone: take it out of the ratchet"));
        }
    }
    findings
}

/// Functions over their length; tests may tell longer stories.
pub fn long_functions(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for function in functions(source) {
            if function.length > FUNCTION_LINES && !source.is_test(function.line) {
                let (name, length) = (function.name, function.length);
                let what = format!("`{name}` has {length} lines, at most {FUNCTION_LINES}");
                findings.push(Finding::new(&source.path, function.line, what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_long_file_is_found_its_tests_are_not_counted_and_the_ratchet_only_goes_down() {
        let tests = format!(
            "#[cfg(test)]\nmod tests {{\n{}}}\n",
            "\n".repeat(FILE_LINES)
        );
        let sources = [
            Source::new("proxy/src/short.rs", &tests),
            Source::new("proxy/src/long.rs", &"a();\n".repeat(FILE_LINES + 1)),
        ];
        let found = long_files(&sources, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file, "proxy/src/long.rs");
        assert!(long_files(&sources, &[("proxy/src/long.rs", FILE_LINES + 1)]).is_empty());
        let higher = long_files(&sources, &[("proxy/src/long.rs", FILE_LINES + 2)]);
        assert!(higher[0].what.contains("lower its entry"));
        let gone = long_files(&sources[..1], &[("proxy/src/long.rs", 600)]);
        assert!(gone[0].what.contains("is gone"));
    }

    #[test]
    fn a_long_function_is_found_by_name_and_line() {
        let body = "    a();\n".repeat(FUNCTION_LINES);
        let text = format!("fn short() {{\n}}\nfn long() {{\n{body}}}\n");
        let found = long_functions(&[Source::new("proxy/src/a.rs", &text)]);
        assert_eq!((found.len(), found[0].line), (1, 3));
        assert!(
            found[0].what.contains("`long` has 72 lines"),
            "{}",
            found[0]
        );
    }
}
