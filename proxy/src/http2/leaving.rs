//! Requests that are given up before their answer leave an upstream's
//! connection a few at a time.
//!
//! A server on `h2` (hyper, tonic) ends a connection, and with it what everybody
//! else has on it, when more than 20 of its streams are reset before it has
//! looked at them: its measure against rapid resets (CVE-2023-44487). One caller
//! that goes away with many requests in flight would make a sidecar send just
//! that. So at most [`AT_A_TIME`] resets are on their way; further ones wait until
//! the upstream has told that it has read those, by its acknowledgement of a
//! SETTINGS that was sent behind them (RFC 9113, section 6.5.3). A PING would do
//! the same, but servers of gRPC count pings as abuse.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;

use super::connection::Place;
use super::io::Deferred;
use super::settings;
use crate::clock;

/// Resets that the upstream has not told to have read. Those that it has read
/// and not yet looked at may be as many again: both stay below 20.
pub const AT_A_TIME: usize = 8;

/// After that it has so long to look at their streams, which it does between
/// two reads. 1,600 resets a second leave one connection so.
pub const LOOK: Duration = Duration::from_millis(5);

/// Those that are given up on one connection. Each keeps its stream's place, so
/// there are never more than streams.
#[derive(Debug, Default)]
pub(super) struct Leaving(RefCell<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Left>,
    /// Resets that went out and of which nothing is known.
    sent: usize,
    /// The SETTINGS that is on its way.
    asked: Option<Asked>,
    /// So many were read, and are looked at until then.
    read: Option<(usize, Pin<Box<tokio::time::Sleep>>)>,
    driver: Option<Waker>,
    closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Resets that were sent before it.
    covers: usize,
    /// Acknowledgements before.
    acknowledged: u32,
}

/// A stream that nobody waits for; dropped, it is reset with CANCEL.
#[derive(Debug)]
struct Left {
    response: ResponseFuture,
    place: Place,
}

impl Leaving {
    /// Resets the stream, now or when its turn has come.
    fn leave(&self, left: Left) {
        let mut state = self.0.borrow_mut();
        if state.closed || (state.sent < AT_A_TIME && state.waiting.is_empty()) {
            state.sent += 1;
            // Its place may be the last that holds the connection.
            drop(state);
            return drop(left);
        }
        state.waiting.push_back(left);
        if let Some(driver) = state.driver.take() {
            driver.wake();
        }
    }

    /// Lets go of as many as may go, and asks the upstream to tell that it has
    /// read the last where others wait for it; true where the connection has
    /// something to send for it. For the connection's task, after it has polled
    /// the connection, so that the question comes behind the resets.
    pub(super) fn turn(
        &self,
        connection: &mut h2::client::Connection<Deferred, Bytes>,
        io: &Deferred,
        cx: &mut Context<'_>,
    ) -> bool {
        let acknowledged = io.frames(|frames| frames.acknowledged());
        let mut state = self.0.borrow_mut();
        state.note(acknowledged, cx);
        let asks = state.ask(connection, acknowledged);
        let released = state.release();
        if !state
            .driver
            .as_ref()
            .is_some_and(|held| held.will_wake(cx.waker()))
        {
            state.driver = Some(cx.waker().clone());
        }
        drop(state);
        asks || !released.is_empty()
    }

    /// The connection has ended: nobody waits any more.
    pub(super) fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

impl State {
    /// The upstream has acknowledged so many SETTINGS.
    fn note(&mut self, acknowledged: u32, cx: &mut Context<'_>) {
        if let Some(asked) = self.asked
            && asked.acknowledged != acknowledged
        {
            self.asked = None;
            let until = clock::instant(clock::now().after(LOOK));
            let timer = Box::pin(tokio::time::sleep_until(until));
            self.read = Some((asked.covers, timer));
        }
        if let Some((covers, timer)) = &mut self.read
            && timer.as_mut().poll(cx).is_ready()
        {
            self.sent -= *covers;
            self.read = None;
        }
    }

    fn ask(
        &mut self,
        connection: &mut h2::client::Connection<Deferred, Bytes>,
        acknowledged: u32,
    ) -> bool {
        if self.waiting.is_empty() || self.asked.is_some() || self.read.is_some() {
            return false;
        }
        // The value that it has already. Refused while an earlier one is not
        // acknowledged: that acknowledgement wakes the connection's task.
        let asked = connection.set_initial_window_size(settings::STREAM_WINDOW);
        if asked.is_ok() {
            self.asked = Some(Asked {
                covers: self.sent,
                acknowledged,
            });
        }
        asked.is_ok()
    }

    /// Those that may go; what is dropped of them is reset.
    fn release(&mut self) -> Vec<Left> {
        let free = AT_A_TIME.saturating_sub(self.sent).min(self.waiting.len());
        self.sent += free;
        self.waiting.drain(..free).collect()
    }
}

/// A request whose answer is waited for; dropped before, it leaves by [`Leaving`].
#[derive(Debug)]
pub(super) struct Awaited<'a> {
    leaving: &'a Leaving,
    left: Option<Left>,
}

impl<'a> Awaited<'a> {
    /// `response` is waited for.
    pub(super) fn new(leaving: &'a Leaving, response: ResponseFuture, place: Place) -> Self {
        Self {
            leaving,
            left: Some(Left { response, place }),
        }
    }

    /// Polls what is waited for.
    pub(super) fn poll_with<T>(
        &mut self,
        poll: impl FnOnce(&mut ResponseFuture) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.left {
            Some(left) => poll(&mut left.response),
            None => Poll::Pending,
        }
    }

    /// The answer has come, or the stream has ended: its place goes on.
    pub(super) fn over(mut self) -> Option<Place> {
        self.left.take().map(|left| left.place)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(left) = self.left.take() {
            self.leaving.leave(left);
        }
    }
}
