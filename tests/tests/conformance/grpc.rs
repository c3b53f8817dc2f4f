//! grpc-go's interoperability cases (gRPC's doc/interop-test-descriptions.md)
//! through two sidecars: grpc-go's client, the caller's sidecar, the target's,
//! grpc-go's server.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::go::{self, Application};
use crate::mesh::{DETECTED, GRPC, HTTP2, Hop, Mesh, Place, until};

/// One case may take so long (the longest are the soaks, seconds).
const CASE: Duration = Duration::from_secs(60);
/// Cases of grpc-go, and of those that may be compressed a second one.
const CASES: usize = 21;

async fn cases() -> Vec<String> {
    let output = Command::from(go::program("grpc"))
        .arg("--list")
        .output()
        .await
        .unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().map(str::to_owned).collect()
}

/// What it said where it failed.
async fn fails(place: Place, case: &str, port: u16) -> Option<String> {
    let child = Command::from(go::program("grpc"))
        .args(["--case", case])
        .args(["--address", &place.outbound().to_string()])
        .args(["--authority", &format!("echo:{port}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let Ok(output) = tokio::time::timeout(CASE, child.wait_with_output()).await else {
        return Some(format!("{case} on {port}: no end within {CASE:?}"));
    };
    let output = output.unwrap();
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Some(format!("{case} on {port}: {said}"))
}

async fn every_case_passes(number: u8, hop: Hop) {
    if !go::is_here() {
        return;
    }
    let place = Place::new(number);
    let plain = place.application(HTTP2).to_string();
    // The same service on a declared port and on one that is detected.
    let grpc = [GRPC, DETECTED].map(|port| place.application(port).to_string());
    let _first = Application::start(&[plain], &grpc[0]);
    let _second = Application::start(&[], &grpc[1]);
    let mesh = Mesh::start(place, hop).await;
    let cases = cases().await;
    assert_eq!(cases.len(), CASES, "{cases:?}");
    let mut failures = Vec::new();
    for port in [GRPC, DETECTED] {
        for case in &cases {
            failures.extend(fails(place, case, port).await);
        }
    }
    let total = cases.len() * 2;
    println!(
        "gRPC interoperability, {hop:?}: {} of {total} passed",
        total - failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    until("nothing is in flight any more", async || {
        let stats = mesh.caller_says("/stats").await;
        let target = mesh.target_says("/stats").await;
        let all = |stats: &serde_json::Value, side: &str| {
            let rows = stats[side].as_array().cloned().unwrap_or_default();
            rows.iter().all(|row| row["in_flight"] == 0)
        };
        all(&stats, "outbound") && all(&target, "inbound")
    })
    .await;
}

#[tokio::test]
async fn grpc_cases_pass_through_two_sidecars() {
    every_case_passes(1, Hop::AsSpoken).await;
}

#[tokio::test]
async fn grpc_cases_pass_through_two_sidecars_on_the_mesh_hop() {
    every_case_passes(2, Hop::Ours).await;
}
