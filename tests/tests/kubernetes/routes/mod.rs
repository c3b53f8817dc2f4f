//! Routes on a real cluster: applied by `kubectl`, called from pods, read back
//! from their status. Each group of rows of the table in docs/gateway-api.md.
//!
//! - [`world`]: the applications and who calls them.
//! - [`matches`], [`filters`], [`conduct`]: what a rule takes, does and bears.
//! - [`parents`]: whose calls; [`status`]: what is said of a route.
//! - [`published`]: the Gateway API's own conformance suite.

mod conduct;
mod filters;
mod matches;
mod parents;
mod published;
mod status;
mod world;
