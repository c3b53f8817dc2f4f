//! Modes of mutual TLS that a policy says of the pods that it selects.

use v1::MtlsMode::{self, Disabled, Permissive, Strict};

use super::*;

/// Pods whose label `app` has this value; of an empty one all pods.
fn of_pods(name: &str, app: &str, settings: Settings) -> Object {
    let mut policy = policy(name, None, settings);
    policy.scope = Scope::Pods(match app {
        "" => Selector::default(),
        app => of_app(app),
    });
    as_object(policy)
}

fn strict() -> Settings {
    mtls(Some(Strict), &[])
}

/// Two Services with a pod each, and one that no Service covers.
fn shop() -> World {
    let mut world = cart_and_web(meshed);
    world.apply([Object::Pod(meshed("alone", "job", "10.1.0.3"))]);
    world
}

/// What the pod's own sidecar is told of a port.
fn at(world: &World, pod: &str, port: u32) -> MtlsMode {
    let workload = world.workload(&format!("shop/{pod}"));
    let ports = workload.ports.iter();
    let known = ports.clone().find(|known| known.port == port);
    known.map_or(workload.mtls(), v1::InboundPort::mtls)
}

/// What callers are told: of the Service's endpoint, and of the pod's address.
fn told(world: &World, service: &str, pod: &str) -> (MtlsMode, MtlsMode) {
    let endpoint = format!("shop/{service}/80/{pod}-uid");
    let direct = world.service(&format!("pod/shop/{pod}")).unwrap();
    let endpoint = world.endpoint(&endpoint).unwrap();
    (endpoint.mtls(), direct.pod.unwrap().mtls())
}

fn named(world: &World, pod: &str) -> Vec<String> {
    let policies = world.workload(&format!("shop/{pod}")).policies.into_iter();
    policies.map(|policy| policy.name).collect()
}

#[test]
fn of_services_namespace_and_selectors_the_strictest_is_in_force() {
    let mut world = shop();
    world.apply([
        as_object(policy("all", None, mtls(Some(Disabled), &[(9090, Strict)]))),
        as_object(policy("cart", Some("cart"), mtls(Some(Permissive), &[]))),
        of_pods(
            "pods-cart",
            "cart",
            mtls(Some(Permissive), &[(7000, Strict)]),
        ),
        of_pods("pods-job", "job", mtls(Some(Strict), &[(9090, Disabled)])),
    ]);
    let said = |pod| [8080, 7000, 9090, 5].map(|port| at(&world, pod, port));
    assert_eq!(said("c-1"), [Permissive, Strict, Strict, Permissive]);
    assert_eq!(said("w-1"), [Disabled, Disabled, Strict, Disabled]);
    assert_eq!(said("alone"), [Strict, Strict, Strict, Strict]);
    assert_eq!(told(&world, "cart", "c-1"), (Permissive, Strict));
    assert_eq!(told(&world, "web", "w-1"), (Disabled, Strict));
    assert_eq!(named(&world, "c-1"), ["cart", "all", "pods-cart"]);
    assert_eq!(named(&world, "w-1"), ["all"]);
    assert_eq!(named(&world, "alone"), ["all", "pods-job"]);

    // Several of one pod all count, whichever is older.
    world.apply([of_pods("a-second", "cart", strict())]);
    assert_eq!(told(&world, "cart", "c-1"), (Strict, Strict));
    world.apply([of_pods("a-second", "cart", mtls(None, &[(8080, Strict)]))]);
    assert_eq!(told(&world, "cart", "c-1"), (Strict, Strict));
    assert_eq!(
        (at(&world, "c-1", 5), at(&world, "w-1", 8080)),
        (Permissive, Disabled)
    );
    world.delete(Kind::TrafficPolicy, "a-second");
    assert_eq!(told(&world, "cart", "c-1"), (Permissive, Strict));
}

#[test]
fn modes_of_ports_alone_say_nothing_of_the_others() {
    let mut world = shop();
    world.apply([of_pods(
        "ports",
        "",
        mtls(None, &[(8080, Strict), (9090, Disabled)]),
    )]);
    let said = |pod| [8080, 9090, 7000].map(|port| at(&world, pod, port));
    for pod in ["c-1", "w-1", "alone"] {
        assert_eq!(said(pod), [Strict, Disabled, Permissive], "{pod}");
    }
}

#[test]
fn a_label_that_changes_and_a_policy_that_goes_are_followed() {
    let mut world = shop();
    world.apply([of_pods("web", "web", strict())]);
    assert_eq!(told(&world, "cart", "c-1"), (Permissive, Permissive));
    assert_eq!(told(&world, "web", "w-1"), (Strict, Strict));

    world.apply([Object::Pod(meshed("w-1", "other", "10.1.0.2"))]);
    assert_eq!(told(&world, "web", "w-1"), (Permissive, Permissive));
    assert_eq!(at(&world, "w-1", 8080), Permissive);
    assert!(named(&world, "w-1").is_empty());
    world.apply([Object::Pod(meshed("w-1", "web", "10.1.0.2"))]);
    assert_eq!(told(&world, "web", "w-1"), (Strict, Strict));

    // Those that it selected before are as they were.
    world.apply([of_pods("web", "cart", strict())]);
    assert_eq!(told(&world, "cart", "c-1"), (Strict, Strict));
    assert_eq!(told(&world, "web", "w-1"), (Permissive, Permissive));
    // As if it had always been for a Service.
    world.apply([as_object(policy("web", Some("web"), strict()))]);
    assert_eq!(told(&world, "cart", "c-1"), (Permissive, Permissive));
    assert_eq!(told(&world, "web", "w-1"), (Strict, Strict));
    world.apply([of_pods("web", "web", strict())]);
    world.delete(Kind::TrafficPolicy, "web");
    assert_eq!(told(&world, "web", "w-1"), (Permissive, Permissive));
    assert_eq!(at(&world, "alone", 1), Permissive);
}

#[test]
fn only_the_pods_that_are_or_were_selected_are_touched() {
    let mut index = crate::core::index::Index::new(None);
    for object in of_cart_and_web(pod) {
        index.apply(object);
    }
    index.take_dirty();
    let mut touched = |object: Option<Object>| -> Vec<String> {
        match object {
            Some(object) => index.apply(object),
            None => index.delete(&Key {
                kind: Kind::TrafficPolicy,
                id: Id::new("shop", "one"),
            }),
        }
        let dirty = index.take_dirty();
        assert!(dirty.services.is_empty());
        let seats = dirty.seats.iter().map(|(service, _)| service.to_string());
        let pods = dirty.pods.iter().map(ToString::to_string);
        pods.chain(seats).collect()
    };
    let cart = ["shop/c-1", "shop/cart"];
    assert_eq!(touched(Some(of_pods("one", "cart", strict()))), cart);
    assert!(touched(Some(of_pods("one", "cart", strict()))).is_empty());
    let both = ["shop/c-1", "shop/w-1", "shop/cart", "shop/web"];
    assert_eq!(touched(Some(of_pods("one", "web", strict()))), both);
    assert_eq!(touched(None), ["shop/w-1", "shop/web"]);
    assert!(touched(Some(of_pods("two", "none", strict()))).is_empty());
}

#[test]
fn it_is_accepted_on_the_namespace_and_in_conflict_with_nobody() {
    let mut world = shop();
    world.apply([
        as_object(policy("a-all", None, strict())),
        of_pods("b", "web", strict()),
        of_pods("c", "web", strict()),
        of_pods("d-none", "nobody", strict()),
    ]);
    let conditions = world.core.conditions();
    let words = "in force on the pods of Namespace shop that podSelector selects";
    for condition in conditions.iter() {
        let wanted = ["in force on Namespace shop", words];
        let wanted = wanted[usize::from(&*condition.policy.name != "a-all")];
        assert_eq!(condition.message, wanted, "{}", condition.policy);
        assert_eq!(condition.target, Target::Namespace);
        assert!(condition.accepted && condition.target_index == 0);
    }
    assert_eq!(conditions.len(), 4);
    let named = |kind| world.store.with_policies(kind, Kind::TrafficPolicy);
    let workloads = named(ResourceType::Workload).into_iter();
    let with = workloads.filter(|one| one.0.policies.contains(&Id::new("shop", "c")));
    let with: Vec<String> = with.map(|one| one.0.name.to_string()).collect();
    assert_eq!(with, ["shop/w-1"]);
    // What it says of calls to the Service is nothing.
    let services = named(ResourceType::Service).into_iter();
    let of_service = services.filter(|one| one.0.policies.contains(&Id::new("shop", "c")));
    assert_eq!(of_service.count(), 0);
}

/// A sidecar takes so many names of policies; what they say counts all the same.
#[test]
fn more_policies_than_a_sidecar_takes_names_of_all_count() {
    use remora_proto::bounds::MAX_POLICIES;
    let mut world = shop();
    let many = (0..MAX_POLICIES).map(|at| of_pods(&format!("p{at:04}"), "", mtls(None, &[])));
    world.apply(many.chain([of_pods("z-last", "web", strict())]));
    assert_eq!(world.workload("shop/w-1").policies.len(), MAX_POLICIES);
    assert_eq!(told(&world, "web", "w-1"), (Strict, Strict));
}
