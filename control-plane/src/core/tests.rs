//! Objects in, resources out.

mod authorizations;
mod blocks;
mod routes;
mod selected;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use remora_proto::{discovery, v1};

use super::Core;
use super::objects::*;
use super::policies::Reason;
use super::scope::{Requirement, Scope, Selector};
use super::settings::{CircuitBreaker, RateLimit, Settings};
use super::store::{Mailbox, ResourceType, Store};

struct World {
    core: Core,
    store: Arc<Store>,
}

fn world() -> World {
    let store = Arc::new(Store::default());
    World {
        core: Core::new(store.clone(), Some("cluster.local")),
        store,
    }
}

impl World {
    fn apply(&mut self, objects: impl IntoIterator<Item = Object>) {
        self.core.handle(objects.into_iter().map(Event::Apply));
    }

    fn delete(&mut self, kind: Kind, name: &str) {
        self.core.handle([Event::Delete(Key {
            kind,
            id: Id::new("shop", name),
        })]);
    }

    fn open<T: Message + Default>(&self, kind: ResourceType, name: &str) -> Option<T> {
        let resource = self.store.find(kind, name)?;
        let whole = discovery::Resource::decode(resource.encoded.clone()).unwrap();
        assert_eq!(
            (whole.name.as_str(), whole.version.as_str()),
            (&*resource.name, &*resource.version)
        );
        Some(T::decode(&*whole.resource.unwrap().value).unwrap())
    }

    fn service(&self, name: &str) -> Option<v1::Service> {
        self.open(ResourceType::Service, name)
    }

    fn endpoint(&self, name: &str) -> Option<v1::Endpoint> {
        self.open(ResourceType::Endpoint, name)
    }

    fn workload(&self, name: &str) -> v1::Workload {
        self.open(ResourceType::Workload, name).unwrap()
    }

    fn reasons(&self) -> HashMap<String, Reason> {
        let conditions = self.core.conditions();
        let conditions = conditions.iter().cloned();
        conditions
            .map(|condition| (condition.policy.name.to_string(), condition.reason))
            .collect()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(name: &str, number: u16, protocol: v1::Protocol) -> ServicePort {
    ServicePort {
        name: name.into(),
        port: number,
        target: PortReference::Number(number),
        protocol,
    }
}

fn service(name: &str, reach: Reach) -> Service {
    Service {
        id: Id::new("shop", name),
        created: None,
        reach,
        ports: vec![port("http", 80, v1::Protocol::Http1)],
        selector: [("app".to_owned(), name.to_owned())].into(),
        session_affinity_seconds: None,
        internal_traffic_local: false,
    }
}

fn cluster_ip(name: &str, addresses: &[&str]) -> Object {
    Object::Service(service(
        name,
        Reach::ClusterIp(addresses.iter().map(|text| ip(text)).collect()),
    ))
}

/// Two Services with a pod each, made so.
fn of_cart_and_web(pod: fn(&str, &str, &str) -> Pod) -> [Object; 6] {
    [
        cluster_ip("cart", &["10.0.0.1"]),
        cluster_ip("web", &["10.0.0.2"]),
        Object::Pod(pod("c-1", "cart", "10.1.0.1")),
        Object::Pod(pod("w-1", "web", "10.1.0.2")),
        slice("cart-x", "cart", vec![seat("c-1", "10.1.0.1")]),
        slice("web-x", "web", vec![seat("w-1", "10.1.0.2")]),
    ]
}

fn cart_and_web(pod: fn(&str, &str, &str) -> Pod) -> World {
    let mut world = world();
    world.apply(of_cart_and_web(pod));
    world
}

/// The pods whose label `app` has this value.
fn of_app(app: &str) -> Selector {
    let requirement = Requirement::In("app".to_owned(), vec![app.to_owned()]);
    Selector(vec![requirement])
}

fn pod(name: &str, app: &str, address: &str) -> Pod {
    Pod {
        id: Id::new("shop", name),
        uid: format!("{name}-uid").into(),
        service_account: "default".into(),
        node: "n1".into(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        addresses: vec![ip(address)],
        draining: false,
        ready: true,
        says_ready: false,
        lost: false,
        ports: Vec::new(),
        opaque_ports: Vec::new(),
        excluded_ports: Vec::new(),
        running: true,
        ended: false,
        declines_sidecar: false,
        not_injected: None,
        sidecar: true,
        mesh_protocols: vec!["remora-h2", "remora-h1"],
        trust_domain: None,
        weight: Weight::Unset,
    }
}

fn seat(pod: &str, address: &str) -> SliceEndpoint {
    SliceEndpoint {
        address: ip(address),
        pod: Some(pod.into()),
        pod_uid: Some(format!("{pod}-uid").into()),
        node: None,
        zone: Some("z1".into()),
        ready: true,
        serving: true,
        terminating: false,
        hint_zones: Vec::new(),
    }
}

fn slice(name: &str, service: &str, endpoints: Vec<SliceEndpoint>) -> Object {
    Object::EndpointSlice(EndpointSlice {
        id: Id::new("shop", name),
        service: Some(service.into()),
        ports: vec![("http".into(), 8080)],
        endpoints,
    })
}

fn policy(name: &str, target: Option<&str>, settings: Settings) -> TrafficPolicy {
    TrafficPolicy {
        id: Id::new("shop", name),
        created: None,
        generation: 1,
        scope: Scope::Targets(vec![
            target.map_or(Target::Namespace, |name| Target::Service(name.into())),
        ]),
        settings,
    }
}

fn as_object(policy: TrafficPolicy) -> Object {
    Object::TrafficPolicy(Box::new(policy))
}

fn breaker(consecutive_failures: Option<u32>, max_requests: Option<u32>) -> Settings {
    let limits = v1::Limits {
        max_requests,
        ..v1::Limits::default()
    };
    let block = CircuitBreaker {
        consecutive_failures,
        limits,
        ..CircuitBreaker::default()
    };
    Settings {
        circuit_breaker: Some(block),
        ..Settings::default()
    }
}

fn rate(name: &str, at_caller: bool) -> Settings {
    let limit = v1::RateLimit {
        name: name.to_owned(),
        requests: 1,
        ..v1::RateLimit::default()
    };
    Settings {
        rate_limits: Some(vec![RateLimit { at_caller, limit }]),
        ..Settings::default()
    }
}

fn failures(service: &v1::Service) -> Option<u32> {
    let policy = service.policy.as_ref()?;
    Some(
        policy
            .circuit_breaker
            .as_ref()?
            .trip
            .as_ref()?
            .consecutive_failures,
    )
}

#[test]
fn a_dual_stack_service_is_found_by_either_address() {
    let mut world = world();
    world.apply([cluster_ip("catalog", &["10.0.0.1", "fd00::1"])]);
    assert_eq!(
        world.service("shop/catalog"),
        world.service("address/10.0.0.1")
    );
    assert_eq!(world.service("address/fd00::1").unwrap().name, "catalog");
    world.apply([cluster_ip("catalog", &["10.0.0.2"])]);
    assert_eq!(world.service("address/10.0.0.1"), None);
    world.delete(Kind::Service, "catalog");
    assert_eq!(world.service("address/10.0.0.2"), None);
}

#[test]
fn policies_merge_leaf_by_leaf_and_a_list_replaces_a_list() {
    let mut world = world();
    world.apply([
        cluster_ip("catalog", &["10.0.0.1"]),
        cluster_ip("cart", &["10.0.0.2"]),
        as_object(policy("own", Some("catalog"), breaker(Some(3), None))),
        as_object(policy("general", None, breaker(Some(9), Some(7)))),
    ]);
    let catalog = world.service("shop/catalog").unwrap();
    assert_eq!(failures(&catalog), Some(3));
    let limits = catalog
        .policy
        .unwrap()
        .circuit_breaker
        .unwrap()
        .limits
        .unwrap();
    assert_eq!(limits.max_requests, Some(7));
    let names: Vec<&str> = catalog
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect();
    assert_eq!(names, ["own", "general"]);
    assert_eq!(failures(&world.service("shop/cart").unwrap()), Some(9));

    world.apply([
        as_object(policy("own", Some("catalog"), rate("own", true))),
        as_object(policy("general", None, rate("general", true))),
    ]);
    let limits = |world: &World, name: &str| -> Vec<String> {
        let policy = world.service(name).unwrap().policy.unwrap();
        policy
            .rate_limits
            .iter()
            .map(|limit| limit.name.clone())
            .collect()
    };
    assert_eq!(limits(&world, "shop/catalog"), ["own"]);
    assert_eq!(limits(&world, "shop/cart"), ["general"]);
}

#[test]
fn a_policy_of_another_namespace_has_no_effect() {
    let mut world = world();
    let mut foreign = policy("foreign", Some("catalog"), breaker(Some(3), None));
    foreign.id = Id::new("other", "foreign");
    let mut general = policy("general", None, breaker(Some(4), None));
    general.id = Id::new("other", "general");
    world.apply([
        cluster_ip("catalog", &["10.0.0.1"]),
        Object::TrafficPolicy(Box::new(foreign)),
        Object::TrafficPolicy(Box::new(general)),
    ]);
    assert_eq!(world.service("shop/catalog").unwrap().policy, None);
    assert_eq!(world.reasons()["foreign"], Reason::TargetNotFound);
}

#[test]
fn of_two_policies_the_older_is_in_force_whole() {
    let mut world = world();
    let dated = |name: &str, created: i64, failures: u32| {
        let mut dated = policy(name, Some("catalog"), breaker(Some(failures), None));
        dated.created = Some(created);
        Object::TrafficPolicy(Box::new(dated))
    };
    world.apply([
        cluster_ip("catalog", &["10.0.0.1"]),
        dated("a", 20, 2),
        dated("b", 10, 3),
    ]);
    assert_eq!(failures(&world.service("shop/catalog").unwrap()), Some(3));
    assert_eq!(world.reasons()["a"], Reason::Conflicted);
    assert_eq!(world.reasons()["b"], Reason::Accepted);
    assert!(world.core.notes()[0].message.contains("shop/b"));
    // A change does not make the older one newer.
    world.apply([dated("b", 10, 4)]);
    assert_eq!(failures(&world.service("shop/catalog").unwrap()), Some(4));
    world.delete(Kind::TrafficPolicy, "b");
    assert_eq!(failures(&world.service("shop/catalog").unwrap()), Some(2));
    assert_eq!(world.reasons()["a"], Reason::Accepted);

    // Without dates, the order of first sight; an edit keeps it.
    let undated =
        |name: &str, failures| as_object(policy(name, Some("cart"), breaker(Some(failures), None)));
    world.apply([
        cluster_ip("cart", &["10.0.0.2"]),
        undated("y", 5),
        undated("x", 6),
    ]);
    world.apply([undated("y", 7)]);
    assert_eq!(failures(&world.service("shop/cart").unwrap()), Some(7));
}

/// Who may create Services may name many ports. By the square of them for each
/// endpoint this took minutes of the one core; the bound is generous.
#[test]
fn a_service_of_very_many_ports_is_worked_out_soon() {
    const PORTS: u16 = 1_000;
    let mut world = world();
    let begun = crate::clock::unix_ms();
    let name = |number: u16| format!("p-{number}");
    let mut many = service("catalog", Reach::ClusterIp(vec![ip("10.0.0.1")]));
    many.ports = (1..=PORTS)
        .map(|number| port(&name(number), number, v1::Protocol::Http1))
        .collect();
    let mut objects = vec![Object::Service(many)];
    for pod_number in 1..=4 {
        let pod_name = format!("c-{pod_number}");
        let address = format!("10.1.0.{pod_number}");
        objects.push(Object::Pod(pod(&pod_name, "catalog", &address)));
        objects.push(Object::EndpointSlice(EndpointSlice {
            id: Id::new("shop", &format!("catalog-{pod_number}")),
            service: Some("catalog".into()),
            ports: (1..=PORTS)
                .map(|number| (name(number).into(), 8080))
                .collect(),
            endpoints: vec![seat(&pod_name, &address)],
        }));
    }
    world.apply(objects);
    let endpoint = world.endpoint("shop/catalog/1000/c-4-uid").unwrap();
    assert_eq!(endpoint.target_port, 8080);
    let took = crate::clock::unix_ms() - begun;
    assert!(took < 20_000, "{took} ms");
}

#[test]
fn endpoints_carry_readiness_drain_and_place() {
    let mut world = world();
    world.apply([
        cluster_ip("catalog", &["10.0.0.1"]),
        Object::Pod(pod("c-1", "catalog", "10.1.0.1")),
        slice("catalog-a", "catalog", vec![seat("c-1", "10.1.0.1")]),
    ]);
    let name = "shop/catalog/80/c-1-uid";
    let endpoint = world.endpoint(name).unwrap();
    assert_eq!((endpoint.port, endpoint.target_port), (80, 8080));
    assert_eq!(
        (endpoint.node.as_str(), endpoint.zone.as_str()),
        ("n1", "z1")
    );
    assert!(endpoint.ready && !endpoint.draining && endpoint.serving);

    let mut leaving = pod("c-1", "catalog", "10.1.0.1");
    leaving.draining = true;
    world.apply([Object::Pod(leaving)]);
    let endpoint = world.endpoint(name).unwrap();
    assert!(!endpoint.ready && endpoint.draining && endpoint.serving);
    assert!(world.workload("shop/c-1").draining);

    world.apply([slice("catalog-a", "catalog", Vec::new())]);
    assert_eq!(world.endpoint(name), None);
    assert!(
        world
            .store
            .members(ResourceType::Endpoint, "shop/catalog")
            .is_empty()
    );
}

#[test]
fn a_pod_that_is_gone_is_called_no_more_though_its_slice_still_says_ready() {
    let mut world = world();
    let listed = |uid: &str| {
        let seat = SliceEndpoint {
            pod_uid: Some(uid.into()),
            ..seat("db-0", "10.1.0.1")
        };
        slice("db-a", "db", vec![seat])
    };
    let made = |uid: &str, draining| {
        Object::Pod(Pod {
            uid: uid.into(),
            draining,
            ..pod("db-0", "db", "10.1.0.1")
        })
    };
    let members = |world: &World| world.store.members(ResourceType::Endpoint, "shop/db");
    world.apply([
        cluster_ip("db", &["10.0.0.1"]),
        listed("1"),
        made("1", true),
    ]);
    assert_eq!(members(&world), ["shop/db/80/1".into()]);
    // The slice's controller is away: nothing tells it.
    world.delete(Kind::Pod, "db-0");
    assert_eq!(members(&world), []);
    // The next of that name (a StatefulSet's) is not yet in the slice either.
    world.apply([made("2", false)]);
    assert_eq!(members(&world), []);
    world.apply([listed("2")]);
    assert_eq!(members(&world), ["shop/db/80/2".into()]);
    // Replaced between two lists, so that no deletion was told.
    world.apply([made("3", false)]);
    assert_eq!(members(&world), []);
    world.apply([slice("db-a", "db", Vec::new())]);
    world.apply([listed("3")]);
    assert_eq!(members(&world), ["shop/db/80/3".into()]);
}

/// What sidecars take on `catalog`'s endpoint, pod `c-1` port 8080, and on the
/// pod when it is called directly.
fn taken(world: &World) -> (Vec<String>, Vec<String>) {
    let endpoint = world.endpoint("shop/catalog/80/c-1-uid").unwrap();
    let direct = world.service("pod/shop/c-1").unwrap().pod.unwrap();
    (endpoint.mesh_protocols, direct.mesh_protocols)
}

#[test]
fn an_endpoint_says_what_its_sidecar_takes() {
    let mut world = world();
    let both = ["remora-h2".to_owned(), "remora-h1".to_owned()].to_vec();
    let none = Vec::new();
    world.apply([
        cluster_ip("catalog", &["10.0.0.1"]),
        Object::Pod(pod("c-1", "catalog", "10.1.0.1")),
        slice("catalog-a", "catalog", vec![seat("c-1", "10.1.0.1")]),
    ]);
    assert_eq!(taken(&world), (both.clone(), both.clone()));

    // No sidecar, whatever the annotation says; and an older one without it.
    let changed = |change: fn(&mut Pod)| {
        let mut changed = pod("c-1", "catalog", "10.1.0.1");
        change(&mut changed);
        Object::Pod(changed)
    };
    world.apply([changed(|pod| pod.sidecar = false)]);
    assert_eq!(taken(&world), (none.clone(), none.clone()));
    world.apply([changed(|pod| pod.mesh_protocols = Vec::new())]);
    assert_eq!(taken(&world), (none.clone(), none.clone()));

    // A port that never reaches the sidecar, or of which it relays the bytes.
    world.apply([changed(|pod| {
        pod.excluded_ports = vec!["8000-8100".parse().unwrap()];
    })]);
    assert_eq!(taken(&world), (none.clone(), none.clone()));
    world.apply([changed(|pod| {
        pod.opaque_ports = vec!["8080".parse().unwrap()];
    })]);
    // The direct Service names 8080 as TCP itself.
    assert_eq!(taken(&world), (none.clone(), both.clone()));
    world.apply([changed(|pod| {
        pod.opaque_ports = vec!["8000-9000".parse().unwrap()];
    })]);
    assert_eq!(taken(&world), (none.clone(), none));
    // Other ports' rules change nothing here.
    world.apply([changed(|pod| {
        pod.excluded_ports = vec!["22".parse().unwrap()];
        pod.opaque_ports = vec!["3306".parse().unwrap()];
    })]);
    assert_eq!(taken(&world).0, both);
}

fn meshed(name: &str, app: &str, address: &str) -> Pod {
    Pod {
        mesh_protocols: vec!["remora-h2", "remora-h1", "remora-tcp"],
        trust_domain: Some("cluster.local".into()),
        service_account: "web".into(),
        ..pod(name, app, address)
    }
}

#[test]
fn an_identity_is_said_of_who_can_prove_it_where_it_stands_in_between() {
    const ID: &str = "spiffe://cluster.local/ns/shop/sa/web";
    let said = |world: &World| {
        let endpoint = world.endpoint("shop/catalog/80/c-1-uid").unwrap();
        let direct = world.service("pod/shop/c-1").unwrap().pod.unwrap();
        let workload = world.workload("shop/c-1");
        (endpoint.identity, direct.identity, workload.identity)
    };
    let all = (ID.to_owned(), ID.to_owned(), ID.to_owned());
    let none = (String::new(), String::new(), String::new());
    let objects = || {
        [
            cluster_ip("catalog", &["10.0.0.1"]),
            Object::Pod(meshed("c-1", "catalog", "10.1.0.1")),
            slice("catalog-a", "catalog", vec![seat("c-1", "10.1.0.1")]),
        ]
    };
    let mut world = world();
    world.apply(objects());
    assert_eq!(said(&world), all);
    let every = ["remora-h2", "remora-h1", "remora-tcp"]
        .map(str::to_owned)
        .to_vec();
    assert_eq!(taken(&world), (every.clone(), every.clone()));

    // Opaque bytes travel encrypted too.
    let changed = |change: fn(&mut Pod)| {
        let mut changed = meshed("c-1", "catalog", "10.1.0.1");
        change(&mut changed);
        [Object::Pod(changed)]
    };
    world.apply(changed(|pod| {
        pod.opaque_ports = vec!["8000-9000".parse().unwrap()]
    }));
    let bytes = vec!["remora-tcp".to_owned()];
    assert_eq!(
        (said(&world), taken(&world)),
        (all.clone(), (bytes.clone(), bytes))
    );
    // What is not intercepted is plaintext; by its own address any port may be.
    world.apply(changed(|pod| {
        pod.excluded_ports = vec!["22".parse().unwrap()]
    }));
    assert_eq!(said(&world), (ID.to_owned(), String::new(), ID.to_owned()));
    world.apply(changed(|pod| {
        pod.excluded_ports = vec!["8080".parse().unwrap()]
    }));
    assert_eq!(said(&world).0, "");
    assert!(taken(&world).0.is_empty());
    world.apply(changed(|pod| pod.sidecar = false));
    assert_eq!(said(&world), none);
    world.apply(changed(|pod| pod.trust_domain = None));
    assert_eq!(said(&world), none);
}

#[test]
fn what_is_meant_for_identities_and_finds_none_or_others_is_said() {
    let objects = |trust_domain: &'static str| {
        let mut pod = meshed("c-1", "catalog", "10.1.0.1");
        pod.trust_domain = Some(trust_domain.into());
        [
            cluster_ip("catalog", &["10.0.0.1"]),
            Object::Pod(pod),
            slice("catalog-a", "catalog", vec![seat("c-1", "10.1.0.1")]),
            Object::TrafficPolicy(Box::new(policy(
                "all",
                None,
                mtls(Some(v1::MtlsMode::Strict), &[]),
            ))),
        ]
    };
    let notes = |world: &World| -> Vec<String> {
        let notes = world.core.notes().into_iter();
        notes
            .map(|note| format!("{} {}", note.key, note.field))
            .collect()
    };
    // A control plane without a CA promises none.
    let store = Arc::new(Store::default());
    let core = Core::new(store.clone(), None);
    let mut without = World { core, store };
    without.apply(objects("cluster.local"));
    let endpoint = without.endpoint("shop/catalog/80/c-1-uid").unwrap();
    assert_eq!(endpoint.identity, "");
    assert_eq!(without.workload("shop/c-1").identity, "");
    assert_eq!(taken(&without).0, ["remora-h2", "remora-h1"]);
    assert_eq!(notes(&without), ["TrafficPolicy shop/all spec.mtls"]);

    // One of another mesh.
    let mut world = world();
    world.apply(objects("cluster.local"));
    assert!(notes(&world).is_empty());
    world.apply(objects("other"));
    let field = "metadata.annotations.remora.io/trust-domain";
    assert_eq!(notes(&world), [format!("Pod shop/c-1 {field}")]);
    let endpoint = world.endpoint("shop/catalog/80/c-1-uid").unwrap();
    let never_plaintext_instead = endpoint.identity.starts_with("spiffe://other/");
    assert!(never_plaintext_instead, "{endpoint:?}");
}

fn mtls(mode: Option<v1::MtlsMode>, ports: &[(u16, v1::MtlsMode)]) -> Settings {
    Settings {
        mtls: Some(super::settings::Mtls {
            mode,
            ports: ports.iter().copied().collect(),
        }),
        ..Settings::default()
    }
}

#[test]
fn of_all_modes_that_are_said_of_a_port_the_strictest_is_in_force() {
    use v1::MtlsMode::{Disabled, Permissive, Strict};
    let mut world = world();
    world.apply([
        cluster_ip("catalog", &["10.0.0.1"]),
        Object::Pod(meshed("c-1", "catalog", "10.1.0.1")),
        slice("catalog-a", "catalog", vec![seat("c-1", "10.1.0.1")]),
    ]);
    let said = |world: &World| {
        let endpoint = world.endpoint("shop/catalog/80/c-1-uid").unwrap();
        let workload = world.workload("shop/c-1");
        let ports = workload.ports.iter().map(|port| (port.port, port.mtls()));
        (endpoint.mtls(), workload.mtls(), ports.collect::<Vec<_>>())
    };
    assert_eq!(said(&world).0, Permissive);
    let set = |name: &str, target: Option<&str>, settings: Settings| {
        [Object::TrafficPolicy(Box::new(policy(
            name, target, settings,
        )))]
    };
    world.apply(set("all", None, mtls(Some(Strict), &[(9090, Permissive)])));
    let (endpoint, general, ports) = said(&world);
    assert_eq!((endpoint, general), (Strict, Strict));
    assert!(ports.contains(&(9090, Permissive)) && ports.contains(&(8080, Strict)));
    assert_eq!(world.workload("shop/c-1").policies[0].name, "all");
    // A Service cannot loosen what its Namespace says.
    world.apply(set(
        "one",
        Some("catalog"),
        mtls(Some(Disabled), &[(9090, Strict)]),
    ));
    let (endpoint, general, ports) = said(&world);
    assert_eq!((endpoint, general), (Strict, Strict));
    assert!(ports.contains(&(9090, Strict)));
    let direct = world.service("pod/shop/c-1").unwrap().pod.unwrap();
    assert_eq!(direct.mtls(), Strict);
    // Alone it can; ports that it does not cover are as ever.
    world.delete(Kind::TrafficPolicy, "all");
    let (endpoint, general, _) = said(&world);
    assert_eq!((endpoint, general), (Disabled, Permissive));
    world.delete(Kind::TrafficPolicy, "one");
    assert_eq!((said(&world).0, said(&world).1), (Permissive, Permissive));
}

#[test]
fn what_any_service_declares_tcp_takes_no_mesh_protocol() {
    let mut world = world();
    let declared = |name: &str, protocol| {
        let mut declared = service(name, Reach::ClusterIp(Vec::new()));
        declared.selector = [("app".to_owned(), "catalog".to_owned())].into();
        declared.ports = vec![ServicePort {
            target: PortReference::Number(8080),
            ..port("http", 80, protocol)
        }];
        Object::Service(declared)
    };
    world.apply([
        declared("catalog", v1::Protocol::Detect),
        Object::Pod(pod("c-1", "catalog", "10.1.0.1")),
        slice("catalog-a", "catalog", vec![seat("c-1", "10.1.0.1")]),
    ]);
    for protocol in [
        v1::Protocol::Http2,
        v1::Protocol::Grpc,
        v1::Protocol::Detect,
    ] {
        world.apply([declared("catalog", protocol)]);
        assert_eq!(taken(&world).0.len(), 2, "{protocol:?}");
    }
    world.apply([declared("catalog", v1::Protocol::Tcp)]);
    assert!(taken(&world).0.is_empty());

    // The target's sidecar goes by the port: another Service's word counts for
    // this one's endpoints, and for as long as it is there.
    world.apply([declared("catalog", v1::Protocol::Http1)]);
    assert_eq!(taken(&world).0.len(), 2);
    world.apply([declared("second", v1::Protocol::Tcp)]);
    assert!(taken(&world).0.is_empty());
    world.delete(Kind::Service, "second");
    assert_eq!(taken(&world).0.len(), 2);
}

#[test]
fn a_pod_of_two_families_is_one_endpoint_of_the_first_family() {
    let mut world = world();
    world.apply([
        cluster_ip("catalog", &["fd00::1", "10.0.0.1"]),
        slice("v4", "catalog", vec![seat("c-1", "10.1.0.1")]),
        slice("v6", "catalog", vec![seat("c-1", "fd01::1")]),
    ]);
    let members = world.store.members(ResourceType::Endpoint, "shop/catalog");
    assert_eq!(members.len(), 1);
    assert_eq!(world.endpoint(&members[0]).unwrap().address.len(), 16);
    // It moves to another slice without ever being gone.
    world.apply([slice("v6", "catalog", Vec::new())]);
    assert_eq!(world.endpoint(&members[0]).unwrap().address.len(), 4);
}

#[test]
fn a_pod_that_says_it_is_ready_is_believed_before_its_slice_says_so() {
    let mut world = world();
    let name = "shop/web/80/web-1-uid";
    let unready = SliceEndpoint {
        ready: false,
        serving: false,
        ..seat("web-1", "10.1.0.1")
    };
    let ready = |world: &World| world.endpoint(name).map(|endpoint| endpoint.ready);
    world.apply([
        cluster_ip("web", &["10.0.0.1"]),
        Object::Pod(pod("web-1", "web", "10.1.0.1")),
        slice("web-a", "web", vec![unready.clone()]),
    ]);
    assert_eq!(
        ready(&world),
        Some(false),
        "a file's pod without conditions says nothing"
    );
    let says = |says_ready, draining| {
        Object::Pod(Pod {
            says_ready,
            draining,
            ..pod("web-1", "web", "10.1.0.1")
        })
    };
    world.apply([says(true, false)]);
    assert_eq!(ready(&world), Some(true));
    world.apply([says(true, true)]);
    assert_eq!(ready(&world), Some(false), "it is being deleted");
    world.apply([says(false, false)]);
    assert_eq!(ready(&world), Some(false));
}

#[test]
fn an_endpoint_whose_node_is_not_heard_of_serves_but_is_not_ready() {
    let mut world = world();
    let unready = SliceEndpoint {
        ready: false,
        serving: false,
        ..seat("web-1", "10.1.0.1")
    };
    let lost = |lost, draining| {
        Object::Pod(Pod {
            ready: false,
            lost,
            draining,
            ..pod("web-1", "web", "10.1.0.1")
        })
    };
    world.apply([
        cluster_ip("web", &["10.0.0.1"]),
        lost(true, false),
        slice("web-a", "web", vec![unready]),
    ]);
    let stands = |world: &World| {
        let endpoint = world.endpoint("shop/web/80/web-1-uid").unwrap();
        (endpoint.ready, endpoint.serving)
    };
    assert_eq!(stands(&world), (false, true));
    world.apply([lost(false, false)]);
    assert_eq!(stands(&world), (false, false));
    world.apply([lost(true, true)]);
    assert_eq!(
        stands(&world),
        (false, false),
        "it is being deleted, and its slice knows nothing of it"
    );
}

#[test]
fn one_pods_change_wakes_only_who_has_it() {
    let mut world = world();
    let pods = (0..50).map(|n| pod(&format!("c-{n}"), "catalog", &format!("10.1.0.{n}")));
    let seats = (0..50).map(|n| seat(&format!("c-{n}"), &format!("10.1.0.{n}")));
    world.apply(
        [
            cluster_ip("catalog", &["10.0.0.1"]),
            slice("a", "catalog", seats.collect()),
        ]
        .into_iter()
        .chain(pods.map(Object::Pod)),
    );
    let (all, other) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
    world
        .store
        .watch(ResourceType::Endpoint, &"shop/catalog".into(), &all);
    world
        .store
        .watch(ResourceType::Service, &"shop/catalog".into(), &other);
    world
        .store
        .watch(ResourceType::Workload, &"shop/c-8".into(), &other);
    let mut seats: Vec<SliceEndpoint> = (0..50)
        .map(|n| seat(&format!("c-{n}"), &format!("10.1.0.{n}")))
        .collect();
    seats[7].ready = false;
    world.apply([slice("a", "catalog", seats)]);
    let changed: Vec<Name> = all.take().into_iter().map(|(_, name)| name).collect();
    assert_eq!(changed, ["shop/catalog/80/c-7-uid".into()]);
    assert!(other.take().is_empty());
}

#[test]
fn a_pod_is_reached_by_its_address_with_the_policy_of_its_oldest_headless_service() {
    let mut world = world();
    let headless = |name: &str, created| {
        let mut headless = service(name, Reach::Headless);
        headless.created = Some(created);
        Object::Service(headless)
    };
    world.apply([
        Object::Pod(pod("db-0", "db", "10.1.0.1")),
        as_object(policy("general", None, breaker(Some(9), None))),
    ]);
    let direct = world.service("address/10.1.0.1").unwrap();
    assert_eq!(
        (direct.kind(), direct.name.as_str()),
        (v1::service::Kind::Pod, "db-0")
    );
    assert_eq!(failures(&direct), Some(9));
    assert_eq!(direct.pod.as_ref().unwrap().pod, "db-0");

    world.apply([
        headless("newer", 20),
        headless("older", 10),
        slice("n", "newer", vec![seat("db-0", "10.1.0.1")]),
        slice("o", "older", vec![seat("db-0", "10.1.0.1")]),
        as_object(policy("newer", Some("newer"), breaker(Some(2), None))),
        as_object(policy("older", Some("older"), breaker(Some(3), None))),
    ]);
    let direct = world.service("pod/shop/db-0").unwrap();
    assert_eq!(
        (direct.name.as_str(), failures(&direct)),
        ("older", Some(3))
    );
    assert_eq!(
        world.service("shop/older").unwrap().kind(),
        v1::service::Kind::Headless
    );
    world.delete(Kind::Service, "older");
    let direct = world.service("pod/shop/db-0").unwrap();
    assert_eq!(
        (direct.name.as_str(), failures(&direct)),
        ("newer", Some(2))
    );
    world.delete(Kind::Pod, "db-0");
    assert_eq!(world.service("address/10.1.0.1"), None);
}

#[test]
fn an_address_goes_to_the_newer_of_two_pods_and_back() {
    let mut world = world();
    world.apply([Object::Pod(pod("old", "a", "10.1.0.1"))]);
    world.apply([Object::Pod(pod("new", "a", "10.1.0.1"))]);
    assert_eq!(world.service("address/10.1.0.1").unwrap().name, "new");
    world.delete(Kind::Pod, "new");
    assert_eq!(world.service("address/10.1.0.1").unwrap().name, "old");
}

#[test]
fn a_service_keeps_its_address_from_another() {
    let mut world = world();
    world.apply([cluster_ip("first", &["10.0.0.1"])]);
    world.apply([cluster_ip("b", &["10.0.0.1"])]);
    assert_eq!(world.service("address/10.0.0.1").unwrap().name, "first");
    assert_eq!(world.core.notes()[0].key.id.name, "b".into());
}

#[test]
fn a_service_that_takes_a_pods_address_is_named_with_the_pod() {
    let mut world = world();
    world.apply([Object::Pod(pod("web-1", "web", "10.0.0.1"))]);
    assert_eq!(world.core.notes(), []);
    world.apply([cluster_ip("thief", &["10.0.0.1"])]);
    let note = &world.core.notes()[0];
    assert_eq!(
        (&*note.key.id.name, note.field.as_str()),
        ("thief", "spec.clusterIP")
    );
    assert!(note.message.contains("Pod shop/web-1"), "{note:?}");
}

#[test]
fn every_workload_says_where_reports_go_and_only_workloads_change_with_it() {
    let mut world = world();
    let objects = [
        cluster_ip("web", &["10.0.0.1"]),
        Object::Pod(pod("web-1", "web", "10.1.0.1")),
        Object::Pod(pod("web-2", "web", "10.1.0.2")),
    ];
    world.apply(objects);
    assert_eq!(world.workload("shop/web-1").reports_address, "");
    let version = |world: &World, kind, name: &str| world.store.find(kind, name).unwrap();
    let service = version(&world, ResourceType::Service, "shop/web");
    let direct = version(&world, ResourceType::Service, "pod/shop/web-1");
    let leader = "10.2.0.9:15110";
    for _ in 0..2 {
        let told = [Event::ReportsAddress(Some(leader.parse().unwrap()))];
        world.core.handle(told);
        for pod in ["shop/web-1", "shop/web-2"] {
            assert_eq!(world.workload(pod).reports_address, leader);
        }
    }
    world.apply([Object::Pod(pod("web-3", "web", "10.1.0.3"))]);
    assert_eq!(world.workload("shop/web-3").reports_address, leader);
    for before in [service, direct] {
        let now = version(&world, ResourceType::Service, &before.name);
        assert_eq!(now.version, before.version);
    }
    world.core.handle([Event::ReportsAddress(None)]);
    assert_eq!(world.workload("shop/web-1").reports_address, "");
}

#[test]
fn a_resource_knows_the_policies_that_take_part_in_it() {
    let mut world = world();
    let objects = [
        cluster_ip("web", &["10.0.0.1"]),
        cluster_ip("other", &["10.0.0.2"]),
        as_object(policy("web", Some("web"), breaker(Some(3), None))),
    ];
    world.apply(objects);
    let of = |world: &World| -> Vec<(String, Vec<Id>)> {
        let taking_part = world
            .store
            .with_policies(ResourceType::Service, Kind::TrafficPolicy)
            .into_iter();
        let named = taking_part.map(|one| (one.0.name.to_string(), one.0.policies.clone()));
        named.collect()
    };
    assert_eq!(
        of(&world),
        [("shop/web".to_owned(), vec![Id::new("shop", "web")])]
    );
    world.delete(Kind::TrafficPolicy, "web");
    assert!(of(&world).is_empty());
}

#[test]
fn an_external_name_has_no_resource_and_is_said() {
    let mut world = world();
    world.apply([Object::Service(service("outside", Reach::ExternalName))]);
    assert_eq!(world.service("shop/outside"), None);
    assert_eq!(world.core.notes()[0].field, "spec.externalName");
    // Nothing can be in force there, and the policy does not say that it is.
    world.apply([as_object(policy(
        "p",
        Some("outside"),
        breaker(Some(3), None),
    ))]);
    assert_eq!(world.reasons()["p"], Reason::Invalid);
    world.apply([cluster_ip("outside", &["10.0.0.1"])]);
    assert_eq!(world.reasons()["p"], Reason::Accepted);
}

#[test]
fn a_workload_enforces_the_limits_of_every_service_that_covers_its_port() {
    let mut world = world();
    let mut opaque = pod("c-1", "catalog", "10.1.0.1");
    opaque.ports = vec![("db".into(), 3306), ("".into(), 9000)];
    opaque.opaque_ports = vec![remora_proto::ports::PortRange::single(3306)];
    let mut second = service("second", Reach::ClusterIp(Vec::new()));
    second.selector = [("app".to_owned(), "catalog".to_owned())].into();
    second.ports = vec![port("http", 8080, v1::Protocol::Http1)];
    world.apply([
        Object::Pod(opaque),
        cluster_ip("catalog", &["10.0.0.1"]),
        slice("a", "catalog", vec![seat("c-1", "10.1.0.1")]),
        Object::Service(second),
        as_object(policy("one", Some("catalog"), rate("one", false))),
        as_object(policy("two", Some("second"), rate("two", false))),
        as_object(policy("general", None, rate("general", false))),
    ]);
    let workload = world.workload("shop/c-1");
    let port = |number: u32| {
        workload
            .ports
            .iter()
            .find(|port| port.port == number)
            .unwrap()
    };
    let names = |limits: &[v1::RateLimit]| {
        limits
            .iter()
            .map(|limit| limit.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&port(8080).rate_limits), ["one", "two"]);
    assert_eq!(names(&port(9000).rate_limits), ["general"]);
    assert_eq!(names(&workload.rate_limits), ["general"]);
    assert_eq!(port(8080).protocol(), v1::Protocol::Http1);
    assert_eq!(port(3306).protocol(), v1::Protocol::Tcp);
    assert_eq!(world.service("shop/catalog").unwrap().policy, None);
    // The selector of the second is turned away.
    let mut second = service("second", Reach::ClusterIp(Vec::new()));
    second.selector = [("app".to_owned(), "other".to_owned())].into();
    world.apply([Object::Service(second)]);
    let workload = world.workload("shop/c-1");
    let covered = workload
        .ports
        .iter()
        .find(|port| port.port == 8080)
        .unwrap();
    assert_eq!(names(&covered.rate_limits), ["one"]);
}

/// Of `count` Services on the same pod each with a policy of so many limits.
fn crowd(count: usize, limits: usize) -> Vec<Object> {
    let mut objects = vec![Object::Pod(pod("p", "all", "10.1.0.1"))];
    for at in 0..count {
        let name = format!("s{at:0>2}");
        let mut service = service(&name, Reach::ClusterIp(Vec::new()));
        service.selector = [("app".to_owned(), "all".to_owned())].into();
        let mut settings = rate("0", false);
        let one = settings.rate_limits.as_ref().unwrap()[0].clone();
        let named = (0..limits).map(|index| {
            let mut limit = one.clone();
            limit.limit.name = index.to_string();
            limit.limit.policy = format!("shop/{name}");
            limit
        });
        settings.rate_limits = Some(named.collect());
        let mut policy = policy(&name, Some(&name), settings);
        // The last Service has the oldest policy.
        policy.created = Some(1_000 - at as i64);
        objects.extend([Object::Service(service), as_object(policy)]);
    }
    objects
}

#[test]
fn what_many_services_have_of_one_namespace_stands_on_a_port_once_and_is_no_crowd() {
    use crate::core::settings::Admission;
    use remora_proto::bounds::MAX_PORT_POLICIES;
    let mut world = world();
    let services = crowd(MAX_PORT_POLICIES + 2, 0).into_iter();
    world.apply(services.filter(|one| !matches!(one, Object::TrafficPolicy(_))));
    let admission = Some(Admission {
        max_requests: Some(5),
        ..Admission::default()
    });
    let settings = Settings {
        admission,
        ..Settings::default()
    };
    world.apply([as_object(policy("all", None, settings))]);
    assert_eq!(world.reasons()["all"], Reason::Accepted);
    assert_eq!(world.workload("shop/p").ports[0].admissions.len(), 1);
}

#[test]
fn what_policies_have_together_on_a_port_is_bounded_and_the_oldest_keep_theirs() {
    use remora_proto::bounds::{MAX_POLICY_RATE_LIMITS, MAX_PORT_POLICIES, MAX_RATE_LIMITS};
    let mut full = world();
    full.apply(crowd(MAX_PORT_POLICIES, MAX_POLICY_RATE_LIMITS));
    let limits = |world: &World| world.workload("shop/p").ports[0].rate_limits.clone();
    assert_eq!(limits(&full).len(), MAX_RATE_LIMITS);
    assert!(
        full.reasons()
            .values()
            .all(|reason| *reason == Reason::Accepted)
    );

    let mut world = world();
    world.apply(crowd(MAX_PORT_POLICIES + 2, MAX_POLICY_RATE_LIMITS));
    let held = limits(&world);
    assert_eq!(held.len(), MAX_RATE_LIMITS);
    for youngest in ["s00", "s01"] {
        let of = format!("shop/{youngest}");
        assert!(held.iter().all(|limit| limit.policy != of), "{youngest}");
        assert_eq!(world.reasons()[youngest], Reason::Invalid);
    }
    let conditions = world.core.conditions();
    let said = conditions.iter().filter(|condition| !condition.accepted);
    let said: Vec<_> = said.collect();
    assert_eq!(said.len(), 2);
    assert!(said[0].message.contains("Pod shop/p") && said[0].message.contains("512"));
    // There is room again, for the older of the two.
    world.delete(Kind::TrafficPolicy, "s09");
    assert_eq!(world.reasons()["s01"], Reason::Accepted);
    assert_eq!(world.reasons()["s00"], Reason::Invalid);
    // Without the pod nothing is left out.
    world.delete(Kind::Pod, "p");
    assert!(
        world
            .reasons()
            .values()
            .all(|reason| *reason == Reason::Accepted)
    );
}

#[test]
fn a_workload_is_bounded_in_bytes_too() {
    use remora_proto::bounds::MAX_WORKLOAD_RATE_LIMIT_BYTES;
    let mut settings = rate("one", false);
    if let Some(limits) = &mut settings.rate_limits {
        limits[0].limit.name = "n".repeat(MAX_WORKLOAD_RATE_LIMIT_BYTES / 2);
    }
    let mut world = world();
    world.apply([
        Object::Pod(pod("web-1", "web", "10.1.0.1")),
        as_object(policy("general", None, settings)),
    ]);
    assert_eq!(world.reasons()["general"], Reason::Accepted);
    // Once for the port, once for all others.
    world.apply([cluster_ip("web", &["10.0.0.1"])]);
    assert_eq!(world.reasons()["general"], Reason::Invalid);
    assert!(world.workload("shop/web-1").encoded_len() < MAX_WORKLOAD_RATE_LIMIT_BYTES);
}

mod order {
    use proptest::prelude::*;

    use super::*;

    /// Whatever the order of events, with deletions and repetitions between
    /// them, in the end there are the same resources.
    fn all(world: &World) -> Vec<(String, String)> {
        let names = [
            "shop/catalog",
            "shop/db",
            "pod/shop/p-0",
            "pod/shop/p-1",
            "address/10.1.0.0",
        ];
        let members = ["shop/catalog", "shop/db"]
            .map(|prefix| world.store.members(ResourceType::Endpoint, prefix));
        let services = names
            .iter()
            .map(|name| (ResourceType::Service, (*name).to_owned()));
        let workloads =
            ["shop/p-0", "shop/p-1"].map(|name| (ResourceType::Workload, name.to_owned()));
        let endpoints = members
            .into_iter()
            .flatten()
            .map(|name| (ResourceType::Endpoint, name.to_string()));
        let found = services
            .chain(workloads)
            .chain(endpoints)
            .map(|(kind, name)| {
                let version = world
                    .store
                    .find(kind, &name)
                    .map(|resource| resource.version.to_string());
                (name, version.unwrap_or_default())
            });
        found.collect()
    }

    fn objects() -> Vec<Object> {
        let dated = |mut dated: TrafficPolicy, created| {
            dated.created = Some(created);
            Object::TrafficPolicy(Box::new(dated))
        };
        let mut headless = service("db", Reach::Headless);
        headless.created = Some(1);
        vec![
            cluster_ip("catalog", &["10.0.0.1"]),
            Object::Service(headless),
            Object::Pod(pod("p-0", "catalog", "10.1.0.0")),
            Object::Pod(pod("p-1", "db", "10.1.0.1")),
            slice(
                "a",
                "catalog",
                vec![seat("p-0", "10.1.0.0"), seat("p-1", "10.1.0.1")],
            ),
            slice("b", "db", vec![seat("p-1", "10.1.0.1")]),
            dated(policy("one", Some("catalog"), breaker(Some(3), None)), 1),
            dated(policy("two", Some("catalog"), breaker(Some(4), None)), 2),
            dated(policy("limit", Some("db"), rate("limit", false)), 3),
            dated(policy("general", None, rate("general", false)), 4),
        ]
    }

    proptest! {
        #[test]
        fn the_order_of_events_does_not_matter(
            noise in proptest::collection::vec((0usize..10, any::<bool>()), 0..40),
            last in Just((0usize..10).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let objects = objects();
            let mut plain = world();
            plain.apply(objects.clone());
            let mut world = world();
            for (index, apply) in noise {
                let object = objects[index].clone();
                let event = if apply { Event::Apply(object) } else { Event::Delete(object.key()) };
                world.core.handle([event]);
            }
            for index in last {
                world.apply([objects[index].clone()]);
            }
            prop_assert_eq!(all(&plain), all(&world));
            for object in &objects {
                world.core.handle([Event::Delete(object.key())]);
            }
            for kind in ResourceType::ALL {
                prop_assert_eq!(world.store.count(kind), 0);
            }
        }
    }
}

#[test]
fn where_nothing_is_ever_injected_no_pod_lacks_a_sidecar() {
    let mut world = world();
    for name in ["kube-system", "remora-system", "shop"] {
        let bare = Pod {
            id: Id::new(name, "bare"),
            sidecar: false,
            ..pod("bare", "a", "10.0.0.1")
        };
        let labelled = Namespace {
            id: Id::new(name, name),
            inject: true,
        };
        world.apply([Object::Namespace(labelled), Object::Pod(bare)]);
    }
    let lacking: Vec<_> = world.core.without_sidecar().collect();
    assert_eq!(lacking.len(), 1);
    assert_eq!(&*lacking[0].id.namespace, "shop");
}

#[test]
fn a_running_pod_that_should_have_a_sidecar_and_has_none_is_named() {
    let mut world = world();
    let namespace = |inject| {
        Object::Namespace(Namespace {
            id: Id::new("shop", "shop"),
            inject,
        })
    };
    let bare = |name: &str| Pod {
        sidecar: false,
        ..pod(name, "a", "10.0.0.1")
    };
    world.apply([
        Object::Pod(bare("bare")),
        Object::Pod(pod("injected", "a", "10.0.0.2")),
        Object::Pod(Pod {
            running: false,
            ..bare("pending")
        }),
        Object::Pod(Pod {
            draining: true,
            ..bare("leaving")
        }),
        Object::Pod(Pod {
            declines_sidecar: true,
            ..bare("declines")
        }),
    ]);
    let named = |world: &World| {
        let pods = world.core.without_sidecar();
        pods.map(|pod| pod.id.name.to_string()).collect::<Vec<_>>()
    };
    assert!(named(&world).is_empty(), "the namespace is not known");
    world.apply([namespace(false)]);
    assert!(named(&world).is_empty());
    world.apply([namespace(true)]);
    assert_eq!(named(&world), ["bare"]);
    world.core.handle([Event::Delete(Key {
        kind: Kind::Namespace,
        id: Id::new("shop", "shop"),
    })]);
    assert!(named(&world).is_empty());
}
