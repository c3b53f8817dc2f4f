//! A pod of the stage, as the world knows it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::cluster::catalogue::Key;
use super::cluster::kubelet::Order;
use super::measure::client::Place;

/// How a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being started.
    Starting,
    /// Runs and is ready.
    Ready,
    /// Killed by order.
    Killed,
    /// Ending by order.
    Leaving,
    /// Could not be started, or a container ended by itself.
    Failing,
}

/// A pod of the stage.
#[derive(Debug)]
pub struct Member {
    /// The Pod object.
    pub pod: Arc<Pod>,
    /// Its Deployment.
    pub deployment: Key,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Whether it was ready before.
    pub was_ready: bool,
    /// Where its sidecar's admin endpoint is, if it has a sidecar.
    pub admin: Option<SocketAddr>,
    /// The process of its sidecar.
    pub sidecar_pid: Option<u32>,
    /// How long its sidecar took to be ready, first seen, in milliseconds.
    pub sidecar_ready_ms: Option<u64>,
    /// Where its application answers orders.
    pub application: Option<Place>,
    pub(super) number: u8,
    pub(super) template: String,
    pub(super) orders: mpsc::Sender<Order>,
}

/// The port by which an application takes orders: the one named `http`, else the first.
pub fn order_port(pod: &Pod) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports: Vec<_> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .collect();
    let named = ports
        .iter()
        .find(|port| port.name.as_deref() == Some("http"));
    named
        .or(ports.first())
        .and_then(|port| u16::try_from(port.container_port).ok())
}
