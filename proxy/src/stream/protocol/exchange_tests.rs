//! A whole exchange as it would be recorded, held to the rules of the xDS
//! specification, and single rules of which it has no example.

use std::collections::HashMap;

use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource};

use super::*;

fn machine() -> Machine {
    let mut machine = Machine::new(Node {
        id: "sidecar/shop/web-1/uid".to_owned(),
        ..Default::default()
    });
    machine.connected();
    machine
}

fn resource(kind: Kind, name: &str, version: &str, aliases: &[&str]) -> Resource {
    Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        resource: Some(prost_types::Any {
            type_url: kind.type_url().to_owned(),
            value: version.as_bytes().to_vec(),
        }),
    }
}

fn response(
    kind: Kind,
    nonce: &str,
    resources: &[Resource],
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    crate::state::testing::response(kind, nonce, resources.to_vec(), removed)
}

/// Everything is good but what calls itself `bad`.
fn take(machine: &mut Machine, response: DeltaDiscoveryResponse) -> Received<String> {
    machine.receive(response, |_, _, bytes| match bytes {
        bytes if bytes.starts_with(b"bad") => Err("is bad".to_owned()),
        bytes => Ok(String::from_utf8_lossy(bytes).into_owned()),
    })
}

fn drain(machine: &mut Machine) -> Vec<DeltaDiscoveryRequest> {
    std::iter::from_fn(|| machine.next_request()).collect()
}

/// What a server that keeps to the specification may expect of every request.
#[derive(Default)]
struct Rules {
    first_seen: bool,
    introduced: BTreeSet<String>,
    subscribed: BTreeSet<(String, String)>,
    unanswered: BTreeMap<String, String>,
}

impl Rules {
    fn sent(&mut self, response: &DeltaDiscoveryResponse) {
        self.unanswered
            .insert(response.nonce.clone(), response.type_url.clone());
    }

    fn check(&mut self, request: &DeltaDiscoveryRequest) {
        assert_eq!(
            request.node.is_some(),
            !self.first_seen,
            "node: first request only"
        );
        self.first_seen = true;
        let first_of_type = self.introduced.insert(request.type_url.clone());
        if first_of_type && request.response_nonce.is_empty() {
            assert!(
                !request.resource_names_subscribe.is_empty(),
                "an empty first is a wildcard"
            );
        } else {
            assert!(
                request.initial_resource_versions.is_empty(),
                "versions: a type's first only"
            );
        }
        for name in &request.resource_names_subscribe {
            assert_ne!(name, "*");
            assert!(
                !request.resource_names_unsubscribe.contains(name),
                "no order between the two"
            );
            self.subscribed
                .insert((request.type_url.clone(), name.clone()));
        }
        for name in &request.resource_names_unsubscribe {
            let known = self
                .subscribed
                .remove(&(request.type_url.clone(), name.clone()));
            assert!(known, "{name} was never subscribed to");
        }
        if request.response_nonce.is_empty() {
            assert!(request.error_detail.is_none(), "a NACK has the nonce");
        } else {
            let answered = self.unanswered.remove(&request.response_nonce);
            assert_eq!(
                answered.as_deref(),
                Some(request.type_url.as_str()),
                "one answer, of its type"
            );
        }
    }
}

/// Subscribes, takes, refuses, loses the stream, and goes on.
#[test]
fn a_recorded_exchange_keeps_the_rules() {
    let mut machine = machine();
    let mut rules = Rules::default();
    let exchange =
        |machine: &mut Machine, rules: &mut Rules, response: Option<DeltaDiscoveryResponse>| {
            let received = response.map(|response| {
                rules.sent(&response);
                take(machine, response)
            });
            let requests = drain(machine);
            requests.iter().for_each(|request| rules.check(request));
            (received, requests)
        };
    machine.subscribe(Kind::Workload, "shop/web-1");
    machine.subscribe(Kind::Service, "address/10.0.0.1");
    let (_, requests) = exchange(&mut machine, &mut rules, None);
    assert_eq!(requests.len(), 2);

    let catalog = resource(Kind::Service, "shop/catalog", "1", &["address/10.0.0.1"]);
    let (received, requests) = exchange(
        &mut machine,
        &mut rules,
        Some(response(Kind::Service, "a", &[catalog], &[])),
    );
    assert_eq!(received.unwrap().error, None);
    assert!(requests[0].error_detail.is_none());

    machine.subscribe(Kind::Endpoint, "shop/catalog/*");
    let members = [
        resource(Kind::Endpoint, "shop/catalog/80/a", "1", &[]),
        resource(Kind::Endpoint, "shop/catalog/80/b", "bad", &[]),
    ];
    exchange(&mut machine, &mut rules, None);
    let (_, requests) = exchange(
        &mut machine,
        &mut rules,
        Some(response(Kind::Endpoint, "b", &members, &[])),
    );
    let refusal = requests[0].error_detail.as_ref().unwrap();
    assert_eq!(refusal.message, "shop/catalog/80/b: is bad");

    machine.subscribe(Kind::Service, "shop/cart");
    machine.unsubscribe(Kind::Service, "shop/cart");
    machine.unsubscribe(Kind::Service, "address/10.0.0.1");
    exchange(&mut machine, &mut rules, None);
    assert!(
        rules.unanswered.is_empty(),
        "every response is answered once"
    );

    machine.subscribe(Kind::Service, "address/10.0.0.1");
    machine.connected();
    let mut rules = Rules::default();
    let (_, requests) = exchange(&mut machine, &mut rules, None);
    let endpoints = requests
        .iter()
        .find(|request| request.type_url == Kind::Endpoint.type_url());
    let held = HashMap::from([("shop/catalog/80/a".to_owned(), "1".to_owned())]);
    assert_eq!(
        endpoints.unwrap().initial_resource_versions,
        held,
        "never the refused one"
    );
}

#[test]
fn a_refused_version_leaves_the_one_before() {
    let mut machine = machine();
    machine.subscribe(Kind::Service, "shop/web");
    let good = [resource(Kind::Service, "shop/web", "1", &[])];
    take(&mut machine, response(Kind::Service, "a", &good, &[]));
    let bad = [
        resource(Kind::Service, "shop/web", "bad2", &[]),
        resource(Kind::Service, "shop/other", "3", &[]),
    ];
    let received = take(&mut machine, response(Kind::Service, "b", &bad, &[]));
    assert!(matches!(&received.events[..], [Event::Refused { version, .. }] if version == "bad2"));
    assert_eq!(machine.version(Kind::Service, "shop/web"), Some("1"));
}

#[test]
fn a_resource_that_was_given_up_is_asked_for_in_order() {
    let mut machine = machine();
    machine.subscribe(Kind::Service, "shop/web");
    drain(&mut machine);
    machine.unsubscribe(Kind::Service, "shop/web");
    machine.subscribe(Kind::Service, "shop/web");
    let requests = drain(&mut machine);
    assert_eq!(requests[0].resource_names_unsubscribe, ["shop/web"]);
    assert_eq!(requests[1].resource_names_subscribe, ["shop/web"]);
}

#[test]
fn what_nobody_wants_is_not_taken() {
    let mut machine = machine();
    machine.subscribe(Kind::Service, "shop/web");
    let stray = [resource(Kind::Service, "shop/stray", "bad", &[])];
    let received = take(&mut machine, response(Kind::Service, "a", &stray, &[]));
    assert_eq!(
        received,
        Received {
            events: Vec::new(),
            error: None
        }
    );
}

#[test]
fn an_address_moves_from_one_service_to_another() {
    let mut machine = machine();
    machine.subscribe(Kind::Service, "address/10.0.0.1");
    let first = [resource(
        Kind::Service,
        "shop/old",
        "1",
        &["address/10.0.0.1"],
    )];
    take(&mut machine, response(Kind::Service, "a", &first, &[]));
    let second = [resource(
        Kind::Service,
        "shop/new",
        "2",
        &["address/10.0.0.1"],
    )];
    let removed = ["shop/old", "address/10.0.0.1"];
    let received = take(
        &mut machine,
        response(Kind::Service, "b", &second, &removed),
    );
    assert!(
        matches!(received.events.last(), Some(Event::Taken { name, .. }) if name == "shop/new")
    );
    let held: Vec<_> = machine.held(Kind::Service).collect();
    assert_eq!(held, [("shop/new", "2")]);
}

#[test]
fn an_address_that_moved_while_the_stream_was_away_leaves_nothing_behind() {
    let mut machine = machine();
    machine.subscribe(Kind::Service, "address/10.0.0.1");
    let old = [resource(
        Kind::Service,
        "shop/old",
        "1",
        &["address/10.0.0.1"],
    )];
    take(&mut machine, response(Kind::Service, "a", &old, &[]));
    machine.connected();
    let new = [resource(
        Kind::Service,
        "shop/new",
        "2",
        &["address/10.0.0.1"],
    )];
    let received = take(&mut machine, response(Kind::Service, "b", &new, &[]));
    let removed = Event::Removed {
        kind: Kind::Service,
        name: "shop/old".to_owned(),
    };
    assert!(received.events.contains(&removed), "{:?}", received.events);
    assert_eq!(
        machine.held(Kind::Service).collect::<Vec<_>>(),
        [("shop/new", "2")]
    );
}

#[test]
fn collections_are_asked_for_one_by_one() {
    let mut machine = machine();
    machine.subscribe(Kind::Endpoint, "shop/a/*");
    machine.subscribe(Kind::Endpoint, "shop/b/*");
    let asked: Vec<_> = drain(&mut machine)
        .into_iter()
        .map(|request| request.resource_names_subscribe)
        .collect();
    assert_eq!(asked, [["shop/a/*"], ["shop/b/*"]]);
    let received = take(&mut machine, response(Kind::Endpoint, "a", &[], &[]));
    assert_eq!(
        received.events,
        [Event::Complete {
            name: "shop/a/*".to_owned()
        }]
    );
    assert!(machine.is_complete("shop/a/*") && !machine.is_complete("shop/b/*"));
    let received = take(
        &mut machine,
        response(Kind::Endpoint, "b", &[], &["shop/b/*"]),
    );
    assert_eq!(
        received.events.last(),
        Some(&Event::Complete {
            name: "shop/b/*".to_owned()
        })
    );
}

#[test]
fn malformed_responses_are_refused_whole_or_in_part() {
    let mut machine = machine();
    machine.subscribe(Kind::Service, "shop/web");
    let mut foreign = resource(Kind::Service, "shop/web", "1", &[]);
    foreign.resource.as_mut().unwrap().type_url = "x".to_owned();
    let mut hollow = resource(Kind::Service, "shop/web", "1", &[]);
    hollow.resource = None;
    let twice = resource(Kind::Service, "shop/web", "1", &[]);
    let nameless = resource(Kind::Service, "", "1", &[]);
    let long = resource(Kind::Service, &"x".repeat(5000), "1", &[]);
    for bad in [
        vec![foreign],
        vec![hollow],
        vec![twice.clone(), twice],
        vec![nameless],
        vec![long],
    ] {
        assert!(
            take(&mut machine, response(Kind::Service, "n", &bad, &[]))
                .error
                .is_some()
        );
    }
    let mut unknown = response(Kind::Service, "z", &[], &[]);
    unknown.type_url = "type.googleapis.com/other".to_owned();
    take(&mut machine, unknown);
    let last = drain(&mut machine)
        .into_iter()
        .rfind(|request| !request.response_nonce.is_empty());
    let last = last.unwrap();
    assert_eq!(
        (last.type_url.as_str(), last.response_nonce.as_str()),
        ("type.googleapis.com/other", "z")
    );
    assert!(last.error_detail.is_some());
}

#[test]
fn a_nack_is_bounded() {
    let mut machine = machine();
    let many: Vec<_> = (0..5000)
        .map(|index| {
            let name = format!("shop/{index}");
            machine.subscribe(Kind::Service, &name);
            resource(Kind::Service, &name, "bad", &[])
        })
        .collect();
    let error = take(&mut machine, response(Kind::Service, "a", &many, &[]))
        .error
        .unwrap();
    assert!(
        error.len() < MAX_ERROR_BYTES + 64 && error.contains("more"),
        "{}",
        error.len()
    );
}
