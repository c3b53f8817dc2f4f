//! What travels between pods is TLS, and what a port takes is what its mode says.

use std::time::Duration;

use crate::capture::{Capture, Seen, addresses};
use crate::cluster::{Cluster, eventually};
use crate::guests::{GUESTS, Guests, handshake, plaintext};
use crate::shop::{SHOP, Shop, name_of, shop};

/// By what the shop's plaintext would be known: heads and bodies of HTTP/1, the
/// prefaces of HTTP/2 and of the mesh, lines of the inventory.
const MARKS: [&str; 12] = [
    "HTTP/1.1",
    "GET /products",
    "POST /charge",
    "PRI * HTTP/2.0",
    "\0remora-h",
    "x-remora-",
    "application/json",
    "\"products\"",
    "\"cents\"",
    "Fish 7",
    "stock 7",
    "inventory ready",
];
/// How long is listened.
const LISTEN: Duration = Duration::from_secs(8);

fn mode(cluster: &Cluster, namespace: &str, mode: &str) {
    cluster.apply(&format!(
        "apiVersion: remora.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: mode, namespace: {namespace}}}\nspec:\n  \
         targetRefs: [{{group: \"\", kind: Namespace, name: {namespace}}}]\n  mtls: {{mode: {mode}}}\n"
    ));
}

/// Listens between the pods of the shop. (Carts ask the inventory on new
/// connections all the time, so that beginnings are among what is heard.)
fn listen(shop: &Shop) -> Option<Seen> {
    let pods = shop.cluster.pods(SHOP, "app");
    let capture = Capture::begin(addresses(&pods))?;
    Some(capture.watch(LISTEN, &MARKS))
}

fn is_encrypted(seen: &Seen, when: &str) {
    eprintln!("{when}: {seen:?}");
    assert!(seen.plaintext.is_empty(), "{when}: {seen:?}");
    assert!(seen.packets > 1_000, "{when}: {seen:?}");
    // Segments of large records do not begin with one.
    assert!(seen.records * 10 > seen.packets * 8, "{when}: {seen:?}");
}

#[test]
fn a_capture_between_pods_shows_no_plaintext_in_permissive_and_in_strict_mode() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let Some(permissive) = listen(&shop) else {
        return;
    };
    is_encrypted(&permissive, "Permissive");
    // What is looked for is found where it is: a caller without a sidecar.
    let pods = cluster.pods(SHOP, "app=catalog");
    let guests = Guests::invite(cluster);
    let catalog = pods[0]["status"]["podIP"].as_str().unwrap();
    let both = pods
        .iter()
        .chain([])
        .cloned()
        .chain([guests.pod("outsider")]);
    let both: Vec<_> = both.collect();
    let capture = Capture::begin(addresses(&both)).unwrap();
    let control = std::thread::scope(|scope| {
        let seen = scope.spawn(|| capture.watch(Duration::from_secs(3), &MARKS));
        let url = format!("http://{catalog}:8080/products");
        assert_eq!(guests.call("outsider", &url).unwrap()["status"], 200);
        seen.join().unwrap()
    });
    for mark in ["HTTP/1.1", "GET /products", "\"cents\"", "Fish 7"] {
        assert!(control.plaintext.contains(mark), "{control:?}");
    }
    drop(guests);
    let defaults = |patch: &str| {
        cluster.kubectl(&[
            "patch",
            "tp",
            "-n",
            SHOP,
            "defaults",
            "--type=merge",
            "-p",
            patch,
        ]);
    };
    let (served, errors) = shop.served_during(3, |_| {
        defaults(r#"{"spec":{"mtls":{"mode":"Strict"}}}"#);
        eventually(20, "plaintext is refused", || {
            // The API server's proxy calls in plaintext.
            let visitor = cluster.pod(SHOP, "app=visitor");
            match cluster.served(SHOP, &visitor, 8080, "/stats") {
                Err(why) => Ok(why),
                Ok(_) => Err("it is answered".to_owned()),
            }
        });
        let strict = listen(&shop).unwrap();
        is_encrypted(&strict, "Strict");
        defaults(r#"{"spec":{"mtls":null}}"#);
    });
    assert_eq!(served.failed(), 0, "{served:?} {errors}");
    eprintln!("Permissive to Strict and back: {served:?}");
}

/// An application that speaks TLS itself, with a certificate of its own.
fn own_tls(cluster: &Cluster) {
    let key = "00".repeat(32);
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: key, namespace: {GUESTS}}}
data: {{key: "{key}"}}
---
apiVersion: v1
kind: Pod
metadata: {{name: own-tls, namespace: {GUESTS}, labels: {{app: own-tls}}}}
spec:
  serviceAccountName: server
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: remora/control-plane:0.1.0
      securityContext: {{runAsUser: 0}}
      command: [remora-control-plane, --source, "files:/data", --ca-dir, /ca/own, --token-key, /key/key, --listen, "[::]:8443", --admin, "[::]:8444"]
      readinessProbe: {{tcpSocket: {{port: 8443}}, periodSeconds: 1}}
      livenessProbe: {{httpGet: {{path: /live, port: 8444}}, periodSeconds: 1, failureThreshold: 2}}
      volumeMounts:
        - {{name: data, mountPath: /data}}
        - {{name: ca, mountPath: /ca}}
        - {{name: key, mountPath: /key}}
  volumes:
    - {{name: data, emptyDir: {{}}}}
    - {{name: ca, emptyDir: {{}}}}
    - {{name: key, configMap: {{name: key, defaultMode: 0600}}}}
"#
    ));
}

#[test]
fn strict_refuses_whoever_has_no_certificate_and_the_kubelet_goes_on() {
    const GET: &str = "GET /healthz HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\r\n";
    const URL: &str = "http://server.guests:8080/healthz";
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let guests = Guests::invite(cluster);
    own_tls(cluster);
    guests.are_ready();
    let (server, tls) = (
        guests.address("server", 8080),
        guests.address("own-tls", 8443),
    );
    // Permissive: all of them may.
    for caller in ["friend", "outsider"] {
        guests.comes_to(caller, URL, 200);
    }
    assert!(plaintext(server, GET).starts_with("HTTP/1.1 200"));
    let said = handshake(tls, &["-alpn", "h2"]);
    assert!(
        said.contains("BEGIN CERTIFICATE") && said.contains("ALPN protocol: h2"),
        "{said}"
    );
    // No certificate, no mesh: in every mode.
    let mesh = |to| handshake(to, &["-alpn", "remora-h2", "-ign_eof"]);
    let said = mesh(server);
    assert!(said.contains("certificate required"), "{said}");

    mode(cluster, GUESTS, "Strict");
    let refused = guests.comes_to("outsider", URL, 0);
    eprintln!("plaintext in Strict: {refused}");
    guests.comes_to("friend", URL, 200);
    assert_eq!(plaintext(server, GET), "");
    let said = eventually(
        20,
        "the application's own TLS is refused",
        || match handshake(tls, &["-alpn", "h2"]) {
            said if said.contains("no peer certificate available") => Ok(said),
            said => Err(said),
        },
    );
    assert!(!said.contains("BEGIN CERTIFICATE"), "{said}");
    let said = mesh(server);
    assert!(said.contains("certificate required"), "{said}");
    let refusals = |pod, what| guests.counted(pod, "remora_strict_refused_total", what);
    assert!(refusals("server", "what=\"plaintext\"") >= 2);
    assert!(refusals("own-tls", "what=\"foreign_tls\"") >= 1);
    let none = "side=\"inbound\",result=\"no_certificate\"";
    assert!(guests.counted("server", "remora_tls_handshakes_total", none) >= 2);

    // The kubelet's probes: those that go on, and those of a pod that begins now.
    cluster.kubectl(&["delete", "pod", "-n", GUESTS, "stranger", "own-tls"]);
    own_tls(cluster);
    std::thread::sleep(Duration::from_secs(10));
    guests.are_ready();
    for pod in cluster.pods(GUESTS, "app") {
        let status = &pod["status"];
        let containers = ["containerStatuses", "initContainerStatuses"];
        for one in containers.map(|field| status[field].as_array().cloned().unwrap_or_default()) {
            let restarts = one.iter().map(|one| one["restartCount"].as_u64().unwrap());
            assert_eq!(restarts.sum::<u64>(), 0, "{}: {status}", name_of(&pod));
        }
    }

    // A single port may be open to others.
    cluster.kubectl(&[
        "patch",
        "tp",
        "-n",
        GUESTS,
        "mode",
        "--type=merge",
        "-p",
        r#"{"spec":{"mtls":{"ports":{"8080":"Permissive"}}}}"#,
    ]);
    guests.comes_to("outsider", URL, 200);
    let said = handshake(guests.address("own-tls", 8443), &["-alpn", "h2"]);
    assert!(said.contains("no peer certificate available"), "{said}");
}
