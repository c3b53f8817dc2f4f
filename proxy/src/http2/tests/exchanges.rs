//! Whole exchanges: heads, bodies, trailers, interim answers.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::*;

async fn ok(mut respond: SendResponse<Bytes>, body: &'static [u8]) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from_static(body), true).unwrap();
}

#[test]
fn a_request_goes_through_with_all_its_fields() {
    run(async {
        let upstream = upstream(
            |request: Request<_>, mut respond: SendResponse<Bytes>| async move {
                assert_eq!(request.method(), Method::GET);
                assert_eq!(request.uri(), "http://shop.test/a?b=c");
                let names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
                assert_eq!(names, ["x-first", "te", "x-last"]);
                let answer = Response::builder()
                    .header("x-answer", "1")
                    .body(())
                    .unwrap();
                let mut stream = respond.send_response(answer, false).unwrap();
                stream
                    .send_data(Bytes::from_static(b"hello"), true)
                    .unwrap();
            },
        )
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let mut request = get("/a?b=c");
        for (name, value) in [("x-first", "1"), ("te", "trailers"), ("x-last", "2")] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["x-answer"], "1");
        assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"hello");
        relay.quiet().await;
    });
}

#[test]
fn an_answer_without_a_body_ends_with_its_head() {
    run(async {
        let upstream = upstream(|_, mut respond| async move {
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        let answer = answer.await.unwrap();
        assert!(answer.body().is_end_stream());
        relay.quiet().await;
    });
}

#[test]
fn an_answer_to_head_keeps_its_length_and_has_no_body() {
    run(async {
        let upstream = upstream(|_, mut respond| async move {
            let answer = Response::builder()
                .header("content-length", "5")
                .body(())
                .unwrap();
            respond.send_response(answer, true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let mut request = get("/");
        *request.method_mut() = Method::HEAD;
        let (answer, _) = client.send_request(request, true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["content-length"], "5");
        assert!(answer.body().is_end_stream());
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let upstream = upstream(|request: Request<RecvStream>, mut respond| async move {
            let mut body = request.into_body();
            assert_eq!(read(&mut body).await.unwrap(), b"ask");
            let trailers = body.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["x-checksum"], "7");
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream
                .send_data(Bytes::from_static(b"answer"), false)
                .unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, mut stream) = client.send_request(post("/"), false).unwrap();
        stream.send_data(Bytes::from_static(b"ask"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "7".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(read(&mut body).await.unwrap(), b"answer");
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        relay.quiet().await;
    });
}

#[test]
fn trailers_alone_end_an_answer() {
    run(async {
        let upstream = upstream(|_, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "5".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, _) = client.send_request(get("/"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(read(&mut body).await.unwrap(), b"");
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "5");
    });
}

#[test]
fn both_sides_speak_in_turn_on_one_stream() {
    run(async {
        let upstream = upstream(|request: Request<RecvStream>, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                stream.send_data(data, false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (answer, mut stream) = client.send_request(post("/"), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        for turn in 0..100u32 {
            let said = Bytes::from(turn.to_string());
            stream.send_data(said.clone(), false).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), said);
            body.flow_control().release_capacity(said.len()).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert_eq!(read(&mut body).await.unwrap(), b"");
        relay.quiet().await;
    });
}

#[test]
fn interim_answers_pass_before_the_answer() {
    run(async {
        let upstream = upstream(|_, mut respond| async move {
            for status in [100u16, 103] {
                let interim = Response::builder().status(status).header("link", "<a>");
                respond
                    .send_informational(interim.body(()).unwrap())
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            ok(respond, b"done").await;
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let (mut answer, _) = client.send_request(get("/"), true).unwrap();
        for status in [100u16, 103] {
            let interim = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
            let interim = interim.unwrap().unwrap();
            assert_eq!(interim.status().as_u16(), status);
            assert_eq!(interim.headers()["link"], "<a>");
        }
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    });
}

#[test]
fn many_streams_share_one_connection_upstream() {
    run(async {
        let upstream = upstream(|_, respond| ok(respond, b"hello")).await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let client = client(relay.address).await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let mut client = client.clone();
            tasks.spawn_local(async move {
                for _ in 0..20 {
                    client = client.ready().await.unwrap();
                    let (answer, _) = client.send_request(get("/"), true).unwrap();
                    let mut body = answer.await.unwrap().into_body();
                    assert_eq!(read(&mut body).await.unwrap(), b"hello");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(relay.seen.borrow().len(), 1000);
        assert!(relay.failures.borrow().is_empty());
        relay.quiet().await;
    });
}

#[test]
fn connect_is_a_tunnel_and_extended_connect_needs_an_upstream_that_takes_it() {
    run(async {
        let mut builder = h2::server::Builder::new();
        builder.enable_connect_protocol();
        let echo = |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            let websocket = request.extensions().get::<h2::ext::Protocol>().cloned();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let said = websocket.map_or_else(String::new, |said| said.as_str().to_owned());
            stream.send_data(Bytes::from(said + ";"), false).unwrap();
            let mut body = request.into_body();
            let heard = body.data().await.unwrap().unwrap();
            stream.send_data(heard, true).unwrap();
        };
        let takes = upstream_with(builder, echo).await;
        let takes_not = upstream(echo).await;
        for (upstream, status) in [(takes, 200), (takes_not, 502)] {
            let relay = Relay::start(upstream, Kind::Application).await;
            let mut client = client(relay.address).await;
            // The relay's SETTINGS say that it may be asked.
            let (first, _) = client.send_request(get("/"), true).unwrap();
            drop(first);
            until(|| client.is_extended_connect_protocol_enabled()).await;
            let mut request = get("/chat");
            *request.method_mut() = Method::CONNECT;
            let protocol = h2::ext::Protocol::from_static("websocket");
            request.extensions_mut().insert(protocol);
            let (answer, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(Bytes::from_static(b"hi"), false).unwrap();
            let answer = answer.await.unwrap();
            assert_eq!(answer.status().as_u16(), status);
            if status == 200 {
                let said = read(&mut answer.into_body()).await.unwrap();
                assert_eq!(said, b"websocket;hi");
            } else {
                let failures = relay.failures.borrow();
                assert!(matches!(failures[..], [SendError::Unsupported(_)]));
            }
        }
        let relay = Relay::start(takes_not, Kind::Application).await;
        let mut client = client(relay.address).await;
        let request = Request::connect("db.shop.test:5432").body(()).unwrap();
        let (answer, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data(Bytes::from_static(b"hi"), false).unwrap();
        let said = read(&mut answer.await.unwrap().into_body()).await.unwrap();
        assert_eq!(said, b";hi");
    });
}
