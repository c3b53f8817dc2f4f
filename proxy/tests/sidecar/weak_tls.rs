//! What an inbound port agrees to: a client that offers the mesh's ALPN, and
//! walks versions, cipher suites, groups and signatures, hello by hello (RFC
//! 8446, section 4.1.2; the numbers are IANA's). Its hellos carry no key, so
//! that the port says what it would take (HelloRetryRequest), or an alert.

use std::net::SocketAddr;
use std::time::Duration;

use remora_proto::v1::{MtlsMode, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::mesh::PORT;
use crate::secured::Pair;
use crate::soon;
use crate::upstream::App;

const TLS13: u16 = 0x0304;
/// SSL 3.0 to TLS 1.2.
const OLDER: [u16; 4] = [0x0300, 0x0301, 0x0302, 0x0303];
/// AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305, and two with CCM.
const SUITES: [u16; 5] = [0x1301, 0x1302, 0x1303, 0x1304, 0x1305];
const TAKEN_SUITES: [u16; 3] = [0x1301, 0x1302, 0x1303];
/// secp256r1, X25519, X25519MLKEM768.
const TAKEN_GROUPS: [u16; 3] = [23, 29, 4588];
const X25519: u16 = 29;
/// ECDSA with P-256 and SHA-256.
const ECDSA: u16 = 0x0403;
/// RSA and ECDSA with SHA-1, RSA with MD5, DSA with SHA-1.
const WEAK_SIGNATURES: [u16; 4] = [0x0201, 0x0203, 0x0101, 0x0202];

/// How long a port may take to refuse; less than it waits for a client.
const SIGNED_WITHIN: Duration = Duration::from_secs(3);

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const SERVER_HELLO: u8 = 2;
/// What the random of a ServerHello is when it is a HelloRetryRequest.
const RETRY: [u8; 4] = [0xcf, 0x21, 0xad, 0x74];

/// A hello, as far as it is varied.
struct Hello {
    legacy_version: u16,
    versions: Vec<u16>,
    suites: Vec<u16>,
    groups: Vec<u16>,
    signatures: Vec<u16>,
    /// A public key for X25519.
    has_key: bool,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            legacy_version: 0x0303,
            versions: vec![TLS13],
            suites: vec![0x1301],
            groups: vec![X25519],
            signatures: vec![ECDSA],
            has_key: false,
        }
    }
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}

/// With its length before it, in so many bytes.
fn sized(width: usize, bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u32).to_be_bytes();
    [&length[4 - width..], bytes].concat()
}

impl Hello {
    fn bytes(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut extension = |kind: u16, content: &[u8]| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(sized(2, content));
        };
        extension(10, &sized(2, &numbers(&self.groups)));
        extension(13, &sized(2, &numbers(&self.signatures)));
        extension(16, &sized(2, &sized(1, b"remora-h2")));
        if !self.versions.is_empty() {
            extension(43, &sized(1, &numbers(&self.versions)));
            let key = [X25519.to_be_bytes().to_vec(), sized(2, &[9; 32])].concat();
            let keys: &[u8] = if self.has_key { &key } else { &[] };
            extension(51, &sized(2, keys));
        }
        let body = [
            numbers(&[self.legacy_version]),
            vec![7; 32],
            sized(1, &[]),
            sized(2, &numbers(&self.suites)),
            sized(1, &[0]),
            sized(2, &extensions),
        ]
        .concat();
        let message = [vec![1], sized(3, &body)].concat();
        [vec![HANDSHAKE, 3, 1], sized(2, &message)].concat()
    }
}

/// What came of a hello.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It would go on, with this suite.
    Takes(u16),
    /// An alert, or nothing and the end.
    Refuses,
}

async fn say(address: SocketAddr, hello: &Hello) -> Said {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&hello.bytes()).await.unwrap();
    let mut record = Vec::new();
    // Whatever is sent is one small record at first.
    let reading = async {
        let mut buffer = [0; 4096];
        while record.len() < 5 || record.len() < 5 + usize::from(record[4]) {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => record.extend_from_slice(&buffer[..read]),
                Ok(0) | Err(_) => return,
            }
        }
    };
    soon("an answer", reading).await;
    match record.first() {
        None | Some(&ALERT) => Said::Refuses,
        Some(&HANDSHAKE) => {
            assert_eq!(record[5], SERVER_HELLO, "{record:?}");
            if !hello.has_key {
                assert_eq!(record[11..15], RETRY, "agreed without a key: {record:?}");
            }
            let after_session = 44 + usize::from(record[43]);
            Said::Takes(u16::from_be_bytes([
                record[after_session],
                record[after_session + 1],
            ]))
        }
        Some(_) => panic!("no TLS: {record:?}"),
    }
}

#[tokio::test]
async fn nothing_old_or_weak_is_agreed_on_at_an_inbound_port() {
    let pair = Pair::start().await;
    let app = App::ok(pair.application()).await;
    let port = pair.target.inbound(PORT);
    for mode in [MtlsMode::Strict, MtlsMode::Permissive] {
        pair.mode(mode, Protocol::Detect).await;
        // Every suite that came before TLS 1.3, at once.
        let old: Vec<u16> = (0..0x0100)
            .chain(0xc000..0xc100)
            .chain(0xcca8..0xccaf)
            .collect();
        for version in OLDER {
            for versions in [vec![], vec![version], OLDER.to_vec()] {
                let hello = Hello {
                    legacy_version: version,
                    versions: versions.clone(),
                    suites: [&old[..], &SUITES].concat(),
                    ..Hello::default()
                };
                let said = say(port, &hello).await;
                assert_eq!(said, Said::Refuses, "{version:#x} {versions:x?}");
            }
        }
        for suite in SUITES {
            let hello = Hello {
                suites: vec![suite],
                groups: vec![TAKEN_GROUPS[0]],
                ..Hello::default()
            };
            let wanted = if TAKEN_SUITES.contains(&suite) {
                Said::Takes(suite)
            } else {
                Said::Refuses
            };
            assert_eq!(say(port, &hello).await, wanted, "{suite:#x}");
        }
        let old_only = Hello {
            suites: old,
            ..Hello::default()
        };
        assert_eq!(say(port, &old_only).await, Said::Refuses);
    }
    assert_eq!(app.count(), 0, "a hello was relayed");
}

#[tokio::test]
async fn no_group_or_signature_is_agreed_on_but_those_that_are_meant() {
    let pair = Pair::start().await;
    let _app = App::ok(pair.application()).await;
    pair.mode(MtlsMode::Strict, Protocol::Detect).await;
    let port = pair.target.inbound(PORT);
    // Curves, finite fields, ML-KEM and its hybrids; and two of nobody's.
    let groups = (1..46).chain(256..261).chain(512..515).chain(4587..4590);
    for group in groups.chain([0x0a0a, 0xfe00]) {
        let hello = Hello {
            groups: vec![group],
            ..Hello::default()
        };
        // Of X25519 a hello without its key is answered by a retry too.
        let wanted = if TAKEN_GROUPS.contains(&group) {
            Said::Takes(0x1301)
        } else {
            Said::Refuses
        };
        assert_eq!(say(port, &hello).await, wanted, "group {group}");
    }
    let signing = |signatures: &[u16]| Hello {
        signatures: signatures.to_vec(),
        has_key: true,
        ..Hello::default()
    };
    assert!(waits(port, &signing(&[ECDSA])).await);
    for weak in WEAK_SIGNATURES {
        assert!(!waits(port, &signing(&[weak])).await, "{weak:#x}");
    }
    assert!(!waits(port, &signing(&WEAK_SIGNATURES)).await);
}

/// Whether the port has signed, and waits for the client's part. Which signature
/// it may give it asks itself after its hello only, so that what is refused shows
/// by the end of the connection, behind an alert that is encrypted already.
async fn waits(address: SocketAddr, hello: &Hello) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&hello.bytes()).await.unwrap();
    let mut buffer = [0; 4096];
    let until_end = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
    tokio::time::timeout(SIGNED_WITHIN, until_end)
        .await
        .is_err()
}
