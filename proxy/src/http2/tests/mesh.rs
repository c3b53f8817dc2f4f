//! HTTP/1.1 on a stream between two sidecars.

use http::{Response, StatusCode, Uri, Version};

use super::*;
use crate::http2::MESH_PREFACE;

fn http1_request() -> http::request::Parts {
    let mut request = Request::post("/a?b=c").version(Version::HTTP_11);
    for (name, value) in [
        ("x-first", "1"),
        ("host", "shop.test:8080"),
        ("connection", "x-private, keep-alive"),
        ("x-private", "1"),
        ("cookie", "a=b"),
        ("x-first", "2"),
        ("transfer-encoding", "chunked"),
        ("accept", "*/*"),
    ] {
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Takes the preface, then serves.
async fn target() -> (SocketAddr, Rc<RefCell<Vec<http::request::Parts>>>) {
    let (listener, address) = listen().await;
    let seen: Rc<RefCell<Vec<http::request::Parts>>> = Rc::default();
    let noted = Rc::clone(&seen);
    tokio::task::spawn_local(async move {
        loop {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let noted = Rc::clone(&noted);
            tokio::task::spawn_local(async move {
                let mut preface = vec![0; MESH_PREFACE.len()];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut preface)
                    .await
                    .unwrap();
                assert_eq!(preface, MESH_PREFACE);
                let (callers, draining) = (Callers::default(), Cell::new(false));
                let bad_requests = AtomicU64::new(0);
                let keeper = Keeper {
                    callers: &callers,
                    draining: &draining,
                    bad_requests: &bad_requests,
                };
                let stream = Prefixed::new(Bytes::new(), stream);
                serve::serve_for(keeper, stream, peer, Kind::Mesh, move |request, caller| {
                    let noted = Rc::clone(&noted);
                    async move {
                        let (parts, body) = request.into_parts();
                        noted.borrow_mut().push(parts);
                        caller.state.end(clock::now());
                        Response::new(body)
                    }
                })
                .await;
            });
        }
    });
    (address, seen)
}

async fn answered(parts: &http::request::Parts) -> (http::response::Parts, http::request::Parts) {
    let (address, seen) = target().await;
    let stream = TcpStream::connect(address).await.unwrap();
    let connection = Connection::open_mesh(stream.into()).await.unwrap();
    let head = Head {
        parts,
        attempt: Some(2),
        identity: None,
    };
    let body = RequestSource::Empty.attempt();
    let (answer, _) = connection.send(head, body, &caller()).await.unwrap();
    (answer, seen.take().remove(0))
}

#[test]
fn a_request_of_http1_arrives_as_the_caller_sent_it() {
    run(async {
        let (answer, arrived) = answered(&http1_request()).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.version, Version::HTTP_11);
        assert_eq!(arrived.version, Version::HTTP_11);
        assert_eq!(arrived.uri, Uri::from_static("/a?b=c"));
        let fields: Vec<_> = arrived
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        assert_eq!(
            fields,
            [
                ("x-first", "1"),
                ("x-first", "2"),
                ("host", "shop.test:8080"),
                ("cookie", "a=b"),
                ("accept", "*/*"),
                ("x-remora-attempt", "2"),
            ]
        );
    });
}

#[test]
fn a_request_of_http_1_0_without_a_host_stays_one() {
    run(async {
        let request = Request::get("*")
            .version(Version::HTTP_10)
            .method("OPTIONS");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let (answer, arrived) = answered(&parts).await;
        assert_eq!(answer.version, Version::HTTP_10);
        assert_eq!(arrived.version, Version::HTTP_10);
        assert_eq!(arrived.uri, "*");
        assert!(arrived.headers.get("host").is_none());
    });
}

#[test]
fn a_request_of_http2_keeps_its_authority_between_sidecars() {
    run(async {
        let (parts, ()) = Request::get("https://shop.test/a")
            .version(Version::HTTP_2)
            .body(())
            .unwrap()
            .into_parts();
        let (answer, arrived) = answered(&parts).await;
        assert_eq!(answer.version, Version::HTTP_2);
        assert_eq!(arrived.version, Version::HTTP_2);
        assert_eq!(arrived.uri, "https://shop.test/a");
    });
}

#[test]
fn an_application_cannot_claim_to_be_http1() {
    run(async {
        let upstream = upstream(|_, mut respond| async move {
            respond.send_response(Response::new(()), true).unwrap();
        })
        .await;
        let relay = Relay::start(upstream, Kind::Application).await;
        let mut client = client(relay.address).await;
        let mut request = get("/");
        request
            .headers_mut()
            .append("x-remora-http", "1.1".parse().unwrap());
        let (answer, _) = client.send_request(request, true).unwrap();
        answer.await.unwrap();
        let seen = relay.seen.borrow();
        assert_eq!(seen[0].version, Version::HTTP_2);
        // The pipeline strips it as every header of ours.
        assert!(seen[0].headers.contains_key("x-remora-http"));
    });
}
