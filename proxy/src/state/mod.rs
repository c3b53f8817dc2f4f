//! What the control plane says, as the rest of the sidecar reads it. How it
//! gets here is [`crate::stream`]'s business.
//!
//! # Layout, in the order in which a resource passes through
//! - [`decode`]: from bytes to checked types, or to every reason why not.
//! - [`resource`]: those types.
//! - [`controller`]: what the stream's news and the workers' questions do to the state.
//! - [`subscriptions`]: what was asked for, and who waits.
//! - [`service_state`], [`departed`]: one service with its endpoints, and those that left.
//! - [`endpoint_list`]: its endpoints as the balancer wants them.
//! - [`snapshot`]: the immutable picture that the workers read.
//! - [`ledger`]: what is in force and what was refused, for people and reports.
//! - [`mesh`]: the handle to all of it.

pub mod controller;
pub mod decode;
pub mod departed;
pub mod endpoint_list;
pub mod ledger;
pub mod mesh;
pub mod resource;
pub mod service_state;
pub mod snapshot;
pub mod subscriptions;
#[cfg(test)]
pub(crate) mod testing;

pub use self::endpoint_list::{EndpointList, Plan};
pub use self::mesh::{Counts, Mesh, Resolution, Status};
pub use self::resource::{
    Destination, EndpointConfig, InboundPort, MeshProtocols, MtlsMode, PolicyReference, Protocol,
    Secured, ServiceConfig, ServiceKind, ServicePort, WorkloadConfig,
};
pub use self::snapshot::{Endpoint, Service, Snapshot, Workload};
