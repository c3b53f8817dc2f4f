//! An HTTP/2 client on the `h2` crate: one connection, streams one by one.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Version};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::h2_app::{map, send};
use crate::soon;

/// `:authority` of every request that says nothing else.
const AUTHORITY: &str = "catalog:8080";

/// One connection; ends on drop.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Bytes>,
    task: JoinHandle<Result<(), h2::Error>>,
}

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 0 where there was none.
    pub status: u16,
    /// In their order.
    pub headers: HeaderMap,
    /// All of it, or what came until it broke.
    pub body: Vec<u8>,
    /// What followed the body.
    pub trailers: Option<HeaderMap>,
    /// How it broke off.
    pub broke: Option<String>,
    /// With which code, where the stream was reset.
    pub reset: Option<Reason>,
    /// There was nothing but a head.
    pub head_alone: bool,
}

impl Answer {
    /// The first value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        value(Some(&self.headers), name)
    }

    /// The first value of a trailer, or nothing.
    pub fn trailer(&self, name: &str) -> &str {
        value(self.trailers.as_ref(), name)
    }

    /// Why Remora itself answered, or nothing.
    pub fn reason(&self) -> &str {
        self.header("x-remora-reason")
    }

    /// `grpc-status`, of the head or of the trailers.
    pub fn grpc_status(&self) -> &str {
        match self.header("grpc-status") {
            "" => self.trailer("grpc-status"),
            status => status,
        }
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// That Remora itself answered a gRPC call so: trailers-only, never a page.
    pub fn assert_refused_call(&self, status: &str, reason: &str) {
        assert_eq!(
            (self.status, self.header("grpc-status"), self.reason()),
            (200, status, reason),
            "{self:?}"
        );
        assert_eq!(self.header("content-type"), "application/grpc");
        assert!(self.head_alone && self.body.is_empty(), "{self:?}");
        assert_ne!(self.header("grpc-message"), "");
    }
}

fn value<'a>(fields: Option<&'a HeaderMap>, name: &str) -> &'a str {
    fields
        .and_then(|fields| fields.get(name))
        .map_or("", |value| value.to_str().unwrap())
}

/// A stream that was begun.
#[derive(Debug)]
pub struct Stream {
    response: ResponseFuture,
    sending: SendStream<Bytes>,
}

/// A head that came, and the body after it.
#[derive(Debug)]
pub struct Open {
    /// The head.
    pub answer: Answer,
    body: RecvStream,
    sending: SendStream<Bytes>,
}

impl Client {
    /// Connects to `address`.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::connect_with(address, b"", &h2::client::Builder::new()).await
    }

    /// As [`Client::connect`]; `before` goes out first, then what `builder` says.
    pub async fn connect_with(
        address: SocketAddr,
        before: &[u8],
        builder: &h2::client::Builder,
    ) -> Self {
        let mut stream = soon("connecting", TcpStream::connect(address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(before).await.unwrap();
        let (sender, connection) = soon("shaking", builder.handshake(stream)).await.unwrap();
        Self {
            sender,
            task: tokio::spawn(connection),
        }
    }

    /// `GET path`
    pub async fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"").await
    }

    /// `POST path` with a body.
    pub async fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.request("POST", path, &[], body).await
    }

    /// Any request with its whole answer.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let head = head(method, path, headers);
        let mut stream = match self.begin(head, body.is_empty()).await {
            Ok(stream) => stream,
            Err(error) => return broken(Answer::default(), &error),
        };
        if !body.is_empty() {
            stream.send(body, true).await;
        }
        stream.answer().await
    }

    /// A gRPC call with one message.
    pub async fn call(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = self.calling(path, headers).await;
        stream.send(crate::h2_app::MESSAGE.as_bytes(), true).await;
        stream.answer().await
    }

    /// A gRPC call of which nothing but the head has been sent.
    pub async fn calling(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(headers);
        self.begin(head("POST", path, &all), false).await.unwrap()
    }

    /// Begins a stream.
    pub async fn begin(&self, head: Request<()>, ends: bool) -> Result<Stream, h2::Error> {
        let mut sender = soon("a stream's place", self.sender.clone().ready()).await?;
        let (response, sending) = sender.send_request(head, ends)?;
        Ok(Stream { response, sending })
    }

    /// Whether the other side said that it takes an extended CONNECT.
    pub fn offers_extended_connect(&self) -> bool {
        self.sender.is_extended_connect_protocol_enabled()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request's head for the tests' service.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = format!("http://{AUTHORITY}{path}").parse().unwrap();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = map(headers);
    request
}

fn broken(mut answer: Answer, error: &h2::Error) -> Answer {
    answer.broke = Some(error.to_string());
    answer.reset = error.reason().filter(|_| error.is_reset());
    answer
}

impl Stream {
    /// Sends a piece of the body.
    pub async fn send(&mut self, body: &[u8], ends: bool) {
        send_piece(&mut self.sending, body, ends).await;
    }

    /// Ends the body with fields.
    pub fn trailers(&mut self, fields: &[(&str, &str)]) {
        self.sending.send_trailers(map(fields)).unwrap();
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: Reason) {
        self.sending.send_reset(reason);
    }

    /// The next interim answer.
    pub async fn interim(&mut self) -> (u16, HeaderMap) {
        let next = std::future::poll_fn(|cx| self.response.poll_informational(cx));
        let (parts, ()) = soon("an interim answer", next)
            .await
            .expect("an interim answer before the answer")
            .unwrap()
            .into_parts();
        (parts.status.as_u16(), parts.headers)
    }

    /// The answer's head.
    pub async fn head(mut self) -> Result<Open, Answer> {
        let response = soon("an answer", &mut self.response).await;
        let answer = Answer::default();
        match response {
            Err(error) => Err(broken(answer, &error)),
            Ok(response) => {
                let (parts, body) = response.into_parts();
                Ok(Open {
                    answer: Answer {
                        status: parts.status.as_u16(),
                        headers: parts.headers,
                        head_alone: body.is_end_stream(),
                        ..answer
                    },
                    body,
                    sending: self.sending,
                })
            }
        }
    }

    /// The whole answer.
    pub async fn answer(self) -> Answer {
        match self.head().await {
            Ok(open) => open.rest().await,
            Err(answer) => answer,
        }
    }
}

impl Open {
    /// Sends a piece of the request's body.
    pub async fn send(&mut self, body: &[u8], ends: bool) {
        send_piece(&mut self.sending, body, ends).await;
    }

    /// The next piece of the answer's body, or how it ended.
    pub async fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let data = soon("a piece", self.body.data()).await?;
        if let Ok(data) = &data {
            let _ = self.body.flow_control().release_capacity(data.len());
        }
        Some(data)
    }

    /// The next piece of the answer's body as text.
    pub async fn text(&mut self) -> String {
        let piece = self.piece().await.expect("a piece, not the end").unwrap();
        String::from_utf8_lossy(&piece).into_owned()
    }

    /// The answer's body ends here, in good order.
    pub async fn ends(&mut self) {
        while let Some(piece) = self.piece().await {
            assert_eq!(piece.unwrap(), "", "more came");
        }
    }

    /// The rest of the answer.
    pub async fn rest(mut self) -> Answer {
        loop {
            match self.piece().await {
                Some(Ok(data)) => self.answer.body.extend_from_slice(&data),
                Some(Err(error)) => return broken(self.answer, &error),
                None => break,
            }
        }
        match soon("trailers", self.body.trailers()).await {
            Ok(trailers) => self.answer.trailers = trailers,
            Err(error) => return broken(self.answer, &error),
        }
        self.answer
    }
}

async fn send_piece(sending: &mut SendStream<Bytes>, body: &[u8], ends: bool) {
    let sent = soon("sending", send(sending, Bytes::copy_from_slice(body))).await;
    if ends && sent.is_some() {
        let _ = sending.send_data(Bytes::new(), true);
    }
}
