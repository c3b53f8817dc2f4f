//! Where objects come from. A source reads its own form of them and feeds
//! the core with events; the core knows nothing of it.
//!
//! # Layout
//! - [`yaml`]: text to documents with the place of each field.
//! - [`document`]: one document to one object, or to all that is wrong with it.
//! - [`convert`]: Kubernetes' types to the core's.
//! - [`folder`]: files to events: what is new, changed, gone, broken.
//! - [`files`]: the watched folders.
//! - [`kubernetes`]: a cluster.
//! - [`origin`]: which of them, as the command line says.

pub mod convert;
pub mod document;
pub mod files;
pub mod folder;
pub mod kubernetes;
pub mod origin;
pub mod yaml;
