//! An application of a simulation: takes requests, and does with them what its mood
//! says, at every moment at which a process can fail.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::book;
use super::network::{Listening, Mood};
use super::pipe::Pipe;

/// What is done with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Answer {
        after_ms: u64,
        status: u16,
        retry_after: Option<u64>,
        body: usize,
        pause_ms: u64,
    },
    /// Breaks off once so much of the exchange has passed.
    Break(Moment),
    Never,
}

/// Where an exchange is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    AfterHead,
    InBody,
    AfterBody,
    InAnswersHead,
    AfterAnswersHead,
    InAnswersBody,
}

const MOMENTS: [Moment; 6] = [
    Moment::AfterHead,
    Moment::InBody,
    Moment::AfterBody,
    Moment::InAnswersHead,
    Moment::AfterAnswersHead,
    Moment::InAnswersBody,
];

impl Act {
    fn draw(mood: Mood, random: &mut fastrand::Rng) -> Self {
        let answer = |status, after_ms, random: &mut fastrand::Rng| Self::Answer {
            after_ms,
            status,
            retry_after: None,
            body: *random.choice(&[0, 5, 600]).unwrap_or(&0),
            pause_ms: if random.u8(..8) == 0 {
                random.u64(..300)
            } else {
                0
            },
        };
        let quick = random.u64(1..30);
        match mood {
            Mood::Well | Mood::Refusing | Mood::Deaf => answer(200, quick, random),
            Mood::Slow => answer(200, quick * 50, random),
            Mood::Flaky if random.bool() => answer(200, quick, random),
            Mood::Flaky => Self::Answer {
                after_ms: quick,
                status: 503,
                retry_after: (random.u8(..4) == 0).then(|| random.u64(..20)),
                body: 5,
                pause_ms: 0,
            },
            Mood::Breaking if random.u8(..3) == 0 => answer(200, quick, random),
            Mood::Breaking => {
                let moment = random.choice(&MOMENTS).copied();
                Self::Break(moment.unwrap_or(Moment::AfterHead))
            }
            Mood::Failing => answer(500, 1, random),
            Mood::Silent if random.bool() => Self::Never,
            Mood::Silent => answer(200, random.u64(5_000..20_000), random),
        }
    }
}

/// Serves one connection until it ends or the process is killed.
pub async fn serve(listening: Rc<Listening>, mut pipe: Pipe) {
    let killed = listening.killed.notified();
    let is_doomed = listening.mood.get() == Mood::Breaking && book::random(|it| it.u8(..6)) == 0;
    if is_doomed {
        pipe.reset();
        return;
    }
    let ended = tokio::select! {
        biased;
        () = killed => End::Reset,
        ended = serve_each(&listening, &mut pipe) => ended,
    };
    if ended == End::Reset {
        pipe.reset();
    }
    book::with(|book| book.disconnected(&pipe));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// What is known of a request once its head has come.
struct Head {
    id: u64,
    length: usize,
    attempt: u32,
}

async fn serve_each(listening: &Listening, pipe: &mut Pipe) -> End {
    let mut seen = Vec::new();
    loop {
        // Now and then the process closes what has been idle.
        let patience = Duration::from_millis(book::random(|it| it.u64(500..8_000)));
        let reading = read_head(pipe, &mut seen);
        let head = match tokio::time::timeout(patience, reading).await {
            Err(_) | Ok(None) => return End::Closed,
            Ok(Some(head)) => head,
        };
        let act = book::random(|random| Act::draw(listening.mood.get(), random));
        let exchange = book::with(|book| {
            book.delivered(
                head.id,
                head.attempt,
                listening.address,
                pipe,
                &format!("{act:?}"),
            )
        });
        let end = play(act, (head.length, listening.address), pipe, &mut seen).await;
        book::with(|book| book.done(exchange));
        if let Some(end) = end {
            return end;
        }
    }
}

/// `None` where the connection goes on.
async fn play(
    act: Act,
    (length, address): (usize, SocketAddr),
    pipe: &mut Pipe,
    seen: &mut Vec<u8>,
) -> Option<End> {
    if act == Act::Break(Moment::AfterHead) {
        return Some(End::Reset);
    }
    if act == Act::Break(Moment::InBody) {
        read_body(pipe, seen, length / 2).await;
        return Some(End::Reset);
    }
    if !read_body(pipe, seen, length).await {
        return Some(End::Closed);
    }
    match act {
        Act::Never => {
            let mut rest = [0; 64];
            while matches!(pipe.read(&mut rest).await, Ok(1..)) {}
            Some(End::Closed)
        }
        Act::Answer {
            after_ms,
            status,
            retry_after,
            body,
            pause_ms,
        } => {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            if pipe.is_left() {
                return Some(End::Closed);
            }
            let asks = retry_after.map_or(String::new(), |it| format!("retry-after: {it}\r\n"));
            let head = format!("HTTP/1.1 {status} So\r\n{asks}content-length: {body}\r\n\r\n");
            if status < 500 {
                book::with(|book| book.answers_well(address));
            }
            answer(pipe, head.as_bytes(), body, pause_ms).await
        }
        Act::Break(moment) => {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let said: &[u8] = match moment {
                Moment::InAnswersHead => b"HTTP/1.1 200 So\r\nconte",
                Moment::AfterAnswersHead => b"HTTP/1.1 200 So\r\ncontent-length: 9\r\n\r\n",
                Moment::InAnswersBody => b"HTTP/1.1 200 So\r\ncontent-length: 9\r\n\r\nhalf",
                Moment::AfterHead | Moment::InBody | Moment::AfterBody => b"",
            };
            let _ = pipe.write_all(said).await;
            // What was said arrives before the end.
            tokio::time::sleep(Duration::from_millis(1)).await;
            Some(End::Reset)
        }
    }
}

async fn answer(pipe: &mut Pipe, head: &[u8], body: usize, pause_ms: u64) -> Option<End> {
    book::with(|book| book.answers(pipe));
    if pipe.write_all(head).await.is_err() {
        return Some(End::Closed);
    }
    let half = body / 2;
    for piece in [half, body - half].into_iter().filter(|piece| *piece > 0) {
        if pause_ms > 0 {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        if pipe.write_all(&vec![b'x'; piece]).await.is_err() {
            return Some(End::Closed);
        }
    }
    None
}

async fn read_head(pipe: &mut Pipe, seen: &mut Vec<u8>) -> Option<Head> {
    loop {
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&seen[..end]).to_lowercase();
            let value = |name: &str| {
                let mut lines = text.lines();
                lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            };
            let head = Head {
                id: value("x-id:")?,
                length: value("content-length:").unwrap_or(0) as usize,
                attempt: value("x-remora-attempt:").unwrap_or(0) as u32,
            };
            seen.drain(..end + 4);
            return Some(head);
        }
        if !matches!(pipe.read_buf(seen).await, Ok(1..)) {
            return None;
        }
    }
}

async fn read_body(pipe: &mut Pipe, seen: &mut Vec<u8>, length: usize) -> bool {
    while seen.len() < length {
        if !matches!(pipe.read_buf(seen).await, Ok(1..)) {
            return false;
        }
    }
    seen.drain(..length);
    true
}
