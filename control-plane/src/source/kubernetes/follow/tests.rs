//! Watches by script.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::stream;
use kube::core::Status;

use super::*;
use crate::core::objects::{Id, Namespace, Object};
use crate::policy::check::FieldError;
use crate::source::kubernetes::watches::KINDS;

type Item = watcher::Result<News<Seen>>;

fn refused(code: u16) -> kube::Error {
    let status = Status {
        code,
        ..Status::failure("said the server", "Reason")
    };
    kube::Error::Api(status.boxed())
}

fn no_list(code: u16) -> Item {
    Err(watcher::Error::InitialListFailed(refused(code)))
}

fn no_watch(code: u16) -> Item {
    Err(watcher::Error::WatchStartFailed(refused(code)))
}

fn object(name: &str, good: bool) -> Seen {
    let id = Id::new("shop", name);
    let error = FieldError {
        field: "spec".to_owned(),
        message: "is wrong".to_owned(),
    };
    let namespace = Namespace {
        id: id.clone(),
        inject: false,
    };
    Seen {
        object: if good {
            Ok(Object::Namespace(namespace))
        } else {
            Err(vec![error])
        },
        id,
        uid: "1".into(),
        generation: 1,
        faults: Vec::new(),
        targets: Vec::new(),
        status: 0,
    }
}

fn list(names: &[&str]) -> Vec<Item> {
    let objects = names.iter().map(|name| News::InitApply(object(name, true)));
    let whole = std::iter::once(News::Init).chain(objects);
    whole.chain([News::InitDone]).map(Ok).collect()
}

struct World {
    outlet: Outlet,
    events: mpsc::Receiver<Vec<Event>>,
    opened: Arc<Mutex<usize>>,
}

impl World {
    /// Follows `kind` by a script: each stream in turn, which then stays silent.
    fn new(kind: Kind, script: Vec<Vec<Item>>) -> Self {
        Self::of_versions(kind, 1, script)
    }

    /// The same of a kind that a server may have at several versions.
    fn of_versions(kind: Kind, versions: u32, script: Vec<Vec<Item>>) -> Self {
        let (sender, events) = mpsc::channel(64);
        let outlet = Outlet {
            events: sender,
            problems: Arc::default(),
            policies: Arc::default(),
            watches: Arc::default(),
        };
        let script = Mutex::new(VecDeque::from(script));
        let opened = Arc::new(Mutex::new(0));
        let count = opened.clone();
        let open = move |_| {
            *count.lock().unwrap() += 1;
            let next = script.lock().unwrap().pop_front().unwrap_or_default();
            stream::iter(next).chain(stream::pending()).boxed()
        };
        let resource = "things.example".to_owned();
        tokio::spawn(Follower::new(kind, resource, versions, outlet.clone()).run(open));
        Self {
            outlet,
            events,
            opened,
        }
    }

    /// All that is told within a (virtual) time.
    async fn told(&mut self, within: Duration) -> Vec<String> {
        tokio::time::sleep(within).await;
        let mut told = Vec::new();
        while let Ok(events) = self.events.try_recv() {
            let changes = Changes {
                events,
                ..Changes::default()
            };
            told.extend(super::super::known::shown(&changes));
        }
        told
    }

    fn problems(&self) -> Vec<String> {
        let problems = serde_json::to_value(self.outlet.problems.all()).unwrap();
        let shown = problems.as_array().unwrap().iter().map(|problem| {
            assert_eq!(problem.get("file"), None, "a cluster has no files");
            let text = |field: &str| problem[field].as_str().unwrap_or_default();
            format!("{}|{}|{}", text("object"), text("field"), text("message"))
        });
        shown.collect()
    }

    fn figures(&self, kind: Kind) -> (u64, u64, bool) {
        let all = self.outlet.watches.figures();
        let one = all.iter().find(|figures| figures.kind == kind).unwrap();
        (one.events, one.failures, one.synced)
    }

    fn opened(&self) -> usize {
        *self.opened.lock().unwrap()
    }
}

const MOMENT: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn the_last_kind_to_be_listed_says_that_all_is_told() {
    let mut world = World::new(Kind::Pod, vec![list(&["a", "b"])]);
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Pod) {
        assert!(!world.outlet.watches.set_listed(kind));
    }
    assert_eq!(world.told(MOMENT).await, ["+a", "+b", "synced"]);
    assert_eq!(world.figures(Kind::Pod), (2, 0, true));
}

#[tokio::test(start_paused = true)]
async fn a_broken_object_is_a_problem_with_its_name_and_stops_nothing() {
    let mut script = list(&["a"]);
    script.extend([
        Ok(News::Apply(object("a", false))),
        Ok(News::Apply(object("b", true))),
    ]);
    let mut world = World::new(Kind::TrafficPolicy, vec![script]);
    assert_eq!(world.told(MOMENT).await, ["+a", "+b"]);
    assert_eq!(world.problems(), ["TrafficPolicy shop/a|spec|is wrong"]);
    let seen = world.outlet.policies.find(&Id::new("shop", "a")).unwrap();
    assert!(seen.invalid.is_some() && seen.given == Some(1), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_installed_is_waited_for_and_may_go_again() {
    let mut there = list(&["a"]);
    there.push(no_watch(404));
    let script = vec![
        vec![no_list(404)],
        vec![no_list(404)],
        there,
        vec![no_list(404)],
        list(&["b"]),
    ];
    let mut world = World::new(Kind::TrafficPolicy, script);
    assert_eq!(world.told(MOMENT).await, Vec::<String>::new());
    let problems = world.problems();
    assert!(
        problems[0].starts_with("TrafficPolicy||the API server does not have"),
        "{problems:?}"
    );
    // Of what cannot be there, nothing is missing; and that is no failure.
    assert_eq!(world.figures(Kind::TrafficPolicy), (0, 0, true));
    assert_eq!(world.told(2 * ABSENT_RETRY).await, ["+a"]);
    assert_eq!(world.problems(), Vec::<String>::new());
    // One such answer may come from a server that just starts: two are needed.
    assert_eq!(world.told(ABSENT_RETRY).await, ["-a"]);
    assert_eq!(world.problems().len(), 1);
    assert_eq!(world.told(ABSENT_RETRY).await, ["+b"]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn gateway_api_that_is_not_installed_is_no_problem_and_is_seen_when_it_is() {
    let script = vec![vec![no_list(404)], vec![no_list(404)], list(&["a"])];
    let mut world = World::new(Kind::HttpRoute, script);
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::HttpRoute) {
        assert!(!world.outlet.watches.set_listed(kind));
    }
    assert_eq!(world.told(MOMENT).await, ["synced"], "nobody waits for it");
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.figures(Kind::HttpRoute), (0, 0, true));
    assert_eq!(world.told(2 * ABSENT_RETRY).await, ["+a"]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn of_two_versions_the_one_that_the_server_has_is_followed() {
    let script = vec![vec![no_list(404)], list(&["a"])];
    let mut world = World::of_versions(Kind::ReferenceGrant, 2, script);
    assert_eq!(world.told(MOMENT).await, ["+a"], "without a pause between");
    assert_eq!(world.figures(Kind::ReferenceGrant), (1, 0, true));
    let script = vec![vec![no_list(404)], vec![no_list(404)]];
    let mut world = World::of_versions(Kind::ReferenceGrant, 2, script);
    assert_eq!(world.told(MOMENT).await, Vec::<String>::new());
    assert_eq!((world.opened(), world.problems().len()), (2, 0));
    assert_eq!(world.told(ABSENT_RETRY).await, Vec::<String>::new());
    assert_eq!(world.opened(), 3);
}

/// Where a server that starts lacks them for a moment, calls do not go elsewhere.
#[tokio::test(start_paused = true)]
async fn routes_go_only_when_their_kind_is_long_gone() {
    let mut script = list(&["a"]);
    script.push(no_watch(404));
    let mut streams = vec![script];
    streams.extend((0..ABSENCES_OF_GUARDS).map(|_| vec![no_list(404)]));
    let mut world = World::new(Kind::GrpcRoute, streams);
    assert_eq!(world.told(MOMENT).await, ["+a"]);
    let most = ABSENT_RETRY * (ABSENCES_OF_GUARDS - 2);
    assert_eq!(world.told(most).await, Vec::<String>::new());
    assert_eq!(world.told(2 * ABSENT_RETRY).await, ["-a"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_forbidden_is_said_with_its_verb_until_it_is_allowed() {
    let script = vec![vec![no_list(403)], vec![no_list(403)], list(&["a"])];
    let mut world = World::new(Kind::Pod, script);
    assert_eq!(world.told(MOMENT).await, Vec::<String>::new());
    let problems = world.problems();
    assert!(
        problems[0].starts_with("Pod||") && problems[0].contains("list things.example"),
        "{problems:?}"
    );
    assert!(!world.figures(Kind::Pod).2);
    assert_eq!(world.told(Duration::from_secs(2)).await, ["+a"]);
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.figures(Kind::Pod), (1, 2, true));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_is_asked_anew_and_what_went_meanwhile_goes() {
    let mut before = list(&["a", "b"]);
    before.extend((0..3).map(|_| no_watch(503)));
    let script = vec![before, list(&["b"])];
    let mut world = World::new(Kind::Pod, script);
    assert_eq!(world.told(MOMENT).await, ["+a", "+b"]);
    assert_eq!(world.problems().len(), 1);
    // It is back as soon as it lists, though of the watch nothing is heard yet.
    assert_eq!(world.told(Duration::from_secs(2)).await, ["+b", "-a"]);
    assert_eq!((world.opened(), world.problems().len()), (2, 0));
    assert_eq!(world.figures(Kind::Pod), (4, 3, true));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_again_is_asked_again_soon() {
    let away = || {
        let refused = std::io::Error::other("connection refused");
        let refused = kube::Error::Service(refused.into());
        Err(watcher::Error::InitialListFailed(refused))
    };
    let mut script: Vec<Vec<Item>> = (0..20).map(|_| vec![away()]).collect();
    script.extend([vec![no_list(503)], list(&["a"])]);
    let mut world = World::new(Kind::Pod, script);
    let mut waited = Duration::ZERO;
    while world.figures(Kind::Pod).1 < 21 {
        assert!(world.told(MOMENT).await.is_empty());
        waited += MOMENT;
    }
    assert!(waited > Duration::from_secs(40), "{waited:?}");
    assert_eq!(world.told(Duration::from_millis(300)).await, ["+a"]);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_version_is_listed_anew_without_complaint() {
    let mut before = list(&["a"]);
    before.push(no_watch(410));
    let mut world = World::new(Kind::Pod, vec![before, list(&["a"])]);
    assert_eq!(world.told(Duration::from_secs(1)).await, ["+a", "+a"]);
    assert_eq!((world.opened(), world.problems().len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_long_enough_stands_again() {
    let mut script = list(&["a"]);
    script.push(no_watch(403));
    let mut world = World::new(Kind::Pod, vec![script]);
    world.told(Duration::from_secs(1)).await;
    assert!(world.problems()[0].contains("watch things.example"));
    world.told(SETTLED + Duration::from_secs(1)).await;
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!((world.opened(), world.figures(Kind::Pod).2), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_stalls_is_begun_anew() {
    let mut world = World::new(Kind::Pod, vec![vec![Ok(News::Init)], list(&["a"])]);
    assert_eq!(world.told(LIST_PATIENCE).await, Vec::<String>::new());
    assert_eq!(world.told(Duration::from_secs(1)).await, ["+a"]);
    assert_eq!(world.opened(), 2);
}
