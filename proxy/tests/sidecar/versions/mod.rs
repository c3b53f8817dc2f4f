//! A sidecar and a control plane of different versions.
//!
//! # Layout
//! - [`story`]: what is lived through, with an older control plane's recorded
//!   words, with a newer one's, and with two real processes of any build.
//! - [`play`]: a control plane that says what another one said.
//! - [`record`]: a relay between two real ones, that writes down what they say.
//! - [`server`], [`raw`]: streams of bytes that nobody decodes.

mod play;
#[path = "../../../../proto/tests/contract/raw.rs"]
mod raw;
mod record;
mod server;
mod story;

use std::net::SocketAddr;
use std::sync::Arc;

use prost::Message;
use remora_proto::discovery::{DeltaDiscoveryResponse, Resource};
use remora_proto::v1;
use remora_proto::v1::breaker_change::State;

use self::play::{Change, Heard, Player};
use self::record::{ControlPlane, Relay};
use crate::eventually;
use crate::exchange::{self, Channel, Line};
use crate::mesh::{Mesh, Net, limits, policy, trip};
use crate::newer::Contract;
use crate::sidecar::Sidecar;
use crate::upstream::App;

/// Lives through the story with what was recorded, changed by `change`.
async fn played(lines: &[Line], change: Change) -> Heard {
    let net = Net::next();
    let address = SocketAddr::new(net.ip(1), 15110);
    let player = Player::start(address, lines, change).await;
    let sidecar = Sidecar::start(net, &player.url, Default::default()).await;
    story::live(&sidecar, net.at(2), async |number| player.world(number)).await;
    eventually("it is reported", async || {
        let reports = player.heard().reports;
        let changes = reports.iter().flat_map(|report| &report.breaker_changes);
        let mut opened = changes.filter(|change| change.to() == State::Open);
        opened.any(|change| change.endpoint == "catalog-1")
    })
    .await;
    let heard = player.heard();
    assert_eq!(heard.streams, 1, "the stream was never given up");
    heard
}

#[tokio::test]
async fn the_words_of_an_older_control_plane_are_understood() {
    let heard = played(&exchange::older(), Arc::new(|_, bytes| bytes)).await;
    assert_eq!(heard.nacks, []);
}

#[tokio::test]
async fn fields_of_a_newer_control_plane_that_nobody_knows_are_passed_over() {
    let contract = Contract::load();
    let heard = played(
        &exchange::older(),
        Arc::new(move |channel, bytes| {
            let message = match channel {
                Channel::Stream => "envoy.service.discovery.v3.DeltaDiscoveryResponse",
                Channel::Reports => "remora.v1.ReportAcknowledgement",
            };
            contract.with_unknown_fields(message, &bytes)
        }),
    )
    .await;
    assert_eq!(heard.nacks, []);
}

#[tokio::test]
async fn a_value_that_is_not_known_refuses_its_resource_and_the_last_good_one_stays() {
    let mut enums: Vec<String> = Contract::load().enums.into_keys().collect();
    enums.retain(|name| name.starts_with("remora."));
    let told = [
        "remora.v1.Authorization.Action",
        "remora.v1.BreakerChange.State",
        // Another value is UNKNOWN.
        "remora.v1.Health",
        "remora.v1.LoadBalancing.Algorithm",
        // Strict to who does not know it: see `secured`.
        "remora.v1.MtlsMode",
        // Another value is passed over with its rule.
        "remora.v1.PriorityRule.Priority",
        "remora.v1.Protocol",
        "remora.v1.RateLimit.Mode",
        "remora.v1.Service.Kind",
        "remora.v1.Trip.Scope",
    ];
    assert_eq!(
        enums, told,
        "a new enum: say in its comment what a reader does"
    );

    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(trip(|_| ()), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    let mut refused = 0;
    let mut refuses = async |what: &str| {
        refused += 1;
        eventually(what, async || mesh.control.nacks().len() == refused).await;
        let nack = mesh.control.nacks().pop().unwrap();
        assert!(nack.contains(&format!("{what} is not known")), "{nack}");
        assert_eq!(mesh.get("/").await.status, 200);
    };
    mesh.service_with("catalog", |service| service.kind = UNKNOWN);
    refuses("kind: 77").await;
    mesh.service_with("catalog", |service| service.ports[0].protocol = UNKNOWN);
    refuses("ports[0].protocol: 77").await;
    mesh.service("catalog", trip(|trip| trip.scope = UNKNOWN));
    refuses("policy.circuit_breaker.trip.scope: 77").await;
    mesh.service_with("catalog", |service| {
        let policy = service.policy.as_mut().unwrap();
        policy.rate_limits = vec![limit(|limit| limit.mode = UNKNOWN)];
    });
    refuses("policy.rate_limits[0].mode: 77").await;
    mesh.service_with("catalog", |service| {
        let policy = service.policy.as_mut().unwrap();
        policy.load_balancing = Some(v1::LoadBalancing {
            algorithm: UNKNOWN,
            ..v1::LoadBalancing::default()
        });
    });
    refuses("policy.load_balancing.algorithm: 77").await;
    mesh.workload(|workload| {
        workload.ports = vec![v1::InboundPort {
            port: 8080,
            protocol: UNKNOWN,
            ..v1::InboundPort::default()
        }];
    });
    refuses("ports[0].protocol: 77").await;
    mesh.workload(|workload| {
        workload.authorizations = vec![v1::Authorization {
            action: UNKNOWN,
            ..v1::Authorization::default()
        }];
    });
    refuses("authorizations[0].action: 77").await;
    assert_eq!(mesh.sidecar.get("/ready").await.status, 200);
    // What can be taken again is.
    mesh.service("catalog", limits(|limits| limits.max_requests = Some(0)));
    eventually("the next good one is in force", async || {
        mesh.get("/").await.reason() == "overloaded"
    })
    .await;
}

/// No value of any enum.
const UNKNOWN: i32 = 77;

fn limit(change: impl FnOnce(&mut v1::RateLimit)) -> v1::RateLimit {
    let mut limit = v1::RateLimit {
        name: "all".into(),
        policy: "shop/catalog".into(),
        requests: 1_000_000,
        per_ms: 1_000,
        burst: 1_000_000,
        max_keys: 100,
        ..v1::RateLimit::default()
    };
    change(&mut limit);
    limit
}

/// A key by something later keeps buckets apart that this sidecar would merge.
#[tokio::test]
async fn a_part_of_a_key_that_is_not_known_refuses_its_resource() {
    let mesh = Mesh::start().await;
    let app = App::ok(mesh.net.at(10)).await;
    mesh.catalog(policy(), &[app.address()]);
    assert_eq!(mesh.get("/").await.status, 200);
    mesh.service_with("catalog", |service| {
        let policy = service.policy.as_mut().unwrap();
        policy.rate_limits = vec![limit(|limit| limit.key = vec![v1::KeyPart::default()])];
    });
    eventually("it is refused", async || !mesh.control.nacks().is_empty()).await;
    let nack = mesh.control.nacks().remove(0);
    assert!(
        nack.contains("rate_limits[0].key: has a part that is not known"),
        "{nack}"
    );
    assert_eq!(mesh.get("/").await.status, 200);
}

/// A later control plane may push what nobody asked it for.
#[tokio::test]
async fn a_type_of_resource_that_is_not_known_is_refused_and_harms_nothing() {
    let mut lines = exchange::older();
    let is_first = |line: &Line| matches!(line, Line::FromControlPlane(Channel::Stream, _));
    let at = lines.iter().position(is_first).unwrap();
    let bundle = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/remora.v1.Later".into(),
        nonce: "1".into(),
        resources: vec![Resource {
            name: "shop/later".into(),
            version: "1".into(),
            ..Resource::default()
        }],
        ..DeltaDiscoveryResponse::default()
    };
    let pushed = Line::FromControlPlane(Channel::Stream, bundle.encode_to_vec());
    lines.insert(at, pushed);
    let heard = played(&lines, Arc::new(|_, bytes| bytes)).await;
    let nack = (
        "type.googleapis.com/remora.v1.Later",
        "this type of resource was not asked for",
    );
    assert_eq!(heard.nacks, [(nack.0.to_owned(), nack.1.to_owned())]);
}

/// Two real processes, of the builds that `REMORA_TEST_PROXY` (else this one)
/// and `REMORA_TEST_CONTROL_PLANE` name. With `REMORA_RECORD_AS=BUILD` what
/// they say is written down as the exchange of that build, once and for ever.
#[tokio::test]
async fn a_sidecar_and_a_control_plane_of_any_two_builds_work_together() {
    let Some(program) = std::env::var_os("REMORA_TEST_CONTROL_PLANE") else {
        eprintln!("SKIPPED: REMORA_TEST_CONTROL_PLANE names no control plane to live with");
        return;
    };
    let net = Net::next();
    let control_plane = ControlPlane::start(&program, net, &story::yaml(0)).await;
    let relay = Relay::start(net).await;
    relay.world(story::yaml(0));
    let sidecar = Sidecar::start(net, &relay.url, Default::default()).await;
    story::live(&sidecar, net.at(2), async |number| {
        // What was done before gets a report of its own.
        record::settled(&relay).await;
        relay.world(story::yaml(number));
        control_plane.change(&story::yaml(number));
    })
    .await;
    record::settled(&relay).await;
    let lines = relay.lines();
    let worlds = lines.iter().filter(|line| matches!(line, Line::World(_)));
    assert_eq!(worlds.count(), story::WORLDS);
    if let Ok(build) = std::env::var("REMORA_RECORD_AS") {
        let path = exchange::path(&build);
        assert!(!path.exists(), "{} is kept as it is", path.display());
        let head = format!(
            "What a sidecar and a control plane of the build {build} said to each other.\n\
             Recorded from the processes of that build; never to be changed.\n\
             The form of this file: proto/tests/contract/exchange.rs"
        );
        std::fs::write(path, exchange::print(&head, &lines)).unwrap();
    }
}
