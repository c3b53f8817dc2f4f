//! The sidecar.
//!
//! # Layout, in the order in which a request meets it
//! - [`config`]: what the sidecar is told at its start; [`daemon`] starts its threads.
//! - [`intercept`]: the redirect rules that bring connections here.
//! - [`worker`]: a data worker; [`socket`] its listeners, [`callers`] its callers.
//! - [`outbound_connection`], [`inbound_connection`], [`explicit`]: where a
//!   connection was going, and what it speaks ([`sniff`], [`detect`],
//!   [`patience`]); [`engine`]: who serves it then.
//! - [`http1`] and [`http2`]: the engines, with [`io`] beneath them; [`caller`]:
//!   whom they serve; [`body`]: what peers send; [`headers`]; [`upstream`]: how
//!   they are asked to send.
//! - [`pipeline`]: the life of a request, and in it: [`routes`], where it goes;
//!   [`policy`], the state machines; [`attempts`] and [`attempt`]; [`select`] over [`balance`], by [`choice`];
//!   [`connect`], [`wire`], [`pool`] and [`shared`]; [`exchange`], what a
//!   request holds; [`grpc`]; [`answer`], what Remora itself says; [`trouble`] before all that,
//!   and [`fallback`] after it.
//! - [`inbound`]: the life of a request to the pod; [`authorization`]: whether it
//!   may, and [`normalize`]: its path, for the rules of that.
//! - [`tcp`] over [`relay`]: raw connections.
//! - [`tls`]: mutual TLS between sidecars; [`identity`]: our own certificate.
//! - [`runtime`]: what all workers share about a service and an endpoint.
//! - [`health`]: probes of applications.
//! - [`state`]: what the control plane says; [`stream`]: how it gets here.
//! - [`admin`], [`metrics`], [`access_log`], [`probes`] with
//!   `probes_grpc`, `probes_http`: what is shown to others.
//! - [`clock`], [`random`], [`ports`], [`alarm`], [`heap`]: small things; the only
//!   clock and chance.

pub mod access_log;
pub mod admin;
pub mod alarm;
pub mod answer;
pub mod attempt;
pub mod attempts;
pub mod authorization;
pub mod balance;
pub mod body;
pub mod caller;
pub mod callers;
pub mod choice;
pub mod clock;
pub mod config;
pub mod connect;
pub mod daemon;
pub mod detect;
pub mod engine;
pub mod exchange;
pub mod explicit;
pub mod fallback;
pub mod grpc;
pub mod headers;
pub mod health;
pub mod heap;
pub mod http1;
pub mod http2;
pub mod identity;
pub mod inbound;
pub mod inbound_connection;
pub mod intercept;
pub mod io;
pub mod metrics;
pub mod normalize;
pub mod outbound_connection;
pub mod patience;
pub mod pipeline;
pub mod policy;
pub mod pool;
pub mod ports;
pub mod probes;
mod probes_grpc;
mod probes_http;
pub mod random;
pub mod relay;
pub mod routes;
pub mod runtime;
pub mod select;
pub mod shared;
#[cfg(test)]
mod simulation;
pub mod sniff;
pub mod socket;
pub mod state;
pub mod stream;
pub mod tcp;
pub mod tls;
pub mod trouble;
pub mod upstream;
pub mod wire;
pub mod worker;
