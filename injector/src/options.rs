//! How the daemon is run, and what it makes of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use remora_proto::spiffe::is_trust_domain;
use remora_proto::well_known::{CONTROL_PLANE, CONTROL_PLANE_PORT, INJECTOR, SYSTEM_NAMESPACE};

use crate::settings::{KubernetesVersion, Resources, Settings};
use crate::values;

/// Names of one certificate, its Service's two among them.
pub const MAX_NAMES: usize = 16;
/// The longest delay at the end: Kubernetes ends the pod after 30 s by itself.
const MAX_SHUTDOWN_DELAY: Duration = Duration::from_secs(20);

/// How the injector is run.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address of the webhook (HTTPS).
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:15112")]
    pub listen: SocketAddr,
    /// Address of the admin endpoint (HTTP): /live, /ready, /metrics.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:15116")]
    pub admin: SocketAddr,
    /// Remora's own namespace: its pods are never injected, and the
    /// certificate's Secret is there.
    #[arg(long, env = "REMORA_NAMESPACE", value_name = "NAME", default_value = SYSTEM_NAMESPACE)]
    pub system_namespace: String,
    /// Image of the sidecar and of the redirect step.
    #[arg(long, value_name = "IMAGE", default_value = concat!("remora/proxy:", env!("CARGO_PKG_VERSION")))]
    pub image: String,
    /// When nodes pull that image; Kubernetes decides where this is not said.
    #[arg(long, value_name = "POLICY")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Where sidecars find the control plane [default:
    /// http://remora-control-plane.<system namespace>.svc:15110; https with
    /// --trust-domain].
    #[arg(long, value_name = "http[s]://HOST:PORT")]
    pub control_plane: Option<String>,
    /// Sidecars have identities in this trust domain, which is the control
    /// plane's, and speak TLS. Without it they have none.
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// CPU that a sidecar requests, where its pod does not say otherwise.
    #[arg(long, value_name = "QUANTITY|none", default_value = "10m")]
    pub sidecar_cpu_request: String,
    /// CPU that a sidecar may use. None by default: throttling is latency.
    #[arg(long, value_name = "QUANTITY|none", default_value = "none")]
    pub sidecar_cpu_limit: String,
    /// Memory that a sidecar requests.
    #[arg(long, value_name = "QUANTITY|none", default_value = "16Mi")]
    pub sidecar_memory_request: String,
    /// Memory that a sidecar may use.
    #[arg(long, value_name = "QUANTITY|none", default_value = "256Mi")]
    pub sidecar_memory_limit: String,
    /// The webhook's Service in the system namespace: what its certificate is for.
    #[arg(long, value_name = "NAME", default_value = INJECTOR)]
    pub service: String,
    /// Another DNS name or address for the certificate (repeatable), for a
    /// webhook configuration that names a URL instead of the Service.
    #[arg(long = "certificate-name", value_name = "NAME|ADDRESS")]
    pub certificate_names: Vec<String>,
    /// Serve the certificate in this folder (tls.crt, tls.key), and read it
    /// again when it changes, for instance from cert-manager. Then the
    /// injector makes no certificate and leaves caBundle to whoever made this.
    #[arg(long, value_name = "DIR", conflicts_with = "certificate_names")]
    pub certificate: Option<PathBuf>,
    /// At the end: how long new calls are still taken after /ready says no, so
    /// that every API server has heard of it.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub shutdown_delay: Duration,
}

/// A container's `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PullPolicy {
    /// Ask the registry each time.
    #[value(name = "Always")]
    Always,
    /// Only where the node has not got it.
    #[value(name = "IfNotPresent")]
    IfNotPresent,
    /// What the node has, or nothing.
    #[value(name = "Never")]
    Never,
}

impl PullPolicy {
    fn word(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// Everything that is wrong with the options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct OptionsError(Vec<String>);

impl Options {
    /// How sidecars are made, for an API server of this version.
    ///
    /// # Errors
    /// With all that is wrong.
    pub fn settings(&self, kubernetes: KubernetesVersion) -> Result<Settings, OptionsError> {
        let mut wrong = Vec::new();
        let mut quantity = |flag: &str, text: &str| match text {
            "none" => None,
            text => {
                match values::quantity(text) {
                    Err(why) => wrong.push(format!("--{flag}: {why}, nor none")),
                    Ok(_) if !flag.contains("memory") => {}
                    Ok(_) => {
                        let little = values::memory(text).err();
                        wrong.extend(little.map(|why| format!("--{flag}: {why}")));
                    }
                }
                Some(text.to_owned())
            }
        };
        let resources = Resources {
            cpu_request: quantity("sidecar-cpu-request", &self.sidecar_cpu_request),
            cpu_limit: quantity("sidecar-cpu-limit", &self.sidecar_cpu_limit),
            memory_request: quantity("sidecar-memory-request", &self.sidecar_memory_request),
            memory_limit: quantity("sidecar-memory-limit", &self.sidecar_memory_limit),
        };
        let (cpu, memory) = (
            [&resources.cpu_request, &resources.cpu_limit],
            [&resources.memory_request, &resources.memory_limit],
        );
        wrong.extend(too_much("cpu", cpu));
        wrong.extend(too_much("memory", memory));
        if self.image.trim().is_empty() || self.image.contains(char::is_whitespace) {
            wrong.push(format!("--image: {:?} is not an image", self.image));
        }
        for (flag, name) in [
            ("system-namespace", &self.system_namespace),
            ("service", &self.service),
        ] {
            if !is_dns_label(name) {
                wrong.push(format!("--{flag}: {name:?} is not a name of Kubernetes"));
            }
        }
        let control_plane = self.control_plane.clone().unwrap_or_else(|| {
            let namespace = &self.system_namespace;
            let scheme = self.scheme();
            format!("{scheme}://{CONTROL_PLANE}.{namespace}.svc:{CONTROL_PLANE_PORT}")
        });
        wrong.extend(wrong_url(&control_plane, self.scheme()));
        if let Some(name) = &self.trust_domain
            && !is_trust_domain(name)
        {
            wrong.push(format!(
                "--trust-domain: {name:?} is not 1 to 255 of a-z, 0-9, '.', '-' and '_'"
            ));
        }
        wrong.extend(self.wrong_names());
        if !wrong.is_empty() {
            return Err(OptionsError(wrong));
        }
        Ok(Settings {
            image: self.image.clone(),
            image_pull_policy: self
                .image_pull_policy
                .map(|policy| policy.word().to_owned()),
            control_plane,
            system_namespace: self.system_namespace.clone(),
            kubernetes,
            resources,
            trust_domain: self.trust_domain.clone(),
            socket_mark: None,
        })
    }

    /// Tokens are told to nobody in plaintext.
    fn scheme(&self) -> &'static str {
        match self.trust_domain {
            Some(_) => "https",
            None => "http",
        }
    }

    /// What the certificate is for: the names by which API servers dial.
    pub fn names(&self) -> Vec<String> {
        let (service, namespace) = (&self.service, &self.system_namespace);
        let mut names = vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ];
        names.extend(self.certificate_names.iter().cloned());
        names
    }

    fn wrong_names(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.names().len() > MAX_NAMES {
            wrong.push(format!(
                "--certificate-name: more than {} names",
                MAX_NAMES - 2
            ));
        }
        for name in &self.certificate_names {
            let is_name = name.len() <= 253 && name.split('.').all(is_dns_label);
            if !is_name && name.parse::<IpAddr>().is_err() {
                let what = format!("--certificate-name: {name:?} is neither DNS name nor address");
                wrong.push(what);
            }
        }
        wrong
    }
}

fn too_much(what: &str, [request, limit]: [&Option<String>; 2]) -> Option<String> {
    let (request, limit) = (request.as_deref()?, limit.as_deref()?);
    // What cannot be read has been told.
    let more = values::quantity(request).ok()? > values::quantity(limit).ok()?;
    more.then(|| format!("--sidecar-{what}-request {request} is more than the limit {limit}"))
}

fn wrong_url(text: &str, scheme: &str) -> Option<String> {
    let wrong = |why: &str| Some(format!("--control-plane: {text:?} {why}"));
    let Ok(uri) = text.parse::<http::Uri>() else {
        return wrong("is not a URL");
    };
    if uri.scheme_str() != Some(scheme) {
        return wrong(&format!(
            "does not begin with {scheme}:// (https with --trust-domain, http without)"
        ));
    }
    if uri.port_u16().is_none_or(|port| port == 0) {
        return wrong("names no port");
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return wrong("has a path");
    }
    None
}

/// A name of Kubernetes (RFC 1123): of namespaces, and without risk in a URL.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration up to 20s such as 5s or 500ms");
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let duration = match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(wrong()),
    };
    if duration > MAX_SHUTDOWN_DELAY {
        return Err(wrong());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn read(arguments: &[&str]) -> Result<Options, String> {
        let line = ["injector"].into_iter().chain(arguments.iter().copied());
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        Ok(line.options)
    }

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let settings = read(arguments)?.settings(KubernetesVersion::NATIVE_SIDECARS);
        settings.map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_it_is_as_documented() {
        let options = read(&["--system-namespace=remora-system"]).unwrap();
        assert_eq!(options.listen.to_string(), "[::]:15112");
        assert_eq!(options.admin.to_string(), "[::]:15116");
        assert_eq!(
            options.names(),
            [
                "remora-injector.remora-system.svc",
                "remora-injector.remora-system.svc.cluster.local"
            ]
        );
        assert_eq!(options.shutdown_delay, Duration::from_secs(5));
        assert_eq!(settings(&[]).unwrap(), Settings::default());
    }

    #[test]
    fn every_flag_is_heeded() {
        let arguments = [
            "--system-namespace=mesh",
            "--image=registry.example/proxy:9",
            "--image-pull-policy=IfNotPresent",
            "--sidecar-cpu-request=none",
            "--sidecar-cpu-limit=2",
            "--sidecar-memory-request=32Mi",
            "--sidecar-memory-limit=none",
            "--service=hook",
            "--certificate-name=10.0.0.1",
        ];
        let made = settings(&arguments).unwrap();
        assert_eq!(made.image, "registry.example/proxy:9");
        assert_eq!(made.image_pull_policy.as_deref(), Some("IfNotPresent"));
        assert_eq!(
            made.control_plane,
            "http://remora-control-plane.mesh.svc:15110"
        );
        assert_eq!(made.system_namespace, "mesh");
        assert_eq!(
            made.resources,
            Resources {
                cpu_request: None,
                cpu_limit: Some("2".to_owned()),
                memory_request: Some("32Mi".to_owned()),
                memory_limit: None,
            }
        );
        let names = read(&arguments).unwrap().names();
        assert_eq!(names[0], "hook.mesh.svc");
        assert_eq!(names[2], "10.0.0.1");
        let other = settings(&["--control-plane=http://[fd00::1]:99"]).unwrap();
        assert_eq!(other.control_plane, "http://[fd00::1]:99");
    }

    #[test]
    fn all_that_is_wrong_is_told_together() {
        let error = settings(&[
            "--image=",
            "--control-plane=https://x:1",
            "--sidecar-cpu-request=2",
            "--sidecar-cpu-limit=1",
            "--sidecar-memory-limit=much",
            "--service=A",
            "--certificate-name=-",
        ])
        .unwrap_err();
        for part in [
            "image",
            "http://",
            "more than the limit 1",
            "`much`",
            "\"A\"",
            "\"-\"",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let with = |url: &str| settings(&["--trust-domain=a.b", "--control-plane", url]);
        assert!(with("http://x:1").is_err() && with("https://x:1").is_ok());
        assert!(settings(&["--control-plane=https://x:1"]).is_err());
        assert!(settings(&["--trust-domain=A"]).is_err());
        let own = settings(&["--trust-domain=a.b"]).unwrap();
        assert!(own.control_plane.starts_with("https://"), "{own:?}");
        assert_eq!(own.trust_domain.as_deref(), Some("a.b"));
        let error = settings(&[
            "--sidecar-memory-limit=1Mi",
            "--sidecar-memory-request=none",
        ]);
        let error = error.unwrap_err();
        assert!(
            error.contains("memory-limit: `1Mi`") && error.contains("16Mi"),
            "{error}"
        );
        for url in ["http://x", "http://x:1/y", "x", "http://x:0"] {
            assert!(settings(&["--control-plane", url]).is_err(), "{url}");
        }
        for delay in ["5", "21s", "5m", "s"] {
            assert!(read(&["--shutdown-delay", delay]).is_err(), "{delay}");
        }
        assert!(read(&["--certificate=x", "--certificate-name=y"]).is_err());
    }
}
