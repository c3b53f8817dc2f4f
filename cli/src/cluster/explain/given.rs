//! Services and policies, from a cluster or from files, as the core takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use remora_control_plane::core::objects::{Event, Id, Object, Reach, TrafficPolicy};
use remora_control_plane::policy::check::FieldError;
use remora_control_plane::policy::parse;
use remora_control_plane::problems::Problem;
use remora_control_plane::source::convert::{self, Errors};
use remora_control_plane::source::files::IGNORE_MARK;
use remora_control_plane::source::folder::{Change, Folder};
use serde::Deserialize;
use serde_json::Value;

use super::routes::Routed;
use super::{Refused, around};
use crate::cluster::api::Api;
use crate::cluster::error::Error;
use crate::cluster::resources::{SERVICES, TRAFFIC_POLICIES};

/// Files that are read at most.
const MAX_FILES: usize = 20_000;
/// Folders within folders.
const MAX_DEPTH: usize = 8;
/// Bytes of a file that is read.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Why what is not of its form is not in force.
const INVALID: &str = "Invalid";
/// The kinds that say where calls go.
const ROUTING: [&str; 3] = ["HTTPRoute", "GRPCRoute", "ReferenceGrant"];

/// What a Service with an address of its own is called.
pub const CLUSTER_IP: &str = "ClusterIP";
/// What a Service without an address of its own is called.
pub const EXTERNAL_NAME: &str = "ExternalName";

/// What there is around one Service.
#[derive(Debug)]
pub struct Given {
    /// The Service.
    pub service: Id,
    /// How it is reached.
    pub reach: &'static str,
    /// The labels that its pods have for certain: those of its selector.
    pub labels: BTreeMap<String, String>,
    /// The policies of its namespace.
    pub policies: Vec<TrafficPolicy>,
    /// Policies of its namespace that cannot be in force as they are.
    pub broken: Vec<Refused>,
    /// Routes and grants of any namespace that cannot be read: what they name is not known,
    /// so each may have been meant for the Service.
    pub unread: Vec<Routed>,
    /// What of its routes could not be looked at.
    pub doubt: Option<String>,
    /// All objects that its routes depend on, itself and policies among them.
    pub objects: Vec<Object>,
}

/// `files:DIR`.
pub fn parse_source(text: &str) -> Result<PathBuf, String> {
    let folder = text.strip_prefix("files:");
    let folder = folder.filter(|folder| !folder.is_empty());
    folder
        .map(PathBuf::from)
        .ok_or_else(|| format!("{text:?} is not files:DIR"))
}

fn shown(reach: &Reach) -> &'static str {
    match reach {
        Reach::ClusterIp(_) => CLUSTER_IP,
        Reach::Headless => "Headless",
        Reach::ExternalName => EXTERNAL_NAME,
    }
}

/// A policy as the API server gives it.
#[derive(Debug, Deserialize)]
pub struct Written {
    /// Its name and generation among it.
    pub metadata: ObjectMeta,
    /// As it stands there.
    #[serde(default)]
    pub spec: Value,
}

/// From a cluster.
///
/// # Errors
/// When the Service is not there, or cannot be read.
pub async fn from_cluster(api: &Api, namespace: &str, name: &str) -> Result<Given, Error> {
    let found: Option<Service> = api.find(&SERVICES, Some(namespace), name).await?;
    let service = found.ok_or_else(|| no_service(namespace, name))?;
    let id = Id::new(namespace, name);
    let read = convert::service(id.clone(), &service, &mut Errors::default());
    let policies = api.list::<Written>(&TRAFFIC_POLICIES, Some(namespace), "");
    let policies = policies.await.map_err(|error| match error {
        Error::NotFound(message) => Error::NotFound(format!(
            "the API server knows no TrafficPolicy: {message} (is Remora installed? `remora check` says)"
        )),
        other => other,
    })?;
    let (policies, broken) = typed(namespace, policies.items);
    let around = around::read(api, &id).await?;
    let mut objects = around.objects;
    objects.extend(
        policies
            .iter()
            .cloned()
            .map(Box::new)
            .map(Object::TrafficPolicy),
    );
    objects.push(Object::Service(read.clone()));
    Ok(Given {
        service: id,
        reach: shown(&read.reach),
        labels: read.selector,
        policies,
        broken,
        // The API server takes none.
        unread: Vec::new(),
        doubt: around.doubt,
        objects,
    })
}

fn no_service(namespace: &str, name: &str) -> Error {
    Error::NotFound(format!(
        "there is no Service {name} in namespace {namespace} (check the name and -n)"
    ))
}

/// The policies as the core takes them, and those that it cannot take.
pub fn typed(namespace: &str, written: Vec<Written>) -> (Vec<TrafficPolicy>, Vec<Refused>) {
    let (mut policies, mut broken) = (Vec::new(), Vec::new());
    for Written { metadata, spec } in written {
        let name = metadata.name.clone().unwrap_or_default();
        match parse::spec(namespace, &name, &spec) {
            Ok(parsed) => policies.push(TrafficPolicy {
                id: Id::new(namespace, &name),
                created: convert::created(&metadata),
                generation: metadata.generation.unwrap_or_default(),
                scope: parsed.scope,
                settings: parsed.settings,
            }),
            Err(errors) => broken.push(Refused {
                policy: name,
                reason: INVALID.to_owned(),
                message: joined(&errors),
            }),
        }
    }
    (policies, broken)
}

/// Faults in one line.
pub fn joined(errors: &[FieldError]) -> String {
    let errors = errors.iter();
    let errors = errors.map(|error| format!("{} {}", error.field, error.message));
    errors.collect::<Vec<_>>().join("; ")
}

/// From folders of YAML, as the control plane's file source reads them.
///
/// # Errors
/// When a folder cannot be read, or has no such Service.
pub fn from_files(folders: &[PathBuf], namespace: &str, name: &str) -> Result<Given, Error> {
    let mut changes = Vec::new();
    for folder in folders {
        walk(folder, 0, &mut changes)?;
    }
    let mut read = Folder::default();
    let events = read.update(changes);
    let id = Id::new(namespace, name);
    let objects: Vec<Object> = events.into_iter().filter_map(applied).collect();
    let (mut found, mut policies) = (None, Vec::new());
    for object in &objects {
        match object {
            Object::Service(service) if service.id == id => {
                found = Some((shown(&service.reach), service.selector.clone()));
            }
            Object::TrafficPolicy(policy) if *policy.id.namespace == *namespace => {
                policies.push((**policy).clone());
            }
            _ => {}
        }
    }
    let prefix = format!("TrafficPolicy {namespace}/");
    let mut problems = read.problems();
    problems.retain(|problem| !problem.information);
    let unread = unread(&problems);
    // What is not even an object may have been a policy of this namespace.
    let broken = problems.iter().filter_map(|problem| {
        let name = match problem.object.strip_prefix(&prefix) {
            Some(name) => name.to_owned(),
            None if problem.object.is_empty() => "?".to_owned(),
            None => return None,
        };
        Some(Refused {
            policy: name,
            reason: INVALID.to_owned(),
            message: placed(problem),
        })
    });
    let (reach, labels) = found.ok_or_else(|| no_service(namespace, name))?;
    Ok(Given {
        broken: broken.collect(),
        unread,
        doubt: None,
        objects,
        reach,
        labels,
        service: id,
        policies,
    })
}

/// The routes and grants among what is wrong, each once.
fn unread(problems: &BTreeSet<Problem>) -> Vec<Routed> {
    let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for problem in problems {
        let mut kinds = ROUTING.iter();
        if kinds.any(|kind| problem.object.split_once(' ').map(|(of, _)| of) == Some(kind)) {
            let messages = found.entry(&problem.object).or_default();
            messages.push(placed(problem));
        }
    }
    let routed = found.into_iter().map(|(object, messages)| Routed {
        route: object.to_owned(),
        generation: 0,
        in_force: false,
        reason: INVALID,
        message: messages.join("; "),
        problems: Vec::new(),
    });
    routed.collect()
}

/// What is wrong, and where.
fn placed(problem: &Problem) -> String {
    let Problem {
        file,
        line,
        field,
        message,
        ..
    } = problem;
    if field.is_empty() {
        format!("{file}:{line}: {message}")
    } else {
        format!("{file}:{line}: {field} {message}")
    }
}

fn applied(event: Event) -> Option<Object> {
    match event {
        Event::Apply(object) => Some(object),
        _ => None,
    }
}

/// Reads what the file source would read.
fn walk(folder: &Path, depth: usize, into: &mut Vec<(String, Change)>) -> Result<(), Error> {
    let failed = |error| Error::Input(format!("cannot read {}: {error}", folder.display()));
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .map_err(failed)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(['.', '#']) || name.ends_with('~') {
            continue;
        }
        let Ok(metadata) = std::fs::metadata(&path) else {
            continue;
        };
        let ending = path.extension().and_then(|ending| ending.to_str());
        if metadata.is_dir() && path.join(IGNORE_MARK).exists() {
            continue;
        }
        if metadata.is_dir() && depth < MAX_DEPTH {
            walk(&path, depth + 1, into)?;
        } else if metadata.is_file() && matches!(ending, Some("yaml" | "yml" | "json")) {
            if into.len() >= MAX_FILES {
                return Err(Error::Input(format!(
                    "{} has more than {MAX_FILES} files",
                    folder.display()
                )));
            }
            let change = if metadata.len() > MAX_FILE_BYTES {
                Change::Unreadable(format!("is larger than {MAX_FILE_BYTES} bytes"))
            } else {
                match std::fs::read_to_string(&path) {
                    Ok(text) => Change::Text(text),
                    Err(error) => Change::Unreadable(format!("cannot be read: {error}")),
                }
            };
            into.push((path.display().to_string(), change));
        }
    }
    Ok(())
}
