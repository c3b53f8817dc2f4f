//! What dies and what is replaced under load.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::shop::{SHOP, SYSTEM, name_of, shop};

fn restart(cluster: &Cluster, namespace: &str, names: &[&str]) {
    for name in names {
        cluster.kubectl(&["rollout", "restart", "-n", namespace, &format!("deployment/{name}")]);
    }
    for name in names {
        cluster.rolled_out(namespace, &format!("deployment/{name}"));
    }
}

#[test]
fn a_backend_that_is_killed_costs_no_idempotent_request() {
    let Some(shop) = shop() else { return };
    for _ in 0..3 {
        let (served, errors) = shop.served_during(10, |cluster| {
            let victim = name_of(&cluster.pods(SHOP, "app=catalog")[0]);
            cluster.kubectl(&["delete", "pod", "-n", SHOP, &victim, "--grace-period=0", "--force"]);
            cluster.rolled_out(SHOP, "deployment/catalog");
        });
        assert_eq!(served.failed_idempotent, 0, "{served:?} {errors}");
        assert!(served.requests > 3_000, "{served:?}");
        eprintln!("killed: {served:?}");
    }
}

#[test]
fn a_rolling_restart_of_backends_costs_no_request_of_any_method() {
    let Some(shop) = shop() else { return };
    let (served, errors) = shop.served_during(10, |cluster| {
        restart(cluster, SHOP, &["catalog", "payment-v1", "payment-v2", "cart"]);
        // Those that end are still answering.
        std::thread::sleep(Duration::from_secs(5));
    });
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    eprintln!("backends restarted: {served:?}");
}

#[test]
fn a_rolling_restart_of_remoras_daemons_costs_no_request() {
    let Some(shop) = shop() else { return };
    let (served, errors) = shop.served_during(10, |cluster| {
        restart(cluster, SYSTEM, &["remora-control-plane", "remora-injector"]);
    });
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    eprintln!("daemons restarted: {served:?}");
}
