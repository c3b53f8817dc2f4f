//! `admission`: how many requests the target takes at a time, and which go first.

use super::Match;

/// `admission`, of one policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    /// `maxRequests`: in flight at a time. Zero refuses all; `None`: not limited.
    pub max_requests: Option<u32>,
    /// `adaptive`: beside `maxRequests` the lower of the two holds.
    pub adaptive: Option<Adaptive>,
    /// `priorities`: who is refused first.
    pub priorities: Priorities,
}

/// A limit that follows the application's latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// It never falls below this; at least 1.
    pub min_requests: u32,
    /// Nor does it rise above this; not below `min_requests`.
    pub max_requests: u32,
    /// How much slower than unloaded a request may be before it falls, above 100.
    pub tolerance_percent: u32,
}

/// How requests are told apart under pressure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Priorities {
    /// The header that names it, lower case.
    pub header: Option<String>,
    /// Of whom it is believed; none: of nobody.
    pub trusted: Vec<Principal>,
    /// The first that matches decides where no header does.
    pub rules: Vec<PriorityRule>,
}

/// Who has proved all that is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// This SPIFFE id.
    pub identity: Option<String>,
    /// This namespace.
    pub namespace: Option<String>,
}

/// The priority of requests that match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityRule {
    /// What they are.
    pub priority: Priority,
    /// Which they are.
    pub matches: Match,
}

/// Under pressure the lower is refused before the higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// The first to be refused.
    Sheddable,
    /// What nobody says anything about.
    #[default]
    Default,
    /// The last to be refused.
    Critical,
}

impl Priority {
    /// Every one, the lowest first: in the order of [`Priority::index`].
    pub const ALL: [Self; 3] = [Self::Sheddable, Self::Default, Self::Critical];

    /// Its word in policies, in the header, and in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Default => "default",
            Self::Critical => "critical",
        }
    }

    /// Its place in [`Priority::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// What a word names.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.word().as_bytes() == word)
    }
}
