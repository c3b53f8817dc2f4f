//! The contract between versions: what was said once keeps its place, and
//! what a reader does not know changes nothing of what it does.
//!
//! # Layout
//! - [`exchange`]: exchanges of older builds, under `recorded`.
//! - [`newer`]: messages as a later version may write them.
//! - `raw.rs`: gRPC without a schema. It and the others are used by the tests
//!   of both daemons, which live through such exchanges on real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say so and end"
)]

#[allow(dead_code, reason = "shared by the tests of three crates")]
mod exchange;
mod newer;

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use remora_proto::v1;

use exchange::{Channel, Line};
use newer::Contract;

/// What the message in `bytes` is to today's reader, as bytes again.
fn read(message: &str, bytes: &[u8]) -> Vec<u8> {
    fn again<T: Message + Default>(bytes: &[u8]) -> Vec<u8> {
        T::decode(bytes).unwrap().encode_to_vec()
    }
    match message {
        "remora.v1.Service" => again::<v1::Service>(bytes),
        "remora.v1.Endpoint" => again::<v1::Endpoint>(bytes),
        "remora.v1.Workload" => again::<v1::Workload>(bytes),
        "remora.v1.TrustBundle" => again::<v1::TrustBundle>(bytes),
        "remora.v1.CertificateRequest" => again::<v1::CertificateRequest>(bytes),
        "remora.v1.CertificateResponse" => again::<v1::CertificateResponse>(bytes),
        "remora.v1.SidecarReport" => again::<v1::SidecarReport>(bytes),
        "remora.v1.ReportAcknowledgement" => again::<v1::ReportAcknowledgement>(bytes),
        "envoy.service.discovery.v3.DeltaDiscoveryRequest" => again::<DeltaDiscoveryRequest>(bytes),
        "envoy.service.discovery.v3.DeltaDiscoveryResponse" => {
            again::<DeltaDiscoveryResponse>(bytes)
        }
        other => panic!("{other} is sent by itself: say here how it is read"),
    }
}

/// Messages of Remora's own that are no part of another one.
fn outermost(contract: &Contract) -> BTreeSet<String> {
    let fields = contract.messages.values().flat_map(|one| &one.field);
    let parts: BTreeSet<&str> = fields
        .map(|field| field.type_name().trim_start_matches('.'))
        .collect();
    let names = contract.messages.keys();
    let own = names.filter(|name| name.starts_with("remora.v1.") && !parts.contains(name.as_str()));
    own.cloned().collect()
}

#[test]
fn unknown_fields_in_every_message_change_nothing_that_is_read() {
    let contract = Contract::load();
    let mut sent = outermost(&contract);
    // These are parts of others too.
    sent.insert("remora.v1.Endpoint".to_owned());
    sent.insert("remora.v1.TrustBundle".to_owned());
    sent.extend(
        ["Request", "Response"]
            .map(|end| format!("envoy.service.discovery.v3.DeltaDiscovery{end}")),
    );
    assert_eq!(sent.len(), 10, "{sent:?}");
    for message in &sent {
        let known = contract.sample(message);
        let newer = contract.with_unknown_fields(message, &known);
        assert!(newer.len() > known.len() + 40);
        assert_eq!(read(message, &newer), read(message, &known), "{message}");
    }
}

#[test]
fn what_was_said_once_keeps_its_number_and_its_form() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded/fields.txt");
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let is_entry = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let held: BTreeSet<&str> = recorded.lines().filter(is_entry).collect();
    let lines = Contract::load().lines();
    let now: BTreeSet<&str> = lines.iter().map(String::as_str).collect();
    let gone: Vec<_> = held.difference(&now).collect();
    assert!(
        gone.is_empty(),
        "older sidecars and control planes speak of {gone:#?}: fields and values are only added"
    );
    let new: Vec<&str> = now.difference(&held).copied().collect();
    if new.is_empty() {
        return;
    }
    if std::env::var_os("REMORA_REGENERATE").is_some() {
        std::fs::write(&path, format!("{recorded}{}\n", new.join("\n"))).unwrap();
    } else {
        panic!(
            "new in the contract: {new:#?}; write them down for ever: REMORA_REGENERATE=1 cargo test -p remora-proto"
        );
    }
}

#[test]
fn all_that_an_older_build_said_is_still_known() {
    let mut messages = 0;
    for line in exchange::older() {
        let (message, bytes) = match &line {
            Line::World(_) => continue,
            Line::FromSidecar(Channel::Stream, bytes) => {
                ("envoy.service.discovery.v3.DeltaDiscoveryRequest", bytes)
            }
            Line::FromControlPlane(Channel::Stream, bytes) => {
                ("envoy.service.discovery.v3.DeltaDiscoveryResponse", bytes)
            }
            Line::FromSidecar(Channel::Reports, bytes) => ("remora.v1.SidecarReport", bytes),
            Line::FromControlPlane(Channel::Reports, bytes) => {
                ("remora.v1.ReportAcknowledgement", bytes)
            }
        };
        // Nothing is lost on the way through today's types.
        assert_eq!(&read(message, bytes), bytes, "{message}");
        messages += 1;
    }
    assert!(messages > 20, "{messages}");
}

#[test]
fn an_exchange_is_read_as_it_was_written() {
    let lines = exchange::older();
    assert_eq!(exchange::parse(&exchange::print("a head", &lines)), lines);
}
