//! What happened in a world, counted.

/// What happened, for the sweep to know that it happened at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub answered: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub retried: u64,
    pub resent: u64,
    pub budget_refused: u64,
    pub overloaded: u64,
    pub rate_limited: u64,
    pub no_endpoint: u64,
    pub probes: u64,
    pub late: u64,
    pub vanished: u64,
    pub opened: u64,
    pub closed: u64,
    pub would_open: u64,
}

impl Summary {
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.retried += other.retried;
        self.resent += other.resent;
        self.budget_refused += other.budget_refused;
        self.overloaded += other.overloaded;
        self.rate_limited += other.rate_limited;
        self.no_endpoint += other.no_endpoint;
        self.probes += other.probes;
        self.late += other.late;
        self.vanished += other.vanished;
        self.opened += other.opened;
        self.closed += other.closed;
        self.would_open += other.would_open;
    }
}
