//! Remora's daemons may do what they do, and nothing else.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::PathBuf;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::shop::{SYSTEM, shop};

/// `account verb group/resource`
type Use = (String, String, String);

/// The rules of every role that is bound to one of our accounts, one verb and resource each.
fn granted(cluster: &Cluster) -> BTreeSet<Use> {
    let mut granted = BTreeSet::new();
    for kind in ["clusterrole", "role"] {
        let roles = cluster.json(&["get", kind, "-A", "-l", "app.kubernetes.io/part-of=remora"]);
        for role in roles["items"].as_array().unwrap() {
            let account = role["metadata"]["name"].as_str().unwrap();
            for rule in role["rules"].as_array().unwrap() {
                for (group, resource, verb) in combinations(rule) {
                    assert!(
                        ![&group, &resource, &verb].contains(&&"*".to_owned()),
                        "{kind} {account}: {rule}"
                    );
                    granted.insert((account.to_owned(), verb, format!("{group}/{resource}")));
                }
            }
        }
    }
    granted
}

fn combinations(rule: &Value) -> Vec<(String, String, String)> {
    let words = |field: &str| -> Vec<String> {
        let all = rule[field].as_array().into_iter().flatten();
        all.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let mut all = Vec::new();
    for group in words("apiGroups") {
        for resource in words("resources") {
            for verb in words("verbs") {
                all.push((group.clone(), resource.clone(), verb));
            }
        }
    }
    all
}

/// What the API server's audit log tells that our accounts asked for, and whether any was refused.
fn used() -> Option<(BTreeSet<Use>, Vec<String>)> {
    let log = PathBuf::from(std::env::var_os("REMORA_KUBE_DIR")?).join("log/audit.log");
    let log = std::io::BufReader::new(std::fs::File::open(log).unwrap());
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Value>(&line.unwrap()) else {
            continue;
        };
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let Some(account) = user.strip_prefix(&format!("system:serviceaccount:{SYSTEM}:")) else {
            continue;
        };
        let about = &event["objectRef"];
        let text = |field: &str| about[field].as_str().unwrap_or_default().to_owned();
        let resource = match text("subresource") {
            none if none.is_empty() => text("resource"),
            sub => format!("{}/{sub}", text("resource")),
        };
        let verb = event["verb"].as_str().unwrap_or_default().to_owned();
        if event["annotations"]["authorization.k8s.io/decision"] == "forbid" {
            refused.push(format!("{account}: {verb} {resource}"));
        }
        used.insert((
            account.to_owned(),
            verb,
            format!("{}/{resource}", text("apiGroup")),
        ));
    }
    Some((used, refused))
}

/// Used where an API server can be slow on purpose, in another test: the injector
/// asks for a namespace of which its watch has not told yet
/// (injector/tests/cluster). Or asked for along with another: what is made by
/// server-side apply needs `create` too, and the log tells of `patch` alone.
const USED_ELSEWHERE: [(&str, &str, &str); 2] = [
    ("remora-injector", "get", "/namespaces"),
    ("remora-control-plane", "create", "/configmaps"),
];

/// Comes last by its name: every other test has used what it uses.
#[test]
fn zz_every_verb_that_is_granted_is_used_and_none_is_refused() {
    let Some(shop) = shop() else { return };
    let granted = granted(&shop.cluster);
    assert!(granted.len() > 8, "{granted:?}");
    let Some((used, refused)) = used() else {
        eprintln!(
            "SKIPPED (nothing was tested): no REMORA_KUBE_DIR, so that there is no audit log"
        );
        return;
    };
    assert!(refused.is_empty(), "{refused:?}");
    let elsewhere = |one: &&Use| USED_ELSEWHERE.contains(&(&one.0, &one.1, &one.2));
    let unused: Vec<_> = granted
        .difference(&used)
        .filter(|one| !elsewhere(one))
        .collect();
    assert!(unused.is_empty(), "granted and never used: {unused:?}");
}
