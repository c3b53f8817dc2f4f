//! A storm: ten thousand streams at once on a hundred connections, given up by
//! their clients, reset by the application. No stream hangs, no permit stays
//! taken, and nobody loses a connection over what another has done.

mod client;
mod plan;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use self::client::{Connection, Seen, after, judge, never};
use self::plan::{Cancel, Ending, Plan, Wait};
use self::upstream::{Patience, Upstream};
use crate::mesh::{HTTP2, Hop, Mesh, Place, until};

/// One at a time: each takes the machine to itself.
static STAGE: Mutex<()> = Mutex::const_new(());

const CONNECTIONS: usize = 100;
const STREAMS: usize = 100;
const ALL: usize = CONNECTIONS * STREAMS;
/// As many requests at once as there are streams, and not one more.
const LIMIT: &str = "circuitBreaker: {maxRequests: 10000}";
/// More: a client's library may let a new stream overtake the reset of an old one.
const AMPLE: &str = "circuitBreaker: {maxRequests: 20000}";
/// How long streams come and go.
const CHURN: Duration = Duration::from_secs(5);
/// No stream lasts so long, unless it hangs.
const HANGS: Duration = Duration::from_secs(40);
/// Up to so many findings are shown.
const SHOWN: usize = 20;

/// Everything that a test of this kind has.
struct Stage {
    connections: Vec<Arc<Connection>>,
    upstream: Arc<Upstream>,
    mesh: Option<Mesh>,
    address: SocketAddr,
    authority: String,
}

impl Stage {
    /// Through two sidecars.
    async fn with_sidecars(number: u8, hop: Hop, connections: usize, patience: Patience) -> Self {
        let place = Place::new(number);
        let upstream = Upstream::start(place.application(HTTP2), patience);
        let mesh = Mesh::start(place, hop).await;
        let authority = format!("echo:{HTTP2}");
        let stage = Self::open(
            upstream,
            Some(mesh),
            place.outbound(),
            authority,
            connections,
        );
        stage.await
    }

    async fn open(
        upstream: Arc<Upstream>,
        mesh: Option<Mesh>,
        address: SocketAddr,
        authority: String,
        connections: usize,
    ) -> Self {
        let mut stage = Self {
            connections: Vec::new(),
            upstream,
            mesh,
            address,
            authority,
        };
        for _ in 0..connections {
            let connection = stage.connect().await;
            stage.connections.push(connection);
        }
        stage
    }

    async fn connect(&self) -> Arc<Connection> {
        Arc::new(Connection::open(self.address, &self.authority).await)
    }

    /// Each connection still serves.
    async fn every_connection_serves(&self) {
        for (number, connection) in self.connections.iter().enumerate() {
            let plan = Plan::plain(Wait::Milliseconds(0));
            let seen = bounded(connection.exchange(plan, never())).await;
            let judged = seen.and_then(|seen| judge(&plan, &seen));
            let ended = connection.ended();
            assert!(
                judged.is_ok() && ended.is_none(),
                "connection {number}: {judged:?}, ended: {ended:?}"
            );
        }
    }

    /// Nothing is in flight anywhere, and no connection broke on the way.
    async fn all_is_quiet(&self) {
        until("the application serves no stream", async || {
            self.upstream.open.load(SeqCst) == 0
        })
        .await;
        let broken = self.upstream.broken.lock().unwrap().clone();
        assert!(
            broken.is_empty(),
            "connections to the application: {broken:?}"
        );
        let Some(mesh) = &self.mesh else { return };
        let mut last = Vec::new();
        let begin = Instant::now();
        loop {
            let mut all = gauges(&mesh.caller_says("/stats").await);
            all.extend(gauges(&mesh.caller_says("/breakers").await));
            all.extend(gauges(&mesh.target_says("/stats").await));
            assert!(all.len() >= 4, "no gauges: {all:?}");
            if all.iter().all(|(_, value)| *value == 0) {
                return;
            }
            assert!(begin.elapsed() < HANGS, "in flight for ever: {last:?}");
            last = all;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the application holds so many streams.
    async fn holds(&self, streams: usize) {
        let begin = Instant::now();
        while self.upstream.held.load(SeqCst) != streams as i64 {
            assert!(
                begin.elapsed() < HANGS,
                "the application holds {:?} streams and not {streams}; in the sidecars {:?}; \
                 {:?} connections so far, broken {:?}",
                self.upstream.held,
                self.in_flight().await,
                self.upstream.connections,
                self.upstream.broken,
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the caller's and the target's sidecar say to be in flight.
    async fn in_flight(&self) -> Option<(u64, u64)> {
        let mesh = self.mesh.as_ref()?;
        let sum = |stats: Value, side: &str| {
            let rows = stats[side].as_array().cloned().unwrap_or_default();
            rows.iter()
                .filter_map(|row| row["in_flight"].as_u64())
                .sum()
        };
        let caller = sum(mesh.caller_says("/stats").await, "outbound");
        let target = sum(mesh.target_says("/stats").await, "inbound");
        Some((caller, target))
    }

    /// All streams at once, each held by the application until all are there;
    /// then everything that may become of them.
    async fn peak(&self, seed: u64) {
        let (go, gone) = watch::channel(false);
        let mut streams = JoinSet::new();
        for (number, connection) in self.connections.iter().enumerate() {
            for stream in 0..STREAMS {
                let mut random =
                    fastrand::Rng::with_seed(seed ^ (number * STREAMS + stream) as u64);
                let plan = Plan::random(&mut random, true);
                let (connection, mut gone) = (Arc::clone(connection), gone.clone());
                streams.spawn(async move {
                    let give_up = async {
                        let _ = gone.wait_for(|gone| *gone).await;
                        after(Duration::from_millis(random.u64(..500))).await;
                    };
                    let seen = bounded(connection.exchange(plan, give_up)).await;
                    let seen = seen.map_err(|hangs| format!("{plan:?}: {hangs}"))?;
                    judge(&plan, &seen).map(|()| seen)
                });
            }
        }
        let begin = Instant::now();
        while self.upstream.held.load(SeqCst) < ALL as i64 {
            let early = streams.try_join_next();
            let held = &self.upstream.held;
            assert!(early.is_none(), "{held:?} held when one ended: {early:?}");
            assert!(begin.elapsed() < HANGS, "only {held:?} of {ALL} came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        println!("{ALL} streams at once after {:?}", begin.elapsed());
        if let Some(in_flight) = self.in_flight().await {
            assert_eq!(in_flight, (ALL as u64, ALL as u64));
            self.one_more_is_refused().await;
        }
        go.send_replace(true);
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Some were refused by the application and have been sent again.
        let upstream = Arc::clone(&self.upstream);
        let releasing = tokio::spawn(async move {
            loop {
                upstream.release();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let outcomes = streams.join_all().await.into_iter();
        assert_none(outcomes.map(|one| one.map(|_| ())).collect());
        releasing.abort();
    }

    async fn one_more_is_refused(&self) {
        let plan = Plan::plain(Wait::Milliseconds(0));
        let connection = self.connect().await;
        let seen = bounded(connection.exchange(plan, never())).await;
        assert!(
            matches!(&seen, Ok(Ok(Seen::Status(status, reason, _)))
                if status.as_u16() == 503 && reason == "overloaded"),
            "the limit is not exact: {seen:?}"
        );
    }

    /// Streams that come and go for a while.
    async fn churn(&self, seed: u64) {
        let end = Instant::now() + CHURN;
        let mut workers = JoinSet::new();
        for (number, connection) in self.connections.iter().enumerate() {
            for stream in 0..STREAMS {
                let seed = seed ^ (number * STREAMS + stream) as u64;
                workers.spawn(come_and_go(Arc::clone(connection), seed, end));
            }
        }
        let outcomes = workers.join_all().await;
        println!(
            "{:?} streams at the application, {:?} in the sidecars, {:?} connections, broken {:?}",
            self.upstream.open,
            self.in_flight().await,
            self.upstream.connections,
            self.upstream.broken,
        );
        let done: usize = outcomes.iter().filter_map(|one| one.as_ref().ok()).sum();
        println!("{done} streams in {CHURN:?}");
        assert_none(outcomes.into_iter().map(|one| one.map(|_| ())).collect());
        assert!(done > ALL, "only {done} streams");
    }
}

async fn come_and_go(
    connection: Arc<Connection>,
    seed: u64,
    end: Instant,
) -> Result<usize, String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut done = 0;
    while Instant::now() < end || done == 0 {
        let plan = Plan::random(&mut random, false);
        let give_up = after(Duration::from_millis(random.u64(..15)));
        let seen = bounded(connection.exchange(plan, give_up)).await;
        let seen = seen.map_err(|hangs| format!("{plan:?}: {hangs}"))?;
        judge(&plan, &seen)?;
        done += 1;
    }
    Ok(done)
}

async fn bounded<T>(stream: impl Future<Output = T>) -> Result<T, String> {
    let ended = tokio::time::timeout(HANGS, stream).await;
    ended.map_err(|_| format!("a stream hangs: no end within {HANGS:?}"))
}

fn assert_none(outcomes: Vec<Result<(), String>>) {
    let total = outcomes.len();
    let wrong: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    let shown = &wrong[..wrong.len().min(SHOWN)];
    assert!(
        wrong.is_empty(),
        "{} of {total} are wrong:\n{}",
        wrong.len(),
        shown.join("\n")
    );
}

/// Every number called `..in_flight`, wherever it stands.
fn gauges(said: &Value) -> Vec<(String, u64)> {
    match said {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, value)| match value.as_u64() {
                Some(value) if name.ends_with("in_flight") => vec![(name.clone(), value)],
                _ => gauges(value),
            })
            .collect(),
        Value::Array(all) => all.iter().flat_map(gauges).collect(),
        _ => Vec::new(),
    }
}

async fn ten_thousand_streams(number: u8, hop: Hop) {
    let _alone = STAGE.lock().await;
    let stage = Stage::with_sidecars(number, hop, CONNECTIONS, Patience::Endless).await;
    stage.every_connection_serves().await;
    let mesh = stage.mesh.as_ref().unwrap();
    mesh.apply_policy(1, LIMIT).await;
    // Twice: a permit that stays taken would be missing the second time.
    for seed in [1, 2] {
        stage.peak(seed << 32).await;
        stage.all_is_quiet().await;
    }
    mesh.apply_policy(2, AMPLE).await;
    stage.churn(3 << 32).await;
    stage.all_is_quiet().await;
    stage.every_connection_serves().await;
}

#[tokio::test]
async fn the_storm_itself_is_sound_without_sidecars() {
    let _alone = STAGE.lock().await;
    let address = Place::new(3).application(HTTP2);
    let upstream = Upstream::start(address, Patience::Endless);
    let authority = address.to_string();
    let stage = Stage::open(upstream, None, address, authority, CONNECTIONS).await;
    stage.peak(1).await;
    stage.churn(2).await;
    stage.all_is_quiet().await;
    stage.every_connection_serves().await;
}

#[tokio::test]
async fn ten_thousand_streams_end_and_leave_nothing_behind() {
    ten_thousand_streams(4, Hop::AsSpoken).await;
}

#[tokio::test]
async fn ten_thousand_streams_on_the_mesh_hop_end_and_leave_nothing_behind() {
    ten_thousand_streams(5, Hop::Ours).await;
}

/// Clients that do no harm, each in a connection of its own.
const BYSTANDERS: usize = 10;
/// What one that does harm repeats.
const ROUNDS: usize = 30;
/// Connections of it that break off with all their streams.
const BREAKS: usize = 5;

async fn one_client_cancels(number: u8, hop: Hop) {
    let _alone = STAGE.lock().await;
    let stage = Stage::with_sidecars(number, hop, BYSTANDERS, Patience::Usual).await;
    let (stop, stopped) = watch::channel(false);
    let mut bystanders = JoinSet::new();
    for connection in &stage.connections {
        let connection = Arc::clone(connection);
        let held = Plan::plain(Wait::Held);
        let waiting = Arc::clone(&connection);
        bystanders.spawn(async move {
            let seen = bounded(waiting.exchange(held, never())).await?;
            judge(&held, &seen)
        });
        let stopped = stopped.clone();
        bystanders.spawn(async move {
            let plan = Plan::plain(Wait::Milliseconds(1));
            while !*stopped.borrow() {
                let seen = bounded(connection.exchange(plan, never())).await?;
                judge(&plan, &seen)?;
            }
            Ok(())
        });
    }
    stage.holds(BYSTANDERS).await;
    let before = stage.upstream.connections.load(SeqCst);
    for _ in 0..ROUNDS {
        cancel_everything(&stage).await;
    }
    for _ in 0..BREAKS {
        break_off(&stage).await;
    }
    let after = stage.upstream.connections.load(SeqCst);
    println!("connections to the application: {before}, then {after}");
    stop.send_replace(true);
    // Each is still there to be released.
    stage.upstream.release();
    assert_none(bystanders.join_all().await);
    stage.all_is_quiet().await;
    stage.every_connection_serves().await;
}

/// A connection's worth of streams, each reset as soon as it is open. That the
/// sidecar closes this connection for it is its right.
async fn cancel_everything(stage: &Stage) {
    let connection = stage.connect().await;
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let connection = Arc::clone(&connection);
        streams.spawn(async move {
            let plan = Plan {
                ending: Ending::Answer(10),
                cancel: Cancel::Early,
                ..Plan::plain(Wait::Held)
            };
            let pause = Duration::from_millis(number as u64 % 4);
            bounded(connection.exchange(plan, after(pause))).await
        });
    }
    let ended = streams.join_all().await;
    assert!(ended.iter().all(Result::is_ok), "a stream hangs");
}

/// A client that dies with everything in flight.
async fn break_off(stage: &Stage) {
    let connection = stage.connect().await;
    stage.holds(BYSTANDERS).await;
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let connection = Arc::clone(&connection);
        streams.spawn(async move {
            let plan = Plan::plain(Wait::Held);
            bounded(connection.exchange(plan, never())).await
        });
    }
    stage.holds(BYSTANDERS + STREAMS).await;
    connection.break_off();
    stage.holds(BYSTANDERS).await;
}

#[tokio::test]
async fn one_clients_cancellations_touch_nobody_else() {
    one_client_cancels(6, Hop::AsSpoken).await;
}

#[tokio::test]
async fn one_clients_cancellations_on_the_mesh_hop_touch_nobody_else() {
    one_client_cancels(7, Hop::Ours).await;
}
