//! Benchmarks: of the parts (`benches/`), and side by side with other proxies.
//!
//! # Layout
//! - [`compare`]: the side-by-side measurement, [`figures`] what it comes to;
//!   [`ab`]: two builds of Remora; [`handshakes`]; [`memory`]: the sidecar's start and, for all
//!   systems, [`idle`] connections and a [`burst`]; [`control_plane`]: its memory
//!   with many services.
//! - [`systems`]: what is measured, and how it is started; [`scenario`]: what is
//!   asked of it.
//! - [`load`]: what a system can just bear, by [`wrk`], [`h2load`] or in [`bulk`];
//!   [`fixed_rate`]: what it bears easily, for latencies, by [`caller`]s over
//!   HTTP/1.1 or [`http2_frames`]; [`relay`]: the floor under TCP.
//! - [`proc_stat`], [`counters`]: what the kernel says of it; [`statistics`].
//! - [`table`], [`plot`]: the figures for people; [`machine`]: where they were made.
//! - [`identity`]: the CA and the tokens of mutual TLS; [`tls`]: a client of it.
//! - [`process`], [`stop`]: children, and the end of them; [`http`], [`clock`].

pub mod ab;
pub mod bulk;
pub mod burst;
pub mod caller;
pub mod clock;
pub mod compare;
pub mod control_plane;
pub mod counters;
pub mod figures;
pub mod fixed_rate;
pub mod h2load;
pub mod handshakes;
pub mod http;
pub mod http2_frames;
pub mod identity;
pub mod idle;
pub mod load;
pub mod machine;
pub mod memory;
pub mod plot;
pub mod proc_stat;
pub mod process;
pub mod relay;
pub mod scenario;
pub mod statistics;
pub mod stop;
pub mod systems;
pub mod table;
pub mod tls;
pub mod wrk;
