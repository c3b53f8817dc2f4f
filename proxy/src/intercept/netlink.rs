//! The rules on their way into the kernel: one nf_tables batch.
//!
//! Owns the messages (`linux/netfilter/nfnetlink.h`) and the socket; what is in
//! a rule is the business of [`super::encoding`]. A batch is a transaction: the
//! kernel takes all of it or none, so there is never half a set-up, neither
//! after an error nor between an old set of rules and the new one.

use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with,
};

use super::encoding::{answer, nested, number, question, text};
use super::rules::{Chain, Rule};

/// The table that holds everything of ours; removing it removes all.
pub const TABLE: &str = "remora";

/// How long the kernel may take to answer. It answers while it takes the
/// message in; more than a moment means that the answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// An error carries the message that it answers, so it can be long.
const ANSWER_BYTES: usize = 64 * 1024;

/// What went wrong, at which step.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself could not be had or used.
    #[error("{step} failed: {errno}; {hint}")]
    Socket {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
        /// What to check.
        hint: &'static str,
    },
    /// The kernel refused the batch; nothing of it is in force.
    #[error("the kernel refused to {step}: {errno}; nothing was changed; {hint}")]
    Refused {
        /// The message that was refused.
        step: String,
        /// What the kernel said.
        errno: Errno,
        /// What to check.
        hint: &'static str,
    },
    /// The kernel's answer could not be read.
    #[error("the kernel's answer to the nf_tables batch is not understood ({0} bytes)")]
    Answer(usize),
}

/// Puts exactly these rules in force, in place of any that were there.
pub fn replace(rules: &[Rule]) -> Result<(), NetlinkError> {
    let mut batch = Batch::clear();
    batch.table(NEW_TABLE, "add the table");
    for chain in [Chain::Output, Chain::Prerouting] {
        batch.chain(chain);
        for rule in rules.iter().filter(|rule| rule.chain == chain) {
            batch.rule(rule);
        }
    }
    batch.commit()
}

/// Takes every rule of ours away; none there is fine too.
pub fn remove() -> Result<(), NetlinkError> {
    Batch::clear().commit()
}

const NLMSG_ERROR: u16 = 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM_NF_TABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_CREATE: u16 = 0x400;
const FLAG_APPEND: u16 = 0x800;

const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;
const NF_INET_PRE_ROUTING: u32 = 0;
const NF_INET_LOCAL_OUT: u32 = 3;
/// `NF_IP_PRI_NAT_DST`, "dstnat" to nft.
const PRIORITY_DESTINATION_NAT: i32 = -100;
/// A batch under construction; a message's sequence number is its place.
struct Batch {
    bytes: Vec<u8>,
    steps: Vec<String>,
    /// Where the last message that is not the end of the batch begins.
    last: usize,
}

impl Batch {
    /// A batch that begins by taking away what is there. Adding first makes
    /// the removal succeed where nothing is there.
    fn clear() -> Self {
        let mut batch = Batch {
            bytes: Vec::with_capacity(4096),
            steps: Vec::new(),
            last: 0,
        };
        batch.marker(BATCH_BEGIN, "begin the nf_tables batch");
        batch.table(NEW_TABLE, "add the table");
        batch.table(DELETE_TABLE, "delete the table");
        batch
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
        step: String,
        attributes: &[u8],
    ) {
        self.last = self.bytes.len();
        let length = 20 + attributes.len() as u32;
        let sequence = self.steps.len() as u32;
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((FLAG_REQUEST | flags).to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes()); // to the kernel
        self.bytes.extend([family, 0]); // struct nfgenmsg
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
        self.steps.push(step);
    }

    fn marker(&mut self, kind: u16, step: &str) {
        let target = (FAMILY_UNSPECIFIED, SUBSYSTEM_NF_TABLES);
        self.message(kind, 0, target, step.to_owned(), &[]);
    }

    fn request(&mut self, kind: u16, flags: u16, step: String, attributes: &[u8]) {
        let kind = (SUBSYSTEM_NF_TABLES << 8) | kind;
        self.message(kind, flags, (FAMILY_INET, 0), step, attributes);
    }

    fn table(&mut self, kind: u16, step: &str) {
        let flags = if kind == NEW_TABLE { FLAG_CREATE } else { 0 };
        self.request(kind, flags, format!("{step} `{TABLE}`"), &text(1, TABLE));
    }

    fn chain(&mut self, chain: Chain) {
        let hook = match chain {
            Chain::Output => NF_INET_LOCAL_OUT,
            Chain::Prerouting => NF_INET_PRE_ROUTING,
        };
        let attributes = [
            text(1, TABLE),
            text(3, chain.name()),
            nested(
                4,
                &[
                    number(1, hook),
                    number(2, PRIORITY_DESTINATION_NAT.cast_unsigned()),
                ],
            ),
            text(7, "nat"),
        ]
        .concat();
        let step = format!("add the nat chain `{}`", chain.name());
        self.request(NEW_CHAIN, FLAG_CREATE, step, &attributes);
    }

    fn rule(&mut self, rule: &Rule) {
        let mut expressions = question(&rule.matches, rule.chain);
        expressions.extend(answer(rule.verdict));
        let attributes = [
            text(1, TABLE),
            text(2, rule.chain.name()),
            nested(4, &expressions),
        ]
        .concat();
        let step = format!("add the rule `{rule}`");
        self.request(NEW_RULE, FLAG_CREATE | FLAG_APPEND, step, &attributes);
    }

    /// Sends the batch and waits for the verdict on it.
    fn commit(mut self) -> Result<(), NetlinkError> {
        // Errors are always answered; success only where it is asked for. One
        // answer for the last message is enough, and cannot overflow the
        // socket's buffer.
        if let Some([low, high]) = self.bytes.get_mut(self.last + 6..self.last + 8) {
            let flags = u16::from_ne_bytes([*low, *high]) | FLAG_ACK;
            [*low, *high] = flags.to_ne_bytes();
        }
        let last_sequence = self.steps.len() as u32 - 1;
        self.marker(BATCH_END, "end the nf_tables batch");

        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::NETFILTER),
        )
        .map_err(socket_error("opening the netfilter netlink socket"))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(socket_error("bounding the wait for the kernel's answer"))?;
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        retry_on_intr(|| sendto(&socket, &self.bytes, SendFlags::empty(), &kernel))
            .map_err(socket_error("sending the nf_tables batch"))?;

        let mut buffer = vec![0; ANSWER_BYTES];
        loop {
            let (_, length) =
                retry_on_intr(|| recv(&socket, buffer.as_mut_slice(), RecvFlags::empty()))
                    .map_err(socket_error("reading the kernel's answer"))?;
            let answers = buffer
                .get(..length)
                .ok_or(NetlinkError::Answer(length))
                .and_then(parse_answers)?;
            for (sequence, code) in answers {
                if code != 0 {
                    return Err(self.refused(sequence, code));
                }
                if sequence == last_sequence {
                    return Ok(());
                }
            }
        }
    }

    fn refused(&self, sequence: u32, code: i32) -> NetlinkError {
        let errno = Errno::from_raw_os_error(code.saturating_neg());
        let step = self.steps.get(sequence as usize).map_or_else(
            || format!("take message {sequence} of the nf_tables batch"),
            Clone::clone,
        );
        NetlinkError::Refused {
            step,
            errno,
            hint: refusal_hint(errno),
        }
    }
}

/// The sequence and the code (0 or a negative errno) of each answer in a
/// datagram.
fn parse_answers(mut datagram: &[u8]) -> Result<Vec<(u32, i32)>, NetlinkError> {
    let mut answers = Vec::new();
    while !datagram.is_empty() {
        let wrong = || NetlinkError::Answer(datagram.len());
        let word = |at: usize| -> Result<[u8; 4], NetlinkError> {
            let bytes = datagram.get(at..at + 4).ok_or_else(wrong)?;
            bytes.try_into().map_err(|_| wrong())
        };
        let length = u32::from_ne_bytes(word(0)?) as usize;
        let [kind_low, kind_high, ..] = word(4)?;
        if u16::from_ne_bytes([kind_low, kind_high]) == NLMSG_ERROR {
            answers.push((u32::from_ne_bytes(word(8)?), i32::from_ne_bytes(word(16)?)));
        }
        if length < 16 {
            return Err(wrong());
        }
        let next = length.next_multiple_of(4).min(datagram.len());
        datagram = &datagram[next..];
    }
    Ok(answers)
}

fn socket_error(step: &'static str) -> impl Fn(Errno) -> NetlinkError {
    move |errno| NetlinkError::Socket {
        step,
        errno,
        hint: match errno {
            Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => {
                "check that the node's kernel has netfilter netlink (CONFIG_NETFILTER_NETLINK) \
                 and that the runtime is no sandbox without it, such as gVisor"
            }
            Errno::PERM | Errno::ACCESS => {
                "check that no seccomp or SELinux profile forbids netlink sockets to this container"
            }
            Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE => {
                "check the length of the lists of excluded ports, networks and users"
            }
            _ => "check the node's kernel log",
        },
    }
}

fn refusal_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            "check that this container has the capability NET_ADMIN \
             (securityContext.capabilities.add) and that its Pod Security level allows it"
        }
        Errno::OPNOTSUPP | Errno::NOENT | Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => {
            "check that the node's kernel has nf_tables for the inet family with nat and redirect \
             (modules nf_tables, nft_chain_nat, nft_redir) and that IPv6 is compiled in"
        }
        Errno::BUSY => "check whether another program holds the same hook of this pod",
        _ => "check the node's kernel log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_batch_are_numbered_by_their_steps() {
        let batch = Batch::clear();
        assert_eq!(batch.steps.len(), 3);
        let mut at = 0;
        for sequence in 0_u32..3 {
            let word =
                |from: usize| u32::from_ne_bytes(batch.bytes[from..from + 4].try_into().unwrap());
            assert_eq!(word(at + 8), sequence);
            at += word(at) as usize;
        }
        assert_eq!(at, batch.bytes.len());
    }

    fn error_message(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(code.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes
    }

    #[test]
    fn a_refusal_names_the_step_and_what_to_check() {
        let datagram = [error_message(1, 0), error_message(2, -1)].concat();
        let answers = parse_answers(&datagram).unwrap();
        assert_eq!(answers, [(1, 0), (2, -1)]);
        let message = Batch::clear().refused(2, -1).to_string();
        assert!(message.contains("delete the table `remora`"), "{message}");
        assert!(message.contains("NET_ADMIN"), "{message}");
        let message = Batch::clear().refused(99, -95).to_string();
        assert!(message.contains("nft_redir"), "{message}");
    }

    #[test]
    fn answers_cut_short_are_an_error_not_a_panic() {
        let whole = error_message(1, -1);
        for length in 1..20 {
            assert!(parse_answers(&whole[..length]).is_err(), "{length}");
        }
        assert!(parse_answers(&[0; 20]).is_err());
    }
}
