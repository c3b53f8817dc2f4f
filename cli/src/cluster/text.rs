//! Text that came from a cluster, before it reaches a terminal.

use serde_json::Value;

/// What stands in the place of a character that is not shown.
const HIDDEN: char = '\u{fffd}';

/// The text without what could steer a terminal: control characters (escape
/// sequences begin with them) and marks that turn the direction of writing.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if is_harmful(c) { HIDDEN } else { c })
        .collect()
}

fn is_harmful(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Cleans every string of a value; line ends and tabs stay, which JSON and
/// YAML write in their own ways.
pub fn clean_value(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(is_harmful) => {
            let shown = |c: char| match c {
                '\n' | '\t' => c,
                c if is_harmful(c) => HIDDEN,
                c => c,
            };
            *text = text.chars().map(shown).collect();
        }
        Value::Array(items) => items.iter_mut().for_each(clean_value),
        Value::Object(fields) => {
            if fields.keys().any(|key| key.chars().any(is_harmful)) {
                let held = std::mem::take(fields);
                fields.extend(held.into_iter().map(|(key, value)| (clean(&key), value)));
            }
            fields.values_mut().for_each(clean_value);
        }
        _ => {}
    }
}

/// A length of time as kubectl shows ages: `12s`, `5m`, `3h`, `2d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `1 pod`, `3 pods`.
pub fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// The first few of many, and how many more there are.
pub fn some_of(names: &[String], most: usize) -> String {
    let more = names.len().saturating_sub(most);
    let shown = names.iter().take(most).cloned().collect::<Vec<_>>();
    let shown = shown.join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}

/// A list of faults (`a; b; a`), each once, with how often it stands there.
pub fn each_once(faults: &str) -> String {
    let mut seen: Vec<(&str, usize)> = Vec::new();
    for fault in faults.split("; ") {
        match seen.iter_mut().find(|(other, _)| *other == fault) {
            Some((_, count)) => *count += 1,
            None => seen.push((fault, 1)),
        }
    }
    let told = seen.into_iter().map(|(fault, count)| match count {
        1 => fault.to_owned(),
        count => format!("{fault} ({count} times)"),
    });
    told.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let text = "a\u{1b}[31mb\r\n\tc\u{9b}2Jd\u{202e}e\u{7f}";
        let cleaned = clean(text);
        assert!(!cleaned.chars().any(is_harmful), "{cleaned:?}");
        assert!(cleaned.contains("[31mb"), "what is left can be read");
        assert_eq!(clean("Größe → 5 %"), "Größe → 5 %");
        let mut value = json!({"a\u{1b}": ["x\u{9b}", {"b": "c\nd\u{7}"}]});
        clean_value(&mut value);
        assert_eq!(
            value,
            json!({"a\u{fffd}": ["x\u{fffd}", {"b": "c\nd\u{fffd}"}]})
        );
    }

    #[test]
    fn lengths_are_short_to_read() {
        let ages = [0, 119, 120, 7_200, 200_000].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "2h", "2d"]);
        let names: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        assert_eq!(some_of(&names, 2), "a, b and 1 more");
        assert_eq!(some_of(&names, 3), "a, b, c");
        assert_eq!(
            (counted(1, "pod"), counted(0, "pod")),
            ("1 pod".to_owned(), "0 pods".to_owned())
        );
    }
}
