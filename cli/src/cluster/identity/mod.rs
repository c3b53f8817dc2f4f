//! `remora identity`: who a pod shows itself to be, by which certificate, and
//! whom it believes.
//!
//! - [`answered`]: what its sidecar tells (`GET /identity`).
//! - [`mod@show`]: the answer for people.

pub mod answered;
pub mod show;

use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use remora_proto::well_known::ADMIN_PORT;
use serde::Serialize;

use self::answered::{Answered, Shown};
use super::api::Api;
use super::error::Error;
use super::options::{Connection, Format, Output, checked_name, parse_name, pod_and_namespace};
use super::output::{self, Paint};
use super::{FOUND, mesh};
use crate::playground::clock;

/// Options of `remora identity`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit status: 0 the pod has a valid certificate, and its last renewal did not fail; \
    1 it has none, or an expired one, or the last renewal failed; 2 wrong usage, no such pod, a pod \
    without a sidecar or with one that cannot tell, or the cluster cannot be asked.\n\
    Needs: get pods and get pods/proxy in the namespace."
)]
pub struct Options {
    /// The pod (`web-1`, `shop/web-1`).
    pub pod: String,
    /// Its namespace (default: that of the kubeconfig's context).
    #[arg(short, long, value_name = "NAMESPACE", value_parser = parse_name)]
    pub namespace: Option<String>,
    /// The same as --output json.
    #[arg(long, conflicts_with = "format")]
    pub json: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// How a pod's identity stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It has a certificate that is valid now.
    Valid,
    /// It has one that begins later: a clock is wrong.
    NotYetValid,
    /// The one that it has is past its end.
    Expired,
    /// It is to have one, and none has come.
    Waiting,
    /// It is to have none.
    Disabled,
}

/// The identity of a pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// `namespace/name`
    pub pod: String,
    /// How it stands.
    pub state: State,
    /// Who it shows itself to be.
    pub spiffe_id: Option<String>,
    /// The trust domain whose identities it believes.
    pub trust_domain: Option<String>,
    /// Its certificate, then what leads from it to a root, without the root.
    pub chain: Vec<Certificate>,
    /// When the next certificate is asked for, in milliseconds since 1970.
    pub next_renewal_ms: Option<u64>,
    /// Why the last attempt at a certificate failed; absent once one succeeded.
    pub last_failure: Option<String>,
    /// The trust bundle: whom it believes.
    pub roots: Vec<Certificate>,
    /// What has to be restarted so that the pod is made anew.
    #[serde(skip)]
    pub owner: Option<String>,
    /// When all this was so, in milliseconds since 1970.
    #[serde(skip)]
    pub now_ms: u64,
}

/// One certificate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its serial number, `0a:1b`.
    pub serial: String,
    /// SHA-256 of it whole, in lower-case hexadecimal digits.
    pub sha256: String,
    /// Milliseconds since 1970.
    pub not_before_ms: u64,
    /// Milliseconds since 1970.
    pub not_after_ms: u64,
    /// How long it is valid yet, in seconds; 0 where it is no more.
    pub remaining_seconds: u64,
    /// Of a root: whether the pod's own certificate leads to it. Absent where
    /// the sidecar does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_own: Option<bool>,
}

/// Runs the command.
///
/// # Errors
/// When there is no such pod, or nothing in it that can tell.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let (namespace, name) = pod_and_namespace(&options.pod, options.namespace.as_deref())?;
    let api = Api::connect(&options.connection).await?;
    let namespace = checked_name(namespace.unwrap_or(&api.default_namespace))?;
    let identity = read(&api, namespace, name).await?;
    let format = if options.json {
        Format::Json
    } else {
        options.output.format
    };
    let text = output::structured(format, &identity)?;
    output::print(&text.unwrap_or_else(|| show::text(&identity, Paint::of_stdout())))?;
    let is_fine = identity.state == State::Valid && identity.last_failure.is_none();
    Ok(if is_fine { ExitCode::SUCCESS } else { FOUND })
}

/// Asks a pod's sidecar.
///
/// # Errors
/// When there is no such pod, or nothing in it that can tell.
pub async fn read(api: &Api, namespace: &str, name: &str) -> Result<Identity, Error> {
    let pod = mesh::pod(api, namespace, name).await?;
    let shown = format!("pod {namespace}/{name}");
    if !mesh::has_sidecar(&pod) {
        return Err(Error::NotFound(without_sidecar(&shown, namespace, &pod)));
    }
    if mesh::phase(&pod) != "Running" && !is_starting(&pod) {
        let phase = mesh::phase(&pod);
        return Err(Error::NotFound(format!(
            "{shown} does not run (it is {phase}): its certificate went with its process"
        )));
    }
    let answer = api.pod_admin::<Answered>(namespace, name, ADMIN_PORT, "/identity");
    let answered = answer.await.map_err(|error| match error {
        Error::NotFound(_) => Error::NotFound(older(&shown, namespace, &pod)),
        other => other,
    })?;
    let owner = mesh::owner(&pod);
    let pod = format!("{namespace}/{name}");
    Ok(identity(pod, answered, owner, clock::unix_ms()))
}

/// Its sidecar is an init container, and may run while the pod is pending.
fn is_starting(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    mesh::phase(pod) == "Pending" && status.is_some_and(|status| status.pod_ip.is_some())
}

fn without_sidecar(shown: &str, namespace: &str, pod: &Pod) -> String {
    match mesh::declined(pod) {
        Some(reason) => format!(
            "{shown} has no sidecar, and so no identity: the injector declined it: {reason}"
        ),
        None => format!(
            "{shown} has no sidecar, and so no identity (is its namespace labelled? `remora check \
             -n {namespace}` says why; then {})",
            restart(namespace, mesh::owner(pod).as_deref())
        ),
    }
}

fn older(shown: &str, namespace: &str, pod: &Pod) -> String {
    format!(
        "the sidecar of {shown} is of a version that knows nothing of identities: {}, and it gets \
         the injector's",
        restart(namespace, mesh::owner(pod).as_deref())
    )
}

/// How a pod is made anew.
fn restart(namespace: &str, owner: Option<&str>) -> String {
    match owner {
        Some(owner) => format!("kubectl -n {namespace} rollout restart {owner}"),
        None => "delete the pod and create it again".to_owned(),
    }
}

/// What a sidecar told, at this moment.
fn identity(pod: String, answered: Answered, owner: Option<String>, now_ms: u64) -> Identity {
    let certificate = |shown: Shown| Certificate {
        remaining_seconds: shown.not_after_ms.saturating_sub(now_ms) / 1_000,
        sha256: shown.sha256.replace(':', ""),
        serial: shown.serial,
        not_before_ms: shown.not_before_ms,
        not_after_ms: shown.not_after_ms,
        issued_own: shown.issued_own,
    };
    let certificates = |list: Vec<Shown>| list.into_iter().map(certificate).collect();
    let state = match answered.chain.first() {
        _ if !answered.enabled => State::Disabled,
        None => State::Waiting,
        Some(leaf) if leaf.not_after_ms <= now_ms => State::Expired,
        Some(leaf) if leaf.not_before_ms > now_ms => State::NotYetValid,
        Some(_) => State::Valid,
    };
    Identity {
        pod,
        state,
        spiffe_id: answered.spiffe_id,
        trust_domain: answered.trust_domain,
        chain: certificates(answered.chain),
        next_renewal_ms: answered.next_renewal_ms,
        last_failure: answered.last_error,
        roots: certificates(answered.roots),
        owner,
        now_ms,
    }
}

#[cfg(test)]
mod tests;
