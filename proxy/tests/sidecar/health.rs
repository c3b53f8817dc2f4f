//! Probes: of the pod's own application, and of endpoints without a sidecar.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use remora_proto::v1::{self, Health, health_check::Kind};

use crate::eventually;
use crate::h2_app::{self, GRPC, Step};
use crate::mesh::{Mesh, PORT, policy};
use crate::upstream::{App, status};

fn check(kind: Kind) -> v1::HealthCheck {
    v1::HealthCheck {
        kind: Some(kind),
        interval_ms: 100,
        timeout_ms: 100,
        window: 3,
        unhealthy_threshold: 2,
        healthy_threshold: 1,
    }
}

fn http(path: &str) -> Kind {
    Kind::Http(v1::HttpCheck {
        path: path.into(),
        expected_statuses: Vec::new(),
        expected_body: "hello".into(),
    })
}

fn last_report(mesh: &Mesh, port: u16) -> Option<(Health, String)> {
    let reports = mesh.control.reports();
    let mut told = reports.iter().rev().flat_map(|report| &report.health);
    let told = told.find(|told| told.port == u32::from(port))?;
    Some((told.health(), told.detail.clone()))
}

#[tokio::test]
async fn the_own_application_is_probed_and_each_change_is_reported() {
    let mesh = Mesh::start().await;
    mesh.workload(|workload| {
        workload.ports = vec![v1::InboundPort {
            port: PORT.into(),
            health_checks: vec![check(http("/healthz"))],
            ..v1::InboundPort::default()
        }];
    });
    eventually("nobody listens", async || {
        last_report(&mesh, PORT).is_some_and(|(health, _)| health == Health::Unhealthy)
    })
    .await;
    let app = App::ok(mesh.net.at(2)).await;
    eventually("it is well", async || {
        last_report(&mesh, PORT).is_some_and(|(health, _)| health == Health::Healthy)
    })
    .await;
    assert_eq!(app.requests()[0].path, "/healthz");
    assert_eq!(
        mesh.sidecar.json("/health").await["ports"][0]["health"],
        "healthy"
    );
    drop(app);
    let _bad = App::start(mesh.net.at(2), |_| status(500)).await;
    eventually("its status is wrong", async || {
        last_report(&mesh, PORT) == Some((Health::Unhealthy, "status 500".into()))
    })
    .await;
    mesh.workload(|_| ());
    eventually("it is not probed any more", async || {
        last_report(&mesh, PORT).is_some_and(|(health, _)| health == Health::Unknown)
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_its_sidecar_calls_unhealthy_is_taken_while_no_other_serves() {
    let mesh = Mesh::start().await;
    let (well, ill) = (
        App::ok(mesh.net.at(10)).await,
        App::ok(mesh.net.at(11)).await,
    );
    mesh.catalog(policy(), &[well.address(), ill.address()]);
    mesh.endpoint("catalog", 1, ill.address(), |endpoint| {
        endpoint.sidecar = true;
        endpoint.health = Health::Unhealthy.into();
    });
    for _ in 0..30 {
        assert_eq!(mesh.get("/").await.status, 200);
    }
    assert_eq!((well.count(), ill.count()), (30, 0));
    mesh.remove_endpoint("catalog", 0);
    eventually("the other is taken, ill as it is", async || {
        mesh.get("/").await.status == 200 && ill.count() > 0
    })
    .await;
}

#[tokio::test]
async fn endpoints_without_a_sidecar_are_probed_by_their_caller_alone() {
    let mesh = Mesh::start().await;
    let well = App::ok(mesh.net.at(10)).await;
    let ill = App::start(mesh.net.at(11), |request| match request.path.as_str() {
        "/healthz" => status(503),
        _ => status(200),
    })
    .await;
    let mut probed = policy();
    probed.health_check = Some(check(http("/healthz")));
    mesh.catalog(probed, &[well.address(), ill.address()]);
    mesh.get("/").await;
    eventually("the verdict is there", async || {
        let seen = mesh.sidecar.breaker("catalog-1").await;
        seen["health"] == "unhealthy"
    })
    .await;
    let calls = |app: &App| app.requests().iter().filter(|it| it.path == "/").count();
    let before = calls(&ill);
    for _ in 0..30 {
        mesh.get("/").await;
    }
    assert_eq!(calls(&ill), before);
    assert_eq!(mesh.sidecar.breaker("catalog-1").await["state"], "closed");
    mesh.service("catalog", policy());
    eventually("without a check it is as any other", async || {
        mesh.sidecar.breaker("catalog-1").await["health"] == "unknown"
    })
    .await;
}

/// What the pod's own sidecar says once `kind` is asked of it.
async fn is_told(mesh: &Mesh, kind: Kind, health: Health, detail: &str) {
    mesh.workload(|workload| {
        workload.ports = vec![v1::InboundPort {
            port: PORT.into(),
            health_checks: vec![check(kind)],
            ..v1::InboundPort::default()
        }];
    });
    eventually("the verdict is told", async || {
        last_report(mesh, PORT).is_some_and(|(told, why)| told == health && why.contains(detail))
    })
    .await;
}

#[tokio::test]
async fn a_tcp_probe_wants_a_connection_alone() {
    let mesh = Mesh::start().await;
    let tcp = || Kind::Tcp(v1::TcpCheck::default());
    is_told(&mesh, tcp(), Health::Unhealthy, "").await;
    let app = App::start(mesh.net.at(2), |_| status(500)).await;
    is_told(&mesh, tcp(), Health::Healthy, "").await;
    assert!(app.accepted() > 0);
    assert_eq!(app.count(), 0, "nothing was asked");
}

#[tokio::test]
async fn a_probe_looks_for_the_expected_body() {
    let mesh = Mesh::start().await;
    let _app = App::start(mesh.net.at(2), |request| match request.path.as_str() {
        "/well" => status(200).body("all is hello here"),
        _ => status(200).body("goodbye"),
    })
    .await;
    is_told(&mesh, http("/ill"), Health::Unhealthy, "expectedBody").await;
    is_told(&mesh, http("/well"), Health::Healthy, "").await;
}

/// `HealthCheckResponse`s: SERVING, NOT_SERVING, and one without its status.
const SAID: [&str; 3] = ["\0\0\0\0\x02\x08\x01", "\0\0\0\0\x02\x08\x02", "\0\0\0\0\0"];

#[tokio::test]
async fn a_grpc_probe_wants_serving_of_the_service_that_it_names() {
    let mesh = Mesh::start().await;
    let stage = Arc::new(AtomicUsize::new(0));
    let said = Arc::clone(&stage);
    let app = h2_app::App::start(mesh.net.at(2), move |_| {
        let (ok, not_found) = (&[("grpc-status", "0")], &[("grpc-status", "5")]);
        match (said.load(Relaxed), SAID.get(said.load(Relaxed))) {
            (_, Some(said)) => vec![
                Step::Read,
                Step::Head(200, GRPC),
                Step::Data(said),
                Step::Trailers(ok),
            ],
            (3, None) => vec![Step::Read, Step::HeadAlone(200, not_found)],
            _ => vec![Step::Never],
        }
    })
    .await;
    let of_catalog = || {
        Kind::Grpc(v1::GrpcCheck {
            service: "shop.Catalog".into(),
        })
    };
    let well = async |mesh: &Mesh| {
        stage.store(0, Relaxed);
        is_told(mesh, of_catalog(), Health::Healthy, "").await;
    };
    well(&mesh).await;
    let asked = &app.requests()[0];
    assert_eq!(asked.path, "/grpc.health.v1.Health/Check");
    assert_eq!(
        (asked.header("content-type"), asked.header("te")),
        ("application/grpc", "trailers")
    );
    assert_eq!(asked.body, b"\0\0\0\0\x0e\x0a\x0cshop.Catalog");
    for (number, why) in [
        (1, "not SERVING"),
        (2, "not SERVING"),
        (3, "not SERVING"),
        (4, "no answer within 100 ms"),
    ] {
        stage.store(number, Relaxed);
        is_told(&mesh, of_catalog(), Health::Unhealthy, why).await;
        well(&mesh).await;
    }
    assert_eq!(app.in_flight(), 0, "what was given up is let go of");
}
