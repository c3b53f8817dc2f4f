//! A request's body on its way upstream, sent while the answer is awaited and read.

use std::io;
use std::task::{Context, Poll, ready};

use super::encode::Coding;
use super::send::{self, End, WrongLength};
use super::wire::Wire;
use crate::body::request::{RequestBody, RequestBodyError};

/// A request's body, and how far it has been sent.
#[derive(Debug)]
pub struct Upload {
    body: RequestBody,
    coding: Coding,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More is to come.
    Sending,
    /// Everything is handed over; the last of it may still have to be written.
    Flushing,
    Ended,
    /// It will not be sent whole.
    Broken,
    /// Asks for a tunnel: nothing is sent before the answer.
    Held,
}

/// Why a request's body cannot be sent on.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The upstream takes no more.
    #[error("the upstream takes no more of the request: {0}")]
    Io(#[from] io::Error),
    /// The caller's side.
    #[error(transparent)]
    Body(#[from] RequestBodyError),
    /// The caller's too.
    #[error(transparent)]
    Length(#[from] WrongLength),
}

impl Upload {
    /// `body`, sent as `coding` has it; held back when the request asks for a `tunnel`.
    pub fn new(body: RequestBody, coding: Coding, tunnel: bool) -> Self {
        Self {
            body,
            coding,
            state: if tunnel { State::Held } else { State::Sending },
        }
    }

    /// Of a connection that carries nothing.
    pub fn none() -> Self {
        Self {
            body: RequestBody::Empty,
            coding: Coding::Absent,
            state: State::Ended,
        }
    }

    /// Whether all of it was sent.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether there is something left to do.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, State::Sending | State::Flushing)
    }

    /// The answer made the connection a tunnel: from now on everything passes.
    pub fn open_tunnel(&mut self) {
        self.coding = Coding::Raw;
        self.state = State::Sending;
    }

    /// The answer is an ordinary one: what asked for a tunnel has no body.
    pub fn close_held(&mut self) {
        if self.state == State::Held {
            self.body = RequestBody::Empty;
            self.state = State::Ended;
        }
    }

    /// It will not be sent whole.
    pub fn break_off(&mut self) {
        self.state = State::Broken;
        self.body = RequestBody::Empty;
    }

    /// Writes `head` and what of the body is ready, together.
    ///
    /// # Errors
    /// With an error, whether anything was written.
    pub fn begin(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        head: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), (UploadError, bool)> {
        let mut gathered = match self.state {
            State::Held => send::Gathered::nothing(),
            _ => send::gather(&mut self.body, cx),
        };
        let coding = &mut self.coding;
        let encoded = wire
            .write(cx, |batch| {
                head(batch.small());
                gathered.encode(coding, batch)
            })
            .map_err(|(error, written)| (error.into(), written))?;
        encoded.map_err(|error| (error.into(), true))?;
        if self.state != State::Held {
            self.gathered(gathered.end, wire)
                .map_err(|error| (error, true))?;
        }
        Ok(())
    }

    /// Sends what is ready and what the upstream takes; ready when all is sent.
    pub fn poll(&mut self, cx: &mut Context<'_>, wire: &mut Wire) -> Poll<Result<(), UploadError>> {
        loop {
            ready!(wire.poll_flush(cx))?;
            match self.state {
                State::Sending => {}
                State::Flushing => {
                    self.state = State::Ended;
                    self.body = RequestBody::Empty;
                    return Poll::Ready(Ok(()));
                }
                State::Ended | State::Broken | State::Held => return Poll::Ready(Ok(())),
            }
            let mut gathered = send::gather(&mut self.body, cx);
            if !gathered.is_empty() {
                let coding = &mut self.coding;
                wire.write(cx, |batch| gathered.encode(coding, batch))
                    .map_err(|(error, _)| error)??;
            }
            let waits = matches!(gathered.end, End::Waiting);
            self.gathered(gathered.end, wire)?;
            if waits {
                // What was just written may not have been taken whole.
                ready!(wire.poll_flush(cx))?;
                return Poll::Pending;
            }
        }
    }

    fn gathered(&mut self, end: End<RequestBodyError>, wire: &Wire) -> Result<(), UploadError> {
        match end {
            End::Waiting | End::Enough => {}
            End::Whole(_) if wire.is_flushed() => {
                self.state = State::Ended;
                self.body = RequestBody::Empty;
            }
            End::Whole(_) => self.state = State::Flushing,
            End::Broke(error) => return Err(error.into()),
        }
        Ok(())
    }
}
