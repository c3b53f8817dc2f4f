//! What dies and what is replaced under load.

use std::time::Duration;

use crate::cluster::{Cluster, eventually};
use crate::shop::{SHOP, SYSTEM, name_of, shop};

fn restart(cluster: &Cluster, namespace: &str, names: &[&str]) {
    for name in names {
        cluster.kubectl(&[
            "rollout",
            "restart",
            "-n",
            namespace,
            &format!("deployment/{name}"),
        ]);
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
            cluster.kubectl(&[
                "delete",
                "pod",
                "-n",
                SHOP,
                &victim,
                "--grace-period=0",
                "--force",
            ]);
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
        // One after the other: all at once are ten pods that begin and end within
        // two seconds, and the node's daemons then leave two cores nothing for
        // the load (measured: 0 to 2 % idle, half of what it needs). The cart's
        // limit refuses what stalls for so long, as it should.
        for name in ["catalog", "payment-v1", "payment-v2", "cart"] {
            restart(cluster, SHOP, &[name]);
        }
        // Those that end are still answering.
        std::thread::sleep(Duration::from_secs(5));
    });
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    eprintln!("backends restarted: {served:?}");
}

/// Sets or mends what a pod of the demo answers.
fn breaks(cluster: &Cluster, pod: &str, status: u16) {
    let path = format!("/api/v1/namespaces/{SHOP}/pods/{pod}:8080/proxy/break?status={status}");
    cluster.kubectl(&["create", "--raw", &path, "-f", "/dev/null"]);
}

#[test]
fn a_breaker_that_opens_is_seen_in_the_status_and_told_by_an_event() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let sick = name_of(&cluster.pods(SHOP, "app=catalog")[0]);
    breaks(cluster, &sick, 500);
    eventually(30, "the status counts a breaker that is not closed", || {
        let policy = cluster.json(&["get", "tp", "-n", SHOP, "catalog"]);
        let breakers = &policy["status"]["breakers"];
        let count =
            breakers["open"].as_u64().unwrap_or(0) + breakers["halfOpen"].as_u64().unwrap_or(0);
        if count > 0 {
            Ok(())
        } else {
            Err(breakers.to_string())
        }
    });
    let events = |wanted: i64| {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{SHOP}/events");
        let all = cluster.object(&path)?;
        let all = all["items"].as_array().cloned().unwrap_or_default();
        let of_it = all.iter().filter(|event| {
            event["reason"] == "BreakerOpened" && event["regarding"]["name"] == *sick
        });
        let most = of_it
            .map(|event| event["series"]["count"].as_i64().unwrap_or(1))
            .max();
        if most >= Some(wanted) {
            Ok(())
        } else {
            Err(format!("{most:?}"))
        }
    };
    eventually(30, "an Event tells of it", || events(1));
    // It opens again after each probe; the same is counted, not told anew.
    eventually(90, "the Event counts", || events(2));
    breaks(cluster, &sick, 0);
    eventually(30, "no breaker is open", || {
        let policy = cluster.json(&["get", "tp", "-n", SHOP, "catalog"]);
        let breakers = &policy["status"]["breakers"];
        if breakers["open"] == 0 && breakers["halfOpen"] == 0 {
            Ok(())
        } else {
            Err(breakers.to_string())
        }
    });
}

#[test]
fn a_rolling_restart_of_remoras_daemons_costs_no_request() {
    let Some(shop) = shop() else { return };
    let (served, errors) = shop.served_during(10, |cluster| {
        restart(
            cluster,
            SYSTEM,
            &["remora-control-plane", "remora-injector"],
        );
    });
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    eprintln!("daemons restarted: {served:?}");
}
