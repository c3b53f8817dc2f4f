use super::*;

const LIMIT: Limit = Limit {
    whole: Whole {
        requests: 1_000,
        per_ms: 1_000,
        burst: 100,
    },
    at_caller: false,
};

fn node(pod: &str) -> Node {
    Node::parse(&format!("sidecar/shop/{pod}/u")).unwrap()
}

fn key() -> LimitKey {
    ("shop/catalog".to_owned(), "all".to_owned())
}

fn known(pods: &[&str]) -> Arc<Known> {
    Arc::new(Known {
        limits: [(key(), LIMIT)].into(),
        sidecars: pods.iter().map(|pod| node(pod)).collect(),
    })
}

fn usage(share: Share, grant: u64, asked: u64) -> v1::MeshUsage {
    v1::MeshUsage {
        policy: key().0,
        name: key().1,
        parts_per_million: share.parts_per_million,
        burst: share.burst,
        grant,
        asked,
        admitted: 0,
        over_ms: 200,
    }
}

type Received = mpsc::Receiver<Result<v1::ReportAcknowledgement, Status>>;

fn stream(limits: &Arc<MeshLimits>, pod: &str) -> (Open, Received) {
    let (sender, receiver) = mpsc::channel(4);
    (limits.open(&node(pod), sender), receiver)
}

fn share(received: &mut Received) -> Option<Share> {
    let message = received.try_recv().ok()?.ok()?;
    let [share] = &message.mesh_shares[..] else {
        panic!("{message:?}");
    };
    Some(Share {
        parts_per_million: share.parts_per_million,
        burst: share.burst,
    })
}

#[test]
fn who_tells_of_a_limit_is_given_a_share_and_nobody_of_another_namespace_is() {
    let limits = Arc::new(MeshLimits::default());
    limits.know(known(&["a"]));
    limits.lead(true, false);
    let (open, mut received) = stream(&limits, "a");
    limits
        .report(&open, 1, &[usage(Share::default(), 0, 0)], 0)
        .unwrap();
    limits.turn(0);
    assert!(share(&mut received).unwrap().parts_per_million > 990_000);
    let (sender, mut foreign) = mpsc::channel(4);
    let stranger = Node::parse("sidecar/other/a/u").unwrap();
    let open = limits.open(&stranger, sender);
    limits
        .report(&open, 1, &[usage(Share::default(), 0, 900)], 10)
        .unwrap();
    limits.turn(10);
    assert!(share(&mut foreign).is_none());
    assert_eq!(limits.held()[0].holders, 1);
}

#[test]
fn who_does_not_lead_gives_nothing_and_a_new_leader_waits_for_everybody() {
    let limits = Arc::new(MeshLimits::default());
    limits.know(known(&["a", "b"]));
    let (open, mut received) = stream(&limits, "a");
    limits
        .report(&open, 1, &[usage(Share::default(), 0, 200)], 0)
        .unwrap();
    limits.turn(0);
    assert!(share(&mut received).is_none(), "it does not lead");
    limits.lead(true, false);
    assert!(received.try_recv().unwrap().is_err(), "it is to tell again");
    let (a, mut to_a) = stream(&limits, "a");
    limits
        .report(&a, 1, &[usage(Share::default(), 0, 200)], 10)
        .unwrap();
    limits.turn(10);
    assert!(share(&mut to_a).is_none(), "b may have all of it");
    let half = Share {
        parts_per_million: 500_000,
        burst: 50,
    };
    let (b, _to_b) = stream(&limits, "b");
    limits.report(&b, 1, &[usage(half, 0, 0)], 20).unwrap();
    limits.turn(20);
    let given = share(&mut to_a).unwrap();
    assert!(
        given.parts_per_million <= 500_000 && given.burst <= 50,
        "{given:?}"
    );
}

#[test]
fn a_pod_that_is_gone_leaves_its_share_to_the_others() {
    let limits = Arc::new(MeshLimits::default());
    limits.know(known(&["a", "b"]));
    limits.lead(true, false);
    let (a, mut to_a) = stream(&limits, "a");
    let (b, mut to_b) = stream(&limits, "b");
    limits.report(&b, 1, &[], 0).unwrap();
    limits
        .report(&a, 1, &[usage(Share::default(), 0, 200)], 0)
        .unwrap();
    limits.turn(0);
    let whole = share(&mut to_a).unwrap();
    limits.report(&a, 2, &[usage(whole, 1, 200)], 100).unwrap();
    drop(a);
    limits
        .report(&b, 2, &[usage(Share::default(), 0, 200)], 200)
        .unwrap();
    limits.turn(200);
    assert!(
        share(&mut to_b).is_none(),
        "its pod is there, and goes on with its share"
    );
    limits.know(known(&["b"]));
    limits.turn(300);
    assert!(share(&mut to_b).unwrap().parts_per_million > 990_000);
}

#[test]
fn what_is_told_before_the_policy_is_known_waits_for_it() {
    let limits = Arc::new(MeshLimits::default());
    limits.lead(true, false);
    let (open, mut received) = stream(&limits, "a");
    limits
        .report(&open, 1, &[usage(Share::default(), 0, 0)], 0)
        .unwrap();
    limits.turn(0);
    limits.know(known(&["a"]));
    limits.turn(50);
    assert!(share(&mut received).is_some());
}

#[test]
fn limits_that_no_policy_has_any_more_make_room_for_new_ones() {
    let limits = Arc::new(MeshLimits::default());
    let named = |names: std::ops::Range<usize>| -> Vec<LimitKey> {
        names.map(|at| (key().0, at.to_string())).collect()
    };
    let known = |names: &[LimitKey]| {
        let each = names.iter().map(|name| (name.clone(), LIMIT));
        Arc::new(Known {
            limits: each.collect(),
            sidecars: [node("a")].into(),
        })
    };
    let (open, mut received) = stream(&limits, "a");
    limits.lead(true, true);
    let old = named(0..MAX_LIMITS);
    limits.know(known(&old));
    for some in old.chunks(MAX_TOLD) {
        let of = |name: &LimitKey| v1::MeshUsage {
            name: name.1.clone(),
            ..usage(Share::default(), 0, 0)
        };
        let usages: Vec<_> = some.iter().map(of).collect();
        limits.report(&open, 1, &usages, 0).unwrap();
    }
    assert_eq!(limits.held().len(), MAX_LIMITS);
    let new = named(MAX_LIMITS..MAX_LIMITS + 1);
    limits.know(known(&new));
    let wants = v1::MeshUsage {
        name: new[0].1.clone(),
        ..usage(Share::default(), 0, 200)
    };
    limits.report(&open, 2, &[wants], 10).unwrap();
    limits.turn(10);
    assert!(share(&mut received).unwrap().parts_per_million > 990_000);
}

#[test]
fn a_stream_of_the_only_replica_goes_on_when_that_has_read_its_objects() {
    let limits = Arc::new(MeshLimits::default());
    let half = Share {
        parts_per_million: 500_000,
        burst: 50,
    };
    let (a, mut to_a) = stream(&limits, "a");
    limits.report(&a, 1, &[usage(half, 0, 200)], 0).unwrap();
    limits.know(known(&["a", "b"]));
    limits.lead(true, true);
    limits.turn(0);
    assert!(to_a.try_recv().is_err(), "b may have the other half");
    assert_eq!(limits.held()[0].sum, half);
    let (b, _to_b) = stream(&limits, "b");
    limits.report(&b, 1, &[], 10).unwrap();
    limits.report(&a, 2, &[usage(half, 0, 200)], 10).unwrap();
    limits.turn(10);
    assert!(share(&mut to_a).unwrap().parts_per_million > 990_000);
}

#[test]
fn a_stream_that_cannot_be_told_of_another_leader_ends_with_its_next_report() {
    let limits = Arc::new(MeshLimits::default());
    limits.know(known(&["a"]));
    limits.lead(true, false);
    let (sender, mut received) = mpsc::channel(1);
    let open = limits.open(&node("a"), sender);
    let wants = [usage(Share::default(), 0, 200)];
    limits.report(&open, 1, &wants, 0).unwrap();
    limits.turn(0);
    // The share fills the only place.
    limits.lead(false, false);
    assert!(share(&mut received).is_some());
    assert!(received.try_recv().is_err());
    limits.report(&open, 2, &wants, 10).unwrap_err();
}
