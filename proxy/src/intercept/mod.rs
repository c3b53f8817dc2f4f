//! Transparent interception: the redirect rules of one pod.
//!
//! Owns which connections are redirected and how the kernel is told; the
//! listeners and the original destination are the business of the data path.
//!
//! # Layout
//! - [`values`]: port ranges, networks, lists of them.
//! - [`rules`]: which connections, as data; why nothing loops.
//! - [`netlink`]: one atomic nf_tables batch, no tool executed;
//!   [`encoding`]: a rule in the kernel's form.
//!
//! The rules live in one `inet` table `remora` (IPv4 and IPv6) in the network
//! namespace of the caller. Setting them needs CAP_NET_ADMIN there and nothing
//! else; setting them again replaces them; a failure changes nothing.

pub mod encoding;
pub mod netlink;
pub mod rules;
pub mod values;

use std::net::IpAddr;

use remora_proto::well_known::{INBOUND_PORT, OUTBOUND_PORT, SIDECAR_UID};

use netlink::NetlinkError;
use rules::{Redirects, rules};
use values::{Cidr, List, PortRange, addresses, mark, uids};

/// What `intercept` is asked to do.
#[derive(Debug, Clone, clap::Args)]
pub struct InterceptOptions {
    /// Redirect outgoing TCP connections to this port
    #[arg(long, env = "REMORA_OUTBOUND_PORT", default_value_t = OUTBOUND_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub outbound_port: u16,

    /// Redirect incoming TCP connections to this port
    #[arg(long, env = "REMORA_INBOUND_PORT", default_value_t = INBOUND_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub inbound_port: u16,

    /// The user that the sidecar runs as: its connections are left alone
    #[arg(long, env = "REMORA_SIDECAR_UID", default_value_t = SIDECAR_UID, value_name = "UID")]
    pub sidecar_uid: u32,

    /// Other users whose connections are left alone, such as 1000,1001
    #[arg(long, env = "REMORA_EXCLUDE_UIDS", default_value = "", value_parser = uids,
          hide_default_value = true, value_name = "UIDS")]
    pub exclude_uid: List<u32>,

    /// Leave connections with this socket mark alone (decimal or after 0x)
    #[arg(long, env = "REMORA_EXCLUDE_MARK", value_parser = mark, value_name = "MARK")]
    pub exclude_mark: Option<u32>,

    /// Incoming ports to leave alone, such as 3306,7000-7010
    #[arg(
        long,
        env = "REMORA_EXCLUDE_INBOUND_PORTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PORTS"
    )]
    pub exclude_inbound_ports: List<PortRange>,

    /// Outgoing ports to leave alone, such as 3306,7000-7010
    #[arg(
        long,
        env = "REMORA_EXCLUDE_OUTBOUND_PORTS",
        default_value = "",
        hide_default_value = true,
        value_name = "PORTS"
    )]
    pub exclude_outbound_ports: List<PortRange>,

    /// Networks to which connections are left alone, such as 10.0.0.0/8,fd00::/8
    #[arg(
        long,
        env = "REMORA_EXCLUDE_OUTBOUND_CIDRS",
        default_value = "",
        hide_default_value = true,
        value_name = "NETWORKS"
    )]
    pub exclude_outbound_cidrs: List<Cidr>,

    /// The pod's addresses, to be compared with the host's
    #[arg(long, env = "REMORA_POD_IPS", default_value = "", value_parser = addresses,
          hide_default_value = true, value_name = "ADDRESSES")]
    pub pod_ips: List<IpAddr>,

    /// The host's addresses: where the pod has one of them, nothing is redirected
    #[arg(long, env = "REMORA_HOST_IP", default_value = "", value_parser = addresses,
          hide_default_value = true, value_name = "ADDRESSES")]
    pub host_ips: List<IpAddr>,

    /// Take the rules away instead
    #[arg(long)]
    pub remove: bool,
}

impl Default for InterceptOptions {
    /// What holds where neither a flag nor a variable says otherwise.
    fn default() -> Self {
        InterceptOptions {
            outbound_port: OUTBOUND_PORT,
            inbound_port: INBOUND_PORT,
            sidecar_uid: SIDECAR_UID,
            exclude_uid: List::default(),
            exclude_mark: None,
            exclude_inbound_ports: List::default(),
            exclude_outbound_ports: List::default(),
            exclude_outbound_cidrs: List::default(),
            pod_ips: List::default(),
            host_ips: List::default(),
            remove: false,
        }
    }
}

/// Why no rules were set.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// The rules would redirect the traffic of the whole node.
    #[error(
        "the pod's address {0} is its host's: this pod uses hostNetwork, and redirecting here \
         would redirect the whole node; nothing was changed; check spec.hostNetwork, and set \
         the label remora.io/inject=disabled on the pod"
    )]
    HostNetwork(IpAddr),
    /// Both directions would end at one listener.
    #[error("--outbound-port and --inbound-port are both {0}; give them different ports")]
    SamePort(u16),
    /// The kernel would not.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Sets the rules in the network namespace of the caller, or takes them away.
pub fn run(options: &InterceptOptions) -> Result<(), InterceptError> {
    if options.remove {
        netlink::remove()?;
        tracing::info!(table = netlink::TABLE, "redirect rules removed");
        return Ok(());
    }
    refuse(options)?;
    let rules = rules(&options.redirects());
    netlink::replace(&rules)?;
    for rule in &rules {
        tracing::debug!(%rule, "redirect rule");
    }
    tracing::info!(
        table = netlink::TABLE,
        rules = rules.len(),
        outbound_port = options.outbound_port,
        inbound_port = options.inbound_port,
        "redirect rules set"
    );
    Ok(())
}

/// Finds what must not be done, before anything is done.
fn refuse(options: &InterceptOptions) -> Result<(), InterceptError> {
    // Canonical, so that ::ffff:10.0.0.1 is 10.0.0.1.
    let host: Vec<IpAddr> = options
        .host_ips
        .0
        .iter()
        .map(IpAddr::to_canonical)
        .collect();
    let shared = options.pod_ips.0.iter().map(IpAddr::to_canonical);
    if let Some(address) = shared.into_iter().find(|pod| host.contains(pod)) {
        return Err(InterceptError::HostNetwork(address));
    }
    if options.outbound_port == options.inbound_port {
        return Err(InterceptError::SamePort(options.outbound_port));
    }
    Ok(())
}

impl InterceptOptions {
    fn redirects(&self) -> Redirects {
        let mut excluded_uids = vec![self.sidecar_uid];
        excluded_uids.extend(&self.exclude_uid.0);
        Redirects {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            excluded_uids,
            excluded_mark: self.exclude_mark,
            excluded_inbound_ports: self.exclude_inbound_ports.0.clone(),
            excluded_outbound_ports: self.exclude_outbound_ports.0.clone(),
            excluded_outbound_cidrs: self.exclude_outbound_cidrs.0.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: InterceptOptions,
    }

    fn parse(arguments: &[&str]) -> Result<InterceptOptions, String> {
        let arguments = ["intercept"].iter().chain(arguments);
        Command::try_parse_from(arguments)
            .map(|command| command.options)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn options_become_redirects() {
        let options = parse(&[
            "--exclude-uid=1000,1001",
            "--exclude-mark=0x524d5241",
            "--exclude-inbound-ports=22",
            "--exclude-outbound-ports=3306,7000-7010",
            "--exclude-outbound-cidrs=10.0.0.0/8,fd00::/8",
        ])
        .unwrap();
        let redirects = options.redirects();
        assert_eq!(redirects.excluded_uids, [2102, 1000, 1001]);
        assert_eq!(redirects.excluded_mark, Some(0x524d_5241));
        assert_eq!(redirects.excluded_outbound_ports.len(), 2);
        assert_eq!(redirects.excluded_outbound_cidrs.len(), 2);
        assert_eq!(parse(&[]).unwrap().redirects().excluded_uids, [2102]);
    }

    #[test]
    fn a_bad_value_is_refused_by_its_name() {
        let error = parse(&["--exclude-inbound-ports=22,ssh"]).unwrap_err();
        assert!(error.contains("`ssh`"), "{error}");
        assert!(error.contains("--exclude-inbound-ports"), "{error}");
    }

    #[test]
    fn a_pod_with_its_hosts_address_is_refused() {
        let options = parse(&["--pod-ips=fd00::1,10.0.0.1", "--host-ips=::ffff:10.0.0.1"]).unwrap();
        let error = run(&options).unwrap_err().to_string();
        assert!(
            error.contains("10.0.0.1") && error.contains("hostNetwork"),
            "{error}"
        );
        let options = parse(&["--pod-ips=10.0.0.1", "--host-ips=10.0.0.2"]).unwrap();
        assert!(refuse(&options).is_ok());
    }

    #[test]
    fn one_port_for_both_directions_is_refused() {
        let options = parse(&["--inbound-port=15101"]).unwrap();
        assert!(matches!(
            run(&options),
            Err(InterceptError::SamePort(15101))
        ));
    }
}
