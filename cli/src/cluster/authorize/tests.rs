//! From what a sidecar is told to the answer.

use clap::Parser;
use remora_proto::v1::authorization::Action;
use remora_proto::v1::{Authorization, CallerMatch, InboundPort, MtlsMode, PolicyReference};
use remora_proto::v1::{PathRule, RequestMatch, path_rule};

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn options(arguments: &[&str]) -> Options {
    let line = ["x", "cart-1"].into_iter().chain(arguments.iter().copied());
    Line::try_parse_from(line).unwrap().options
}

fn rule(name: &str, action: Action, from: &[&str], path: &str) -> Authorization {
    let identities = from.iter().map(ToString::to_string).collect();
    Authorization {
        policy: Some(PolicyReference {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            generation: 1,
        }),
        action: action.into(),
        from: match from {
            [] => Vec::new(),
            _ => vec![CallerMatch {
                identities,
                ..CallerMatch::default()
            }],
        },
        to: vec![RequestMatch {
            paths: vec![PathRule {
                rule: Some(path_rule::Rule::Prefix(path.to_owned())),
            }],
            ..RequestMatch::default()
        }],
        ports: vec![8080],
    }
}

fn given() -> Given {
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let port = |port, mode: MtlsMode| InboundPort {
        port,
        mtls: mode.into(),
        ..InboundPort::default()
    };
    Given {
        pod: "shop/cart-1".to_owned(),
        trust_domain: Some("cluster.local".to_owned()),
        workload: v1::Workload {
            authorizations: vec![
                rule("cart", Action::Allow, &[web], "/items"),
                rule("no-admin", Action::Deny, &[], "/items/admin"),
                rule("told", Action::Audit, &[], "/items"),
            ],
            ports: vec![
                port(8080, MtlsMode::Permissive),
                port(9090, MtlsMode::Strict),
            ],
            ..v1::Workload::default()
        },
        invalid: Vec::new(),
    }
}

fn told(arguments: &[&str]) -> Vec<(bool, String)> {
    let answer = answer(&given(), &options(arguments)).unwrap();
    let outcomes = answer.ports.into_iter().filter_map(|port| port.outcome);
    outcomes.map(|one| (one.passes, one.by)).collect()
}

#[test]
fn a_caller_gets_what_the_sidecar_would_say() {
    let of = |passes: bool, by: &str| (passes, by.to_owned());
    let none = "no Allow that counts for the port matches";
    let strict = "the port takes nothing but mutual TLS (Strict)";
    let web = ["--from", "shop/web", "--path"];
    let with = |path: &'static str| [&web[..], &[path]].concat();
    assert_eq!(
        told(&with("/items/1")),
        [
            of(true, "Allow shop/cart"),
            of(true, "no Allow counts for the port")
        ]
    );
    assert_eq!(
        told(&with("/items/./admin"))[0],
        of(false, "Deny shop/no-admin")
    );
    assert_eq!(told(&with("/other"))[0], of(false, none));
    let ambiguous = &told(&with("/items/..%2fadmin"))[0];
    assert!(!ambiguous.0 && ambiguous.1.contains("400"), "{ambiguous:?}");
    assert_eq!(
        told(&["--path", "/items"]),
        [of(false, none), of(false, strict)]
    );
    assert_eq!(
        told(&["--raw", "--from", "shop/web", "--port", "8080"]).len(),
        1
    );
    assert_eq!(told(&[]), []);
}

#[test]
fn people_read_policies_and_ports() {
    let asked = options(&["--from", "shop/web", "--path", "/items", "--port", "8080"]);
    let text = show::text(&answer(&given(), &asked).unwrap(), Paint::plain());
    let wanted = "\
Pod shop/cart-1

POLICY          ACTION   PORTS   FROM        TO
shop/cart       Allow    8080    shop/web    /items/*
shop/no-admin   Deny     8080    everybody   /items/admin/*
shop/told       Audit    8080    everybody   /items/*

GET /items from spiffe://cluster.local/ns/shop/sa/web:
PORT   MODE         ANSWER     BY
8080   Permissive   may pass   Allow shop/cart; told by shop/told
";
    assert_eq!(text, wanted);
}

#[test]
fn what_is_asked_must_be_well_formed() {
    assert!(answer(&given(), &options(&["--from", "web"])).is_err());
    let mut bare = given();
    bare.workload.ports.clear();
    let error = answer(&bare, &options(&["--raw"])).unwrap_err();
    assert!(error.to_string().contains("--port"), "{error}");
    assert!(answer(&bare, &options(&[])).unwrap().ports.is_empty());
}
