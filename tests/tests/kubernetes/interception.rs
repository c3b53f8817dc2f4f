//! What the redirect rules do to a pod's connections, on a real kubelet.

use serde_json::Value;

use crate::cluster::eventually;
use crate::shop::{SHOP, Shop, name_of, shop};

/// One request from inside a pod of the shop: what came of it.
fn call(shop: &Shop, pod: &str, container: &str, url: &str) -> Result<Value, String> {
    let said = shop.cluster.try_kubectl(
        &["exec", "-n", SHOP, pod, "-c", container, "--", "remora", "demo", "caller", "--url", url],
        None,
    )?;
    serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))
}

#[test]
fn a_pod_calls_itself_by_its_address_and_through_its_service() {
    let Some(shop) = shop() else { return };
    let pods = shop.cluster.pods(SHOP, "app=web");
    let (web, addresses) = (name_of(&pods[0]), pods[0]["status"]["podIPs"].as_array().cloned().unwrap());
    assert_eq!(addresses.len(), 2, "dual stack");
    for address in addresses {
        let address = address["ip"].as_str().unwrap();
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let answer = call(&shop, &web, "web", &format!("http://{host}:8080/healthz")).unwrap();
        assert_eq!(answer["status"], 200, "{address}: {answer}");
        assert!(answer["body"].as_str().unwrap().contains(&web), "{address}: {answer}");
    }
    // web has one pod, so that its Service leads back to it.
    let answer = call(&shop, &web, "web", "http://web:8080/healthz").unwrap();
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(answer["body"].as_str().unwrap().contains(&web), "{answer}");
}

#[test]
fn a_port_on_loopback_stays_the_pods_own() {
    let Some(shop) = shop() else { return };
    let web = shop.cluster.pod(SHOP, "app=web");
    // By loopback the application answers itself: no sidecar stands between.
    let answer = call(&shop, &web, "web", "http://127.0.0.1:8080/healthz").unwrap();
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(answer["headers"].get("x-remora-attempt").is_none(), "{answer}");
}

#[test]
fn an_address_outside_the_mesh_is_reached_untouched() {
    let Some(shop) = shop() else { return };
    let web = shop.cluster.pod(SHOP, "app=web");
    // The API server: TLS, a Service without a sidecar behind it.
    let answer = call(&shop, &web, "web", "http://kubernetes.default.svc:443/").unwrap();
    assert_eq!(answer["status"], 400, "the API server's own word for plain HTTP: {answer}");
    assert!(answer["headers"].get("x-remora-reason").is_none(), "{answer}");
}

#[test]
fn a_limit_is_in_force_between_real_pods() {
    let Some(shop) = shop() else { return };
    let web = shop.cluster.pod(SHOP, "app=web");
    shop.cluster.apply(
        "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: shut, namespace: shop}\nspec:\n  \
         targetRefs: [{group: \"\", kind: Service, name: inventory-http}]\n  circuitBreaker: {maxRequests: 0}\n",
    );
    shop.cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: inventory-http, namespace: shop}\nspec:\n  \
         selector: {app: inventory}\n  ports: [{name: http, port: 80, targetPort: http}]\n",
    );
    let refused = eventually(20, "calls are refused", || {
        let answer = call(&shop, &web, "web", "http://inventory-http/healthz")?;
        if answer["status"] == 503 { Ok(answer) } else { Err(answer.to_string()) }
    });
    assert_eq!(refused["headers"]["x-remora-reason"], "overloaded", "{refused}");
    shop.cluster.kubectl(&["delete", "-n", SHOP, "tp/shut"]);
    eventually(20, "calls are served again", || {
        let answer = call(&shop, &web, "web", "http://inventory-http/healthz")?;
        if answer["status"] == 200 { Ok(()) } else { Err(answer.to_string()) }
    });
    shop.cluster.kubectl(&["delete", "-n", SHOP, "service/inventory-http"]);
}
