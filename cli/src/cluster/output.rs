//! Answers on standard output: tables for people, JSON and YAML for programs.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use super::error::Error;
use super::options::Format;
use super::text;

/// Between two columns.
const GAP: &str = "   ";

/// How something is, for the eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// To be known.
    Notice,
    /// Not as it should be.
    Bad,
    /// Of no weight.
    Quiet,
    /// Text.
    Plain,
    /// A column's name.
    Heading,
}

/// Puts text into colours, or leaves it.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    has_colour: bool,
}

impl Paint {
    /// Colours on a terminal, unless `NO_COLOR` is set (no-color.org).
    pub fn of_stdout() -> Self {
        let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            has_colour: std::io::stdout().is_terminal() && !is_off && !is_dumb,
        }
    }

    /// Without colours.
    pub fn plain() -> Self {
        Self { has_colour: false }
    }

    /// The text, cleaned of what is not for a terminal, in its colour.
    pub fn text(self, tone: Tone, text: &str) -> String {
        let text = text::clean(text);
        let code = match tone {
            Tone::Good => "32",
            Tone::Notice => "33",
            Tone::Bad => "1;31",
            Tone::Quiet => "2",
            Tone::Heading => "36",
            Tone::Plain => return text,
        };
        if self.has_colour && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text
        }
    }
}

/// One cell of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Plain text.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::toned(Tone::Plain, text)
    }

    /// Text of a tone.
    pub fn toned(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text::clean(&text.into()),
            tone,
        }
    }
}

/// Rows under their heading, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// With these columns.
    pub fn new(columns: &[&str]) -> Self {
        let heading = columns.iter();
        let heading = heading.map(|column| Cell::toned(Tone::Heading, *column));
        Self {
            rows: vec![heading.collect()],
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// As text, a line for each row.
    pub fn text(&self, paint: Paint) -> String {
        let width = |cell: &Cell| cell.text.chars().count();
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(width).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut text = String::new();
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            for (column, cell) in row.iter().enumerate() {
                text.push_str(&paint.text(cell.tone, &cell.text));
                if column < last {
                    let pad = widths[column] - width(cell);
                    text.push_str(&" ".repeat(pad));
                    text.push_str(GAP);
                }
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        }
        text
    }
}

/// The answer as a program reads it; `None` for a table.
///
/// # Errors
/// When it cannot be written in that form.
pub fn structured<T: Serialize>(format: Format, answer: &T) -> Result<Option<String>, Error> {
    let unwritable = |cause: String| Error::Answer {
        what: "this command".to_owned(),
        cause,
    };
    if format == Format::Table {
        return Ok(None);
    }
    let value = serde_json::to_value(answer);
    let mut value = value.map_err(|error| unwritable(error.to_string()))?;
    text::clean_value(&mut value);
    let text = if format == Format::Json {
        serde_json::to_string_pretty(&value).map_err(|error| unwritable(error.to_string()))?
    } else {
        serde_saphyr::to_string(&value).map_err(|error| unwritable(error.to_string()))?
    };
    Ok(Some(format!("{}\n", text.trim_end())))
}

/// Writes to standard output. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// When it cannot be written otherwise.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A line on standard error, cleaned.
pub fn warn(message: &str) {
    // Where standard error is gone nobody would read of it either.
    let _ = writeln!(std::io::stderr(), "remora: {}", text::clean(message));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_stand_under_each_other_and_nothing_steers_the_terminal() {
        let mut table = Table::new(&["NAMESPACE", "POD", "NODE"]);
        table.row([
            Cell::plain("shop"),
            Cell::plain("web\u{1b}[2J-1"),
            Cell::plain("n1"),
        ]);
        table.row([
            Cell::plain("a"),
            Cell::toned(Tone::Bad, "b"),
            Cell::plain(""),
        ]);
        assert_eq!(
            table.text(Paint::plain()),
            "NAMESPACE   POD         NODE\n\
             shop        web\u{fffd}[2J-1   n1\n\
             a           b\n"
        );
        let coloured = table.text(Paint { has_colour: true });
        assert!(coloured.contains("\u{1b}[1;31mb\u{1b}[0m"), "{coloured:?}");
        assert!(!coloured.contains("\u{1b}[2J"), "{coloured:?}");
    }

    #[test]
    fn programs_get_the_same_in_both_forms() {
        let answer = json!([{"pod": "a\u{9b}2J", "yes": "no"}]);
        assert_eq!(structured(Format::Table, &answer).unwrap(), None);
        let json = structured(Format::Json, &answer).unwrap().unwrap();
        let yaml = structured(Format::Yaml, &answer).unwrap().unwrap();
        let from_json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let from_yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(from_json, from_yaml);
        assert_eq!(from_json[0]["pod"], "a\u{fffd}2J");
        assert_eq!(from_json[0]["yes"], "no");
    }
}
