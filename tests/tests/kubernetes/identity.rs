//! Who pods are: every pod of the mesh has a certificate of its own and uses it,
//! and nobody gets another's.

use serde_json::Value;

use crate::cluster::{Cluster, eventually};
use crate::guests::counted;
use crate::shop::{SHOP, SYSTEM, name_of, shop};

/// The roots that are written as trusted in a namespace.
pub fn trusted(cluster: &Cluster, namespace: &str) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/remora-trust");
    let map = cluster.object(&path)?;
    let text = map["data"]["ca.crt"].as_str().unwrap_or_default();
    Ok(text.to_owned())
}

#[test]
fn every_pod_of_the_shop_has_its_own_certificate_and_calls_by_it() {
    let Some(shop) = shop() else { return };
    let now = crate::cluster::unix_ms();
    for pod in shop.cluster.pods(SHOP, "app") {
        let name = name_of(&pod);
        let shown = shop.sidecar(&name, "/identity").unwrap();
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
        let id = format!("spiffe://cluster.local/ns/{SHOP}/sa/{account}");
        assert_eq!(shown["spiffe_id"], id, "{name}: {shown}");
        let leaf = &shown["chain"][0];
        let (begins, ends) = (
            leaf["not_before_ms"].as_i64(),
            leaf["not_after_ms"].as_i64(),
        );
        assert!(begins < Some(now) && ends > Some(now), "{name}: {shown}");
        let renewal = shown["next_renewal_ms"].as_i64();
        assert!(renewal > Some(now) && renewal < ends, "{name}: {shown}");
        assert_eq!(shown["last_error"], Value::Null, "{name}");
        assert!(
            shown["roots"]
                .as_array()
                .is_some_and(|roots| !roots.is_empty()),
            "{name}: {shown}"
        );
        // Everybody is called by somebody, but for those who only call.
        let side = if ["visitor", "shopper"].iter().any(|one| name.starts_with(one)) {
            "side=\"outbound\""
        } else {
            "side=\"inbound\""
        };
        let handshakes = "remora_tls_handshakes_total";
        eventually(20, &format!("{name} has {side} handshakes"), || {
            let all = counted(&shop.cluster, SHOP, &name, handshakes, side);
            let text = format!("/api/v1/namespaces/{SHOP}/pods/{name}:15120/proxy/metrics");
            let text = shop.cluster.get(&text)?;
            let good = text.lines().any(|line| {
                line.starts_with(handshakes)
                    && line.contains(side)
                    && line.contains("result=\"ok\"")
                    && !line.ends_with(" 0")
            });
            if good { Ok(()) } else { Err(format!("{all}")) }
        });
    }
}

#[test]
fn whom_to_trust_is_in_every_labelled_namespace_at_once() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let written = trusted(cluster, SYSTEM).unwrap();
    assert!(written.contains("BEGIN CERTIFICATE"), "{written}");
    assert_eq!(trusted(cluster, SHOP).unwrap(), written);
    let secret = cluster.json(&["get", "secret", "-n", SYSTEM, "remora-ca"]);
    assert_eq!(secret["type"], "kubernetes.io/tls");
    for key in ["tls.crt", "tls.key", "ca.crt"] {
        assert!(secret["data"][key].is_string(), "{key}");
    }
    let name = "newly-labelled";
    cluster.kubectl(&["create", "namespace", name]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    trusted(cluster, name).unwrap_err();
    cluster.kubectl(&["label", "namespace", name, "remora.io/inject=enabled"]);
    let begin = std::time::Instant::now();
    eventually(
        10,
        "remora-trust is in the new namespace",
        || match trusted(cluster, name)? {
            text if text == written => Ok(()),
            other => Err(other),
        },
    );
    eprintln!("remora-trust after the label: {:?}", begin.elapsed());
    cluster.kubectl(&["delete", "namespace", name, "--wait=false"]);
}

/// A pod that calls itself another one, with that one's own token, as a thief
/// has it: nothing but the sidecar, and no sidecar of its own.
fn thief(cluster: &Cluster, victim: &Value, token: &str) {
    let pod = name_of(victim);
    let (uid, ip) = (&victim["metadata"]["uid"], &victim["status"]["podIP"]);
    let (uid, ip) = (uid.as_str().unwrap(), ip.as_str().unwrap());
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Secret
metadata: {{name: loot, namespace: {SHOP}}}
stringData: {{token: "{token}"}}
---
apiVersion: v1
kind: Pod
metadata: {{name: thief, namespace: {SHOP}, labels: {{remora.io/inject: disabled}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: thief
      image: remora/proxy:0.1.0
      env:
        - {{name: REMORA_NAMESPACE, value: {SHOP}}}
        - {{name: REMORA_POD, value: {pod}}}
        - {{name: REMORA_POD_UID, value: "{uid}"}}
        - {{name: REMORA_POD_IPS, value: "{ip}"}}
        - {{name: REMORA_MODE, value: explicit}}
        - {{name: REMORA_APP_ADDRESS, value: "127.0.0.1"}}
        - {{name: REMORA_TRUST_DOMAIN, value: cluster.local}}
        - {{name: REMORA_TOKEN_FILE, value: /loot/token}}
        - {{name: REMORA_TRUST_FILE, value: /trust/ca.crt}}
        - {{name: REMORA_CONTROL_PLANE, value: "https://remora-control-plane.remora-system.svc:15110"}}
      volumeMounts:
        - {{name: loot, mountPath: /loot}}
        - {{name: trust, mountPath: /trust}}
  volumes:
    - {{name: loot, secret: {{secretName: loot}}}}
    - {{name: trust, configMap: {{name: remora-trust}}}}
"#
    ));
}

#[test]
fn a_stolen_token_is_of_no_use_outside_of_its_pod() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let victim = cluster.pods(SHOP, "app=web").remove(0);
    let (pod, uid) = (
        name_of(&victim),
        victim["metadata"]["uid"].as_str().unwrap(),
    );
    let account = victim["spec"]["serviceAccountName"].as_str().unwrap();
    // The kubelet mounts one made in just this way.
    let token = cluster.kubectl(&[
        "create",
        "token",
        "-n",
        SHOP,
        account,
        "--audience=remora.io",
        "--bound-object-kind=Pod",
        &format!("--bound-object-name={pod}"),
        &format!("--bound-object-uid={uid}"),
    ]);
    thief(cluster, &victim, token.trim());
    let error = eventually(60, "the thief is told why", || {
        let shown = shop.sidecar("thief", "/identity")?;
        assert_eq!(shown["chain"], serde_json::json!([]), "{shown}");
        match shown["last_error"].as_str() {
            Some(error) if error.contains("does not come from an address of the pod") => {
                Ok(error.to_owned())
            }
            _ => Err(shown.to_string()),
        }
    });
    eprintln!("a stolen token: {error}");
    // What it learns is what every pod of the mesh may know, and nothing of the
    // pod itself.
    let config = shop.sidecar("thief", "/config").unwrap();
    let applied = config["applied"].as_array().unwrap();
    assert!(
        applied.iter().all(|one| one["type"] != "Workload"),
        "{config}"
    );
    assert_eq!(config["ready"], false, "{config}");
    let logged = cluster.kubectl(&["logs", "-n", SHOP, "thief"]);
    assert!(logged.contains("does not come from an address"), "{logged}");
    let told = cluster.pods(SYSTEM, "app.kubernetes.io/name=remora-control-plane");
    let told = told.iter().map(|plane| {
        let plane = name_of(plane);
        cluster.kubectl(&["logs", "-n", SYSTEM, &plane, "--tail=-1"])
    });
    assert!(
        told.into_iter()
            .any(|log| log.contains("a token is used from outside of its pod")),
        "the control plane tells of it"
    );
    cluster.kubectl(&[
        "delete",
        "-n",
        SHOP,
        "pod/thief",
        "secret/loot",
        "--wait=false",
    ]);
    // The one it was stolen from is none the worse, and what it reports counts.
    let shown = shop.sidecar(&pod, "/identity").unwrap();
    assert_eq!(shown["last_error"], Value::Null, "{shown}");
    let policy = cluster.json(&["get", "trafficpolicy", "-n", SHOP, "cart"]);
    let counts = &policy["status"]["sidecars"];
    let (applied, total) = (counts["applied"].as_u64(), counts["total"].as_u64());
    assert!(total > Some(0) && applied == total, "{counts}");
}
