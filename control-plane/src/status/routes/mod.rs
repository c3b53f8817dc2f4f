//! The status of every route, each kind by a task of its own, written by the
//! replica that leads. Others write into the same list: only the entries with
//! our name are ours, and those of others stay as they are.
//!
//! # Layout
//! - here: the task that writes.
//! - [`plan`]: what the list should be.
//! - [`present`]: reading and writing it at the API server.
//!
//! The API server must allow `get` and `list` of `httproutes` and `grpcroutes`,
//! and `patch` of their `status` (gateway.networking.k8s.io).

pub mod plan;
pub mod present;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use self::present::{Present, Statuses};
use super::pace::{Change, Pace};
use super::{COALESCE, MAX_GONE, READ_PAUSE, RESYNC_INTERVAL, ROUND, Writes, rfc3339};
use crate::answer::{Complaints, RequestError};
use crate::core::objects::Id;
use crate::core::routes::judged::Verdicts;
use crate::core::routes::verdict::RouteVerdict;
use crate::core::routes::{RouteId, RouteKind};
use crate::gateway::status::mark;
use crate::leader::Leadership;
use crate::source::kubernetes::{Policies, PolicySeen};
use crate::{clock, random};

/// So long after a write the watch has told of it; what it tells then, others
/// have written.
const LAG: Duration = Duration::from_secs(3);

/// Where a status comes from.
pub struct Inputs {
    /// The kind of the routes.
    pub kind: RouteKind,
    /// The statuses at the API server.
    pub statuses: Statuses,
    /// What the source read.
    pub routes: Arc<Policies>,
    /// What the core decided.
    pub verdicts: watch::Receiver<Arc<Verdicts>>,
    /// Who leads.
    pub leadership: Leadership,
    /// For the metrics.
    pub writes: Arc<Writes>,
}

/// Writes for as long as this replica leads, and whenever it does.
pub async fn keep(inputs: Inputs) -> Infallible {
    let mut leadership = inputs.leadership.clone();
    loop {
        leadership.begun().await;
        let mut writer = Writer::new(&inputs, clock::now());
        leadership.while_leading(writer.write()).await;
    }
}

/// One time of leading.
struct Writer<'a> {
    inputs: &'a Inputs,
    present: HashMap<Id, Present>,
    was_read: bool,
    read_due: Instant,
    pace: Pace,
    /// Those that are as they should be: by which verdict, and as which status.
    settled: HashMap<Id, (Arc<RouteVerdict>, u64)>,
    complaints: Complaints,
}

/// A status that should be written.
struct Due {
    at: Instant,
    seen: PolicySeen,
    verdict: Arc<RouteVerdict>,
}

impl<'a> Writer<'a> {
    fn new(inputs: &'a Inputs, now: Instant) -> Self {
        Self {
            inputs,
            present: HashMap::new(),
            was_read: false,
            read_due: now,
            pace: Pace::new(now),
            settled: HashMap::new(),
            complaints: Complaints::default(),
        }
    }

    async fn write(&mut self) -> Infallible {
        let mut verdicts = self.inputs.verdicts.clone();
        let mut routes = self.inputs.routes.changed();
        loop {
            verdicts.mark_unchanged();
            routes.mark_unchanged();
            let next = self.round().await;
            // None of the senders goes away before this task does.
            tokio::select! {
                _ = verdicts.changed() => {}
                _ = routes.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Writes what is due; when to look again at the latest.
    async fn round(&mut self) -> Instant {
        let begun = clock::now();
        if begun >= self.read_due {
            if let Err(error) = self.read().await {
                self.read_due = clock::now() + READ_PAUSE;
                let what = format!("list {}", self.inputs.statuses.plural());
                if !error.is_usual() {
                    self.complaints.tell(&what, &error);
                }
                return self.read_due;
            }
        } else if !self.was_read {
            return self.read_due;
        }
        let mut next = self.read_due;
        let mut due = self.due(begun);
        due.sort_by_key(|one| one.at);
        for one in due {
            let now = clock::now();
            if one.at > now {
                return next.min(one.at);
            }
            if now > begun + ROUND || !self.inputs.leadership.is_leading(now) {
                return now;
            }
            match self.pace.take(now) {
                Ok(()) => self.write_one(one).await,
                Err(at) => return next.min(at),
            }
            next = next.min(clock::now() + super::pace::OBJECT_INTERVAL);
        }
        next
    }

    async fn read(&mut self) -> Result<(), RequestError> {
        self.present = match self.inputs.statuses.all().await {
            Ok(present) => present,
            // The kind is not there: then none of its objects is.
            Err(RequestError::NotFound) => HashMap::new(),
            Err(error) => return Err(error),
        };
        self.was_read = true;
        self.read_due = clock::now() + RESYNC_INTERVAL;
        self.complaints.end();
        Ok(())
    }

    fn due(&mut self, now: Instant) -> Vec<Due> {
        let verdicts = self.inputs.verdicts.borrow().clone();
        let all = self.inputs.routes.all();
        self.forget_gone(&all);
        let time = rfc3339(clock::unix_ms());
        let mut due = Vec::new();
        for seen in all {
            let id = RouteId {
                kind: self.inputs.kind,
                id: seen.id.clone(),
            };
            // Nothing is said of a generation that the core has not judged.
            let verdict = verdicts.get(&id);
            let Some(verdict) = verdict.filter(|one| one.generation == seen.generation) else {
                continue;
            };
            let settled = self.settled.get(&seen.id);
            if settled.is_some_and(|(by, as_)| Arc::ptr_eq(by, verdict) && *as_ == seen.status) {
                continue;
            }
            let present = self.present.get(&seen.id).filter(|one| one.uid == seen.uid);
            let ours = present.map_or(&[][..], |present| &present.ours);
            let mut at = self.pace.due_at(&seen.id, Change::Conditions, now);
            if plan::merged(ours, verdict, &time).is_none() {
                // What the watch says may be from before our last write.
                let since = present.map(|present| present.at);
                if mark(ours.iter()) == seen.status {
                    let settled = (verdict.clone(), seen.status);
                    self.settled.insert(seen.id, settled);
                    continue;
                }
                at = at.max(since.map_or(now, |since| since + LAG));
            }
            due.push(Due {
                at,
                verdict: verdict.clone(),
                seen,
            });
        }
        due
    }

    fn forget_gone(&mut self, all: &[PolicySeen]) {
        let is_there = |id: &Id| all.binary_search_by(|seen| seen.id.cmp(id)).is_ok();
        // The source may still be at its first list: what was read is kept
        // until it is too much.
        if self.present.len() > all.len() + MAX_GONE {
            self.present.retain(|id, _| is_there(id));
        }
        self.settled.retain(|id, _| is_there(id));
        self.pace.retain(is_there);
    }

    async fn write_one(&mut self, due: Due) {
        let Due { seen, verdict, .. } = due;
        let time = rfc3339(clock::unix_ms());
        let written = self.inputs.statuses.write(&seen, &verdict, &time).await;
        let now = clock::now();
        let word = match &written {
            Ok((_, false)) => None,
            Ok((_, true)) => Some("written"),
            Err(error) => Some(error.word()),
        };
        word.into_iter()
            .for_each(|word| self.inputs.writes.count(word));
        match written {
            Ok((present, _)) => {
                self.complaints.end();
                self.pace.written(&seen.id, now);
                self.present.insert(seen.id, present);
            }
            Err(error) => {
                let everywhere = !error.is_usual() && !matches!(error, RequestError::Refused(_));
                self.pace
                    .failed(&seen.id, everywhere, now, random::unit(random::next()));
                if error.is_usual() {
                    self.present.remove(&seen.id);
                }
                let plural = self.inputs.statuses.plural();
                let what = format!("patch {plural}/status of {}", seen.id);
                if !error.is_usual() {
                    self.complaints.tell(&what, &error);
                }
            }
        }
    }
}
