//! A small HTTP/1.1 client for admin endpoints and probes: one address, one
//! connection, kept.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::playground::stage::network;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer that is read.
const LARGEST_ANSWER_BYTES: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection was taken and then failed.
    #[error("{0} gave no answer: {1}")]
    Exchange(SocketAddr, String),
    /// Nothing within 2 s.
    #[error("{0} gave no answer within 2 s")]
    Timeout(SocketAddr),
    /// An answer that cannot be read.
    #[error("{0}{1}: {2}")]
    Answer(SocketAddr, String, String),
}

/// Where somebody answers.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address.
    pub address: SocketAddr,
    /// The pod's network namespace, if the address is one inside of it: then we
    /// come from inside too, as `kubectl port-forward` does, past the sidecar.
    pub inside: Option<Arc<OwnedFd>>,
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            inside: None,
        }
    }
}

/// A client of one address.
#[derive(Debug)]
pub struct Client {
    place: Place,
    connection: Option<SendRequest<Empty<Bytes>>>,
}

impl Client {
    /// A client that connects when first asked.
    pub fn new(place: impl Into<Place>) -> Self {
        Self {
            place: place.into(),
            connection: None,
        }
    }

    /// GETs a path: status and body.
    ///
    /// # Errors
    /// No connection, no answer in time, an answer over 8 MiB.
    pub async fn get(&mut self, path: &str) -> Result<(u16, Bytes), ClientError> {
        self.ask(Method::GET, path).await
    }

    /// POSTs to a path without a body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&mut self, path: &str) -> Result<(u16, Bytes), ClientError> {
        self.ask(Method::POST, path).await
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// As [`Self::get`], a status other than 200, or JSON of another shape.
    pub async fn json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let (status, body) = self.get(path).await?;
        let wrong = |what: String| ClientError::Answer(self.place.address, path.to_owned(), what);
        if status != 200 {
            return Err(wrong(format!("status {status}")));
        }
        serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
    }

    async fn ask(&mut self, method: Method, path: &str) -> Result<(u16, Bytes), ClientError> {
        let asked = tokio::time::timeout(TIMEOUT, self.exchange(method, path)).await;
        let result = asked.unwrap_or(Err(ClientError::Timeout(self.place.address)));
        if result.is_err() {
            self.connection = None;
        }
        result
    }

    async fn exchange(&mut self, method: Method, path: &str) -> Result<(u16, Bytes), ClientError> {
        let failed = |error: &dyn std::fmt::Display| {
            ClientError::Exchange(self.place.address, error.to_string())
        };
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => connect(&self.place).await?,
        };
        connection.ready().await.map_err(|error| failed(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.place.address.to_string())
            .body(Empty::new())
            .map_err(|error| failed(&error))?;
        let answer = connection
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER_BYTES);
        let body = body
            .collect()
            .await
            .map_err(|error| failed(&error))?
            .to_bytes();
        self.connection = Some(connection);
        Ok((status, body))
    }
}

async fn connect(place: &Place) -> Result<SendRequest<Empty<Bytes>>, ClientError> {
    let address = place.address;
    let connected = match &place.inside {
        None => TcpStream::connect(address).await,
        Some(namespace) => network::connect_inside(namespace.clone(), address)
            .await
            .map_err(std::io::Error::other),
    };
    let stream = connected.map_err(|error| ClientError::Connect(address, error))?;
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) =
        handshake.map_err(|error| ClientError::Exchange(address, error.to_string()))?;
    // Ends with the connection; its error reaches whoever waits for an answer.
    tokio::spawn(connection);
    Ok(sender)
}
