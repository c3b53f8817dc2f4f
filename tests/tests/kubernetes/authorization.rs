//! Who may call whom, by policies that `kubectl` applies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Request;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cluster::{Cluster, eventually, is_ready};
use crate::guests::{GUESTS, Guests, plaintext};
use crate::shop::{name_of, shop};

const URL: &str = "http://server:8080/healthz";
/// What `lines` says first.
const GREETING: &str = "inventory ready";

/// Applies a policy of the guests.
fn policy(cluster: &Cluster, name: &str, spec: &str) {
    cluster.apply(&format!(
        "apiVersion: remora.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: {GUESTS}}}\nspec: {spec}\n"
    ));
}

/// Waits until a policy is accepted and in force in so many sidecars.
#[track_caller]
fn in_force(cluster: &Cluster, name: &str, sidecars: u64) {
    eventually(20, &format!("{name} is in force"), || {
        let policy = cluster.json(&["get", "ap", "-n", GUESTS, name]);
        let status = &policy["status"];
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let accepted = conditions
            .iter()
            .any(|one| one["type"] == "Accepted" && one["status"] == "True");
        let seen = status["observedGeneration"] == policy["metadata"]["generation"];
        let counts =
            ["total", "applied", "refused"].map(|count| status["sidecars"][count].as_u64());
        if accepted && seen && counts == [Some(sidecars), Some(sidecars), Some(0)] {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
}

fn is_denied(answer: &Value) {
    assert_eq!(answer["status"], 403, "{answer}");
    assert_eq!(answer["headers"]["x-remora-reason"], "denied", "{answer}");
}

#[test]
fn the_application_is_told_who_calls_by_the_certificate_and_by_nothing_else() {
    let Some(shop) = shop() else { return };
    let guests = Guests::invite(&shop.cluster);
    let caller = |answer: Value| -> Value {
        let body = answer["body"].as_str().unwrap_or_default();
        let body: Value = serde_json::from_str(body).unwrap();
        body["caller"].clone()
    };
    for name in ["friend", "stranger"] {
        let id = format!("spiffe://cluster.local/ns/{GUESTS}/sa/{name}");
        assert_eq!(caller(guests.comes_to(name, URL, 200)), id);
    }
    // Of the friend's service account too, but without a certificate.
    let url = format!("http://server.{GUESTS}:8080/healthz");
    assert_eq!(caller(guests.comes_to("outsider", &url, 200)), Value::Null);
    let liar = format!(
        "GET /healthz HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\
         x-remora-client-identity: spiffe://cluster.local/ns/{GUESTS}/sa/friend\r\n\r\n"
    );
    let said = plaintext(guests.address("server", 8080), &liar);
    assert!(
        said.starts_with("HTTP/1.1 200") && !said.contains("caller"),
        "{said}"
    );
}

#[test]
fn only_those_who_are_allowed_and_not_denied_may_call() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let guests = Guests::invite(cluster);
    for caller in ["friend", "stranger", "outsider"] {
        guests.comes_to(caller, URL, 200);
    }
    let begin = Instant::now();
    policy(
        cluster,
        "friends",
        "{targetRefs: [{group: \"\", kind: Service, name: server}], action: Allow, from: [{identities: [guests/friend]}]}",
    );
    is_denied(&guests.comes_to("stranger", URL, 403));
    eprintln!(
        "an Allow was in force after {:?}, kubectl's own time included",
        begin.elapsed()
    );
    is_denied(&guests.comes_to("outsider", URL, 403));
    guests.comes_to("friend", URL, 200);
    in_force(cluster, "friends", 1);
    // Whatever it says of itself, and whatever it speaks.
    let server = guests.address("server", 8080);
    let liar = "GET /healthz HTTP/1.1\r\nhost: server\r\nconnection: close\r\n\
         x-remora-client-identity: spiffe://cluster.local/ns/guests/sa/friend\r\n\r\n";
    let said = plaintext(server, liar);
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    assert_eq!(grpc_status(server), ("200".to_owned(), "7".to_owned()));

    // A Deny wins, and no other way of writing the path leads past it.
    policy(
        cluster,
        "no-products",
        "{podSelector: {matchLabels: {app: server}}, action: Deny, to: [{paths: [/products/*]}]}",
    );
    is_denied(&guests.comes_to("friend", "http://server:8080/products", 403));
    in_force(cluster, "no-products", 1);
    for path in [
        "/products",
        "//products",
        "/%70roducts",
        "/x/../products",
        "/products/",
    ] {
        let answer = guests.call("friend", &format!("http://server:8080{path}"));
        is_denied(&answer.unwrap());
    }
    for path in ["/%2fproducts", "/products%00", "/products%5c"] {
        let answer = guests
            .call("friend", &format!("http://server:8080{path}"))
            .unwrap();
        assert_eq!(answer["status"], 400, "{path}: {answer}");
    }
    guests.comes_to("friend", URL, 200);

    // The kubelet is nobody's friend, and its probes go on.
    std::thread::sleep(Duration::from_secs(5));
    let pod = guests.pod("server");
    let status = &pod["status"]["containerStatuses"][0];
    assert!(is_ready(&pod) && status["restartCount"] == 0, "{pod}");

    cluster.kubectl(&["delete", "ap", "-n", GUESTS, "friends", "no-products"]);
    for caller in ["friend", "stranger", "outsider"] {
        guests.comes_to(caller, "http://server:8080/products", 200);
    }
}

/// Status and `grpc-status` of a call of gRPC from the node.
fn grpc_status(to: SocketAddr) -> (String, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let call = async {
        let stream = TcpStream::connect(to).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("http://{to}/shop.Cart/Add"));
        let request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut sender = sender.ready().await.unwrap();
        let (answer, _) = sender
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let answer = answer.await.unwrap();
        let status = answer
            .headers()
            .get("grpc-status")
            .map(|status| status.to_str().unwrap());
        (
            answer.status().as_str().to_owned(),
            status.unwrap_or_default().to_owned(),
        )
    };
    let answered = async { tokio::time::timeout(Duration::from_secs(10), call).await };
    runtime.block_on(answered).unwrap()
}

#[test]
fn connections_that_are_not_http_are_judged_by_who_makes_them() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let guests = Guests::invite(cluster);
    let lines = guests.address("lines", 7000);
    assert!(plaintext(lines, "stock 7\nquit\n").starts_with(GREETING));
    // Their sidecars carry the bytes of `/cart`.
    let cart = "http://127.0.0.1:8080/cart";
    let stock = |caller: &str, has: bool| {
        eventually(20, &format!("{caller} hears of the stock: {has}"), || {
            let answer = guests.call(caller, cart)?;
            let body = answer["body"].as_str().unwrap_or_default();
            if body.contains("\"inventory_error\":null") == has {
                Ok(())
            } else {
                Err(answer.to_string())
            }
        });
    };
    stock("friend", true);
    stock("stranger", true);
    policy(
        cluster,
        "lines",
        "{targetRefs: [{group: \"\", kind: Service, name: lines}], action: Allow, from: [{identities: [guests/friend]}], to: [{ports: [7000]}]}",
    );
    stock("stranger", false);
    stock("friend", true);
    in_force(cluster, "lines", 1);
    assert_eq!(plaintext(lines, "stock 7\nquit\n"), "");
    let denied = guests.counted("lines", "remora_authorization_total", "action=\"deny\"");
    assert!(denied >= 2, "{denied}");
}

#[test]
fn what_is_wrong_with_a_policy_is_refused_or_stands_in_its_status() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    let guests = Guests::invite(cluster);
    let bad = format!(
        "apiVersion: remora.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: bad, namespace: {GUESTS}}}\nspec: {{podSelector: {{}}, action: Perhaps}}\n"
    );
    let said = cluster
        .try_kubectl(&["apply", "-f", "-"], Some(&bad))
        .unwrap_err();
    assert!(said.contains("spec.action"), "{said}");
    policy(
        cluster,
        "nobody",
        "{targetRefs: [{group: \"\", kind: Service, name: nowhere}], action: Deny}",
    );
    eventually(20, "the status names what is missing", || {
        let policy = cluster.json(&["get", "ap", "-n", GUESTS, "nobody"]);
        match &policy["status"]["conditions"][0]["reason"] {
            reason if reason == "TargetNotFound" => Ok(()),
            other => Err(other.to_string()),
        }
    });
    // Audit refuses nothing, and is counted.
    policy(cluster, "watched", "{podSelector: {}, action: Audit}");
    let meshed = cluster
        .pods(GUESTS, "app")
        .iter()
        .filter(|pod| name_of(pod) != "outsider")
        .count();
    in_force(cluster, "watched", meshed.try_into().unwrap());
    guests.comes_to("stranger", URL, 200);
    let audited = guests.counted("server", "remora_authorization_total", "action=\"audit\"");
    assert!(audited >= 1, "{audited}");
}
