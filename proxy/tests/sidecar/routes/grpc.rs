//! GRPCRoutes: by service and method, and answered in gRPC's own words.

use remora_proto::v1::{
    GrpcMethod, PortRoutes, RouteMatch, RouteRule, ServicePort, grpc_method, route_match,
};

use super::stage::{Change, exactly, path, to};
use crate::h2_app::{App, grpc};
use crate::mesh::{Mesh, PORT};

const OK: &[(&str, &str)] = &[("grpc-status", "0")];

fn call(service: Option<&str>, method: Option<&str>) -> RouteMatch {
    path(route_match::Path::GrpcMethod(GrpcMethod {
        service: service.map(|it| grpc_method::Service::ServiceExact(it.into())),
        method: method.map(|it| grpc_method::Method::MethodExact(it.into())),
    }))
}

fn of_pattern(service: &str) -> RouteMatch {
    path(route_match::Path::GrpcMethod(GrpcMethod {
        service: Some(grpc_method::Service::ServicePattern(service.into())),
        method: None,
    }))
}

fn put(mesh: &Mesh, rules: Vec<RouteRule>) {
    mesh.service_with("catalog", |service| {
        service.ports = vec![ServicePort {
            port: PORT.into(),
            name: "grpc".into(),
            protocol: remora_proto::v1::Protocol::Grpc.into(),
        }];
        let rules = rules.into_iter().enumerate().map(|(at, mut rule)| {
            let route = rule.route.as_mut().unwrap();
            (route.kind, route.rule) = ("GRPCRoute".into(), at as u32);
            rule
        });
        service.routes = vec![PortRoutes {
            ports: vec![PORT.into()],
            grpc: true,
            rules: rules.collect(),
        }];
    });
}

async fn version(mesh: &Mesh, name: &str, host: u8) -> App {
    let app = App::start(mesh.net.at(host), |_| grpc(OK)).await;
    mesh.endpoint(name, 0, app.address(), |_| ());
    mesh.service(name, crate::mesh::policy());
    app
}

#[tokio::test]
async fn calls_go_by_service_method_and_headers() {
    let mesh = Mesh::start().await;
    let mut apps = Vec::new();
    for (name, host) in [
        ("both", 10),
        ("service", 11),
        ("method", 12),
        ("form", 13),
        ("header", 14),
    ] {
        apps.push((name, version(&mesh, name, host).await));
    }
    let mut with_header = call(Some("a.Echo"), Some("Say"));
    with_header.headers = vec![exactly("x-user", "me")];
    put(
        &mesh,
        vec![
            to("form").when(of_pattern("a\\..*")),
            to("method").when(call(None, Some("Say"))),
            to("service").when(call(Some("a.Echo"), None)),
            to("both").when(call(Some("a.Echo"), Some("Say"))),
            to("header").when(with_header),
        ],
    );
    let client = mesh.client2().await;
    for (path, headers, expected) in [
        ("/a.Echo/Say", &[][..], "both"),
        ("/a.Echo/Say", &[("x-user", "me")][..], "header"),
        ("/a.Echo/Sing", &[], "service"),
        ("/b.Echo/Say", &[], "method"),
        ("/a.Other/Sing", &[], "form"),
    ] {
        let before: Vec<usize> = apps.iter().map(|(_, app)| app.count()).collect();
        assert_eq!(client.call(path, headers).await.grpc_status(), "0");
        for ((name, app), before) in apps.iter().zip(before) {
            assert_eq!(
                app.count() - before,
                usize::from(*name == expected),
                "{path} at {name}"
            );
        }
    }
    let answer = client.call("/b.Other/Sing", &[]).await;
    answer.assert_refused_call("12", "no_route");
}

#[tokio::test]
async fn what_a_route_refuses_is_trailers_only() {
    let mesh = Mesh::start().await;
    let mut cannot = to("gone");
    cannot.backends[0].backend.as_mut().unwrap().cannot = "there is none".into();
    put(&mesh, vec![cannot]);
    let client = mesh.client2().await;
    let answer = client.call("/a.Echo/Say", &[]).await;
    answer.assert_refused_call("14", "no_backend");
    // Whatever it sent: on this port everything is gRPC.
    let answer = client.get("/a.Echo/Say").await;
    answer.assert_refused_call("14", "no_backend");
}
