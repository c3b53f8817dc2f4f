//! The policy that is changed, to see how fast it is in force; and the user's
//! own edits, seen the same way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::inputs::{Inputs, News};
use crate::playground::clock;
use crate::playground::cluster::catalogue::Key;
use crate::playground::cluster::yaml;
use crate::playground::measure::propagation::{Before, Propagation, Spread, spread};
use crate::playground::world::World;

/// How often the policy is changed.
const EVERY: Duration = Duration::from_secs(1);

/// What is changed, and how it went.
#[derive(Debug, Default)]
pub struct Changes {
    policy: Option<(Key, Value)>,
    count: u64,
    is_under_way: bool,
    last: Option<Instant>,
    times: Vec<Duration>,
    arrived_at: Vec<Instant>,
    before: Option<Before>,
}

impl Changes {
    /// Chooses the policy: the namespace's own, or one of ours where it has none.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare(&mut self, world: &mut World) -> anyhow::Result<()> {
        let namespace = world.main_namespace();
        let found = world
            .policies()
            .into_iter()
            .find(|(key, policy)| key.0 == namespace && targets_namespace(policy));
        let (key, policy) = match found {
            Some((key, policy)) => {
                world.take_over(&key)?;
                (key, policy)
            }
            None => {
                let policy = namespace_policy(&namespace);
                (yaml::key(&policy), policy)
            }
        };
        world.write_policy(&with_idle_timeout(&policy, 0))?;
        self.policy = Some((key, policy));
        Ok(())
    }

    /// The load has begun: the first change is one interval away.
    pub fn begin(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Changes the policy when it is time and the last change has arrived.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn change_if_due(
        &mut self,
        now: Instant,
        world: &mut World,
        admins: Vec<(String, SocketAddr)>,
        inputs: &Inputs,
    ) -> anyhow::Result<()> {
        let is_due = self.last.is_none_or(|last| now - last >= EVERY);
        let Some((key, policy)) = self
            .policy
            .as_ref()
            .filter(|_| is_due && !self.is_under_way)
        else {
            return Ok(());
        };
        self.last = Some(now);
        let before = Before::ask(admins).await;
        if before.sidecars_with(key) == 0 {
            return Ok(());
        }
        self.count += 1;
        let changed = with_idle_timeout(policy, self.count);
        let changed_at = clock::now();
        world.write_policy(&changed)?;
        self.is_under_way = true;
        follow(before, key.clone(), changed_at, inputs);
        Ok(())
    }

    /// A change has arrived or is lost; whether it was one of ours.
    pub fn arrived(&mut self, propagation: &Propagation) -> bool {
        let is_ours = self
            .policy
            .as_ref()
            .is_some_and(|(key, _)| *key == propagation.policy);
        if is_ours {
            self.is_under_way = false;
        }
        if let Some(took) = propagation
            .slowest
            .filter(|_| propagation.missing.is_empty())
        {
            self.times.push(took);
            self.arrived_at.push(clock::now());
        }
        is_ours
    }

    /// What is in force everywhere, for the next edit of the user's.
    pub fn remember(&mut self, before: Before) {
        self.before = Some(before);
    }

    /// Follows the user's edit of policies, if it was one.
    ///
    /// # Errors
    /// When the policy that was taken over cannot be written.
    pub fn note_edits(
        &mut self,
        before: &BTreeMap<Key, Value>,
        world: &mut World,
        inputs: &Inputs,
    ) -> anyhow::Result<()> {
        let changed_at = clock::now();
        let now = world.policies();
        if let Some(edited) = self.adopt(&now) {
            world.write_policy(&edited)?;
        }
        let mut edited = now
            .iter()
            .filter(|(key, policy)| before.get(*key).is_some_and(|old| old != *policy));
        let Some((key, _)) = edited.next() else {
            return Ok(());
        };
        if let Some(before) = self
            .before
            .take()
            .filter(|before| before.sidecars_with(key) > 0)
        {
            follow(before, key.clone(), changed_at, inputs);
        }
        Ok(())
    }

    /// The policy that was taken over as the user has it now, where that
    /// changed: nobody else hands the edit on.
    fn adopt(&mut self, now: &BTreeMap<Key, Value>) -> Option<Value> {
        let (key, held) = self.policy.as_mut()?;
        let edited = now.get(&*key).filter(|edited| **edited != *held)?;
        if edited["spec"]["podSelector"].is_object() {
            // It has mtls and nothing else: an idle timeout would make it invalid.
            let edited = edited.clone();
            self.policy = None;
            return Some(edited);
        }
        *held = edited.clone();
        Some(with_idle_timeout(held, self.count))
    }

    /// How long changes took.
    pub fn spread(&self) -> Option<Spread> {
        spread(&self.times)
    }

    /// How many arrived after a moment.
    pub fn arrived_after(&self, moment: Instant) -> usize {
        self.arrived_at.iter().filter(|at| **at > moment).count()
    }
}

fn targets_namespace(policy: &Value) -> bool {
    let targets = policy["spec"]["targetRefs"].as_array();
    targets.is_some_and(|targets| targets.iter().any(|target| target["kind"] == "Namespace"))
}

fn follow(before: Before, policy: Key, changed_at: Instant, inputs: &Inputs) {
    let news = inputs.news_sender();
    tokio::spawn(async move {
        let propagation = before.until_in_force(policy, changed_at).await;
        let _ = news.send(News::Propagated(propagation)).await;
    });
}

/// A policy with its idle timeout set: harmless, and visible as a new generation.
fn with_idle_timeout(policy: &Value, change: u64) -> Value {
    let mut policy = policy.clone();
    policy["metadata"]["generation"] = json!(1000 + change);
    policy["spec"]["timeouts"]["idle"] = json!(if change.is_multiple_of(2) {
        "3600s"
    } else {
        "3601s"
    });
    policy
}

/// A policy of the whole namespace, for where the user has none.
fn namespace_policy(namespace: &str) -> Value {
    json!({
        "apiVersion": "remora.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "remora-playground", "namespace": namespace},
        "spec": {"targetRefs": [{"group": "", "kind": "Namespace", "name": namespace}], "timeouts": {}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_of_the_policy_that_was_taken_over_is_handed_on_once() {
        let policy = |connect: &str| json!({"metadata": {}, "spec": {"outbound": {"connectTimeout": connect}}});
        let key: Key = ("shop".to_owned(), "defaults".to_owned());
        let mut changes = Changes {
            policy: Some((key.clone(), policy("1s"))),
            count: 7,
            ..Changes::default()
        };
        assert_eq!(
            changes.adopt(&BTreeMap::from([(key.clone(), policy("1s"))])),
            None
        );
        let now = BTreeMap::from([(key, policy("2s"))]);
        let edited = changes.adopt(&now).unwrap();
        assert_eq!(edited["spec"]["outbound"]["connectTimeout"], "2s");
        assert_eq!(
            edited["spec"]["timeouts"]["idle"], "3601s",
            "as it was changed last"
        );
        assert_eq!(changes.adopt(&now), None);
    }

    #[test]
    fn a_policy_that_has_become_one_of_pods_is_changed_no_more() {
        let key: Key = ("shop".to_owned(), "defaults".to_owned());
        let of_pods = json!({"spec": {"podSelector": {}, "mtls": {"mode": "Strict"}}});
        let mut changes = Changes {
            policy: Some((key.clone(), json!({"spec": {"timeouts": {}}}))),
            ..Changes::default()
        };
        let now = BTreeMap::from([(key, of_pods.clone())]);
        assert_eq!(changes.adopt(&now), Some(of_pods));
        assert!(changes.policy.is_none());
    }
}
