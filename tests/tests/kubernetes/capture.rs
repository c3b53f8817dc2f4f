//! What travels between pods, as their node sees it: every packet of its
//! network, the pods' ends of their wires among them.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

/// Every protocol (ETH_P_ALL), in the network's byte order.
const ALL_PROTOCOLS: i32 = 0x0003_u16.to_be() as i32;
/// What the kernel may hold until it is read.
const BUFFER_BYTES: usize = 32 * 1024 * 1024;
/// The largest packet, and some.
const PACKET_BYTES: usize = 128 * 1024;
/// How long one waits for a packet at most.
const PATIENCE: Duration = Duration::from_millis(100);
/// The device that joins the pods of `tests/kube`.
const BRIDGE: &str = "cni0:";

/// What was seen of TCP between certain addresses.
#[derive(Debug, Default)]
pub struct Seen {
    /// Packets with something in them.
    pub packets: u64,
    /// Those that begin with a TLS record.
    pub records: u64,
    /// Hellos of clients among these: handshakes.
    pub hellos: u64,
    /// The plaintext that was found, by what it was known by.
    pub plaintext: BTreeSet<String>,
}

/// A capture that has begun: what comes from now on is kept by the kernel.
pub struct Capture {
    socket: Socket,
    addresses: BTreeSet<IpAddr>,
}

impl Capture {
    /// Between these addresses; none where this process does not see the pods'
    /// network, which it says.
    pub fn begin(addresses: impl IntoIterator<Item = IpAddr>) -> Option<Self> {
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        if !devices.contains(BRIDGE) {
            eprintln!("SKIPPED (nothing was tested): the node's network is not seen from here");
            return None;
        }
        let protocol = Some(Protocol::from(ALL_PROTOCOLS));
        let socket = Socket::new(Domain::PACKET, Type::RAW, protocol).unwrap();
        // As much of it as the kernel allows.
        socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Some(Self {
            socket,
            addresses: addresses.into_iter().collect(),
        })
    }

    /// What was seen until so long from now. `marks`: by which plaintext is known.
    pub fn watch(mut self, duration: Duration, marks: &[&str]) -> Seen {
        let begin = Instant::now();
        let mut seen = Seen::default();
        let mut packet = vec![0; PACKET_BYTES];
        while begin.elapsed() < duration {
            // A timeout: nothing came.
            let Ok(length) = self.socket.read(&mut packet) else {
                continue;
            };
            if let Some((from, to, payload)) = tcp(&packet[..length])
                && self.addresses.contains(&from)
                && self.addresses.contains(&to)
                && !payload.is_empty()
            {
                seen.take(payload, marks);
            }
        }
        seen
    }
}

impl Seen {
    fn take(&mut self, payload: &[u8], marks: &[&str]) {
        self.packets += 1;
        // RFC 8446, section 5.1: type, version; a handshake's first byte is its kind.
        if let [20..=23, 3, 0..=4, _, _, kind, ..] = payload {
            self.records += 1;
            self.hellos += u64::from(payload[0] == 22 && *kind == 1);
        }
        for mark in marks {
            let found = payload
                .windows(mark.len())
                .any(|part| part == mark.as_bytes());
            if found && !self.plaintext.contains(*mark) {
                self.plaintext.insert((*mark).to_owned());
            }
        }
    }
}

/// Source, destination and payload of a TCP packet in an Ethernet frame.
fn tcp(frame: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    const TCP: u8 = 6;
    let packet = frame.get(14..)?;
    let (from, to, segment) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let length = usize::from(packet.first()? & 15) * 4;
            // What is behind it fills up a short frame.
            let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            let end = if total == 0 { packet.len() } else { total };
            (*packet.get(9)? == TCP).then_some(())?;
            let address =
                |at: usize| -> Option<[u8; 4]> { packet.get(at..at + 4)?.try_into().ok() };
            let segment = packet.get(length..end.min(packet.len()))?;
            (address(12)?.into(), address(16)?.into(), segment)
        }
        [0x86, 0xdd] => {
            (*packet.get(6)? == TCP).then_some(())?;
            let address =
                |at: usize| -> Option<[u8; 16]> { packet.get(at..at + 16)?.try_into().ok() };
            (address(8)?.into(), address(24)?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let header = usize::from(segment.get(12)? >> 4) * 4;
    Some((from, to, segment.get(header..)?))
}

/// All addresses of pods.
pub fn addresses<'a>(pods: impl IntoIterator<Item = &'a Value>) -> Vec<IpAddr> {
    let of = |pod: &Value| {
        pod["status"]["podIPs"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let all = pods.into_iter().flat_map(of);
    all.map(|address| address["ip"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn a_packet_is_read_to_its_payload() {
    let mut frame = vec![0; 14];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let mut packet = vec![
        0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    packet.extend([0; 12]);
    packet.extend([0x50, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(packet);
    frame.extend(b"abc---");
    let (from, to, payload) = tcp(&frame).unwrap();
    assert_eq!(
        (from.to_string(), to.to_string()),
        ("10.0.0.1".into(), "10.0.0.2".into())
    );
    assert_eq!(payload, b"abc");
    assert!(tcp(&frame[..40]).is_none() && tcp(&[]).is_none());
}
