//! The files that are made from the definition: `REMORA_REGENERATE=1` writes
//! them, otherwise they must be as they would be written.

use std::path::{Path, PathBuf};
use std::{env, fs};

use remora_control_plane::policy::definition::{self, definition};
use remora_control_plane::source::document::{Read, read_all};
use serde_json::Value;

use super::{authorization, fields, reference};

const HEAD: &str = "\
# Made from control-plane/src/policy/schema; do not edit. To make it again:
#   REMORA_REGENERATE=1 cargo test -p remora-control-plane --test crd
";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn up_to_date(path: &str, wanted: &str) {
    let path = file(path);
    if env::var_os("REMORA_REGENERATE").is_some() {
        fs::write(&path, wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is not what the schema gives; make it again with \
         REMORA_REGENERATE=1 cargo test -p remora-control-plane --test crd",
        path.display()
    );
}

/// The definition as the file that users apply.
pub fn crd() -> String {
    file_of(&definition())
}

/// The same of AuthorizationPolicy.
pub fn authorization_crd() -> String {
    file_of(&definition::authorization())
}

fn file_of(definition: &Value) -> String {
    format!("{HEAD}{}", serde_saphyr::to_string(definition).unwrap())
}

/// The policies of the demo.
pub fn demo() -> Vec<Value> {
    let text = fs::read_to_string(file("manifests/demo/policies.yaml")).unwrap();
    let documents = text.split("\n---\n");
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect()
}

#[test]
fn crd_is_up_to_date() {
    up_to_date("manifests/crds/trafficpolicies.yaml", &crd());
    let path = "manifests/crds/authorizationpolicies.yaml";
    up_to_date(path, &authorization_crd());
}

/// A folder of manifests may hold these files too.
#[test]
fn a_source_of_files_passes_over_the_definition() {
    for name in [
        "trafficpolicies.yaml",
        "authorizationpolicies.yaml",
        "kustomization.yaml",
    ] {
        let text = fs::read_to_string(file("manifests/crds").join(name)).unwrap();
        let read = read_all(&text);
        assert_eq!(read.len(), 1, "{name}");
        assert!(matches!(read[0].read, Read::Skipped(_)), "{name}");
    }
}

#[test]
fn who_may_call_in_the_demo_is_read() {
    let text = fs::read_to_string(file("manifests/demo/authorization.yaml")).unwrap();
    let read = read_all(&text);
    assert_eq!(read.len(), 2);
    for one in read {
        assert!(matches!(one.read, Read::Object(_)), "line {}", one.line);
    }
}

/// What kubectl keeps of an object that it applied (`last-applied-configuration`)
/// is an annotation, and all annotations together have 256 KiB.
#[test]
fn crd_is_small_enough_for_kubectl_apply() {
    for definition in [definition(), definition::authorization()] {
        let bytes = serde_json::to_string(&definition).unwrap().len();
        assert!(bytes < 128 * 1024, "{bytes} bytes");
    }
}

#[test]
fn crd_file_reads_as_the_definition_by_the_rules_of_yaml_1_1() {
    let text = crd();
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(read, definition());
    let read: Value = serde_saphyr::from_str(&authorization_crd()).unwrap();
    assert_eq!(read, definition::authorization());
    // Go's readers take these words for booleans where they stand bare.
    for line in format!("{text}{}", authorization_crd()).lines() {
        let word = line.trim().trim_start_matches("- ");
        let word = word.split(':').next().unwrap();
        let bare = ["on", "off", "yes", "no", "y", "n"];
        assert!(!bare.contains(&word.to_lowercase().as_str()), "{line}");
    }
}

#[test]
fn reference_pages_are_up_to_date() {
    for (path, all) in [
        ("docs/trafficpolicy.md", fields::all()),
        ("docs/authorizationpolicy.md", authorization::fields()),
    ] {
        let page = fs::read_to_string(file(path)).unwrap();
        up_to_date(path, &reference::page(&page, &all));
    }
}
