//! A raw HTTP/1.1 client: writes what it is told, keeps its connection, and
//! reads answers as they are.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::soon;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    seen: Vec<u8>,
}

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 0 when the connection ended without one.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Without the chunks.
    pub body: Vec<u8>,
    /// It ended where its framing says.
    pub whole: bool,
}

impl Answer {
    /// The first value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// Why Remora itself answered, or nothing.
    pub fn reason(&self) -> &str {
        self.header("x-remora-reason")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.expect("a connection")
    }

    /// As [`Client::connect`]; `None` where nobody takes the connection.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = soon("connecting", TcpStream::connect(address)).await.ok()?;
        stream.set_nodelay(true).unwrap();
        Some(Self {
            stream,
            seen: Vec::new(),
        })
    }

    /// Writes `bytes`; whether the connection takes them is the answer's to tell.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon("writing", self.stream.write_all(bytes.as_ref())).await;
    }

    /// `GET path` in absolute form at `host`.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.request("GET", host, path, "", "").await
    }

    /// `POST path` with a body.
    pub async fn post(&mut self, host: &str, path: &str, body: &str) -> Answer {
        self.request("POST", host, path, "", body).await
    }

    /// Any request; `headers` are whole lines.
    pub async fn request(
        &mut self,
        method: &str,
        host: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Answer {
        self.send(method, host, path, headers, body).await;
        self.answer_to(method).await
    }

    /// Sends a request without waiting for its answer.
    pub async fn send(&mut self, method: &str, host: &str, path: &str, headers: &str, body: &str) {
        let length = match body {
            "" => String::new(),
            body => format!("content-length: {}\r\n", body.len()),
        };
        self.write(format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}{length}\r\n{body}"
        ))
        .await;
    }

    /// The next answer, informational ones included.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// The next answer to a request of this method.
    pub async fn answer_to(&mut self, method: &str) -> Answer {
        soon("an answer", self.read_answer(method)).await
    }

    async fn read_answer(&mut self, method: &str) -> Answer {
        let mut answer = loop {
            if let Some((answer, length)) = parse(&self.seen) {
                self.seen.drain(..length);
                break answer;
            }
            if !self.more().await {
                return Answer::default();
            }
        };
        let bodiless = method == "HEAD"
            || answer.status < 200
            || matches!(answer.status, 204 | 304)
            || (method == "CONNECT" && answer.status == 200);
        if bodiless {
            answer.whole = true;
        } else if answer.header("transfer-encoding") == "chunked" {
            answer.whole = self.read_chunks(&mut answer.body).await;
        } else if let Ok(length) = answer.header("content-length").parse() {
            answer.whole = self.read_exact(length, &mut answer.body).await;
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.seen);
            answer.whole = true;
        }
        answer
    }

    async fn read_exact(&mut self, length: usize, body: &mut Vec<u8>) -> bool {
        while self.seen.len() < length {
            if !self.more().await {
                body.append(&mut self.seen);
                return false;
            }
        }
        body.extend(self.seen.drain(..length));
        true
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(end) = self.seen.windows(2).position(|pair| pair == b"\r\n") else {
                if !self.more().await {
                    return false;
                }
                continue;
            };
            let size = std::str::from_utf8(&self.seen[..end]).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            self.seen.drain(..end + 2);
            let mut chunk = Vec::new();
            if !Box::pin(self.read_exact(size + 2, &mut chunk)).await {
                body.append(&mut chunk);
                return false;
            }
            chunk.truncate(size);
            body.append(&mut chunk);
            if size == 0 {
                return true;
            }
        }
    }

    /// Reads so many further bytes, or to the end.
    pub async fn take(&mut self, bytes: usize) {
        let part = &mut (&mut self.stream).take(bytes as u64);
        let _ = soon("bytes", part.read_to_end(&mut self.seen)).await;
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.seen).await, Ok(read) if read > 0)
    }

    /// Whether the other side ends the connection without another byte.
    pub async fn is_ended(&mut self) -> bool {
        soon("the connection's end", async {
            self.seen.is_empty() && !self.more().await
        })
        .await
    }
}

fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(bytes).expect("an HTTP answer") {
        httparse::Status::Partial => None,
        httparse::Status::Complete(length) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = head.headers.iter();
            let answer = Answer {
                status: head.code.unwrap(),
                version: format!("HTTP/1.{}", head.version.unwrap()),
                headers: headers
                    .map(|field| (field.name.to_ascii_lowercase(), text(field.value)))
                    .collect(),
                ..Answer::default()
            };
            Some((answer, length))
        }
    }
}
