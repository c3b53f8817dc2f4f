//! Verdicts, told by sidecars and by a leader.

use proptest::prelude::*;

use super::*;

fn health(port: u32, health: Health) -> v1::PortHealth {
    v1::PortHealth {
        port,
        health: health.into(),
        detail: String::new(),
    }
}

fn told(verdicts: &Verdicts) -> Vec<BTreeMap<u16, Health>> {
    let events = verdicts.take().into_iter();
    let ports = events.map(|event| match event {
        Event::Health(health) => health.ports,
        other => panic!("{other:?}"),
    });
    ports.collect()
}

#[test]
fn a_verdict_is_told_once_and_a_change_of_it_again() {
    let verdicts = Verdicts::default();
    let node = Node::parse("sidecar/shop/a/u").unwrap();
    verdicts.report(&node, &[health(80, Health::Unhealthy)], true, 0);
    assert_eq!(told(&verdicts), [[(80, Health::Unhealthy)].into()]);
    verdicts.report(&node, &[health(80, Health::Unhealthy)], false, 1);
    verdicts.report(&node, &[], false, 1);
    assert!(told(&verdicts).is_empty());
    verdicts.report(
        &node,
        &[health(80, Health::Healthy), health(99_999, Health::Healthy)],
        false,
        2,
    );
    assert_eq!(told(&verdicts), [[(80, Health::Healthy)].into()]);
    // A new stream says all there is.
    verdicts.report(&node, &[], true, 3);
    assert_eq!(told(&verdicts), [BTreeMap::new()]);
}

#[test]
fn a_verdict_ends_with_its_pod_and_with_a_long_silence() {
    let verdicts = Verdicts::default();
    let [a, b] = ["a", "b"].map(|pod| Node::parse(&format!("sidecar/shop/{pod}/u")).unwrap());
    for node in [&a, &b] {
        verdicts.report(node, &[health(80, Health::Healthy)], true, 0);
    }
    assert_eq!(told(&verdicts).len(), 2);
    verdicts.sweep(BELIEVED_MS + 1, |_| true, |node| *node == a);
    assert_eq!(told(&verdicts), [BTreeMap::new()], "b was silent");
    verdicts.sweep(BELIEVED_MS + 2, |_| false, |_| true);
    assert_eq!(told(&verdicts), [BTreeMap::new()], "a is gone");
}

fn says(pod: &str, ports: &[v1::PortHealth]) -> v1::PodVerdict {
    v1::PodVerdict {
        namespace: "shop".to_owned(),
        pod: pod.to_owned(),
        pod_uid: "u".to_owned(),
        ports: ports.to_vec(),
    }
}

const NOBODY: fn(&Node) -> bool = |_| false;

#[test]
fn what_a_leader_tells_is_known_until_it_tells_otherwise_or_is_long_silent() {
    let verdicts = Verdicts::default();
    verdicts.begin_following();
    let bad = health(80, Health::Unhealthy);
    let whole = [
        says("a", std::slice::from_ref(&bad)),
        says("b", std::slice::from_ref(&bad)),
    ];
    verdicts.follow(&whole, 0, NOBODY);
    assert_eq!(told(&verdicts).len(), 2);
    verdicts.follow(&whole, 1, NOBODY);
    assert!(told(&verdicts).is_empty(), "nothing new");
    verdicts.follow(&[says("b", &[])], 2, NOBODY);
    assert_eq!(told(&verdicts), [Ports::new()]);
    // However long the stream is silent, it is there.
    verdicts.sweep(10 * BELIEVED_MS, |_| true, NOBODY);
    assert!(told(&verdicts).is_empty());
    verdicts.stop_following(11 * BELIEVED_MS);
    verdicts.sweep(12 * BELIEVED_MS, |_| true, NOBODY);
    assert!(told(&verdicts).is_empty(), "believed for a while");
    verdicts.sweep(12 * BELIEVED_MS + 1, |_| true, NOBODY);
    assert_eq!(told(&verdicts), [Ports::new()]);
}

#[test]
fn what_a_new_leader_does_not_confirm_goes_after_a_while_and_not_at_once() {
    let verdicts = Verdicts::default();
    verdicts.begin_following();
    let bad = health(80, Health::Unhealthy);
    verdicts.follow(
        &[
            says("a", std::slice::from_ref(&bad)),
            says("b", std::slice::from_ref(&bad)),
        ],
        0,
        NOBODY,
    );
    assert_eq!(told(&verdicts).len(), 2);
    verdicts.stop_following(5);
    verdicts.begin_following();
    verdicts.follow(&[says("a", &[bad])], 10, NOBODY);
    verdicts.sweep(BELIEVED_MS, |_| true, NOBODY);
    assert!(told(&verdicts).is_empty());
    verdicts.sweep(BELIEVED_MS + 6, |_| true, NOBODY);
    assert_eq!(told(&verdicts), [Ports::new()], "b");
}

#[test]
fn a_sidecar_that_is_heard_here_speaks_for_itself() {
    let verdicts = Verdicts::default();
    let node = Node::parse("sidecar/shop/a/u").unwrap();
    verdicts.report(&node, &[health(80, Health::Healthy)], true, 0);
    assert_eq!(told(&verdicts).len(), 1);
    verdicts.begin_following();
    let stale = [says("a", &[health(80, Health::Unhealthy)]), says("a", &[])];
    verdicts.follow(&stale, 1, |heard| *heard == node);
    assert!(told(&verdicts).is_empty());
}

#[test]
fn what_the_leader_told_of_a_sidecar_that_was_heard_here_counts_when_it_is_not() {
    let verdicts = Verdicts::default();
    let node = Node::parse("sidecar/shop/a/u").unwrap();
    let bad = health(80, Health::Unhealthy);
    verdicts.report(&node, std::slice::from_ref(&bad), true, 0);
    assert_eq!(told(&verdicts).len(), 1);
    // It is on its way to the leader, who tells what it knows but once.
    verdicts.begin_following();
    verdicts.follow(&[says("a", &[bad])], 1, |heard| *heard == node);
    verdicts.sweep(5_000, |_| true, NOBODY);
    verdicts.sweep(10 * BELIEVED_MS, |_| true, NOBODY);
    assert!(told(&verdicts).is_empty(), "it is as the leader told");
    verdicts.follow(&[says("a", &[])], 10 * BELIEVED_MS, NOBODY);
    assert_eq!(told(&verdicts), [Ports::new()]);
}

#[test]
fn a_pod_that_is_told_of_before_its_watch_knows_it_is_not_forgotten() {
    let verdicts = Verdicts::default();
    verdicts.begin_following();
    verdicts.follow(&[says("a", &[health(80, Health::Unhealthy)])], 0, NOBODY);
    assert_eq!(told(&verdicts).len(), 1);
    verdicts.sweep(POD_PATIENCE_MS, |_| false, NOBODY);
    assert!(told(&verdicts).is_empty());
    verdicts.sweep(POD_PATIENCE_MS + 1, |_| false, NOBODY);
    assert_eq!(told(&verdicts), [Ports::new()]);
}

#[test]
fn a_leader_cannot_fill_the_memory_nor_name_what_is_no_pod() {
    let verdicts = Verdicts::default();
    verdicts.begin_following();
    let ports: Vec<_> = (1..1_000)
        .map(|port| health(port, Health::Healthy))
        .collect();
    verdicts.follow(
        &[says("a", &ports), says("a/b", &ports), says("", &ports)],
        0,
        NOBODY,
    );
    let known = told(&verdicts);
    assert_eq!((known.len(), known[0].len()), (1, MAX_PORTS));
    let one = [health(80, Health::Healthy)];
    let many: Vec<_> = (0..MAX_PODS + 10)
        .map(|at| says(&format!("p{at}"), &one))
        .collect();
    verdicts.follow(&many, 0, NOBODY);
    assert_eq!(verdicts.lock().pods.len(), MAX_PODS);
}

proptest! {
    /// Who takes the differences, however seldom, has in the end what is known.
    #[test]
    fn differences_lead_to_what_is_known(
        steps in prop::collection::vec((0..4_u8, 1..3_u32, 0..3_i32, any::<bool>()), 1..60),
    ) {
        let (leader, follower) = (Verdicts::default(), Verdicts::default());
        follower.begin_following();
        let mut sent = BTreeMap::new();
        for (pod, port, said, looks) in steps {
            let node = Node::parse(&format!("sidecar/shop/p{pod}/u")).unwrap();
            let said = Health::try_from(said).unwrap();
            leader.report(&node, &[health(port, said)], false, 0);
            if looks {
                let differences = leader.differences(&mut sent);
                follower.follow(&differences, 0, NOBODY);
            }
        }
        follower.follow(&leader.differences(&mut sent), 0, NOBODY);
        let known = |of: &Verdicts| -> BTreeMap<Node, Ports> {
            let state = of.lock();
            let known = state.pods.iter().filter(|(_, one)| !one.ports.is_empty());
            known.map(|(node, one)| (node.clone(), one.ports.clone())).collect()
        };
        prop_assert_eq!(known(&follower), known(&leader));
        prop_assert!(leader.differences(&mut sent).is_empty());
    }
}
