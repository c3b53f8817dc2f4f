//! YAML text to documents, each with the line and column of every field, so
//! that an error found later can still name its place.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// One document of a file.
pub struct Document<'a> {
    /// Its text, from its `---` on.
    pub text: &'a str,
    /// Lines of the file before it.
    pub line_offset: u64,
}

/// Splits a file into its documents; those without content are left out. A
/// line that begins with `---` ends a document even within a block scalar
/// (YAML 1.2, 9.1.2), so that a document which is broken spoils no other.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut position = 0;
    for (number, line) in (0..).zip(text.split_inclusive('\n')) {
        if is_marker(line) && position > start {
            documents.push(Document {
                text: &text[start..position],
                line_offset: start_line,
            });
            (start, start_line) = (position, number);
        }
        position += line.len();
    }
    documents.push(Document {
        text: &text[start..],
        line_offset: start_line,
    });
    documents.retain(|document| has_content(document.text));
    documents
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = if is_marker(line) { &line[3..] } else { line };
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "..."
    })
}

/// Line and column, from 1; in the document.
pub type Position = (u64, u64);

/// A value with the place of each of its parts.
#[derive(Debug)]
pub struct Node {
    /// Where it stands.
    pub position: Position,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    /// Key, the key's place, value.
    Object(Vec<(String, Position, Node)>),
}

/// What is wrong with a text.
#[derive(Debug)]
pub struct SyntaxError {
    /// Where, in the document; 0 where it is not known.
    pub position: Position,
    /// In words.
    pub message: String,
}

impl From<serde_saphyr::Error> for SyntaxError {
    fn from(error: serde_saphyr::Error) -> Self {
        let position = error
            .location()
            .map(|at| (at.line(), at.column()))
            .unwrap_or_default();
        let message = error.without_snippet().to_string();
        // The place is told apart; the text need not repeat it.
        let end = message
            .find(" at line ")
            .or_else(|| message.find("\n"))
            .unwrap_or(message.len());
        Self {
            position,
            message: message[..end].to_owned(),
        }
    }
}

/// Reads one document.
///
/// # Errors
/// When it is not YAML, with the place.
pub fn read(text: &str) -> Result<Node, SyntaxError> {
    Ok(serde_saphyr::from_str::<Node>(text)?)
}

impl Node {
    /// The value without places.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Node::value).collect(),
            Content::Object(fields) => Value::Object(
                fields
                    .iter()
                    .map(|(name, _, node)| (name.clone(), node.value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The place of a field such as `spec.rateLimits[0].name`, or of the
    /// nearest part of it that is there.
    pub fn place(&self, path: &str) -> Position {
        let mut node = self;
        let mut position = self.position;
        for part in path.split(['.', '[', ']']).filter(|part| !part.is_empty()) {
            let next = match &node.content {
                Content::Object(fields) => {
                    let field = fields.iter().find(|(name, ..)| name == part);
                    field.map(|(_, position, node)| (*position, node))
                }
                Content::List(items) => {
                    let item = part
                        .parse::<usize>()
                        .ok()
                        .and_then(|index| items.get(index));
                    item.map(|node| (node.position, node))
                }
                Content::Scalar(_) => None,
            };
            match next {
                Some(next) => (position, node) = next,
                None => break,
            }
        }
        position
    }

    /// The path of the innermost field whose value begins at or last before a place.
    pub fn path_at(&self, at: Position) -> String {
        let mut best = (self.position, String::new());
        self.search(at, String::new(), &mut best);
        best.1
    }

    fn search(&self, at: Position, path: String, best: &mut (Position, String)) {
        if self.position > at {
            return;
        }
        if self.position >= best.0 {
            *best = (self.position, path.clone());
        }
        match &self.content {
            Content::Scalar(_) => {}
            Content::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    item.search(at, format!("{path}[{index}]"), best);
                }
            }
            Content::Object(fields) => {
                for (name, _, node) in fields {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    node.search(at, path, best);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        let position = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self {
            position,
            content: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(
            Number::from_f64(value).map_or(Value::Null, Value::Number),
        ))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Content, A::Error> {
        let mut object = Vec::new();
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            let position = (name.referenced.line(), name.referenced.column());
            object.push((name.value, position, fields.next_value()?));
        }
        Ok(Content::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "# a comment\n---\nkind: A\nspec:\n  rateLimits:\n  - name: x\n    limit: {requests: 1}\n---\n# nothing\n---\nkind: B\n";

    #[test]
    fn documents_know_their_lines() {
        let documents = documents(TEXT);
        let offsets: Vec<u64> = documents
            .iter()
            .map(|document| document.line_offset)
            .collect();
        assert_eq!(offsets, [1, 9]);
        assert_eq!(
            read(documents[1].text).unwrap().value(),
            serde_json::json!({"kind": "B"})
        );
    }

    #[test]
    fn a_path_has_its_place_and_a_place_its_path() {
        let documents = documents(TEXT);
        let node = read(documents[0].text).unwrap();
        assert_eq!(node.place("spec.rateLimits[0].limit.requests"), (6, 13));
        assert_eq!(node.place("spec.rateLimits[0].missing"), (5, 5));
        assert_eq!(node.path_at((6, 23)), "spec.rateLimits[0].limit.requests");
    }

    #[test]
    fn broken_text_names_its_place() {
        let error = read("a: 1\nb: [1,\nc: 2\n").unwrap_err();
        assert!(error.position.0 >= 2, "{error:?}");
        assert!(!error.message.contains('\n'), "{error:?}");
        assert!(read("a: 1\na: 2\n").is_err(), "a field twice is an error");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n\t:{}\\[\\]&*!|>-]{0,200}") {
            for document in documents(&text) {
                if let Ok(node) = read(document.text) {
                    node.place("spec.a[0]");
                    node.path_at((1, 1));
                    node.value();
                }
            }
        }
    }
}
