//! The pods of the trials, which stay for all stories, and a trial that is played on
//! them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use remora::playground::trials::figures::{self, Told};
use remora::playground::trials::{
    COMMON, GROUND, Played, SETTLE, SHOPPER, Stage, TARGETS, Trial, Verdict, addressee,
};
use serde_json::Value;

use crate::cluster::{Cluster, eventually, is_ready};
use crate::shop::{SHOP, Shop, manifests, name_of, shop};

/// Where a sidecar tells what it has.
const ADMIN: u16 = 15120;
/// Where who makes the load, and the ledger, are told what to do.
const ORDERS: u16 = 8080;
/// And the reviews, whose other port is the sidecar's.
const ORDERS_OF_REVIEWS: u16 = 8090;
/// How long a change may take to be in force, in any case.
const PATIENCE: u64 = 20;
/// After the last change so long nothing has to change for all to be in force.
const QUIET: Duration = Duration::from_millis(400);
/// A stretch that nobody counts, so that Services are known before a policy comes.
const FIRST_CALLS: Duration = Duration::from_secs(1);

/// The pods of the trials.
pub struct World {
    shop: Shop,
    /// By Deployment, in the order of their names.
    pods: BTreeMap<&'static str, Vec<String>>,
}

impl World {
    /// All of it, ready; none where there is no cluster.
    pub fn make() -> Option<Self> {
        let shop = shop()?;
        let common = manifests("demo/scenarios").join(GROUND);
        for file in COMMON {
            let file = common.join(file).display().to_string();
            shop.cluster.kubectl(&["apply", "-f", &file]);
        }
        let deployments = TARGETS.into_iter().chain([(SHOPPER, 1)]);
        let pods = deployments.map(|(deployment, count)| {
            let what = format!("{deployment} is ready");
            let pods = eventually(120, &what, || {
                let pods = shop.cluster.pods(SHOP, &format!("app={deployment}"));
                let ready = pods.iter().filter(|pod| is_ready(pod)).count();
                if ready == count && pods.len() == count {
                    Ok(pods)
                } else {
                    Err(format!("{ready} of {count}"))
                }
            });
            let mut names: Vec<_> = pods.iter().map(name_of).collect();
            names.sort();
            (deployment, names)
        });
        let pods = pods.collect();
        let world = Self { shop, pods };
        eventually(60, "the shopper is served", || {
            let stats = world
                .cluster()
                .served(SHOP, world.shopper(), ORDERS, "/stats")?;
            if stats["started"] == true {
                Ok(())
            } else {
                Err(stats.to_string())
            }
        });
        Some(world)
    }

    fn cluster(&self) -> &Cluster {
        &self.shop.cluster
    }

    fn shopper(&self) -> &str {
        &self.pods[SHOPPER][0]
    }

    #[track_caller]
    fn tell(&self, deployment: &str, pod: &str, order: &str) -> Value {
        let port = if deployment == "reviews" {
            ORDERS_OF_REVIEWS
        } else {
            ORDERS
        };
        let told = self.cluster().told(SHOP, pod, port, order);
        told.unwrap_or_else(|why| panic!("{pod} was told {order}: {why}"))
    }

    /// Plays all of it.
    #[track_caller]
    pub fn play(&self, trial: &'static Trial) -> Verdict {
        let mut played = Vec::new();
        let (mut file, mut load) = ("", String::new());
        for stage in trial.stages {
            let streams = stage.streams(|target, index| {
                let pods = self.pods.get(target)?;
                pods.get(index).cloned()
            });
            if streams != load {
                self.tell(SHOPPER, self.shopper(), &streams);
                load = streams;
            }
            let mut in_force_ms = Some(0);
            if stage.file != file {
                if file.is_empty() {
                    std::thread::sleep(FIRST_CALLS);
                }
                in_force_ms = Some(self.apply(trial, stage));
                std::thread::sleep(SETTLE);
                file = stage.file;
            }
            self.count();
            for (to, order) in stage.orders {
                let (target, index) = addressee(to);
                let pods = self.pods[target].iter().enumerate();
                for (_, pod) in pods.filter(|(n, _)| index.is_none_or(|index| index == *n)) {
                    self.tell(target, pod, order);
                }
            }
            std::thread::sleep(Duration::from_secs(stage.seconds.into()));
            played.push(Played {
                stage: stage.name,
                file: stage.file,
                in_force_ms,
                figures: figures::of(&self.count()),
            });
        }
        Verdict::new(trial, played)
    }

    /// `kubectl apply` of a stage's file; the milliseconds until all who are concerned
    /// have it.
    #[track_caller]
    fn apply(&self, trial: &Trial, stage: &Stage) -> u64 {
        let mut seen = self.versions();
        let file = manifests("demo/scenarios")
            .join(trial.name)
            .join(stage.file);
        self.cluster()
            .kubectl(&["apply", "-f", &file.display().to_string()]);
        let begin = Instant::now();
        let mut last: Option<Instant> = None;
        eventually(PATIENCE, &format!("{} is in force", file.display()), || {
            let now = self.versions();
            if now != seen {
                seen = now;
                last = Some(Instant::now());
            }
            match last {
                Some(last) if last.elapsed() >= QUIET => Ok(()),
                last => Err(format!("changed: {}", last.is_some())),
            }
        });
        let took = last.map_or(Duration::ZERO, |last| last - begin);
        u64::try_from(took.as_millis()).unwrap()
    }

    /// What the sidecars have, by pod.
    fn versions(&self) -> BTreeMap<String, Vec<String>> {
        let pods = self.pods.values().flatten();
        let asked = pods.filter_map(|pod| {
            let config = self.cluster().served(SHOP, pod, ADMIN, "/config").ok()?;
            let applied = config["applied"].as_array()?.iter();
            let concerned = applied.filter(|one| {
                let name = one["name"].as_str().unwrap_or_default();
                matches!(one["type"].as_str(), Some("Service" | "Workload"))
                    && TARGETS.iter().any(|(target, _)| name.contains(target))
            });
            let mut versions: Vec<_> = concerned
                .map(|one| format!("{} {} {}", one["type"], one["name"], one["version"]))
                .collect();
            versions.sort();
            Some((pod.clone(), versions))
        });
        asked.collect()
    }

    /// What was counted since this was last asked.
    #[track_caller]
    fn count(&self) -> Told {
        let stretch = self.tell(SHOPPER, self.shopper(), "/stretch");
        let tallies = TARGETS.into_iter().map(|(target, _)| {
            let pods = self.pods[target].iter();
            let told = pods.map(|pod| (pod.clone(), self.tell(target, pod, "/tally")));
            (target.to_owned(), told.collect())
        });
        Told {
            stretch,
            tallies: tallies.collect(),
        }
    }
}

impl Drop for World {
    /// Whatever the trial left: no load, no trouble, no policy.
    fn drop(&mut self) {
        let told = self
            .cluster()
            .told(SHOP, self.shopper(), ORDERS, "/streams");
        for (target, port) in [("reviews", ORDERS_OF_REVIEWS), ("ledger", ORDERS)] {
            for pod in &self.pods[target] {
                let _ = self.cluster().told(SHOP, pod, port, "/mend");
            }
        }
        let policies = ["reviews", "ledger"];
        let leave = ["delete", "trafficpolicy", "--ignore-not-found", "-n", SHOP];
        let left = self
            .cluster()
            .try_kubectl(&[&leave[..], &policies].concat(), None);
        if !std::thread::panicking() {
            told.unwrap();
            left.unwrap();
        }
    }
}
