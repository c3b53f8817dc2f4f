//! The daemons as users run them: a control plane over a folder of YAML, real
//! sidecars as processes in explicit mode on loopback addresses, small HTTP
//! upstreams behind them; and the playground.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends where its ground is missing, and measures real time"
)]

mod capture;
mod mesh;
mod playground;
mod scenarios;
mod stories;
mod trials;
