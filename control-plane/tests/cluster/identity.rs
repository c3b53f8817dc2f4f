//! Identities over a real API server: one CA for all replicas, tokens of
//! service accounts, and whom to trust in every namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use remora_control_plane::identity::Options as IdentityOptions;
use remora_control_plane::identity::material::certificates;
use remora_control_plane::identity::record::Record;
use remora_proto::v1;
use remora_proto::v1::CertificateRequest;
use remora_proto::v1::certificates_client::CertificatesClient;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tonic::{Code, Status};

use crate::replica::Plane;
use crate::tls::{channel, signing_request, with_token};
use crate::world::{World, eventually};

async fn plane(world: &World, pod: &str) -> Plane {
    let identity = IdentityOptions {
        ca_secret: Some("remora-ca".to_owned()),
        ..IdentityOptions::default()
    };
    Plane::start_with(world, pod, identity).await
}

/// What is written as trusted in a namespace.
async fn trusted(world: &World, namespace: &str) -> Option<String> {
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), namespace);
    let map = maps.get_opt("remora-trust").await.unwrap()?;
    map.data?.remove("ca.crt")
}

async fn secret(world: &World) -> BTreeMap<String, Vec<u8>> {
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    let secret = secrets.get("remora-ca").await.unwrap();
    let data = secret.data.unwrap().into_iter();
    data.map(|(key, bytes)| (key, bytes.0)).collect()
}

/// A token of the service account `default`, of a pod where one is named.
async fn token(world: &World, pod: Option<(&str, &str)>, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(world.client.clone(), &world.namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            bound_object_ref: pod.map(|(name, uid)| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(name.to_owned()),
                uid: Some(uid.to_owned()),
            }),
            expiration_seconds: Some(3_600),
        },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let made = accounts.create_token_request("default", &params, &request);
    made.await.unwrap().status.unwrap().token
}

async fn certificate(
    plane: &Plane,
    roots: &[CertificateDer<'static>],
    token: &str,
) -> Result<v1::CertificateResponse, Status> {
    let channel = channel(plane.running.listen, "127.0.0.1", roots.to_vec()).await;
    let request = CertificateRequest {
        signing_request: signing_request(&["evil.example"]).into(),
        lifetime_seconds: 0,
    };
    let mut client = CertificatesClient::new(channel);
    let answer = client.create_certificate(with_token(request, token)).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn two_replicas_have_one_ca_and_issue_by_real_tokens() {
    let Some(world) = World::new().await else {
        return;
    };
    let (one, two) = tokio::join!(plane(&world, "plane-1"), plane(&world, "plane-2"));
    let roots = certificates(&secret(&world).await["ca.crt"]).unwrap();
    assert_eq!(roots.len(), 1);
    let uid = world.pod("web-1", &["10.9.9.1"]).await;
    let good = token(&world, Some(("web-1", &uid)), "remora.io").await;
    for plane in [&one, &two] {
        let answer = certificate(plane, &roots, &good).await.unwrap();
        let leaf = answer.chain[0].to_vec();
        let (_, leaf) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        let names = format!(
            "{:?}",
            leaf.subject_alternative_name().unwrap().unwrap().value
        );
        let wanted = format!("spiffe://cluster.local/ns/{}/sa/default", world.namespace);
        assert!(
            names.contains(&wanted) && !names.contains("evil"),
            "{names}"
        );
        let bundle = answer.trust_bundle.unwrap().roots;
        assert_eq!(bundle[0], roots[0].to_vec());
    }
    let refused = async |token: &str| certificate(&one, &roots, token).await.unwrap_err();
    let other = token(
        &world,
        Some(("web-1", &uid)),
        "https://kubernetes.default.svc",
    )
    .await;
    let other = refused(&other).await;
    assert_eq!(other.code(), Code::Unauthenticated, "{other}");
    let unbound = refused(&token(&world, None, "remora.io").await).await;
    assert_eq!(unbound.code(), Code::PermissionDenied, "{unbound}");
    let forged = refused(&format!("{good}x")).await;
    assert_eq!(forged.code(), Code::Unauthenticated, "{forged}");
    // With the pod the token goes.
    world.delete("Pod", "web-1").await;
    world.let_go("web-1").await;
    eventually("the pod's token to be refused", async || {
        let answer = certificate(&two, &roots, &good).await;
        let code = answer.err()?.code();
        matches!(code, Code::PermissionDenied | Code::Unauthenticated).then_some(())
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn whom_to_trust_is_in_every_namespace_of_the_mesh_and_former_roots_stay_in_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let meshed = format!("{}-mesh", world.namespace);
    let labels = json!({"metadata": {"labels": {"remora.io/inject": "enabled"}}});
    world.apply("Namespace", &meshed, labels).await;
    let plane = plane(&world, "plane-1").await;
    plane.until_leading().await;
    let first = eventually("remora-trust", async || trusted(&world, &meshed).await).await;
    assert_eq!(
        Some(&first),
        trusted(&world, &world.namespace).await.as_ref()
    );
    let root = certificates(&secret(&world).await["ca.crt"]).unwrap();
    assert_eq!(Record::read(&first).certificates(), root);

    // Somebody takes it away.
    let maps: Api<ConfigMap> = Api::namespaced(world.client.clone(), &meshed);
    maps.delete("remora-trust", &Default::default())
        .await
        .unwrap();
    eventually("remora-trust again", async || {
        trusted(&world, &meshed).await
    })
    .await;

    // A new CA is asked for: the old root stays beside the new one.
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), &world.namespace);
    secrets
        .delete("remora-ca", &Default::default())
        .await
        .unwrap();
    let both = eventually("both roots", async || {
        let text = trusted(&world, &meshed).await?;
        (Record::read(&text).0.len() == 2).then_some(text)
    })
    .await;
    let record = Record::read(&both);
    assert_eq!(record.0[1].certificate, root[0]);
    assert!(record.0[1].until.is_some() && record.0[0].until.is_none());
    let new = certificates(&secret(&world).await["ca.crt"]).unwrap();
    assert_eq!(record.0[0].certificate, new[0]);

    let namespaces = world.api("Namespace");
    namespaces
        .delete(&meshed, &Default::default())
        .await
        .unwrap();
    world.end().await;
}
