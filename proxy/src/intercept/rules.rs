//! Which connections are redirected, as data.
//!
//! Owns the order and the meaning of the rules; knows nothing of netlink.
//! [`Rule`] prints itself in the syntax of `nft`, which is what the golden
//! tests and the log show.
//!
//! # Why nothing loops
//! Three kinds of packets could come back to the sidecar that sent them:
//! 1. What the sidecar itself sends, to anywhere. It is told by its uid (or
//!    its socket mark) before any redirect.
//! 2. What stays inside the pod: an application that calls its own pod
//!    address, and the sidecar's inbound side that calls the application at
//!    the address which the caller meant. Both leave over `lo`, so both are
//!    let through, on output and again on prerouting, where a packet over
//!    `lo` shows up a second time. A pod that calls itself through its
//!    *Service* is redirected as any caller (the cluster IP is not a local
//!    address), and when the sidecar picks its own pod, the call goes on as
//!    kind 1.
//! 3. What is sent to the sidecar's own ports, here or in another pod. Those
//!    ports are never redirected, in either direction.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use remora_proto::well_known::{ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT, PROBE_PORT};

use super::values::{Cidr, PortRange};

/// Names are asked for over TCP too, where an answer is long (RFC 7766). Whoever
/// looks a name up must not depend on a sidecar that may itself wait for one.
const DNS_PORT: u16 = 53;

/// What decides on the rules; [`super::InterceptOptions`] after parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirects {
    /// Where outgoing connections are sent.
    pub outbound_port: u16,
    /// Where incoming connections are sent.
    pub inbound_port: u16,
    /// Users whose connections are left alone; the sidecar's own is the first.
    pub excluded_uids: Vec<u32>,
    /// The socket mark of connections that are left alone.
    pub excluded_mark: Option<u32>,
    /// Incoming connections to these ports are left alone.
    pub excluded_inbound_ports: Vec<PortRange>,
    /// Outgoing connections to these ports are left alone.
    pub excluded_outbound_ports: Vec<PortRange>,
    /// Outgoing connections to these networks are left alone.
    pub excluded_outbound_cidrs: Vec<Cidr>,
}

/// The two places where the kernel asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// What the pod sends.
    Output,
    /// What arrives at the pod, and what comes back over `lo`.
    Prerouting,
}

impl Chain {
    /// The chain's name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Chain::Output => "output",
            Chain::Prerouting => "prerouting",
        }
    }
}

/// What a packet is asked. A rule has exactly one question: every exclusion
/// is then a line of its own in `nft list ruleset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Anything but TCP: UDP is never touched.
    NotTcp,
    /// The packet stays inside the pod.
    Loopback,
    /// The socket belongs to this user.
    Uid(u32),
    /// The socket carries this mark.
    Mark(u32),
    /// The destination lies in this network.
    Destination(Cidr),
    /// The destination port lies in this range.
    Port(PortRange),
    /// Everything that came so far.
    Any,
}

/// What happens to a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it wanted to go.
    Return,
    /// It goes to this port of this pod.
    Redirect(u16),
}

/// One rule of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub chain: Chain,
    /// What it asks.
    pub matches: Match,
    /// What it does.
    pub verdict: Verdict,
}

/// The rules of both chains, in their order: the first that matches decides.
pub fn rules(redirects: &Redirects) -> Vec<Rule> {
    let own_ports = own_ports(redirects);
    let excluded = |chain, questions: Vec<Match>| {
        questions.into_iter().map(move |matches| Rule {
            chain,
            matches,
            verdict: Verdict::Return,
        })
    };
    let redirect = |chain, port| Rule {
        chain,
        matches: Match::Any,
        verdict: Verdict::Redirect(port),
    };

    let mut output = vec![Match::NotTcp, Match::Loopback];
    output.extend(redirects.excluded_uids.iter().copied().map(Match::Uid));
    output.extend(redirects.excluded_mark.map(Match::Mark));
    // Loopback addresses leave over `lo` in every sane routing table; these two
    // rules hold in the others as well.
    output.push(Match::Destination(Cidr::new(
        IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)),
        8,
    )));
    output.push(Match::Destination(Cidr::new(
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        128,
    )));
    output.push(Match::Port(PortRange::single(DNS_PORT)));
    output.extend(own_ports.iter().copied().map(Match::Port));
    output.extend(
        redirects
            .excluded_outbound_ports
            .iter()
            .copied()
            .map(Match::Port),
    );
    output.extend(
        redirects
            .excluded_outbound_cidrs
            .iter()
            .copied()
            .map(Match::Destination),
    );

    let mut prerouting = vec![Match::NotTcp, Match::Loopback];
    prerouting.extend(own_ports.into_iter().map(Match::Port));
    prerouting.extend(
        redirects
            .excluded_inbound_ports
            .iter()
            .copied()
            .map(Match::Port),
    );

    excluded(Chain::Output, output)
        .chain([redirect(Chain::Output, redirects.outbound_port)])
        .chain(excluded(Chain::Prerouting, prerouting))
        .chain([redirect(Chain::Prerouting, redirects.inbound_port)])
        .collect()
}

/// The sidecar's ports, sorted and once each: the well-known ones even where
/// the listeners were moved, because other pods have theirs there.
fn own_ports(redirects: &Redirects) -> Vec<PortRange> {
    let mut ports = vec![
        OUTBOUND_PORT,
        INBOUND_PORT,
        ADMIN_PORT,
        PROBE_PORT,
        redirects.outbound_port,
        redirects.inbound_port,
    ];
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(PortRange::single).collect()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.chain.name())?;
        match (&self.matches, self.chain) {
            (Match::NotTcp, _) => write!(f, "meta l4proto != tcp ")?,
            (Match::Loopback, Chain::Output) => write!(f, "oif lo ")?,
            (Match::Loopback, Chain::Prerouting) => write!(f, "iif lo ")?,
            (Match::Uid(uid), _) => write!(f, "meta skuid {uid} ")?,
            (Match::Mark(mark), _) => write!(f, "meta mark {mark:#010x} ")?,
            (Match::Destination(cidr), _) => {
                let family = if cidr.address().is_ipv4() {
                    "ip"
                } else {
                    "ip6"
                };
                write!(f, "{family} daddr {cidr} ")?;
            }
            (Match::Port(range), _) => write!(f, "tcp dport {range} ")?,
            (Match::Any, _) => {}
        }
        match self.verdict {
            Verdict::Return => write!(f, "return"),
            Verdict::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Redirects {
        Redirects {
            outbound_port: 15101,
            inbound_port: 15106,
            excluded_uids: vec![2102],
            excluded_mark: None,
            excluded_inbound_ports: vec![],
            excluded_outbound_ports: vec![],
            excluded_outbound_cidrs: vec![],
        }
    }

    fn printed(redirects: &Redirects) -> Vec<String> {
        rules(redirects).iter().map(Rule::to_string).collect()
    }

    #[test]
    fn default_rules_are_these_in_this_order() {
        assert_eq!(
            printed(&plain()),
            [
                "output meta l4proto != tcp return",
                "output oif lo return",
                "output meta skuid 2102 return",
                "output ip daddr 127.0.0.0/8 return",
                "output ip6 daddr ::1/128 return",
                "output tcp dport 53 return",
                "output tcp dport 15101 return",
                "output tcp dport 15106 return",
                "output tcp dport 15120 return",
                "output tcp dport 15121 return",
                "output redirect to :15101",
                "prerouting meta l4proto != tcp return",
                "prerouting iif lo return",
                "prerouting tcp dport 15101 return",
                "prerouting tcp dport 15106 return",
                "prerouting tcp dport 15120 return",
                "prerouting tcp dport 15121 return",
                "prerouting redirect to :15106",
            ]
        );
    }

    #[test]
    fn each_exclusion_stands_in_its_own_chain_before_the_redirect() {
        let redirects = Redirects {
            excluded_uids: vec![2102, 1000],
            excluded_mark: Some(0x524d_5241),
            excluded_inbound_ports: vec![PortRange::single(22)],
            excluded_outbound_ports: vec!["7000-7010".parse().unwrap()],
            excluded_outbound_cidrs: vec![
                "169.254.0.0/16".parse().unwrap(),
                "fd00:1::/32".parse().unwrap(),
            ],
            ..plain()
        };
        let printed = printed(&redirects);
        let added: Vec<_> = printed
            .iter()
            .filter(|line| !self::printed(&plain()).contains(line))
            .collect();
        assert_eq!(
            added,
            [
                "output meta skuid 1000 return",
                "output meta mark 0x524d5241 return",
                "output tcp dport 7000-7010 return",
                "output ip daddr 169.254.0.0/16 return",
                "output ip6 daddr fd00:1::/32 return",
                "prerouting tcp dport 22 return",
            ]
        );
        let redirect = printed
            .iter()
            .position(|l| l == "output redirect to :15101");
        assert_eq!(redirect, Some(15), "{printed:#?}");
        assert_eq!(printed.last().unwrap(), "prerouting redirect to :15106");
    }

    #[test]
    fn moved_listeners_are_excluded_beside_the_well_known_ports() {
        let redirects = Redirects {
            outbound_port: 25101,
            inbound_port: 15106,
            ..plain()
        };
        let printed = printed(&redirects);
        for port in [15101, 15106, 15120, 15121, 25101] {
            for chain in ["output", "prerouting"] {
                let line = format!("{chain} tcp dport {port} return");
                assert_eq!(printed.iter().filter(|l| **l == line).count(), 1, "{line}");
            }
        }
    }
}
