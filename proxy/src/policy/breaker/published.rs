//! What of a breaker is read without its lock.

use super::machine::Gate;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GateKind {
    Healthy,
    Suspect,
    Marked,
    Shut,
    ProbeFree,
}

/// The word that is read without the lock: the gate in the three low bits, above it the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) gate: GateKind,
    pub(super) epoch: u64,
}

impl GateKind {
    /// Whether traffic flows.
    pub(super) const fn is_closed(self) -> bool {
        matches!(self, Self::Healthy | Self::Suspect | Self::Marked)
    }
}

impl Published {
    pub(super) fn new(gate: Gate, epoch: u64) -> Self {
        let gate = match gate {
            Gate::Healthy => GateKind::Healthy,
            Gate::Suspect => GateKind::Suspect,
            Gate::Marked => GateKind::Marked,
            Gate::ShutUntil(_) => GateKind::Shut,
            Gate::ProbeFree => GateKind::ProbeFree,
        };
        Self { gate, epoch }
    }

    pub(super) const fn pack(self) -> u64 {
        (self.epoch << 3) | self.gate as u64
    }

    pub(super) const fn unpack(word: u64) -> Self {
        let gate = match word & 0b111 {
            0 => GateKind::Healthy,
            1 => GateKind::Suspect,
            2 => GateKind::Marked,
            3 => GateKind::Shut,
            _ => GateKind::ProbeFree,
        };
        Self {
            gate,
            epoch: word >> 3,
        }
    }
}
