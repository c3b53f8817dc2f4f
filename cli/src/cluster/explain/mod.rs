//! `remora explain`: what is in force on a Service, and whose doing it is; and
//! which way a request takes, and why no other.
//!
//! - [`given`]: Services and policies, from a cluster or from files; [`around`]:
//!   what routes depend on besides.
//! - [`routes`]: the Service's routes; [`request`]: one request's way; [`words`].
//! - [`mod@show`]: the answer for people; [`show_routes`]: what it says of routes.
//!
//! What is in force is decided by the control plane's own core, and which rule a
//! request takes by the sidecar's own matcher; nothing here merges or matches.

pub mod around;
pub mod given;
pub mod request;
pub mod routes;
pub mod show;
pub mod show_routes;
pub mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use remora_control_plane::core::objects::{Id, Name, Target, TrafficPolicy};
use remora_control_plane::core::policies::{Named, Policies};
use remora_control_plane::core::resolve::leaves::rule::RuleLeaf;
use remora_control_plane::core::resolve::leaves::{leaves, listed};
use remora_proto::v1::PolicyReference;
use serde::Serialize;
use serde_json::Value;

use self::given::{CLUSTER_IP, EXTERNAL_NAME, Given};
use super::api::Api;
use super::error::Error;
use super::options::{Connection, Output, checked_name, parse_name, pod_and_namespace};
use super::output::{self, Paint};

/// Options of `remora explain`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit status: 0 told; 1 told, and some policy or route that names the Service, or a \
    policy of its namespace, is not in force as it is meant; 2 wrong usage, no such Service, or the \
    cluster cannot be asked.\n\
    Needs: get services and list trafficpolicies.remora.io in the namespace; where the Gateway API is \
    installed list httproutes and grpcroutes of all namespaces, and in the namespaces that these name \
    services, trafficpolicies.remora.io and referencegrants. With --source no cluster."
)]
pub struct Options {
    /// The Service (`catalog`, `shop/catalog`).
    pub service: String,
    /// Its namespace (default: that of the kubeconfig's context; with --source: default).
    #[arg(short, long, value_name = "NAMESPACE", value_parser = parse_name)]
    pub namespace: Option<String>,
    /// Read a folder of YAML instead of a cluster; several are one source.
    #[arg(long = "source", value_name = "files:DIR", value_parser = given::parse_source)]
    pub sources: Vec<PathBuf>,
    /// One request.
    #[command(flatten)]
    pub asked: request::Asked,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

/// What is in force on a Service.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `namespace/name`.
    pub service: String,
    /// How it is reached: `ClusterIP`, `Headless`, `ExternalName`.
    pub reach: &'static str,
    /// The policies that take part, the most specific first.
    pub policies: Vec<Taking>,
    /// Every leaf that is in force.
    pub fields: Vec<Field>,
    /// The policies that select pods, where they may be the Service's: of each port the strictest
    /// mode counts.
    pub of_pods: Vec<OfPods>,
    /// What is not in force, and why.
    pub not_in_force: Vec<Refused>,
    /// The rules of routes in force in which more is in force than on the Service.
    pub of_rules: Vec<OfRule>,
    /// The routes that name it as their parent, and those of files that cannot be read.
    pub routes: Vec<routes::Routed>,
    /// What of the routes could not be looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// The way of the request that was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<request::Way>,
}

impl Explanation {
    /// Whether everything that is there is in force as it is meant.
    fn is_whole(&self) -> bool {
        let mut routes = self.routes.iter();
        self.not_in_force.is_empty()
            && routes.all(|route| route.in_force && route.problems.is_empty())
    }
}

/// A policy that takes part.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Taking {
    /// Its name, in the Service's namespace.
    pub name: String,
    /// Which of its generations.
    pub generation: i64,
    /// By which of its targets: `Service`, `Namespace`.
    pub by: Vec<&'static str>,
}

/// One leaf.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Field {
    /// Its path below `spec`.
    pub field: String,
    /// What is in force.
    pub value: Value,
    /// The policy's name, or `default`.
    pub from: String,
    /// Whether it is a default, which no policy says.
    pub is_default: bool,
}

/// What is in force on a rule of a route, where that is more than on the Service: rule over route
/// over Service over Namespace, leaf by leaf.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfRule {
    /// `HTTPRoute shop/payment`
    pub route: String,
    /// The rule's name, or its place where it has none.
    pub rule: String,
    /// Every leaf of the blocks in which rule or route speak. A policy of another namespace than
    /// the Service's is named with it; what the route itself says is from the route.
    pub fields: Vec<Field>,
}

/// A policy that selects pods by their labels.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfPods {
    /// Its name, in the Service's namespace.
    pub name: String,
    /// Which of its generations.
    pub generation: i64,
    /// Whether it selects all pods that the Service selects; else those of them that have the
    /// other labels too.
    pub selects_all: bool,
    /// Its selector, as `kubectl get pods -l` takes it; empty for all pods.
    pub selector: String,
    /// What it says: paths below `spec`, and their values.
    pub fields: BTreeMap<&'static str, Value>,
}

/// A policy that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Its name, or where it stands.
    pub policy: String,
    /// `Conflicted`, `TargetNotFound`, `Invalid`.
    pub reason: String,
    /// In words.
    pub message: String,
}

/// Runs the command.
///
/// # Errors
/// When there is no such Service, or nothing can be read.
pub async fn run(options: Options) -> Result<ExitCode, Error> {
    let (namespace, name) = match options.service.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (options.namespace.as_deref(), options.service.as_str()),
    };
    if let (Some(one), Some(other)) = (namespace, options.namespace.as_deref())
        && one != other
    {
        let message = format!("{} is not in namespace {other}", options.service);
        return Err(Error::Usage(message));
    }
    let name = checked_name(name)?;
    let given = if options.sources.is_empty() {
        let api = Api::connect(&options.connection).await?;
        let namespace = checked_name(namespace.unwrap_or(&api.default_namespace))?;
        given::from_cluster(&api, namespace, name).await?
    } else {
        let namespace = checked_name(namespace.unwrap_or("default"))?;
        given::from_files(&options.sources, namespace, name)?
    };
    let explanation = explain(given, &options.asked)?;
    let text = output::structured(options.output.format, &explanation)?;
    output::print(&text.unwrap_or_else(|| show::text(&explanation, Paint::of_stdout())))?;
    Ok(if explanation.is_whole() {
        ExitCode::SUCCESS
    } else {
        super::FOUND
    })
}

/// What is in force, from what was given.
///
/// # Errors
/// When what is asked about is no request to the Service.
pub fn explain(mut given: Given, asked: &request::Asked) -> Result<Explanation, Error> {
    let together = routes::Together::new(&given.service, std::mem::take(&mut given.objects));
    let request = asked.path.is_some().then(|| way(&given, &together, asked));
    let request = request.transpose()?;
    let given = &given;
    let id = &given.service;
    let mut policies = Policies::default();
    for policy in &given.policies {
        policies.apply(policy.clone());
    }
    let fields = leaves(&policies, &id.namespace, Some(&id.name));
    let fields = fields.into_iter().map(|leaf| Field {
        field: leaf.field.to_owned(),
        value: leaf.value,
        is_default: leaf.from.is_none(),
        from: leaf.from.map_or("default".to_owned(), |from| from.name),
    });
    let routes = [together.routes(), given.unread.clone()].concat();
    Ok(Explanation {
        of_rules: of_rules(id, &together, &routes),
        service: id.to_string(),
        reach: given.reach,
        fields: fields.collect(),
        policies: taking(given, &policies),
        of_pods: of_pods(given, &policies),
        not_in_force: refused(given, &policies),
        routes,
        doubt: given.doubt.clone(),
        request,
    })
}

/// The rules of the routes that are in force.
fn of_rules(id: &Id, together: &routes::Together, routes: &[routes::Routed]) -> Vec<OfRule> {
    let in_force = |route: &str| {
        let mut routes = routes.iter();
        routes.any(|one| one.route == route && one.in_force)
    };
    let rules = together.rules().into_iter().map(|rule| {
        let route = rule.route.to_string();
        let leaves = rule.leaves.into_iter();
        let fields = leaves.map(|RuleLeaf { leaf, by_route }| Field {
            field: leaf.field.to_owned(),
            value: leaf.value,
            is_default: leaf.from.is_none() && !by_route,
            from: match leaf.from {
                _ if by_route => route.clone(),
                None => "default".to_owned(),
                Some(from) if *from.namespace == *id.namespace => from.name,
                Some(from) => format!("{}/{}", from.namespace, from.name),
            },
        });
        OfRule {
            fields: fields.collect(),
            rule: rule.rule,
            route,
        }
    });
    rules.filter(|rule| in_force(&rule.route)).collect()
}

/// The way of the request that is asked about.
fn way(
    given: &Given,
    together: &routes::Together,
    asked: &request::Asked,
) -> Result<request::Way, Error> {
    let own = &*given.service.namespace;
    let from = match &asked.from {
        None => own,
        Some(pod) => {
            let (namespace, _) = pod_and_namespace(pod, None)?;
            checked_name(namespace.unwrap_or(own))?
        }
    };
    let service = together.service_for(from)?;
    let service = service
        .filter(|_| given.reach == CLUSTER_IP)
        .ok_or_else(|| {
            Error::Usage(format!(
                "Service {} is {}: routes are for calls to a cluster IP, of which it has none",
                given.service, given.reach
            ))
        })?;
    request::way(&service, asked, from)
}

/// The target of a policy, where it is about the Service.
fn about<'a>(id: &Id, target: &'a Target) -> Option<(&'a Target, &'static str)> {
    match target {
        Target::Service(name) if *name == id.name => Some((target, "Service")),
        Target::Service(_) | Target::Route { .. } => None,
        Target::Namespace => Some((target, "Namespace")),
    }
}

fn taking(given: &Given, policies: &Policies) -> Vec<Taking> {
    let id = &given.service;
    let effective =
        remora_control_plane::core::resolve::effective(policies, &id.namespace, Some(&id.name));
    let take = |reference: PolicyReference| {
        let policy = given.policies.iter();
        let policy = policy.filter(|policy| *policy.id.name == *reference.name);
        let by = policy.flat_map(|policy| in_force_by(id, policy, policies));
        Taking {
            by: by.collect(),
            generation: reference.generation,
            name: reference.name,
        }
    };
    effective.policies.into_iter().map(take).collect()
}

/// The policies that select pods of the Service, or may.
fn of_pods(given: &Given, policies: &Policies) -> Vec<OfPods> {
    if given.reach == EXTERNAL_NAME {
        return Vec::new();
    }
    let of_pods = policies.of_pods(&given.service.namespace);
    let of_pods = of_pods.filter_map(|(policy, selector)| {
        let selects = selector.selects_with(&given.labels);
        (selects != Some(false)).then(|| OfPods {
            name: policy.id.name.to_string(),
            generation: policy.generation,
            selects_all: selects == Some(true),
            selector: selector.to_string(),
            fields: listed(&policy.settings).into_iter().collect(),
        })
    });
    of_pods.collect()
}

fn in_force_by(id: &Id, policy: &TrafficPolicy, policies: &Policies) -> Vec<&'static str> {
    let targets = policy.scope.targets().iter();
    let targets = targets.filter_map(|target| about(id, target));
    let holds = |target: &Target| {
        let holder = policies.in_force(&id.namespace, target.clone());
        holder.is_some_and(|holder| holder.id == policy.id)
    };
    targets
        .filter(|(target, _)| holds(target))
        .map(|(_, by)| by)
        .collect()
}

fn refused(given: &Given, policies: &Policies) -> Vec<Refused> {
    let id = &given.service;
    let named = |_: &Name, target: &Target| match (given.reach, target) {
        (EXTERNAL_NAME, Target::Service(name)) if *name == id.name => Named::External,
        (_, Target::Service(name)) if *name == id.name => Named::Service,
        _ => Named::Nothing,
    };
    let conditions = policies.conditions(named);
    let mut refused = given.broken.clone();
    for condition in conditions
        .into_iter()
        .filter(|condition| !condition.accepted)
    {
        let mut named = given.policies.iter();
        let target = named
            .find(|policy| policy.id == condition.policy)
            .and_then(|policy| policy.scope.targets().get(condition.target_index));
        if target.is_some_and(|target| about(id, target).is_some()) {
            refused.push(Refused {
                policy: condition.policy.name.to_string(),
                reason: condition.reason.as_str().to_owned(),
                message: condition.message,
            });
        }
    }
    refused
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_routes;
