//! How long a changed policy takes to be in force in every sidecar: from the
//! file's rename to `/config` of the slowest one showing another generation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Deserialize;

use super::client::Client;
use crate::playground::clock;
use crate::playground::cluster::catalogue::Key;

/// How often a sidecar is asked while a change is on its way.
const ASK_EVERY: Duration = Duration::from_millis(3);
/// When a change has not arrived by then, it is lost.
pub const LOST_AFTER: Duration = Duration::from_secs(5);

/// The part of `GET /config` that matters here.
#[derive(Debug, Default, Deserialize)]
pub struct Config {
    /// What is in force.
    #[serde(default)]
    pub applied: Vec<Applied>,
    /// From the start of the sidecar's process to ready.
    #[serde(default)]
    pub ready_ms: Option<u64>,
}

/// A resource in force.
#[derive(Debug, Default, Deserialize)]
pub struct Applied {
    /// Its type: `Service`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its name: `shop/payment`.
    #[serde(default)]
    pub name: String,
    /// Another one wherever its content is.
    #[serde(default)]
    pub version: String,
    /// The policies that it carries.
    #[serde(default)]
    pub policies: Vec<AppliedPolicy>,
}

/// A policy in force.
#[derive(Debug, Default, Deserialize)]
pub struct AppliedPolicy {
    namespace: String,
    name: String,
    generation: i64,
}

/// The lowest and highest generation of each policy in force in one sidecar.
pub type Generations = BTreeMap<Key, (i64, i64)>;

impl Config {
    /// The policies in force.
    pub fn generations(&self) -> Generations {
        let mut all = Generations::new();
        for policy in self.applied.iter().flat_map(|applied| &applied.policies) {
            let key = (policy.namespace.clone(), policy.name.clone());
            let range = all
                .entry(key)
                .or_insert((policy.generation, policy.generation));
            range.0 = range.0.min(policy.generation);
            range.1 = range.1.max(policy.generation);
        }
        all
    }
}

/// What every sidecar had in force at one moment, and the connections to ask again.
#[derive(Debug)]
pub struct Before {
    sidecars: Vec<(String, Client, Generations)>,
}

impl Before {
    /// Asks all sidecars; one that does not answer takes no part.
    pub async fn ask(sidecars: Vec<(String, SocketAddr)>) -> Self {
        let asked = sidecars.into_iter().map(|(pod, admin)| async move {
            let mut client = Client::new(admin);
            let config: Config = client.json("/config").await.ok()?;
            Some((pod, client, config.generations()))
        });
        Self {
            sidecars: join_all(asked).await.into_iter().flatten().collect(),
        }
    }

    /// How many sidecars have this policy in force.
    pub fn sidecars_with(&self, policy: &Key) -> usize {
        self.sidecars
            .iter()
            .filter(|(_, _, generations)| generations.contains_key(policy))
            .count()
    }

    /// Waits until every sidecar that had the policy has another generation of it.
    pub async fn until_in_force(self, policy: Key, changed_at: Instant) -> Propagation {
        let asked = self
            .sidecars
            .into_iter()
            .filter_map(|(pod, client, generations)| {
                let before = generations.get(&policy)?.1;
                Some(until_new(pod, client, policy.clone(), before, changed_at))
            });
        let results = join_all(asked).await;
        Propagation {
            slowest: results.iter().filter_map(|(_, took)| *took).max(),
            sidecars: results.len(),
            missing: results
                .into_iter()
                .filter(|(_, took)| took.is_none())
                .map(|(pod, _)| pod)
                .collect(),
            policy,
        }
    }
}

/// How a change travelled.
#[derive(Debug, Clone)]
pub struct Propagation {
    /// The policy.
    pub policy: Key,
    /// How long until the slowest sidecar had it.
    pub slowest: Option<Duration>,
    /// How many sidecars had to get it.
    pub sidecars: usize,
    /// Those that did not within [`LOST_AFTER`].
    pub missing: Vec<String>,
}

async fn until_new(
    pod: String,
    mut client: Client,
    policy: Key,
    before: i64,
    changed_at: Instant,
) -> (String, Option<Duration>) {
    loop {
        let config: Result<Config, _> = client.json("/config").await;
        let now = clock::now();
        let arrived = config.is_ok_and(|config| {
            // Every resource that carries it: a lower bound above the old one,
            // or a policy that is gone.
            config
                .generations()
                .get(&policy)
                .is_none_or(|(lowest, highest)| *lowest != before && *highest != before)
        });
        let took = now.saturating_duration_since(changed_at);
        if arrived {
            return (pod, Some(took));
        }
        if took > LOST_AFTER {
            return (pod, None);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Median and largest of some times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub changes: usize,
}

/// The spread of some times; `None` of none.
pub fn spread(times: &[Duration]) -> Option<Spread> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let ms = |time: &Duration| (time.as_secs_f64() * 10_000.0).round() / 10.0;
    Some(Spread {
        p50: ms(sorted.get(sorted.len() / 2)?),
        max: ms(sorted.last()?),
        changes: sorted.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_policy_of_several_resources_has_a_range() {
        let config: Config = serde_json::from_value(json!({"applied": [
            {"policies": [{"namespace": "shop", "name": "defaults", "generation": 3}]},
            {"policies": [{"namespace": "shop", "name": "defaults", "generation": 4}]},
            {}
        ]}))
        .unwrap();
        assert_eq!(
            config.generations()[&("shop".to_owned(), "defaults".to_owned())],
            (3, 4)
        );
    }

    #[test]
    fn the_spread_names_median_and_largest() {
        let ms = |n| Duration::from_millis(n);
        assert_eq!(
            spread(&[ms(9), ms(1), ms(5)]),
            Some(Spread {
                p50: 5.0,
                max: 9.0,
                changes: 3
            })
        );
        assert_eq!(spread(&[]), None);
    }
}
