//! When a new certificate takes the place of the one that is served.
//!
//! At once, where none is served or the one that is has ended. Else not before
//! API servers know by whom it is signed: `caBundle` has had its authority for
//! a few seconds, in which every API server hears of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Offered;
use super::configuration::InPlace;
use super::pem::Certificate;
use crate::clock;
use crate::serve::tls::Served;

/// How long after a change of `caBundle` every API server is taken to know it.
const SETTLE: Duration = Duration::from_secs(5);
/// How often it is looked at while something waits.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Since when what is in place trusts what is offered.
#[derive(Debug, Default)]
struct Handover {
    trusted: Option<Instant>,
}

/// What to do with what is offered.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// Serve it.
    Now,
    /// Look again after so long, or when something changes.
    Wait(Duration),
}

impl Handover {
    fn turn(&mut self, now: Instant, must: bool, is_trusted: bool) -> Turn {
        if !is_trusted {
            self.trusted = None;
        }
        if must {
            return Turn::Now;
        }
        if !is_trusted {
            return Turn::Wait(LOOK_AGAIN);
        }
        let waited = now - *self.trusted.get_or_insert(now);
        match SETTLE.checked_sub(waited) {
            Some(rest) if !rest.is_zero() => Turn::Wait(rest),
            _ => {
                self.trusted = None;
                Turn::Now
            }
        }
    }
}

/// Puts to use what is offered, each in its turn; never ends.
///
/// # Errors
/// When nobody offers any more.
pub async fn run(
    served: Arc<Served>,
    mut offered: watch::Receiver<Option<Offered>>,
    mut in_place: watch::Receiver<InPlace>,
) -> anyhow::Result<()> {
    let mut handover = Handover::default();
    loop {
        let next = offered.borrow_and_update().clone();
        let bundle = in_place.borrow_and_update().clone();
        let mut pause = LOOK_AGAIN;
        if let Some(next) = next.filter(|next| !served.has(&next.certificate)) {
            let must = served
                .ends()
                .is_none_or(|ends| ends <= clock::since_epoch());
            let is_trusted = bundle.is_some_and(|bundle| next.certificate.is_trusted_by(&bundle));
            match handover.turn(clock::now(), must, is_trusted) {
                Turn::Now => {
                    let names = next.certificate.names();
                    let days = days_left(&next.certificate);
                    tracing::info!(?names, days, "serving a new certificate");
                    served.set(next.certificate);
                }
                Turn::Wait(rest) => pause = rest,
            }
        }
        tokio::select! {
            changed = offered.changed() => changed?,
            changed = in_place.changed() => changed?,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn days_left(certificate: &Certificate) -> u64 {
    let left = certificate.life.ends.saturating_sub(clock::since_epoch());
    left.as_secs() / (24 * 60 * 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_waits_until_api_servers_know_its_authority() {
        let begin = clock::now();
        let mut handover = Handover::default();
        assert_eq!(handover.turn(begin, false, false), Turn::Wait(LOOK_AGAIN));
        assert_eq!(handover.turn(begin, false, true), Turn::Wait(SETTLE));
        let later = begin + SETTLE / 2;
        assert_eq!(handover.turn(later, false, true), Turn::Wait(SETTLE / 2));
        // Taken away in between: the wait begins anew.
        assert_eq!(handover.turn(later, false, false), Turn::Wait(LOOK_AGAIN));
        assert_eq!(handover.turn(later, false, true), Turn::Wait(SETTLE));
        assert_eq!(handover.turn(later + SETTLE, false, true), Turn::Now);
    }

    #[test]
    fn where_nothing_good_is_served_nothing_is_waited_for() {
        let mut handover = Handover::default();
        assert_eq!(handover.turn(clock::now(), true, false), Turn::Now);
    }
}
