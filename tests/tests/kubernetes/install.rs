//! From nothing to the shop, by three commands.

use remora_proto::well_known::CONTROL_PLANE_ADMIN_PORT;

use crate::cluster::{Cluster, eventually, is_ready, unix_ms};
use crate::shop::{SHOP, SYSTEM, name_of, shop};

/// Containers of a pod that run and are ready, of all that should.
fn ready_of(pod: &serde_json::Value) -> (usize, usize) {
    let spec = &pod["spec"];
    let sidecars = spec["initContainers"].as_array().into_iter().flatten();
    let sidecars = sidecars
        .filter(|container| container["restartPolicy"] == "Always")
        .count();
    let wanted = spec["containers"].as_array().unwrap().len() + sidecars;
    let status = &pod["status"];
    let of = |field: &str| status[field].as_array().cloned().unwrap_or_default();
    let native: Vec<String> = spec["initContainers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|container| container["restartPolicy"] == "Always")
        .map(|container| container["name"].as_str().unwrap().to_owned())
        .collect();
    let running = of("containerStatuses").into_iter().chain(
        of("initContainerStatuses")
            .into_iter()
            .filter(|status| native.iter().any(|name| status["name"] == **name)),
    );
    (
        running.filter(|status| status["ready"] == true).count(),
        wanted,
    )
}

#[test]
fn every_pod_of_the_shop_is_two_of_two_ready_and_called_through_its_sidecar() {
    let Some(shop) = shop() else { return };
    for pod in shop.cluster.pods(SHOP, "app") {
        let name = name_of(&pod);
        assert_eq!(ready_of(&pod), (2, 2), "{name}");
        assert!(is_ready(&pod), "{name}");
        assert_eq!(
            pod["metadata"]["annotations"]["remora.io/injected"], "true",
            "{name}"
        );
        let init: Vec<_> = pod["spec"]["initContainers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].clone())
            .collect();
        assert_eq!(init, ["remora-intercept", "remora-proxy"], "{name}");
    }
    // Whoever is called sees it inbound; whoever calls, outbound.
    for (selector, side, what) in [
        ("app=web", "inbound", "8080"),
        ("app=web", "outbound", "shop/catalog"),
        ("app=web", "outbound", "shop/cart"),
        ("app=visitor", "outbound", "shop/web"),
    ] {
        let pod = shop.cluster.pod(SHOP, selector);
        eventually(20, &format!("{pod} counts {side} {what}"), || {
            let stats = shop.sidecar(&pod, "/stats")?;
            let rows = stats[side].as_array().cloned().unwrap_or_default();
            let counted = rows.iter().any(|row| {
                let name = row["service"]
                    .as_str()
                    .or(row["port"].as_str())
                    .unwrap_or_default();
                name.contains(what) && row["requests"].as_u64() > Some(0)
            });
            if counted {
                Ok(())
            } else {
                Err(stats.to_string())
            }
        });
    }
}

#[test]
fn remoras_own_daemons_run_twice_under_the_restricted_profile() {
    let Some(shop) = shop() else { return };
    for daemon in ["remora-control-plane", "remora-injector"] {
        let pods = shop
            .cluster
            .pods(SYSTEM, &format!("app.kubernetes.io/name={daemon}"));
        assert_eq!(pods.len(), 2, "{daemon}");
        for pod in &pods {
            assert!(is_ready(pod), "{}", name_of(pod));
            assert!(
                pod["spec"]["initContainers"].is_null(),
                "nothing is injected into {}",
                name_of(pod)
            );
        }
    }
    let namespace = shop.cluster.json(&["get", "namespace", SYSTEM]);
    assert_eq!(
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
}

/// What each replica of the control plane knows of the shop's sidecars, in brief.
fn reported(cluster: &Cluster) -> String {
    let pods = cluster.pods(SYSTEM, "app.kubernetes.io/name=remora-control-plane");
    let of_replica = |pod: &String| {
        let shown = |path| {
            let shown = cluster.served(SYSTEM, pod, CONTROL_PLANE_ADMIN_PORT, path);
            shown.unwrap_or_else(serde_json::Value::String)
        };
        let (leader, sidecars) = (shown("/leader"), shown("/sidecars"));
        let sidecars = sidecars.as_array().into_iter().flatten();
        let brief = sidecars.map(|one| {
            let ago = unix_ms() - one["last_report_ms"].as_i64().unwrap_or_default();
            let (pod, connected, applied) = (&one["pod"], &one["connected"], &one["applied"]);
            format!("{pod} connected {connected}, {applied} applied, told {ago} ms ago")
        });
        let brief: Vec<String> = brief.collect();
        format!("{pod} leading {}: {}", leader["leading"], brief.join("; "))
    };
    let known: Vec<String> = pods
        .iter()
        .map(name_of)
        .map(|pod| of_replica(&pod))
        .collect();
    known.join(" | ")
}

#[test]
fn every_policy_of_the_shop_is_accepted_and_in_force_in_its_callers() {
    let Some(shop) = shop() else { return };
    eventually(30, "every policy is accepted and applied", || {
        let policies = shop.cluster.json(&["get", "trafficpolicies", "-n", SHOP]);
        let policies = policies["items"].as_array().cloned().unwrap();
        assert_eq!(policies.len(), 6);
        for policy in policies {
            let status = &policy["status"];
            let accepted = status["conditions"].as_array().is_some_and(|all| {
                all.iter()
                    .any(|one| one["type"] == "Accepted" && one["status"] == "True")
            });
            let counts = &status["sidecars"];
            let whole = counts["total"].as_u64() > Some(0) && counts["total"] == counts["applied"];
            let seen = status["observedGeneration"] == policy["metadata"]["generation"];
            if !(accepted && whole && seen && counts["refused"] == 0) {
                let known = reported(&shop.cluster);
                return Err(format!("{}: {status}; {known}", name_of(&policy)));
            }
        }
        Ok(())
    });
    let table = shop.cluster.kubectl(&["get", "tp", "-n", SHOP]);
    let head = table.lines().next().unwrap_or_default();
    for column in ["ACCEPTED", "SIDECARS", "OPEN", "AGE"] {
        assert!(head.contains(column), "{table}");
    }
}
