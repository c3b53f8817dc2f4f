//! The whole control plane in this process, over a real API server: the one
//! that KUBECONFIG names. Without it nothing is tested, and that is said.
//!
//! No kubelet is needed: pods are what these tests say of them. With
//! `REMORA_KUBE=<the kube program>` and `REMORA_KUBE_DIR=<its folder>` the API
//! server is also stopped and started.

#[cfg(test)]
mod leading;
#[cfg(test)]
// Shared with `whole`, which uses all of it.
#[allow(dead_code)]
#[path = "../whole/sidecar.rs"]
mod sidecar;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod world;
