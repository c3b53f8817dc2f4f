//! A control plane with identities: TLS, tokens, certificates, on real sockets.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use remora_control_plane::identity::Options as IdentityOptions;
use remora_control_plane::identity::material::{Material, certificates};
use remora_control_plane::identity::tokens::Caller;
use remora_control_plane::identity::tokens::key::TokenKey;
use remora_control_plane::{Options, Running, Source, clock, start};
use remora_proto::v1::certificates_client::CertificatesClient;
use remora_proto::v1::reports_client::ReportsClient;
use remora_proto::v1::{self, CertificateRequest, SidecarReport};
use remora_proto::well_known::{SERVICE_TYPE, TRUST_BUNDLE_TYPE, WORKLOAD_TYPE};
use rustls::pki_types::{CertificateDer, UnixTime};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::sidecar::{Sidecar, fetch, open};
use crate::tls::{channel, config, handshake, signing_request, with_token};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const LIFETIME: u64 = 60;

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {name}-uid, \
         annotations: {{remora.io/trust-domain: cluster.local, \
         remora.io/mesh-protocols: \"remora-h2,remora-h1,remora-tcp\"}}}}\n\
         spec: {{serviceAccountName: web, initContainers: [{{name: remora-proxy, restartPolicy: Always}}], \
         containers: [{{name: app}}]}}\nstatus: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}\n---\n"
    )
}

/// A control plane with identities over folders of its own.
pub struct Mesh {
    pub folder: tempfile::TempDir,
    pub running: Running,
    key: TokenKey,
}

impl Mesh {
    async fn new() -> Self {
        let pods = pod("web-1", "127.0.0.2") + &pod("web-2", "127.0.0.3");
        Self::over(&pods, LIFETIME).await
    }

    /// Over these objects; certificates live so many seconds.
    pub async fn over(objects: &str, lifetime_seconds: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("objects");
        std::fs::create_dir(&place).unwrap();
        std::fs::write(place.join("all.yaml"), objects).unwrap();
        let key = folder.path().join("token.key");
        std::fs::write(&key, KEY).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let running = start(Options {
            sources: vec![Source::Files(place)],
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
            identity: IdentityOptions {
                ca_dir: Some(folder.path().join("ca")),
                token_key: Some(key),
                lifetime_seconds,
                ..IdentityOptions::default()
            },
        });
        let mesh = Self {
            running: running.await.unwrap(),
            folder,
            key: TokenKey::parse(KEY).unwrap(),
        };
        while !fetch(mesh.running.admin, "/ready").await.0.contains("200")
            || !mesh.ca().join("ca.crt").exists()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mesh
    }

    pub fn mint(&self, caller: &Caller) -> String {
        self.key.mint(caller, clock::unix_seconds() + 600)
    }

    pub fn ca(&self) -> std::path::PathBuf {
        self.folder.path().join("ca")
    }

    fn roots(&self) -> Vec<CertificateDer<'static>> {
        certificates(&std::fs::read(self.ca().join("ca.crt")).unwrap()).unwrap()
    }

    fn token(&self, pod: &str) -> String {
        let caller = Caller::new("shop", "web", pod, &format!("{pod}-uid")).unwrap();
        self.mint(&caller)
    }

    pub async fn channel(&self, from: &str) -> Channel {
        channel(self.running.listen, from, self.roots()).await
    }

    async fn certificate(
        &self,
        token: &str,
        from: &str,
        request: Vec<u8>,
    ) -> Result<v1::CertificateResponse, Status> {
        let mut client = CertificatesClient::new(self.channel(from).await);
        let request = CertificateRequest {
            signing_request: request.into(),
            lifetime_seconds: 0,
        };
        let answer = client.create_certificate(with_token(request, token)).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn sidecar(&self, pod: &str, token: &str, from: &str) -> Result<Sidecar, Status> {
        let id = format!("sidecar/shop/{pod}/{pod}-uid");
        Sidecar::begin(self.channel(from).await, id, Some(token)).await
    }

    async fn metric(&self, start: &str) -> u64 {
        let metrics = fetch(self.running.admin, "/metrics").await.1;
        let line = metrics.lines().find_map(|line| line.strip_prefix(start));
        line.expect("the metric").trim().parse().unwrap()
    }
}

#[tokio::test]
async fn a_pod_gets_the_certificate_that_its_token_says_and_no_other() {
    let mesh = Mesh::new().await;
    let token = mesh.token("web-1");
    let request = signing_request(&["evil.example", "spiffe.example"]);
    let answer = mesh
        .certificate(&token, "127.0.0.2", request.clone())
        .await
        .unwrap();
    let leaf = CertificateDer::from(answer.chain[0].to_vec());
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let wanted = "spiffe://cluster.local/ns/shop/sa/web";
    assert_eq!(
        names.value.general_names,
        [x509_parser::extensions::GeneralName::URI(wanted)]
    );
    let seconds = parsed.validity().not_after.timestamp() as u64;
    assert!(seconds <= clock::unix_seconds() + LIFETIME);
    // As its peers verify it.
    let bundle = answer.trust_bundle.unwrap();
    assert_eq!(bundle.trust_domain, "cluster.local");
    let root = CertificateDer::from(bundle.roots[0].to_vec());
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let end = webpki::EndEntityCert::try_from(&leaf).unwrap();
    end.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_seconds())),
        webpki::KeyUsage::client_auth(),
        None,
        None,
    )
    .unwrap();

    let refused = async |token: &str, from: &str, request: &[u8]| {
        let answer = mesh.certificate(token, from, request.to_vec()).await;
        answer.unwrap_err()
    };
    // A stolen token, used from another pod.
    let stolen = refused(&token, "127.0.0.3", &request).await;
    assert_eq!(stolen.code(), Code::PermissionDenied, "{stolen}");
    let broken = refused(&token, "127.0.0.2", &request[..request.len() - 1]).await;
    assert_eq!(broken.code(), Code::InvalidArgument, "{broken}");
    let nobody = refused("a.b.c", "127.0.0.2", &request).await;
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let other_key = TokenKey::parse(&"1".repeat(64)).unwrap();
    let caller = Caller::new("shop", "web", "web-1", "web-1-uid").unwrap();
    let forged = other_key.mint(&caller, clock::unix_seconds() + 60);
    let forged = refused(&forged, "127.0.0.2", &request).await;
    assert_eq!(forged.code(), Code::Unauthenticated, "{forged}");
    let expired = mesh.key.mint(&caller, clock::unix_seconds() - 1);
    let expired = refused(&expired, "127.0.0.2", &request).await;
    assert!(expired.message().contains("expired"), "{expired}");
    let gone = refused(&mesh.token("web-9"), "127.0.0.2", &request).await;
    assert_eq!(gone.code(), Code::PermissionDenied, "{gone}");
    assert!(gone.message().contains("no pod shop/web-9"), "{gone}");
    assert_eq!(
        mesh.metric("remora_certificates_issued_total{result=\"issued\"}")
            .await,
        1
    );
    assert_eq!(
        mesh.metric("remora_certificates_issued_total{result=\"denied\"}")
            .await,
        1
    );
    assert!(mesh.metric("remora_ca_expires_seconds").await > clock::unix_seconds());
    let serving = mesh
        .metric("remora_serving_certificate_expires_seconds")
        .await;
    assert!(serving > clock::unix_seconds() && serving <= clock::unix_seconds() + LIFETIME);
}

#[tokio::test]
async fn a_stream_is_its_own_pods_and_a_workload_only_from_its_address() {
    let mesh = Mesh::new().await;
    let token = mesh.token("web-1");
    let mut own = mesh.sidecar("web-1", &token, "127.0.0.2").await.unwrap();
    own.subscribe(WORKLOAD_TYPE, &["shop/web-1", "shop/web-2"])
        .await;
    let response = own.take().await;
    assert_eq!(response.removed_resources, ["shop/web-2"]);
    let workload: v1::Workload = open(&response.resources[0]);
    assert_eq!(workload.identity, "spiffe://cluster.local/ns/shop/sa/web");
    own.subscribe(TRUST_BUNDLE_TYPE, &["trust-bundle"]).await;
    let bundle: v1::TrustBundle = open(&own.take().await.resources[0]);
    assert_eq!(bundle.roots[0], mesh.roots()[0].to_vec());

    // Who has stolen the token reads what all may read, and no Workload.
    let mut thief = mesh.sidecar("web-1", &token, "127.0.0.3").await.unwrap();
    thief.subscribe(SERVICE_TYPE, &["address/127.0.0.2"]).await;
    let service: v1::Service = open(&thief.take().await.resources[0]);
    assert_eq!(service.pod.unwrap().identity, workload.identity);
    // What it refuses is not laid to the pod.
    thief.subscribe(SERVICE_TYPE, &["address/127.0.0.3"]).await;
    let response = thief.receive().await;
    thief.refuse(&response, "the thief says no").await;
    thief.subscribe(WORKLOAD_TYPE, &["shop/web-1"]).await;
    assert_eq!(thief.take().await.removed_resources, ["shop/web-1"]);
    let shown = fetch(mesh.running.admin, "/sidecars").await.1;
    assert!(
        shown.contains("web-1") && !shown.contains("the thief"),
        "{shown}"
    );

    // Another node than the token says.
    let mut other = mesh.sidecar("web-2", &token, "127.0.0.2").await.unwrap();
    other.subscribe(SERVICE_TYPE, &["a/b"]).await;
    let status = other.end().await;
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    let nobody = mesh.sidecar("web-1", "x", "127.0.0.2").await.err().unwrap();
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let id = "sidecar/shop/web-1/web-1-uid".to_owned();
    let silent = Sidecar::begin(mesh.channel("127.0.0.2").await, id, None).await;
    assert_eq!(silent.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn with_a_pod_that_has_ended_or_is_gone_its_token_and_its_streams_end() {
    let mesh = Mesh::new().await;
    let mut streams = Vec::new();
    for (name, address) in [("web-1", "127.0.0.2"), ("web-2", "127.0.0.3")] {
        let token = mesh.token(name);
        let mut stream = mesh.sidecar(name, &token, address).await.unwrap();
        stream.subscribe(SERVICE_TYPE, &["address/127.0.0.9"]).await;
        stream.take().await;
        streams.push(stream);
    }
    // An evicted pod stays for as long as nobody deletes it; its address may be
    // another's, and it has none.
    let ended = pod("web-1", "127.0.0.2").replace("status: {", "status: {phase: Failed, ");
    let pods = mesh.folder.path().join("objects/all.yaml");
    std::fs::write(pods, ended).unwrap();
    for stream in &mut streams {
        let patience = Duration::from_secs(15);
        let status = tokio::time::timeout(patience, stream.ended()).await;
        assert_eq!(status.expect("an end").code(), Code::PermissionDenied);
    }
    let request = signing_request(&[]);
    for (name, from) in [
        ("web-1", "127.0.0.2"),
        ("web-1", "127.0.0.7"),
        ("web-2", "127.0.0.3"),
    ] {
        let answer = mesh
            .certificate(&mesh.token(name), from, request.clone())
            .await;
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{name}");
    }
}

#[tokio::test]
async fn a_report_is_taken_from_its_own_sidecar_alone() {
    let mesh = Mesh::new().await;
    let report = |pod: &str| SidecarReport {
        sequence: 1,
        sidecar: Some(v1::SidecarIdentity {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            pod_uid: format!("{pod}-uid"),
            version: "1".to_owned(),
        }),
        ..SidecarReport::default()
    };
    let mut told = Vec::new();
    // Its own; under another name; from outside of the pod, with a stolen token.
    for (pod, from) in [
        ("web-1", "127.0.0.2"),
        ("web-2", "127.0.0.2"),
        ("web-1", "127.0.0.3"),
    ] {
        let mut client = ReportsClient::new(mesh.channel(from).await);
        let reports = tokio_stream::iter([report(pod)]);
        let request = with_token(reports, &mesh.token("web-1"));
        let mut answers = client.report(request).await.unwrap().into_inner();
        told.push(answers.message().await.map_err(|status| status.code()));
    }
    assert!(matches!(told[0], Ok(Some(_))), "{told:?}");
    for refused in &told[1..] {
        assert_eq!(*refused, Err(Code::PermissionDenied), "{told:?}");
    }
}

#[tokio::test]
async fn the_port_speaks_tls_1_3_to_who_trusts_its_root_and_nothing_else() {
    let mesh = Mesh::new().await;
    let listen = mesh.running.listen;
    let stream = handshake(
        listen,
        "127.0.0.1",
        config(mesh.roots(), &[&rustls::version::TLS13]),
    );
    let stream = stream.await.unwrap();
    let served = &stream.get_ref().1.peer_certificates().unwrap()[0];
    let (_, parsed) = x509_parser::parse_x509_certificate(served).unwrap();
    let names = format!(
        "{:?}",
        parsed.subject_alternative_name().unwrap().unwrap().value
    );
    for name in [
        "spiffe://cluster.local/ns/remora-system/sa/remora-control-plane",
        "remora-control-plane.remora-system.svc",
    ] {
        assert!(names.contains(name), "{name} in {names}");
    }
    let old = handshake(
        listen,
        "127.0.0.1",
        config(mesh.roots(), &[&rustls::version::TLS12]),
    );
    old.await.unwrap_err();
    let other = Material::generate("cluster.local", [1; 16], clock::unix_seconds()).unwrap();
    let other = certificates(&other.roots).unwrap();
    let stranger = handshake(
        listen,
        "127.0.0.1",
        config(other, &[&rustls::version::TLS13]),
    );
    stranger.await.unwrap_err();
    // Plaintext is not answered as such.
    let url = format!("http://{listen}");
    let plain = CertificatesClient::connect(url).await;
    let failed = match plain {
        Err(_) => true,
        Ok(mut client) => client
            .create_certificate(CertificateRequest::default())
            .await
            .is_err(),
    };
    assert!(failed);
}

fn replace(ca: &Path, name: &str, bytes: &[u8]) {
    let path = ca.join(format!("{name}.new"));
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(path, ca.join(name)).unwrap();
}

#[tokio::test]
async fn a_new_root_is_trusted_beside_the_old_one_before_anything_is_issued_by_it() {
    let mesh = Mesh::new().await;
    let old = mesh.roots();
    let token = mesh.token("web-1");
    let mut sidecar = mesh.sidecar("web-1", &token, "127.0.0.2").await.unwrap();
    sidecar
        .subscribe(TRUST_BUNDLE_TYPE, &["trust-bundle"])
        .await;
    sidecar.take().await;
    let new = Material::generate("cluster.local", [5; 16], clock::unix_seconds()).unwrap();
    // In an order in which there are moments at which it is wrong.
    replace(&mesh.ca(), "tls.key", &new.key);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(mesh.metric("remora_ca_wrong").await, 1);
    replace(&mesh.ca(), "ca.crt", &new.roots);
    replace(&mesh.ca(), "tls.crt", &new.certificate);
    let bundle: v1::TrustBundle = open(&sidecar.take().await.resources[0]);
    assert_eq!(bundle.roots.len(), 2, "old and new together");
    assert_eq!(mesh.metric("remora_ca_wrong").await, 0);
    // Peers may not know the new root yet: the old one issues, and serves.
    let request = signing_request(&[]);
    let mut client =
        CertificatesClient::new(channel(mesh.running.listen, "127.0.0.2", old.clone()).await);
    let request = CertificateRequest {
        signing_request: request.into(),
        lifetime_seconds: 0,
    };
    let answer = client
        .create_certificate(with_token(request, &token))
        .await
        .unwrap();
    let leaf = CertificateDer::from(answer.get_ref().chain[0].to_vec());
    let anchors = [webpki::anchor_from_trusted_cert(&old[0]).unwrap()];
    let end = webpki::EndEntityCert::try_from(&leaf).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(clock::unix_seconds()));
    let usage = webpki::KeyUsage::server_auth();
    end.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &[],
        now,
        usage,
        None,
        None,
    )
    .unwrap();
    // What is trusted is written down, for whoever comes after.
    let record = std::fs::read(mesh.ca().join("trust.crt")).unwrap();
    assert_eq!(certificates(&record).unwrap().len(), 2);
}

#[tokio::test]
async fn a_pod_that_asks_again_and_again_is_told_to_wait() {
    let mesh = Mesh::new().await;
    let request = signing_request(&[]);
    let token = mesh.token("web-1");
    let channel = mesh.channel("127.0.0.2").await;
    let mut refused = None;
    for _ in 0..60 {
        let mut client = CertificatesClient::new(channel.clone());
        let request = CertificateRequest {
            signing_request: request.clone().into(),
            lifetime_seconds: 0,
        };
        let answer = client.create_certificate(with_token(request, &token)).await;
        refused = refused.or(answer.err());
    }
    let refused = refused.expect("60 certificates were issued");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}
