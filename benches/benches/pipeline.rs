//! A request's whole way through one worker, with what that allocates.
//!
//! Caller and worker share the bench's thread, and only its allocations are
//! counted; the caller allocates nothing. Upstream, control plane and streams
//! have threads of their own. One request at a time, over real sockets, so the
//! time is a round trip with two wake-ups of another thread, not CPU time: that
//! is what `compare` measures.

#![allow(clippy::expect_used)] // a benchmark that cannot be set up must say so and end

#[allow(dead_code, reason = "what another benchmark of it asks for")]
mod stage;

use divan::{AllocProfiler, Bencher};
use stage::{BODY_BYTES, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// To a service without, and to one with every policy.
#[divan::bench(args = ["plain", "guarded"])]
fn request(bencher: Bencher, service: &str) {
    let head = format!("GET /products/17 HTTP/1.1\r\nHost: {service}\r\nAccept: */*\r\n\r\n");
    through_worker(bencher, head.as_bytes());
}

/// With a body that is kept for replay.
#[divan::bench(args = ["plain", "guarded"])]
fn request_with_body(bencher: Bencher, service: &str) {
    let body = "x".repeat(BODY_BYTES);
    let request = format!(
        "PUT /products/17 HTTP/1.1\r\nHost: {service}\r\nContent-Length: {BODY_BYTES}\r\n\r\n{body}"
    );
    through_worker(bencher, request.as_bytes());
}

fn through_worker(bencher: Bencher, request: &[u8]) {
    let stage = Stage::new("");
    let answer_bytes = stage.first_answer(request);
    let mut client = stage.connect();
    let mut answer = vec![0; answer_bytes];
    bencher.bench_local(|| {
        stage.runtime.block_on(async {
            client.write_all(request).await?;
            client.read_exact(&mut answer).await
        })
    });
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "the last answer was no 200"
    );
}
