//! From the custom resource to what the core takes, once; every fault of the
//! object is reported together.

use remora_proto::v1::{self, authorization, path_rule};
use serde_json::Value;

use super::schema::{self, AuthorizationPolicySpec};
use super::words;
use crate::core::authorizations::{Caller, Identity, Says};
use crate::core::scope::Scope;
use crate::policy::check::{self, FieldError};
use crate::policy::parse::Faults;
use crate::policy::{rates, scope};

/// Whom it is for, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// Whom it is for.
    pub scope: Scope,
    /// What it says.
    pub says: Says,
}

/// Reads the `spec` of an AuthorizationPolicy of a namespace.
///
/// # Errors
/// Every fault of the object, each with its field path and what is allowed.
pub fn spec(namespace: &str, spec: &Value) -> Result<Parsed, Vec<FieldError>> {
    let (read, mut faults) = Faults::read::<AuthorizationPolicySpec>(spec, check::authorization)?;
    let parsed = Parsed {
        scope: scope::read(
            namespace,
            (read.target_refs.as_ref(), read.pod_selector.as_ref()),
            spec,
            &mut faults,
        ),
        says: Says {
            action: match read.action {
                schema::Action::Allow => authorization::Action::Allow,
                schema::Action::Deny => authorization::Action::Deny,
                schema::Action::Audit => authorization::Action::Audit,
            },
            from: each("spec.from", read.from.as_ref(), |at, one| {
                caller(at, one, &mut faults)
            }),
            to: each("spec.to", read.to.as_ref(), |at, one| {
                request(at, one, &mut faults)
            }),
        },
    };
    faults.or(parsed)
}

fn each<T, R>(field: &str, list: Option<&Vec<T>>, mut read: impl FnMut(&str, &T) -> R) -> Vec<R> {
    let list = list.into_iter().flatten().enumerate();
    list.map(|(index, one)| read(&format!("{field}[{index}]"), one))
        .collect()
}

fn caller(at: &str, from: &schema::From, faults: &mut Faults) -> Caller {
    if from.identities.is_none() && from.namespaces.is_none() && !faults.are_below(at) {
        faults.add(at, "must have at least one of: identities, namespaces");
    }
    let is_identity =
        |text: &str| words::is_whole_identity(text) || words::short_identity(text).is_some();
    let (identities, namespaces) = (from.identities.as_ref(), from.namespaces.as_ref());
    faults.words(
        &format!("{at}.identities"),
        identities,
        is_identity,
        words::IDENTITY,
    );
    faults.words(
        &format!("{at}.namespaces"),
        namespaces,
        words::is_namespace,
        words::NAMESPACE,
    );
    let identity = |text: &String| match words::short_identity(text) {
        Some((namespace, account)) => Identity::Own(namespace.to_owned(), account.to_owned()),
        None => Identity::Whole(text.clone()),
    };
    Caller {
        identities: identities.into_iter().flatten().map(identity).collect(),
        namespaces: from.namespaces.clone().unwrap_or_default(),
    }
}

fn request(at: &str, to: &schema::To, faults: &mut Faults) -> v1::RequestMatch {
    let is_empty = to.methods.is_none()
        && to.paths.is_none()
        && to.grpc_methods.is_none()
        && to.ports.is_none();
    if is_empty && !faults.are_below(at) {
        faults.add(
            at,
            "must have at least one of: methods, paths, grpcMethods, ports",
        );
    }
    faults.words(
        &format!("{at}.methods"),
        to.methods.as_ref(),
        rates::is_method,
        "an HTTP method in capitals, such as GET",
    );
    faults.words(
        &format!("{at}.paths"),
        to.paths.as_ref(),
        words::is_path,
        words::PATH,
    );
    faults.words(
        &format!("{at}.grpcMethods"),
        to.grpc_methods.as_ref(),
        words::is_grpc_method,
        words::GRPC_METHOD,
    );
    let path = |text: &String| v1::PathRule {
        rule: Some(match text.strip_suffix("/*") {
            Some(prefix) => path_rule::Rule::Prefix(prefix.to_owned()),
            None => path_rule::Rule::Exact(text.clone()),
        }),
    };
    v1::RequestMatch {
        methods: to.methods.clone().unwrap_or_default(),
        paths: to.paths.iter().flatten().map(path).collect(),
        grpc_methods: to.grpc_methods.clone().unwrap_or_default(),
        ports: to.ports.clone().unwrap_or_default(),
    }
}
