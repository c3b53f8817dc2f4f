//! The certificate and `caBundle`, against a real API server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use remora_injector::Running;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;

use crate::world::{CERTIFICATE, NAME, SYSTEM, World, admin, apply, bundles};
use crate::world::{manifest, ready, until, world};

async fn secret(world: &World) -> Option<Secret> {
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), SYSTEM);
    secrets.get_opt(CERTIFICATE).await.unwrap()
}

fn bytes(secret: &Secret, key: &str) -> Vec<u8> {
    secret.data.as_ref().unwrap()[key].0.clone()
}

/// The certificate that is served, if those who trust `bundle` take it.
async fn served(world: &World, running: &Running, bundle: &[u8]) -> Option<Vec<u8>> {
    let mut roots = rustls::RootCertStore::empty();
    let trusted = CertificateDer::pem_slice_iter(bundle).map(Result::unwrap);
    roots.add_parsable_certificates(trusted);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let to = (world.address, running.listen.port());
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let name = ServerName::IpAddress(world.address.into());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.ok()?;
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    Some(chain[0].to_vec())
}

#[tokio::test]
async fn replicas_agree_on_one_certificate_and_a_lost_one_is_made_anew_unnoticed() {
    let Some(mut world) = world().await else {
        return;
    };
    let (one, other) = tokio::join!(world.injector(&[]), world.injector(&[]));
    world.configure(one.listen.port(), "Fail").await;
    ready(&one).await;
    ready(&other).await;
    let first = secret(&world).await.unwrap();
    assert_eq!(first.type_.as_deref(), Some("kubernetes.io/tls"));
    let bundle = bytes(&first, "ca.crt");
    assert_eq!(bundles(&world).await, vec![Some(bundle.clone()); 2]);
    let leaf = served(&world, &one, &bundle).await.unwrap();
    assert_eq!(served(&world, &other, &bundle).await, Some(leaf.clone()));

    let namespace = world
        .namespace("lost", &[("remora.io/inject", "enabled")])
        .await;
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), SYSTEM);
    secrets
        .delete(CERTIFICATE, &DeleteParams::default())
        .await
        .unwrap();
    // By then both have handed over. All the while every pod gets its sidecar:
    // without one it would be refused (Fail).
    let until_then = Instant::now() + Duration::from_secs(8);
    let mut made = 0;
    while Instant::now() < until_then {
        let metadata = json!({"generateName": "app-"});
        let (pod, _) = world.pod(&namespace, metadata, json!({})).await.unwrap();
        assert!(crate::is_injected(&pod), "{pod:?}");
        made += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(made > 50, "{made}");
    let second = secret(&world).await.unwrap();
    let both = bytes(&second, "ca.crt");
    assert_ne!(bytes(&second, "tls.crt"), bytes(&first, "tls.crt"));
    assert!(both.len() > bundle.len(), "the old authority stays trusted");
    assert_eq!(bundles(&world).await, vec![Some(both.clone()); 2]);
    let new = served(&world, &one, &both).await.unwrap();
    assert_ne!(new, leaf);
    assert_eq!(served(&world, &other, &both).await, Some(new));
    one.stop().await;
    other.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_bundle_that_is_taken_away_is_put_back() {
    let Some(world) = world().await else {
        return;
    };
    let running = world.injector(&[]).await;
    let port = running.listen.port();
    world.configure(port, "Fail").await;
    ready(&running).await;
    let good = bundles(&world).await;
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(world.admin.clone());
    let empty = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"},
        {"op": "add", "path": "/webhooks/1/clientConfig/caBundle", "value": ""}]);
    let empty = Patch::Json::<()>(serde_json::from_value(empty).unwrap());
    for _ in 0..3 {
        let emptied = configurations
            .patch(NAME, &PatchParams::default(), &empty)
            .await;
        emptied.unwrap();
        let begun = Instant::now();
        until("the bundle", async || bundles(&world).await == good).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    // Another one's is taken away too, and one that was deleted is filled.
    configurations
        .delete(NAME, &DeleteParams::default())
        .await
        .unwrap();
    world.configure(port, "Fail").await;
    until("the bundle", async || bundles(&world).await == good).await;
    assert_eq!(admin(&running, "/ready").await.0, 200);
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn the_manifest_applied_again_leaves_the_bundle() {
    let Some(world) = world().await else {
        return;
    };
    let running = world.injector(&[]).await;
    let port = running.listen.port();
    world.configure(port, "Ignore").await;
    ready(&running).await;
    let good = bundles(&world).await;
    assert!(good.iter().all(Option::is_some));
    // Nobody is there to mend it.
    running.stop().await;
    world.configure(port, "Ignore").await;
    assert_eq!(bundles(&world).await, good, "server-side apply");
    // As `kubectl apply` without --server-side does it.
    let file = tempfile::NamedTempFile::new().unwrap();
    for policy in ["Ignore", "Fail", "Ignore"] {
        let document = world.configuration(port, policy).to_string();
        std::fs::write(file.path(), document).unwrap();
        let applied = tokio::process::Command::new("kubectl")
            .args(["apply", "-f"])
            .arg(file.path())
            .output()
            .await;
        let applied = applied.expect("kubectl, which every operator has");
        assert!(applied.status.success(), "{applied:?}");
        assert_eq!(bundles(&world).await, good, "client-side apply");
    }
    world.end().await;
}

#[tokio::test]
async fn without_its_rights_it_waits_and_says_for_what() {
    let Some(world) = world().await else {
        return;
    };
    let cluster: Api<ClusterRoleBinding> = Api::all(world.admin.clone());
    let local: Api<RoleBinding> = Api::namespaced(world.admin.clone(), SYSTEM);
    let now = DeleteParams::default();
    cluster.delete(NAME, &now).await.unwrap();
    local.delete(NAME, &now).await.unwrap();
    let mut running = world.injector(&[]).await;
    world.configure(running.listen.port(), "Ignore").await;
    until("the version", async || {
        let (_, text) = admin(&running, "/ready").await;
        text == "not there yet: certificate, ca_bundle, namespaces\n"
    })
    .await;
    let ended = tokio::time::timeout(Duration::from_secs(3), running.ended());
    assert!(ended.await.is_err(), "it waits, and does not end");
    for document in manifest() {
        let kind = document["kind"].as_str().unwrap();
        if kind.ends_with("RoleBinding") || kind == "ClusterRoleBinding" {
            apply(&world.admin, &document).await;
        }
    }
    ready(&running).await;
    running.stop().await;
    world.end().await;
}
