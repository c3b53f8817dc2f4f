//! A request's body, bounded in size, in time, and over all requests.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The largest review: the API server takes objects of up to 3 MiB.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// How long a body may take. The API server itself waits no longer for all.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of all bodies at once.
const MAX_ALL_BYTES: usize = 32 * 1024 * 1024;

/// The room that all bodies share.
#[derive(Debug)]
pub struct Room(Semaphore);

/// A body, and its part of the room.
pub struct Held<'a> {
    /// The body.
    pub bytes: Bytes,
    _permits: Vec<SemaphorePermit<'a>>,
}

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Too large.
    #[error("the body is larger than {MAX_BODY_BYTES} bytes")]
    Large,
    /// Too slow, or too much at once.
    #[error("the body did not come within {BODY_TIMEOUT:?}")]
    Late,
    /// The connection broke.
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

impl BodyError {
    /// As HTTP says it.
    pub fn status(&self) -> StatusCode {
        match self {
            BodyError::Large => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Late => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        Room(Semaphore::new(MAX_ALL_BYTES))
    }
}

impl Room {
    /// Reads a body whole.
    ///
    /// # Errors
    /// When it is too large or too slow, or breaks off.
    pub async fn read(&self, body: Incoming) -> Result<Held<'_>, BodyError> {
        if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
            return Err(BodyError::Large);
        }
        let read = self.read_all(body);
        let read = tokio::time::timeout(BODY_TIMEOUT, read).await;
        read.map_err(|_| BodyError::Late)?
    }

    async fn read_all(&self, mut body: Incoming) -> Result<Held<'_>, BodyError> {
        let mut bytes = BytesMut::new();
        let mut permits = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > MAX_BODY_BYTES {
                return Err(BodyError::Large);
            }
            // As it comes, not as it is promised: who promises much and sends
            // little holds little.
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            // Closed never.
            permits.extend(self.0.acquire_many(size).await.ok());
            bytes.extend_from_slice(&data);
        }
        Ok(Held {
            bytes: bytes.freeze(),
            _permits: permits,
        })
    }
}
