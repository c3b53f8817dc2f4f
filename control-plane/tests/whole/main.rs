//! The whole control plane on a loopback port, with a folder of YAML on one
//! side and a scripted sidecar on the other.

#[cfg(test)]
mod client;
#[cfg(test)]
mod cost;
#[cfg(test)]
// Shared with the tests of the sidecar and of the contract, which use more of it.
#[allow(dead_code)]
#[path = "../../../proto/tests/contract/exchange.rs"]
mod exchange;
#[cfg(test)]
mod identity;
#[cfg(test)]
// As the one above.
#[allow(dead_code)]
#[path = "../../../proto/tests/contract/newer.rs"]
mod newer;
#[cfg(test)]
#[path = "../../../proto/tests/contract/raw.rs"]
mod raw;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod reports;
#[cfg(test)]
mod routes;
#[cfg(test)]
// Shared with `cluster`, which uses more of it.
#[allow(dead_code)]
mod sidecar;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod versions;
