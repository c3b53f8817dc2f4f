//! Tells when a peer that is to take something takes nothing for too long.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::clock;

/// How often a limit that may change is looked at.
pub const LOOK: Duration = Duration::from_secs(5);

/// Watches one count that rises with each byte taken. Nothing is armed until
/// something has to wait, and the timer is set anew only when it fires: so a
/// stall is noticed after once to twice its time.
#[derive(Debug, Default)]
pub struct Stall {
    taken: u64,
    /// For how many looks it has not risen.
    looks: u32,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Stall {
    /// To be polled while something waits. Ready when `taken` has not risen for `limit`.
    pub fn poll(&mut self, taken: u64, limit: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_every(limit, taken, || limit, cx)
    }

    /// The same with a limit that may change meanwhile: asked for every [`LOOK`].
    pub fn poll_looking(
        &mut self,
        taken: u64,
        limit: impl Fn() -> Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        self.poll_every(LOOK, taken, limit, cx)
    }

    fn poll_every(
        &mut self,
        every: Duration,
        taken: u64,
        limit: impl Fn() -> Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let until = || clock::instant(clock::now().after(every));
        loop {
            let timer = match &mut self.timer {
                Some(timer) => timer,
                None => {
                    self.taken = taken;
                    self.timer
                        .insert(Box::pin(tokio::time::sleep_until(until())))
                }
            };
            ready!(timer.as_mut().poll(cx));
            self.looks = if self.taken == taken {
                self.looks + 1
            } else {
                0
            };
            if self.looks > 0 && every * self.looks >= limit() {
                return Poll::Ready(());
            }
            self.taken = taken;
            timer.as_mut().reset(until());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_shrinks_is_noticed_at_the_next_look() {
        let mut stall = Stall::default();
        let limit = std::cell::Cell::new(LIMIT * 10);
        let waiting = poll_fn(|cx| stall.poll_looking(7, || limit.get(), cx));
        assert!(tokio::time::timeout(LIMIT, waiting).await.is_err());
        limit.set(LOOK);
        let began = clock::now();
        poll_fn(|cx| stall.poll_looking(7, || limit.get(), cx)).await;
        assert!(clock::now().since(began) <= LOOK);
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_let_be_and_what_stands_is_told() {
        let mut stall = Stall::default();
        let began = clock::now();
        for taken in 0..10 {
            let moving = poll_fn(|cx| stall.poll(taken, LIMIT, cx));
            let waited = tokio::time::timeout(Duration::from_secs(20), moving).await;
            assert!(waited.is_err());
        }
        poll_fn(|cx| stall.poll(9, LIMIT, cx)).await;
        let stood = clock::now().since(began) - Duration::from_secs(180);
        assert!(stood >= LIMIT && stood <= 2 * LIMIT, "{stood:?}");
    }
}
