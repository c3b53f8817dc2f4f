//! The tree, held to the rules of the house: each rule is a test, and names
//! the file and the line where it is broken. That each rule can fail is shown
//! beside the rule itself, in `src/style`.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its ground is missing"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use remora_tests::style::arrows::{self, ARROWS, FREE_OF_KUBERNETES};
use remora_tests::style::size::Ratchet;
use remora_tests::style::source::{self, Source};
use remora_tests::style::{Finding, documents, fields, report, size, tests, words};

/// Files that are too long and known to be; this list only gets shorter.
const LONG_FILES: &Ratchet = &[];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources() -> Vec<Source> {
    let folders: Vec<_> = ARROWS.iter().map(|(folder, _, _)| *folder).collect();
    let sources = source::load(&top(), &folders).unwrap();
    assert!(sources.len() > 100, "only {} sources found", sources.len());
    sources
}

fn assert_none(rule: &str, findings: &[Finding]) {
    assert!(findings.is_empty(), "{}", report(rule, findings));
}

#[test]
fn imports_follow_the_arrows() {
    let mut findings = Vec::new();
    for (folder, _, _) in ARROWS {
        let manifest = fs::read_to_string(top().join(folder).join("Cargo.toml")).unwrap();
        findings.extend(arrows::wrong_arrows(folder, &manifest));
    }
    assert_none("who may import whom (ARCHITECTURE.md, Arrows):", &findings);
}

#[test]
fn every_crate_has_its_arrows() {
    let manifest = fs::read_to_string(top().join("Cargo.toml")).unwrap();
    let members = manifest
        .lines()
        .find(|line| line.starts_with("members"))
        .unwrap();
    let listed = members.matches('"').count() / 2;
    assert_eq!(
        listed,
        ARROWS.len(),
        "a crate without a place in the arrows: {members}"
    );
}

#[test]
fn kubernetes_stays_out_of_the_sidecar() {
    let mut findings = Vec::new();
    for (folder, name, _) in ARROWS
        .iter()
        .filter(|(folder, ..)| FREE_OF_KUBERNETES.contains(folder))
    {
        let arguments = [
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--package",
            name,
        ];
        let output = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(top())
            .output()
            .unwrap();
        let closure = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            closure.lines().any(|line| line.starts_with("prost ")),
            "no tree: {closure}"
        );
        findings.extend(arrows::kubernetes_in_closure(folder, &closure));
    }
    assert_none("Kubernetes where it must not be:", &findings);
}

#[test]
fn files_are_short() {
    assert_none(
        "files that are too long:",
        &size::long_files(&sources(), LONG_FILES),
    );
}

#[test]
fn functions_are_short() {
    assert_none(
        "functions that are too long:",
        &size::long_functions(&sources()),
    );
}

#[test]
fn nothing_is_left_unfinished() {
    assert_none("unfinished:", &words::unfinished(&sources()));
}

#[test]
fn the_sidecar_never_panics_by_choice() {
    assert_none("may panic on the data path:", &words::panics(&sources()));
}

#[test]
fn time_and_chance_are_handed_in() {
    let rule = "clock or chance outside of clock.rs and random.rs:";
    assert_none(rule, &words::clocks(&sources()));
}

#[test]
fn lints_are_switched_off_with_a_reason() {
    assert_none(
        "lints switched off:",
        &words::unexplained_allows(&sources()),
    );
}

#[test]
fn no_test_is_ignored() {
    assert_none("ignored:", &tests::ignored(&sources()));
}

#[test]
fn every_test_can_fail() {
    assert_none(
        "tests that assert nothing:",
        &tests::without_assertion(&sources()),
    );
}

#[test]
fn every_crate_has_a_map() {
    let sources = sources();
    let mut findings = Vec::new();
    for (folder, _, _) in ARROWS {
        let path = format!("{folder}/src/lib.rs");
        match sources.iter().find(|source| source.path == path) {
            Some(lib) => findings.extend(documents::unnamed_modules(lib)),
            None => findings.push(Finding::new(&path, 1, "is missing")),
        }
    }
    assert_none("the map in each lib.rs:", &findings);
}

#[test]
fn what_a_reader_looks_for_is_there() {
    let findings = documents::missing_documents(|document| top().join(document).is_file());
    assert_none("documents:", &findings);
}

#[test]
fn every_variable_of_the_sidecar_is_documented() {
    let mut text = fs::read_to_string(top().join("README.md")).unwrap_or_default();
    for entry in fs::read_dir(top().join("docs"))
        .into_iter()
        .flatten()
        .flatten()
    {
        text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
    }
    let findings = documents::undocumented_variables(&sources(), "proxy", &text);
    assert_none(
        "variables that README.md and docs/*.md do not name:",
        &findings,
    );
}

/// The table of docs/gateway-api.md leaves out no field of the newest Gateway API,
/// and what it says of each is shown by a test that is there.
#[test]
fn every_field_of_a_route_has_its_row_and_its_test() {
    let file = "docs/gateway-api.md";
    let document = fs::read_to_string(top().join(file)).unwrap();
    let list = fs::read_to_string(top().join("tests/kube/gateway/fields.txt")).unwrap();
    assert!(list.lines().count() > 200, "the list is not whole");
    let mut findings = fields::wrong_fields(file, &document, &list);
    let sources = sources();
    let is_test = |name: &str| {
        let begin = format!("fn {name}(");
        let mut of_tests = sources.iter().flat_map(|source| {
            let places = source.code.match_indices(&begin);
            places.map(|(at, _)| source.is_test(source.line(at)))
        });
        of_tests.any(|is_test| is_test)
    };
    let kinds = ["HTTPRoute", "GRPCRoute", "ReferenceGrant"];
    findings.extend(fields::wrong_tests(file, &document, &kinds, is_test));
    assert_none("the table of routes' fields:", &findings);
}

/// What the compiler does not check stands in one file, with its reason.
#[test]
fn unchecked_code_stands_in_one_place() {
    let places: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.code.contains(concat!("un", "safe")))
        .map(|source| source.path)
        .collect();
    assert_eq!(places, ["proxy/src/heap.rs"]);
}

/// What the control plane and the injector serve is in the catalogue, and nothing
/// else. (A sidecar's own test holds its part against what it really serves.)
#[test]
fn the_catalogue_of_metrics_is_whole() {
    let catalogue = fs::read_to_string(top().join("docs/metrics.md")).unwrap();
    let sources = sources();
    let parts = [
        ("## The control plane", "control-plane/src"),
        ("## The injector", "injector/src"),
    ];
    for (heading, folder) in parts {
        let (_, rest) = catalogue.split_once(heading).unwrap();
        let part = rest.split("\n## ").next().unwrap();
        let rows = part.lines().filter_map(|line| line.strip_prefix("| `"));
        let told: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        let mut served = BTreeSet::new();
        for source in sources
            .iter()
            .filter(|source| source.path.starts_with(folder))
        {
            for prefix in ["\"remora_", "\"process_"] {
                for (at, _) in source.text.match_indices(prefix) {
                    let name = source.text[at + 1..].split('"').next().unwrap();
                    let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                    if is_name && !source.is_test(source.line(at)) {
                        served.insert(name);
                    }
                }
            }
        }
        assert_eq!(told, served, "{heading} of docs/metrics.md");
    }
}
