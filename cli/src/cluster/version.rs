//! `remora version`: of this program, of the control plane, of the sidecars.

use std::collections::BTreeMap;
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use remora_proto::well_known::CONTROL_PLANE;
use serde::Serialize;

use super::api::Api;
use super::error::Error;
use super::mesh::{self, NAME_LABEL};
use super::options::{Connection, Format, Output};
use super::resources::PODS;
use super::{output, text};

/// Of this program.
pub const OURS: &str = env!("CARGO_PKG_VERSION");

/// Options of `remora version`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit status: 0, also where the cluster does not answer; 2 wrong usage.\n\
    Needs: list pods, get leases.coordination.k8s.io, get pods/proxy in Remora's namespace."
)]
pub struct Options {
    /// Only of this program: no cluster is asked.
    #[arg(long)]
    pub client: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// What is known.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// Of this program.
    pub client: String,
    /// Of the API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<String>,
    /// The control plane's versions, and how many replicas have each; `None`
    /// where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<BTreeMap<String, usize>>,
    /// The sidecars' versions, and how many have each; `None` where that is not
    /// known: only a control plane knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<BTreeMap<String, usize>>,
    /// Why something is not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When nothing can be written; a cluster that does not answer is only said.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let mut versions = Versions {
        client: OURS.to_owned(),
        ..Versions::default()
    };
    if !options.client {
        match Api::connect(&options.connection).await {
            Ok(api) => ask(&api, &mut versions).await,
            Err(error) => versions.unknown.push(error.to_string()),
        }
    }
    let structured = output::structured(options.output.format, &versions)?;
    if options.output.format == Format::Table {
        for unknown in &versions.unknown {
            output::warn(unknown);
        }
    }
    output::print(&structured.unwrap_or_else(|| shown(&versions)))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(api: &Api, versions: &mut Versions) {
    match api.server().await {
        Ok(server) => versions.kubernetes = Some(server.version),
        // Nothing else would be answered.
        Err(error) => return versions.unknown.push(error.to_string()),
    }
    match control_plane(api).await {
        Ok(known) => versions.control_plane = Some(known),
        Err(error) => versions.unknown.push(error.to_string()),
    }
    match mesh::sidecars(api).await {
        Ok(told) => {
            let known = versions.sidecars.get_or_insert_default();
            for sidecar in told.sidecars.into_iter().filter(|one| one.connected) {
                *known.entry(sidecar.version).or_default() += 1;
            }
        }
        Err(error) => versions.unknown.push(error.to_string()),
    }
}

/// The versions of the control plane's pods, by the tags of their images.
///
/// # Errors
/// What the API server says.
pub async fn control_plane(api: &Api) -> Result<BTreeMap<String, usize>, Error> {
    let labels = format!("{NAME_LABEL}={CONTROL_PLANE}");
    let system = api.system_namespace.as_str();
    let pods = api.list::<Pod>(&PODS, Some(system), &labels).await?;
    let mut versions = BTreeMap::new();
    for pod in pods.items.iter().filter(|pod| mesh::lasts(pod)) {
        let containers = pod.spec.as_ref().map(|spec| &spec.containers);
        let image = containers.and_then(|containers| containers.first()?.image.as_deref());
        *versions.entry(tag(image.unwrap_or_default())).or_default() += 1;
    }
    Ok(versions)
}

/// `0.1.0` of `registry:5000/remora/control-plane:0.1.0@sha256:...`.
pub fn tag(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map(|(_, tag)| tag);
    tag.unwrap_or("unknown").to_owned()
}

/// Whether sidecars or a control plane of this version work with one of that:
/// one minor version apart at most.
pub fn is_supported(version: &str, of: &str) -> bool {
    match (minor(version), minor(of)) {
        (Some((major, minor)), Some((other, of))) => major == other && minor.abs_diff(of) <= 1,
        _ => false,
    }
}

/// Major and minor of `0.1.0`, `v0.1.0-rc1`.
pub fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.split('-').next()?.parse().ok()?;
    Some((major, minor))
}

fn shown(versions: &Versions) -> String {
    let counts = |known: &Option<BTreeMap<String, usize>>, what: &str| {
        let Some(known) = known else {
            return "unknown".to_owned();
        };
        let each = known.iter();
        let each = each.map(|(version, count)| {
            format!("{} ({})", text::clean(version), text::counted(*count, what))
        });
        let each = each.collect::<Vec<_>>().join(", ");
        if each.is_empty() {
            "none".to_owned()
        } else {
            each
        }
    };
    let mut shown = format!("client:         {}\n", versions.client);
    if let Some(kubernetes) = &versions.kubernetes {
        shown.push_str(&format!(
            "kubernetes:     {}\ncontrol plane:  {}\nsidecars:       {}\n",
            text::clean(kubernetes),
            counts(&versions.control_plane, "replica"),
            counts(&versions.sidecars, "sidecar"),
        ));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_tag_of_the_image() {
        assert_eq!(tag("remora/control-plane:0.1.0"), "0.1.0");
        assert_eq!(
            tag("localhost:5000/remora/control-plane:0.2.0@sha256:00"),
            "0.2.0"
        );
        assert_eq!(tag("localhost:5000/remora/control-plane"), "unknown");
    }

    #[test]
    fn one_minor_version_apart_is_supported() {
        for (version, of, wanted) in [
            ("0.1.0", "0.1.9", true),
            ("0.2.0", "0.1.0", true),
            ("0.1.0", "0.3.0", false),
            ("1.0.0", "0.1.0", false),
            ("v0.2.0-rc1", "0.1.0", true),
            ("", "0.1.0", false),
        ] {
            assert_eq!(is_supported(version, of), wanted, "{version} with {of}");
        }
    }

    #[test]
    fn what_is_known_is_shown() {
        let versions = Versions {
            client: "0.1.0".to_owned(),
            kubernetes: Some("v1.34.4".to_owned()),
            control_plane: Some([("0.1.0".to_owned(), 2)].into()),
            sidecars: Some(BTreeMap::new()),
            ..Versions::default()
        };
        assert_eq!(
            shown(&versions),
            "client:         0.1.0\nkubernetes:     v1.34.4\n\
             control plane:  0.1.0 (2 replicas)\nsidecars:       none\n"
        );
        let without_control_plane = Versions {
            control_plane: Some(BTreeMap::new()),
            sidecars: None,
            ..versions
        };
        let text = shown(&without_control_plane);
        assert!(
            text.ends_with("control plane:  none\nsidecars:       unknown\n"),
            "{text}"
        );
    }
}
