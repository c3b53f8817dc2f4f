//! A pcap file of the playground, read: what TCP carries between pods.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Bytes of the file's and of a record's header.
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
/// Bytes of an Ethernet header, and the types that are read.
const ETHERNET: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;

/// What was carried one way of one connection, in order of sight.
pub type Flows = BTreeMap<(SocketAddr, SocketAddr), Vec<Vec<u8>>>;

/// All that TCP carried between pods.
pub fn between_pods(path: &Path) -> Flows {
    let file = std::fs::read(path).unwrap();
    assert_eq!(word(&file, 0), 0xa1b2_c3d4, "no pcap file");
    let mut flows = Flows::new();
    let mut at = FILE_HEADER;
    while at < file.len() {
        let length = word(&file, at + 8) as usize;
        let frame = &file[at + RECORD_HEADER..at + RECORD_HEADER + length];
        at += RECORD_HEADER + length;
        if let Some((from, to, payload)) = tcp(frame)
            && is_pod(from.ip())
            && is_pod(to.ip())
            && !payload.is_empty()
        {
            let flow = flows.entry((from, to)).or_default();
            flow.push(payload.to_vec());
        }
    }
    flows
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// Of the pods' networks, and not the gateway.
fn is_pod(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [10, 77, 1],
        IpAddr::V6(address) => {
            address.segments()[..3] == [0xfd52, 0x4d52, 0x4177] && address.segments()[6] == 1
        }
    }
}

/// Both ends and the payload, where it is TCP.
fn tcp(frame: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    if frame.len() < ETHERNET {
        return None;
    }
    let packet = &frame[ETHERNET..];
    let (from, to, segment): (IpAddr, IpAddr, &[u8]) = match short(frame, 12) {
        IPV4 if packet[9] == TCP => {
            let address = |at: usize| {
                let octets: [u8; 4] = packet[at..at + 4].try_into().unwrap();
                Ipv4Addr::from(octets).into()
            };
            let (header, total) = (usize::from(packet[0] & 15) * 4, short(packet, 2).into());
            (address(12), address(16), &packet[header..total])
        }
        IPV6 if packet[6] == TCP => {
            let address = |at: usize| {
                let octets: [u8; 16] = packet[at..at + 16].try_into().unwrap();
                Ipv6Addr::from(octets).into()
            };
            let length = usize::from(short(packet, 4));
            (address(8), address(24), &packet[40..40 + length])
        }
        _ => return None,
    };
    let header = usize::from(segment[12] >> 4) * 4;
    let ends = (
        SocketAddr::new(from, short(segment, 0)),
        SocketAddr::new(to, short(segment, 2)),
    );
    Some((ends.0, ends.1, &segment[header..]))
}
