//! The reference pages `docs/trafficpolicy.md` and `docs/authorizationpolicy.md`:
//! their tables, from the schema.

use remora_control_plane::policy::definition::bounds;

use super::fields::{self, Field};

const BEGIN: &str = "<!-- fields: made from the schema, see control-plane/tests/crd -->\n";
const END: &str = "<!-- end of fields -->\n";

/// A description, taken apart.
pub struct Text {
    /// What the field does.
    pub meaning: String,
    /// What holds where it is not given.
    pub default: Option<String>,
    /// A value.
    pub example: Option<String>,
}

impl Text {
    /// The description of a field; none where it has none (entries of lists).
    pub fn of(field: &Field) -> Self {
        let text = field.schema["description"].as_str().unwrap_or_default();
        let bounds = bounds(&field.schema).unwrap_or_default();
        let text = text.strip_suffix(&format!(" {bounds}.")).unwrap_or(text);
        let (text, example) = cut(text, " Example: ");
        let (meaning, default) = cut(text, " Default: ");
        Self {
            meaning: meaning.to_owned(),
            default,
            example,
        }
    }
}

fn cut<'a>(text: &'a str, word: &str) -> (&'a str, Option<String>) {
    match text.split_once(word) {
        Some((before, after)) => (before, Some(after.trim_end_matches('.').to_owned())),
        None => (text, None),
    }
}

/// The page with its tables of these fields made anew.
pub fn page(page: &str, all: &[Field]) -> String {
    let (before, rest) = page
        .split_once(BEGIN)
        .expect("the mark where the tables begin");
    let (_, after) = rest.split_once(END).expect("the mark where they end");
    format!("{before}{BEGIN}{}{END}{after}", tables(all))
}

fn tables(all: &[Field]) -> String {
    let mut text = String::new();
    text.push_str(&table("spec", "", all));
    for block in all.iter().filter(|field| field.is_block()) {
        let name = block.path.trim_start_matches("spec.").replace("[0]", "[]");
        text.push_str(&table(&name, &block.pointer, all));
    }
    text
}

fn table(name: &str, pointer: &str, all: &[Field]) -> String {
    let mut text = format!(
        "\n## {name}\n\n| field | type | default | bounds | meaning |\n| --- | --- | --- | --- | --- |\n"
    );
    let inside = |field: &&Field| {
        field
            .pointer
            .rsplit_once('/')
            .is_some_and(|(parent, last)| parent == pointer && last != "0")
    };
    for field in all.iter().filter(inside) {
        let Text {
            meaning,
            default,
            example,
        } = Text::of(field);
        let name = field.pointer.rsplit('/').next().unwrap_or_default();
        let default = match (default, field.required) {
            (Some(default), _) => default,
            (None, true) => "must be given".to_owned(),
            (None, false) => "absent".to_owned(),
        };
        let example = example
            .map(|example| format!(" Example: `{example}`."))
            .unwrap_or_default();
        let bounds = bounds(&field.schema).unwrap_or_default();
        text.push_str(&format!(
            "| `{name}` | {} | {default} | {} | {meaning}{example} |\n",
            kind(field),
            bounds.to_lowercase(),
        ));
    }
    text
}

fn kind(field: &Field) -> String {
    let schema = &field.schema;
    if schema["x-kubernetes-int-or-string"] == true {
        return "number or string".to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<_> = words.iter().filter_map(|word| word.as_str()).collect();
        return words.join(", ");
    }
    if super::fields::span(schema).is_some() {
        return "duration".to_owned();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "integer" => "whole number".to_owned(),
        "boolean" => "true, false".to_owned(),
        "array" => "list".to_owned(),
        other => other.to_owned(),
    }
}

#[test]
fn every_field_says_what_it_does_its_default_and_an_example() {
    let all = fields::all()
        .into_iter()
        .chain(super::authorization::fields());
    for field in all.filter(|field| !field.path.ends_with(']')) {
        let field = &field;
        let text = Text::of(field);
        assert!(
            text.meaning.ends_with('.'),
            "{}: {}",
            field.path,
            text.meaning
        );
        assert!(text.example.is_some(), "{} has no example", field.path);
        let leaf = !field.is_block() && field.schema["type"] != "array";
        let mut alternatives = super::blocks::ALTERNATIVES.iter();
        let either = alternatives.any(|(parent, fields)| {
            let of = |name: &&str| field.pointer == format!("{parent}/{name}");
            fields.iter().any(|(name, _)| of(name))
        });
        assert!(
            !leaf || field.required || either || text.default.is_some(),
            "{} has no default",
            field.path
        );
        for odd in ["[`", "`]", "::", "  "] {
            assert!(
                !field.schema["description"].as_str().unwrap().contains(odd),
                "{}",
                field.path
            );
        }
    }
}
