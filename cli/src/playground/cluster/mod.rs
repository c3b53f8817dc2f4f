//! What a cluster does around a mesh, as much of it as the stage needs: a
//! controller for Deployments, one for endpoints, a kubelet for each pod.
//! A stage for the real parts, not a scheduler.
//!
//! - [`yaml`]: documents of a folder, with their places.
//! - [`staging`]: the copy of the user's folder that the control plane watches.
//! - [`catalogue`]: what the folder asks for, the last good version of each object.
//! - [`controller`]: which pods must be made and which must go.
//! - [`pods`]: a Pod object from a template, through the real injector.
//! - [`endpoints`]: EndpointSlices from Services and pods.
//! - [`generated`]: the second folder that the control plane watches.
//! - [`environment`]: a container's variables and command, as the kubelet resolves them.
//! - [`container`]: containers as processes.
//! - [`probes`]: start-up and readiness probes.
//! - [`kubelet`]: a pod's life.

pub mod catalogue;
pub mod container;
pub mod controller;
pub mod endpoints;
pub mod environment;
pub mod generated;
pub mod kubelet;
pub mod pods;
pub mod probes;
pub mod staging;
pub mod yaml;
