//! Recorded exchanges held to the rules of the published protocol, and a
//! random exchange held to a naive model.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use remora_proto::discovery::{DeltaDiscoveryRequest, Status};
use remora_proto::v1;

use super::protocol::{Answer, Response};
use super::session::{MAX_SUBSCRIPTIONS, Node, Session, Violation};
use crate::core::store::{Resource, ResourceType, Store, collection_of};

fn node() -> Node {
    Node::parse("sidecar/shop/web-1/u1").unwrap()
}

fn set(store: &Store, kind: ResourceType, name: &str, aliases: &[&str], content: u32) {
    let message = v1::ServicePort {
        port: content,
        ..v1::ServicePort::default()
    };
    let aliases = aliases.iter().map(|alias| (*alias).into()).collect();
    store.set(
        kind,
        Resource::new(kind, name.into(), aliases, None, &message),
    );
}

/// Lines: `* set NAME CONTENT [ALIAS..]`, `* remove NAME` (the world);
/// `> [sub NAME]* [unsub NAME]* [init NAME]* [ack N] [nack N]` (the sidecar);
/// `< N [NAME]* [-NAME]*` (the answer) or `< nothing`. `init` names what is
/// held at the version that the store has, `init!` at another.
fn replay(kind: ResourceType, exchange: &str) {
    let store = Arc::new(Store::default());
    let mut session = Session::new(store.clone(), node(), None);
    for (number, line) in exchange
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["*", "set", name, content, ref aliases @ ..] => {
                set(&store, kind, name, aliases, content.parse().unwrap());
            }
            ["*", "remove", name] => store.remove(kind, name),
            [">", ref rest @ ..] => {
                session.request(request(&store, kind, rest)).unwrap();
            }
            ["<", ref wanted @ ..] => {
                let shown = match session.responses().pop() {
                    None => vec!["nothing".to_owned()],
                    Some((_, response)) => shown(&response),
                };
                assert_eq!(shown, *wanted, "line {number}: {line}");
            }
            _ => panic!("line {number}: {line}"),
        }
    }
}

fn request(store: &Store, kind: ResourceType, words: &[&str]) -> DeltaDiscoveryRequest {
    let mut request = DeltaDiscoveryRequest {
        type_url: kind.url().into(),
        ..Default::default()
    };
    for pair in words.chunks(2) {
        let value = pair[1].to_owned();
        match pair[0] {
            "sub" => request.resource_names_subscribe.push(value),
            "unsub" => request.resource_names_unsubscribe.push(value),
            "init" => {
                let version = store.find(kind, &value).unwrap().version.to_string();
                request.initial_resource_versions.insert(value, version);
            }
            "init!" => {
                request
                    .initial_resource_versions
                    .insert(value, "another".to_owned());
            }
            "ack" => request.response_nonce = value,
            "nack" => {
                request.response_nonce = value;
                request.error_detail = Some(Status {
                    message: "no".into(),
                    ..Status::default()
                });
            }
            other => panic!("{other}"),
        }
    }
    request
}

fn shown(response: &Response) -> Vec<String> {
    let sent = response
        .resources
        .iter()
        .map(|resource| resource.name.to_string());
    let removed = response.removed.iter().map(|name| format!("-{name}"));
    std::iter::once(response.nonce.clone())
        .chain(sent)
        .chain(removed)
        .collect()
}

#[test]
fn what_is_missing_is_said_at_once_and_sent_when_it_appears() {
    replay(
        ResourceType::Service,
        "* set s/a 1
         > sub s/a sub s/b
         < 1 s/a -s/b
         > ack 1
         < nothing
         * set s/b 1
         < 2 s/b
         > ack 2
         * remove s/b
         < 3 -s/b
         > ack 3
         < nothing",
    );
}

#[test]
fn one_response_is_in_flight_and_changes_meanwhile_become_one() {
    replay(
        ResourceType::Service,
        "* set s/a 1
         > sub s/a
         < 1 s/a
         * set s/a 2
         * set s/a 3
         < nothing
         > ack 0
         < nothing
         > ack 1
         < 2 s/a
         > ack 1
         < nothing
         > ack 2
         < nothing
         * set s/a 4
         * set s/a 3
         < nothing",
    );
}

#[test]
fn a_refused_resource_is_sent_again_only_when_it_changes_or_is_asked_for() {
    replay(
        ResourceType::Service,
        "* set s/a 1
         > sub s/a
         < 1 s/a
         > nack 1
         < nothing
         * set s/b 1
         < nothing
         * set s/a 2
         < 2 s/a
         > nack 2
         < nothing
         > sub s/a
         < 3 s/a
         > nack 3
         * set s/a 1
         < 4 s/a",
    );
}

#[test]
fn what_is_asked_for_again_is_sent_again_and_what_is_unsubscribed_is_not() {
    replay(
        ResourceType::Service,
        "* set s/a 1 address/1.1.1.1
         > sub s/a
         < 1 s/a
         > ack 1 sub address/1.1.1.1
         < 2 s/a
         > ack 2 unsub s/a
         * set s/a 2 address/1.1.1.1
         < 3 s/a
         > ack 3 unsub address/1.1.1.1
         * set s/a 3 address/1.1.1.1
         < nothing
         > unsub s/never
         < nothing
         > sub s/a
         < 4 s/a",
    );
}

#[test]
fn with_a_resource_go_its_name_and_the_aliases_of_this_stream() {
    replay(
        ResourceType::Service,
        "* set s/a 1 address/1.1.1.1 address/2.2.2.2
         > sub address/1.1.1.1
         < 1 s/a
         > ack 1
         * remove s/a
         < 2 -s/a -address/1.1.1.1
         > ack 2
         * set s/b 1 address/1.1.1.1
         < 3 s/b
         > ack 3
         * set s/b 2
         * set s/c 1 address/1.1.1.1
         < 4 s/c -s/b",
    );
}

#[test]
fn a_collection_is_answered_even_when_empty_and_follows_its_members() {
    replay(
        ResourceType::Endpoint,
        "> sub s/a/*
         < 1
         > ack 1
         * set s/a/80/x 1
         * set s/b/80/x 1
         < 2 s/a/80/x
         > ack 2
         * set s/a/80/x 2
         * set s/a/80/y 1
         < 3 s/a/80/x s/a/80/y
         > ack 3
         * remove s/a/80/x
         < 4 -s/a/80/x
         > ack 4 sub s/a/*
         < 5 s/a/80/y
         > ack 5 unsub s/a/*
         * set s/a/80/y 3
         < nothing",
    );
}

#[test]
fn who_comes_back_hears_only_what_changed_and_what_is_gone() {
    replay(
        ResourceType::Service,
        "* set s/a 1 address/1.1.1.1
         * set s/b 1
         > sub address/1.1.1.1 sub s/b sub s/c init s/a init! s/b init! s/c init! s/d
         < 1 s/b -s/c -s/d
         > ack 1
         < nothing
         * set s/a 2 address/1.1.1.1
         < 2 s/a",
    );
    replay(
        ResourceType::Endpoint,
        "* set s/a/80/x 1
         * set s/a/80/y 1
         > sub s/a/* init s/a/80/x init! s/a/80/y init! s/a/80/z
         < 1 s/a/80/y -s/a/80/z
         > ack 1
         < nothing",
    );
}

#[test]
fn an_unknown_type_has_nothing_and_spoils_nothing() {
    let mut session = Session::new(Arc::default(), node(), None);
    let request = DeltaDiscoveryRequest {
        type_url: "type.googleapis.com/remora.v1.Later".into(),
        resource_names_subscribe: vec!["a".into()],
        ..Default::default()
    };
    assert_eq!(session.request(request), Ok(Answer::None));
    assert_eq!(shown(&session.responses()[0].1), ["1", "-a"]);
}

#[test]
fn hostile_requests_are_refused() {
    let ask = |names: Vec<String>, type_url: &str| {
        let mut session = Session::new(Arc::default(), node(), None);
        session.request(DeltaDiscoveryRequest {
            type_url: type_url.into(),
            resource_names_subscribe: names,
            ..Default::default()
        })
    };
    let url = ResourceType::Service.url();
    assert_eq!(ask(vec!["x".repeat(1_000)], url), Err(Violation::Name));
    assert_eq!(ask(vec!["a\nb".into()], url), Err(Violation::Name));
    assert_eq!(ask(vec![String::new()], url), Err(Violation::Name));
    assert_eq!(ask(Vec::new(), ""), Err(Violation::Name));
    let many = (0..=MAX_SUBSCRIPTIONS)
        .map(|number| format!("s/{number}"))
        .collect();
    assert_eq!(ask(many, url), Err(Violation::TooManySubscriptions));
    for id in [
        "",
        "sidecar/a/b",
        "sidecar/a/b/c/d",
        "proxy/a/b/c",
        "sidecar//b/c",
        "sidecar/a/b\n/c",
    ] {
        assert!(Node::parse(id).is_err(), "{id}");
    }
}

#[test]
fn a_workload_of_another_uid_is_another_pod() {
    let store = Arc::new(Store::default());
    let owner = |uid: &str| {
        let only_for = Some(format!("sidecar/shop/db-0/{uid}").into());
        let message = v1::ServicePort {
            name: uid.to_owned(),
            ..Default::default()
        };
        Resource::new(
            ResourceType::Workload,
            "shop/db-0".into(),
            Vec::new(),
            only_for,
            &message,
        )
    };
    store.set(ResourceType::Workload, owner("old"));
    let mut session = Session::new(
        store.clone(),
        Node::parse("sidecar/shop/db-0/new").unwrap(),
        None,
    );
    session
        .request(request(
            &store,
            ResourceType::Workload,
            &["sub", "shop/db-0"],
        ))
        .unwrap();
    assert_eq!(shown(&session.responses()[0].1), ["1", "-shop/db-0"]);
    session
        .request(request(&store, ResourceType::Workload, &["ack", "1"]))
        .unwrap();
    store.set(ResourceType::Workload, owner("new"));
    assert_eq!(shown(&session.responses()[0].1), ["2", "shop/db-0"]);
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u32, usize),
    Remove(usize),
    Subscribe(usize),
    Unsubscribe(usize),
    Send,
    Answer(bool),
}

const NAMES: [&str; 6] = ["s/a", "s/b", "s/c", "s/a/80/x", "s/a/80/y", "s/b/80/x"];
const ALIASES: [&str; 2] = ["address/1.1.1.1", "address/2.2.2.2"];
const ASKED: [&str; 9] = [
    "s/a",
    "s/b",
    "s/c",
    "address/1.1.1.1",
    "address/2.2.2.2",
    "s/none",
    "s/a/*",
    "s/b/*",
    "s/a/80/x",
];

fn kind_of(name: &str) -> ResourceType {
    if name.matches('/').count() > 1 {
        ResourceType::Endpoint
    } else {
        ResourceType::Service
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..NAMES.len(), 0u32..3, 0usize..4).prop_map(|(name, content, aliases)| Step::Set(name, content, aliases)),
        2 => (0..NAMES.len()).prop_map(Step::Remove),
        3 => (0..ASKED.len()).prop_map(Step::Subscribe),
        1 => (0..ASKED.len()).prop_map(Step::Unsubscribe),
        4 => Just(Step::Send),
        4 => any::<bool>().prop_map(Step::Answer),
    ]
}

/// A response that is not answered yet: its nonce, names and versions.
type Waiting = (String, Vec<(String, String)>);

/// A sidecar as simple as can be, and what it was sent.
#[derive(Default)]
struct Model {
    subscribed: BTreeSet<&'static str>,
    /// Names known to be missing, or removed.
    missing: HashSet<String>,
    held: HashMap<String, String>,
    refused: HashMap<String, String>,
    /// What was sent and has not been asked for, removed or unsubscribed since.
    sent: HashMap<String, String>,
    waiting: BTreeMap<&'static str, Waiting>,
}

impl Model {
    fn take(&mut self, type_url: &str, response: &Response) {
        let url = ResourceType::from_url(type_url).unwrap().url();
        for name in &response.removed {
            self.held.remove(&**name);
            self.sent.remove(&**name);
            self.missing.insert(name.to_string());
        }
        for resource in &response.resources {
            let (name, version) = (resource.name.to_string(), resource.version.to_string());
            let before = self.sent.insert(name.clone(), version.clone());
            assert_ne!(
                before.as_ref(),
                Some(&version),
                "{name} was sent again unchanged"
            );
            for covered in resource.aliases.iter().chain([&resource.name]) {
                self.missing.remove(&**covered);
            }
        }
        let resources = response
            .resources
            .iter()
            .map(|one| (one.name.to_string(), one.version.to_string()));
        let before = self
            .waiting
            .insert(url, (response.nonce.clone(), resources.collect()));
        assert!(before.is_none(), "two responses in flight");
    }

    fn unsubscribe(&mut self, name: &'static str) {
        self.subscribed.remove(name);
        self.drop_uncovered();
    }

    /// What no subscription covers is not held, even when it just arrives.
    fn drop_uncovered(&mut self) {
        let subscribed = &self.subscribed;
        self.held.retain(|held, _| {
            let collection =
                collection_of(ResourceType::Endpoint, held).map(|prefix| format!("{prefix}/*"));
            kind_of(held) == ResourceType::Service
                || subscribed.contains(held.as_str())
                || collection.is_some_and(|glob| subscribed.contains(glob.as_str()))
        });
    }

    fn answer(&mut self, session: &mut Session, accept: bool) {
        for (url, (nonce, resources)) in std::mem::take(&mut self.waiting) {
            for (name, version) in resources {
                if accept {
                    self.refused.remove(&name);
                    self.held.insert(name, version);
                } else {
                    self.refused.insert(name, version);
                }
            }
            self.drop_uncovered();
            let error_detail = (!accept).then(|| Status {
                message: "no".into(),
                ..Status::default()
            });
            let request = DeltaDiscoveryRequest {
                type_url: url.into(),
                response_nonce: nonce,
                error_detail,
                ..Default::default()
            };
            session.request(request).unwrap();
        }
    }

    /// In the end every subscription is as the store has it.
    fn check(&self, store: &Store) {
        for name in &self.subscribed {
            let kind = kind_of(name);
            if let Some(prefix) = name.strip_suffix("/*") {
                let members = store.members(kind, prefix);
                for member in &members {
                    self.check_one(store, kind, member);
                }
                let known = self
                    .held
                    .keys()
                    .filter(|held| collection_of(kind, held) == Some(prefix));
                for held in known {
                    assert!(
                        members.iter().any(|member| **member == **held),
                        "{held} is gone and held"
                    );
                }
            } else {
                self.check_one(store, kind, name);
            }
        }
    }

    fn check_one(&self, store: &Store, kind: ResourceType, name: &str) {
        match store.find(kind, name) {
            None => assert!(
                self.missing.contains(name),
                "{name} is missing and that was not said"
            ),
            Some(resource) => {
                let version = Some(resource.version.to_string());
                let held = self.held.get(&*resource.name).cloned();
                let refused = self.refused.get(&*resource.name).cloned();
                assert!(
                    held == version || refused == version,
                    "{name} is not as it should be"
                );
            }
        }
    }
}

fn send(session: &mut Session, model: &mut Model) -> bool {
    let responses = session.responses();
    for (type_url, response) in &responses {
        model.take(type_url, response);
    }
    !responses.is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_change_is_lost_and_nothing_is_sent_unchanged(steps in proptest::collection::vec(step(), 1..60)) {
        let store = Arc::new(Store::default());
        let mut session = Session::new(store.clone(), node(), None);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Set(name, content, aliases) => {
                    let name = NAMES[name];
                    let kind = kind_of(name);
                    let aliases: Vec<&str> = ALIASES.iter().enumerate()
                        .filter(|(bit, _)| kind == ResourceType::Service && aliases & (1 << bit) != 0)
                        .map(|(_, alias)| *alias).collect();
                    set(&store, kind, name, &aliases, content);
                }
                Step::Remove(name) => store.remove(kind_of(NAMES[name]), NAMES[name]),
                Step::Subscribe(name) | Step::Unsubscribe(name) => {
                    let subscribe = matches!(step, Step::Subscribe(_));
                    let name = ASKED[name];
                    let list = vec![name.to_owned()];
                    let mut request = DeltaDiscoveryRequest { type_url: kind_of(name).url().into(), ..Default::default() };
                    if subscribe {
                        model.subscribed.insert(name);
                        request.resource_names_subscribe = list;
                    } else {
                        model.unsubscribe(name);
                        request.resource_names_unsubscribe = list;
                    }
                    // Either allows one more sending of what it covers.
                    model.sent.clear();
                    session.request(request).unwrap();
                }
                Step::Send => { send(&mut session, &mut model); }
                Step::Answer(accept) => model.answer(&mut session, accept),
            }
        }
        for round in 0.. {
            prop_assert!(round < 20, "it never comes to rest");
            model.answer(&mut session, true);
            if !send(&mut session, &mut model) {
                break;
            }
        }
        model.check(&store);
    }
}
