//! How long a caller's first byte is waited for, at a port that takes mutual TLS
//! and everything else. Another sidecar speaks first, but may be held up before
//! it does: a limit of CPU stops it for 100 ms at a time, a busy node for longer.
//! What the application says meanwhile would go to it in plaintext, and end its
//! handshake. A caller without a sidecar, whose server is to speak first, loses
//! that time, so it is remembered by its address and loses it once.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::detect::SILENCE;

/// For an address of which nothing is known, or that another sidecar has.
pub const UNKNOWN: Duration = Duration::from_secs(1);
/// Addresses that are remembered; one more, and all are forgotten.
const MAX_QUIET: usize = 4_096;

/// Addresses from which nothing came until the server spoke.
#[derive(Debug, Default)]
pub struct Patience {
    quiet: RefCell<HashSet<IpAddr>>,
}

impl Patience {
    /// With who calls from this address.
    pub fn with(&self, caller: IpAddr) -> Duration {
        if self.quiet.borrow().contains(&caller) {
            SILENCE
        } else {
            UNKNOWN
        }
    }

    /// Nothing came from there within that time.
    pub fn was_quiet(&self, caller: IpAddr) {
        let mut quiet = self.quiet.borrow_mut();
        if quiet.len() >= MAX_QUIET {
            quiet.clear();
        }
        quiet.insert(caller);
    }

    /// Another sidecar called from there.
    pub fn is_meshed(&self, caller: IpAddr) {
        let mut quiet = self.quiet.borrow_mut();
        if !quiet.is_empty() {
            quiet.remove(&caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_caller_that_was_quiet_before_is_not_waited_for() {
        let patience = Patience::default();
        let caller = |number: u32| IpAddr::from(number.to_be_bytes());
        assert_eq!(patience.with(caller(1)), UNKNOWN);
        patience.was_quiet(caller(1));
        assert_eq!(patience.with(caller(1)), SILENCE);
        assert_eq!(patience.with(caller(2)), UNKNOWN);
        // A pod with a sidecar has the address now.
        patience.is_meshed(caller(1));
        assert_eq!(patience.with(caller(1)), UNKNOWN);
        for number in 0..10_000 {
            patience.was_quiet(caller(number));
        }
        assert!(patience.quiet.borrow().len() <= MAX_QUIET);
    }
}
