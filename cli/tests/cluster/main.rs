//! The commands for a cluster, run as people run them, against an API server
//! with canned answers: what is printed, and the exit status.

#![allow(clippy::unwrap_used, clippy::panic)] // a test may fail by them

mod api;
mod authorize;
mod check;
mod identity;
mod routes;
mod shown;
mod without;
