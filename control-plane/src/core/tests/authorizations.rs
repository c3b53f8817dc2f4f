//! Who may call, resolved for each pod.

use remora_proto::v1::authorization::Action;

use super::*;
use crate::core::authorizations::{AuthorizationPolicy, Caller, Identity, Says};

fn authorization(name: &str, scope: Scope) -> AuthorizationPolicy {
    AuthorizationPolicy {
        id: Id::new("shop", name),
        generation: 1,
        scope,
        says: Says {
            action: Action::Allow,
            from: vec![Caller {
                identities: vec![
                    Identity::Own("shop".to_owned(), "web".to_owned()),
                    Identity::Whole("spiffe://other/ns/a/sa/b".to_owned()),
                ],
                namespaces: Vec::new(),
            }],
            to: Vec::new(),
        },
    }
}

fn of(targets: &[&str]) -> Scope {
    let target = |name: &&str| match *name {
        "" => Target::Namespace,
        name => Target::Service(name.into()),
    };
    Scope::Targets(targets.iter().map(target).collect())
}

fn object(policy: AuthorizationPolicy) -> Object {
    Object::AuthorizationPolicy(Box::new(policy))
}

/// Names of the policies that count for a pod, with their ports.
fn counting(world: &World, pod: &str) -> Vec<(String, Vec<u32>)> {
    let workload = world.workload(pod);
    let named: Vec<String> = workload
        .policies
        .iter()
        .map(|one| one.name.clone())
        .collect();
    let counting = workload.authorizations.iter().map(|one| {
        let name = one.policy.as_ref().unwrap().name.clone();
        assert!(named.contains(&name), "{name} takes no part");
        (name, one.ports.clone())
    });
    counting.collect()
}

fn shop() -> World {
    cart_and_web(pod)
}

#[test]
fn a_policy_counts_for_the_pods_and_ports_that_it_is_for() {
    let mut world = shop();
    world.apply([
        object(authorization("a-cart", of(&["cart"]))),
        object(authorization("b-all", of(&["cart", ""]))),
        object(authorization("c-web", Scope::Pods(of_app("web")))),
        object(authorization("d-every", Scope::Pods(Selector::default()))),
        object(authorization("e-none", of(&["missing"]))),
    ]);
    let named = |names: &[(&str, &[u32])]| -> Vec<(String, Vec<u32>)> {
        let names = names.iter();
        names
            .map(|(name, ports)| ((*name).to_owned(), ports.to_vec()))
            .collect()
    };
    assert_eq!(
        counting(&world, "shop/c-1"),
        named(&[("a-cart", &[80, 8080]), ("b-all", &[]), ("d-every", &[])])
    );
    assert_eq!(
        counting(&world, "shop/w-1"),
        named(&[("b-all", &[]), ("c-web", &[]), ("d-every", &[])])
    );
    for name in ["b-all", "d-every"] {
        world.delete(Kind::AuthorizationPolicy, name);
    }
    assert_eq!(counting(&world, "shop/w-1"), named(&[("c-web", &[])]));

    // Labels, and what a Service covers, are looked at anew.
    world.apply([
        Object::Pod(pod("w-1", "other", "10.1.0.2")),
        slice(
            "cart-x",
            "cart",
            vec![seat("c-1", "10.1.0.1"), seat("w-1", "10.1.0.2")],
        ),
    ]);
    assert_eq!(counting(&world, "shop/w-1"), named(&[("a-cart", &[8080])]));
    world.delete(Kind::Service, "cart");
    assert_eq!(counting(&world, "shop/c-1"), []);
}

#[test]
fn a_short_identity_is_of_the_pods_own_trust_domain() {
    let mut world = shop();
    world.apply([object(authorization("all", of(&[""])))]);
    let identities = |world: &World| {
        let workload = world.workload("shop/c-1");
        workload.authorizations[0].from[0].identities.clone()
    };
    let own = "spiffe://cluster.local/ns/shop/sa/web";
    assert_eq!(identities(&world), [own, "spiffe://other/ns/a/sa/b"]);
    let mut with_identity = pod("c-1", "cart", "10.1.0.1");
    with_identity.trust_domain = Some("mesh.example".into());
    world.apply([Object::Pod(with_identity)]);
    assert_eq!(
        identities(&world)[0],
        "spiffe://mesh.example/ns/shop/sa/web"
    );
}

#[test]
fn another_namespace_is_not_touched() {
    let mut world = shop();
    let mut foreign = authorization("all", of(&[""]));
    foreign.id = Id::new("other", "all");
    world.apply([object(foreign)]);
    assert_eq!(counting(&world, "shop/c-1"), []);
}

#[test]
fn conditions_say_what_is_missing_and_nothing_is_in_conflict() {
    let mut world = shop();
    world.apply([
        object(authorization("a", of(&["cart", "missing"]))),
        object(authorization("b", of(&["cart"]))),
        object(authorization("c", Scope::Pods(Selector::default()))),
    ]);
    let conditions = world.core.authorization_conditions();
    let told: Vec<_> = conditions
        .iter()
        .map(|one| (&*one.policy.name, one.target_index, one.reason))
        .collect();
    assert_eq!(
        told,
        [
            ("a", 0, Reason::Accepted),
            ("a", 1, Reason::TargetNotFound),
            ("b", 0, Reason::Accepted),
            ("c", 0, Reason::Accepted),
        ]
    );
    assert_eq!(conditions[3].target, Target::Namespace);
    let notes = world.core.notes();
    let note = notes
        .iter()
        .find(|note| note.key.kind == Kind::AuthorizationPolicy);
    assert_eq!(note.unwrap().field, "spec.targetRefs[1]");
    world.apply([cluster_ip("missing", &["10.0.0.9"])]);
    let conditions = world.core.authorization_conditions();
    assert!(conditions.iter().all(|one| one.accepted));
}

#[test]
fn both_kinds_of_one_name_are_told_apart() {
    let mut world = shop();
    world.apply([
        object(authorization("same", of(&["cart"]))),
        as_object(policy("same", Some("cart"), rate("a", false))),
    ]);
    for kind in [Kind::TrafficPolicy, Kind::AuthorizationPolicy] {
        let taking_part = world.store.with_policies(ResourceType::Workload, kind);
        let names: Vec<&str> = taking_part.iter().map(|one| &*one.0.name).collect();
        assert_eq!(names, ["shop/c-1"], "{kind:?}");
    }
    world.delete(Kind::AuthorizationPolicy, "same");
    let kind = Kind::AuthorizationPolicy;
    assert!(
        world
            .store
            .with_policies(ResourceType::Workload, kind)
            .is_empty()
    );
}
