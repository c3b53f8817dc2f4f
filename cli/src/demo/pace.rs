//! Requests at a fixed rate, whatever becomes of them.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::clock;

/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(1);

/// Calls `send` so many times a second, with 0, 1, 2 and so on; what is late is made
/// up for at once.
pub async fn keep(per_second: u32, mut send: impl FnMut(u64)) -> Infallible {
    let begin = clock::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = 0_u64;
    loop {
        ticks.tick().await;
        let due = (clock::now() - begin).as_micros() * u128::from(per_second) / 1_000_000;
        while u128::from(sent) < due {
            send(sent);
            sent += 1;
        }
    }
}
