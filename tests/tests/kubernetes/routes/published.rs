//! The Gateway API's own conformance suite, against this installation.

use std::path::PathBuf;

use super::world::script;
use crate::shop::shop;

/// The suite's profiles of meshes.
const PROFILES: [&str; 2] = ["MESH-HTTP", "MESH-GRPC"];

#[test]
fn the_published_tests_of_meshes_pass_with_every_extended_feature() {
    let Some(_shop) = shop() else { return };
    let folder = std::env::var_os("REMORA_KUBE_DIR").map(PathBuf::from);
    let built = folder.map(|folder| folder.join("bin/gateway"));
    let Some(built) = built.filter(|built| built.join("conformance.test").is_file()) else {
        eprintln!(
            "SKIPPED (nothing was tested): the suite is not built; see tests/kube/gateway-api"
        );
        return;
    };
    for arguments in [&["load"][..], &["crds", "experimental"]] {
        let (done, said) = script("gateway-api", arguments);
        assert!(done, "{arguments:?}: {said}");
    }
    let (passed, said) = script("gateway-api", &["suite"]);
    let told: Vec<&str> = said
        .lines()
        .filter(|line| line.trim_start().starts_with("--- "))
        .collect();
    assert!(passed, "{}\n{said}", told.join("\n"));
    let report = std::fs::read_to_string(built.join("report.yaml")).unwrap();
    eprintln!("{report}");
    for profile in PROFILES {
        assert!(report.contains(&format!("name: {profile}")), "{report}");
    }
    assert!(
        !report.contains("failedTests") && !report.contains("skippedTests"),
        "{report}"
    );
    assert!(!report.contains("unsupportedFeatures"), "{report}");
}
