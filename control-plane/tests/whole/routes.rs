//! Routes from YAML to the sidecars of those whose calls they are.

use prost::Message;
use remora_proto::discovery::DeltaDiscoveryRequest;
use remora_proto::v1;
use remora_proto::well_known::SERVICE_TYPE;

use crate::client::{Plane, Sidecar, open};

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: catalog, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: catalog-v2, namespace: shop}
spec:
  clusterIP: 10.96.0.11
  ports: [{name: http, port: 8080}]
"#;

/// A route of `shop/catalog`, with what follows `rules:`.
fn route(namespace: &str, name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  parentRefs:\n\
         \x20 - {{group: \"\", kind: Service, namespace: shop, name: catalog}}\n  rules: {rules}\n"
    )
}

fn split(first: u32, second: u32) -> String {
    format!(
        "[{{backendRefs: [{{name: catalog, port: 8080, weight: {first}}}, {{name: catalog-v2, port: 8080, weight: {second}}}]}}]"
    )
}

fn weights(service: &v1::Service) -> Vec<u32> {
    let rules = service.routes.iter().flat_map(|routes| &routes.rules);
    let backends = rules.flat_map(|rule| &rule.backends);
    backends.map(|backend| backend.weight).collect()
}

async fn connect(plane: &Plane, namespace: &str) -> Sidecar {
    let id = format!("sidecar/{namespace}/web-1/web-1-uid");
    let mut sidecar = Sidecar::connect_as(plane.running.listen, id).await;
    sidecar
        .subscribe(SERVICE_TYPE, &["address/10.96.0.10"])
        .await;
    sidecar
}

/// The Service that comes next.
async fn next(sidecar: &mut Sidecar) -> v1::Service {
    let response = sidecar.take().await;
    assert_eq!(response.resources.len(), 1);
    open(&response.resources[0])
}

#[tokio::test]
async fn a_canary_is_moved_by_its_weights_and_goes_with_its_file() {
    let plane = Plane::new(&[
        ("shop.yaml", SHOP),
        ("route.yaml", &route("shop", "canary", &split(90, 10))),
    ])
    .await;
    let mut sidecar = connect(&plane, "shop").await;
    let service = next(&mut sidecar).await;
    assert_eq!(weights(&service), [90, 10]);
    assert_eq!(service.routes[0].ports, [8080]);
    assert_eq!(
        service.routes[0].rules[0]
            .route
            .as_ref()
            .unwrap()
            .generation,
        1
    );

    plane.write("route.yaml", &route("shop", "canary", &split(0, 1)));
    let service = next(&mut sidecar).await;
    assert_eq!(weights(&service), [0, 1]);
    assert_eq!(
        service.routes[0].rules[0]
            .route
            .as_ref()
            .unwrap()
            .generation,
        2
    );

    // What is broken keeps its last good version, and names its place.
    plane.write(
        "route.yaml",
        &route("shop", "canary", "[{matches: [{path: {value: no-slash}}]}]"),
    );
    let field = "spec.rules[0].matches[0].path.value";
    let problem = plane.problem(|problem| problem["field"] == field).await;
    assert_eq!(problem["object"], "HTTPRoute shop/canary");
    assert_eq!(problem["line"], 7);
    let message = problem["message"].as_str().unwrap();
    assert!(
        message.contains("the last good version stays in force"),
        "{message}"
    );
    sidecar.nothing_comes().await;

    // What is not known is said of that rule, at its parent's place.
    plane.write(
        "route.yaml",
        &route("shop", "canary", "[{}, {matches: [{method: LIST}]}]"),
    );
    let problem = plane
        .problem(|problem| problem["field"] == "spec.parentRefs[0]")
        .await;
    let message = problem["message"].as_str().unwrap();
    assert!(
        message.starts_with("UnsupportedValue: Dropped Rule 1"),
        "{message}"
    );
    assert_eq!(problem["line"], 6);
    assert_eq!(next(&mut sidecar).await.routes[0].rules.len(), 1);

    std::fs::remove_file(plane.folder.path().join("route.yaml")).unwrap();
    assert!(next(&mut sidecar).await.routes.is_empty());
}

#[tokio::test]
async fn a_consumers_routes_are_for_the_sidecars_of_its_namespace_alone() {
    let plane = Plane::new(&[
        ("shop.yaml", SHOP),
        ("route.yaml", &route("shop", "canary", &split(90, 10))),
    ])
    .await;
    let mut shop = connect(&plane, "shop").await;
    let mut team = connect(&plane, "team").await;
    assert_eq!(weights(&next(&mut shop).await), [90, 10]);
    assert_eq!(weights(&next(&mut team).await), [90, 10]);

    let own = "[{backendRefs: [{namespace: shop, name: catalog, port: 8080, weight: 7}]}]";
    plane.write("own.yaml", &route("team", "own", own));
    assert_eq!(weights(&next(&mut team).await), [7]);
    shop.nothing_comes().await;

    plane.write("route.yaml", &route("shop", "canary", &split(50, 50)));
    assert_eq!(weights(&next(&mut shop).await), [50, 50]);
    team.nothing_comes().await;

    std::fs::remove_file(plane.folder.path().join("own.yaml")).unwrap();
    assert_eq!(weights(&next(&mut team).await), [50, 50]);
    shop.nothing_comes().await;
}

#[tokio::test]
async fn a_grant_opens_a_backend_of_another_namespace() {
    let far = "[{backendRefs: [{namespace: far, name: stock, port: 80}]}]";
    let stock = "apiVersion: v1\nkind: Service\nmetadata: {name: stock, namespace: far}\n\
                 spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}\n";
    let plane = Plane::new(&[
        ("shop.yaml", SHOP),
        ("stock.yaml", stock),
        ("route.yaml", &route("shop", "far", far)),
    ])
    .await;
    let mut sidecar = connect(&plane, "shop").await;
    let cannot = |service: &v1::Service| {
        let backend = service.routes[0].rules[0].backends[0].backend.as_ref();
        backend.unwrap().cannot.clone()
    };
    assert!(cannot(&next(&mut sidecar).await).contains("ReferenceGrant in far"));
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\n\
                 metadata: {name: shop, namespace: far}\nspec:\n\
                 \x20 from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]\n\
                 \x20 to: [{group: '', kind: Service}]\n";
    plane.write("grant.yaml", grant);
    assert_eq!(cannot(&next(&mut sidecar).await), "");
    std::fs::remove_file(plane.folder.path().join("grant.yaml")).unwrap();
    assert!(!cannot(&next(&mut sidecar).await).is_empty());
}

#[tokio::test]
async fn one_route_of_a_thousand_costs_one_resource_when_it_changes() {
    let one = |number: usize, path: &str| {
        let rules = format!(
            "[{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: catalog, port: 8080}}]}}]"
        );
        route("shop", &format!("r{number}"), &rules)
    };
    let mut files = vec![("shop.yaml".to_owned(), SHOP.to_owned())];
    files.extend((0..1_000).map(|number| {
        (
            format!("r{number}.yaml"),
            one(number, &format!("/p{number}")),
        )
    }));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let plane = Plane::new(&files).await;
    let mut sidecar = connect(&plane, "shop").await;
    let first = sidecar.take().await;
    let service: v1::Service = open(&first.resources[0]);
    assert_eq!(service.routes[0].rules.len(), 1_000);
    sidecar.subscribe(SERVICE_TYPE, &["shop/catalog-v2"]).await;
    sidecar.take().await;

    plane.write("r500.yaml", &one(500, "/changed"));
    let response = sidecar.take().await;
    assert_eq!(
        (response.resources.len(), response.removed_resources.len()),
        (1, 0)
    );
    let bytes = response.encoded_len();
    println!("one of 1,000 routes changed: 1 resource, {bytes} bytes");
    assert!(bytes < 200_000, "{bytes} bytes");
    sidecar.nothing_comes().await;
}

#[tokio::test]
async fn who_comes_back_with_its_own_variant_is_sent_nothing() {
    let own = route(
        "team",
        "own",
        "[{backendRefs: [{namespace: shop, name: catalog, port: 8080, weight: 7}]}]",
    );
    let plane = Plane::new(&[("shop.yaml", SHOP), ("own.yaml", &own)]).await;
    let mut team = connect(&plane, "team").await;
    let held = team.take().await.resources.remove(0);
    let mut shop = connect(&plane, "shop").await;
    let general = shop.take().await.resources.remove(0);
    assert_ne!(held.version, general.version);
    for (version, sent) in [(held.version, 0), (general.version, 1)] {
        let id = "sidecar/team/web-1/web-1-uid".to_owned();
        let mut again = Sidecar::connect_as(plane.running.listen, id).await;
        let request = DeltaDiscoveryRequest {
            type_url: SERVICE_TYPE.to_owned(),
            resource_names_subscribe: vec!["shop/catalog".to_owned()],
            initial_resource_versions: [("shop/catalog".to_owned(), version)].into(),
            ..DeltaDiscoveryRequest::default()
        };
        again.send(request).await;
        if sent == 0 {
            again.nothing_comes().await;
        } else {
            assert_eq!(weights(&next(&mut again).await), [7]);
        }
    }
}
