//! The two streams to the control plane: configuration in, reports out. What
//! the configuration means is [`crate::state`]'s business.
//!
//! # Layout
//! - [`kind`]: the types of resources.
//! - [`protocol`]: incremental xDS as a pure state machine, with
//!   [`collections`] for what the protocol itself leaves open.
//! - [`channel`], [`backoff`]: a connection to the control plane, and when to try
//!   again; `credentials`: how both know each other.
//! - [`client`]: the task that keeps the configuration stream.
//! - [`report`]: the task that keeps the report stream.

pub mod backoff;
pub mod channel;
pub mod client;
pub mod collections;
mod credentials;
pub mod kind;
pub mod protocol;
pub mod report;

use std::sync::Arc;

use tokio::task::JoinHandle;

pub use self::channel::ControlPlane;
use self::client::Client;
pub use self::kind::Kind;
pub use self::report::{NumberedChange, ReportSource};
pub use crate::state::controller::Identity;
use crate::state::mesh::Mesh;

/// Who this is and where its control plane is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whose sidecar this is.
    pub identity: Identity,
    /// Where the streams go.
    pub control_plane: ControlPlane,
}

/// The streams, not yet begun.
#[derive(Debug)]
pub struct Streams {
    options: Options,
    mesh: Arc<Mesh>,
    client: Client,
}

/// The running streams. Neither ends by itself: one that does is a defect,
/// and the process must not go on without it.
#[derive(Debug)]
pub struct Running {
    /// The configuration stream's task.
    pub configuration: JoinHandle<()>,
    /// The report stream's task.
    pub reports: JoinHandle<()>,
}

impl Streams {
    /// Prepares the streams, and the configuration that they will fill: empty
    /// and not ready until [`Streams::spawn`] has run a while.
    pub fn new(options: Options) -> (Arc<Mesh>, Self) {
        let (mesh, questions) = Mesh::new();
        let client = Client::new(&options, mesh.clone(), questions);
        let streams = Self {
            options,
            mesh: mesh.clone(),
            client,
        };
        (mesh, streams)
    }

    /// Begins, on the present runtime: the control thread's. `source` says
    /// what there is to report besides the configuration.
    pub fn spawn(self, source: Arc<dyn ReportSource>) -> Running {
        let reports = report::keep_reporting(self.options, self.mesh, source);
        Running {
            configuration: tokio::spawn(self.client.run()),
            reports: tokio::spawn(reports),
        }
    }
}
