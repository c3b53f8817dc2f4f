//! A rule in the kernel's form: expressions made of netlink attributes
//! (`linux/netfilter/nf_tables.h`).
//!
//! A rule is a list of expressions: some load a part of the packet into a
//! register, some compare it and end the rule where it differs, the last acts.

use std::net::IpAddr;

use super::rules::{Chain, Match, Verdict};
use super::values::Cidr;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// `NFT_RETURN`: in a base chain it ends with the policy, which is to accept.
const VERDICT_RETURN: i32 = -5;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
/// `LOOPBACK_IFINDEX`: `lo` is the first interface of every namespace.
const LOOPBACK_INTERFACE: u32 = 1;

const META_MARK: u32 = 3;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

const COMPARE_EQUAL: u32 = 0;
const COMPARE_NOT_EQUAL: u32 = 1;
const PAYLOAD_NETWORK: u32 = 1;
const PAYLOAD_TRANSPORT: u32 = 2;

/// An attribute: its length, its kind, its value, padded to four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// A name, with the zero that ends it.
pub fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// Numbers in attributes are in network order; data in registers is not.
pub fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// An attribute made of attributes.
pub fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    const FLAG_NESTED: u16 = 0x8000;
    attribute(kind | FLAG_NESTED, &parts.concat())
}

fn expression(name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, parts)])
}

fn data(kind: u16, value: &[u8]) -> Vec<u8> {
    nested(kind, &[attribute(1, value)])
}

fn meta(key: u32) -> Vec<u8> {
    expression("meta", &[number(1, REGISTER), number(2, key)])
}

fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    let parts = [
        number(1, REGISTER),
        number(2, base),
        number(3, offset),
        number(4, length),
    ];
    expression("payload", &parts)
}

fn compare(operation: u32, value: &[u8]) -> Vec<u8> {
    let parts = [number(1, REGISTER), number(2, operation), data(3, value)];
    expression("cmp", &parts)
}

/// The expressions that end the rule where the packet does not match.
pub fn question(matches: &Match, chain: Chain) -> Vec<Vec<u8>> {
    let equals = |key, value: u32| vec![meta(key), compare(COMPARE_EQUAL, &value.to_ne_bytes())];
    match (matches, chain) {
        (Match::Any, _) => Vec::new(),
        (Match::NotTcp, _) => vec![
            meta(META_L4PROTO),
            compare(COMPARE_NOT_EQUAL, &[IPPROTO_TCP]),
        ],
        (Match::Loopback, Chain::Output) => equals(META_OIF, LOOPBACK_INTERFACE),
        (Match::Loopback, Chain::Prerouting) => equals(META_IIF, LOOPBACK_INTERFACE),
        (Match::Uid(uid), _) => equals(META_SKUID, *uid),
        (Match::Mark(mark), _) => equals(META_MARK, *mark),
        (Match::Destination(cidr), _) => destination(*cidr),
        (Match::Port(range), _) => {
            let (first, last) = (range.first().to_be_bytes(), range.last().to_be_bytes());
            let within = [
                number(1, REGISTER),
                number(2, COMPARE_EQUAL),
                data(3, &first),
                data(4, &last),
            ];
            vec![
                payload(PAYLOAD_TRANSPORT, 2, 2),
                if first == last {
                    compare(COMPARE_EQUAL, &first)
                } else {
                    expression("range", &within)
                },
            ]
        }
    }
}

fn destination(cidr: Cidr) -> Vec<Vec<u8>> {
    let (family, offset, address) = match cidr.address() {
        IpAddr::V4(v4) => (NFPROTO_IPV4, 16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (NFPROTO_IPV6, 24, v6.octets().to_vec()),
    };
    let length = address.len() as u32;
    let mask = [
        number(1, REGISTER),
        number(2, REGISTER),
        number(3, length),
        data(4, &cidr.mask()),
        data(5, &vec![0; address.len()]),
    ];
    vec![
        meta(META_NFPROTO),
        compare(COMPARE_EQUAL, &[family]),
        payload(PAYLOAD_NETWORK, offset, length),
        expression("bitwise", &mask),
        compare(COMPARE_EQUAL, &address),
    ]
}

/// The expressions that act.
pub fn answer(verdict: Verdict) -> Vec<Vec<u8>> {
    match verdict {
        Verdict::Return => {
            let code = nested(2, &[number(1, VERDICT_RETURN.cast_unsigned())]);
            let parts = [number(1, REGISTER_VERDICT), nested(2, &[code])];
            vec![expression("immediate", &parts)]
        }
        Verdict::Redirect(port) => vec![
            expression(
                "immediate",
                &[number(1, REGISTER), data(2, &port.to_be_bytes())],
            ),
            expression("redir", &[number(1, REGISTER)]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_count_only_their_value() {
        assert_eq!(text(1, "remora"), b"\x0b\0\x01\0remora\0\0");
        assert_eq!(number(2, 1), b"\x08\0\x02\0\0\0\0\x01");
        let inner = nested(4, &[number(1, 3)]);
        assert_eq!(inner[..4], [12, 0, 4, 0x80]);
    }
}
