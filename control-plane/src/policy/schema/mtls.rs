//! `mtls`: what the targets take from callers without the mesh's TLS.

use std::collections::BTreeMap;

use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::forms;

/// What the targets take from callers without the mesh's TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// What ports take that are not named in ports. Strict: nothing but mutual TLS between
    /// sidecars. Permissive: plaintext and the application's own TLS too, as callers without an
    /// identity. Disabled: sidecars send plaintext. Of a Service's policy it is for the ports that
    /// the Service covers, of a Namespace's and of one with podSelector for all ports of the pods;
    /// of several policies that say something about a port the strictest counts.
    ///
    /// Default: Permissive. Example: Strict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
    /// What single ports of the pods take, by the number on which the application listens.
    ///
    /// Default: none. Example: {"9090": Permissive}.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = are_ports())]
    pub ports: Option<BTreeMap<String, MtlsMode>>,
}

/// What is taken from callers without the mesh's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(transform = forms::described_by_field)]
pub enum MtlsMode {
    /// Nothing.
    Strict,
    /// Everything, as callers without an identity.
    Permissive,
    /// Everything, and sidecars send plaintext.
    Disabled,
}

fn are_ports() -> Rule {
    Rule::new("self.all(port, port.matches('^[1-9][0-9]{0,4}$') && int(port) <= 65535)")
        .message("must name ports by number, from 1 to 65535")
}
