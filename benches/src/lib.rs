//! Benchmarks: of the parts (`benches/`), and side by side with other proxies.
//!
//! # Layout
//! - [`compare`]: the side-by-side measurement; [`memory`]: the idle sidecar.
//! - [`systems`]: what is measured, and how it is started; [`scenario`]: what is
//!   asked of it.
//! - [`wrk`]: the load that it can just bear; [`fixed_rate`]: one that it bears
//!   easily, for latencies.
//! - [`proc_stat`], [`syscalls`]: what the kernel says of it; [`statistics`].
//! - [`table`]: the figures for people; [`machine`]: where they were made.
//! - [`process`], [`stop`]: children, and the end of them; [`http`], [`clock`].

pub mod ab;
pub mod clock;
pub mod compare;
pub mod fixed_rate;
pub mod http;
pub mod load;
pub mod machine;
pub mod memory;
pub mod proc_stat;
pub mod process;
pub mod scenario;
pub mod statistics;
pub mod stop;
pub mod syscalls;
pub mod systems;
pub mod table;
pub mod wrk;
