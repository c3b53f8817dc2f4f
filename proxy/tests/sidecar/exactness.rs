//! `maxRequests` under several workers and callers that go away: what the
//! upstream has in flight never exceeds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use crate::eventually;
use crate::mesh::{Mesh, limits};
use crate::sidecar::Options;
use crate::upstream::{App, status};

const LIMIT: u32 = 8;
const CALLERS: usize = 32;

/// Requests to be made.
const REQUESTS: usize = 100_000;

#[tokio::test]
async fn in_flight_at_the_upstream_never_exceeds_max_requests() {
    let options = Options {
        workers: 4,
        ..Options::default()
    };
    let mesh = Mesh::start_with(options).await;
    let app = App::start_with_bar(mesh.net.at(10), LIMIT as usize, |request| {
        status(200).after_ms(request.number % 3)
    })
    .await;
    mesh.catalog(
        limits(|limits| limits.max_requests = Some(LIMIT)),
        &[app.address()],
    );
    let begun = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (begun, refused) = (Arc::clone(&begun), Arc::clone(&refused));
        let outbound = mesh.sidecar.outbound();
        callers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(caller as u64);
            let mut client = crate::client::Client::connect(outbound).await;
            while begun.fetch_add(1, SeqCst) < REQUESTS {
                client.send("GET", "catalog:8080", "/", "", "").await;
                let patience = Duration::from_micros(random.u64(0..20_000));
                match tokio::time::timeout(patience, client.answer()).await {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => {
                        assert_eq!((answer.status, answer.reason()), (503, "overloaded"));
                        refused.fetch_add(1, SeqCst);
                    }
                    // It goes away in the middle.
                    Err(_) => client = crate::client::Client::connect(outbound).await,
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let most = app.most_in_flight();
    assert!(most <= LIMIT as usize, "{most} in flight at the upstream");
    assert!(app.count() > REQUESTS / 20, "hardly anything came through");
    assert!(refused.load(SeqCst) > 0, "the limit was never reached");
    eventually("nothing is in flight or held", async || {
        let breaker = mesh.sidecar.service_breaker().await;
        breaker["requests_in_flight"] == 0 && breaker["limits"]["requests"]["in_use"] == 0
    })
    .await;
}
