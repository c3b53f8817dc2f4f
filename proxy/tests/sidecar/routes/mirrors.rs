//! Mirrors: whatever becomes of a copy, the caller sees nothing of it.

use std::time::{Duration, Instant};

use remora_proto::v1::Mirror;
use remora_proto::v1::route_filter::Filter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{Change, reference, set, to};
use crate::eventually;
use crate::mesh::{Mesh, limits};
use crate::upstream::{App, Reply, status};

fn mirror(service: &str, numerator: u32, denominator: u32) -> Filter {
    Filter::Mirror(Mirror {
        backend: Some(reference(service)),
        denominator,
        numerator,
    })
}

async fn counted(mesh: &Mesh, result: &str) -> u64 {
    let label = format!("result=\"{result}\"");
    mesh.sidecar
        .counter("remora_route_mirrored_total", &label)
        .await
}

#[tokio::test]
async fn each_mirror_gets_its_share_with_the_body_as_the_filters_before_it_made_it() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    let all = mesh.version("all", 11).await;
    let tenth = mesh.version("tenth", 12).await;
    mesh.routes(vec![
        to("v1")
            .filter(Filter::RequestHeaders(set(&[("x-before", "1")])))
            .filter(mirror("all", 1, 1))
            .filter(mirror("tenth", 10, 100))
            .filter(Filter::RequestHeaders(set(&[("x-after", "1")]))),
    ]);
    let mut client = mesh.client().await;
    for number in 0..300 {
        let body = format!("body {number}");
        let answer = client.post("catalog:8080", "/a?b", &body).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    }
    eventually("all are mirrored", async || all.count() == 300).await;
    assert!((8..=60).contains(&tenth.count()), "{}", tenth.count());
    let copy = &all.requests()[0];
    assert_eq!((copy.method.as_str(), copy.path.as_str()), ("POST", "/a?b"));
    assert_eq!((copy.header("x-before"), copy.header("x-after")), ("1", ""));
    assert_eq!(copy.header("host"), "catalog:8080");
    let mut bodies: Vec<_> = all.requests().into_iter().map(|it| it.body).collect();
    let mut sent: Vec<_> = app.requests().into_iter().map(|it| it.body).collect();
    bodies.sort();
    sent.sort();
    assert_eq!(bodies, sent);
    eventually("they are counted", async || {
        counted(&mesh, "answered").await >= 300
    })
    .await;
    let labels = "backend=\"shop/all:8080\",class";
    let counter = mesh
        .sidecar
        .counter("remora_route_requests_total", labels)
        .await;
    assert_eq!(counter, 0, "a mirror is no request");
}

#[tokio::test]
async fn a_mirror_that_hangs_fails_is_slow_or_is_not_there_changes_nothing() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    let hanging = App::start(mesh.net.at(11), |_| Reply::Never).await;
    mesh.serve("hanging", &hanging);
    let slow = App::start(mesh.net.at(12), |_| status(200).after_ms(500)).await;
    mesh.serve("slow", &slow);
    let failing = App::start(mesh.net.at(13), |it| match it.number % 3 {
        0 => Reply::Reset,
        1 => Reply::ResetInBody,
        _ => status(500),
    })
    .await;
    mesh.serve("failing", &failing);
    let refused = mesh.version("full", 14).await;
    mesh.service("full", limits(|limits| limits.max_requests = Some(0)));
    // Nobody listens there.
    mesh.endpoint("dead", 0, mesh.net.at(15), |_| ());
    mesh.service("dead", crate::mesh::policy());
    let mirrors = ["hanging", "slow", "failing", "full", "dead", "unknown"];
    let rule = mirrors
        .iter()
        .fold(to("v1"), |rule, name| rule.filter(mirror(name, 1, 1)));
    mesh.routes(vec![rule]);
    let mut client = mesh.client().await;
    // What is not known is waited for by the mirror alone.
    let began = Instant::now();
    for _ in 0..200 {
        let answer = client.post("catalog:8080", "/", "body").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    }
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    assert_eq!((app.count(), refused.count()), (200, 0));
    assert!(app.requests().iter().all(|it| it.body == b"body"));
    // No more than so many are under way.
    assert!(hanging.count() <= 128, "{}", hanging.count());
    eventually("what failed is counted", async || {
        counted(&mesh, "failed").await > 0 && counted(&mesh, "dropped").await > 0
    })
    .await;
    // And no breaker or limit of the caller's heard of it.
    let stats = mesh.sidecar.outbound_stats().await;
    assert_eq!(
        (&stats["failures"], &stats["in_flight"]),
        (&0.into(), &0.into())
    );
}

#[tokio::test]
async fn a_mirror_that_reads_nothing_holds_neither_the_body_nor_memory() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    // Takes connections and never reads from them.
    let deaf = tokio::net::TcpListener::bind(mesh.net.at(11))
        .await
        .unwrap();
    mesh.endpoint("deaf", 0, deaf.local_addr().unwrap(), |_| ());
    mesh.service("deaf", crate::mesh::policy());
    mesh.routes(vec![to("v1").filter(mirror("deaf", 1, 1))]);
    let mut client = mesh.client().await;
    let body = "x".repeat(8 * 1024 * 1024);
    client.post("catalog:8080", "/", "first").await;
    let before = mesh.sidecar.process().resident();
    for _ in 0..8 {
        let began = Instant::now();
        let answer = client.post("catalog:8080", "/", &body).await;
        assert_eq!(answer.status, 200);
        assert!(began.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(app.requests().last().unwrap().body.len(), body.len());
    let after = mesh.sidecar.process().resident();
    assert!(after < before + 16 * 1024 * 1024, "{before} -> {after}");
    eventually("it is given up", async || {
        counted(&mesh, "lagged").await >= 8
    })
    .await;
}

#[tokio::test]
async fn of_an_answer_that_never_ends_a_mirror_reads_no_more_than_a_little() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    let endless = tokio::net::TcpListener::bind(mesh.net.at(11))
        .await
        .unwrap();
    mesh.endpoint("endless", 0, endless.local_addr().unwrap(), |_| ());
    mesh.service("endless", crate::mesh::policy());
    tokio::spawn(async move {
        loop {
            let (mut caller, _) = endless.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = caller.read(&mut request).await;
                let head = b"HTTP/1.1 200 OK\r\n\r\n";
                let mut written = caller.write_all(head).await;
                while written.is_ok() {
                    written = caller.write_all(&[b'x'; 64 * 1024]).await;
                }
            });
        }
    });
    mesh.routes(vec![to("v1").filter(mirror("endless", 1, 1))]);
    let mut client = mesh.client().await;
    for _ in 0..4 {
        assert_eq!(client.post("catalog:8080", "/", "body").await.status, 200);
    }
    assert_eq!(app.count(), 4);
    eventually("no more is read", async || {
        counted(&mesh, "answered").await == 4
    })
    .await;
}

#[tokio::test]
async fn a_grpc_call_is_mirrored_with_its_messages() {
    use crate::h2_app::{App, MESSAGE, grpc};
    let mesh = Mesh::start().await;
    let ok: &[(&str, &str)] = &[("grpc-status", "0")];
    let app = App::start(mesh.net.at(10), |_| grpc(ok)).await;
    let copy = App::start(mesh.net.at(11), |_| grpc(ok)).await;
    for (name, app) in [("v1", &app), ("copy", &copy)] {
        mesh.endpoint(name, 0, app.address(), |_| ());
        mesh.service(name, crate::mesh::policy());
    }
    mesh.routes(vec![to("v1").filter(mirror("copy", 1, 1))]);
    let client = mesh.client2().await;
    let answer = client.call("/a.Echo/Say", &[]).await;
    assert_eq!(
        (answer.grpc_status(), answer.text().as_str()),
        ("0", MESSAGE)
    );
    eventually("it is mirrored", async || copy.count() == 1).await;
    assert_eq!(copy.requests()[0].body, MESSAGE.as_bytes());
    eventually("it is counted", async || {
        counted(&mesh, "answered").await == 1
    })
    .await;
}
