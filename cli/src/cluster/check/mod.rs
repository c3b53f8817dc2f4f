//! `remora check`: what is wrong with an installation, and what to do.
//!
//! - [`finding`]: what is told, and how.
//! - [`before`]: whether the cluster can take an installation.
//! - [`installed`]: whether Remora's own parts are well; [`schema`] and
//!   [`certificate`]: the reading that this needs.
//! - [`workloads`]: pods, sidecars, policies; [`routes`]: routes and their status.

pub mod before;
pub mod certificate;
pub mod finding;
pub mod installed;
pub mod routes;
pub mod schema;
pub mod workloads;

use std::process::ExitCode;

use self::finding::{Finding, Level};
use super::api::Api;
use super::error::Error;
use super::mesh;
use super::options::{Connection, Output, parse_name};
use super::output::{self, Paint};
use crate::playground::clock;

/// The CustomResourceDefinition of TrafficPolicy.
const DEFINITION: &str = "trafficpolicies.remora.io";
/// That of AuthorizationPolicy.
const AUTHORIZATION_DEFINITION: &str = "authorizationpolicies.remora.io";
/// The version of them that this program knows.
const VERSION: &str = "v1alpha1";
/// What to do where a part is missing.
const INSTALL: &str = "kubectl apply -k manifests/install";

/// What to do where everything is.
const INSTALL_FIRST: &str = "remora check --pre, then kubectl apply -k manifests/install \
    (is it installed in another namespace? --system-namespace)";

/// Options of `remora check`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit status: 0 no errors; 1 at least one error; 2 wrong usage, or the cluster \
    cannot be asked. Warnings do not change it.\n\
    What you may not read is said and passed over. Needs, to look at everything: get \
    customresourcedefinitions, get and list mutatingwebhookconfigurations, list pods, namespaces and \
    trafficpolicies and authorizationpolicies of remora.io, and, where the Gateway API is installed, its \
    httproutes and grpcroutes in the whole cluster; get deployments, leases, secrets and pods/proxy, \
    list endpointslices in Remora's namespace."
)]
pub struct Options {
    /// Before an installation: whether this cluster can take Remora.
    #[arg(long)]
    pub pre: bool,
    /// Only the pods and policies of this namespace (default: of all).
    #[arg(short, long, value_name = "NAMESPACE", value_parser = parse_name, conflicts_with = "pre")]
    pub namespace: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked at all.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let api = Api::connect(&options.connection).await?;
    let server = api.server().await?;
    mesh::checked_namespace(&api, options.namespace.as_deref()).await?;
    let mut findings = vec![before::server(&server)];
    if options.pre {
        findings.extend(before::findings(&api).await);
    } else if before::is_absent(&before::present(&api).await) {
        let message = "nothing of Remora is in this cluster";
        findings.push(Finding::error("installation", message, INSTALL_FIRST));
    } else {
        // The Lease's time is a control plane's: of the clocks at hand the API server's is nearer.
        let now = server.now.unwrap_or_else(own_seconds);
        findings.extend(installed::findings(&api, now).await);
        findings.extend(workloads::findings(&api, options.namespace.as_deref(), now).await);
        findings.extend(routes::findings(&api, options.namespace.as_deref()).await);
    }
    let text = output::structured(options.output.format, &findings)?;
    output::print(&text.unwrap_or_else(|| finding::table(&findings, Paint::of_stdout())))?;
    Ok(if has_error(&findings) {
        super::FOUND
    } else {
        ExitCode::SUCCESS
    })
}

fn own_seconds() -> i64 {
    i64::try_from(clock::unix_ms() / 1_000).unwrap_or(i64::MAX)
}

fn has_error(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Error)
}
