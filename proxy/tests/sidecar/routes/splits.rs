//! Shares by weight.

use super::stage::{Change, backend, prefix, rule, to};
use crate::mesh::Mesh;
use remora_proto::v1::RouteRule;

fn split(weights: &[(&str, u32)]) -> RouteRule {
    RouteRule {
        backends: weights
            .iter()
            .map(|(service, weight)| backend(service, *weight))
            .collect(),
        ..rule("split")
    }
}

#[tokio::test]
async fn ninety_to_ten_holds_within_one_and_a_half_points_over_ten_thousand() {
    let mesh = Mesh::start().await;
    let (one, two) = (mesh.version("v1", 10).await, mesh.version("v2", 11).await);
    mesh.routes(vec![split(&[("v1", 90), ("v2", 10)])]);
    let mut client = mesh.client().await;
    for _ in 0..10_000 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    }
    assert_eq!(one.count() + two.count(), 10_000);
    assert!((850..=1_150).contains(&two.count()), "{}", two.count());
    let labels = "route=\"shop/canary\",rule=\"split\",backend=\"shop/v2:8080\",class=\"2xx\"";
    let counted = mesh
        .sidecar
        .counter("remora_route_requests_total", labels)
        .await;
    assert_eq!(counted as usize, two.count());
}

#[tokio::test]
async fn a_weight_of_zero_gets_not_one_request_more_once_it_is_in_force() {
    let mesh = Mesh::start().await;
    let (one, two) = (mesh.version("v1", 10).await, mesh.version("v2", 11).await);
    mesh.routes(vec![split(&[("v1", 50), ("v2", 50)])]);
    let mut client = mesh.client().await;
    while one.count() < 20 || two.count() < 20 {
        client.get("catalog:8080", "/").await;
    }
    mesh.change_routes(vec![split(&[("v1", 0), ("v2", 50)])])
        .await;
    let before = one.count();
    for _ in 0..1_000 {
        assert_eq!(client.get("catalog:8080", "/").await.status, 200);
    }
    assert_eq!(one.count(), before, "not one more");
    mesh.change_routes(vec![split(&[("v1", 0), ("v2", 0)])])
        .await;
    let answer = client.get("catalog:8080", "/").await;
    assert_eq!((answer.status, answer.reason()), (500, "no_backend"));
}

#[tokio::test]
async fn a_backend_that_cannot_be_taken_answers_500_by_its_share() {
    let mesh = Mesh::start().await;
    let good = mesh.version("v1", 10).await;
    let mut rule = split(&[("v1", 1), ("gone", 1)]);
    let gone = rule.backends[1].backend.as_mut().unwrap();
    gone.cannot = "there is no Service shop/gone".into();
    mesh.routes(vec![rule]);
    let mut client = mesh.client().await;
    let mut refused = 0;
    for _ in 0..400 {
        let answer = client.get("catalog:8080", "/").await;
        if answer.status == 500 {
            assert_eq!(answer.reason(), "no_backend");
            assert!(
                answer.text().contains("there is no Service shop/gone"),
                "{}",
                answer.text()
            );
            refused += 1;
        } else {
            assert_eq!(answer.status, 200);
        }
    }
    assert!((140..=260).contains(&refused), "{refused}");
    assert_eq!(good.count() + refused, 400);
}

#[tokio::test]
async fn the_services_own_endpoints_are_a_backend_like_others() {
    let mesh = Mesh::start().await;
    let own = mesh.version("catalog", 10).await;
    let other = mesh.version("v2", 11).await;
    mesh.routes(vec![to("catalog"), to("v2").when(prefix("/new"))]);
    assert_eq!(mesh.get("/a").await.status, 200);
    assert_eq!(mesh.get("/new/a").await.status, 200);
    assert_eq!((own.count(), other.count()), (1, 1));
    // Its own name directly, and another by its own: no routes are followed there.
    assert_eq!(mesh.client().await.get("v2:8080", "/x").await.status, 200);
    assert_eq!((own.count(), other.count()), (1, 2));
}
