//! Remora installed, and the demo shop called through its sidecars.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, eventually, is_ready};

/// The namespace of the demo.
pub const SHOP: &str = "shop";
/// Remora's own namespace.
pub const SYSTEM: &str = "remora-system";
/// The workloads of the demo.
pub const DEPLOYMENTS: [&str; 7] = [
    "catalog",
    "cart",
    "inventory",
    "payment-v1",
    "payment-v2",
    "web",
    "visitor",
];

static INSTALLED: AtomicBool = AtomicBool::new(false);

/// A shop under load.
pub struct Shop {
    /// Where it runs.
    pub cluster: Cluster,
}

/// What became of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// All that ended.
    pub requests: i64,
    /// GETs that failed.
    pub failed_idempotent: i64,
    /// POSTs that failed.
    pub failed_other: i64,
}

/// The manifests of this repository.
pub fn manifests(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("manifests")
        .join(folder)
}

/// The shop, installed by the first who asks; none where there is no cluster.
pub fn shop() -> Option<Shop> {
    let cluster = Cluster::take()?;
    if !INSTALLED.load(Ordering::Acquire) {
        install(&cluster);
        INSTALLED.store(true, Ordering::Release);
    }
    let shop = Shop { cluster };
    shop.settle();
    Some(shop)
}

/// The three commands of the README, and nothing else.
fn install(cluster: &Cluster) {
    cluster.kubectl(&["apply", "-k", &manifests("install").display().to_string()]);
    for daemon in [
        "deployment/remora-control-plane",
        "deployment/remora-injector",
    ] {
        cluster.rolled_out(SYSTEM, daemon);
    }
    if cluster
        .try_kubectl(&["get", "namespace", SHOP], None)
        .is_err()
    {
        cluster.kubectl(&["create", "namespace", SHOP]);
    }
    cluster.kubectl(&[
        "label",
        "--overwrite",
        "namespace",
        SHOP,
        "remora.io/inject=enabled",
    ]);
    cluster.kubectl(&["apply", "-k", &manifests("demo").display().to_string()]);
    for name in DEPLOYMENTS {
        cluster.rolled_out(SHOP, &format!("deployment/{name}"));
    }
    // Two cores carry the cluster too.
    cluster.kubectl(&["set", "env", "-n", SHOP, "deployment/visitor", "RATE=500"]);
    cluster.rolled_out(SHOP, "deployment/visitor");
}

impl Shop {
    /// Waits until the shop is whole and requests succeed.
    fn settle(&self) {
        eventually(120, "every pod of the shop is ready", || {
            let pods = self.cluster.pods(SHOP, "app");
            let unready: Vec<_> = pods
                .iter()
                .filter(|pod| !is_ready(pod))
                .map(name_of)
                .collect();
            if pods.len() >= 9 && unready.is_empty() {
                Ok(())
            } else {
                Err(format!("{unready:?}"))
            }
        });
        eventually(60, "requests succeed", || {
            let before = self.served()?;
            std::thread::sleep(Duration::from_secs(1));
            let after = self.served()?.since(before);
            if after.requests > 100 && after.failed() == 0 {
                Ok(())
            } else {
                Err(format!("{after:?}"))
            }
        });
    }

    /// What became of the visitor's requests so far.
    pub fn served(&self) -> Result<Served, String> {
        let stats = self.stats()?;
        let count = |field: &str| stats[field].as_i64().unwrap_or(i64::MIN);
        Ok(Served {
            requests: count("requests"),
            failed_idempotent: count("failed_idempotent"),
            failed_other: count("failed_other"),
        })
    }

    /// What the visitor shows, asked from inside its pod: by the API server's
    /// proxy it would not answer where it takes nothing but mutual TLS.
    pub fn stats(&self) -> Result<Value, String> {
        let pods = self.cluster.pods(SHOP, "app=visitor");
        let pod = name_of(pods.first().ok_or("no visitor")?);
        let url = "http://127.0.0.1:8080/stats";
        let ask = [
            "exec", "-n", SHOP, &pod, "-c", "visitor", "--", "remora", "demo", "caller", "--url",
            url,
        ];
        let answer = self.cluster.try_kubectl(&ask, None)?;
        let read = |text: &str| -> Result<Value, String> {
            serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
        };
        read(read(&answer)?["body"].as_str().unwrap_or_default())
    }

    /// What became of the requests while something happened and for a while after.
    pub fn served_during(
        &self,
        seconds_after: u64,
        happens: impl FnOnce(&Cluster),
    ) -> (Served, Value) {
        let before = self.served().unwrap();
        happens(&self.cluster);
        std::thread::sleep(Duration::from_secs(seconds_after));
        let after = eventually(30, "the visitor answers", || self.served()).since(before);
        (after, kinds(&self.stats().unwrap()["errors"]))
    }

    /// What a sidecar shows at its admin endpoint.
    pub fn sidecar(&self, pod: &str, path: &str) -> Result<Value, String> {
        self.cluster.served(SHOP, pod, 15120, path)
    }
}

/// How often each of the last errors was, and when the first of them.
fn kinds(errors: &Value) -> Value {
    let mut kinds = serde_json::Map::new();
    for error in errors.as_array().into_iter().flatten() {
        let what = format!("{} {}: {}", error["method"], error["path"], error["what"]);
        let kind = kinds
            .entry(what)
            .or_insert_with(|| serde_json::json!({"count": 0, "first_ms": error["at_ms"]}));
        kind["count"] = (kind["count"].as_u64().unwrap_or(0) + 1).into();
    }
    Value::Object(kinds)
}

impl Served {
    /// What came after `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            failed_idempotent: self.failed_idempotent - before.failed_idempotent,
            failed_other: self.failed_other - before.failed_other,
        }
    }

    /// Of any method.
    pub fn failed(self) -> i64 {
        self.failed_idempotent + self.failed_other
    }
}

/// An object's name.
pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
