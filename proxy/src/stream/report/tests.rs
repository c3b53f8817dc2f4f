use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use remora_proto::v1::reports_server::{Reports, ReportsServer};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::policy::config::{Match, RateLimit};
use crate::policy::rate_limit::RateLimiter;
use crate::state::controller::Identity;
use crate::state::ledger::Ledger;
use crate::stream::{ControlPlane, Kind, Options};

const PATIENCE: Duration = Duration::from_secs(10);

/// A journal and totals that the test writes.
#[derive(Default)]
struct Source {
    journal: Mutex<Vec<NumberedChange>>,
    usage: Mutex<Vec<ServiceUsage>>,
    ports: Mutex<Vec<PortUsage>>,
    shares: Arc<Shares>,
}

impl Source {
    fn breaker_changed(&self, cause: &str) {
        let mut journal = self.journal.lock();
        let sequence = journal.len() as u64 + 1;
        let change = BreakerChange {
            service: "shop/catalog".to_owned(),
            cause: cause.to_owned(),
            ..Default::default()
        };
        journal.push(NumberedChange { sequence, change });
    }

    fn used(&self, requests: u64) {
        *self.usage.lock() = vec![ServiceUsage {
            service: "shop/catalog".to_owned(),
            requests,
            ..Default::default()
        }];
    }
}

impl ReportSource for Source {
    fn breaker_changes_since(&self, sequence: u64) -> Vec<NumberedChange> {
        let journal = self.journal.lock();
        let later = journal.iter().filter(|entry| entry.sequence > sequence);
        later.cloned().collect()
    }

    fn usage(&self) -> Vec<ServiceUsage> {
        self.usage.lock().clone()
    }

    fn ports(&self) -> Vec<PortUsage> {
        self.ports.lock().clone()
    }

    fn shares(&self) -> Arc<Shares> {
        Arc::clone(&self.shares)
    }
}

fn composer() -> Composer {
    Composer::new(Identity {
        namespace: "shop".to_owned(),
        pod: "web-1".to_owned(),
        ..Default::default()
    })
}

fn apply(ledger: &mut Ledger, name: &str) {
    ledger.apply(Kind::Service, name, "1", &[], Timestamp::from_millis(5000));
}

#[test]
fn the_first_report_has_all_and_later_ones_what_changed() {
    let (mut ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    apply(&mut ledger, "shop/a");
    composer.begin(&ledger);
    let first = composer.compose(&ledger, &source, clock::now()).unwrap();
    assert_eq!((first.sequence, first.applied.len()), (1, 1));
    assert_eq!(first.sidecar.unwrap().pod, "web-1");
    composer.acknowledge(1);
    assert!(!composer.has_news(ledger.sequence(), &source));

    apply(&mut ledger, "shop/b");
    ledger.drop_resource(Kind::Service, "shop/a");
    source.breaker_changed("5 consecutive failures");
    assert!(composer.has_news(ledger.sequence(), &source));
    let second = composer.compose(&ledger, &source, clock::now()).unwrap();
    assert_eq!(second.sidecar, None);
    assert_eq!(second.applied[0].name, "shop/b");
    assert_eq!(second.dropped[0].name, "shop/a");
    assert_eq!(second.breaker_changes.len(), 1);
}

#[test]
fn what_was_not_acknowledged_is_told_again() {
    let (mut ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    composer.begin(&ledger);
    composer.compose(&ledger, &source, clock::now()).unwrap();
    composer.acknowledge(1);
    apply(&mut ledger, "shop/a");
    source.breaker_changed("once");
    source.used(10);
    composer.compose(&ledger, &source, clock::now()).unwrap();
    composer.acknowledge(1);
    assert!(composer.is_under_way(), "an old acknowledgement");

    composer.begin(&ledger);
    source.used(15);
    let again = composer.compose(&ledger, &source, clock::now()).unwrap();
    assert_eq!((again.sequence, again.applied.len()), (1, 1));
    assert_eq!(again.breaker_changes.len(), 1);
    assert_eq!(again.usage[0].requests, 15);
    composer.acknowledge(1);

    source.used(16);
    let next = composer.compose(&ledger, &source, clock::now()).unwrap();
    assert_eq!(next.usage[0].requests, 1, "only what is new");
    assert!(next.breaker_changes.is_empty());
}

#[test]
fn a_new_stream_hears_of_breakers_that_opened_before_it() {
    let (ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    composer.begin(&ledger);
    source.breaker_changed("5 consecutive failures");
    composer.compose(&ledger, &source, clock::now()).unwrap();
    composer.acknowledge(1);

    // A control plane that has just started knows nothing of it.
    composer.begin(&ledger);
    let first = composer.compose(&ledger, &source, clock::now()).unwrap();
    assert_eq!(first.breaker_changes.len(), 1);
    composer.acknowledge(1);
    assert!(!composer.has_news(ledger.sequence(), &source));
}

#[test]
fn totals_that_begin_anew_are_told_whole() {
    let (ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    composer.begin(&ledger);
    source.used(10);
    composer.compose(&ledger, &source, clock::now()).unwrap();
    composer.acknowledge(1);
    source.used(3);
    assert_eq!(
        composer
            .compose(&ledger, &source, clock::now())
            .unwrap()
            .usage[0]
            .requests,
        3
    );
}

#[test]
fn what_a_port_shed_is_told_though_the_request_is_counted_a_moment_later() {
    let (ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    let mut told = PortUsage {
        port: 80,
        shed_default: 1,
        ..Default::default()
    };
    let mut compose = |sequence, total| {
        *source.ports.lock() = vec![total];
        let report = composer.compose(&ledger, &source, clock::now()).unwrap();
        composer.acknowledge(sequence);
        report.ports
    };
    assert_eq!(compose(1, told), [told]);
    told.requests = 1;
    let since = PortUsage {
        shed_default: 0,
        ..told
    };
    assert_eq!(compose(2, told), [since]);
    assert_eq!(compose(3, told), [], "nothing has happened");
}

#[test]
fn limits_of_the_mesh_beyond_those_that_a_report_has_want_none() {
    let (ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    let limits: Vec<RateLimit> = (0..=compose::MAX_USAGE)
        .map(|number| RateLimit {
            name: number.to_string().into(),
            policy: Arc::from("shop/web"),
            requests: 1,
            per: Duration::from_secs(1),
            burst: 1,
            matches: Match::default(),
            key: Vec::new(),
            shadow: false,
            max_keys: 1,
            mesh: true,
        })
        .collect();
    let shares = Arc::clone(&source.shares);
    let _enforced = RateLimiter::with_shares(&limits, shares, clock::now());
    assert_eq!(
        composer.mesh_news(&source.shares.usage()),
        MeshNews::Share,
        "none is told"
    );
    composer.compose(&ledger, &source, clock::now()).unwrap();
    composer.acknowledge(1);
    assert_eq!(composer.mesh_news(&source.shares.usage()), MeshNews::None);
}

#[test]
fn a_long_first_report_goes_in_pieces() {
    let (mut ledger, source, mut composer) = (Ledger::default(), Source::default(), composer());
    let count = compose::MAX_RESOURCES + 1;
    for index in 0..count {
        apply(&mut ledger, &format!("shop/{index}"));
    }
    composer.begin(&ledger);
    let mut told = 0;
    for sequence in 1..=2 {
        assert!(composer.has_news(ledger.sequence(), &source));
        told += composer
            .compose(&ledger, &source, clock::now())
            .unwrap()
            .applied
            .len();
        composer.acknowledge(sequence);
    }
    assert_eq!(told, count);
    assert!(!composer.has_news(ledger.sequence(), &source));
}

/// Hands every report to the test and acknowledges it.
struct Script(mpsc::Sender<SidecarReport>);

#[tonic::async_trait]
impl Reports for Script {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportAcknowledgement, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<SidecarReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let (acknowledgements, outgoing) = mpsc::channel(4);
        let (seen, mut reports) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(report)) = reports.message().await {
                let sequence = report.sequence;
                // The test breaks a stream off by such a report.
                let end = report
                    .breaker_changes
                    .iter()
                    .any(|change| change.cause == "end");
                if seen.send(report).await.is_err() || end {
                    return;
                }
                let acknowledgement = Ok(ReportAcknowledgement {
                    sequence,
                    ..Default::default()
                });
                if acknowledgements.send(acknowledgement).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[tokio::test]
async fn a_change_is_reported_soon_and_a_lost_stream_begins_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (script, mut reports) = mpsc::channel(16);
    let serving = tonic::transport::Server::builder()
        .add_service(ReportsServer::new(Script(script)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(async move { drop(serving.await) });
    let (mesh, _questions) = Mesh::new();
    let source = Arc::new(Source::default());
    let options = Options {
        identity: Identity::default(),
        control_plane: ControlPlane::parse(&url, None, None).unwrap(),
    };
    let reporting = tokio::spawn(keep_reporting(options, mesh.clone(), source.clone()));
    let mut next = async || {
        tokio::time::timeout(PATIENCE, reports.recv())
            .await
            .unwrap()
            .unwrap()
    };

    assert!(next().await.sidecar.is_some());
    mesh.ledger()
        .apply(Kind::Service, "shop/a", "1", &[], clock::now());
    source.used(5);
    mesh.report_soon();
    let begun = clock::now();
    let report = next().await;
    assert_eq!((report.sequence, report.applied.len()), (2, 1));
    assert_eq!(report.usage[0].requests, 5);
    assert!(clock::now().since(begun) < Duration::from_secs(2));

    source.breaker_changed("end");
    let report = next().await;
    assert_eq!(report.breaker_changes[0].cause, "end");
    let report = next().await;
    assert_eq!(report.sequence, 1, "a new stream");
    assert!(report.sidecar.is_some() && report.applied.len() == 1);
    assert_eq!(report.breaker_changes.len(), 1, "it was not acknowledged");
    reporting.abort();
    server.abort();
}
