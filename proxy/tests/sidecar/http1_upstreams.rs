//! Applications that answer HTTP/1.1 as an attacker would: no caller gets
//! another's answer, and nothing grows without end.

use std::time::Duration;

use crate::attack::{Attack, Ground, exchange};
use crate::mesh::{Mesh, policy};
use crate::tap::{Says, Tap};
use crate::upstream::{App, Reply, status};

const SILENCE: Duration = Duration::from_secs(2);
const GET: &str = "GET / HTTP/1.1\r\nHost: catalog:8080\r\n\r\n";

/// `catalog` answers these bytes, and its connections stay.
async fn answering(bytes: impl AsRef<[u8]>) -> (Mesh, Tap) {
    let mesh = Mesh::start().await;
    let tap = Tap::start(mesh.net.at(10), Says::now(bytes)).await;
    mesh.catalog(policy(), &[tap.address()]);
    (mesh, tap)
}

#[tokio::test]
async fn heads_that_could_be_read_as_two_answers_are_failures() {
    let heads = [
        "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\r\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX y: z\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    ];
    let mut wrong = Vec::new();
    let mesh = Mesh::start().await;
    for (number, head) in heads.into_iter().enumerate() {
        let tap = Tap::start(mesh.net.at(20 + number as u8), Says::now(head)).await;
        let service = format!("s{number}");
        mesh.endpoint(&service, 0, tap.address(), |_| ());
        mesh.service(&service, policy());
        let request = GET.replace("catalog", &service);
        let heard = exchange(mesh.sidecar.outbound(), request.as_bytes(), SILENCE).await;
        if heard.statuses() != [502] || heard.text().contains("Set-Cookie") {
            wrong.push(format!("{head:?}: {}", heard.text()));
        }
    }
    assert!(wrong.is_empty(), "taken:\n{}", wrong.join("\n---\n"));
}

#[tokio::test]
async fn an_answer_with_both_framings_is_refused_or_its_chunks_alone_count() {
    for first in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{first}\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let (mesh, tap) = answering(bytes).await;
        for _ in 0..2 {
            let heard = exchange(mesh.sidecar.outbound(), GET.as_bytes(), SILENCE).await;
            if heard.statuses() == [502] {
                continue;
            }
            assert_eq!(heard.statuses(), [200]);
            assert!(heard.text().contains("hello"), "{}", heard.text());
            assert!(
                !heard.text().to_lowercase().contains("content-length: 3"),
                "{}",
                heard.text()
            );
        }
        // RFC 9112, section 6.3: such a connection is not used again.
        assert_eq!(tap.connections().len(), 2);
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_never_answer_the_next_request() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
    for (what, first, after) in [
        (
            "with it",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            0,
        ),
        (
            "behind chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            0,
        ),
        ("behind a 204", "HTTP/1.1 204 No Content\r\n\r\n", 0),
        (
            "behind a 304",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\n",
            0,
        ),
        (
            "later, on an idle connection",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            50,
        ),
    ] {
        let mesh = Mesh::start().await;
        let (first, later) = match after {
            0 => (format!("{first}{poison}"), None),
            _ => (first.to_owned(), Some(poison)),
        };
        let app = raw_then(&mesh, first, later, Duration::from_millis(after)).await;
        mesh.catalog(policy(), &[mesh.net.at(10)]);
        let mut client = mesh.client().await;
        for _ in 0..4 {
            let answer = client.get("catalog:8080", "/").await;
            assert!(
                matches!(answer.status, 200 | 204 | 304),
                "{what}: {}",
                answer.status
            );
            assert_ne!(answer.text(), "poisoned", "{what}");
            tokio::time::sleep(Duration::from_millis(2 * after)).await;
        }
        drop(app);
    }
}

/// An application at `.10` that answers each connection's every request with
/// `first`, and says `later` unasked so long after it.
async fn raw_then(
    mesh: &Mesh,
    first: String,
    later: Option<&'static str>,
    after: Duration,
) -> tokio::task::JoinHandle<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = crate::bind(mesh.net.at(10)).await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let first = first.clone();
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while matches!(stream.read_buf(&mut seen).await, Ok(read) if read > 0) {
                    if !seen.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    seen.clear();
                    let _ = stream.write_all(first.as_bytes()).await;
                    if let Some(later) = later {
                        tokio::time::sleep(after).await;
                        let _ = stream.write_all(later.as_bytes()).await;
                    }
                }
            });
        }
    })
}

#[tokio::test]
async fn malformed_chunks_of_an_answer_break_it_off() {
    let bodies = [
        "5\r\nhello\r\ng\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello\r\n+0\r\n\r\n",
        "5\r\nhello\r\nfffffffffffffffff\r\n",
        "5\r\nhello\r\n0\nX: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nbad name: x\r\n\r\n",
    ];
    for body in bodies {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (mesh, _tap) = answering(format!("{head}{body}")).await;
        let heard = exchange(mesh.sidecar.outbound(), GET.as_bytes(), SILENCE).await;
        let text = heard.text();
        assert!(heard.ended, "{body:?}: {text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{body:?} came whole: {text}");
    }
}

#[tokio::test]
async fn chunk_extensions_and_trailers_of_an_answer_are_bounded() {
    let extensions = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(8 << 20));
    let trailers = format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "x".repeat(8 << 20));
    for body in [extensions, trailers] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (mesh, _tap) = answering(format!("{head}{body}")).await;
        let own = App::ok(mesh.net.at(2)).await;
        let attack = Attack::begin(&mesh, mesh.sidecar.inbound(crate::mesh::PORT)).await;
        let heard = exchange(mesh.sidecar.outbound(), GET.as_bytes(), SILENCE).await;
        assert!(heard.ended);
        assert!(!heard.text().ends_with("0\r\n\r\n"), "it came whole");
        assert!(heard.bytes.len() < 1024, "it was passed on");
        attack.end("8 MiB beside an answer's body", 4, 2.0).await;
        drop(own);
    }
}

#[tokio::test]
async fn informational_answers_pass_but_not_for_ever() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (mesh, _tap) = answering(format!("{hints}{hints}{ok}")).await;
    let heard = exchange(
        mesh.sidecar.outbound(),
        GET.as_bytes(),
        Duration::from_millis(500),
    )
    .await;
    assert_eq!(heard.statuses(), [103, 103, 200], "{}", heard.text());
    let (mesh, tap) = answering(hints.repeat(400_000)).await;
    let own = App::ok(mesh.net.at(2)).await;
    let attack = Attack::begin(&mesh, mesh.sidecar.inbound(crate::mesh::PORT)).await;
    let heard = exchange(mesh.sidecar.outbound(), GET.as_bytes(), SILENCE).await;
    let passed = heard
        .statuses()
        .iter()
        .filter(|status| **status == 103)
        .count();
    assert!(
        passed < 1000,
        "{passed} of 400,000 informational answers were passed on"
    );
    assert!(
        heard.ended || heard.statuses().last() == Some(&502),
        "the request was left in the air"
    );
    assert!(tap.connections()[0].ended, "the upstream was left talking");
    attack.end("400,000 informational answers", 4, 3.0).await;
    drop(own);
}

#[tokio::test]
async fn a_slow_caller_of_informational_answers_is_no_buffer_for_them() {
    let hints = format!(
        "HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n",
        "x".repeat(32 * 1024)
    );
    let (mesh, _tap) = answering(hints.repeat(1000)).await;
    let own = App::ok(mesh.net.at(2)).await;
    let attack = Attack::begin(&mesh, mesh.sidecar.inbound(crate::mesh::PORT)).await;
    let mut callers = Vec::new();
    for _ in 0..8 {
        let mut client = mesh.client().await;
        client.write(GET).await;
        callers.push(client);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // 8 callers that read nothing, 32 MiB for each.
    attack
        .end("informational answers that nobody reads", 12, 3.0)
        .await;
    drop(own);
}

#[tokio::test]
async fn a_head_request_has_no_body_whatever_the_application_says() {
    let ground = Ground::start().await;
    let app = App::start(ground.mesh.net.at(11), |request| match request.number {
        1 => Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".into()),
        _ => status(200).body("mine"),
    })
    .await;
    ground.mesh.endpoint("head", 0, app.address(), |_| ());
    ground.mesh.service("head", policy());
    let mut client = ground.mesh.client().await;
    let answer = client.request("HEAD", "head:8080", "/", "", "").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, "5"));
    let answer = client.get("head:8080", "/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "mine"));
}
