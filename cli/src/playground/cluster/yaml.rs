//! YAML documents with their place in a file.

use serde_json::Value;

/// One document of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Document<'a> {
    /// Its first line in the file, from 1.
    pub first_line: usize,
    /// Its text, without the separators.
    pub text: &'a str,
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The line in the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Splits at the lines that begin with `---`.
pub fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut first_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            found.push(Document {
                first_line,
                text: &text[start..offset],
            });
            start = offset + line.len();
            first_line = index + 2;
        }
        offset += line.len();
    }
    found.push(Document {
        first_line,
        text: &text[start..],
    });
    found.retain(|document| !is_blank(document.text));
    found
}

fn is_blank(text: &str) -> bool {
    text.lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

impl Document<'_> {
    /// Parses the document as `T`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line in the file.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T, Wrong> {
        serde_saphyr::from_str(self.text).map_err(|error| {
            let line = error.location().map_or(1, |place| place.line().max(1));
            let line = self.first_line + usize::try_from(line).unwrap_or(1) - 1;
            let text = error.without_snippet().to_string();
            let message = text.lines().next().unwrap_or("not YAML").to_owned();
            Wrong { line, message }
        })
    }
}

/// `kind` of a parsed document.
pub fn kind(value: &Value) -> &str {
    value["kind"].as_str().unwrap_or_default()
}

/// Namespace and name of a parsed document; the namespace `default` when unset.
pub fn key(value: &Value) -> (String, String) {
    let metadata = &value["metadata"];
    let word = |field: &str| metadata[field].as_str().map(str::to_owned);
    (
        word("namespace").unwrap_or_else(|| "default".to_owned()),
        word("name").unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines() {
        let found = documents("# head\n---\na: 1\n---\n\n---\nb: 2\nc: [\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].first_line, found[0].text), (3, "a: 1\n"));
        assert_eq!(found[1].first_line, 7);
        let wrong = found[1].parse::<Value>().unwrap_err();
        assert!(wrong.line >= 8, "{wrong:?}");
    }
}
