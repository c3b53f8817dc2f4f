//! The status of every policy, each kind by a task of its own, written by the
//! replica that leads: what is in force where and why not, how many sidecars
//! have it, which breakers it has open.
//!
//! # Layout
//! - here: the task that writes.
//! - [`plan`]: what a status should be.
//! - [`pace`]: when it may be written.
//! - [`present`]: reading and writing it at the API server, over `objects`.
//! - [`routes`]: the same for the routes of Gateway API.
//!
//! The API server must allow `list` of `trafficpolicies` and
//! `authorizationpolicies`, and `patch` of their `status` (remora.io).

mod objects;
pub mod pace;
pub mod plan;
pub mod present;
pub mod routes;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use self::pace::{Change, Pace};
use self::plan::Counts;
use self::present::{Present, Statuses};
use crate::answer::{Complaints, RequestError};
use crate::core::objects::{Id, Kind};
use crate::core::policies::Condition;
use crate::counters::Counters;
use crate::events;
use crate::leader::Leadership;
use crate::policy::status::TrafficPolicyStatus;
use crate::reports::Sidecars;
use crate::reports::tally::Tally;
use crate::source::kubernetes::{Policies, PolicySeen};
use crate::{clock, random};

/// Changes that come so close together are one.
const COALESCE: Duration = Duration::from_millis(200);
/// Sidecars are counted at most so often when they change,
const TALLY_INTERVAL: Duration = Duration::from_secs(1);
/// and so often when nothing says that they did.
const RECOUNT_INTERVAL: Duration = Duration::from_secs(10);
/// So long after this replica began to lead every sidecar has come to it; until
/// then the counts in the statuses are left as they are.
pub const SETTLE: Duration = Duration::from_secs(10);
/// The statuses are read anew so often, in case somebody else wrote one.
const RESYNC_INTERVAL: Duration = Duration::from_secs(120);
/// Writes go on for so long before it is looked again what is to be written.
const ROUND: Duration = Duration::from_secs(1);
/// Statuses that are kept of policies which the source does not have.
const MAX_GONE: usize = 1_000;
/// After the statuses could not be read.
const READ_PAUSE: Duration = Duration::from_secs(2);

/// What became of writes, for the metrics.
pub type Writes = Counters<8>;

/// No write yet.
pub const fn writes() -> Writes {
    Counters::new([
        "written",
        "not_found",
        "conflict",
        "throttled",
        "forbidden",
        "refused",
        "unreachable",
        "other",
    ])
}

/// Where a status comes from, and who is told of it.
pub struct Inputs {
    /// The kind of the policies.
    pub kind: Kind,
    /// The statuses at the API server.
    pub statuses: Statuses,
    /// What the source read.
    pub policies: Arc<Policies>,
    /// What the core decided.
    pub conditions: watch::Receiver<Arc<Vec<Condition>>>,
    /// What the sidecars tell.
    pub sidecars: Arc<Sidecars>,
    /// Who leads.
    pub leadership: Leadership,
    /// For the metrics.
    pub writes: Arc<Writes>,
    /// Takes what a change of a status is an Event of.
    pub notices: events::Notices,
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
    begun: Instant,
    present: HashMap<Id, Present>,
    was_read: bool,
    read_due: Instant,
    pace: Pace,
    tallies: HashMap<Id, Tally>,
    tallied_at: Option<Instant>,
    sidecar_changes: watch::Receiver<u64>,
    complaints: Complaints,
}

/// A status that should be written.
struct Due {
    change: Change,
    at: Instant,
    seen: PolicySeen,
    status: TrafficPolicyStatus,
}

impl<'a> Writer<'a> {
    fn new(inputs: &'a Inputs, now: Instant) -> Self {
        Self {
            inputs,
            begun: now,
            present: HashMap::new(),
            was_read: false,
            read_due: now,
            pace: Pace::new(now),
            tallies: HashMap::new(),
            tallied_at: None,
            sidecar_changes: inputs.sidecars.changes(),
            complaints: Complaints::default(),
        }
    }

    async fn write(&mut self) -> Infallible {
        let mut conditions = self.inputs.conditions.clone();
        let mut policies = self.inputs.policies.changed();
        let mut sidecars = self.inputs.sidecars.changes();
        loop {
            conditions.mark_unchanged();
            policies.mark_unchanged();
            sidecars.mark_unchanged();
            let next = self.round().await;
            // None of the senders goes away before this task does.
            tokio::select! {
                _ = conditions.changed() => {}
                _ = policies.changed() => {}
                _ = sidecars.changed() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Writes what is due; when to look again at the latest.
    async fn round(&mut self) -> Instant {
        let begun = clock::now();
        if begun < self.read_due {
            // Nothing is written over what was never read.
            if !self.was_read {
                return self.read_due;
            }
        } else if let Err(error) = self.read().await {
            self.read_due = clock::now() + READ_PAUSE;
            let what = format!("list {}", self.inputs.statuses.plural());
            if !error.is_usual() {
                self.complaints.tell(&what, &error);
            }
            return self.read_due;
        }
        let mut next = self.count(begun);
        let mut due = self.due(begun);
        due.sort_by_key(|one| (one.change, one.at));
        for one in due {
            let now = clock::now();
            if one.at > now {
                next = next.min(one.at);
                continue;
            }
            if now > begun + ROUND || !self.inputs.leadership.is_leading(now) {
                return now;
            }
            match self.pace.take(now) {
                Ok(()) => self.write_one(one).await,
                Err(at) => return next.min(at),
            }
        }
        next
    }

    async fn read(&mut self) -> Result<(), RequestError> {
        self.present = self.inputs.statuses.all().await?;
        self.was_read = true;
        let now = clock::now();
        let settled = self.begun + SETTLE;
        // Whoever led before may have had a write on its way when this replica
        // began and read what was there: it has come in by then.
        self.read_due = if now < settled {
            settled
        } else {
            now + RESYNC_INTERVAL
        };
        self.complaints.end();
        Ok(())
    }

    /// Counts the sidecars where that is due; when it is due again.
    fn count(&mut self, now: Instant) -> Instant {
        let settled = self.begun + SETTLE;
        if now < settled {
            return settled;
        }
        let changed = self.sidecar_changes.has_changed().unwrap_or(false);
        let interval = if changed {
            TALLY_INTERVAL
        } else {
            RECOUNT_INTERVAL
        };
        let due = self.tallied_at.map_or(now, |at| at + interval);
        if now < due {
            return due;
        }
        self.sidecar_changes.mark_unchanged();
        self.tallies = self.inputs.sidecars.tally(self.inputs.kind);
        self.tallied_at = Some(now);
        now + RECOUNT_INTERVAL
    }

    fn due(&mut self, now: Instant) -> Vec<Due> {
        let conditions = self.inputs.conditions.borrow().clone();
        let by_policy = conditions.chunk_by(|a, b| a.policy == b.policy);
        let by_policy: HashMap<&Id, &[Condition]> = by_policy
            .filter_map(|chunk| Some((&chunk.first()?.policy, chunk)))
            .collect();
        let all = self.inputs.policies.all();
        self.forget_gone(&all);
        let (none, time) = (Tally::default(), rfc3339(clock::unix_ms()));
        let mut due = Vec::new();
        for seen in all {
            let present = self.present.get(&seen.id).filter(|one| one.uid == seen.uid);
            let present = present.and_then(|one| one.status.as_ref());
            let counts = match self.tallied_at {
                None => Counts::NotYet,
                Some(_) => Counts::Known(self.tallies.get(&seen.id).unwrap_or(&none)),
            };
            let judged = by_policy.get(&seen.id).copied().unwrap_or_default();
            let Some(status) = plan::desired(&seen, judged, counts, present, &time) else {
                continue;
            };
            let Some(change) = change(present, &status) else {
                continue;
            };
            let at = self.pace.due_at(&seen.id, change, now);
            due.push(Due {
                change,
                at,
                seen,
                status,
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
        self.pace.retain(is_there);
    }

    async fn write_one(&mut self, due: Due) {
        let Due { seen, status, .. } = due;
        let written = self.inputs.statuses.write(&seen, &status).await;
        let now = clock::now();
        let word = written
            .as_ref()
            .map_or_else(RequestError::word, |_| "written");
        self.inputs.writes.count(word);
        match written {
            Ok(status) => {
                self.complaints.end();
                self.pace.written(&seen.id, now);
                self.tell(&seen, &status);
                let (id, uid) = (seen.id, seen.uid);
                let status = Some(status);
                self.present.insert(id, Present { uid, status });
            }
            Err(error) => {
                let everywhere = !error.is_usual() && !matches!(error, RequestError::Refused(_));
                self.pace
                    .failed(&seen.id, everywhere, now, random::unit(random::next()));
                if error.is_usual() {
                    // Another object of the same name, or none: what was read is history.
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

    fn tell(&self, seen: &PolicySeen, status: &TrafficPolicyStatus) {
        let before = self.present.get(&seen.id).filter(|one| one.uid == seen.uid);
        let before = before.and_then(|one| one.status.as_ref());
        let refusal = self.tallies.get(&seen.id);
        let refusal = refusal.and_then(|tally| tally.refusal.as_ref());
        for notice in events::decide::of_status(seen, before, status, refusal) {
            self.inputs.notices.tell(notice);
        }
    }
}

/// How the status that should be differs from the one that is there.
fn change(present: Option<&TrafficPolicyStatus>, desired: &TrafficPolicyStatus) -> Option<Change> {
    let Some(present) = present else {
        return Some(Change::Conditions);
    };
    if present == desired {
        return None;
    }
    let mut with_counts = present.clone();
    with_counts.sidecars = desired.sidecars;
    with_counts.breakers = desired.breakers;
    Some(if with_counts == *desired {
        Change::Counts
    } else {
        Change::Conditions
    })
}

/// To the second, as Kubernetes writes times.
fn rfc3339(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).unwrap_or_default();
    Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::status::SidecarCounts;

    #[test]
    fn counts_alone_are_told_from_conditions() {
        let status = TrafficPolicyStatus {
            observed_generation: Some(1),
            ..TrafficPolicyStatus::default()
        };
        assert_eq!(change(None, &status), Some(Change::Conditions));
        assert_eq!(change(Some(&status), &status), None);
        let counted = TrafficPolicyStatus {
            sidecars: Some(SidecarCounts::default()),
            ..status.clone()
        };
        assert_eq!(change(Some(&status), &counted), Some(Change::Counts));
        let newer = TrafficPolicyStatus {
            observed_generation: Some(2),
            ..counted
        };
        assert_eq!(change(Some(&status), &newer), Some(Change::Conditions));
    }

    #[test]
    fn times_are_as_kubernetes_writes_them() {
        assert_eq!(rfc3339(1_700_000_000_999), "2023-11-14T22:13:20Z");
    }
}
