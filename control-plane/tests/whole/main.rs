//! The whole control plane on a loopback port, with a folder of YAML on one
//! side and a scripted sidecar on the other.

#[cfg(test)]
mod client;
#[cfg(test)]
mod cost;
#[cfg(test)]
// Shared with `cluster`, which uses more of it.
#[allow(dead_code)]
mod sidecar;
#[cfg(test)]
mod stories;
