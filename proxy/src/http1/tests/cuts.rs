//! However the bytes of both connections are cut into pieces, the same requests
//! and the same answers come out.

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stage::{accept, read_head, story};
use crate::http1::chunked::Chunked;

/// Runs, each with cuts and messages of its own.
const RUNS: u64 = 40;
const REQUESTS: usize = 6;

/// A generator that anybody can replay (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// A body of none, few, or many bytes.
    fn body(&mut self) -> Vec<u8> {
        let size = match self.below(4) {
            0 => 0,
            1 => self.below(20),
            2 => self.below(5_000),
            _ => self.below(150_000),
        };
        (0..size).map(|n| (n * 7 % 256) as u8).collect()
    }

    /// The fields that frame `body`, and what follows the head.
    fn framed(&mut self, body: &[u8]) -> (String, Vec<u8>) {
        if self.below(2) == 0 {
            let length = format!("content-length: {}\r\n", body.len());
            return (length, body.to_vec());
        }
        let (mut wire, mut rest) = (Vec::new(), body);
        while !rest.is_empty() {
            let limit = if self.below(3) == 0 { 60_000 } else { 30 };
            let (chunk, after) = rest.split_at(rest.len().min(1 + self.below(limit)));
            wire.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
            rest = after;
        }
        wire.extend_from_slice(b"0\r\n\r\n");
        ("transfer-encoding: chunked\r\n".to_owned(), wire)
    }

    /// Writes `bytes` in pieces, between which others may run.
    async fn write(&mut self, stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
        let mut rest = bytes;
        let limit = [3, 100, 4_000, 70_000][self.below(4)];
        let mut pieces = 0;
        while !rest.is_empty() {
            let most = if pieces < 50 { limit } else { 70_000 };
            let (piece, after) = rest.split_at(rest.len().min(1 + self.below(most)));
            stream.write_all(piece).await.unwrap();
            for _ in 0..self.below(3) {
                tokio::task::yield_now().await;
            }
            rest = after;
            pieces += 1;
        }
    }
}

/// Reads the body that `head` frames.
async fn read_body(stream: &mut TcpStream, head: &str) -> Vec<u8> {
    if head.contains("transfer-encoding: chunked\r\n") {
        let (mut chunked, mut body) = (Chunked::default(), Vec::new());
        while !chunked.is_ended() {
            let mut buffer = vec![0; usize::try_from(chunked.remaining()).unwrap().max(1)];
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "it closed within a body");
            chunked.decode(&buffer[..count], &mut body).unwrap();
        }
        return body;
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    body
}

#[tokio::test]
async fn any_cutting_of_both_connections_gives_the_same_messages() {
    for run in 0..RUNS {
        let mut dice = Dice(run);
        let bodies: Vec<_> = (0..REQUESTS).map(|_| dice.body()).collect();
        let answers: Vec<_> = (0..REQUESTS).map(|_| dice.body()).collect();
        let mut requests = Vec::new();
        for (n, body) in bodies.iter().enumerate() {
            let (fields, wire) = dice.framed(body);
            let head = format!("POST /{n} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
            requests.extend_from_slice(head.as_bytes());
            requests.extend_from_slice(&wire);
        }
        story(async |client, upstream, relay| {
            let (mut asks, mut serves) = (Dice(run ^ 1), Dice(run ^ 2));
            let client = client.into_std().unwrap();
            let mut writer = TcpStream::from_std(client.try_clone().unwrap()).unwrap();
            let mut reader = TcpStream::from_std(client).unwrap();
            let asking = asks.write(&mut writer, &requests);
            let serving = async {
                let mut server = accept(&upstream).await;
                for (n, expected) in bodies.iter().enumerate() {
                    let head = read_head(&mut server).await;
                    assert!(
                        head.starts_with(&format!("POST /{n} ")),
                        "run {run}: {head}"
                    );
                    let body = read_body(&mut server, &head).await;
                    assert!(body == *expected, "run {run}, request {n}");
                    let (fields, wire) = serves.framed(&answers[n]);
                    let head = format!("HTTP/1.1 200 OK\r\nn: {n}\r\n{fields}\r\n");
                    let answer = [head.as_bytes(), &wire].concat();
                    serves.write(&mut server, &answer).await;
                }
                server
            };
            let hearing = async {
                for (n, expected) in answers.iter().enumerate() {
                    let head = read_head(&mut reader).await;
                    assert!(
                        head.contains(&format!("\r\nn: {n}\r\n")),
                        "run {run}: {head}"
                    );
                    let body = read_body(&mut reader, &head).await;
                    assert!(body == *expected, "run {run}, answer {n}");
                }
            };
            let ((), _server, ()) = tokio::join!(asking, serving, hearing);
            assert_eq!(relay.pool.borrow().len(), 1, "run {run}");
        })
        .await;
    }
}
