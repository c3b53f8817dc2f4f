//! Which pods get a sidecar from the API server, and what it costs.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, eventually};
use crate::shop::{SYSTEM, shop};

const NAMESPACE: &str = "injection";

/// A namespace of this test's own, labelled.
fn namespace(cluster: &Cluster) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{remora.io/inject: enabled}}}}\n"
    ));
    eventually(20, "the service account is there", || {
        cluster.try_kubectl(&["get", "serviceaccount", "default", "-n", NAMESPACE], None)
    });
}

/// Creates a pod of the demo's image and gives what the API server made of it.
fn create(cluster: &Cluster, name: &str, metadata: &str, spec: &str) -> Value {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {NAMESPACE}, {metadata}}}\nspec:\n  \
         containers: [{{name: app, image: \"remora/demo:0.1.0\", command: [remora, demo, catalog]}}]\n{spec}"
    ));
    cluster.json(&["get", "pod", "-n", NAMESPACE, name])
}

fn init_names(pod: &Value) -> Vec<String> {
    let init = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten();
    init.map(|container| container["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_pod_may_opt_out_and_one_on_its_hosts_network_is_declined_with_a_reason() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    namespace(cluster);
    let out = create(cluster, "out", "labels: {remora.io/inject: disabled}", "");
    assert!(init_names(&out).is_empty(), "{out}");
    let host = create(cluster, "host", "labels: {}", "  hostNetwork: true\n");
    assert!(init_names(&host).is_empty(), "{host}");
    let said = host["metadata"]["annotations"]["remora.io/injected"]
        .as_str()
        .unwrap_or_default();
    assert!(said.starts_with("false: hostNetwork"), "{said}");
    let own = create(cluster, "in", "labels: {}", "");
    assert_eq!(init_names(&own), ["remora-intercept", "remora-proxy"]);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    gone(cluster);
}

fn gone(cluster: &Cluster) {
    eventually(90, "the namespace is gone", || {
        match cluster.try_kubectl(&["get", "namespace", NAMESPACE], None) {
            Err(_) => Ok(()),
            Ok(said) => Err(said),
        }
    });
}

#[test]
fn a_job_with_a_sidecar_finishes() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    namespace(cluster);
    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: once, namespace: {NAMESPACE}}}\nspec:\n  backoffLimit: 3\n  \
         template:\n    spec:\n      restartPolicy: Never\n      containers:\n        - name: once\n          \
         image: remora/demo:0.1.0\n          command: [remora, demo, caller, --url, \"http://web.shop:8080/healthz\"]\n"
    ));
    cluster.kubectl(&[
        "wait",
        "-n",
        NAMESPACE,
        "--for=condition=complete",
        "job/once",
        "--timeout=90s",
    ]);
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    gone(cluster);
}

#[test]
fn without_an_injector_pods_are_made_and_an_event_tells_of_them() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    namespace(cluster);
    cluster.kubectl(&[
        "scale",
        "-n",
        SYSTEM,
        "deployment/remora-injector",
        "--replicas=0",
    ]);
    eventually(60, "the injector is gone", || {
        // One that is ending still answers.
        let selector = "app.kubernetes.io/name=remora-injector";
        let pods = cluster.json(&["get", "pods", "-n", SYSTEM, "-l", selector]);
        match pods["items"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            pods => Err(format!("{pods} pods")),
        }
    });
    let pod = create(cluster, "bare", "labels: {}", "");
    let injected = init_names(&pod);
    cluster.kubectl(&[
        "scale",
        "-n",
        SYSTEM,
        "deployment/remora-injector",
        "--replicas=2",
    ]);
    assert!(injected.is_empty(), "{injected:?}");
    eventually(60, "an Event tells of the pod without a sidecar", || {
        let events = cluster.kubectl(&[
            "get",
            "events",
            "-n",
            NAMESPACE,
            "-o",
            "jsonpath={range .items[*]}{.reason} {.involvedObject.name}{\"\\n\"}{end}",
        ]);
        if events.lines().any(|line| line == "NotInjected bare") {
            Ok(())
        } else {
            Err(events)
        }
    });
    cluster.rolled_out(SYSTEM, "deployment/remora-injector");
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    gone(cluster);
}

/// The upper bound of the bucket in which the p99 lies, of what the API server
/// itself measured of our webhook, in seconds.
fn webhook_p99(metrics: &str) -> Option<(f64, f64)> {
    let ours = metrics.lines().filter(|line| {
        line.starts_with("apiserver_admission_webhook_admission_duration_seconds_bucket")
            && line.contains("name=\"inject.remora.io\"")
            && line.contains("operation=\"CREATE\"")
    });
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for line in ours {
        let bound = line.split("le=\"").nth(1)?.split('"').next()?;
        let bound = if bound == "+Inf" {
            f64::INFINITY
        } else {
            bound.parse().ok()?
        };
        buckets.push((bound, line.rsplit(' ').next()?.parse().ok()?));
    }
    let all = buckets.last()?.1;
    let p99 = buckets.iter().find(|(_, count)| *count >= all * 0.99)?.0;
    Some((p99, all))
}

#[test]
fn the_webhook_adds_little_to_the_making_of_a_pod() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    namespace(cluster);
    let mut pods = String::new();
    for number in 0..200 {
        pods.push_str(&format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: dry-{number}, namespace: {NAMESPACE}}}\nspec:\n  \
             containers: [{{name: app, image: \"remora/demo:0.1.0\"}}]\n"
        ));
    }
    let made = cluster
        .try_kubectl(&["create", "--dry-run=server", "-f", "-"], Some(&pods))
        .unwrap();
    assert_eq!(made.lines().count(), 200, "{made}");
    std::thread::sleep(Duration::from_secs(1));
    let metrics = cluster.get("/metrics").unwrap();
    let (p99, count) = webhook_p99(&metrics).unwrap();
    eprintln!("the webhook: {count} calls, p99 at most {p99} s");
    assert!(count >= 200.0);
    // A bound that a busy machine keeps; the figure is in ARCHITECTURE.md.
    assert!(p99 <= 0.5, "{p99} s");
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    gone(cluster);
}

#[test]
fn a_certificate_that_was_spoilt_is_mended_and_pods_are_injected_again() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    namespace(cluster);
    let certificate = || {
        let path = ["get", "secret", "-n", SYSTEM, "remora-injector-certificate"];
        cluster.json(&path)["data"]["tls.crt"].to_string()
    };
    // "spoilt", in base64.
    let spoilt = r#"{"data":{"tls.crt":"c3BvaWx0"}}"#;
    cluster.kubectl(&[
        "patch",
        "secret",
        "-n",
        SYSTEM,
        "remora-injector-certificate",
        "--type=merge",
        "-p",
        spoilt,
    ]);
    eventually(
        60,
        "the Secret holds a certificate again",
        || match certificate() {
            now if now == "null" || now.contains("c3BvaWx0") && now.len() < 20 => Err(now),
            _ => Ok(()),
        },
    );
    eventually(60, "a pod is injected", || {
        let _ = cluster.try_kubectl(
            &[
                "delete",
                "pod",
                "-n",
                NAMESPACE,
                "mended",
                "--wait=true",
                "--grace-period=1",
            ],
            None,
        );
        let pod = create(cluster, "mended", "labels: {}", "");
        match init_names(&pod) {
            names if names.len() == 2 => Ok(()),
            names => Err(format!("{names:?}")),
        }
    });
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    gone(cluster);
}

#[test]
fn a_pod_that_comes_with_its_namespace_is_injected() {
    let Some(shop) = shop() else { return };
    let cluster = &shop.cluster;
    // In one breath: the injector has not heard of the namespace when it is asked.
    for round in 0..5 {
        let name = format!("at-once-{round}");
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{remora.io/inject: enabled}}}}\n---\n\
             apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: own, namespace: {name}}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: first, namespace: {name}}}\nspec:\n  serviceAccountName: own\n  \
             containers: [{{name: app, image: \"remora/demo:0.1.0\", command: [remora, demo, catalog]}}]\n"
        ));
        let pod = cluster.json(&["get", "pod", "-n", &name, "first"]);
        assert_eq!(init_names(&pod).len(), 2, "{pod}");
        cluster.kubectl(&["delete", "namespace", &name, "--wait=false"]);
    }
}
