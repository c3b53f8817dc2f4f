//! A timer that is kept from request to request.
//!
//! Nearly every request ends long before its deadline, so a timer of its own
//! would be registered and taken out again for nothing. This one stays
//! registered at the earliest moment that anybody asked for, and is set anew
//! when it fires: once for each timeout's length, not once for each request.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use crate::clock::{self, Timestamp};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Alarm(RefCell<Option<Pin<Box<Sleep>>>>);

impl Alarm {
    /// Ready once `at` has come.
    pub fn poll(&self, cx: &mut Context<'_>, at: Timestamp) -> Poll<()> {
        let at = clock::instant(at);
        let mut held = self.0.borrow_mut();
        let sleep = held.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_moment_is_kept_whatever_was_asked_before() {
        let alarm = Alarm::default();
        let start = clock::now();
        for (millis, polled_only) in [
            (500, true),
            (100, false),
            (100, true),
            (900, false),
            (300, false),
        ] {
            let before = clock::now();
            let at = before.after(Duration::from_millis(millis));
            if polled_only {
                // Its request ended before.
                poll_fn(|cx| {
                    assert!(alarm.poll(cx, at).is_pending());
                    Poll::Ready(())
                })
                .await;
                continue;
            }
            poll_fn(|cx| alarm.poll(cx, at)).await;
            assert_eq!(clock::now().since(before), Duration::from_millis(millis));
        }
        assert_eq!(clock::now().since(start), Duration::from_millis(1300));
    }
}
