//! A sidecar's certificate: how it comes, how it is renewed, and that nobody
//! notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::authority::{Authority, id};
use crate::eventually;
use crate::mesh::{Mesh, policy};
use crate::sidecar::{Options, Sidecar};
use crate::upstream::App;

struct Pair {
    mesh: Mesh,
    target: Sidecar,
    authority: Authority,
    app: App,
}

impl Pair {
    async fn start(lifetime_seconds: i64) -> Self {
        let authority = Authority::new();
        authority.lifetime_seconds(lifetime_seconds);
        let options = Options {
            authority: Some(authority.clone()),
            ..Options::default()
        };
        let mesh = Mesh::start_with(options.clone()).await;
        let target = mesh.beside(3, options).await;
        mesh.secured(0, 3, 3);
        mesh.service("catalog", policy());
        let app = App::ok(mesh.net.at(4)).await;
        Self {
            mesh,
            target,
            authority,
            app,
        }
    }

    /// Callers that ask on and on, some with a connection for each request.
    fn load(&self) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicU64::new(0));
        let outbound = self.mesh.sidecar.outbound();
        let tasks = (0..4)
            .map(|number| {
                let (stop, good) = (Arc::clone(&stop), Arc::clone(&good));
                tokio::spawn(async move {
                    let mut client = crate::client::Client::connect(outbound).await;
                    while !stop.load(SeqCst) {
                        // HTTP/1.0 has a connection of its own all the way.
                        let head = match number {
                            0 => "POST / HTTP/1.0\r\nhost: catalog:8080\r\ncontent-length: 2\r\n\r\nhi",
                            _ => "POST / HTTP/1.1\r\nhost: catalog:8080\r\ncontent-length: 2\r\n\r\nhi",
                        };
                        client.write(head).await;
                        let answer = client.answer().await;
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        good.fetch_add(1, SeqCst);
                        if number == 0 {
                            client = crate::client::Client::connect(outbound).await;
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                })
            })
            .collect();
        Load { stop, good, tasks }
    }
}

struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// How many requests were answered; a failed one ends the test.
    async fn end(self) -> u64 {
        self.stop.store(true, SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.good.load(SeqCst)
    }
}

/// A sidecar that gets no certificate as long as the CA is away.
async fn without_certificate() -> (Mesh, Authority) {
    let authority = Authority::new();
    authority.away(true);
    let net = crate::mesh::Net::next();
    let address = std::net::SocketAddr::new(net.ip(1), 15110);
    let control = crate::control::Control::start_with(address, Some(authority.clone()));
    let options = Options {
        authority: Some(authority.clone()),
        ..Options::default()
    };
    let sidecar = Sidecar::start(net, &control.url(), options).await;
    let mesh = Mesh {
        control,
        sidecar,
        net,
    };
    (mesh, authority)
}

#[tokio::test]
async fn a_sidecar_is_ready_when_it_has_its_certificate_and_shows_it() {
    let (mesh, authority) = without_certificate().await;
    mesh.trust(&authority);
    mesh.workload(|_| ());
    eventually("its workload is there", async || {
        let applied = mesh.sidecar.json("/config").await["applied"].clone();
        applied.as_array().unwrap().len() == 2
    })
    .await;
    let answer = mesh.sidecar.get("/ready").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("certificate"), "{}", answer.text());
    eventually("it says why", async || {
        let identity = mesh.sidecar.json("/identity").await;
        identity["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("the CA is away"))
    })
    .await;
    authority.away(false);
    mesh.sidecar.until_ready().await;
    let identity = mesh.sidecar.json("/identity").await;
    assert_eq!(identity["spiffe_id"], id("web-1"));
    assert_eq!(identity["roots"].as_array().unwrap().len(), 1);
    assert_eq!(identity["roots"][0]["issued_own"], true);
    assert_eq!(identity["chain"].as_array().unwrap().len(), 1);
    let not_after = identity["chain"][0]["not_after_ms"].as_u64().unwrap();
    let next = identity["next_renewal_ms"].as_u64().unwrap();
    assert!(
        next < not_after && next > not_after - 3_600_000 * 7 / 10,
        "{identity}"
    );
    assert!(identity["last_error"].is_null());
    let expires = mesh
        .sidecar
        .counter("remora_identity_expires_seconds", "")
        .await;
    assert_eq!(expires * 1_000, not_after);
    let name = "remora_identity_renewals_total";
    assert_eq!(mesh.sidecar.counter(name, r#""ok""#).await, 1);
    assert!(mesh.sidecar.counter(name, r#""unavailable""#).await >= 1);
}

#[tokio::test]
async fn without_its_certificate_a_sidecar_sends_nothing_in_plaintext() {
    let pair = Pair::start(3_600).await;
    let (mesh, _authority) = without_certificate().await;
    mesh.workload(|_| ());
    mesh.endpoint("catalog", 0, pair.mesh.net.at(3), |endpoint| {
        endpoint.mesh_protocols = vec!["remora-h2".into()];
        endpoint.identity = id("web-3");
    });
    mesh.service("catalog", policy());
    let answer = mesh.get("/").await;
    assert_eq!((answer.status, answer.reason()), (503, "connect_failed"));
    assert!(
        answer.text().contains("no certificate"),
        "{}",
        answer.text()
    );
    assert_eq!(pair.app.count(), 0);
}

#[tokio::test]
async fn certificates_and_roots_turn_over_under_load_without_a_failed_request() {
    let pair = Pair::start(4).await;
    let load = pair.load();
    tokio::time::sleep(Duration::from_secs(4)).await;
    for _ in 0..2 {
        pair.authority.announce_root();
        pair.mesh.trust(&pair.authority);
        tokio::time::sleep(Duration::from_millis(700)).await;
        pair.authority.use_newest_root();
        // Everybody has renewed by then.
        tokio::time::sleep(Duration::from_secs(4)).await;
        pair.authority.drop_old_roots();
        pair.mesh.trust(&pair.authority);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let answered = load.end().await;
    assert!(answered > 500, "{answered}");
    assert!(pair.authority.issued() >= 8, "{}", pair.authority.issued());
    assert_eq!(
        pair.mesh.sidecar.json("/identity").await["roots"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_ca_that_is_away_for_most_of_a_life_is_not_noticed() {
    let pair = Pair::start(12).await;
    let load = pair.load();
    pair.authority.away(true);
    let issued = pair.authority.issued();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(pair.authority.issued(), issued);
    let identity = pair.target.json("/identity").await;
    assert!(identity["last_error"].is_string(), "{identity}");
    pair.authority.away(false);
    eventually("both have renewed", async || {
        pair.authority.issued() >= issued + 2
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(load.end().await > 500);
}

#[tokio::test]
async fn the_stream_is_believed_by_its_roots_and_identity_alone() {
    let authority = Authority::new();
    let net = crate::mesh::Net::next();
    let address = std::net::SocketAddr::new(net.ip(1), 15110);
    let control = crate::control::Control::start_with(address, Some(authority));
    let options = Options {
        // Another root than the control plane's.
        authority: Some(Authority::new()),
        ..Options::default()
    };
    let sidecar = Sidecar::start(net, &control.url(), options).await;
    eventually("it says whom it does not believe", async || {
        let identity = sidecar.json("/identity").await;
        identity["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("unknown_issuer"))
    })
    .await;
    assert_eq!(sidecar.get("/ready").await.status, 503);
    assert_eq!(control.streams(), 0);
}
