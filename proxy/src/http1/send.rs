//! A body on its way to a peer: what of it is ready goes out together.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;

use super::batch::Batch;
use super::encode::{self, Coding};
use super::limits::{GATHERED_BYTES, GATHERED_PIECES};

/// What of a body was ready.
#[derive(Debug)]
pub struct Gathered<E> {
    /// Optional, because an empty `Bytes` costs a call to drop.
    pieces: [Option<Bytes>; GATHERED_PIECES],
    count: usize,
    /// Why there is no more of it.
    pub end: End<E>,
}

/// Why no more of a body was gathered.
#[derive(Debug)]
pub enum End<E> {
    /// The rest is not ready.
    Waiting,
    /// It is enough for one write.
    Enough,
    /// It has ended.
    Whole(Option<HeaderMap>),
    /// It broke off.
    Broke(E),
}

/// A body that is not as long as it was said to be: it must not be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as its Content-Length says")]
pub struct WrongLength;

/// Asks `body` for what is ready, within [`GATHERED_BYTES`] and one frame.
pub fn gather<B>(body: &mut B, cx: &mut Context<'_>) -> Gathered<B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut gathered = Gathered {
        pieces: [const { None }; GATHERED_PIECES],
        count: 0,
        end: End::Enough,
    };
    let mut bytes = 0;
    while gathered.count < GATHERED_PIECES && bytes < GATHERED_BYTES {
        if body.is_end_stream() {
            gathered.end = End::Whole(None);
            return gathered;
        }
        gathered.end = match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => End::Waiting,
            Poll::Ready(None) => End::Whole(None),
            Poll::Ready(Some(Err(error))) => End::Broke(error),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    bytes += data.len();
                    if !data.is_empty() {
                        gathered.pieces[gathered.count] = Some(data);
                        gathered.count += 1;
                    }
                    continue;
                }
                Err(frame) => End::Whole(frame.into_trailers().ok()),
            },
        };
        return gathered;
    }
    gathered.end = if body.is_end_stream() {
        End::Whole(None)
    } else {
        End::Enough
    };
    gathered
}

impl<E> Gathered<E> {
    /// Nothing, of a body that has ended.
    pub fn nothing() -> Self {
        Self {
            pieces: [const { None }; GATHERED_PIECES],
            count: 0,
            end: End::Whole(None),
        }
    }

    /// Whether there is something to write.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && !matches!(self.end, End::Whole(_))
    }

    /// Puts it into `batch` as `coding` has it, which keeps count.
    ///
    /// # Errors
    /// Where the body is longer or shorter than it should be; what is in
    /// `batch` by then is still well-framed.
    pub fn encode(
        &mut self,
        coding: &mut Coding,
        batch: &mut Batch<'_>,
    ) -> Result<(), WrongLength> {
        for piece in self.pieces[..self.count]
            .iter_mut()
            .filter_map(Option::take)
        {
            match coding {
                Coding::Absent => {}
                Coding::Raw => batch.data(piece),
                Coding::Exact(remaining) => {
                    *remaining = remaining
                        .checked_sub(piece.len() as u64)
                        .ok_or(WrongLength)?;
                    batch.data(piece);
                }
                Coding::Chunked => {
                    encode::chunk_size(batch.small(), piece.len());
                    batch.data(piece);
                    batch.small().extend_from_slice(b"\r\n");
                }
            }
        }
        self.count = 0;
        if let End::Whole(trailers) = &self.end {
            match coding {
                Coding::Chunked => encode::last_chunk(batch.small(), trailers.as_ref()),
                Coding::Exact(remaining) if *remaining > 0 => return Err(WrongLength),
                _ => {}
            }
        }
        Ok(())
    }
}
