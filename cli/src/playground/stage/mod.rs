//! The stage: mounts, and the network between pods.

pub mod mounts;
pub mod network;
