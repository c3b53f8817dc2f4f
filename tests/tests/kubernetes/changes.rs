//! How soon a change is in force.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, eventually, is_ready, median, unix_ms};
use crate::shop::{SHOP, Shop, name_of, shop};

/// The bar of each median.
const SOON_MS: i64 = 500;
/// How often is looked.
const LOOK: Duration = Duration::from_millis(10);
/// How long a single change may take in any case.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks closely until there is an answer; when it was first there, Unix milliseconds.
#[track_caller]
fn moment<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> (i64, T) {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return (unix_ms(), found);
        }
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK);
    }
}

/// When this sidecar took the policy at this generation.
fn applied_at(shop: &Shop, pod: &str, service: &str, generation: i64) -> Option<i64> {
    let config = shop.sidecar(pod, "/config").ok()?;
    let applied = config["applied"].as_array()?.iter().find(|resource| {
        let policies = resource["policies"].as_array();
        resource["type"] == "Service"
            && resource["name"] == service
            && policies.is_some_and(|all| all.iter().any(|policy| policy["generation"] == generation))
    })?;
    applied["applied_at_ms"].as_i64()
}

#[test]
fn a_policy_is_in_force_within_half_a_second_of_kubectl() {
    let Some(shop) = shop() else { return };
    let web = shop.cluster.pod(SHOP, "app=web");
    let mut took = Vec::new();
    for round in 0..11 {
        let patch = format!(r#"{{"spec":{{"circuitBreaker":{{"maxRequests":{}}}}}}}"#, 400 + round);
        // From the start of kubectl, whose own start counts too.
        let begin = unix_ms();
        let generation = shop.cluster.kubectl(&[
            "patch", "tp", "-n", SHOP, "catalog", "--type=merge", "-p", &patch, "-o", "jsonpath={.metadata.generation}",
        ]);
        let generation: i64 = generation.parse().unwrap();
        let (_, at) = moment("the policy is in force", || applied_at(&shop, &web, "shop/catalog", generation));
        took.push(at - begin);
    }
    shop.cluster.kubectl(&["patch", "tp", "-n", SHOP, "catalog", "--type=merge", "-p", r#"{"spec":{"circuitBreaker":{"maxRequests":500}}}"#]);
    eprintln!("policy applied to in force, ms, from the start of kubectl: {took:?}");
    assert!(median(took.clone()) < SOON_MS, "{took:?}");
}

/// What web's sidecar knows of a pod of catalog.
fn endpoint(shop: &Shop, web: &str, pod: &str) -> Option<Value> {
    let shown = shop.sidecar(web, "/breakers").ok()?;
    let services = shown["services"].as_array()?.iter();
    let catalog = services.clone().find(|service| service["service"] == "shop/catalog")?;
    catalog["endpoints"].as_array()?.iter().find(|endpoint| endpoint["endpoint"] == pod).cloned()
}

fn pod_object(cluster: &Cluster, pod: &str) -> Option<Value> {
    cluster.object(&format!("/api/v1/namespaces/{SHOP}/pods/{pod}")).ok()
}

#[test]
fn a_ready_pod_gets_requests_and_an_ending_one_none_within_half_a_second() {
    let Some(shop) = shop() else { return };
    let web = shop.cluster.pod(SHOP, "app=web");
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let before: Vec<_> = shop.cluster.pods(SHOP, "app=catalog").iter().map(name_of).collect();
        shop.cluster.kubectl(&["scale", "-n", SHOP, "deployment/catalog", "--replicas=4"]);
        let new = eventually(30, "a fourth pod", || {
            let pods = shop.cluster.pods(SHOP, "app=catalog");
            let new = pods.iter().map(name_of).find(|name| !before.contains(name));
            new.ok_or("none".to_owned())
        });
        let (ready, _) = moment("the pod is ready", || pod_object(&shop.cluster, &new).filter(is_ready));
        let (called, _) = moment("the pod is called", || {
            endpoint(&shop, &web, &new).filter(|endpoint| endpoint["requests"].as_u64() > Some(0))
        });
        begins.push(called - ready);
        // Any of the four may be chosen to go; this one is.
        let delete = std::thread::scope(|scope| {
            let deleting = scope.spawn(|| shop.cluster.kubectl(&["delete", "pod", "-n", SHOP, &new, "--wait=false"]));
            let (ending, _) = moment("the pod ends", || match pod_object(&shop.cluster, &new) {
                Some(pod) if pod["metadata"]["deletionTimestamp"].is_null() => None,
                _ => Some(()),
            });
            let (drained, _) = moment("the pod is not chosen any more", || match endpoint(&shop, &web, &new) {
                Some(endpoint) if endpoint["draining"] == false => None,
                _ => Some(()),
            });
            deleting.join().unwrap();
            drained - ending
        });
        ends.push(delete);
        shop.cluster.kubectl(&["scale", "-n", SHOP, "deployment/catalog", "--replicas=3"]);
        shop.cluster.rolled_out(SHOP, "deployment/catalog");
    }
    eprintln!("ready to called, ms: {begins:?}; ending to not chosen, ms: {ends:?}");
    assert!(median(begins.clone()) < SOON_MS, "{begins:?}");
    assert!(median(ends.clone()) < SOON_MS, "{ends:?}");
}
