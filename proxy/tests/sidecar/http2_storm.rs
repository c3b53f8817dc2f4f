//! Ten thousand streams at a time over a hundred connections, of which many
//! are cancelled and many are reset by the application: no stream hangs, no
//! permit is lost, and nobody's connection is ended for another's doings.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::task::JoinSet;

use crate::attack::Http2Ground;
use crate::eventually;
use crate::http2_app::{Http2Caller, whole};
use crate::mesh::limits;

const CONNECTIONS: usize = 100;
const STREAMS: usize = 100;
/// A debug build on a busy machine; what hangs would take for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of one connection's streams.
#[derive(Debug, Default)]
struct Ended {
    served: usize,
    /// What the application reset.
    failed: usize,
    /// What it would have answered, and yet failed.
    harmed: usize,
    cancelled: usize,
    /// The connection was ended.
    cut_off: usize,
}

#[tokio::test]
async fn ten_thousand_streams_with_cancellations_and_resets_all_end() {
    let ground = Http2Ground::start().await;
    ground.mesh.service_with("catalog", |service| {
        // High enough for all: permits are counted, and none may stay.
        let count = (CONNECTIONS * STREAMS) as u32;
        service.policy = Some(limits(|limits| limits.max_requests = Some(count)));
        service.ports[0].protocol = remora_proto::v1::Protocol::Http2 as i32;
    });
    let outbound = ground.mesh.sidecar.outbound();
    let mut connections = JoinSet::new();
    for number in 0..CONNECTIONS {
        connections.spawn(async move { connection(outbound, number).await });
    }
    let mut sum = Ended::default();
    let all = async {
        while let Some(ended) = connections.join_next().await {
            let ended = ended.unwrap();
            sum.served += ended.served;
            sum.failed += ended.failed;
            sum.harmed += ended.harmed;
            sum.cancelled += ended.cancelled;
            sum.cut_off += ended.cut_off;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, all).await;
    println!(
        "{sum:?}; {} connections upstream",
        ground
            .catalog
            .counts
            .accepted
            .load(std::sync::atomic::Ordering::SeqCst)
    );
    assert!(waited.is_ok(), "streams hang: {sum:?}");
    assert_eq!(sum.cut_off, 0, "{sum:?}");
    assert_eq!(
        sum.served + sum.failed + sum.harmed + sum.cancelled,
        CONNECTIONS * STREAMS
    );
    // A tenth of all asks for what the application resets; nothing else fails,
    // whatever others cancel on the connections that all share.
    assert!(sum.served >= CONNECTIONS * STREAMS / 2, "{sum:?}");
    assert!(sum.failed >= CONNECTIONS * STREAMS / 20, "{sum:?}");
    assert_eq!(sum.harmed, 0, "{sum:?}");
    eventually("nothing is in flight or held", async || {
        let breaker = ground.mesh.sidecar.service_breaker().await;
        let stats = ground.mesh.sidecar.outbound_stats().await;
        breaker["limits"]["requests"]["in_use"] == 0
            && stats["in_flight"] == 0
            && ground.catalog.in_flight() == 0
    })
    .await;
}

/// All streams of one connection at a time.
async fn connection(outbound: std::net::SocketAddr, number: usize) -> Ended {
    let caller = Http2Caller::connect(outbound).await;
    let mut streams = JoinSet::new();
    for stream in 0..STREAMS {
        let mut caller = caller.clone();
        let mut random = fastrand::Rng::with_seed((number * STREAMS + stream) as u64);
        let path = match random.u64(0..10) {
            0 => "/reset",
            1..3 => "/big/50000",
            3..8 => "/",
            _ => "/never",
        };
        let leaves = path == "/never" || random.u64(0..10) == 0;
        let patience = match leaves {
            true => Duration::from_millis(random.u64(1..400)),
            false => PATIENCE,
        };
        streams.spawn(async move {
            let asking = async {
                let response = caller.send("GET", path, whole("")).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                let said = match status.as_u16() {
                    200 => String::new(),
                    _ => String::from_utf8_lossy(&body).into_owned(),
                };
                Ok::<_, hyper::Error>((status.as_u16(), said))
            };
            (path, tokio::time::timeout(patience, asking).await)
        });
    }
    let mut ended = Ended::default();
    while let Some(stream) = streams.join_next().await {
        match stream.unwrap() {
            (_, Ok(Ok((200, _)))) => ended.served += 1,
            // A GOAWAY or the connection's end, or only this stream's reset.
            (_, Ok(Err(error))) if error.is_closed() || format!("{error:?}").contains("GoAway") => {
                ended.cut_off += 1;
            }
            ("/reset", Ok(_)) => ended.failed += 1,
            (path, Ok(other)) => {
                println!("{path}: {other:?}");
                ended.harmed += 1;
            }
            (_, Err(_)) => ended.cancelled += 1,
        }
    }
    ended
}
