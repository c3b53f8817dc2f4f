//! `remora authorize`: which AuthorizationPolicies are for a pod, and what a
//! given caller would get there, by which of them.
//!
//! - [`given`]: what the answer is made of, from a cluster.
//! - [`mod@show`]: the answer for people.
//!
//! What is for a pod is decided by the control plane's own core, and what a
//! caller gets by the sidecar's own rules; nothing here decides anything.

pub mod given;
pub mod show;

use std::process::ExitCode;

use remora_control_plane::policy::authorization::words;
use remora_proto::spiffe::SpiffeId;
use remora_proto::v1;
use remora_proto::well_known::TRUST_DOMAIN;
use remora_proxy::normalize::normalize;
use remora_proxy::policy::authorize::{Request, Rules, Subject, Verdict};
use remora_proxy::state::decode::authorization;
use remora_proxy::state::decode::problems::Problems;
use serde::Serialize;

use self::given::Given;
use super::FOUND;
use super::api::Api;
use super::error::Error;
use super::options::{Connection, Output, checked_name, parse_name, pod_and_namespace};
use super::output::{self, Paint};

/// Options of `remora authorize`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Without --from, --method, --path and --raw only the policies are shown.\n\
    Exit status: 0 told, and what was asked about may pass; 1 told, and on some port it may not, or a \
    policy of the namespace cannot be read; 2 wrong usage, no such pod, or the cluster cannot be asked.\n\
    Needs: get pods, list services, endpointslices.discovery.k8s.io, trafficpolicies.remora.io and \
    authorizationpolicies.remora.io in the namespace."
)]
pub struct Options {
    /// The pod that is called (`cart-1`, `shop/cart-1`).
    pub pod: String,
    /// Its namespace (default: that of the kubeconfig's context).
    #[arg(short, long, value_name = "NAMESPACE", value_parser = parse_name)]
    pub namespace: Option<String>,
    /// Who calls: `shop/web` (namespace and service account), or a whole SPIFFE
    /// id (default: a caller without an identity).
    #[arg(long, value_name = "IDENTITY")]
    pub from: Option<String>,
    /// The request's method (default: GET).
    #[arg(long, value_name = "METHOD", conflicts_with = "raw")]
    pub method: Option<String>,
    /// The request's path (default: /).
    #[arg(long, value_name = "PATH", conflicts_with = "raw")]
    pub path: Option<String>,
    /// A connection that is not HTTP.
    #[arg(long)]
    pub raw: bool,
    /// The pod's port (default: each that a Service covers).
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Options {
    fn asks(&self) -> bool {
        self.raw || self.from.is_some() || self.method.is_some() || self.path.is_some()
    }
}

/// What is in force on a pod, and what somebody would get.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// `namespace/name`
    pub pod: String,
    /// The policies that are for it.
    pub policies: Vec<Policy>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Who was asked about; absent: a caller without an identity.
    pub from: Option<String>,
    /// What was asked about, in words; absent where nothing was.
    pub asked: Option<String>,
    /// Policies of the namespace that cannot be read, and why.
    pub invalid: Vec<String>,
}

/// A policy that is for the pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `namespace/name`
    pub policy: String,
    /// Allow, Deny, Audit.
    pub action: &'static str,
    /// For these ports; empty: for all.
    pub ports: Vec<u32>,
    /// Of whom, in words.
    pub from: Vec<String>,
    /// What, in words.
    pub to: Vec<String>,
}

/// One port of the pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// What it takes without mutual TLS: Strict, Permissive, Disabled.
    pub mode: &'static str,
    /// What becomes of what was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// What becomes of a call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Whether it may pass.
    pub passes: bool,
    /// By which policy, or why by none.
    pub by: String,
    /// The Audit policies that tell of it.
    pub audited: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such pod, or what is there cannot be read.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let (namespace, name) = pod_and_namespace(&options.pod, options.namespace.as_deref())?;
    if let Some(from) = &options.from {
        // What is no identity in one trust domain is none in any.
        identity(from, TRUST_DOMAIN)?;
    }
    let api = Api::connect(&options.connection).await?;
    let namespace = checked_name(namespace.unwrap_or(&api.default_namespace))?;
    let given = given::from_cluster(&api, namespace, name).await?;
    let answer = answer(&given, &options)?;
    let text = output::structured(options.output.format, &answer)?;
    output::print(&text.unwrap_or_else(|| show::text(&answer, Paint::of_stdout())))?;
    let mut outcomes = answer.ports.iter().filter_map(|port| port.outcome.as_ref());
    let is_fine = outcomes.all(|one| one.passes) && answer.invalid.is_empty();
    Ok(if is_fine { ExitCode::SUCCESS } else { FOUND })
}

/// What is said, from what was given.
///
/// # Errors
/// When what is asked about is not well-formed.
pub fn answer(given: &Given, options: &Options) -> Result<Answer, Error> {
    let workload = &given.workload;
    let domain = given.trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
    let from = options.from.as_deref();
    let from = from.map(|text| identity(text, domain)).transpose()?;
    let mut problems = Problems::default();
    let rules = authorization::rules(&workload.authorizations, &mut problems);
    let rules = problems.finish(rules).map_err(|error| Error::Answer {
        what: "the policies of the pod".to_owned(),
        cause: error.to_string(),
    })?;
    let mut ports: Vec<(u16, v1::MtlsMode)> = workload
        .ports
        .iter()
        .filter_map(|port| Some((u16::try_from(port.port).ok()?, port.mtls())))
        .collect();
    if let Some(wanted) = options.port {
        let known = ports.iter().find(|(port, _)| *port == wanted);
        let mode = known.map_or(workload.mtls(), |(_, mode)| *mode);
        ports = vec![(wanted, mode)];
    }
    if ports.is_empty() && options.asks() {
        let message = format!(
            "no Service covers a port of {}: name one with --port",
            given.pod
        );
        return Err(Error::Usage(message));
    }
    let shown = |(port, mode): (u16, v1::MtlsMode)| Port {
        port,
        mode: remora_control_plane::policy::mtls::word(mode),
        outcome: options
            .asks()
            .then(|| outcome(&rules, options, from.as_ref(), port, mode)),
    };
    Ok(Answer {
        pod: given.pod.clone(),
        policies: workload
            .authorizations
            .iter()
            .map(|one| policy(one, domain))
            .collect(),
        ports: ports.into_iter().map(shown).collect(),
        asked: options.asks().then(|| asked(options)),
        from: from.map(|id| id.to_string()),
        invalid: given.invalid.clone(),
    })
}

fn identity(text: &str, domain: &str) -> Result<SpiffeId, Error> {
    let whole = match words::short_identity(text) {
        Some((namespace, account)) => SpiffeId::new(domain, namespace, account).ok(),
        None => text.parse().ok(),
    };
    whole.ok_or_else(|| Error::Usage(format!("--from: {text:?} is not {}", words::IDENTITY)))
}

fn asked(options: &Options) -> String {
    if options.raw {
        return "a connection that is not HTTP".to_owned();
    }
    let (method, path) = method_and_path(options);
    format!("{method} {path}")
}

fn method_and_path(options: &Options) -> (&str, &str) {
    (
        options.method.as_deref().unwrap_or("GET"),
        options.path.as_deref().unwrap_or("/"),
    )
}

fn outcome(
    rules: &Rules,
    options: &Options,
    from: Option<&SpiffeId>,
    port: u16,
    mode: v1::MtlsMode,
) -> Outcome {
    let refused = |by: String| Outcome {
        passes: false,
        by,
        audited: Vec::new(),
    };
    if mode == v1::MtlsMode::Strict && from.is_none() {
        return refused("the port takes nothing but mutual TLS (Strict)".to_owned());
    }
    let (method, path) = method_and_path(options);
    let path = path.split('?').next().unwrap_or_default();
    let normal = if rules.names_paths() && !options.raw {
        match normalize(path) {
            Ok(normal) => normal,
            Err(ambiguity) => return refused(format!("its path, which {ambiguity} (400)")),
        }
    } else {
        path.into()
    };
    let subject = Subject {
        identity: from,
        port,
        request: (!options.raw).then_some(Request {
            method,
            overrides: &[],
            path: Some(&normal),
        }),
    };
    let (passes, by) = match rules.judge(&subject) {
        Verdict::Allowed(Some(rule)) => (true, format!("Allow {}", rule.policy)),
        Verdict::Allowed(None) => (true, "no Allow counts for the port".to_owned()),
        Verdict::DeniedBy(rule) => (false, format!("Deny {}", rule.policy)),
        Verdict::NotAllowed => (
            false,
            "no Allow that counts for the port matches".to_owned(),
        ),
    };
    let audited = rules.audited(&subject);
    let audited = audited.map(|rule| rule.policy.to_string()).collect();
    Outcome {
        passes,
        by,
        audited,
    }
}

/// A policy in the words of who wrote it.
fn policy(one: &v1::Authorization, domain: &str) -> Policy {
    use v1::authorization::Action;
    let reference = one.policy.clone().unwrap_or_default();
    Policy {
        policy: format!("{}/{}", reference.namespace, reference.name),
        action: match one.action() {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
            Action::Audit => "Audit",
            Action::Unspecified => "?",
        },
        ports: one.ports.clone(),
        from: one.from.iter().map(|from| caller(from, domain)).collect(),
        to: one.to.iter().map(request).collect(),
    }
}

fn caller(from: &v1::CallerMatch, domain: &str) -> String {
    let short = |id: &String| match id.parse::<SpiffeId>() {
        Ok(id) if id.trust_domain() == domain => {
            format!("{}/{}", id.namespace(), id.service_account())
        }
        _ => id.clone(),
    };
    let mut parts: Vec<String> = Vec::new();
    if !from.identities.is_empty() {
        let ids: Vec<String> = from.identities.iter().map(short).collect();
        parts.push(ids.join(" or "));
    }
    if !from.namespaces.is_empty() {
        parts.push(format!("of {}", from.namespaces.join(" or ")));
    }
    parts.join(" ")
}

fn request(to: &v1::RequestMatch) -> String {
    use v1::path_rule::Rule;
    let path = |rule: &v1::PathRule| match &rule.rule {
        Some(Rule::Exact(exact)) => exact.clone(),
        Some(Rule::Prefix(prefix)) => format!("{prefix}/*"),
        None => "?".to_owned(),
    };
    let paths: Vec<String> = to.paths.iter().map(path).collect();
    let ports: Vec<String> = to.ports.iter().map(u32::to_string).collect();
    let parts = [
        ("", &to.methods),
        ("", &paths),
        ("gRPC ", &to.grpc_methods),
        ("port ", &ports),
    ];
    let parts = parts.into_iter().filter(|(_, words)| !words.is_empty());
    let parts = parts.map(|(name, words)| format!("{name}{}", words.join("|")));
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
