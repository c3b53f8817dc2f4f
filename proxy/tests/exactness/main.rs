//! Limits, budgets and rate limits are exact: a million operations by chance on four
//! threads that share them as workers do, with callers that go away at any moment,
//! are held against what really was there.
//!
//! # Layout
//! - [`limits`]: `maxRequests`, `maxPendingRequests`, `maxConnections`, `maxRetries`,
//!   of the service and `perEndpoint`.
//! - [`rates`]: rate limits with a key and without.
//! - [`budget`]: the retry budget.
//! - [`admission`]: what is admitted at the target.
//!
//! What an upstream on real sockets sees of it is `sidecar`'s story of this name.

#![allow(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on should say so and end, and it measures real time"
)]

mod admission;
mod budget;
mod limits;
mod rates;

/// Operations of each story, all workers together.
const OPERATIONS: usize = 1_000_000;
/// Threads that stand for workers.
const WORKERS: usize = 4;

/// `work` on each worker, with its number.
fn on_workers<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (work, mut all) = (&work, Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        all.extend(workers.into_iter().map(|it| it.join().expect("no panic")));
    });
    all
}
