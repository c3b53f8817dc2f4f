//! Very many streams, and most of them cancelled.

use std::time::Duration;

use http::Response;
use tokio::task::JoinSet;

use super::*;

/// Answers after a while, or resets, or answers half.
async fn moody(number: u32, mut respond: SendResponse<Bytes>) {
    let wait = Duration::from_millis(u64::from(number % 17));
    let waited = async {
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => false,
        }
    };
    if !waited.await {
        return;
    }
    match number % 5 {
        0 => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        1 => respond.send_reset(h2::Reason::REFUSED_STREAM),
        2 => {
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                let _ = send(&mut stream, 40_000).await;
                stream.send_reset(h2::Reason::CANCEL);
            }
        }
        _ => {
            if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                let _ = send(&mut stream, 1_000).await;
                let _ = stream.send_data(Bytes::new(), true);
            }
        }
    }
}

#[test]
fn ten_thousand_streams_with_cancellations_leave_nothing_behind() {
    run(async {
        let count: Rc<Cell<u32>> = Rc::default();
        let upstream = upstream(move |_, respond| {
            count.set(count.get() + 1);
            moody(count.get(), respond)
        })
        .await;
        let relay = Rc::new(Relay::start(upstream, Kind::Application).await);
        let mut tasks = JoinSet::new();
        for number in 0..100u32 {
            let client = client(relay.address).await;
            for stream in 0..100u32 {
                let mut client = client.clone();
                tasks.spawn_local(async move {
                    client = client.ready().await.unwrap();
                    let (answer, _) = client.send_request(get("/"), true).unwrap();
                    let chance = (number * 31 + stream * 17) % 7;
                    let patience = Duration::from_millis(u64::from(chance) * 3);
                    if chance < 4 {
                        let _ = tokio::time::timeout(patience, answer).await;
                        return;
                    }
                    if let Ok(answer) = answer.await {
                        let _ = read(&mut answer.into_body()).await;
                    }
                });
            }
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        relay.quiet().await;
        // The one connection upstream has outlived it all.
        assert!(relay.upstream.borrow().as_ref().unwrap().is_usable());
        let unanswered = |error: &SendError| matches!(error, SendError::Unanswered);
        assert!(!relay.failures.borrow().iter().any(unanswered));
        let mut client = client(relay.address).await;
        for _ in 0..50 {
            let (answer, _) = client.send_request(get("/"), true).unwrap();
            let _ = answer.await.unwrap();
        }
    });
}

#[test]
fn a_caller_that_cancels_a_thousand_streams_at_once_keeps_its_connection() {
    run(async {
        let upstream = upstream(|_, mut respond: SendResponse<Bytes>| async move {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let client = client(relay.address).await;
        // Until the upstream has said how many streams it allows, it is asked for fewer.
        until(|| relay.upstream.borrow().as_ref().unwrap().room() > 900).await;
        for _ in 0..3 {
            let mut answers = Vec::new();
            for _ in 0..900 {
                let mut ready = client.clone().ready().await.unwrap();
                answers.push(ready.send_request(get("/"), true).unwrap());
            }
            until(|| relay.streams() == 900).await;
            drop(answers);
            relay.quiet().await;
        }
        assert!(relay.upstream.borrow().as_ref().unwrap().is_usable());
        assert!(client.ready().await.is_ok());
    });
}
