//! A table that promises to name every field of an API, and a test for each.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

/// The alternatives that one text in braces stands for: `a.{b,c}` is `a.b` and
/// `a.c`, `a.{,b.}c` is `a.c` and `a.b.c`.
pub fn expanded(text: &str) -> Vec<String> {
    let Some((before, rest)) = text.split_once('{') else {
        return vec![text.to_owned()];
    };
    let Some((inside, after)) = rest.split_once('}') else {
        return vec![text.to_owned()];
    };
    let afters = expanded(after);
    let whole = |one: &str| -> Vec<String> {
        let afters = afters.iter();
        afters
            .map(|after| format!("{before}{one}{after}"))
            .collect()
    };
    inside.split(',').flat_map(whole).collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The rows of the tables under the heading `## <kind>`: their lines, and cells.
fn rows<'a>(document: &'a str, kind: &str) -> Vec<(usize, Vec<&'a str>)> {
    let heading = format!("## {kind}");
    let lines = document.lines().enumerate();
    let of_kind = lines
        .skip_while(|(_, line)| *line != heading)
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "));
    let cells = of_kind.filter_map(|(at, line)| {
        let row = line.strip_prefix("| `")?;
        let cells: Vec<_> = row.trim_end_matches(" |").split(" | ").collect();
        Some((at + 1, cells))
    });
    cells.collect()
}

/// Fields of the list that no row of the document names, and others, and those
/// that two rows name. A line of the list is `<kind> <field>`, with more words.
pub fn wrong_fields(file: &str, document: &str, list: &str) -> Vec<Finding> {
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in list.lines() {
        let mut words = line.split(' ');
        if let (Some(kind), Some(field)) = (words.next(), words.next()) {
            known.entry(kind).or_default().insert(field);
        }
    }
    let mut findings = Vec::new();
    for (kind, fields) in &known {
        let mut named: BTreeSet<String> = BTreeSet::new();
        for (line, cells) in rows(document, kind) {
            // The first backquote went with the row's beginning.
            let first = format!("`{}", cells[0]);
            for field in quoted(&first).flat_map(expanded) {
                if !fields.contains(field.as_str()) {
                    let what = format!("{kind} has no field {field}");
                    findings.push(Finding::new(file, line, what));
                } else if !named.insert(field.clone()) {
                    let what = format!("{kind}'s {field} stands twice");
                    findings.push(Finding::new(file, line, what));
                }
            }
        }
        let missing = fields.iter().filter(|field| !named.contains(**field));
        findings.extend(missing.map(|field| {
            let what = format!("no row for {kind}'s {field}");
            Finding::new(file, 1, what)
        }));
    }
    findings
}

/// Rows of the document whose last cell names no test, or one that is not there.
pub fn wrong_tests(
    file: &str,
    document: &str,
    kinds: &[&str],
    is_test: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, cells) in kinds.iter().flat_map(|kind| rows(document, kind)) {
        let last = cells.last().copied().unwrap_or_default();
        if quoted(last).next().is_none() {
            findings.push(Finding::new(file, line, "names no test"));
        }
        let absent = quoted(last).filter(|name| !is_test(name));
        findings.extend(absent.map(|name| {
            let what = format!("there is no test `{name}`");
            Finding::new(file, line, what)
        }));
    }
    findings
}

#[cfg(test)]
mod unit {
    use super::*;

    const LIST: &str = "Route spec.a[].b\nRoute spec.c x\nOther spec.a\n";
    const DOCUMENT: &str = "# T\n| `no` | table |\n## Route\n\n| field | does | test |\n| --- | --- | --- |\n\
        | `spec.a[].b` | that | `it_does` |\n| `spec.{c,d}`, `spec.c` | this | none |\n\n## Other\n\n| `spec.a` | x | `it_is_not` |\n";

    #[test]
    fn braces_are_alternatives() {
        assert_eq!(
            expanded("a.{b,c}[].{,d.}e"),
            ["a.b[].e", "a.b[].d.e", "a.c[].e", "a.c[].d.e"]
        );
        assert_eq!(expanded("a.{b"), ["a.{b"]);
    }

    #[test]
    fn a_field_that_is_left_out_invented_or_named_twice_is_found() {
        let found = wrong_fields("d.md", DOCUMENT, LIST);
        let found: Vec<_> = found.iter().map(|one| one.what.as_str()).collect();
        assert_eq!(
            found,
            ["Route has no field spec.d", "Route's spec.c stands twice"]
        );
        let without = DOCUMENT.replace("spec.a[].b", "spec.c");
        let found = wrong_fields("d.md", &without, LIST);
        assert!(
            found
                .iter()
                .any(|one| one.what == "no row for Route's spec.a[].b")
        );
    }

    #[test]
    fn a_row_without_a_test_that_exists_is_found() {
        let kinds = ["Route", "Other"];
        let found = wrong_tests("d.md", DOCUMENT, &kinds, |name| name == "it_does");
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.line, one.what.as_str()))
            .collect();
        assert_eq!(
            found,
            [(8, "names no test"), (12, "there is no test `it_is_not`")]
        );
    }
}
