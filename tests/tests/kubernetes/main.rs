//! Remora on a real cluster: installed, injected and called as a user does it,
//! by `kubectl` alone.
//!
//! Takes the cluster of `KUBECONFIG`, and installs into it; it should hold nothing
//! of value. The images must be there (`tests/kube/images`). Without `KUBECONFIG`
//! each test says that it was skipped. Where `REMORA_KUBE_DIR` names the folder of
//! `tests/kube/kube up`, components of the cluster are taken away and brought back
//! too.
//!
//! # Layout
//! - [`cluster`]: `kubectl`, and the API server's proxy to a pod's port.
//! - [`shop`]: Remora installed and the demo shop called through it, once for all.
//! - [`guests`]: pods of several service accounts; [`capture`]: what travels between pods.
//! - [`routes`]: calls that go elsewhere by the Gateway API, and its own conformance suite.
//! - [`each_policy`]: the playground's trials, a scenario for each section of TrafficPolicy.
//! - [`install`], [`identity`], [`encryption`], [`authorization`], [`ca`], [`chaos`], [`changes`], [`outage`], [`interception`], [`injection`],
//!   [`least_privilege`]: what is asked of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends where its ground is missing, and measures real time"
)]

mod authorization;
mod ca;
mod capture;
mod changes;
mod chaos;
mod cluster;
/// By this name, so that it comes before `least_privilege`, which looks at what the
/// others used.
#[path = "policies/mod.rs"]
mod each_policy;
mod encryption;
/// By this name, so that it comes before `least_privilege`, which looks at what the
/// others used.
#[path = "routes/mod.rs"]
mod gateway_routes;
mod guests;
mod identity;
mod injection;
mod install;
mod interception;
mod least_privilege;
mod outage;
mod shop;
