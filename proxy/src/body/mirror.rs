//! A second reader of a request's body: gets the pieces that come from the caller,
//! not copied, and never holds the first one up. What lags too far behind is over.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::BodyError;
use super::request::RequestBodyError;

/// So many bytes a mirror may lag behind; a single larger piece is waited for.
pub const MAX_LAG_BYTES: usize = 64 * 1024;
/// What a piece takes beside its bytes, and so counts for at least.
const PIECE_BYTES: usize = 64;

/// The pieces on their way to one mirror.
#[derive(Debug, Default)]
pub struct Mirrored(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    reader: Option<Waker>,
}

#[derive(Debug)]
enum End {
    Whole(Option<HeaderMap>),
    /// The caller's side broke, or nobody reads it any more.
    Broken,
    Lagged,
}

impl Mirrored {
    /// A body of which nothing has come.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// A piece came from the caller.
    pub fn push(&self, data: &Bytes) {
        self.change(|state| {
            let size = size(data);
            if state.bytes > 0 && state.bytes + size > MAX_LAG_BYTES {
                state.pieces = VecDeque::new();
                state.bytes = 0;
                state.end = Some(End::Lagged);
            } else {
                state.bytes += size;
                state.pieces.push_back(data.clone());
            }
        });
    }

    /// The caller has sent all of it.
    pub fn end(&self, trailers: Option<HeaderMap>) {
        self.change(|state| state.end = Some(End::Whole(trailers)));
    }

    /// No more will come.
    pub fn break_off(&self) {
        self.change(|state| state.end = Some(End::Broken));
    }

    /// Nobody reads on: what is held is let go of, and nothing more is taken.
    pub fn give_up(&self) {
        let mut state = self.0.borrow_mut();
        state.pieces = VecDeque::new();
        state.bytes = 0;
        state.end = Some(End::Broken);
    }

    /// Whether it was given up because its reader was too slow.
    pub fn has_lagged(&self) -> bool {
        matches!(self.0.borrow().end, Some(End::Lagged))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.borrow_mut();
        if state.end.is_some() {
            return;
        }
        change(&mut state);
        if let Some(reader) = state.reader.take() {
            drop(state);
            reader.wake();
        }
    }

    /// The next piece.
    pub fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let mut state = self.0.borrow_mut();
        if let Some(piece) = state.pieces.pop_front() {
            state.bytes -= size(&piece);
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut state.end {
            Some(End::Whole(trailers)) => Poll::Ready(
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
            Some(End::Broken | End::Lagged) => Poll::Ready(Some(Err(BodyError::Incomplete.into()))),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nothing more is to be read.
    pub fn is_end_stream(&self) -> bool {
        let state = self.0.borrow();
        state.pieces.is_empty() && matches!(state.end, Some(End::Whole(None)))
    }
}

fn size(piece: &Bytes) -> usize {
    piece.len().max(PIECE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(body: &Mirrored) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        body.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_mirror_gets_the_callers_own_pieces() {
        let (body, piece) = (Mirrored::new(), Bytes::from("hello"));
        body.push(&piece);
        body.end(None);
        let Poll::Ready(Some(Ok(frame))) = next(&body) else {
            panic!("a piece is there")
        };
        assert_eq!(frame.into_data().unwrap().as_ptr(), piece.as_ptr());
        assert!(body.is_end_stream() && matches!(next(&body), Poll::Ready(None)));
    }

    #[test]
    fn what_nobody_reads_on_holds_nothing() {
        let body = Mirrored::new();
        body.push(&Bytes::from("hello"));
        body.give_up();
        body.push(&Bytes::from("hello"));
        assert!(body.0.borrow().pieces.is_empty());
        assert!(matches!(next(&body), Poll::Ready(Some(Err(_)))));
    }

    #[test]
    fn what_lags_too_far_behind_is_let_go_of() {
        let body = Mirrored::new();
        let piece = Bytes::from(vec![0; MAX_LAG_BYTES / 4]);
        for _ in 0..4 {
            body.push(&piece);
        }
        assert!(!body.has_lagged());
        body.push(&piece);
        assert!(body.has_lagged() && body.0.borrow().pieces.is_empty());
        assert!(matches!(next(&body), Poll::Ready(Some(Err(_)))));
        // Very many small pieces take much more than their bytes.
        let body = Mirrored::new();
        for _ in 0..=MAX_LAG_BYTES / PIECE_BYTES {
            body.push(&Bytes::from_static(b"x"));
        }
        assert!(body.has_lagged());
        // A large piece alone is no lag.
        let body = Mirrored::new();
        body.push(&Bytes::from(vec![0; MAX_LAG_BYTES * 2]));
        assert!(!body.has_lagged());
    }
}
