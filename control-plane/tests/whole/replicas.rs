//! Two control planes: one to which sidecars report, and one that follows it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use remora_control_plane::core::Core;
use remora_control_plane::core::store::{ResourceType, Store};
use remora_control_plane::identity::Options as IdentityOptions;
use remora_control_plane::identity::folder::Folder;
use remora_control_plane::identity::keep::{self, Keeping, Trust};
use remora_control_plane::identity::tokens::Caller;
use remora_control_plane::leader::{Leadership, View};
use remora_control_plane::replicas::connect::Credentials;
use remora_control_plane::replicas::follow;
use remora_control_plane::reports::{Sidecars, verdicts};
use remora_control_plane::source::files::Files;
use remora_control_plane::{Options, Running, Source, start};
use remora_proto::spiffe::SpiffeId;
use remora_proto::v1;
use remora_proto::v1::replicas_client::ReplicasClient;
use remora_proto::v1::{Health, VerdictsRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::Code;

use crate::client::Plane;
use crate::identity::Mesh;
use crate::reports::{Reporter, SHOP};
use crate::sidecar::{PATIENCE, Sidecar};
use crate::tls::with_token;

/// A control plane that does not lead, over the same objects.
struct Follower {
    store: Arc<Store>,
    view: watch::Sender<View>,
    _tasks: JoinSet<()>,
}

impl Follower {
    fn of(folder: &Path, credentials: Option<Credentials>) -> Self {
        let store = Arc::new(Store::default());
        let sidecars = Arc::new(Sidecars::new(store.clone()));
        let (view, viewed) = watch::channel(View::default());
        let (synced_sender, synced) = watch::channel(false);
        let (events, mut received) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let files = Files::new(vec![folder.to_owned()]).unwrap();
        let source = events.clone();
        tasks.spawn(async move { files.run(source, Arc::default()).await.unwrap() });
        let kept = verdicts::keep(sidecars.clone(), events);
        tasks.spawn(async move { drop(kept.await) });
        let mut core = Core::new(store.clone(), None);
        tasks.spawn(async move {
            while let Some(batch) = received.recv().await {
                core.handle(batch);
                synced_sender.send_replace(core.is_synced());
            }
        });
        let inputs = follow::Inputs {
            pod: "plane-2".to_owned(),
            leadership: Leadership::new(viewed),
            sidecars,
            synced,
            credentials,
        };
        tasks.spawn(async move { match follow::keep(inputs).await {} });
        Self {
            store,
            view,
            _tasks: tasks,
        }
    }

    fn follow(&self, leader: &str, running: &Running) {
        self.view.send_replace(View {
            leader: leader.to_owned(),
            leading_until: None,
            reports_address: Some(running.listen),
        });
    }

    fn health(&self) -> Option<Health> {
        let resource = self
            .store
            .exact(ResourceType::Endpoint, "shop/catalog/80/u1")?;
        Some(resource.open::<v1::Endpoint>()?.health())
    }

    async fn until(&self, wanted: Health) {
        let until = async {
            while self.health() != Some(wanted) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = tokio::time::timeout(PATIENCE, until).await;
        reached.unwrap_or_else(|_| panic!("{:?}, not {wanted:?}", self.health()));
    }
}

fn says(health: Health) -> v1::SidecarReport {
    v1::SidecarReport {
        health: vec![v1::PortHealth {
            port: 8080,
            health: health.into(),
            detail: "503".into(),
        }],
        ..v1::SidecarReport::default()
    }
}

#[tokio::test]
async fn what_probes_say_is_known_to_every_replica_and_survives_the_leader() {
    let one = Plane::new(&[("shop.yaml", SHOP)]).await;
    let follower = Follower::of(one.folder.path(), None);
    let listen = one.running.listen;
    // Known before it follows, and then every change.
    let mut reporter = Reporter::of(listen, "catalog-1", "u1", says(Health::Unhealthy)).await;
    follower.follow("plane-1", &one.running);
    follower.until(Health::Unhealthy).await;
    reporter.say(says(Health::Healthy)).await;
    follower.until(Health::Healthy).await;
    reporter.say(says(Health::Unhealthy)).await;
    follower.until(Health::Unhealthy).await;
    // The leader is gone, and what it said is believed for a while.
    drop(one.running);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(follower.health(), Some(Health::Unhealthy));
    // Nor does a new one that has heard nothing yet take it away.
    let three = Plane::new(&[("shop.yaml", SHOP)]).await;
    follower.follow("plane-3", &three.running);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(follower.health(), Some(Health::Unhealthy));
    let listen = three.running.listen;
    let _reporter = Reporter::of(listen, "catalog-1", "u1", says(Health::Healthy)).await;
    follower.until(Health::Healthy).await;
}

#[tokio::test]
async fn a_leader_that_is_not_there_yet_is_tried_again() {
    let one = Plane::new(&[("shop.yaml", SHOP)]).await;
    let follower = Follower::of(one.folder.path(), None);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    follower.view.send_replace(View {
        leader: "plane-1".to_owned(),
        leading_until: None,
        reports_address: Some(address),
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let options = Options {
        sources: vec![Source::Files(one.folder.path().to_owned())],
        listen: address,
        admin: "127.0.0.1:0".parse().unwrap(),
        identity: IdentityOptions::default(),
    };
    let _late = start(options).await.unwrap();
    let _reporter = Reporter::of(address, "catalog-1", "u1", says(Health::Unhealthy)).await;
    follower.until(Health::Unhealthy).await;
}

/// A leader with identities.
async fn secured() -> Mesh {
    Mesh::over(SHOP, 3_600).await
}

impl Mesh {
    fn token_of(&self, namespace: &str, account: &str, pod: &str) -> String {
        self.mint(&Caller::new(namespace, account, pod, &format!("{pod}-uid")).unwrap())
    }

    /// What a replica that trusts this one's CA has.
    fn trust(&self) -> watch::Receiver<Option<Arc<Trust>>> {
        let (told, trust) = watch::channel(None);
        let place = Folder::new(&self.ca()).unwrap();
        let keeping = Keeping {
            trust_domain: "cluster.local".to_owned(),
            lifetime_seconds: 3_600,
            trust: told,
            figures: Arc::default(),
        };
        tokio::spawn(async move { match keep::keep(Box::new(place), keeping).await {} });
        trust
    }

    fn credentials(&self, token: &str) -> Credentials {
        let file = self.folder.path().join("token");
        std::fs::write(&file, token).unwrap();
        Credentials {
            token: file,
            trust: self.trust(),
            name: "remora-control-plane.remora-system.svc".to_owned(),
            id: SpiffeId::new("cluster.local", "remora-system", "remora-control-plane").unwrap(),
        }
    }

    /// What is answered to who asks for verdicts so.
    async fn asked(&self, token: Option<&str>) -> Result<(), tonic::Status> {
        let channel = self.channel("127.0.0.1").await;
        let request = VerdictsRequest::default();
        let request = match token {
            Some(token) => with_token(request, token),
            None => tonic::Request::new(request),
        };
        let answer = ReplicasClient::new(channel).verdicts(request).await;
        answer.map(drop)
    }

    /// Reports of catalog-1, with its own token.
    async fn report(&self, health: Health) -> mpsc::Sender<v1::SidecarReport> {
        let channel = self.channel("127.0.0.1").await;
        let caller = Caller::new("shop", "default", "catalog-1", "u1").unwrap();
        let token = self.mint(&caller);
        crate::reports::first(channel, "catalog-1", "u1", &token, says(health)).await
    }
}

#[tokio::test]
async fn the_control_planes_own_account_alone_may_follow_and_may_nothing_else() {
    let leader = secured().await;
    let replica = leader.token_of("remora-system", "remora-control-plane", "plane-2");
    leader.asked(Some(&replica)).await.unwrap();
    let code = async |token: Option<&str>| leader.asked(token).await.unwrap_err().code();
    assert_eq!(code(None).await, Code::Unauthenticated);
    assert_eq!(code(Some("a.b.c")).await, Code::Unauthenticated);
    for (namespace, account, pod) in [
        ("shop", "default", "catalog-1"),
        ("shop", "remora-control-plane", "catalog-1"),
        ("remora-system", "remora-injector", "injector-1"),
        ("remora-system", "default", "plane-2"),
    ] {
        let token = leader.token_of(namespace, account, pod);
        let refused = code(Some(&token)).await;
        assert_eq!(refused, Code::PermissionDenied, "{namespace}/{account}");
    }
    // It is no sidecar, and reads nothing of theirs.
    let channel = leader.channel("127.0.0.1").await;
    let id = "sidecar/remora-system/plane-2/plane-2-uid".to_owned();
    let refused = Sidecar::begin(channel, id, Some(&replica)).await.err();
    assert_eq!(refused.map(|one| one.code()), Some(Code::PermissionDenied));
}

#[tokio::test]
async fn verdicts_go_over_tls_to_who_shows_the_own_account_and_knows_the_leader() {
    let leader = secured().await;
    let _reports = leader.report(Health::Unhealthy).await;
    let replica = leader.token_of("remora-system", "remora-control-plane", "plane-2");
    let objects = leader.folder.path().join("objects");
    let follower = Follower::of(&objects, Some(leader.credentials(&replica)));
    follower.follow("plane-1", &leader.running);
    follower.until(Health::Unhealthy).await;

    // Another mesh's control plane at this address, or a name that is not there.
    let other = secured().await;
    let strangers = [
        Credentials {
            trust: other.trust(),
            ..leader.credentials(&replica)
        },
        Credentials {
            name: "remora-control-plane.elsewhere.svc".to_owned(),
            ..leader.credentials(&replica)
        },
        Credentials {
            id: SpiffeId::new("cluster.local", "elsewhere", "remora-control-plane").unwrap(),
            ..leader.credentials(&replica)
        },
    ];
    for credentials in strangers {
        let stranger = Follower::of(&objects, Some(credentials));
        stranger.follow("plane-1", &leader.running);
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(stranger.health(), Some(Health::Unknown));
    }
}
