//! `remora status`: every sidecar, whether it is connected and in sync.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::api::Api;
use super::error::Error;
use super::mesh::{self, Namespaces, Refusal, Sidecar, Told};
use super::options::{Connection, Format, Output, Scope, checked_name, parse_timeout};
use super::output::{self, Cell, Paint, Table, Tone};
use super::resources::PODS;
use super::{FOUND, text};
use crate::playground::clock;

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A pod younger than this may have a sidecar that is yet to connect.
const YOUNG_SECONDS: i64 = 30;
/// Pods that are named of those with the same refusal.
const SHOWN_PODS: usize = 5;
/// Refusals that are shown below the table.
const MAX_SHOWN_REFUSALS: usize = 20;

/// Options of `remora status`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit status: 0 every sidecar shown is connected and in sync; \
    1 some are not, or pods lack theirs; 2 wrong usage, or the cluster cannot be asked.\n\
    Needs: list pods in the namespace (all: in the whole cluster), get leases.coordination.k8s.io \
    and get pods/proxy in Remora's namespace; get or list namespaces to find pods without a sidecar."
)]
pub struct Options {
    /// Only this pod (`web-1`, `shop/web-1`), or this namespace.
    #[arg(value_name = "POD|NAMESPACE")]
    pub name: Option<String>,
    #[command(flatten)]
    scope: Scope,
    /// Look until all are in sync, for at most so long (`30s`, `2m`).
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub wait: Option<Duration>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// How a pod's sidecar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Connected, and nothing is refused.
    InSync,
    /// Connected, but it refused something and keeps its last good version.
    Refused,
    /// The control plane knows it, and it has no stream now.
    Disconnected,
    /// Its pod runs, and the control plane does not know it.
    Unknown,
    /// Its pod is not running yet.
    Starting,
    /// Its pod is being deleted.
    Ending,
    /// The pod should have one and has none.
    NoSidecar,
}

impl State {
    /// Whether that is as it should be, or will be.
    pub fn is_fine(self) -> bool {
        matches!(self, Self::InSync | Self::Starting | Self::Ending)
    }
}

/// One row: a pod and its sidecar.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its node; empty while it has none.
    pub node: String,
    /// How its sidecar is.
    pub state: State,
    /// Whether it has a stream now.
    pub connected: bool,
    /// How many resources it has applied.
    pub applied: u64,
    /// What it refused.
    pub refused: Vec<Refusal>,
    /// Its version; empty where it is not known.
    pub version: String,
    /// How long ago it last reported, in seconds.
    pub last_report_seconds: Option<u64>,
    /// Its pod was made only now, or is not ready: it may connect yet.
    #[serde(skip)]
    pub is_settling: bool,
}

/// All rows, and what is to be known of them.
#[derive(Debug)]
pub struct Status {
    /// By namespace and pod.
    pub rows: Vec<Row>,
    /// What may be missing, and why.
    pub doubts: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let api = Api::connect(&options.connection).await?;
    // A name may stand for a namespace of its own, wherever the context leads.
    if options.name.is_none() || options.scope.namespace.is_some() {
        let scope = options.scope.namespace(&api.default_namespace);
        mesh::checked_namespace(&api, scope).await?;
    }
    let deadline = options.wait.map(|wait| clock::now() + wait);
    loop {
        let status = look(&api, &options).await?;
        let is_fine = status.rows.iter().all(|row| row.state.is_fine());
        let has_settled = status.rows.iter().all(|row| row.state == State::InSync);
        let is_over = deadline.is_none_or(|deadline| clock::now() >= deadline);
        if is_over || has_settled {
            show(&status, options.output.format)?;
            let is_waited_for = options.wait.is_none() || has_settled;
            let good = is_fine && is_waited_for;
            return Ok(if good { ExitCode::SUCCESS } else { FOUND });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(api: &Api, options: &Options) -> Result<Status, Error> {
    let scope = options.scope.namespace(&api.default_namespace);
    let Some(name) = options.name.as_deref() else {
        return read(api, scope).await;
    };
    if let Some((namespace, pod)) = name.split_once('/') {
        let status = read(api, Some(checked_name(namespace)?)).await?;
        return only(status, checked_name(pod)?, namespace);
    }
    let name = checked_name(name)?;
    let status = read(api, scope).await?;
    if status.rows.iter().any(|row| row.pod == name) {
        return only(status, name, scope.unwrap_or("all namespaces"));
    }
    let within = read(api, Some(name)).await?;
    if within.rows.is_empty() {
        let place = scope.map_or("any namespace".to_owned(), |scope| {
            format!("namespace {scope}")
        });
        return Err(Error::NotFound(format!(
            "{name} is neither a pod with a sidecar in {place} nor a namespace with any \
             (check the name, -n and -A)"
        )));
    }
    Ok(within)
}

fn only(status: Status, pod: &str, place: &str) -> Result<Status, Error> {
    let rows: Vec<Row> = status
        .rows
        .into_iter()
        .filter(|row| row.pod == pod)
        .collect();
    if rows.is_empty() {
        return Err(Error::NotFound(format!(
            "no pod {pod} in {place} has or should have a sidecar"
        )));
    }
    Ok(Status { rows, ..status })
}

/// Reads the sidecars of a namespace, or of all.
///
/// # Errors
/// When pods cannot be read, or no control plane answers.
pub async fn read(api: &Api, namespace: Option<&str>) -> Result<Status, Error> {
    let pods = api.list::<Pod>(&PODS, namespace, "").await?;
    let told = mesh::sidecars(api).await?;
    let mut doubts = Vec::new();
    if pods.is_cut {
        doubts.push(format!(
            "only the first {} pods were read",
            pods.items.len()
        ));
    }
    if let Some(doubt) = &told.doubt {
        doubts.push(format!(
            "the control plane's replica {} was asked, which may not know all sidecars: {doubt}",
            told.by
        ));
    }
    let namespaces = match Namespaces::read(api, namespace).await {
        Ok(namespaces) => Some(namespaces),
        Err(error) => {
            doubts.push(format!(
                "pods without a sidecar are not looked for: {error}"
            ));
            None
        }
    };
    Ok(Status {
        rows: rows(&pods.items, &told, namespaces.as_ref(), clock::unix_ms()),
        doubts,
    })
}

/// Joins the pods with the sidecars that the control plane knows.
pub fn rows(pods: &[Pod], told: &Told, namespaces: Option<&Namespaces>, now_ms: u64) -> Vec<Row> {
    let mut known: HashMap<(&str, &str), Vec<&Sidecar>> = HashMap::new();
    for sidecar in &told.sidecars {
        let key = (sidecar.namespace.as_str(), sidecar.pod.as_str());
        known.entry(key).or_default().push(sidecar);
    }
    let mut rows = Vec::new();
    for pod in pods {
        let lacks = namespaces.is_some_and(|all| all.lacks_sidecar(pod));
        let ended = matches!(mesh::phase(pod), "Succeeded" | "Failed");
        if ended || !(lacks || mesh::has_sidecar(pod)) {
            continue;
        }
        let (namespace, name) = mesh::key(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let same = |sidecar: &&&Sidecar| sidecar.pod_uid.is_empty() || sidecar.pod_uid == uid;
        let sidecars = known.get(&(namespace.as_str(), name.as_str()));
        let sidecar = sidecars.and_then(|sidecars| sidecars.iter().find(same).copied());
        rows.push(row(pod, (namespace, name), sidecar, lacks, now_ms));
    }
    rows.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    rows
}

fn row(
    pod: &Pod,
    (namespace, name): (String, String),
    sidecar: Option<&Sidecar>,
    lacks: bool,
    now_ms: u64,
) -> Row {
    let state = match sidecar {
        _ if lacks => State::NoSidecar,
        _ if pod.metadata.deletion_timestamp.is_some() => State::Ending,
        Some(sidecar) if !sidecar.connected => State::Disconnected,
        Some(sidecar) if !sidecar.refused.is_empty() => State::Refused,
        Some(_) => State::InSync,
        None if mesh::phase(pod) == "Running" => State::Unknown,
        None => State::Starting,
    };
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.clone());
    let sidecar = sidecar.cloned().unwrap_or_default();
    let report = sidecar.last_report_ms;
    Row {
        namespace,
        pod: name,
        node: node.unwrap_or_default(),
        state,
        connected: sidecar.connected,
        applied: sidecar.applied,
        refused: sidecar.refused,
        version: sidecar.version,
        last_report_seconds: report.map(|at_ms| now_ms.saturating_sub(at_ms) / 1_000),
        is_settling: mesh::is_unready(pod) || is_young(pod, now_ms),
    }
}

fn is_young(pod: &Pod, now_ms: u64) -> bool {
    let now = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
    mesh::made(pod).is_some_and(|made| now.saturating_sub(made) < YOUNG_SECONDS)
}

fn show(status: &Status, format: Format) -> Result<(), Error> {
    for doubt in &status.doubts {
        output::warn(doubt);
    }
    if let Some(text) = output::structured(format, &status.rows)? {
        return output::print(&text);
    }
    output::print(&table(&status.rows, Paint::of_stdout()))
}

fn table(rows: &[Row], paint: Paint) -> String {
    if rows.is_empty() {
        return "No sidecars here (-A shows all namespaces; `remora check` says what is wrong).\n"
            .to_owned();
    }
    let columns = [
        "NAMESPACE",
        "POD",
        "CONNECTED",
        "IN SYNC",
        "VERSION",
        "REPORT",
        "NODE",
    ];
    let mut table = Table::new(&columns);
    for row in rows {
        let (connected, sync) = states(row);
        let report = row.last_report_seconds;
        table.row([
            Cell::plain(&row.namespace),
            Cell::plain(&row.pod),
            connected,
            sync,
            Cell::plain(or_dash(&row.version)),
            Cell::plain(report.map_or("-".to_owned(), text::age)),
            Cell::plain(or_dash(&row.node)),
        ]);
    }
    let mut text = table.text(paint);
    text.push_str(&refusals(rows, paint));
    text
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn states(row: &Row) -> (Cell, Cell) {
    let dash = || Cell::toned(Tone::Quiet, "-");
    let applied = format!("yes ({})", row.applied);
    let connected = || Cell::toned(Tone::Good, "yes");
    match row.state {
        State::InSync => (connected(), Cell::toned(Tone::Good, applied)),
        State::Refused => {
            let refused = format!("no: {} refused", row.refused.len());
            (connected(), Cell::toned(Tone::Bad, refused))
        }
        State::Disconnected => (Cell::toned(Tone::Bad, "no"), dash()),
        State::Unknown => (Cell::toned(Tone::Bad, "never seen"), dash()),
        State::Starting => (Cell::toned(Tone::Notice, "starting"), dash()),
        State::Ending => (Cell::toned(Tone::Notice, "ending"), dash()),
        State::NoSidecar => (Cell::toned(Tone::Bad, "no sidecar"), dash()),
    }
}

/// What was refused, each once: mostly all pods refuse the same.
fn refusals(rows: &[Row], paint: Paint) -> String {
    let mut pods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        for refusal in &row.refused {
            let Refusal {
                r#type,
                name,
                reason,
                ..
            } = refusal;
            let what = format!("{type} {name}: {}", text::each_once(reason));
            let who = pods.entry(what).or_default();
            who.push(format!("{}/{}", row.namespace, row.pod));
        }
    }
    let mut text = String::new();
    for (what, who) in pods.iter().take(MAX_SHOWN_REFUSALS) {
        let line = format!("{} refused {what}", text::some_of(who, SHOWN_PODS));
        text.push_str(&paint.text(Tone::Bad, &line));
        text.push('\n');
    }
    if pods.len() > MAX_SHOWN_REFUSALS {
        let more = pods.len() - MAX_SHOWN_REFUSALS;
        text.push_str(&format!("and {more} more: -o json shows all\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str, phase: &str, has_sidecar: bool) -> Pod {
        let init = if has_sidecar {
            json!([{"name": "remora-proxy", "restartPolicy": "Always", "env": [
                {"name": "REMORA_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}])
        } else {
            json!([])
        };
        let value = json!({
            "metadata": {"namespace": "shop", "name": name, "uid": uid},
            "spec": {"nodeName": "node-1", "containers": [{"name": "app"}], "initContainers": init},
            "status": {"phase": phase},
        });
        serde_json::from_value(value).unwrap()
    }

    fn told(sidecars: serde_json::Value) -> Told {
        Told {
            sidecars: serde_json::from_value(sidecars).unwrap(),
            ..Told::default()
        }
    }

    fn shop() -> Namespaces {
        let shop = json!({"metadata": {"name": "shop", "labels": {"remora.io/inject": "enabled"}}});
        Namespaces::new(&[serde_json::from_value(shop).unwrap()], "remora-system")
    }

    fn sample() -> Vec<Row> {
        let pods = [
            pod("web", "1", "Running", true),
            pod("cart", "2", "Running", true),
            pod("catalog", "3", "Running", true),
            pod("again", "4b", "Running", true),
            pod("new", "5", "Pending", true),
            pod("old", "6", "Running", false),
            pod("done", "7", "Succeeded", true),
        ];
        let told = told(json!([
            {"namespace": "shop", "pod": "web", "pod_uid": "1", "connected": true,
             "version": "0.1.0", "applied": 12, "refused": [], "last_report_ms": 4_000},
            {"namespace": "shop", "pod": "cart", "pod_uid": "2", "connected": true, "version": "0.1.0",
             "applied": 3, "refused": [{"type": "Service", "name": "shop/x\u{1b}", "version": "7", "reason": "bad"}]},
            {"namespace": "shop", "pod": "catalog", "pod_uid": "3", "connected": false, "version": "0.1.0", "applied": 1},
            {"namespace": "shop", "pod": "again", "pod_uid": "4a", "connected": true},
        ]));
        rows(&pods, &told, Some(&shop()), 9_500)
    }

    #[test]
    fn pods_are_joined_with_what_the_control_plane_knows() {
        let states: Vec<(String, State)> = sample()
            .into_iter()
            .map(|row| (row.pod, row.state))
            .collect();
        let wanted = [
            ("again", State::Unknown),
            ("cart", State::Refused),
            ("catalog", State::Disconnected),
            ("new", State::Starting),
            ("old", State::NoSidecar),
            ("web", State::InSync),
        ];
        assert_eq!(
            states,
            wanted.map(|(pod, state)| (pod.to_owned(), state)),
            "another pod of the same name is another pod"
        );
    }

    #[test]
    fn the_table_says_all_of_it() {
        let text = table(&sample(), Paint::plain());
        let wanted = "\
NAMESPACE   POD       CONNECTED    IN SYNC         VERSION   REPORT   NODE
shop        again     never seen   -               -         -        node-1
shop        cart      yes          no: 1 refused   0.1.0     -        node-1
shop        catalog   no           -               0.1.0     -        node-1
shop        new       starting     -               -         -        node-1
shop        old       no sidecar   -               -         -        node-1
shop        web       yes          yes (12)        0.1.0     5s       node-1
shop/cart refused Service shop/x\u{fffd}: bad
";
        assert_eq!(text, wanted);
        assert!(table(&[], Paint::plain()).contains("-A"));
    }

    #[test]
    fn a_refusal_is_told_once_with_all_who_refuse() {
        let refused =
            json!([{"type": "Service", "name": "shop/x", "reason": "a: no; a: no; b: no; a: no"}]);
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let pods = names.map(|name| pod(name, name, "Running", true));
        let told = told(json!(names.map(
            |name| json!({"namespace": "shop", "pod": name, "connected": true, "refused": refused})
        )));
        let text = refusals(&rows(&pods, &told, None, 0), Paint::plain());
        assert_eq!(
            text,
            "shop/a, shop/b, shop/c, shop/d, shop/e and 2 more refused Service shop/x: \
             a: no (3 times); b: no\n"
        );
    }

    #[test]
    fn a_pod_that_is_young_or_not_ready_is_settling() {
        let settling = |metadata: serde_json::Value, ready: &str| {
            let mut value = serde_json::to_value(pod("web", "1", "Running", true)).unwrap();
            value["metadata"]["creationTimestamp"] = metadata;
            value["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
            let pods = [serde_json::from_value(value).unwrap()];
            rows(&pods, &Told::default(), None, 1_000_000_000_000)[0].is_settling
        };
        // 1 000 000 000 s is 2001-09-09T01:46:40Z.
        let (young, old) = (json!("2001-09-09T01:46:20Z"), json!("2001-09-09T01:46:00Z"));
        assert!(settling(young, "True"));
        assert!(!settling(old.clone(), "True"));
        assert!(settling(old, "False"));
    }

    #[test]
    fn a_program_reads_the_same() {
        let text = output::structured(Format::Json, &sample())
            .unwrap()
            .unwrap();
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(rows[5]["state"], "inSync");
        assert_eq!(rows[5]["lastReportSeconds"], 5);
        assert_eq!(rows[1]["refused"][0]["reason"], "bad");
        assert_eq!(rows[4]["state"], "noSidecar");
    }
}
