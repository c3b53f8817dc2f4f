//! CORS: preflights are answered here, and answers say who may read them.

use remora_proto::v1::Cors;
use remora_proto::v1::route_filter::Filter;

use super::stage::{Change, to};
use crate::mesh::Mesh;
use crate::upstream::{App, status};

fn cors() -> Cors {
    Cors {
        allow_origins: vec!["https://www.foo.com".into(), "https://*.bar.com".into()],
        allow_credentials: true,
        allow_methods: vec!["GET".into(), "OPTIONS".into()],
        allow_headers: vec!["x-header-1".into(), "x-header-2".into()],
        expose_headers: vec!["x-header-3".into()],
        max_age_seconds: 3600,
    }
}

const PREFLIGHT: &str =
    "access-control-request-method: GET\r\naccess-control-request-headers: x-header-1\r\n";

#[tokio::test]
async fn a_preflight_is_answered_here_and_the_backend_hears_nothing_of_it() {
    let mesh = Mesh::start().await;
    let app = mesh.version("v1", 10).await;
    mesh.routes(vec![to("v1").filter(Filter::Cors(cors()))]);
    let mut client = mesh.client().await;
    for (origin, allowed) in [
        ("https://www.foo.com", true),
        ("https://a.b.bar.com", true),
        ("https://evil.com", false),
    ] {
        let headers = format!("Origin: {origin}\r\n{PREFLIGHT}");
        let answer = client
            .request("OPTIONS", "catalog:8080", "/a", &headers, "")
            .await;
        assert_eq!((answer.status, answer.reason()), (204, "cors"));
        let told = ["origin", "methods", "headers", "credentials"].map(|what| {
            answer
                .header(&format!("access-control-allow-{what}"))
                .to_owned()
        });
        let expected = [origin, "GET, OPTIONS", "x-header-1, x-header-2", "true"];
        let expected = if allowed { expected } else { [""; 4] };
        assert_eq!(told, expected, "{origin}");
        let age = if allowed { "3600" } else { "" };
        assert_eq!(answer.header("access-control-max-age"), age);
    }
    assert_eq!(app.count(), 0);
}

#[tokio::test]
async fn every_answer_says_who_may_read_it_ours_too() {
    let mesh = Mesh::start().await;
    let app = App::start(mesh.net.at(10), |_| {
        status(200).header("access-control-allow-origin", "*")
    })
    .await;
    mesh.serve("v1", &app);
    mesh.routes(vec![to("v1").filter(Filter::Cors(cors()))]);
    let mut client = mesh.client().await;
    let headers = "origin: https://www.foo.com\r\n";
    for gone in [false, true] {
        if gone {
            mesh.remove_endpoint("v1", 0);
            crate::eventually("the endpoint is gone", async || {
                mesh.get("/").await.status == 503
            })
            .await;
        }
        let answer = client
            .request("GET", "catalog:8080", "/", headers, "")
            .await;
        assert_eq!(answer.status, if gone { 503 } else { 200 });
        let origins: Vec<_> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "access-control-allow-origin")
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(origins, ["https://www.foo.com"]);
        assert_eq!(answer.header("access-control-expose-headers"), "x-header-3");
        assert_eq!(answer.header("access-control-max-age"), "");
        assert_eq!(answer.header("vary"), "origin");
    }
}
