//! The API server taken away, and back with a history that is gone.

use std::process::Command;
use std::time::Duration;

use crate::cluster::{Cluster, eventually};
use crate::shop::{SHOP, shop};

/// How long it is gone.
const OUTAGE: Duration = Duration::from_secs(60);

/// Stops or starts a component of the cluster that `tests/kube/kube` made; whether it can.
fn component(action: &str, name: &str) -> bool {
    let Some(folder) = std::env::var_os("REMORA_KUBE_DIR") else {
        eprintln!("SKIPPED (nothing was tested): no REMORA_KUBE_DIR, so that the API server cannot be stopped");
        return false;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/kube/kube");
    let done = Command::new(script).arg(action).arg(folder).arg(name).status().unwrap();
    assert!(done.success(), "{action} {name}");
    true
}

/// The counts in the status of catalog's policy, and its newest generation in it.
fn status(cluster: &Cluster) -> Result<(u64, u64, bool), String> {
    let policy = cluster.object(&format!("/apis/remora.io/v1alpha1/namespaces/{SHOP}/trafficpolicies/catalog"))?;
    let counts = &policy["status"]["sidecars"];
    Ok((
        counts["total"].as_u64().unwrap_or_default(),
        counts["applied"].as_u64().unwrap_or_default(),
        policy["status"]["observedGeneration"] == policy["metadata"]["generation"],
    ))
}

#[test]
fn an_api_server_that_is_gone_for_a_minute_costs_no_request_and_everything_converges() {
    let Some(shop) = shop() else { return };
    let before = shop.served().unwrap();
    if !component("stop", "kube-apiserver") {
        return;
    }
    std::thread::sleep(OUTAGE);
    assert!(component("start", "kube-apiserver"));
    eventually(60, "the API server answers", || shop.cluster.get("/readyz"));
    // A history of changes, most of which are compacted before a watch that was cut can ask for them.
    for round in 0..20 {
        let patch = format!(r#"{{"spec":{{"circuitBreaker":{{"maxRequests":{}}}}}}}"#, 600 + round);
        eventually(60, "a change is taken", || {
            shop.cluster.try_kubectl(&["patch", "tp", "-n", SHOP, "catalog", "--type=merge", "-p", &patch], None)
        });
    }
    shop.cluster.kubectl(&["scale", "-n", SHOP, "deployment/catalog", "--replicas=4"]);
    shop.cluster.rolled_out(SHOP, "deployment/catalog");
    let web = shop.cluster.pod(SHOP, "app=web");
    eventually(60, "web knows four endpoints of catalog", || {
        let shown = shop.sidecar(&web, "/breakers")?;
        let services = shown["services"].as_array().cloned().unwrap_or_default();
        let catalog = services.iter().find(|service| service["service"] == "shop/catalog");
        let endpoints = catalog.and_then(|catalog| catalog["endpoints"].as_array());
        let ready = endpoints.map_or(0, |all| all.iter().filter(|one| one["ready"] == true && one["draining"] == false).count());
        if ready == 4 { Ok(()) } else { Err(format!("{ready}")) }
    });
    eventually(60, "the status is true again", || match status(&shop.cluster)? {
        (total, applied, true) if total > 0 && total == applied => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let served = shop.served().unwrap().since(before);
    assert_eq!(served.failed(), 0, "{served:?} {}", shop.stats().unwrap()["errors"]);
    shop.cluster.kubectl(&["scale", "-n", SHOP, "deployment/catalog", "--replicas=3"]);
    eprintln!("the API server gone for {OUTAGE:?}: {served:?}");
}
