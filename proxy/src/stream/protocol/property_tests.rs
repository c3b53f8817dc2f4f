//! Whatever the server does, the client's state is that of a naive model, and
//! a refused version never takes anything away.

use std::collections::HashMap;

use proptest::prelude::*;
use remora_proto::discovery::{Node, Resource};

use super::*;

const NAMES: [&str; 4] = ["shop/a", "shop/b", "shop/c", "shop/d"];

#[derive(Clone, Debug)]
enum Step {
    Subscribe(usize),
    Unsubscribe(usize),
    /// Name, good or bad, each.
    Send(Vec<(usize, bool)>, Vec<usize>),
    Reconnect,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        name.clone().prop_map(Step::Subscribe),
        name.clone().prop_map(Step::Unsubscribe),
        (
            prop::collection::vec((name.clone(), any::<bool>()), 0..4),
            prop::collection::vec(name, 0..2)
        )
            .prop_map(|(sent, removed)| Step::Send(sent, removed)),
        Just(Step::Reconnect),
        Just(Step::Drain),
    ]
}

/// What is wanted and what is held, kept as simply as can be.
#[derive(Default)]
struct Model {
    wanted: BTreeSet<String>,
    held: BTreeMap<String, String>,
    /// What a server would believe from the requests of this stream.
    subscribed: BTreeSet<String>,
    unanswered: HashMap<String, bool>,
}

fn address(name: usize) -> String {
    format!("address/10.0.0.{name}")
}

fn resource(name: usize, version: u64, good: bool) -> Resource {
    Resource {
        name: NAMES[name].to_owned(),
        version: version.to_string(),
        aliases: vec![address(name)],
        resource: Some(prost_types::Any {
            type_url: Kind::Service.type_url().to_owned(),
            value: vec![u8::from(good)],
        }),
    }
}

fn send(
    machine: &mut Machine,
    model: &mut Model,
    sent: &[(usize, bool)],
    removed: &[usize],
    at: u64,
) {
    let mut once = BTreeSet::new();
    let sent: Vec<_> = sent.iter().filter(|(name, _)| once.insert(*name)).collect();
    let removed: Vec<_> = removed.iter().filter(|name| !once.contains(name)).collect();
    let nonce = at.to_string();
    let removed_names: Vec<String> = removed
        .iter()
        .flat_map(|name| [NAMES[**name].to_owned(), address(**name)])
        .collect();
    let removed_names: Vec<&str> = removed_names.iter().map(String::as_str).collect();
    let resources = sent
        .iter()
        .map(|(name, good)| resource(*name, at, *good))
        .collect();
    let response =
        crate::state::testing::response(Kind::Service, &nonce, resources, &removed_names);
    machine.receive(response, |_, _, bytes| match bytes {
        [1] => Ok(()),
        _ => Err("bad".to_owned()),
    });
    let mut all_good = true;
    for name in removed {
        model.held.remove(NAMES[*name]);
    }
    for (name, good) in sent {
        if !model.wanted.contains(&address(*name)) {
            continue;
        }
        all_good &= good;
        if *good {
            model.held.insert(NAMES[*name].to_owned(), at.to_string());
        }
    }
    model.unanswered.insert(nonce, all_good);
}

fn drain(machine: &mut Machine, model: &mut Model) {
    while let Some(request) = machine.next_request() {
        for name in &request.resource_names_unsubscribe {
            assert!(
                model.subscribed.remove(name),
                "{name} was not subscribed to"
            );
        }
        model
            .subscribed
            .extend(request.resource_names_subscribe.iter().cloned());
        if !request.response_nonce.is_empty() {
            let good = model.unanswered.remove(&request.response_nonce);
            assert_eq!(
                good,
                Some(request.error_detail.is_none()),
                "one true answer for each"
            );
        }
    }
    assert_eq!(
        model.subscribed, model.wanted,
        "the server knows what is wanted"
    );
    assert!(model.unanswered.is_empty(), "nothing stays unanswered");
}

proptest! {
    #[test]
    fn state_equals_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let mut machine = Machine::new(Node::default());
        machine.connected();
        let mut model = Model::default();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Subscribe(name) => {
                    machine.subscribe(Kind::Service, &address(name));
                    model.wanted.insert(address(name));
                }
                Step::Unsubscribe(name) => {
                    machine.unsubscribe(Kind::Service, &address(name));
                    model.wanted.remove(&address(name));
                    model.held.remove(NAMES[name]);
                }
                Step::Send(sent, removed) => send(&mut machine, &mut model, &sent, &removed, at as u64),
                Step::Reconnect => {
                    machine.connected();
                    model.subscribed.clear();
                    model.unanswered.clear();
                }
                Step::Drain => drain(&mut machine, &mut model),
            }
            let held: BTreeMap<String, String> = machine
                .held(Kind::Service)
                .map(|(name, version)| (name.to_owned(), version.to_owned()))
                .collect();
            prop_assert_eq!(&held, &model.held);
        }
        drain(&mut machine, &mut model);
    }
}
