//! Interception with real packets, in network namespaces.
//!
//! Each test runs in a process of its own, which makes itself a pod with a
//! peer (see `world.rs`) before it has any thread; so this is no libtest
//! target. Root is not needed where unprivileged user namespaces are allowed.
//! Where namespaces cannot be had, every test says SKIPPED, with the reason;
//! with `REMORA_REQUIRE_NETNS=1` it fails instead.

mod world;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, ensure};
use remora_proxy::intercept::values::{List, MAX_LIST, PortRange};
use remora_proxy::intercept::{InterceptOptions, run};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with,
};

use world::{CLUSTER, PEER, POD, Peer, answer, ask, ask_as, ask_with};

type Test = (&'static str, fn(&Peer) -> Result<Outcome>);

enum Outcome {
    Passed,
    Skipped(&'static str),
}

const TESTS: &[Test] = &[
    ("outgoing_connections_arrive_at_the_outbound_port", outgoing),
    ("incoming_connections_arrive_at_the_inbound_port", incoming),
    ("a_pod_that_calls_itself_does_not_loop", itself),
    ("the_sidecars_own_ports_are_not_redirected", own_ports),
    ("excluded_ports_networks_and_marks_pass", exclusions),
    ("excluded_users_pass", users),
    ("udp_and_dns_are_never_touched", udp),
    ("a_second_run_replaces_the_first", second_run),
    ("remove_leaves_nothing_behind", remove),
    ("a_refused_batch_changes_nothing", refused),
    ("the_longest_lists_fit_into_one_batch", longest),
];

/// The child's exit status for "the namespaces cannot be had".
const NO_NAMESPACES: u8 = 77;
const SKIPPED: u8 = 78;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [child, name] = arguments.as_slice()
        && child == "--child"
    {
        return match TESTS.iter().find(|(test, _)| test == name) {
            Some((_, test)) => in_child(*test),
            None => ExitCode::FAILURE,
        };
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        let mut filters = arguments.iter().filter(|a| !a.starts_with('-')).peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    let tests: Vec<&Test> = TESTS.iter().filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} tests in network namespaces", tests.len());
    let required = std::env::var_os("REMORA_REQUIRE_NETNS").is_some();
    let (mut failed, mut skipped) = (0, 0);
    for (name, _) in &tests {
        let output = std::env::current_exe()
            .and_then(|exe| Command::new(exe).args(["--child", name]).output());
        let (code, text) = match output {
            Ok(output) => (
                output.status.code(),
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            ),
            Err(error) => (None, error.to_string()),
        };
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(0) => println!("test {name} ... ok"),
            Some(NO_NAMESPACES | SKIPPED) if !required => {
                skipped += 1;
                println!(
                    "test {name} ... SKIPPED (nothing was tested): {}",
                    text.trim()
                );
            }
            _ => {
                failed += 1;
                println!("test {name} ... FAILED\n{text}");
            }
        }
    }
    let passed = tests.len() - failed - skipped;
    println!("\ntest result: {passed} passed; {failed} failed; {skipped} SKIPPED\n");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn in_child(test: fn(&Peer) -> Result<Outcome>) -> ExitCode {
    let peer = match world::enter() {
        Ok(peer) => peer,
        Err(error) => {
            println!("this machine gives no network namespace: {error:#}");
            return ExitCode::from(NO_NAMESPACES);
        }
    };
    match test(&peer) {
        Ok(Outcome::Passed) => ExitCode::SUCCESS,
        Ok(Outcome::Skipped(why)) => {
            println!("{why}");
            ExitCode::from(SKIPPED)
        }
        Err(error) => {
            println!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// The sidecar's two listeners and an application, in the pod.
fn listeners() -> Result<()> {
    answer("outbound", 15101)?;
    answer("inbound", 15106)?;
    answer("application", 8080)
}

fn expect(got: Result<String>, wanted: &str) -> Result<()> {
    let got = got?;
    ensure!(got == wanted, "got `{got}`, wanted `{wanted}`");
    Ok(())
}

/// Who answered, without the original destination.
fn who(got: Result<String>) -> Result<String> {
    Ok(got?.split(' ').next().unwrap_or_default().to_owned())
}

fn outgoing(_: &Peer) -> Result<Outcome> {
    listeners()?;
    run(&InterceptOptions::default())?;
    for address in CLUSTER.into_iter().chain(PEER) {
        let to = SocketAddr::new(address, 80);
        expect(ask(to), &format!("outbound {to}"))?;
    }
    Ok(Outcome::Passed)
}

fn incoming(peer: &Peer) -> Result<Outcome> {
    listeners()?;
    run(&InterceptOptions::default())?;
    for address in POD {
        for port in [8080, 80] {
            let to = SocketAddr::new(address, port);
            expect(peer.ask(to), &format!("inbound {to}"))?;
        }
    }
    Ok(Outcome::Passed)
}

fn itself(_: &Peer) -> Result<Outcome> {
    listeners()?;
    run(&InterceptOptions {
        exclude_mark: Some(7),
        ..InterceptOptions::default()
    })?;
    for address in POD {
        let own = SocketAddr::new(address, 8080);
        // The application calls its own address.
        expect(ask(own).and_then(|got| who(Ok(got))), "application")?;
        // It calls itself through its Service: the sidecar takes it ...
        let service = SocketAddr::new(CLUSTER[usize::from(address.is_ipv6())], 8080);
        expect(ask(service), &format!("outbound {service}"))?;
        // ... and goes on to the pod's own address, which must be the end.
        expect(
            who(ask_with(own, |socket| socket.set_mark(7))),
            "application",
        )?;
        if rustix::process::getuid().is_root() && nobody_else_is_mapped().is_none() {
            expect(who(ask_as(2102, own)), "application")?;
        }
    }
    for loopback in ["127.0.0.1:8080", "127.9.9.9:8080", "[::1]:8080"] {
        expect(who(ask(loopback.parse()?)), "application")?;
    }
    Ok(Outcome::Passed)
}

fn own_ports(peer: &Peer) -> Result<Outcome> {
    listeners()?;
    answer("admin", 15120)?;
    answer("probe", 15121)?;
    peer.answer("elsewhere", 15120)?;
    run(&InterceptOptions::default())?;
    for address in POD {
        let at = |port| SocketAddr::new(address, port);
        expect(who(peer.ask(at(15101))), "outbound")?;
        expect(who(peer.ask(at(15106))), "inbound")?;
        expect(who(peer.ask(at(15120))), "admin")?;
        expect(who(peer.ask(at(15121))), "probe")?;
    }
    for address in PEER {
        expect(who(ask(SocketAddr::new(address, 15120))), "elsewhere")?;
    }
    Ok(Outcome::Passed)
}

fn exclusions(peer: &Peer) -> Result<Outcome> {
    listeners()?;
    for port in [3306, 7000, 7005, 7010, 80] {
        peer.answer("elsewhere", port)?;
    }
    run(&InterceptOptions {
        exclude_mark: Some(0x524d_5241),
        exclude_inbound_ports: "8080".parse()?,
        exclude_outbound_ports: "3306,7000-7010".parse()?,
        ..InterceptOptions::default()
    })?;
    for (pod, peers) in POD.into_iter().zip(PEER) {
        let at = |port| SocketAddr::new(peers, port);
        for port in [3306, 7000, 7005, 7010] {
            expect(who(ask(at(port))), "elsewhere")?;
        }
        for port in [80, 3305, 6999, 7011] {
            expect(ask(at(port)), &format!("outbound {}", at(port)))?;
        }
        let marked = |mark| ask_with(at(80), move |socket| socket.set_mark(mark));
        expect(who(marked(0x524d_5241)), "elsewhere")?;
        expect(who(marked(0x524d_5242)), "outbound")?;
        let own = |port| SocketAddr::new(pod, port);
        expect(who(peer.ask(own(8080))), "application")?;
        expect(who(peer.ask(own(8081))), "inbound")?;
    }
    run(&InterceptOptions {
        exclude_outbound_cidrs: "10.77.1.2/31,fd77:1::/64".parse()?,
        ..InterceptOptions::default()
    })?;
    for (peers, cluster) in PEER.into_iter().zip(CLUSTER) {
        expect(who(ask(SocketAddr::new(peers, 80))), "elsewhere")?;
        expect(who(ask(SocketAddr::new(cluster, 80))), "outbound")?;
    }
    expect(who(ask("10.77.1.4:80".parse()?)), "outbound")?;
    Ok(Outcome::Passed)
}

/// Why no second user can be had, if so.
fn nobody_else_is_mapped() -> Option<&'static str> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mapped = map
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum::<u64>();
    (mapped < 3000).then_some("this user namespace maps no second user: run as root")
}

fn users(peer: &Peer) -> Result<Outcome> {
    if let Some(why) = nobody_else_is_mapped() {
        return Ok(Outcome::Skipped(why));
    }
    listeners()?;
    peer.answer("elsewhere", 80)?;
    run(&InterceptOptions {
        exclude_uid: List(vec![1000, 1001]),
        ..InterceptOptions::default()
    })?;
    for address in PEER {
        let to = SocketAddr::new(address, 80);
        for (uid, wanted) in [
            (2102, "elsewhere"),
            (1000, "elsewhere"),
            (1001, "elsewhere"),
            (1002, "outbound"),
            (0, "outbound"),
        ] {
            let got = who(ask_as(uid, to))?;
            ensure!(got == wanted, "user {uid} to {to}: {got}");
        }
    }
    Ok(Outcome::Passed)
}

fn udp(peer: &Peer) -> Result<Outcome> {
    run(&InterceptOptions::default())?;
    for address in PEER {
        let server = peer.run(move || UdpSocket::bind((address, 53)))??;
        server.set_read_timeout(Some(Duration::from_secs(3)))?;
        let client = UdpSocket::bind(SocketAddr::new(POD[usize::from(address.is_ipv6())], 0))?;
        client.send_to(b"name?", (address, 53))?;
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer)?;
        ensure!(&buffer[..length] == b"name?" && from == client.local_addr()?);
    }
    answer("outbound", 15101)?;
    peer.answer("names", 53)?;
    for address in PEER {
        expect(who(ask(SocketAddr::new(address, 53))), "names")?;
    }
    Ok(Outcome::Passed)
}

fn second_run(peer: &Peer) -> Result<Outcome> {
    listeners()?;
    peer.answer("elsewhere", 3306)?;
    let to = SocketAddr::new(PEER[0], 3306);
    let first = InterceptOptions {
        exclude_outbound_ports: List(vec![PortRange::single(3306)]),
        ..InterceptOptions::default()
    };
    for _ in 0..3 {
        run(&first)?;
        ensure!(tables()? == 1, "{} tables", tables()?);
        expect(who(ask(to)), "elsewhere")?;
    }
    run(&InterceptOptions::default())?;
    ensure!(tables()? == 1);
    expect(who(ask(to)), "outbound")?;
    Ok(Outcome::Passed)
}

fn remove(peer: &Peer) -> Result<Outcome> {
    listeners()?;
    peer.answer("elsewhere", 80)?;
    let removal = InterceptOptions {
        remove: true,
        ..InterceptOptions::default()
    };
    run(&removal)?;
    ensure!(tables()? == 0, "removing nothing left something");
    run(&InterceptOptions::default())?;
    ensure!(tables()? == 1);
    let to = SocketAddr::new(PEER[0], 80);
    expect(who(ask(to)), "outbound")?;
    run(&removal)?;
    ensure!(tables()? == 0, "the table is still there");
    expect(who(ask(to)), "elsewhere")?;
    run(&removal)?;
    Ok(Outcome::Passed)
}

fn refused(_: &Peer) -> Result<Outcome> {
    listeners()?;
    run(&InterceptOptions::default())?;
    let powerless = std::thread::spawn(|| {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, sets)?;
        anyhow::Ok(run(&InterceptOptions {
            remove: true,
            ..InterceptOptions::default()
        }))
    });
    let result = powerless
        .join()
        .map_err(|_| anyhow::anyhow!("panicked"))??;
    let message = result
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(message.contains("NET_ADMIN"), "`{message}`");
    ensure!(message.contains("nothing was changed"), "`{message}`");
    let to = SocketAddr::new(CLUSTER[0], 80);
    expect(ask(to), &format!("outbound {to}"))?;
    Ok(Outcome::Passed)
}

fn longest(peer: &Peer) -> Result<Outcome> {
    listeners()?;
    peer.answer("elsewhere", 2000 + 2 * 127)?;
    let list = |entry: &dyn Fn(usize) -> String| (0..MAX_LIST).map(entry).collect::<Vec<_>>();
    let ports = list(&|n| format!("{}-{}", 2000 + 2 * n, 2000 + 2 * n)).join(",");
    let ranges = list(&|n| format!("{}-{}", 3000 + 4 * n, 3002 + 4 * n)).join(",");
    let networks = list(&|n| format!("fd00:{n:x}::/32")).join(",");
    run(&InterceptOptions {
        exclude_uid: List((5000..5000 + MAX_LIST as u32).collect()),
        exclude_inbound_ports: ranges.parse()?,
        exclude_outbound_ports: ports.parse()?,
        exclude_outbound_cidrs: networks.parse()?,
        ..InterceptOptions::default()
    })?;
    let at = |port| SocketAddr::new(PEER[0], port);
    expect(who(ask(at(2000 + 2 * 127))), "elsewhere")?;
    expect(who(ask(at(2001))), "outbound")?;
    Ok(Outcome::Passed)
}

/// How many nf_tables tables this namespace has, of any name and family.
fn tables() -> Result<usize> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    // NFT_MSG_GETTABLE, a dump of all families.
    let mut request = 20_u32.to_ne_bytes().to_vec();
    request.extend(((10_u16 << 8) | 1).to_ne_bytes());
    request.extend(0x301_u16.to_ne_bytes());
    request.extend([0; 12]);
    let kernel = netlink::SocketAddrNetlink::new(0, 0);
    sendto(&socket, &request, SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; 65536];
    let mut tables = 0;
    loop {
        let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while rest.len() >= 16 {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            match u16::from_ne_bytes([rest[4], rest[5]]) {
                3 => return Ok(tables), // NLMSG_DONE
                kind if kind == 10 << 8 => tables += 1,
                kind => anyhow::bail!("unexpected message {kind:#x}"),
            }
            rest = &rest[size.next_multiple_of(4).min(rest.len())..];
        }
    }
}
