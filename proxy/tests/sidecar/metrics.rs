//! `/metrics`: both text forms, the catalogue, and what never becomes a label.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use remora_proto::v1::authorization::Action;
use remora_proto::v1::route_filter::Filter;
use remora_proto::v1::{self, rate_limit::Mode};
use tokio::io::AsyncWriteExt;

use crate::authority::Authority;
use crate::client::Client;
use crate::eventually;
use crate::mesh::{Mesh, PORT, breaker, policy, retries};
use crate::routes::stage::{Change, reference, to};
use crate::sidecar::Options;
use crate::upstream::{App, Reply, status};

const CATALOGUE: &str = include_str!("../../../docs/metrics.md");
const OPEN_METRICS: &str = "accept: application/openmetrics-text; version=1.0.0\r\n";

/// A family as it was scraped, or as the catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    labels: BTreeSet<String>,
}

type Families = BTreeMap<String, Family>;

/// What Prometheus' own text says; wrong text fails the test.
fn scraped(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.kind.is_empty(), "twice: {line}");
            kind.clone_into(&mut family.kind);
        } else if !line.starts_with('#') {
            let end = line.find(['{', ' ']).unwrap();
            let of_histogram = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| line[..end].strip_suffix(suffix))
                .find(|name| families.contains_key(*name));
            let name = of_histogram.unwrap_or(&line[..end]);
            let family = families.get_mut(name);
            let family = family.unwrap_or_else(|| panic!("without a type: {line}"));
            family.labels.extend(labels(&line[end..]));
            assert!(line.rsplit(' ').next().unwrap().parse::<f64>().is_ok());
        }
    }
    families
}

/// Names of labels; their values in these tests hold neither commas nor quotes.
fn labels(rest: &str) -> impl Iterator<Item = String> {
    let inner = rest
        .strip_prefix('{')
        .and_then(|rest| rest.split('}').next());
    let parts = inner.unwrap_or_default().split("\",");
    parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != "le")
}

/// The rows of the catalogue's first part.
fn catalogue() -> Families {
    let (_, rest) = CATALOGUE.split_once("## The sidecar").unwrap();
    let (part, _) = rest.split_once("\n## ").unwrap();
    let mut families = Families::new();
    for row in part.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, unit, labels, meaning, there, _] = cells[..] else {
            panic!("not a row of the catalogue: {row}");
        };
        assert!(meaning.len() > 10 && !there.is_empty(), "{row}");
        let of_name = ["seconds", "bytes"].iter().find(|unit| {
            let name = name.trim_matches('`').trim_end_matches("_total");
            name.ends_with(&format!("_{unit}"))
        });
        assert_eq!(unit, *of_name.unwrap_or(&""), "{row}");
        let labels = labels.split(',').map(|label| label.trim().replace('`', ""));
        let family = Family {
            kind: kind.to_owned(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
        };
        let known = families.insert(name.replace('`', ""), family);
        assert!(known.is_none(), "twice: {row}");
    }
    families
}

/// A sidecar in which everything happens, and what it says of it.
async fn everything() -> (Mesh, Vec<App>) {
    let options = Options {
        authority: Some(Authority::new()),
        access_log: true,
        ..Options::default()
    };
    let mesh = Mesh::start_with(options).await;
    let flaky = App::start(mesh.net.at(10), |request| match request.path.as_str() {
        "/bad" => status(503),
        "/late" => Reply::Never,
        _ => status(200),
    });
    let apps = vec![
        App::ok(mesh.net.at(2)).await,
        flaky.await,
        App::ok(mesh.net.at(11)).await,
    ];
    outbound(&mesh, &apps);
    mesh.workload(inbound);
    eventually("the rules of the pod are in force", async || {
        call(&mesh, "/denied", "").await == 403
    })
    .await;
    mesh.get("/").await;
    eventually("a breaker has opened", async || {
        mesh.get("/bad").await;
        let opened = "remora_breaker_transitions_total";
        mesh.sidecar.counter(opened, "").await > 0
    })
    .await;
    let mut routed = mesh.client().await;
    assert_eq!(routed.get("routed:8080", "/").await.status, 200);
    let mut nowhere = mesh.client().await;
    assert_eq!(nowhere.get("empty:8080", "/").await.status, 299);
    let mut late = mesh.client().await;
    assert_eq!(late.get("alone:8080", "/late").await.status, 504);
    call(&mesh, "/", "").await;
    call(&mesh, "/", "x-user: a\r\n").await;
    eventually("the port has been probed", async || {
        mesh.sidecar.counter("remora_health_checks_total", "").await > 0
    })
    .await;
    (mesh, apps)
}

fn limit(name: &str, change: impl FnOnce(&mut v1::RateLimit)) -> v1::RateLimit {
    let mut limit = v1::RateLimit {
        name: name.into(),
        policy: "shop/web".into(),
        requests: 100,
        per_ms: 1_000,
        burst: 100,
        max_keys: 10,
        ..v1::RateLimit::default()
    };
    change(&mut limit);
    limit
}

fn outbound(mesh: &Mesh, apps: &[App]) {
    let mut whole = breaker(|breaker| {
        breaker.limits.as_mut().unwrap().max_requests = Some(100);
        let trip = breaker.trip.as_mut().unwrap();
        (trip.consecutive_failures, trip.base_ejection_ms) = (1, 60_000);
    });
    whole.retries = Some(retries(1, |_| ()));
    whole.rate_limits = vec![limit("out", |_| ())];
    let addresses: Vec<_> = apps[1..].iter().map(App::address).collect();
    mesh.catalog(whole, &addresses);
    mesh.service("empty", troubled());
    mesh.service("alone", hedged());
    mesh.endpoint("alone", 0, addresses[0], |_| ());
    mesh.endpoint("v1", 0, addresses[1], |_| ());
    mesh.service("v1", policy());
    let rule = to("v1").filter(Filter::Mirror(v1::Mirror {
        backend: Some(reference("v1")),
        denominator: 1,
        numerator: 1,
    }));
    mesh.service_with("routed", |service| {
        service.routes = vec![v1::PortRoutes {
            ports: vec![PORT.into()],
            grpc: false,
            rules: vec![rule],
        }];
    });
}

/// A delay on purpose, a wait for an endpoint, and an answer all the same.
fn troubled() -> v1::ServicePolicy {
    v1::ServicePolicy {
        load_balancing: Some(v1::LoadBalancing {
            wait_for_endpoints_ms: 1,
            ..v1::LoadBalancing::default()
        }),
        fault: Some(v1::Fault {
            delay: Some(v1::FaultDelay {
                duration_ms: 1,
                parts_per_million: 1_000_000,
            }),
            ..v1::Fault::default()
        }),
        fallback: Some(v1::Fallback {
            when: vec!["no_endpoints".into()],
            action: Some(v1::fallback::Action::Response(v1::FallbackResponse {
                status: 299,
                ..v1::FallbackResponse::default()
            })),
        }),
        ..policy()
    }
}

/// A hedge that has nowhere to go.
fn hedged() -> v1::ServicePolicy {
    let mut policy = policy();
    policy.retries = Some(retries(0, |retries| {
        retries.hedge = Some(v1::Hedge {
            max: 1,
            after: Some(v1::hedge::After::AfterMs(1)),
        });
    }));
    policy.timeouts = Some(v1::Timeouts {
        request_ms: Some(200),
        ..v1::Timeouts::default()
    });
    policy
}

fn inbound(workload: &mut v1::Workload) {
    workload.ports = vec![v1::InboundPort {
        port: 7000,
        health_checks: vec![v1::HealthCheck {
            kind: Some(v1::health_check::Kind::Tcp(v1::TcpCheck {})),
            interval_ms: 100,
            timeout_ms: 100,
            window: 1,
            unhealthy_threshold: 1,
            healthy_threshold: 1,
        }],
        ..v1::InboundPort::default()
    }];
    workload.admission = Some(v1::Admission {
        max_requests: Some(100),
        ..v1::Admission::default()
    });
    workload.rate_limits = vec![
        limit("in", |limit| {
            limit.key = vec![v1::KeyPart {
                part: Some(v1::key_part::Part::Header("x-user".into())),
            }];
        }),
        limit("mesh", |limit| {
            (limit.mesh, limit.mode) = (true, Mode::Shadow.into())
        }),
        limit("shadow", |limit| limit.mode = Mode::Shadow.into()),
    ];
    workload.authorizations = vec![v1::Authorization {
        policy: Some(v1::PolicyReference {
            namespace: "shop".into(),
            name: "nobody".into(),
            generation: 1,
        }),
        action: Action::Deny.into(),
        to: vec![v1::RequestMatch {
            paths: vec![v1::PathRule {
                rule: Some(v1::path_rule::Rule::Exact("/denied".into())),
            }],
            ..v1::RequestMatch::default()
        }],
        ..v1::Authorization::default()
    }];
}

async fn call(mesh: &Mesh, path: &str, headers: &str) -> u16 {
    let mut client = Client::connect(mesh.sidecar.inbound(PORT)).await;
    client.request("GET", "web", path, headers, "").await.status
}

async fn scrape(mesh: &Mesh, headers: &str) -> (String, String) {
    let mut client = Client::connect(mesh.sidecar.admin()).await;
    let answer = client
        .request("GET", "admin", "/metrics", headers, "")
        .await;
    (answer.header("content-type").to_owned(), answer.text())
}

#[tokio::test]
async fn the_catalogue_is_what_a_sidecar_serves_in_which_everything_happens() {
    let (mesh, _apps) = everything().await;
    let mut told = catalogue();
    assert!(told.len() > 30, "{}", told.len());
    let (_, text) = scrape(&mesh, "").await;
    for (name, family) in scraped(&text) {
        let of_catalogue = told.remove(&name);
        assert_eq!(of_catalogue, Some(family), "{name}, which a sidecar serves");
    }
    assert!(
        told.is_empty(),
        "docs/metrics.md has what is not served: {told:#?}"
    );
}

#[tokio::test]
async fn promtool_finds_nothing_wrong() {
    let (mesh, _apps) = everything().await;
    let (kind, text) = scrape(&mesh, "").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            // Past the capture of output, so that it is seen.
            let _ = writeln!(
                std::io::stderr().lock(),
                "\nSKIPPED (nothing was tested): no promtool ({error}); Debian's package is prometheus"
            );
            return;
        }
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn open_metrics_is_the_same_under_its_own_rules() {
    let (mesh, _apps) = everything().await;
    let (kind, open) = scrape(&mesh, OPEN_METRICS).await;
    assert_eq!(
        kind,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.ends_with("\n# EOF\n"));
    assert!(open.contains("\n# TYPE remora_requests counter\nremora_requests_total{"));
    assert!(open.contains("\n# UNIT remora_request_duration_seconds seconds\n"));
    assert!(open.contains(",le=\"0.0005\"}") && open.contains(",le=\"1.0\"}"));
    let (_, plain) = scrape(&mesh, "").await;
    assert!(plain.contains("\n# TYPE remora_requests_total counter\n") && !plain.contains("# EOF"));
    let samples = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let keys = lines.filter_map(|line| line.rsplit_once(' '));
        keys.map(|(key, _)| key.replace(".0\"}", "\"}")).collect()
    };
    assert_eq!(samples(&open), samples(&plain));
}

#[tokio::test]
async fn nothing_that_a_caller_chooses_becomes_a_label_or_makes_their_number_grow() {
    const MARK: &str = "chosen-by-a-caller";
    let (mesh, _apps) = everything().await;
    let (_, before) = scrape(&mesh, "").await;
    for number in 0..20 {
        let mark = format!("{MARK}-{number}");
        let headers = format!(
            "x-user: {mark}\r\nuser-agent: {mark}\r\nx-remora-reason: {mark}\r\n\
             x-remora-endpoint: {mark}\r\nx-remora-client-identity: {mark}\r\n\
             content-type: application/grpc\r\nx-request-id: {mark}\r\n"
        );
        let path = format!("/{mark}?{mark}");
        let mut out = mesh.client().await;
        out.request("GET", "catalog:8080", &path, &headers, "")
            .await;
        let mut out = mesh.client().await;
        let method = format!("M{number}");
        out.request(&method, "catalog:8080", &path, &headers, "")
            .await;
        let mut unknown = mesh.client().await;
        unknown.get(&format!("{mark}.invalid:8080"), "/").await;
        let mut own = Client::connect(mesh.sidecar.inbound(PORT)).await;
        own.request(&method, &mark, &path, &headers, "").await;
        let mut bad = tokio::net::TcpStream::connect(mesh.sidecar.inbound(PORT))
            .await
            .unwrap();
        let _ = bad.write_all(format!("{mark}\r\n\r\n").as_bytes()).await;
    }
    let (_, after) = scrape(&mesh, "").await;
    assert!(!after.contains(MARK), "{after}");
    let count = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    // A class of status or a reason may be new; so may a breaker's step.
    assert!(
        count(&after) < count(&before) + 20,
        "{} samples, then {}",
        count(&before),
        count(&after)
    );
}
