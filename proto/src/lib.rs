//! The wire contract of Remora: all that its daemons share.
//!
//! # Layout
//! - [`well_known`]: names that are the same everywhere (ports, labels,
//!   annotations, type URLs, forms of resource names).
//! - [`bounds`]: what a resource may hold.
//! - [`pattern`]: regular expressions, as routes have them.
//! - [`ports`]: ranges of ports as annotations and settings write them.
//! - [`spiffe`]: the ids of pods.
//! - [`v1`]: the resources of the stream, the report stream and certificates (`proto/remora/v1`).
//! - [`discovery`]: the published xDS v3 incremental transport that carries them.
//!
//! The code under `generated` comes from `proto/` by `tests/generated.rs`
//! (`REMORA_REGENERATE=1 cargo test -p remora-proto`), which also fails when
//! it is out of date; so no build of the product needs a protobuf compiler.

pub mod bounds;
pub mod pattern;
pub mod ports;
pub mod spiffe;
pub mod well_known;

/// Remora's own resources and the report stream.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod v1 {
    include!("generated/remora.v1.rs");
}

/// The xDS transport, `envoy.service.discovery.v3`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
pub mod discovery {
    pub use super::envoy::config::core::v3::Node;
    pub use super::envoy::service::discovery::v3::*;
    pub use super::google::rpc::Status;
}

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                include!("generated/envoy.config.core.v3.rs");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                include!("generated/envoy.service.discovery.v3.rs");
            }
        }
    }
}

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
mod google {
    pub mod rpc {
        include!("generated/google.rpc.rs");
    }
}
