//! Where functions begin and end.

use super::source::{Source, item_end};

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// The line of its `fn`, from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace, both counted.
    pub length: usize,
    /// Its attributes, blank literals and all.
    pub attributes: &'a str,
    /// All of it, from `fn`, comments and literals blank.
    pub code: &'a str,
}

/// The functions of a file, nested ones too.
pub fn functions(source: &Source) -> Vec<Function<'_>> {
    let code = source.code.as_str();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let before = code[..at].chars().next_back();
        let name = code[at + 3..]
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next();
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            continue;
        };
        if before.is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        let end = item_end(code, at);
        if code[..end].ends_with('}') {
            let (line, last) = (source.line(at), source.line(end - 1));
            found.push(Function {
                name,
                line,
                length: last - line + 1,
                attributes: attributes(code, at),
                code: &code[at..end],
            });
        }
    }
    found
}

/// What stands between the item before and this one.
fn attributes(code: &str, at: usize) -> &str {
    let begin = code[..at].rfind(['}', ';', '{']).map_or(0, |end| end + 1);
    &code[begin..at]
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let text = "#[test]\nasync fn a(x: [u8; 4])\nwhere\n    X: Fn() -> u8,\n{\n    b();\n}\n\
                    trait T {\n    fn c();\n}\ntype F = fn (u8);\n";
        let source = Source::new("proxy/src/a.rs", text);
        let all = functions(&source);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].name, all[0].line, all[0].length), ("a", 2, 6));
        assert!(all[0].attributes.contains("#[test]"));
    }
}
