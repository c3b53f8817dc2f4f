//! One file of Rust, with what is code, comment and test told apart.
//!
//! A scanner of a hundred lines, not a parser: it needs rustfmt's layout and no
//! more knowledge of the language than where comments and literals end.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// A file of Rust.
#[derive(Clone, Debug)]
pub struct Source {
    /// From the top of the repository, with `/`.
    pub path: String,
    /// As it is written.
    pub text: String,
    /// The same bytes, those of comments and of literals' contents blank.
    pub code: String,
    /// For each line whether it belongs to a test.
    pub in_test: Vec<bool>,
}

impl Source {
    /// Reads a file from its text.
    pub fn new(path: &str, text: &str) -> Self {
        let code = blanked(text);
        let whole = is_test_path(path);
        let mut in_test = vec![whole; text.lines().count()];
        for (attribute, _) in code.match_indices("#[cfg(test)]") {
            let end = item_end(&code, attribute + "#[cfg(test)]".len());
            let last = line_of(text, end).min(in_test.len());
            in_test[line_of(text, attribute) - 1..last].fill(true);
        }
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            in_test,
        }
    }

    /// Lines of code that belong to no test: number (from 1), comments and
    /// literals blank.
    pub fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .filter(|(index, _)| !self.in_test[*index])
            .map(|(index, line)| (index + 1, line))
    }

    /// The line, from 1, of a byte of the text.
    pub fn line(&self, byte: usize) -> usize {
        line_of(&self.text, byte)
    }

    /// Whether the line (from 1) belongs to a test.
    pub fn is_test(&self, line: usize) -> bool {
        self.in_test.get(line - 1).copied().unwrap_or(false)
    }

    /// The crate's folder: `proxy`.
    pub fn folder(&self) -> &str {
        self.path.split('/').next().unwrap_or_default()
    }

    /// The module files that this one declares for tests only, without `.rs`.
    fn test_modules(&self) -> Vec<String> {
        let Some((folder, name)) = self.path.rsplit_once('/') else {
            return Vec::new();
        };
        let base = match name {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            other => format!("{folder}/{}", other.trim_end_matches(".rs")),
        };
        let declared = self.code.lines().enumerate().filter_map(|(index, line)| {
            let name = line.split_once("mod ")?.1.strip_suffix(';')?;
            self.in_test[index].then(|| format!("{base}/{name}"))
        });
        declared.collect()
    }
}

/// All Rust files of these folders; generated code is left out.
///
/// # Errors
/// When a folder cannot be read.
pub fn load(top: &Path, folders: &[&str]) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for folder in folders {
        walk(top, folder, &mut sources)?;
    }
    mark_test_files(&mut sources);
    Ok(sources)
}

/// Marks the files that other files declare as `#[cfg(test)] mod name;`.
pub fn mark_test_files(sources: &mut [Source]) {
    let modules: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources {
        let stem = source.path.trim_end_matches(".rs");
        let beneath = |module: &String| {
            stem.strip_prefix(module.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if modules.iter().any(beneath) {
            source.in_test.fill(true);
        }
    }
}

fn walk(top: &Path, folder: &str, sources: &mut Vec<Source>) -> io::Result<()> {
    let mut entries = fs::read_dir(top.join(folder))?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        if entry.file_type()?.is_dir() {
            if name != "generated" && name != "target" {
                walk(top, &path, sources)?;
            }
        } else if name.ends_with(".rs") {
            sources.push(Source::new(&path, &fs::read_to_string(top.join(&path))?));
        }
    }
    Ok(())
}

/// Files below a crate's `tests` folder, and what belongs to the tests' crate.
fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/tests/") || path.split('/').nth(1) == Some("tests")
}

/// The line, from 1, in which a byte stands.
pub fn line_of(text: &str, byte: usize) -> usize {
    let end = byte.min(text.len());
    1 + text.as_bytes()[..end]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// Where the item that begins at `from` ends: behind its `;` or its last `}`.
pub fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0i32;
    for (offset, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' => depth -= 1,
            b'}' if depth == 1 => return offset + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// The text with comments and the contents of literals replaced by blanks;
/// bytes keep their places and lines their numbers.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        // Only where a character begins may the text be cut.
        let token = if text.is_char_boundary(at) {
            token(&text[at..], in_word(bytes, at))
        } else {
            Token::plain()
        };
        let (inside, end) = (at + token.open, (at + token.end).min(bytes.len()));
        let closing = (at + token.close).min(end);
        out.extend_from_slice(&bytes[at..inside]);
        let blank = |byte: &u8| if *byte == b'\n' { b'\n' } else { b' ' };
        out.extend(bytes[inside..closing].iter().map(blank));
        out.extend_from_slice(&bytes[closing..end]);
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn in_word(bytes: &[u8], at: usize) -> bool {
    let previous = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
    previous.is_ascii_alphanumeric() || previous == b'_'
}

/// What begins at a byte: blank from `open` to `close`, over at `end`.
struct Token {
    open: usize,
    close: usize,
    end: usize,
}

impl Token {
    /// One byte of code.
    fn plain() -> Self {
        let (open, close, end) = (1, 1, 1);
        Self { open, close, end }
    }

    fn comment(end: usize) -> Self {
        let (open, close) = (0, end);
        Self { open, close, end }
    }
}

fn token(rest: &str, in_word: bool) -> Token {
    if rest.starts_with("//") {
        return Token::comment(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Token::comment(block_comment(rest));
    }
    if let Some(hashes) = raw_string(rest).filter(|_| !in_word) {
        let open = rest.find('"').map_or(0, |quote| quote + 1);
        let ending = format!("\"{}", "#".repeat(hashes));
        let close = rest[open..]
            .find(&ending)
            .map_or(rest.len(), |end| open + end);
        let end = close + ending.len();
        return Token { open, close, end };
    }
    let quote = rest.as_bytes()[0];
    if quote == b'"' || quote == b'\'' && is_character(rest) {
        let close = quoted(rest, quote);
        let (open, end) = (1, close + 1);
        return Token { open, close, end };
    }
    Token::plain()
}

/// The number of `#` of the raw string that begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = ["r", "br", "cr"].iter().find_map(|prefix| {
        let after = rest.strip_prefix(prefix)?;
        after.starts_with(['#', '"']).then_some(after)
    })?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    (after.as_bytes().get(hashes) == Some(&b'"')).then_some(hashes)
}

/// Tells `'a'` from the lifetime `'a`.
fn is_character(rest: &str) -> bool {
    let mut characters = rest.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

/// The length up to the closing quote.
fn quoted(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at.min(bytes.len())
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        if tail.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if tail.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_nothing_moves() {
        let text = "let a = \"x // {\"; // } é\nlet b = '{'; let c: &'a str = r#\"\"}\"#; /* { /* } */ */ d";
        let source = Source::new("proxy/src/a.rs", text);
        assert_eq!(source.code.len(), text.len());
        assert!(!source.code.contains(['{', '}']), "{}", source.code);
        assert!(source.code.contains("let c: &'a str = r#\""));
        assert!(source.code.ends_with(" d"));
        assert_eq!(source.code.lines().count(), 2);
    }

    #[test]
    fn tests_are_told_apart_to_their_last_line() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("proxy/src/a.rs", text);
        assert_eq!(source.in_test, [false, true, true, true, true, false]);
        assert!(
            Source::new("proxy/tests/a.rs", text)
                .in_test
                .iter()
                .all(|test| *test)
        );
    }

    #[test]
    fn a_file_declared_for_tests_is_a_test() {
        let mut sources = [
            Source::new("proxy/src/a/mod.rs", "#[cfg(test)]\nmod checks;\n"),
            Source::new("proxy/src/a/checks.rs", "fn a() {}\n"),
            Source::new("proxy/src/checks.rs", "fn a() {}\n"),
        ];
        mark_test_files(&mut sources);
        assert_eq!(sources[1].in_test, [true]);
        assert_eq!(sources[2].in_test, [false]);
    }
}
