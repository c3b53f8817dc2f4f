//! What a sidecar tells, and what people read of it.

use serde_json::{Value, json};

use super::*;

const NOW_MS: u64 = 1_795_282_340_000;
const HOUR_MS: u64 = 3_600_000;

fn certificate(digit: &str, from_ms: u64, until_ms: u64) -> Value {
    json!({
        "serial": vec![digit.repeat(2); 16].join(":"), "not_before_ms": from_ms,
        "not_after_ms": until_ms, "sha256": vec![digit.repeat(2); 32].join(":"),
    })
}

fn answered() -> Value {
    let year = 365 * 24 * HOUR_MS;
    let mut own = certificate("b", NOW_MS - HOUR_MS, NOW_MS + 10 * year);
    own["issued_own"] = json!(true);
    let mut former = certificate("c", NOW_MS - year, NOW_MS + HOUR_MS);
    former["issued_own"] = json!(false);
    json!({
        "enabled": true, "spiffe_id": "spiffe://cluster.local/ns/shop/sa/web",
        "chain": [certificate("a", NOW_MS - HOUR_MS, NOW_MS + 23 * HOUR_MS)],
        "next_renewal_ms": NOW_MS + 11 * HOUR_MS, "last_error": null,
        "trust_domain": "cluster.local", "roots": [former, own],
    })
}

fn told(answer: Value) -> Identity {
    let answered = serde_json::from_value(answer).unwrap();
    let owner = Some("deployment/web".to_owned());
    identity("shop/web-1".to_owned(), answered, owner, NOW_MS)
}

fn page(answer: Value) -> String {
    let text = show::text(&told(answer), Paint::plain());
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    text
}

#[test]
fn a_good_identity_is_told_on_one_page() {
    let wanted = "\
Pod            shop/web-1
Identity       spiffe://cluster.local/ns/shop/sa/web
Certificate    valid, 23 hours left
  from         2026-11-21 16:32:20 UTC
  until        2026-11-22 16:32:20 UTC
  serial       aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa:aa
  sha256       aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
Next renewal   2026-11-22 04:32:20 UTC, in 11 hours
Last failure   none since the last success

What issued it
  root 2 below

Roots that it trusts for identities of cluster.local
  root 1         until 2026-11-21 18:32:20 UTC, 1 hour left
    sha256 cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
  root 2         until 2036-11-18 17:32:20 UTC, 10 years left
    sha256 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
";
    assert_eq!(page(answered()), wanted);
    assert_eq!(told(answered()).state, State::Valid);
}

#[test]
fn the_chain_is_told_down_to_a_root_that_is_not_trusted() {
    let mut answer = answered();
    let leaf = answer["chain"][0].clone();
    answer["chain"] = json!([leaf, certificate("d", NOW_MS - HOUR_MS, NOW_MS - 1)]);
    answer["roots"][1]["issued_own"] = json!(false);
    let text = page(answer);
    assert!(
        text.contains("  intermediate 1 until 2026-11-21 17:32:19 UTC, expired\n"),
        "{text}"
    );
    assert!(text.contains("  none of the roots below"), "{text}");
}

#[test]
fn what_is_not_as_it_should_be_is_said() {
    let mut late = answered();
    late["chain"][0]["not_after_ms"] = json!(NOW_MS + 60_000);
    late["last_error"] = json!(
        "the control plane does not issue a certificate: Unavailable \"the CA is away\", and it has \
         been so for quite a while"
    );
    let text = page(late.clone());
    assert!(
        text.contains("valid, 1 minute left: it should have been renewed"),
        "{text}"
    );
    assert!(
        text.contains("\n               "),
        "a long reason is wrapped: {text}"
    );
    late["chain"][0]["not_after_ms"] = json!(NOW_MS - 5_000);
    assert_eq!(told(late.clone()).state, State::Expired);
    assert!(page(late).contains("expired 5 seconds ago"));
    let mut early = answered();
    early["chain"][0]["not_before_ms"] = json!(NOW_MS + 5_000);
    assert_eq!(told(early).state, State::NotYetValid);
}

#[test]
fn without_a_certificate_it_is_said_why_and_what_to_do() {
    let waiting = json!({"enabled": true, "chain": [], "roots": [], "next_renewal_ms": NOW_MS,
        "last_error": "no connection"});
    assert_eq!(told(waiting.clone()).state, State::Waiting);
    let text = page(waiting);
    for wanted in ["none yet", "no connection", "port 15110"] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    let disabled = json!({"enabled": false, "chain": [], "roots": []});
    assert_eq!(told(disabled.clone()).state, State::Disabled);
    let text = page(disabled);
    assert!(
        text.contains("kubectl -n shop rollout restart deployment/web"),
        "{text}"
    );
    // Another version's answer, of which nothing is known.
    assert_eq!(told(json!({"new": 1})).state, State::Disabled);
}
