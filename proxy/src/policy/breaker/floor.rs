//! How many endpoints of a service may be out at once.
//!
//! ```text
//!   ejected < allowed ── take ──▶ ejected + 1
//!   ejected = allowed ── take ──▶ refused: the endpoint is marked, and kept
//!   listed or rules change ─────▶ surplus() endpoints must be let back in
//! ```
//!
//! Pure. An endpoint holds its place from its trip until it closes, leaves, or
//! the policy goes: half-open too, since it takes no more than probes then.

/// The floor under one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    listed: u32,
    ejected: u32,
    max_ejected_percent: u32,
    min_endpoints: u32,
}

impl Floor {
    pub(super) const fn new() -> Self {
        Self {
            listed: 0,
            ejected: 0,
            max_ejected_percent: 0,
            min_endpoints: 1,
        }
    }

    pub(super) fn set_rules(&mut self, max_ejected_percent: u32, min_endpoints: u32) {
        self.max_ejected_percent = max_ejected_percent;
        self.min_endpoints = min_endpoints;
    }

    pub(super) fn set_listed(&mut self, listed: u32) {
        self.listed = listed;
    }

    /// A place for one more ejected endpoint; `false` when there is none.
    pub(super) fn take(&mut self) -> bool {
        if self.ejected >= self.allowed() {
            return false;
        }
        self.ejected += 1;
        debug_assert!(self.ejected < self.listed, "ejects every endpoint");
        true
    }

    pub(super) fn give_back(&mut self) {
        debug_assert!(self.ejected > 0, "given back twice");
        self.ejected = self.ejected.saturating_sub(1);
    }

    /// So many ejected endpoints are too many.
    pub(super) fn surplus(&self) -> u32 {
        self.ejected.saturating_sub(self.allowed())
    }

    pub(super) const fn ejected(&self) -> u32 {
        self.ejected
    }

    /// The share is rounded down. One endpoint is kept even with `minEndpoints:
    /// 0`: endpoint breakers never answer for the whole service, only `scope:
    /// Service` does.
    fn allowed(&self) -> u32 {
        let share = u64::from(self.listed) * u64::from(self.max_ejected_percent) / 100;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        share.min(self.listed.saturating_sub(self.min_endpoints.max(1)))
    }
}
