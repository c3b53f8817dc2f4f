//! A client's HTTP/2 connection, and one stream on it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::plan::{Cancel, Ending, Plan};

/// Bytes that go into one frame of a request.
const CHUNK: usize = 4 * 1024;

/// A connection to the sidecar.
pub struct Connection {
    requests: SendRequest<Bytes>,
    authority: String,
    /// How it ended, where it has.
    ended: Arc<Mutex<Option<String>>>,
    task: AbortHandle,
}

/// What the client saw of one stream.
#[derive(Debug)]
#[expect(dead_code, reason = "what the body says is only shown, by `Debug`")]
pub enum Seen {
    /// 200 and a whole body of so many bytes.
    Whole(usize),
    /// Another status, `x-remora-reason`, and what the body says.
    Status(StatusCode, String, String),
    /// It was reset: before the answer, or within its body.
    Reset(h2::Error),
    /// The client gave it up.
    Cancelled,
}

impl Connection {
    /// Connects to `address`, to talk to `authority`.
    pub async fn open(address: SocketAddr, authority: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_max_send_streams(1_000)
            .initial_connection_window_size(8 << 20);
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        let ended = Arc::new(Mutex::new(None));
        let told = Arc::clone(&ended);
        let task = tokio::spawn(async move {
            let how = match connection.await {
                Ok(()) => "closed".to_owned(),
                Err(error) => error.to_string(),
            };
            *told.lock().unwrap() = Some(how);
        });
        Self {
            requests,
            authority: authority.to_owned(),
            ended,
            task: task.abort_handle(),
        }
    }

    /// How it ended, where it has.
    pub fn ended(&self) -> Option<String> {
        self.ended.lock().unwrap().clone()
    }

    /// The machine is gone: the connection breaks off with all its streams.
    pub fn break_off(&self) {
        self.task.abort();
    }

    /// One stream from its begin to its end; `give_up` says when to cancel.
    pub async fn exchange(
        &self,
        plan: Plan,
        give_up: impl Future<Output = ()>,
    ) -> Result<Seen, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let method = match plan.request_bytes {
            0 => Method::GET,
            _ => Method::POST,
        };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{}", self.authority, plan.path()))
            .body(())
            .unwrap();
        let (answer, mut body) = requests.send_request(request, plan.request_bytes == 0)?;
        let mut left = plan.request_bytes;
        if plan.cancel == Cancel::InRequest && left > 0 {
            body.reserve_capacity(1);
            body.send_data(Bytes::from_static(b"x"), false)?;
            give_up.await;
            body.send_reset(Reason::CANCEL);
            return Ok(Seen::Cancelled);
        }
        let whole = async {
            while left > 0 {
                match send(&mut body, &mut left).await {
                    Ok(()) => {}
                    // The answer, or the reset, tells the rest.
                    Err(_) => break,
                }
            }
            answer.await
        };
        let answer = match plan.cancel {
            Cancel::Early | Cancel::InRequest => tokio::select! {
                answer = whole => answer,
                () = give_up => return Ok(Seen::Cancelled),
            },
            Cancel::No | Cancel::InBody => whole.await,
        };
        Ok(match answer {
            Ok(answer) => read(answer, plan.cancel == Cancel::InBody).await,
            Err(error) => Seen::Reset(error),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(body: &mut SendStream<Bytes>, left: &mut usize) -> Result<(), h2::Error> {
    body.reserve_capacity((*left).min(CHUNK));
    let capacity = poll_fn(|cx| body.poll_capacity(cx)).await;
    let size = capacity.ok_or(Reason::CANCEL)??.min(*left);
    *left -= size;
    body.send_data(Bytes::from(vec![b'y'; size]), *left == 0)
}

async fn read(answer: Response<RecvStream>, give_up: bool) -> Seen {
    let (head, mut body) = answer.into_parts();
    let mut bytes = 0;
    let mut text = Vec::new();
    while let Some(chunk) = body.data().await {
        match chunk {
            Ok(chunk) => {
                bytes += chunk.len();
                if head.status != StatusCode::OK {
                    text.extend_from_slice(&chunk);
                }
                if give_up {
                    return Seen::Cancelled;
                }
                if let Err(error) = body.flow_control().release_capacity(chunk.len()) {
                    return Seen::Reset(error);
                }
            }
            Err(error) => return Seen::Reset(error),
        }
    }
    if head.status == StatusCode::OK {
        return Seen::Whole(bytes);
    }
    let reason = head.headers.get("x-remora-reason");
    let reason = reason.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    Seen::Status(head.status, reason.unwrap_or_default(), text)
}

/// Whether this may be seen of a stream with that plan; `Err` says what is wrong.
pub fn judge(plan: &Plan, seen: &Result<Seen, h2::Error>) -> Result<(), String> {
    let is_right = match (seen, plan.ending) {
        (Ok(Seen::Cancelled), _) => plan.cancel != Cancel::No,
        (Ok(Seen::Whole(bytes)), Ending::Answer(wanted)) => *bytes == wanted,
        // A reset overtakes what waits to be sent: the head may be gone as well.
        (
            Ok(Seen::Status(status, reason, _)),
            Ending::Break(_) | Ending::Reset | Ending::Refuse,
        ) => status.is_server_error() && !reason.is_empty(),
        // What broke off must not look whole, nor take the connection along.
        (Ok(Seen::Reset(error)), Ending::Break(_) | Ending::Reset | Ending::Refuse) => {
            error.is_reset()
        }
        _ => false,
    };
    if is_right {
        return Ok(());
    }
    Err(format!("{plan:?}: {seen:?}"))
}

/// Never: for what is not given up.
pub async fn never() {
    std::future::pending().await
}

/// After so long.
pub async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}
