//! Upgrades and CONNECT: through one sidecar and through two.

use std::time::{Duration, Instant};

use remora_proto::v1::{ServicePolicy, Timeouts};

use crate::eventually;
use crate::h2_app::{App, Says, Step};
use crate::h2_client::{Client, head};
use crate::mesh::{Mesh, PORT, policy};
use crate::raw::{Listening, Raw};
use crate::sidecar::{Options, Sidecar};

const ASKS: &str = "GET /chat HTTP/1.1\r\nhost: catalog:8080\r\nconnection: Upgrade\r\n\
                    upgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n";
const SWITCHES: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                        upgrade: websocket\r\nsec-websocket-accept: def\r\n\r\n";

/// The way to an application: its last byte tells whether a second sidecar is on it.
pub struct Way {
    /// The sidecar of the caller, and who tells it.
    pub mesh: Mesh,
    second: Option<Sidecar>,
    application: u8,
}

impl Way {
    /// Through one sidecar, and through two.
    pub async fn both(policy: ServicePolicy) -> [Self; 2] {
        let mesh = Mesh::start().await;
        mesh.catalog(policy.clone(), &[mesh.net.at(10)]);
        let one = Self {
            mesh,
            second: None,
            application: 10,
        };
        let mesh = Mesh::start().await;
        let second = mesh.beside(3, Options::default()).await;
        mesh.meshed(policy, &[3]);
        let two = Self {
            mesh,
            second: Some(second),
            application: 4,
        };
        [one, two]
    }

    /// Where the application is to listen.
    pub fn application(&self) -> std::net::SocketAddr {
        self.mesh.net.at(self.application)
    }

    async fn caller(&self) -> Raw {
        Raw::connect(self.mesh.sidecar.outbound()).await
    }

    /// Completes when no sidecar has a request in flight.
    pub async fn nothing_is_left(&self) {
        eventually("nothing is in flight", async || {
            self.mesh.sidecar.outbound_stats().await["in_flight"] == 0
        })
        .await;
        if let Some(second) = &self.second {
            eventually("nothing is in flight at the target", async || {
                let stats = second.json("/stats").await;
                stats["inbound"][0]["in_flight"] == 0
            })
            .await;
        }
    }
}

#[tokio::test]
async fn an_upgrade_is_carried_and_early_bytes_wait_for_the_101() {
    for way in Way::both(policy()).await {
        let app = Listening::start(way.application(), |mut raw| async move {
            let head = raw.head().await;
            assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
            for line in [
                "host: catalog:8080",
                "upgrade: websocket",
                "sec-websocket-key: abc",
            ] {
                assert!(head.to_lowercase().contains(line), "{head}");
            }
            assert!(
                head.to_lowercase().contains("connection: upgrade"),
                "{head}"
            );
            assert!(!head.contains("x-remora-http"), "{head}");
            assert!(
                raw.is_silent_for(100).await,
                "early bytes came before the 101"
            );
            raw.write(SWITCHES).await;
            raw.echo().await;
        })
        .await;
        let mut caller = way.caller().await;
        caller.write(format!("{ASKS}early")).await;
        let head = caller.head().await.to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        for line in [
            "connection: upgrade",
            "upgrade: websocket",
            "sec-websocket-accept: def",
        ] {
            assert!(head.contains(line), "{head}");
        }
        assert!(!head.contains("x-remora"), "{head}");
        assert_eq!(caller.until("early").await, "early");
        for number in 0..20 {
            let text = format!("message {number};");
            caller.write(&text).await;
            assert_eq!(caller.until(";").await, text);
        }
        // One half closes, the other goes on.
        caller.finish().await;
        assert_eq!(caller.rest().await, "bye");
        way.nothing_is_left().await;
        assert_eq!(app.accepted(), 1);
    }
}

#[tokio::test]
async fn the_applications_half_close_leaves_the_callers_half_open() {
    for way in Way::both(policy()).await {
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let _app = Listening::start(way.application(), move |mut raw| {
            let heard = heard.clone();
            async move {
                raw.head().await;
                raw.write(SWITCHES).await;
                raw.write("last words").await;
                raw.finish().await;
                let _ = heard.send(raw.rest().await);
            }
        })
        .await;
        let mut caller = way.caller().await;
        caller.write(ASKS).await;
        caller.head().await;
        assert_eq!(caller.rest().await, "last words");
        caller.write("still here").await;
        caller.finish().await;
        assert_eq!(hears.recv().await.unwrap(), "still here");
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_exchange() {
    for way in Way::both(policy()).await {
        let _app = Listening::start(way.application(), |mut raw| async move {
            loop {
                let head = raw.head().await;
                let status = match head.contains("/426") {
                    true => "426 Upgrade Required",
                    false => "200 OK",
                };
                raw.write(format!(
                    "HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\nplain"
                ))
                .await;
            }
        })
        .await;
        let mut caller = way.caller().await;
        for asks in [
            ASKS.to_owned(),
            ASKS.replace("/chat", "/426"),
            ASKS.to_owned(),
        ] {
            caller.write(&asks).await;
            let head = caller.head().await;
            let status = if asks.contains("/426") { "426" } else { "200" };
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
            caller.until("plain").await;
        }
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn after_a_101_the_request_is_over_and_idle_governs_both_ways() {
    let mut policy = policy();
    policy.timeouts = Some(Timeouts {
        request_ms: Some(150),
        per_try_ms: Some(150),
        response_headers_ms: Some(150),
        idle_ms: Some(300),
    });
    for way in Way::both(policy).await {
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let _app = Listening::start(way.application(), move |mut raw| {
            let heard = heard.clone();
            async move {
                if raw.head().await.contains("/never") {
                    let _ = heard.send(raw.rest().await);
                    return;
                }
                raw.write(SWITCHES).await;
                for _ in 0..5 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    raw.write("x").await;
                }
                raw.write(";").await;
                let _ = heard.send(raw.rest().await);
            }
        })
        .await;
        let mut caller = way.caller().await;
        caller.write(ASKS).await;
        caller.head().await;
        // Only the application speaks, then only the caller, then nobody.
        assert_eq!(caller.until(";").await, "xxxxx;");
        for _ in 0..5 {
            caller.write("y").await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let began = Instant::now();
        assert_eq!(caller.rest().await, "");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(hears.recv().await.unwrap(), "yyyyy");
        // Before the 101 the request's own time counts.
        let mut caller = way.caller().await;
        caller.write(ASKS.replace("/chat", "/never")).await;
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 504"), "{head}");
        assert!(head.contains("x-remora-reason: timeout"), "{head}");
        assert_eq!(hears.recv().await.unwrap(), "");
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn connect_through_a_proxy_is_a_tunnel_once_it_says_so() {
    // As intercepted: the service is chosen by the address, not by the target.
    let mesh = Mesh::start().await;
    let _app = Listening::start(mesh.net.at(2), |mut raw| async move {
        let head = raw.head().await;
        if head.contains("forbidden") {
            raw.write("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
                .await;
            raw.head().await;
            raw.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext")
                .await;
            return;
        }
        assert!(
            head.starts_with("CONNECT db.example:5432 HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            raw.is_silent_for(100).await,
            "early bytes came before the 200"
        );
        raw.write("HTTP/1.1 200 OK\r\n\r\nproxied;").await;
        raw.echo().await;
    })
    .await;
    let mut caller = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    caller
        .write("CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\nearly")
        .await;
    let head = caller.head().await.to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(caller.until("early").await, "proxied;early");
    caller.finish().await;
    assert_eq!(caller.rest().await, "bye");
    let mut caller = Raw::connect(mesh.sidecar.inbound(PORT)).await;
    caller
        .write("CONNECT forbidden:1 HTTP/1.1\r\nhost: forbidden:1\r\n\r\n")
        .await;
    assert!(caller.until("no").await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn connect_passes_two_sidecars() {
    for way in Way::both(policy()).await {
        let _app = Listening::start(way.application(), |mut raw| async move {
            if raw.head().await.starts_with("GET") {
                raw.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
                raw.head().await;
            }
            raw.write("HTTP/1.1 200 OK\r\n\r\n").await;
            raw.echo().await;
        })
        .await;
        let mut caller = way.caller().await;
        // A connection that begins with CONNECT is a plain proxy's in explicit mode.
        caller
            .write("GET / HTTP/1.1\r\nhost: catalog:8080\r\n\r\n")
            .await;
        caller.until("ok").await;
        caller
            .write("CONNECT catalog:8080 HTTP/1.1\r\nhost: catalog:8080\r\n\r\n")
            .await;
        let head = caller.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        caller.write("through;").await;
        assert_eq!(caller.until(";").await, "through;");
        caller.finish().await;
        assert_eq!(caller.rest().await, "bye");
        way.nothing_is_left().await;
    }
}

fn extended() -> http::Request<()> {
    let mut head = head("CONNECT", "/chat", &[("sec-websocket-version", "13")]);
    head.extensions_mut()
        .insert(h2::ext::Protocol::from_static("websocket"));
    head
}

async fn until_offered(client: &Client) {
    // The sidecar's SETTINGS must have come before a client may ask (RFC 8441).
    eventually("an extended CONNECT is offered", async || {
        client.offers_extended_connect()
    })
    .await;
}

#[tokio::test]
async fn an_extended_connect_is_carried_where_the_upstream_offers_it() {
    let mut policy = policy();
    policy.timeouts = Some(Timeouts {
        request_ms: Some(150),
        idle_ms: Some(400),
        ..Timeouts::default()
    });
    for way in Way::both(policy).await {
        let says = Says {
            extended_connect: true,
            ..Says::default()
        };
        let app = App::start_saying(way.application(), says, |_| {
            vec![Step::Head(200, &[]), Step::Echo]
        })
        .await;
        let client = way.mesh.client2().await;
        until_offered(&client).await;
        let stream = client.begin(extended(), false).await.unwrap();
        let mut open = stream.head().await.unwrap();
        assert_eq!(open.answer.status, 200);
        for number in 0..4 {
            let text = format!("message {number}");
            open.send(text.as_bytes(), false).await;
            assert_eq!(open.text().await, text);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let request = &app.requests()[0];
        assert_eq!(
            (request.method.as_str(), request.protocol.as_str()),
            ("CONNECT", "websocket")
        );
        assert_eq!(
            (request.path.as_str(), request.authority.as_str()),
            ("/chat", "catalog:8080")
        );
        assert_eq!(request.header("sec-websocket-version"), "13");
        open.send(b"", true).await;
        assert_eq!(open.rest().await.broke, None);
        way.nothing_is_left().await;
    }
}

#[tokio::test]
async fn the_applications_half_close_of_a_connect_by_http_2_leaves_the_callers_half_open() {
    let plain = || {
        let mut head = http::Request::new(());
        *head.method_mut() = http::Method::CONNECT;
        *head.uri_mut() = "catalog:8080".parse().unwrap();
        head
    };
    for asks in [extended, plain] {
        for way in Way::both(policy()).await {
            let says = Says {
                extended_connect: true,
                ..Says::default()
            };
            let app = App::start_saying(way.application(), says, |_| {
                vec![
                    Step::Head(200, &[]),
                    Step::Data("last words"),
                    Step::Finish,
                    Step::Read,
                ]
            })
            .await;
            let client = way.mesh.client2().await;
            until_offered(&client).await;
            let stream = client.begin(asks(), false).await.unwrap();
            let mut open = stream.head().await.unwrap();
            assert_eq!(open.answer.status, 200);
            assert_eq!(open.text().await, "last words");
            open.ends().await;
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                open.send(b"still here;", false).await;
            }
            open.send(b"", true).await;
            eventually("all was heard", async || !app.requests().is_empty()).await;
            let request = &app.requests()[0];
            assert_eq!(request.body, b"still here;still here;still here;");
            assert!(request.path.is_empty() || request.path == "/chat");
            way.nothing_is_left().await;
            // And a caller that leaves such a tunnel is missed.
            let stream = client.begin(asks(), false).await.unwrap();
            let mut open = stream.head().await.unwrap();
            assert_eq!(open.text().await, "last words");
            open.ends().await;
            drop(open);
            eventually("the application is told", async || app.resets().len() == 1).await;
            way.nothing_is_left().await;
        }
    }
}

#[tokio::test]
async fn an_extended_connect_is_refused_clearly_where_the_upstream_does_not_offer_it() {
    let policy = crate::mesh::trip(|trip| trip.consecutive_failures = 1);
    for way in Way::both(policy).await {
        let app = App::start(way.application(), |_| crate::h2_app::hello()).await;
        let client = way.mesh.client2().await;
        until_offered(&client).await;
        let answer = client
            .begin(extended(), false)
            .await
            .unwrap()
            .answer()
            .await;
        assert_eq!((answer.status, answer.reason()), (400, "bad_request"));
        assert!(answer.text().contains("RFC 8441"), "{}", answer.text());
        assert_eq!(app.count(), 0);
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(way.mesh.sidecar.breaker("catalog-0").await["failures"], 0);
        way.nothing_is_left().await;
    }
}
