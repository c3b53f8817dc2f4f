//! Text within its bounds.

/// Cuts a text to so many bytes at most, between two characters.
pub fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_never_cut_in_two() {
        for (bytes, left) in [(0, ""), (1, "a"), (2, "a"), (3, "aü"), (9, "aüb")] {
            let mut text = "aüb".to_owned();
            cut(&mut text, bytes);
            assert_eq!(text, left, "{bytes}");
        }
    }
}
