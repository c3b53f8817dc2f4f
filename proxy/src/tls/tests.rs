//! Handshakes on real sockets: what is taken, what is refused and by which word.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};
use remora_proto::spiffe::SpiffeId;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::handshake::{self, Accepted};
use super::testing::{Ca, TRUST_DOMAIN, Wanted, trust, uri};
use super::{Alpn, ClientConfigs, HandshakeError, HandshakeResult, Mutual, Own, TlsStream, Trust};

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let (client, server) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (client.unwrap(), server.unwrap().0)
}

type Ends = (
    Result<TlsStream, HandshakeError>,
    Result<Accepted, HandshakeError>,
);

async fn shake(client: Arc<ClientConfig>, server: &Mutual) -> Ends {
    let (one, other) = sockets().await;
    tokio::join!(
        handshake::connect(client, one, HERE),
        handshake::accept(server, other, &[])
    )
}

fn id(account: &str) -> SpiffeId {
    uri(account).parse().unwrap()
}

fn client_of(mutual: &Arc<Mutual>, expected: &str, alpn: Alpn) -> Arc<ClientConfig> {
    let configs = ClientConfigs::default();
    configs.of(mutual, &id(expected), alpn).unwrap()
}

/// What both sides say of a handshake between two certificates.
async fn results(client: &Arc<Mutual>, server: &Mutual) -> (HandshakeResult, HandshakeResult) {
    let ends = shake(client_of(client, "server", Alpn::H2), server).await;
    let word = |error: HandshakeError| error.result;
    (
        ends.0.map_or_else(word, |_| HandshakeResult::Ok),
        ends.1.map_or_else(word, |_| HandshakeResult::Ok),
    )
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = Ca::new("root");
    let (client, server) = (ca.mutual("client"), ca.mutual("server"));
    for alpn in Alpn::ALL {
        let (one, other) = shake(client_of(&client, "server", alpn), &server).await;
        let (mut one, mut other) = (one.unwrap(), other.unwrap());
        assert_eq!((other.alpn, &other.peer.id), (alpn, &id("client")));
        assert_eq!(other.peer.header, uri("client").as_str());
        one.write_all(b"ping").await.unwrap();
        one.shutdown().await.unwrap();
        let mut heard = Vec::new();
        other.stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"ping");
        // A half-close is half of one: the other direction goes on.
        other.stream.write_all(&vec![7; 1_000_000]).await.unwrap();
        other.stream.shutdown().await.unwrap();
        let mut heard = Vec::new();
        one.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), 1_000_000);
    }
}

#[tokio::test]
async fn what_the_server_read_before_is_part_of_the_handshake() {
    let ca = Ca::new("root");
    let (client, server) = (ca.mutual("client"), ca.mutual("server"));
    let (one, mut other) = sockets().await;
    let config = client_of(&client, "server", Alpn::Tcp);
    let accepting = async {
        let mut seen = vec![0; 100];
        other.read_exact(&mut seen).await.unwrap();
        handshake::accept(&server, other, &seen).await
    };
    let (one, other) = tokio::join!(handshake::connect(config, one, HERE), accepting);
    assert!(one.is_ok());
    assert_eq!(other.unwrap().alpn, Alpn::Tcp);
}

/// A good certificate of the server, changed in one way.
fn changed(change: impl FnOnce(&mut Wanted)) -> Wanted {
    let mut wanted = Wanted::of(&uri("server"));
    change(&mut wanted);
    wanted
}

fn of_uris(uris: &[&str]) -> Wanted {
    changed(|wanted| wanted.uris = uris.iter().map(|uri| (*uri).to_owned()).collect())
}

fn of_usages(usages: &[KeyUsagePurpose]) -> Wanted {
    changed(|wanted| wanted.usages = usages.to_vec())
}

/// Certificates with one thing wrong, each with the word for it.
fn wrong() -> Vec<(&'static str, Wanted, HandshakeResult)> {
    use HandshakeResult::{BadName, Expired, NotALeaf, NotYetValid, WrongTrustDomain, WrongUsage};
    let nul = "spiffe://cluster.local/ns/shop/sa/server\0.evil";
    let abroad = "spiffe://other.example/ns/shop/sa/server";
    let ended = changed(|wanted| (wanted.not_before, wanted.not_after) = (-100, -10));
    let ca = changed(|wanted| wanted.is_ca = true);
    let signs = [
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    let code = changed(|wanted| wanted.purposes = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    vec![
        ("NUL", of_uris(&[nul]), BadName),
        ("no name", of_uris(&[]), BadName),
        ("two names", of_uris(&[&uri("server"), &uri("b")]), BadName),
        (
            "two kinds",
            of_uris(&[&uri("server"), "https://b"]),
            BadName,
        ),
        ("no id", of_uris(&["https://server"]), BadName),
        ("other domain", of_uris(&[abroad]), WrongTrustDomain),
        ("expired", ended, Expired),
        (
            "not yet",
            changed(|wanted| wanted.not_before = 100),
            NotYetValid,
        ),
        ("CA", ca, NotALeaf),
        ("signs certificates", of_usages(&signs), WrongUsage),
        (
            "does not sign",
            of_usages(&[KeyUsagePurpose::KeyEncipherment]),
            WrongUsage,
        ),
        ("other purpose", code, WrongUsage),
    ]
}

/// As a sidecar that was given this would be, if it did not look itself.
fn unchecked(ca: &Ca, wanted: &Wanted) -> Arc<Mutual> {
    let (chain, key) = ca.issue(wanted);
    let own = Own::unchecked(chain, key, id("server"));
    Mutual::new(Arc::new(own), ca.trust()).unwrap()
}

#[tokio::test]
async fn whatever_is_wrong_with_a_servers_certificate_is_named() {
    let ca = Ca::new("root");
    let client = ca.mutual("client");
    for (what, wanted, result) in wrong() {
        let server = unchecked(&ca, &wanted);
        let (of_client, of_server) = results(&client, &server).await;
        assert_eq!(of_client, result, "{what}");
        assert_ne!(of_server, HandshakeResult::Ok, "{what}");
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_callers_certificate_is_named_and_no_connection_comes_about() {
    let ca = Ca::new("root");
    let server = ca.mutual("server");
    for (what, wanted, result) in wrong() {
        let client = unchecked(&ca, &wanted);
        let (of_client, of_server) = results(&client, &server).await;
        assert_eq!(of_server, result, "{what}");
        assert_ne!(of_client, HandshakeResult::Ok, "{what}");
    }
}

#[tokio::test]
async fn a_chain_through_an_intermediate_is_taken_when_that_may_issue() {
    use HandshakeResult::{Expired, Ok as Good, Other, WrongUsage};
    use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, NameConstraints};
    type Change<'a> = &'a dyn Fn(&mut CertificateParams);
    let ca = Ca::new("root");
    let server = ca.mutual("server");
    let long_ago = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    };
    let cases: [(&str, Change<'_>, HandshakeResult); 6] = [
        ("good", &|_| (), Good),
        ("no CA", &|params| params.is_ca = IsCa::ExplicitNoCa, Other),
        ("expired", &long_ago, Expired),
        (
            "does not sign certificates",
            &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            WrongUsage,
        ),
        (
            "other names alone",
            &|params| {
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::Rfc822Name("a@b".into())],
                    excluded_subtrees: Vec::new(),
                });
            },
            Good,
        ),
        (
            "no path below",
            &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            Good,
        ),
    ];
    for (what, change, result) in cases {
        let (chain, key) = ca.below("client", change);
        let own = Own::unchecked(chain, key, id("client"));
        let client = Mutual::new(Arc::new(own), ca.trust()).unwrap();
        let (_, of_server) = results(&client, &server).await;
        assert_eq!(of_server, result, "{what}");
    }
}

#[tokio::test]
async fn another_root_is_an_unknown_issuer_until_the_bundle_has_both() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let client = old.mutual("client");
    let server = new.mutual("server");
    let (of_client, _) = results(&client, &server).await;
    assert_eq!(of_client, HandshakeResult::UnknownIssuer);
    // A root of the same name with another key is not the same root.
    let (of_client, _) = results(&client, &Ca::new("old").mutual("server")).await;
    assert_eq!(of_client, HandshakeResult::UnknownIssuer);
    let both = trust(&[&old, &new]);
    let rotating = |mutual: &Mutual| Mutual::new(Arc::clone(&mutual.own), both.clone()).unwrap();
    let ok = (HandshakeResult::Ok, HandshakeResult::Ok);
    assert_eq!(results(&rotating(&client), &rotating(&server)).await, ok);
}

#[tokio::test]
async fn a_good_certificate_of_somebody_else_is_a_wrong_identity() {
    let ca = Ca::new("root");
    let (client, impostor) = (ca.mutual("client"), ca.mutual("impostor"));
    let (of_client, of_server) = results(&client, &impostor).await;
    assert_eq!(of_client, HandshakeResult::WrongIdentity);
    assert_ne!(of_server, HandshakeResult::Ok);
}

fn bare(ca: &Ca, protocols: &[&str]) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.root()).unwrap();
    let verifier = super::verify::Verifier::new(ca.trust(), None, &super::config::provider());
    let mut config = ClientConfig::builder_with_provider(super::config::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
    config
}

#[tokio::test]
async fn without_a_certificate_or_a_protocol_of_ours_nobody_comes_in() {
    let ca = Ca::new("root");
    let server = ca.mutual("server");
    for (protocols, result) in [
        (&["remora-h2"][..], HandshakeResult::NoCertificate),
        (&["h2"], HandshakeResult::NoAlpn),
    ] {
        let (one, other) = shake(Arc::new(bare(&ca, protocols)), &server).await;
        assert_eq!(other.unwrap_err().result, result);
        assert_eq!(one.unwrap_err().result, result);
    }
    let (_, other) = shake(Arc::new(bare(&ca, &[])), &server).await;
    assert_ne!(
        other.map_or_else(|error| error.result, |_| HandshakeResult::Ok),
        HandshakeResult::Ok
    );
}

/// A caller with a good certificate, that offers other cryptography.
fn offering(
    ca: &Ca,
    versions: &[&'static rustls::SupportedProtocolVersion],
    provider: rustls::crypto::CryptoProvider,
) -> Arc<ClientConfig> {
    let (chain, key) = ca.issue(&Wanted::of(&uri("client")));
    let verifier = super::verify::Verifier::new(ca.trust(), None, &super::config::provider());
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"remora-h2".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn nothing_older_or_weaker_is_agreed_on() {
    use rustls::crypto::aws_lc_rs::{self, kx_group};
    let ca = Ca::new("root");
    let server = ca.mutual("server");
    let all = aws_lc_rs::default_provider;
    let groups = |kx_groups| rustls::crypto::CryptoProvider { kx_groups, ..all() };
    let refused = [
        offering(&ca, &[&rustls::version::TLS12], all()),
        offering(
            &ca,
            &[&rustls::version::TLS13],
            groups(vec![kx_group::SECP384R1]),
        ),
    ];
    for config in refused {
        let (one, other) = shake(config, &server).await;
        assert_eq!(one.err().unwrap().result, HandshakeResult::Other);
        assert_eq!(other.err().unwrap().result, HandshakeResult::Other);
    }
    for (offered, taken) in [
        (kx_group::X25519MLKEM768, rustls::NamedGroup::X25519MLKEM768),
        (kx_group::X25519, rustls::NamedGroup::X25519),
        (kx_group::SECP256R1, rustls::NamedGroup::secp256r1),
    ] {
        let only = offering(&ca, &[&rustls::version::TLS13], groups(vec![offered]));
        let (one, _) = shake(only, &server).await;
        assert_eq!(one.unwrap().key_exchange_group(), Some(taken));
    }
    let ours = client_of(&ca.mutual("client"), "server", Alpn::H2);
    let (one, _) = shake(ours, &server).await;
    let group = one.unwrap().key_exchange_group();
    assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
}

#[tokio::test]
async fn a_peer_that_goes_away_has_closed() {
    let ca = Ca::new("root");
    let (client, server) = (ca.mutual("client"), ca.mutual("server"));
    let (one, other) = sockets().await;
    drop(other);
    let gone = handshake::connect(client_of(&client, "server", Alpn::H2), one, HERE).await;
    assert_eq!(gone.unwrap_err().result, HandshakeResult::Closed);
    let (one, other) = sockets().await;
    drop(one);
    let gone = handshake::accept(&server, other, b"\x16\x03\x01").await;
    assert_eq!(gone.unwrap_err().result, HandshakeResult::Closed);
}

#[tokio::test]
async fn a_session_is_resumed_only_with_the_same_certificates_and_roots() {
    use rustls::HandshakeKind::{Full, Resumed};
    let ca = Ca::new("root");
    let (client, server) = (ca.mutual("client"), ca.mutual("server"));
    let configs = ClientConfigs::default();
    let kind = async |client: &Arc<Mutual>, server: &Mutual| {
        let config = configs.of(client, &id("server"), Alpn::H2).unwrap();
        let (one, other) = shake(config, server).await;
        assert_eq!(other.unwrap().peer.id, id("client"));
        one.unwrap().handshake_kind().unwrap()
    };
    assert_eq!(kind(&client, &server).await, Full);
    assert_eq!(kind(&client, &server).await, Resumed);
    assert_eq!(kind(&client, &server).await, Resumed);
    let renewed = ca.mutual("server");
    assert_eq!(kind(&client, &renewed).await, Full);
    assert_eq!(kind(&client, &renewed).await, Resumed);
    let other = ca.mutual("client");
    assert_eq!(kind(&other, &renewed).await, Full);
    let both = trust(&[&ca, &Ca::new("new")]);
    let rotated = Mutual::new(Arc::clone(&other.own), both).unwrap();
    assert_eq!(kind(&rotated, &renewed).await, Full);
}

#[tokio::test]
async fn a_session_does_not_outlive_a_certificate() {
    let ca = Ca::new("root");
    let short = |account: &str| {
        let (chain, key) = ca.issue(&Wanted {
            not_after: 2,
            ..Wanted::of(&uri(account))
        });
        Mutual::new(Arc::new(Own::new(chain, key).unwrap()), ca.trust()).unwrap()
    };
    let long = |account: &str| ca.mutual(account);
    for of_client in [true, false] {
        let (client, server) = match of_client {
            true => (short("client"), long("server")),
            false => (long("client"), short("server")),
        };
        let configs = ClientConfigs::default();
        let once = async || {
            let config = configs.of(&client, &id("server"), Alpn::H2).unwrap();
            shake(config, &server).await
        };
        assert!(once().await.1.is_ok());
        tokio::time::sleep(std::time::Duration::from_millis(3_100)).await;
        let (one, other) = once().await;
        let expired = [one.err(), other.err()]
            .into_iter()
            .flatten()
            .any(|error| error.result == HandshakeResult::Expired);
        assert!(expired);
    }
}

#[tokio::test]
async fn an_end_that_was_not_declared_is_an_error() {
    let ca = Ca::new("root");
    let (client, server) = (ca.mutual("client"), ca.mutual("server"));
    let (one, other) = shake(client_of(&client, "server", Alpn::Tcp), &server).await;
    let (one, mut other) = (one.unwrap(), other.unwrap().stream);
    one.break_off();
    drop(one);
    let error = other.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_the_socket_does_not_take_is_written_later_and_in_order() {
    let ca = Ca::new("root");
    let (client, server) = (ca.mutual("client"), ca.mutual("server"));
    let (one, other) = shake(client_of(&client, "server", Alpn::Tcp), &server).await;
    let (mut one, mut other) = (one.unwrap(), other.unwrap().stream);
    let sent: Vec<u8> = (0..20_000_000_u32).map(|at| (at / 7) as u8).collect();
    let writing = async {
        one.write_all(&sent).await.unwrap();
        one.shutdown().await.unwrap();
    };
    let reading = async {
        let mut heard = Vec::new();
        let mut piece = vec![0; 3_001];
        loop {
            match other.read(&mut piece).await.unwrap() {
                0 => return heard,
                read => heard.extend_from_slice(&piece[..read]),
            }
        }
    };
    let ((), heard) = tokio::join!(writing, reading);
    assert!(heard == sent);
}

#[test]
fn of_two_roots_of_one_name_the_one_that_issued_is_known() {
    let (old, new) = (Ca::new("root"), Ca::new("root"));
    let trust = |roots| Trust::new(TRUST_DOMAIN, roots).unwrap();
    let both = trust(vec![old.root(), new.root()]);
    let mut wanted = Wanted::of(&uri("web"));
    let (chain, _) = new.issue(&wanted);
    let found = both.root_of(&chain).unwrap();
    assert_eq!(both.roots()[found], new.root());
    assert_eq!(trust(vec![old.root()]).root_of(&chain), None);
    // It is known of one that has ended, too.
    (wanted.not_before, wanted.not_after) = (-120, -60);
    let (ended, _) = new.issue(&wanted);
    assert_eq!(both.root_of(&ended), Some(found));
    assert_eq!(both.root_of(&[]), None);
}
