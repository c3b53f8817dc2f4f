//! Text within its bounds, and fit to be shown in a log.

use std::borrow::Cow;

/// Cuts a text to so many bytes at most, between two characters.
pub fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
}

/// The text on one line, without what could steer a terminal: control
/// characters and marks that turn the direction of writing stand escaped.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn is_harmful(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_one_line_for_one_text() {
        let steering = "a\nlevel=INFO all is well\r\u{1b}[2J\u{202e}b";
        let shown = clean(steering);
        assert_eq!(shown, "a\\nlevel=INFO all is well\\r\\u{1b}[2J\\u{202e}b");
        assert_eq!(clean("Größe 5 %"), "Größe 5 %");
    }

    #[test]
    fn a_character_is_never_cut_in_two() {
        for (bytes, left) in [(0, ""), (1, "a"), (2, "a"), (3, "aü"), (9, "aüb")] {
            let mut text = "aüb".to_owned();
            cut(&mut text, bytes);
            assert_eq!(text, left, "{bytes}");
        }
    }
}
