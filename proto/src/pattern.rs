//! Regular expressions of routes, the same for who checks them and for who
//! matches by them: an automaton that is built whole. A match takes a step for
//! each byte, and neither allocates nor locks; what would need too large an
//! automaton is refused when it is built.
//!
//! The syntax is that of the `regex` crate (RE2's, without look-around and
//! back-references), over bytes: `\d`, `\w`, `\s` and `(?i)` are ASCII's.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::{Anchored, Input};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::Extractor;
use regex_syntax::hir::{Hir, Look};

/// Bytes of a pattern.
pub const MAX_PATTERN_BYTES: usize = 1_024;
/// Bytes of the automaton. `[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,3}` needs a tenth.
pub const MAX_AUTOMATON_BYTES: usize = 256 * 1024;
/// Bytes of what is read of the text before its repetitions are states, and of the
/// states' sets while they are found: by these the time is bounded that it takes to
/// build one, since a small automaton may have much work behind it.
const MAX_READ_BYTES: usize = 128 * 1024;
const MAX_BUILD_BYTES: usize = 256 * 1024;
/// Groups within groups.
const MAX_NESTING: u32 = 32;

/// A regular expression of a whole text.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<str>,
    beginning: Box<[u8]>,
    automaton: dense::DFA<Vec<u32>>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is longer than a pattern may be.
    #[error("has {0} bytes, must have at most {MAX_PATTERN_BYTES}")]
    Long(usize),
    /// It is not a regular expression.
    #[error("is not a regular expression: {0}")]
    Syntax(String),
    /// Its automaton would be too large.
    #[error(
        "is too complex: repeat less, or fewer alternatives (an automaton of at most {MAX_AUTOMATON_BYTES} bytes)"
    )]
    Complex,
}

impl Pattern {
    /// Builds the automaton.
    ///
    /// # Errors
    /// When the text is no regular expression, or would need too large an automaton.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(PatternError::Long(text.len()));
        }
        let parsed = ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .nest_limit(MAX_NESTING)
            .build()
            .parse(text);
        let parsed = parsed.map_err(|error| PatternError::Syntax(shown(&error)))?;
        let literals = Extractor::new().extract(&parsed);
        let beginning = literals.longest_common_prefix().unwrap_or_default().into();
        // Between the ends here, not in the text: `a|b` means either of them whole.
        let ends = |look| Hir::look(look);
        let whole = Hir::concat(vec![ends(Look::Start), parsed, ends(Look::End)]);
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .utf8(false)
                    .which_captures(thompson::WhichCaptures::None)
                    .nfa_size_limit(Some(MAX_READ_BYTES)),
            )
            .build_from_hir(&whole)
            .map_err(|_| PatternError::Complex)?;
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .minimize(false)
            .dfa_size_limit(Some(MAX_AUTOMATON_BYTES))
            .determinize_size_limit(Some(MAX_BUILD_BYTES));
        let automaton = dense::Builder::new()
            .configure(config)
            .build_from_nfa(&nfa)
            .map_err(|_| PatternError::Complex)?;
        Ok(Self {
            text: text.into(),
            beginning,
            automaton,
        })
    }

    /// Whether the whole of `text` is of this form.
    pub fn matches(&self, text: &[u8]) -> bool {
        let input = Input::new(text).anchored(Anchored::Yes).earliest(true);
        matches!(self.automaton.try_search_fwd(&input), Ok(Some(_)))
    }

    /// As [`Self::matches`], of a text that does not lie in one piece.
    pub fn matches_bytes(&self, text: impl Iterator<Item = u8>) -> bool {
        let start = Input::new("").anchored(Anchored::Yes);
        let Ok(mut state) = self.automaton.start_state_forward(&start) else {
            return false;
        };
        for byte in text {
            state = self.automaton.next_state(state, byte);
            if self.automaton.is_dead_state(state) || self.automaton.is_quit_state(state) {
                return false;
            }
        }
        // That it is the end is told to an automaton after the last byte.
        let end = self.automaton.next_eoi_state(state);
        self.automaton.is_match_state(end)
    }

    /// With these bytes begins every text that it matches.
    pub fn beginning(&self) -> &[u8] {
        &self.beginning
    }

    /// Bytes that its automaton takes.
    pub fn size(&self) -> usize {
        self.automaton.memory_usage()
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// On one line.
fn shown(error: &regex_syntax::Error) -> String {
    match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        _ => "it cannot be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        let pattern = Pattern::parse(pattern).unwrap();
        let matches = pattern.matches(text.as_bytes());
        assert_eq!(pattern.matches_bytes(text.bytes()), matches);
        assert!(!matches || text.as_bytes().starts_with(pattern.beginning()));
        matches
    }

    #[test]
    fn what_every_text_begins_with_is_known() {
        for (text, beginning) in [
            ("/users/[0-9]+", "/users/"),
            ("/a(b|c)", "/a"),
            ("/a|/b/c", "/"),
            ("(?i)/a", "/"),
            (".*", ""),
            ("/a", "/a"),
            ("a?b", ""),
        ] {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.beginning(), beginning.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_of_the_whole_text() {
        assert!(matches("/a/[0-9]+", "/a/17"));
        assert!(!matches("/a/[0-9]+", "/a/17/b"));
        assert!(!matches("/a/[0-9]+", "x/a/17"));
        assert!(matches("a|bc", "a") && matches("a|bc", "bc"));
        assert!(!matches("a|bc", "ac") && !matches("a|ab", "abc"));
        // The longer alternative counts though the shorter stands first.
        assert!(matches("a|ab", "ab"));
        assert!(matches("", "") && !matches("", "a"));
        assert!(matches("(?i)canary", "CaNaRy"));
        assert!(matches(r"\d{3}", "123") && !matches(r"\d{3}", "٣٣٣"));
        assert!(matches(".*", "\u{e9}"));
        assert!(!matches(".", "\n"));
        assert!(matches(r"\bx\b.*", "x y"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_its_reason() {
        for (text, part) in [
            ("(", "unclosed group"),
            ("a)(b", "unopened group"),
            (r"(a)\1", "backreferences"),
            ("(?=a)", "look-around"),
            ("a**(", ""),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(matches!(error, PatternError::Syntax(_)), "{text}: {error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
        let long = "a".repeat(MAX_PATTERN_BYTES + 1);
        assert_eq!(
            Pattern::parse(&long),
            Err(PatternError::Long(MAX_PATTERN_BYTES + 1))
        );
    }

    #[test]
    fn what_would_need_too_much_is_refused_soon() {
        for text in [
            "(ab{100}){200}",
            "(a|b)*a(a|b){18}",
            &"(".repeat(200),
            "((((a{9}){9}){9}){9}){9}",
            // Of small automata, for which there is much to do.
            "(.*a){1000}",
            "(a*b*c*d*){300}",
            "([a-z]*[0-9]*){500}",
            "(.?){3000}",
        ] {
            let refused = Pattern::parse(text);
            assert!(refused.is_err(), "{text}");
        }
        for text in [
            r"[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63}){0,3}",
            "[a-zA-Z0-9_-]{1,255}",
            ".*x.{9}",
            "(?i).*(iphone|android|mobile|bot|crawler|spider).*",
            "/v[0-9]+/(users|orders)/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(/.*)?",
        ] {
            assert!(Pattern::parse(text).is_ok(), "{text}");
        }
    }
}
