//! The watch of one kind: listed in pages, then watched, for as long as the
//! process lives. It never gives up; what it cannot do is said once, counted,
//! and tried again with growing waits.
//!
//! ```text
//!          list whole              watch broke, or refused
//! Listing ------------> Watching --------------------------+
//!    ^  ^                  ^  |                            v
//!    |  |                  |  +-- forgotten version --> (wait) -- again --> Watching
//!    |  +------------------|---------------------------------- or after some, anew
//!    |                     |
//!    +-- every few seconds, while the server does not have the kind (Absent)
//! ```

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use kube::Api;
use kube::runtime::watcher::{self, Event as News};
use tokio::sync::mpsc;

use super::failure::{Backoff, Failure, Reason, Verb};
use super::known::{Changes, Known};
use super::policies::Policies;
use super::read::{Seen, Watchable, Watched};
use super::watches::Watches;
use super::{Error, client};
use crate::core::objects::{Event, Key, Kind};
use crate::problems::Problems;
use crate::text;

/// Objects of one page of a list: what stands in memory whole at once is one
/// page's text.
const PAGE_SIZE: u32 = 100;
/// Objects that are told to the core together, where they come together.
const MAX_BATCH: usize = 256;
/// How long a list may take for its next page.
const LIST_PATIENCE: Duration = Duration::from_secs(60);
/// A watch of which nothing is heard for so long stands: its start would have
/// failed by then.
const SETTLED: Duration = client::RESPONSE_TIMEOUT.saturating_add(Duration::from_secs(5));
/// Failures in a row after which a server that was away is asked for all anew:
/// it may come back with another past.
const FAILURES_BEFORE_LIST: u32 = 3;
/// How often a kind is looked for that the server does not have.
const ABSENT_RETRY: Duration = Duration::from_secs(2);
/// How often in a row it must be missing before what was known of it goes.
const ABSENCES: u32 = 2;
/// The same where its going opens what was shut, or sends calls elsewhere: an API
/// server that starts may not have it for a while.
const ABSENCES_OF_GUARDS: u32 = 30;

/// What a watch tells.
pub type Stream = BoxStream<'static, watcher::Result<News<Seen>>>;

/// Where it goes.
#[derive(Clone)]
pub struct Outlet {
    /// To the core.
    pub events: mpsc::Sender<Vec<Event>>,
    /// What is wrong.
    pub problems: Arc<Problems>,
    /// What was seen of policies.
    pub policies: Arc<Policies>,
    /// How the watches are doing.
    pub watches: Arc<Watches>,
}

/// Follows all objects of a kind.
///
/// # Errors
/// When the core takes no more events; nothing else ends it.
pub fn kind<K: Watchable>(
    client: &kube::Client,
    outlet: &Outlet,
) -> impl Future<Output = Result<Infallible, Error>> + Send + use<K> {
    let open = opener::<K>(client);
    Follower::new(K::KIND, resource::<K>(), 1, outlet.clone()).run(move |_| open())
}

/// The same of a kind that servers have at one of two versions: the first where
/// they have both.
///
/// # Errors
/// When the core takes no more events; nothing else ends it.
pub fn kind_of_two<K: Watchable, L: Watchable>(
    client: &kube::Client,
    outlet: &Outlet,
) -> impl Future<Output = Result<Infallible, Error>> + Send + use<K, L> {
    let (first, second) = (opener::<K>(client), opener::<L>(client));
    let open = move |version: u32| {
        if version.is_multiple_of(2) {
            first()
        } else {
            second()
        }
    };
    Follower::new(K::KIND, resource::<K>(), 2, outlet.clone()).run(open)
}

fn opener<K: Watchable>(client: &kube::Client) -> impl Fn() -> Stream + Send + use<K> {
    let api: Api<Watched<K>> = Api::all(client.clone());
    move || {
        let config = watcher::Config::default().page_size(PAGE_SIZE);
        kube::runtime::watcher(api.clone(), config)
            .map_ok(seen)
            .boxed()
    }
}

fn resource<K: Watchable>() -> String {
    let (plural, group) = (K::plural(&()), K::group(&()));
    match &*group {
        "" => plural.into_owned(),
        group => format!("{plural}.{group}"),
    }
}

fn seen<K>(news: News<Watched<K>>) -> News<Seen> {
    match news {
        News::Apply(object) => News::Apply(object.into_seen()),
        News::Delete(object) => News::Delete(object.into_seen()),
        News::Init => News::Init,
        News::InitApply(object) => News::InitApply(object.into_seen()),
        News::InitDone => News::InitDone,
    }
}

/// How the watch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Before the first list.
    New,
    /// What is known is whole, and followed.
    Following,
    /// It is not followed now; what the server refuses, it refuses by verb.
    Failing(Reason, Option<Verb>),
    /// The server does not have the kind.
    Absent,
}

struct Follower {
    kind: Kind,
    /// As RBAC names it: `endpointslices.discovery.k8s.io`.
    resource: String,
    outlet: Outlet,
    known: Known,
    listing: bool,
    standing: Standing,
    backoff: Backoff,
    absences: u32,
    /// At how many versions the server may have the kind, and which one is tried.
    versions: u32,
    version: u32,
}

impl Follower {
    fn new(kind: Kind, resource: String, versions: u32, outlet: Outlet) -> Self {
        Self {
            kind,
            resource,
            outlet,
            known: Known::new(kind),
            listing: true,
            standing: Standing::New,
            backoff: Backoff::default(),
            absences: 0,
            versions,
            version: 0,
        }
    }

    async fn run(mut self, open: impl Fn(u32) -> Stream) -> Result<Infallible, Error> {
        loop {
            self.listing = true;
            self.follow(&mut open(self.version)).await?;
        }
    }

    /// Follows one stream until it is better to list anew.
    async fn follow(&mut self, stream: &mut Stream) -> Result<(), Error> {
        loop {
            let patience = if self.listing { LIST_PATIENCE } else { SETTLED };
            let failure = match tokio::time::timeout(patience, stream.next()).await {
                Ok(Some(Ok(news))) => self.take(news, stream).await?,
                Ok(Some(Err(error))) => Some(Failure::of(&self.resource, &error)),
                // kube's streams do not end.
                Ok(None) => Some(Failure::stalled(&self.resource, Duration::ZERO)),
                Err(_) if self.listing => Some(Failure::stalled(&self.resource, LIST_PATIENCE)),
                Err(_) => {
                    self.stands();
                    None
                }
            };
            if let Some(failure) = failure
                && self.failed(&failure).await?
            {
                return Ok(());
            }
        }
    }

    /// Takes what came, and all that came with it.
    async fn take(
        &mut self,
        first: News<Seen>,
        stream: &mut Stream,
    ) -> Result<Option<Failure>, Error> {
        let mut changes = Changes::default();
        let mut listed = self.news(first, &mut changes);
        let mut failure = None;
        for _ in 1..MAX_BATCH {
            match stream.next().now_or_never() {
                Some(Some(Ok(news))) => listed |= self.news(news, &mut changes),
                Some(Some(Err(error))) => failure = Some(Failure::of(&self.resource, &error)),
                Some(None) => failure = Some(Failure::stalled(&self.resource, Duration::ZERO)),
                None => break,
            }
            if failure.is_some() {
                break;
            }
        }
        self.tell(changes, listed).await?;
        Ok(failure)
    }

    /// True where by this a list is whole.
    fn news(&mut self, news: News<Seen>, changes: &mut Changes) -> bool {
        match news {
            News::Init => {
                self.listing = true;
                self.known.begin_list();
            }
            News::InitApply(seen) => self.known.apply(seen, changes),
            News::InitDone => {
                self.listing = false;
                self.known.end_list(changes);
                // A list that succeeds says that the server is there, and nothing
                // of a watch that it refuses.
                if !self.watch_is_refused() {
                    self.recovered();
                }
                return true;
            }
            News::Apply(seen) => {
                self.known.apply(seen, changes);
                self.stands();
            }
            News::Delete(seen) => {
                self.known.delete(&seen.id, changes);
                self.stands();
            }
        }
        false
    }

    async fn tell(&mut self, changes: Changes, listed: bool) -> Result<(), Error> {
        let outlet = &self.outlet;
        outlet.watches.count_events(self.kind, changes.count);
        for (id, faults) in changes.faults {
            let key = Key {
                kind: self.kind,
                id,
            };
            outlet.problems.set_object(&key, &faults);
        }
        if !changes.events.is_empty() {
            self.send(changes.events).await?;
        }
        outlet.policies.update(changes.policies);
        // What the others told stands before this: they said so after telling it.
        if listed && outlet.watches.set_listed(self.kind) {
            tracing::info!("everything that there is in the cluster has been told");
            self.send(vec![Event::Synced]).await?;
        }
        Ok(())
    }

    async fn send(&self, events: Vec<Event>) -> Result<(), Error> {
        let sent = self.outlet.events.send(events).await;
        sent.map_err(|_| Error::Closed)
    }

    fn watch_is_refused(&self) -> bool {
        matches!(self.standing, Standing::Failing(_, Some(Verb::Watch)))
    }

    /// It works, and has for long enough that the next failure is the first.
    fn stands(&mut self) {
        self.backoff.reset();
        self.recovered();
    }

    /// It works again.
    fn recovered(&mut self) {
        self.absences = 0;
        let before = std::mem::replace(&mut self.standing, Standing::Following);
        if before == Standing::Following {
            return;
        }
        let resource = &self.resource;
        if before == Standing::New {
            tracing::info!(resource, "watched");
        } else {
            tracing::info!(resource, "watched again");
        }
        self.outlet.watches.set_failing(self.kind, false);
        self.outlet.problems.set_watch(self.kind, None);
    }

    /// Waits after a failure. True where it is better to list anew.
    async fn failed(&mut self, failure: &Failure) -> Result<bool, Error> {
        let reason = failure.reason;
        // Only what may be installed later may be absent.
        if reason == Reason::Absent && self.kind.may_be_absent() {
            self.version = self.version.wrapping_add(1);
            self.absences = self.absences.saturating_add(1);
            // It may have the kind at the next version.
            if self.absences >= self.versions {
                self.absent().await?;
                tokio::time::sleep(ABSENT_RETRY).await;
            }
            return Ok(true);
        }
        self.absences = 0;
        self.outlet.watches.count_failure(self.kind);
        if reason == Reason::Expired {
            tracing::info!(
                resource = self.resource,
                "listed anew: {}",
                text::clean(&failure.message)
            );
        } else {
            self.fails(failure);
        }
        let wait = self.backoff.next(crate::random::next());
        tokio::time::sleep(wait.max(failure.retry_after)).await;
        let was_away = reason.is_away() && self.backoff.failures() >= FAILURES_BEFORE_LIST;
        Ok(self.listing || reason == Reason::Expired || was_away)
    }

    /// Says what is wrong, once for as long as it is the same.
    fn fails(&mut self, failure: &Failure) {
        let verb = (!failure.reason.is_away()).then_some(failure.verb);
        let standing = Standing::Failing(failure.reason, verb);
        let before = std::mem::replace(&mut self.standing, standing);
        if before == standing {
            return;
        }
        // Something answers again: it will soon say more.
        if before == Standing::Failing(Reason::Unreachable, None) {
            self.backoff.reset();
        }
        tracing::warn!(
            resource = self.resource,
            "{}; what was known stays in force, and it is tried again",
            text::clean(&failure.message)
        );
        self.outlet.watches.set_failing(self.kind, true);
        let problems = &self.outlet.problems;
        problems.set_watch(self.kind, Some(failure.message.clone()));
    }

    /// The server does not have the kind: of it there is nothing.
    async fn absent(&mut self) -> Result<(), Error> {
        let enough = match self.kind {
            Kind::TrafficPolicy => ABSENCES,
            _ => ABSENCES_OF_GUARDS,
        };
        if self.absences < enough && !self.known.is_empty() {
            return Ok(());
        }
        if std::mem::replace(&mut self.standing, Standing::Absent) != Standing::Absent {
            self.outlet.watches.set_failing(self.kind, false);
            let resource = &self.resource;
            let missing = format!("the API server does not have {resource}");
            if self.kind.is_policy() {
                let message = format!(
                    "{missing}: there are no policies until its CustomResourceDefinition is installed (kubectl apply -k manifests/install)"
                );
                tracing::warn!(resource, "{message}");
                self.outlet.problems.set_watch(self.kind, Some(message));
            } else {
                // Gateway API is for who wants it.
                tracing::info!(resource, "{missing}: Gateway API is not installed");
                self.outlet.problems.set_watch(self.kind, None);
            }
        }
        let mut changes = Changes::default();
        self.known.clear(&mut changes);
        self.tell(changes, true).await
    }
}

#[cfg(test)]
mod tests;
