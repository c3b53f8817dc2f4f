//! Holds `src/generated` to `proto/`; with `REMORA_REGENERATE` set, writes it anew.

use std::path::Path;

const FILES: [&str; 7] = [
    "remora/v1/routes.proto",
    "remora/v1/identity.proto",
    "remora/v1/resources.proto",
    "remora/v1/report.proto",
    "remora/v1/replica.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "remora/v1/policy.proto",
];

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();
    let committed = root.join("src/generated");
    let mut seen = 0;
    for entry in std::fs::read_dir(fresh.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "google.protobuf.rs" {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        if std::env::var_os("REMORA_REGENERATE").is_some() {
            std::fs::write(committed.join(&name), &text).unwrap();
        }
        let held = std::fs::read_to_string(committed.join(&name)).unwrap_or_default();
        assert!(
            text == held,
            "{} is out of date: run REMORA_REGENERATE=1 cargo test -p remora-proto",
            name.to_string_lossy()
        );
        seen += 1;
    }
    assert_eq!(seen, 4, "expected one generated file per proto package");
}
