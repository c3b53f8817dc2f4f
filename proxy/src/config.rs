//! The sidecar's own configuration: from the environment, once, into a
//! [`Config`]. Every error in it is reported together.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use remora_proto::spiffe::is_trust_domain;
use remora_proto::well_known;

use crate::ports::PortSet;
use crate::probes::Probes;

/// How the sidecar learns where a connection was going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The redirect rules keep the original destination.
    Intercept,
    /// Nothing is intercepted: the outbound listener is a plain HTTP proxy, and
    /// the sidecar itself binds its pod's ports.
    Explicit {
        /// The pod's ports that the sidecar binds on each pod address.
        inbound_ports: Vec<u16>,
        /// Where the application really listens, on the same ports.
        application: IpAddr,
    },
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Appended to this file.
    File(PathBuf),
}

/// Where an identity begins. The files are read each time that they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The trust domain: `cluster.local`.
    pub trust_domain: String,
    /// The pod's own token for the control plane.
    pub token: PathBuf,
    /// Roots by which the control plane is known, in PEM.
    pub roots: PathBuf,
}

/// The token's place where none is said.
const TOKEN_FILE: &str = "/var/run/secrets/remora.io/token";
/// The roots'.
const TRUST_FILE: &str = "/var/run/configmaps/remora.io/ca.crt";

/// All that a sidecar is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// The pod's addresses.
    pub pod_ips: Vec<IpAddr>,
    /// The pod's node; empty where nobody said.
    pub node: String,
    /// The control plane's stream, `http://host:port`; `https://` where this
    /// sidecar has an identity.
    pub control_plane: String,
    /// Whether this sidecar has an identity, and where it begins.
    pub identity: Option<IdentityFiles>,
    /// How connections come.
    pub mode: Mode,
    /// Takes the pod's outgoing connections.
    pub outbound_listen: SocketAddr,
    /// Takes connections to the pod (intercept mode).
    pub inbound_listen: SocketAddr,
    /// Health, metrics, configuration, breakers.
    pub admin_listen: SocketAddr,
    /// The kubelet's rewritten probes.
    pub probe_listen: SocketAddr,
    /// Data workers, at least 1.
    pub concurrency: usize,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// tracing's filter.
    pub log: String,
    /// SO_MARK of every connection that the sidecar opens.
    pub socket_mark: Option<u32>,
    /// How long what is in flight may still take after SIGTERM.
    pub drain_timeout: Duration,
    /// Ports that are always raw TCP.
    pub opaque_ports: PortSet,
    /// The application's probes that the injector rewrote.
    pub probes: Probes,
}

/// Everything that was wrong with the environment.
#[derive(Debug, thiserror::Error)]
#[error("the sidecar's environment is wrong:\n  {}", .problems.join("\n  "))]
pub struct ConfigError {
    /// One sentence for each variable.
    pub problems: Vec<String>,
}

struct Reader<'a> {
    variables: &'a HashMap<String, String>,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str) -> String {
        match self.text(name) {
            Some(value) => value.to_owned(),
            None => {
                self.problems.push(format!(
                    "{name} is not set; the injector sets it from the pod"
                ));
                String::new()
            }
        }
    }

    fn parsed<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.text(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            let problem = format!("{name}={value:?}: expected {expected}");
            self.problems.push(problem);
        }
        parsed
    }

    fn listen(&mut self, name: &str, port: u16) -> SocketAddr {
        self.parsed(name, "an address and port such as [::]:15101", |value| {
            value.parse().ok()
        })
        .unwrap_or(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))
    }

    fn pod_ips(&mut self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for address in self.required("REMORA_POD_IPS").split(',').map(str::trim) {
            match address.parse::<IpAddr>() {
                Ok(address) => addresses.push(address.to_canonical()),
                Err(_) if address.is_empty() => {}
                Err(_) => self
                    .problems
                    .push(format!("REMORA_POD_IPS: {address:?} is not an IP address")),
            }
        }
        addresses
    }

    /// Encrypted where there is an identity, and only there.
    fn control_plane(&mut self, has_identity: bool) -> String {
        let url = self.required("REMORA_CONTROL_PLANE");
        let (scheme, why) = match has_identity {
            true => ("https://", "with REMORA_TRUST_DOMAIN"),
            false => ("http://", "without REMORA_TRUST_DOMAIN"),
        };
        if !url.is_empty() && !url.starts_with(scheme) {
            self.problems.push(format!(
                "REMORA_CONTROL_PLANE={url:?}: expected {scheme}host:port {why}"
            ));
        }
        url
    }

    fn identity(&mut self) -> Option<IdentityFiles> {
        let trust_domain = self.parsed(
            "REMORA_TRUST_DOMAIN",
            "a trust domain such as cluster.local",
            |value| is_trust_domain(value).then(|| value.to_owned()),
        )?;
        let file = |name, default: &str| PathBuf::from(self.text(name).unwrap_or(default));
        Some(IdentityFiles {
            token: file("REMORA_TOKEN_FILE", TOKEN_FILE),
            roots: file("REMORA_TRUST_FILE", TRUST_FILE),
            trust_domain,
        })
    }

    fn mode(&mut self) -> Mode {
        let named = self.parsed(
            "REMORA_MODE",
            "intercept or explicit",
            |value| match value {
                "intercept" => Some(false),
                "explicit" => Some(true),
                _ => None,
            },
        );
        if named != Some(true) {
            return Mode::Intercept;
        }
        let inbound_ports = self
            .parsed(
                "REMORA_EXPLICIT_INBOUND",
                "ports such as 8080,7000",
                |value| {
                    value
                        .split(',')
                        .map(|port| port.trim().parse().ok().filter(|port| *port != 0))
                        .collect()
                },
            )
            .unwrap_or_default();
        let application = self.parsed("REMORA_APP_ADDRESS", "an IP address", |value| {
            value.parse().ok()
        });
        if application.is_none() && self.text("REMORA_APP_ADDRESS").is_none() {
            self.problems.push(
                "REMORA_APP_ADDRESS is not set; explicit mode needs the address at which the application listens"
                    .to_owned(),
            );
        }
        Mode::Explicit {
            inbound_ports,
            application: application.unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        }
    }
}

impl Config {
    /// Reads `variables`; every problem is reported together.
    pub fn from_variables(variables: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let mut reader = Reader {
            variables,
            problems: Vec::new(),
        };
        let pod_ips = reader.pod_ips();
        let identity = reader.identity();
        let has_identity = reader.text("REMORA_TRUST_DOMAIN").is_some();
        let control_plane = reader.control_plane(has_identity);
        let config = Self {
            namespace: reader.required("REMORA_NAMESPACE"),
            pod: reader.required("REMORA_POD"),
            pod_uid: reader.required("REMORA_POD_UID"),
            pod_ips,
            node: reader.text("REMORA_NODE").unwrap_or_default().to_owned(),
            control_plane,
            identity,
            mode: reader.mode(),
            outbound_listen: reader.listen("REMORA_OUTBOUND_LISTEN", well_known::OUTBOUND_PORT),
            inbound_listen: reader.listen("REMORA_INBOUND_LISTEN", well_known::INBOUND_PORT),
            admin_listen: reader.listen("REMORA_ADMIN_LISTEN", well_known::ADMIN_PORT),
            probe_listen: reader.listen("REMORA_PROBE_LISTEN", well_known::PROBE_PORT),
            concurrency: reader
                .parsed(
                    "REMORA_CONCURRENCY",
                    "a number of workers, 1 to 256",
                    |value| value.parse().ok().filter(|count| (1..=256).contains(count)),
                )
                .unwrap_or_else(available_cores),
            access_log: match reader.text("REMORA_ACCESS_LOG") {
                None | Some("off") => AccessLog::Off,
                Some("stdout") => AccessLog::Stdout,
                Some(path) => AccessLog::File(PathBuf::from(path)),
            },
            log: reader.text("REMORA_LOG").unwrap_or("info").to_owned(),
            socket_mark: reader.parsed("REMORA_SOCKET_MARK", "a number, decimal or 0x", parse_mark),
            drain_timeout: reader
                .parsed(
                    "REMORA_DRAIN_TIMEOUT",
                    "a duration such as 5s or 500ms, at most 10m",
                    parse_duration,
                )
                .unwrap_or(Duration::from_secs(5)),
            opaque_ports: reader
                .parsed(
                    "REMORA_OPAQUE_PORTS",
                    "ports and ranges such as 3306,7000-7010",
                    PortSet::parse,
                )
                .unwrap_or_default(),
            probes: reader
                .parsed(
                    "REMORA_PROBES",
                    "the JSON that the injector writes",
                    Probes::parse,
                )
                .unwrap_or_default(),
        };
        if reader.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError {
                problems: reader.problems,
            })
        }
    }

    /// Reads the process's environment.
    pub fn from_environment() -> Result<Self, ConfigError> {
        Self::from_variables(&std::env::vars().collect())
    }
}

/// Workers where nobody said how many: one for each core of the container's
/// CPU limit, rounded up. Without a limit one: a sidecar on a machine of 64
/// cores must not take 64 threads and pools for that.
fn available_cores() -> usize {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let limit = cores_of_v2(&read("/sys/fs/cgroup/cpu.max")).or_else(|| {
        cores_of_v1(
            &read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
            &read("/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
        )
    });
    let machine = std::thread::available_parallelism().map_or(1, usize::from);
    limit.map_or(1, |cores| cores.min(machine))
}

/// `cpu.max` of cgroup v2: `150000 100000`, or `max 100000` without a limit.
fn cores_of_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    cores_of_v1(quota, period)
}

/// The files of cgroup v1; a quota of -1 is no limit.
fn cores_of_v1(quota: &str, period: &str) -> Option<usize> {
    let quota: usize = quota.trim().parse().ok()?;
    let period: usize = period.trim().parse().ok().filter(|period| *period > 0)?;
    Some(quota.div_ceil(period).max(1))
}

fn parse_mark(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => value.parse().ok(),
    }
}

fn parse_duration(value: &str) -> Option<Duration> {
    let digits = value.find(|character: char| !character.is_ascii_digit())?;
    let number: u64 = value[..digits].parse().ok()?;
    let millis = match &value[digits..] {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        _ => return None,
    };
    (millis <= 600_000).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        let base = [
            ("REMORA_NAMESPACE", "shop"),
            ("REMORA_POD", "web-1"),
            ("REMORA_POD_UID", "u-1"),
            ("REMORA_POD_IPS", "10.77.1.2, fd00::2"),
            ("REMORA_CONTROL_PLANE", "http://10.77.0.1:15110"),
        ];
        base.iter()
            .chain(pairs)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn defaults_are_filled_in() {
        let config = Config::from_variables(&variables(&[])).unwrap();
        assert_eq!(config.mode, Mode::Intercept);
        assert_eq!(config.outbound_listen.port(), 15101);
        assert_eq!(config.drain_timeout, Duration::from_secs(5));
        assert_eq!(config.pod_ips.len(), 2);
    }

    #[test]
    fn every_problem_is_reported_together() {
        let wrong = variables(&[
            ("REMORA_POD_IPS", "nonsense"),
            ("REMORA_MODE", "magic"),
            ("REMORA_CONCURRENCY", "0"),
            ("REMORA_DRAIN_TIMEOUT", "5"),
            ("REMORA_CONTROL_PLANE", "10.0.0.1:1"),
        ]);
        let problems = Config::from_variables(&wrong).unwrap_err().problems;
        for name in [
            "POD_IPS",
            "MODE",
            "CONCURRENCY",
            "DRAIN_TIMEOUT",
            "CONTROL_PLANE",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(name)),
                "{name} missing in {problems:?}"
            );
        }
    }

    #[test]
    fn an_identity_asks_for_an_encrypted_stream_and_without_one_there_is_none() {
        let with = [
            ("REMORA_TRUST_DOMAIN", "cluster.local"),
            ("REMORA_CONTROL_PLANE", "https://10.77.0.1:15110"),
            ("REMORA_TOKEN_FILE", "/t"),
        ];
        let identity = Config::from_variables(&variables(&with)).unwrap().identity;
        let expected = IdentityFiles {
            trust_domain: "cluster.local".into(),
            token: "/t".into(),
            roots: TRUST_FILE.into(),
        };
        assert_eq!(identity, Some(expected));
        for wrong in [&with[..1], &with[1..2]] {
            let error = Config::from_variables(&variables(wrong)).unwrap_err();
            assert!(
                error.to_string().contains("REMORA_CONTROL_PLANE"),
                "{error}"
            );
        }
        let error = Config::from_variables(&variables(&[("REMORA_TRUST_DOMAIN", "A B")]));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("REMORA_TRUST_DOMAIN")
        );
    }

    #[test]
    fn a_cpu_limit_is_rounded_up_to_workers() {
        assert_eq!(cores_of_v2("150000 100000\n"), Some(2));
        assert_eq!(cores_of_v2("10000 100000\n"), Some(1));
        assert_eq!(cores_of_v2("max 100000\n"), None);
        assert_eq!(cores_of_v1("-1\n", "100000\n"), None);
        assert_eq!(cores_of_v1("400000\n", "100000\n"), Some(4));
        assert_eq!(cores_of_v2(""), None);
    }

    #[test]
    fn explicit_mode_needs_the_application_address() {
        let problems = Config::from_variables(&variables(&[("REMORA_MODE", "explicit")]))
            .unwrap_err()
            .problems;
        assert!(problems[0].contains("REMORA_APP_ADDRESS"));
    }
}
