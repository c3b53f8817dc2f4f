//! Routes of other namespaces than their parent's.

use super::*;

fn consumer(namespace: &str, name: &str, rule: &str) -> Object {
    let spec = format!(
        "{{parentRefs: [{{group: '', kind: Service, namespace: shop, name: web}}], rules: [{rule}]}}"
    );
    as_route(route_in(namespace, RouteKind::Http, name, 1, &spec))
}

/// To the parent itself: no grant is needed.
const TO_WEB: &str = "{backendRefs: [{name: web, namespace: shop, port: 80}]}";

impl World {
    fn routes_for(&self, namespace: &str) -> Vec<(Vec<u32>, Vec<String>)> {
        let service = ResourceType::Service;
        let held = self.store.find_for(service, "shop/web", namespace).unwrap();
        let by_alias = self.store.find_for(service, "address/10.0.0.2", namespace);
        assert_eq!(by_alias.unwrap(), held);
        shown(&held.open::<v1::Service>().unwrap().routes)
    }
}

fn named(name: &str) -> Vec<(Vec<u32>, Vec<String>)> {
    vec![(vec![80], vec![name.to_owned()])]
}

#[test]
fn a_namespaces_own_routes_take_the_place_of_the_services_for_its_callers_alone() {
    let mut world = shop([
        http("producer", 1, TO_CART),
        consumer("team", "consumer", TO_WEB),
    ]);
    assert_eq!(world.routes_for("team"), named("consumer"));
    assert_eq!(world.routes_for("shop"), named("producer"));
    assert_eq!(world.routes_for("other"), named("producer"));
    let id = route_id(RouteKind::Http, "team", "consumer");
    let accepted = world.condition(&id, ACCEPTED).unwrap();
    assert!(accepted.status && accepted.message.contains("callers of Namespace team"));
    assert!(
        world.condition(&id, RESOLVED_REFS).unwrap().status,
        "a parent needs no grant"
    );
    world.core.handle([Event::Delete(Key {
        kind: Kind::HttpRoute,
        id: Id::new("team", "consumer"),
    })]);
    assert_eq!(world.routes_for("team"), named("producer"));
}

#[test]
fn a_parent_needs_no_grant_for_its_own_calls_but_for_those_to_another_parent() {
    let spec = "{parentRefs: [{group: '', kind: Service, name: bait}, {group: '', kind: Service, namespace: shop, name: web}], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}";
    let mut bait = service("bait", Reach::ClusterIp(vec![ip("10.0.0.9")]));
    bait.id = Id::new("team", "bait");
    let world = shop([
        Object::Service(bait),
        as_route(route_in("team", RouteKind::Http, "hook", 1, spec)),
    ]);
    let of = |service: &str| {
        let held = world
            .store
            .find_for(ResourceType::Service, service, "team")
            .unwrap();
        let routes = held.open::<v1::Service>().unwrap().routes;
        let backend = routes[0].rules[0].backends[0].backend.clone();
        backend.unwrap().cannot
    };
    // Else team could send to web whoever calls bait, with a path of team's choice.
    assert!(
        of("team/bait").contains("ReferenceGrant"),
        "{}",
        of("team/bait")
    );
    assert_eq!(of("shop/web"), "");
    let verdicts = world.core.route_verdicts();
    let reasons = verdicts[&route_id(RouteKind::Http, "team", "hook")]
        .parents
        .iter()
        .map(|parent| {
            let mut conditions = parent.conditions.iter();
            conditions
                .find(|one| one.kind == RESOLVED_REFS)
                .unwrap()
                .reason
        });
    let reasons: Vec<_> = reasons.collect();
    assert_eq!(reasons, ["RefNotPermitted", "ResolvedRefs"]);
}

#[test]
fn all_ports_of_the_service_go_by_the_consumers_routes() {
    let spec = "{parentRefs: [{group: '', kind: Service, namespace: shop, name: web, port: 81}], rules: [{}]}";
    let world = shop([
        two_ports(),
        http("producer", 1, TO_CART),
        as_route(route_in("team", RouteKind::Http, "consumer", 1, spec)),
    ]);
    assert_eq!(
        world.routes_for("team"),
        [(vec![81], vec!["consumer".to_owned()])]
    );
    assert_eq!(
        world.routes_for("shop"),
        [(vec![80, 81], vec!["producer".to_owned()])]
    );
}

#[test]
fn a_consumers_route_that_is_not_taken_takes_no_place() {
    let world = shop([
        http("producer", 1, TO_CART),
        consumer("team", "broken", "{matches: [{method: NONSENSE}]}"),
    ]);
    assert_eq!(world.routes_for("team"), named("producer"));
}

#[test]
fn only_those_are_woken_whose_own_variant_changed() {
    let mut world = shop([
        http("producer", 1, TO_CART),
        consumer("team", "consumer", TO_WEB),
    ]);
    let watch = |world: &World, namespace: &str, name: &str| {
        let mailbox = Arc::new(Mailbox::of(namespace));
        let service = ResourceType::Service;
        world.store.watch(service, &name.into(), &mailbox);
        mailbox
    };
    let team = watch(&world, "team", "shop/web");
    let shop = watch(&world, "shop", "shop/web");
    let other = watch(&world, "other", "address/10.0.0.2");
    let woken = || [&team, &shop, &other].map(|mailbox| mailbox.take().len());
    world.apply([http(
        "producer",
        1,
        "{backendRefs: [{name: cart, port: 80, weight: 2}]}",
    )]);
    assert_eq!(woken(), [0, 1, 1]);
    world.apply([consumer("team", "consumer", "{}")]);
    assert_eq!(woken(), [1, 0, 0]);
    world.apply([consumer("other", "own", "{}")]);
    assert_eq!(woken(), [0, 0, 1]);
    world.core.handle([Event::Delete(Key {
        kind: Kind::HttpRoute,
        id: Id::new("other", "own"),
    })]);
    assert_eq!(woken(), [0, 0, 1]);
    // What is about the Service itself is for all.
    world.apply([cluster_ip("web", &["10.0.0.2", "10.0.0.3"])]);
    assert_eq!(woken(), [1, 1, 1]);
    world.delete(Kind::Service, "web");
    assert_eq!(woken(), [1, 1, 1]);
}

#[test]
fn a_policy_of_a_consumers_route_takes_part_for_its_callers() {
    let mut world = shop([consumer("team", "consumer", TO_WEB)]);
    let target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: consumer}";
    let text = format!("{{targetRefs: [{target}], timeouts: {{request: 1s}}}}");
    let spec: Value = serde_saphyr::from_str(&text).unwrap();
    let parsed = parse::spec("team", "p", &spec).unwrap();
    world.apply([as_object(TrafficPolicy {
        id: Id::new("team", "p"),
        created: None,
        generation: 1,
        scope: parsed.scope,
        settings: parsed.settings,
    })]);
    let held = |namespace| {
        let held = world
            .store
            .find_for(ResourceType::Service, "shop/web", namespace);
        held.unwrap().policies.clone()
    };
    assert_eq!(held("team"), [Id::new("team", "p")]);
    assert!(held("shop").is_empty());
    assert_eq!(world.reasons()["p"], Reason::Accepted);
}
