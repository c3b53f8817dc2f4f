use std::net::IpAddr;
use std::time::Duration;

use remora_proto::discovery::Resource;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::policy::breaker::{Outcome, State};
use crate::policy::config::AttemptEnd;
use crate::state::departed::KEEP_DEPARTED;
use crate::state::subscriptions::{IDLE, MAX_SUBSCRIPTIONS, MAX_UNKNOWN};
use crate::state::testing::{self, endpoint_resource, service_resource, workload_resource};

/// A controller whose stream is open, under a clock of its own.
struct Bench {
    controller: Controller,
    mesh: Arc<Mesh>,
    now: Timestamp,
    nonce: u64,
    _questions: mpsc::Receiver<Demand>,
}

impl Bench {
    fn new() -> Self {
        let (mesh, questions) = Mesh::new();
        let identity = Identity {
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            ..Default::default()
        };
        let now = Timestamp::from_millis(10_000);
        let mut controller = Controller::new(&identity, mesh.clone());
        controller.connected(now);
        let mut bench = Self {
            controller,
            mesh,
            now,
            nonce: 0,
            _questions: questions,
        };
        bench.requests();
        bench
    }

    fn ask(&mut self, target: Target) -> oneshot::Receiver<Resolution> {
        let (reply, answer) = oneshot::channel();
        self.controller.demand(
            Demand {
                target,
                is_called: true,
                reply,
            },
            self.now,
        );
        answer
    }

    fn ask_address(&mut self, address: &str) -> oneshot::Receiver<Resolution> {
        self.ask(Target::Address(address.parse().unwrap()))
    }

    fn send(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> Option<String> {
        self.nonce += 1;
        let response = testing::response(kind, &self.nonce.to_string(), resources, removed);
        self.controller.receive(response, self.now)
    }

    /// Names subscribed to and unsubscribed from since the last look.
    fn requests(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut subscribed, mut unsubscribed) = (Vec::new(), Vec::new());
        while let Some(request) = self.controller.next_request() {
            subscribed.extend(request.resource_names_subscribe);
            unsubscribed.extend(request.resource_names_unsubscribe);
        }
        (subscribed, unsubscribed)
    }

    /// `shop/catalog` at 10.0.0.1 with one pod, asked for and arrived.
    fn with_catalog() -> Self {
        let mut bench = Self::new();
        let _answer = bench.ask_address("10.0.0.1");
        bench.send_catalog("1");
        bench.requests();
        bench.send_pod("catalog-1", 1);
        bench.requests();
        bench
    }

    fn send_catalog(&mut self, version: &str) {
        let catalog = service_resource(&testing::service("catalog", 1), version);
        self.send(Kind::Service, vec![catalog], &[]);
    }

    fn send_pod(&mut self, pod: &str, last: u8) {
        let endpoint = endpoint_resource(&testing::endpoint("catalog", pod, last), "1");
        self.send(Kind::Endpoint, vec![endpoint], &[]);
    }

    fn catalog(&self) -> Option<Arc<Service>> {
        match self.mesh.lookup(address("10.0.0.1"), self.now)? {
            Resolution::Service(service) => Some(service),
            Resolution::Unknown | Resolution::NoAnswer => None,
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.controller.sweep(self.now);
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_service_counts_only_once_its_endpoints_have_arrived() {
    let mut bench = Bench::new();
    let mut answer = bench.ask_address("10.0.0.1");
    assert_eq!(bench.requests().0, ["address/10.0.0.1"]);
    bench.send_catalog("1");
    assert_eq!(bench.requests().0, ["shop/catalog/*"]);
    assert!(
        answer.try_recv().is_err() && bench.catalog().is_none(),
        "no false absence of endpoints"
    );

    bench.send_pod("catalog-1", 1);
    let Ok(Resolution::Service(service)) = answer.try_recv() else {
        panic!("not resolved");
    };
    assert_eq!(service.name.as_ref(), "shop/catalog");
    let endpoints = service.endpoints(8080).unwrap();
    assert_eq!(
        endpoints[0].config.address,
        "10.1.0.1:8080".parse().unwrap()
    );
    assert!(service.endpoints(9090).is_none());
}

#[test]
fn a_service_without_endpoints_is_known_to_have_none() {
    let mut bench = Bench::new();
    let mut answer = bench.ask_address("10.0.0.1");
    bench.send_catalog("1");
    bench.requests();
    bench.send(Kind::Endpoint, Vec::new(), &[]);
    let Ok(Resolution::Service(service)) = answer.try_recv() else {
        panic!("not resolved");
    };
    assert!(service.endpoints_by_port.is_empty());
}

#[test]
fn an_answer_that_two_questions_share_is_asked_for_again() {
    let mut bench = Bench::new();
    let mut cart = bench.ask_address("10.0.0.2");
    let mut catalog = bench.ask_address("10.0.0.1");
    let both = [("cart", 2), ("catalog", 1)];
    let both = both.map(|(name, last)| service_resource(&testing::service(name, last), "1"));
    bench.send(Kind::Service, both.to_vec(), &[]);
    bench.requests();
    // One empty response for both collections.
    bench.send(Kind::Endpoint, Vec::new(), &[]);
    assert!(cart.try_recv().is_ok() && catalog.try_recv().is_err());
    assert!(bench.controller.ask_again(bench.now));
    assert_eq!(bench.requests().0, Vec::<String>::new(), "not at once");
    bench.now = bench.now.after(ASK_AGAIN);
    assert!(bench.controller.ask_again(bench.now));
    assert_eq!(bench.requests().0, ["shop/catalog/*"]);
    bench.send(Kind::Endpoint, Vec::new(), &[]);
    assert!(matches!(catalog.try_recv(), Ok(Resolution::Service(_))));
    assert!(!bench.controller.ask_again(bench.now));
}

#[test]
fn an_unknown_address_stays_known_to_be_so_until_it_appears() {
    let mut bench = Bench::new();
    let mut answer = bench.ask_address("10.0.0.1");
    bench.send(Kind::Service, Vec::new(), &["address/10.0.0.1"]);
    assert!(matches!(answer.try_recv(), Ok(Resolution::Unknown)));
    let known = bench.mesh.lookup(address("::ffff:10.0.0.1"), bench.now);
    assert!(
        matches!(known, Some(Resolution::Unknown)),
        "without asking again"
    );
    assert_eq!(bench.mesh.counts().unknown_held, 1);

    bench.send_catalog("1");
    bench.requests();
    bench.send_pod("catalog-1", 1);
    assert!(bench.catalog().is_some());
    assert_eq!(bench.mesh.counts().unknown_held, 0);
}

#[test]
fn a_pod_address_needs_no_endpoints() {
    let mut bench = Bench::new();
    let mut answer = bench.ask_address("10.1.0.5");
    let pod = service_resource(&testing::pod_service("db-0", 5), "1");
    bench.send(Kind::Service, vec![pod], &[]);
    let Ok(Resolution::Service(service)) = answer.try_recv() else {
        panic!("not resolved");
    };
    assert_eq!(service.name.as_ref(), "pod/shop/db-0");
    assert_eq!(service.pod.as_ref().unwrap().config.pod, "db-0");
    let mut by_name = bench.ask(Target::Name("pod/shop/db-0".into()));
    bench.send(
        Kind::Service,
        vec![service_resource(&testing::pod_service("db-0", 5), "1")],
        &[],
    );
    assert!(matches!(by_name.try_recv(), Ok(Resolution::Service(_))));
}

#[test]
fn a_change_of_one_endpoint_changes_only_its_list() {
    let mut bench = Bench::with_catalog();
    let mut other = testing::endpoint("catalog", "catalog-1", 1);
    other.port = 9090;
    other.target_port = 9090;
    bench.send(Kind::Endpoint, vec![endpoint_resource(&other, "1")], &[]);
    let before = bench.catalog().unwrap();
    bench.send_pod("catalog-2", 2);
    let after = bench.catalog().unwrap();
    assert!(Arc::ptr_eq(&before.runtime, &after.runtime));
    assert!(Arc::ptr_eq(&before.config, &after.config));
    assert!(Arc::ptr_eq(
        &before.endpoints(9090).unwrap().endpoints,
        &after.endpoints(9090).unwrap().endpoints,
    ));
    let pods: Vec<&str> = after
        .endpoints(8080)
        .unwrap()
        .iter()
        .map(|e| e.config.pod.as_str())
        .collect();
    assert_eq!(pods, ["catalog-1", "catalog-2"]);
    let runtime = |service: &Service| service.endpoints(8080).unwrap()[0].runtime.clone();
    assert!(Arc::ptr_eq(&runtime(&before), &runtime(&after)));
}

#[test]
fn an_endpoint_that_comes_back_under_the_same_uid_finds_its_state() {
    let mut bench = Bench::with_catalog();
    let runtime = |bench: &Bench| {
        bench.catalog().unwrap().endpoints(8080).unwrap()[0]
            .runtime
            .clone()
    };
    let before = runtime(&bench);
    let name = "shop/catalog/8080/uid-catalog-1";
    bench.send(Kind::Endpoint, Vec::new(), &[name]);
    assert!(bench.catalog().unwrap().endpoints(8080).is_none());
    bench.pass(KEEP_DEPARTED / 2);
    bench.send_pod("catalog-1", 77);
    assert!(
        Arc::ptr_eq(&before, &runtime(&bench)),
        "even with another address"
    );

    let weak = Arc::downgrade(&before);
    drop(before);
    bench.send(Kind::Endpoint, Vec::new(), &[name]);
    bench.catalog();
    bench.pass(KEEP_DEPARTED);
    assert!(weak.upgrade().is_none(), "kept for a named time only");
}

/// What the control plane is told must not stay open for an endpoint that is gone.
#[test]
fn a_breaker_of_what_is_gone_is_told_as_closed() {
    let mut bench = Bench::with_catalog();
    let mut catalog = testing::service("catalog", 1);
    catalog.policy = Some(testing::breaks_at_once());
    let catalog = service_resource(&catalog, "2");
    bench.send(Kind::Service, vec![catalog.clone()], &[]);
    let runtime = bench.catalog().unwrap().endpoints(8080).unwrap()[0]
        .runtime
        .clone();
    let permit = runtime.breaker.try_admit(bench.now).unwrap();
    let failure = Outcome::Failure(AttemptEnd::ConnectFailure);
    permit.record(failure, None, bench.now, 0);
    let told = |bench: &Bench| {
        let changes = bench.mesh.journal().since(0);
        changes.last().map(|change| change.to)
    };
    assert_eq!(told(&bench), Some(State::WouldOpen), "the last one is kept");

    let pod = "shop/catalog/8080/uid-catalog-1";
    bench.send(Kind::Endpoint, Vec::new(), &[pod]);
    assert_eq!(told(&bench), Some(State::Closed));
    bench.send_pod("catalog-1", 1);
    assert_eq!(told(&bench), Some(State::WouldOpen), "as it was");
    let service = ["shop/catalog", "address/10.0.0.1"];
    bench.send(Kind::Service, Vec::new(), &service);
    bench.send(Kind::Endpoint, Vec::new(), &[pod]);
    assert_eq!(told(&bench), Some(State::Closed));
    bench.send(Kind::Service, vec![catalog], &[]);
    bench.send_pod("catalog-1", 1);
    assert_eq!(told(&bench), Some(State::WouldOpen));
}

#[test]
fn a_service_that_comes_back_finds_its_state() {
    let mut bench = Bench::with_catalog();
    let before = bench.catalog().unwrap();
    bench.send(
        Kind::Service,
        Vec::new(),
        &["shop/catalog", "address/10.0.0.1"],
    );
    assert!(matches!(
        bench.mesh.lookup(address("10.0.0.1"), bench.now),
        Some(Resolution::Unknown)
    ));
    assert_eq!(bench.requests().1, Vec::<String>::new());
    let pod = "shop/catalog/8080/uid-catalog-1";
    bench.send(Kind::Endpoint, Vec::new(), &[pod]);
    bench.send_catalog("2");
    assert_eq!(bench.requests().0, ["shop/catalog/*"]);
    assert!(
        bench.catalog().is_none(),
        "its endpoints have not arrived again"
    );
    bench.send_pod("catalog-1", 1);
    let after = bench.catalog().unwrap();
    assert!(Arc::ptr_eq(&before.runtime, &after.runtime));
    let runtime = |service: &Service| service.endpoints(8080).unwrap()[0].runtime.clone();
    assert!(Arc::ptr_eq(&runtime(&before), &runtime(&after)));
}

#[test]
fn a_service_that_went_away_is_kept_for_a_named_time_only() {
    let mut bench = Bench::with_catalog();
    bench.send(
        Kind::Service,
        Vec::new(),
        &["shop/catalog", "address/10.0.0.1"],
    );
    bench.requests();
    bench.pass(KEEP_DEPARTED);
    assert!(bench.requests().1.contains(&"shop/catalog/*".to_owned()));
}

#[test]
fn what_was_given_up_and_wanted_again_at_once_needs_a_new_stream() {
    let mut bench = Bench::with_catalog();
    bench.pass(IDLE);
    let _answer = bench.ask_address("10.0.0.1");
    bench.send_catalog("1");
    assert!(bench.controller.is_ambiguous());
    bench.controller.connected(bench.now);
    assert!(!bench.controller.is_ambiguous());

    let mut bench = Bench::with_catalog();
    bench.pass(IDLE);
    bench.pass(ANSWERED_SURELY);
    let _answer = bench.ask_address("10.0.0.1");
    bench.send_catalog("1");
    assert!(!bench.controller.is_ambiguous());
}

#[test]
fn what_is_idle_is_dropped_and_found_again_while_somebody_holds_it() {
    let mut bench = Bench::with_catalog();
    let held = bench.catalog().unwrap();
    bench.pass(IDLE / 2);
    assert!(bench.catalog().is_some(), "a use");
    bench.pass(IDLE / 2);
    assert!(bench.requests().1.is_empty());
    bench.pass(IDLE);
    let mut dropped = bench.requests().1;
    dropped.sort();
    assert_eq!(dropped, ["address/10.0.0.1", "shop/catalog/*"]);
    assert!(bench.catalog().is_none());
    assert_eq!(bench.mesh.status().applied, []);

    let _answer = bench.ask_address("10.0.0.1");
    bench.send_catalog("1");
    bench.requests();
    bench.send_pod("catalog-1", 1);
    let again = bench.catalog().unwrap();
    assert!(
        Arc::ptr_eq(&held.runtime, &again.runtime),
        "what it counts stays exact"
    );
}

#[test]
fn a_touched_service_is_not_idle() {
    let mut bench = Bench::with_catalog();
    let held = bench.catalog().unwrap();
    for _ in 0..4 {
        bench.pass(IDLE / 2);
        held.touch(bench.now);
    }
    assert!(bench.catalog().is_some());
}

#[test]
fn the_least_recently_used_make_room() {
    let mut bench = Bench::new();
    for index in 0..MAX_SUBSCRIPTIONS {
        let _answer = bench.ask(Target::Name(format!("shop/s{index}").into()));
        bench.now = bench.now.after(Duration::from_millis(1));
    }
    bench.requests();
    let _answer = bench.ask(Target::Name("shop/one-more".into()));
    let (subscribed, unsubscribed) = bench.requests();
    assert_eq!(subscribed, ["shop/one-more"]);
    assert_eq!(unsubscribed, ["shop/s0"]);
    assert_eq!(bench.controller.subscriptions.count(), MAX_SUBSCRIPTIONS);
}

#[test]
fn unknown_addresses_are_bounded_too() {
    let mut bench = Bench::new();
    for index in 0..=MAX_UNKNOWN {
        let name = format!("shop/s{index}");
        let _answer = bench.ask(Target::Name(name.as_str().into()));
        bench.send(Kind::Service, Vec::new(), &[&name]);
        bench.now = bench.now.after(Duration::from_millis(1));
    }
    assert_eq!(bench.controller.subscriptions.unknown(), MAX_UNKNOWN);
}

#[test]
fn a_service_that_cannot_be_taken_keeps_nobody_waiting() {
    let mut bench = Bench::new();
    let mut answer = bench.ask_address("10.0.0.1");
    let mut bad = testing::service("catalog", 1);
    bad.ports[0].port = 0;
    let error = bench
        .send(Kind::Service, vec![service_resource(&bad, "1")], &[])
        .unwrap();
    assert!(error.contains("shop/catalog: ports[0].port"), "{error}");
    assert!(matches!(answer.try_recv(), Ok(Resolution::NoAnswer)));
    let status = bench.mesh.status();
    assert_eq!(status.refused[0].name, "shop/catalog");
    assert_eq!(status.counts.refusals, 1);
}

#[test]
fn a_refused_version_changes_nothing() {
    let mut bench = Bench::with_catalog();
    let before = bench.catalog().unwrap();
    let mut bad = testing::service("catalog", 1);
    bad.addresses.push(Default::default());
    assert!(
        bench
            .send(Kind::Service, vec![service_resource(&bad, "2")], &[])
            .is_some()
    );
    let mut bad = testing::endpoint("catalog", "catalog-1", 1);
    bad.target_port = 0;
    assert!(
        bench
            .send(Kind::Endpoint, vec![endpoint_resource(&bad, "2")], &[])
            .is_some()
    );
    let after = bench.catalog().unwrap();
    assert!(Arc::ptr_eq(&before.config, &after.config));
    assert_eq!(after.endpoints(8080).unwrap().len(), 1);
    let status = bench.mesh.status();
    assert_eq!((status.applied.len(), status.refused.len()), (2, 2));
    assert!(status.applied.iter().all(|applied| applied.version == "1"));
}

#[test]
fn losing_the_stream_changes_nothing() {
    let mut bench = Bench::with_catalog();
    bench.controller.accepted();
    bench.controller.disconnected();
    assert!(!bench.mesh.is_connected());
    bench.pass(IDLE - Duration::from_secs(1));
    assert!(bench.catalog().is_some());
    bench.controller.connected(bench.now);
    bench.requests();
    assert!(bench.catalog().is_some());
}

#[test]
fn ready_with_the_workload_and_never_unready_again() {
    let mut bench = Bench::new();
    let (ready, draining) = (bench.mesh.ready(), bench.mesh.draining());
    assert!(!*ready.borrow() && bench.mesh.load().workload().is_none());
    bench.send(
        Kind::Workload,
        vec![workload_resource(&testing::workload(), "1")],
        &[],
    );
    assert!(*ready.borrow() && !*draining.borrow());
    let mut ending = testing::workload();
    ending.draining = true;
    bench.send(Kind::Workload, vec![workload_resource(&ending, "2")], &[]);
    assert!(*draining.borrow());
    bench.send(Kind::Workload, Vec::new(), &["shop/web-1"]);
    bench.controller.disconnected();
    assert!(*ready.borrow() && *draining.borrow());
    assert!(
        bench.mesh.load().workload().is_some(),
        "the last good one stays"
    );
}

#[test]
fn an_alias_that_a_service_gave_up_is_unknown() {
    let mut bench = Bench::with_catalog();
    let mut moved = testing::service("catalog", 9);
    moved.policies.clear();
    let _also_by_name = bench.ask(Target::Name("shop/catalog".into()));
    bench.send(Kind::Service, vec![service_resource(&moved, "2")], &[]);
    assert!(matches!(
        bench.mesh.lookup(address("10.0.0.1"), bench.now),
        Some(Resolution::Unknown)
    ));
    assert!(matches!(
        bench.mesh.lookup_name("shop/catalog", bench.now),
        Some(Resolution::Service(_))
    ));
}

/// `shop/<name>` whose routes lead to these others.
fn leading(name: &str, last: u8, to: &[&str]) -> Resource {
    let backends = to.iter().map(|service| remora_proto::v1::RouteBackend {
        backend: Some(remora_proto::v1::BackendReference {
            namespace: "shop".to_owned(),
            service: (*service).to_owned(),
            port: 8080,
            cannot: String::new(),
        }),
        weight: 1,
        filters: Vec::new(),
    });
    let rule = remora_proto::v1::RouteRule {
        route: Some(remora_proto::v1::RouteReference {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: "canary".to_owned(),
            ..Default::default()
        }),
        backends: backends.collect(),
        ..Default::default()
    };
    let mut service = testing::service(name, last);
    service.routes = vec![remora_proto::v1::PortRoutes {
        ports: vec![8080],
        grpc: false,
        rules: vec![rule],
    }];
    service_resource(&service, &format!("{name}-{to:?}"))
}

#[test]
fn what_routes_lead_to_is_wanted_with_the_service_and_goes_with_it() {
    let mut bench = Bench::with_catalog();
    bench.send(
        Kind::Service,
        vec![leading("catalog", 1, &["v1", "v2", "catalog"])],
        &[],
    );
    // Not what it is itself.
    assert_eq!(bench.requests().0, ["shop/v1", "shop/v2"]);
    let v1 = service_resource(&testing::service("v1", 2), "1");
    bench.send(Kind::Service, vec![v1], &[]);
    assert_eq!(bench.requests().0, ["shop/v1/*"]);
    bench.send(Kind::Endpoint, Vec::new(), &[]);
    let snapshot = bench.mesh.load_full();
    assert!(snapshot.service("shop/v1").is_some());
    assert!(
        snapshot.name("shop/v1").is_none(),
        "nobody has called it by name"
    );

    bench.send(Kind::Service, vec![leading("catalog", 1, &["v2"])], &[]);
    assert_eq!(bench.requests().1, ["shop/v1", "shop/v1/*"]);
    bench.pass(IDLE);
    let (_, unwanted) = bench.requests();
    for name in ["address/10.0.0.1", "shop/catalog/*", "shop/v2"] {
        assert!(unwanted.iter().any(|it| it == name), "{name}: {unwanted:?}");
    }
    assert_eq!(bench.mesh.counts().subscriptions, 0);
}

#[test]
fn services_whose_routes_lead_to_each_other_do_not_keep_each_other() {
    let mut bench = Bench::with_catalog();
    bench.send(Kind::Service, vec![leading("catalog", 1, &["v1"])], &[]);
    bench.send(
        Kind::Service,
        vec![leading("v1", 2, &["catalog", "v2"])],
        &[],
    );
    let (wanted, _) = bench.requests();
    assert!(
        !wanted.contains(&"shop/v2".to_owned()),
        "its routes are not followed"
    );
    // Until somebody calls it.
    let _answer = bench.ask(Target::Name("shop/v1".into()));
    assert!(bench.requests().0.contains(&"shop/v2".to_owned()));
    bench.pass(IDLE);
    bench.pass(IDLE);
    assert_eq!(bench.mesh.counts().subscriptions, 0);
}
