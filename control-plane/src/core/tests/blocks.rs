//! What comes of admission, health checks and fallbacks; weights, and verdicts of probes.

use serde_json::json;

use super::*;
use crate::core::routes::{Grant, GrantFrom};
use crate::policy::parse;

fn written(name: &str, spec: &str) -> Object {
    let mut value: serde_json::Value = serde_saphyr::from_str(spec).unwrap();
    let fields = value.as_object_mut().unwrap();
    let target = json!([{"kind": "Service", "name": "cart"}]);
    fields.entry("targetRefs").or_insert(target);
    let parsed = parse::spec("shop", name, &value).unwrap();
    Object::TrafficPolicy(Box::new(TrafficPolicy {
        id: Id::new("shop", name),
        created: Some(1),
        generation: 1,
        scope: parsed.scope,
        settings: parsed.settings,
    }))
}

fn known(workload: &v1::Workload, port: u32) -> &v1::InboundPort {
    workload.ports.iter().find(|one| one.port == port).unwrap()
}

#[test]
fn admission_and_probes_are_of_the_services_that_cover_a_port_or_else_of_the_namespace() {
    let mut world = cart_and_web(pod);
    world.apply([
        written("cart", "{admission: {maxRequests: 5}, healthCheck: {tcp: {}}}"),
        written(
            "all",
            "{targetRefs: [{kind: Namespace, name: shop}], admission: {maxRequests: 9, adaptive: {}}}",
        ),
    ]);
    let cart = world.workload("shop/c-1");
    let port = known(&cart, 80);
    assert_eq!(port.admissions.len(), 1);
    assert_eq!(port.admissions[0].max_requests, Some(5));
    assert_eq!(
        port.admissions[0].adaptive.unwrap().min_requests,
        4,
        "from the Namespace"
    );
    assert_eq!(port.health_checks.len(), 1);
    assert_eq!(port.health_checks[0].interval_ms, 10_000);
    assert_eq!(
        cart.admission.unwrap().max_requests,
        Some(9),
        "of all other ports"
    );
    assert_eq!(cart.policies.len(), 2);
    let web = world.workload("shop/w-1");
    assert_eq!(known(&web, 80).admissions[0].max_requests, Some(9));
    assert!(known(&web, 80).health_checks.is_empty());
    let callers = world.service("shop/cart").unwrap().policy.unwrap();
    assert!(
        callers.health_check.is_some(),
        "for endpoints without a sidecar"
    );
}

fn references(world: &World) -> (&'static str, bool) {
    let conditions = world.core.conditions();
    let references = conditions[0].references.as_ref().unwrap();
    (references.reason, references.are_resolved)
}

fn cannot(world: &World) -> String {
    let policy = world.service("shop/cart").unwrap().policy.unwrap();
    match policy.fallback.unwrap().action.unwrap() {
        v1::fallback::Action::Backend(backend) => backend.cannot,
        v1::fallback::Action::Response(_) => panic!("no backend"),
    }
}

#[test]
fn a_fallback_is_in_force_as_soon_as_its_service_is_there_and_granted() {
    let mut world = cart_and_web(pod);
    let spec = "fallback: {backendRef: {name: static, namespace: other, port: 80}}";
    world.apply([written("cart", spec)]);
    assert_eq!(references(&world), ("RefNotPermitted", false));
    assert!(
        cannot(&world).contains("from TrafficPolicy of shop"),
        "{}",
        cannot(&world)
    );
    world.apply([Object::ReferenceGrant(Box::new(Grant {
        id: Id::new("other", "g"),
        from: vec![GrantFrom {
            kind: Kind::TrafficPolicy,
            namespace: "shop".into(),
        }],
        to: vec![None],
    }))]);
    assert_eq!(references(&world), ("BackendNotFound", false));
    let other = |number| {
        Object::Service(Service {
            id: Id::new("other", "static"),
            ports: vec![port("http", number, v1::Protocol::Http1)],
            ..service("static", Reach::ClusterIp(vec![ip("10.0.0.8")]))
        })
    };
    world.apply([other(81)]);
    assert!(
        cannot(&world).contains("has no port 80; it has: 81"),
        "{}",
        cannot(&world)
    );
    world.apply([other(80)]);
    assert_eq!(
        (references(&world), cannot(&world)),
        (("ResolvedRefs", true), String::new())
    );
    let conditions = world.core.conditions();
    assert!(
        conditions[0].accepted,
        "the rest of a policy does not wait for it"
    );
}

#[test]
fn a_service_is_no_fallback_of_its_own() {
    let mut world = cart_and_web(pod);
    world.apply([written(
        "all",
        "{targetRefs: [{kind: Namespace, name: shop}], fallback: {backendRef: {name: cart, port: 80}}}",
    )]);
    assert!(cannot(&world).contains("itself"), "{}", cannot(&world));
    let web = world.service("shop/web").unwrap().policy.unwrap();
    let Some(v1::fallback::Action::Backend(backend)) = web.fallback.unwrap().action else {
        panic!("no backend");
    };
    assert_eq!(backend.cannot, "", "of others it is one");
}

#[test]
fn a_status_shows_what_is_in_force_with_the_policy_that_says_so() {
    let mut world = cart_and_web(pod);
    world.apply([
        written("cart", "retries: {attempts: 2, hedge: {}}"),
        written(
            "all",
            "{targetRefs: [{kind: Namespace, name: shop}], retries: {bufferBytes: 1024}}",
        ),
    ]);
    let conditions = world.core.conditions();
    let of = |policy: &str, field: &str| {
        let mut conditions = conditions.iter();
        let condition = conditions.find(|one| *one.policy.name == *policy).unwrap();
        let mut fields = condition.effective.iter();
        let found = fields.find(|one| one.field == field).unwrap();
        (found.value.clone(), found.from.clone())
    };
    let some = |value: &str, from: &str| (value.to_owned(), Some(from.to_owned()));
    assert_eq!(of("cart", "retries.attempts"), some("2", "cart"));
    assert_eq!(of("cart", "retries.bufferBytes"), some("1024", "all"));
    assert_eq!(of("cart", "retries.hedge.after"), ("p95".to_owned(), None));
    assert_eq!(of("all", "retries.attempts"), ("0".to_owned(), None));
}

#[test]
fn a_verdict_is_of_one_pod_and_port_and_goes_with_the_pod() {
    let mut world = cart_and_web(pod);
    let health = |uid: &str, port: u16| {
        Event::Health(PodHealth {
            id: Id::new("shop", "c-1"),
            uid: uid.into(),
            ports: [(port, v1::Health::Unhealthy)].into(),
        })
    };
    let told = |world: &World| {
        world
            .endpoint("shop/cart/80/c-1-uid")
            .map(|one| one.health())
    };
    let target = world.endpoint("shop/cart/80/c-1-uid").unwrap().target_port;
    let target = u16::try_from(target).unwrap();
    world.core.handle([health("another", target)]);
    assert_eq!(told(&world), Some(v1::Health::Unknown));
    world.core.handle([health("c-1-uid", target + 1)]);
    assert_eq!(told(&world), Some(v1::Health::Unknown));
    world.core.handle([health("c-1-uid", target)]);
    assert_eq!(told(&world), Some(v1::Health::Unhealthy));
    world.delete(Kind::Pod, "c-1");
    world.apply([Object::Pod(pod("c-1", "cart", "10.1.0.1"))]);
    assert_eq!(told(&world), Some(v1::Health::Unknown));
}

#[test]
fn weights_are_from_1_to_1000_and_a_wrong_one_is_told_and_counts_as_1() {
    for (text, counts, is_wrong) in [
        ("7", 7, false),
        ("1000", 1_000, false),
        ("0", 1, true),
        ("1001", 1, true),
        ("+5", 1, true),
        ("many", 1, true),
    ] {
        let mut world = cart_and_web(pod);
        let weight = Weight::read(text);
        world.apply([Object::Pod(Pod {
            weight,
            ..pod("c-1", "cart", "10.1.0.1")
        })]);
        let endpoint = world.endpoint("shop/cart/80/c-1-uid").unwrap();
        let notes = world.core.notes();
        let told = notes
            .iter()
            .any(|note| note.field.ends_with("remora.io/weight"));
        assert_eq!((endpoint.weight, told), (counts, is_wrong), "{text}");
    }
}
