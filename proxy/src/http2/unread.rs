//! Answers that wait for callers who do not take them, counted for a worker.
//!
//! Each may hold what its stream's window let through, and a caller may ask for
//! a thousand at once. So when many wait, streams upstream get small windows,
//! which slows nobody who reads; and when very many wait, those that stand
//! still are given up soon.

use std::cell::Cell;
use std::time::Duration;

use super::settings::{
    CROWDED_ANSWERS, CROWDED_STALL, CROWDED_STREAM_WINDOW, STREAM_STALL, STREAM_WINDOW,
    UNREAD_ANSWERS,
};

thread_local! {
    /// Of the worker whose thread this is.
    static WAITING: Cell<usize> = const { Cell::new(0) };
}

/// Whether one answer waits; ends with it.
#[derive(Debug, Default)]
pub struct Unread(bool);

impl Unread {
    /// It waits for its caller, or does not.
    pub fn set(&mut self, waits: bool) {
        if std::mem::replace(&mut self.0, waits) != waits {
            let waiting = WAITING.get();
            WAITING.set(if waits { waiting + 1 } else { waiting - 1 });
        }
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The window that streams upstream are to have now.
pub fn stream_window() -> u32 {
    if WAITING.get() > UNREAD_ANSWERS {
        CROWDED_STREAM_WINDOW
    } else {
        STREAM_WINDOW
    }
}

/// For how long a caller may take nothing of its answer now.
pub fn stall() -> Duration {
    if WAITING.get() > CROWDED_ANSWERS {
        CROWDED_STALL
    } else {
        STREAM_STALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_patience_shrink_while_many_wait_and_no_longer() {
        let waiting = |count: usize| -> Vec<Unread> {
            (0..count)
                .map(|_| {
                    let mut unread = Unread::default();
                    unread.set(true);
                    unread.set(true);
                    unread
                })
                .collect()
        };
        let few = waiting(UNREAD_ANSWERS);
        assert_eq!((stream_window(), stall()), (STREAM_WINDOW, STREAM_STALL));
        let mut one_more = waiting(1);
        assert_eq!(
            (stream_window(), stall()),
            (CROWDED_STREAM_WINDOW, STREAM_STALL)
        );
        let many = waiting(CROWDED_ANSWERS - UNREAD_ANSWERS);
        assert_eq!(stall(), CROWDED_STALL);
        one_more[0].set(false);
        assert_eq!(stall(), STREAM_STALL);
        drop(many);
        assert_eq!((stream_window(), stall()), (STREAM_WINDOW, STREAM_STALL));
        drop(few);
        assert_eq!(WAITING.get(), 0);
    }
}
