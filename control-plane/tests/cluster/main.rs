//! The whole control plane in this process, over a real API server: the one
//! that KUBECONFIG names. Without it nothing is tested, and that is said.
//!
//! No kubelet is needed: pods are what these tests say of them. Where
//! `REMORA_KUBE_DIR` names the folder of a cluster of `tests/kube`, its API
//! server is also stopped and started.

#[cfg(test)]
mod identity;
#[cfg(test)]
mod leading;
#[cfg(test)]
mod replica;
#[cfg(test)]
mod routes;
#[cfg(test)]
// Shared with `whole`, which uses all of it.
#[allow(dead_code)]
#[path = "../whole/sidecar.rs"]
mod sidecar;
#[cfg(test)]
mod statuses;
#[cfg(test)]
mod stories;
#[cfg(test)]
// Shared with `whole`, which uses all of it.
#[allow(dead_code)]
#[path = "../whole/tls.rs"]
mod tls;
#[cfg(test)]
mod world;
