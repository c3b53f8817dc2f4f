//! The custom resource: its definition, and the reading of objects.

use proptest::prelude::*;
use remora_proto::v1::{authorization, path_rule};
use serde_json::{Value, json};

use super::{parse, words};
use crate::core::authorizations::Identity;
use crate::core::objects::Target;
use crate::core::scope::{Requirement, Scope};
use crate::policy::definition;

fn read(text: &str) -> Result<parse::Parsed, Vec<String>> {
    let value: Value = serde_saphyr::from_str(text).unwrap();
    parse::spec("shop", &value).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

#[test]
fn a_whole_policy_is_read() {
    let parsed = read(
        "targetRefs: [{kind: Service, name: cart}]
action: Deny
from:
- {identities: [spiffe://other.example/ns/shop/sa/web, shop/web], namespaces: [shop]}
to:
- {methods: [GET], paths: [/a, /b/*, /*], grpcMethods: [shop.Cart/Add, shop.Cart/*], ports: [8080]}",
    )
    .unwrap();
    assert_eq!(
        parsed.scope,
        Scope::Targets(vec![Target::Service("cart".into())])
    );
    assert_eq!(parsed.says.action, authorization::Action::Deny);
    assert_eq!(
        parsed.says.from[0].identities,
        [
            Identity::Whole("spiffe://other.example/ns/shop/sa/web".to_owned()),
            Identity::Own("shop".to_owned(), "web".to_owned()),
        ]
    );
    let rules = parsed.says.to[0]
        .paths
        .iter()
        .map(|path| path.rule.clone().unwrap());
    assert_eq!(
        rules.collect::<Vec<_>>(),
        [
            path_rule::Rule::Exact("/a".to_owned()),
            path_rule::Rule::Prefix("/b".to_owned()),
            path_rule::Rule::Prefix(String::new()),
        ]
    );
}

#[test]
fn a_selector_is_read_as_kubernetes_does() {
    let parsed = read(
        "podSelector:
  matchLabels: {app: cart}
  matchExpressions:
  - {key: track, operator: NotIn, values: [canary]}
  - {key: a, operator: Exists}
action: Audit",
    );
    let Scope::Pods(selector) = parsed.unwrap().scope else {
        panic!("not a selector");
    };
    assert_eq!(selector.0.len(), 3);
    assert_eq!(selector.0[2], Requirement::Exists("a".to_owned()));
    let labels = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    assert!(selector.selects(&labels(&[("app", "cart"), ("a", "")])));
    assert!(!selector.selects(&labels(&[("app", "cart"), ("a", ""), ("track", "canary")])));
    assert!(!selector.selects(&labels(&[("app", "cart")])));
    let Scope::Pods(all) = read("{podSelector: {}, action: Deny}").unwrap().scope else {
        panic!("not a selector");
    };
    assert!(all.selects(&labels(&[])));
}

#[test]
fn every_field_is_documented() {
    fn look(schema: &Value, path: &str, count: &mut usize) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(field["description"].is_string(), "{path}");
            *count += 1;
            look(field, &path, count);
            look(&field["items"], &path, count);
        }
    }
    let mut count = 0;
    let definition = definition::authorization();
    look(
        &definition::part_of(&definition, "spec"),
        "spec",
        &mut count,
    );
    assert!(count >= 18, "{count}");
    assert_eq!(
        definition["metadata"]["name"],
        "authorizationpolicies.remora.io"
    );
    assert_eq!(definition["spec"]["names"]["shortNames"], json!(["ap"]));
    assert_eq!(definition["spec"]["names"]["categories"], json!(["remora"]));
}

/// A rule that could never match would shut nothing.
#[test]
fn paths_are_taken_in_their_normal_form_only() {
    for good in [
        "/",
        "/*",
        "/a",
        "/a/",
        "/a/b",
        "/a/*",
        "/a.b",
        "/.a",
        "/...",
        "/a%20b",
        "/%C3%A9/*",
        "/a:b@c,(d)=!$&'+",
        "/~x_y-z",
    ] {
        assert!(words::is_path(good), "{good}");
    }
    for bad in [
        "", "*", "a", "//", "//a", "/a//b", "/a//*", "/.", "/..", "/a/..", "/../a", "/a/./b",
        "/./*", "/a*", "/*/b", "/a**", "/a;b", "/a\\b", "/a?b", "/a#b", "/a b", "/a%2Fb", "/a%41",
        "/a%20%", "/a%2", "/a%c3%a9", "/é", "/a%25", "/a%3B", "/a%00", "/a%7F", "/a%40", "/{a}",
    ] {
        assert!(!words::is_path(bad), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_value_panics(text in "[ -~]{0,40}", number in any::<i64>()) {
        for value in [json!(text), json!(number), json!([text, number]), json!({text.as_str(): number})] {
            for field in ["action", "from", "to", "podSelector", "targetRefs"] {
                let _ = parse::spec("shop", &json!({field: value}));
            }
            let _ = parse::spec("shop", &json!({
                "podSelector": {"matchLabels": value, "matchExpressions": [value]},
                "action": "Deny",
                "from": [{"identities": value, "namespaces": [text]}],
                "to": [{"methods": [value], "paths": [text], "grpcMethods": [text], "ports": [number]}],
            }));
        }
    }
}
