//! Which rule a request takes, and why not the others: for people.

use super::conditions::Failed;
use super::config::PortRoutes;
use super::index::Found;
use super::request::View;

/// Why a rule is not the one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Chosen {
        /// The place of the match; `None`: it has none, and takes all.
        matched: Option<usize>,
    },
    /// It matches too, and another goes before it.
    Outranked {
        /// The place of its first match that holds.
        matched: Option<usize>,
    },
    /// None of its matches holds: of each the first condition that does not.
    Failed(Vec<Failed>),
}

impl PortRoutes {
    /// The rule that a request takes.
    pub fn find(&self, view: &View<'_>) -> Option<Found> {
        self.index.find(view)
    }

    /// What becomes of each rule for a request, in their order.
    pub fn explain(&self, view: &View<'_>) -> Vec<Verdict> {
        let found = self.find(view);
        let verdicts = self.rules.iter().enumerate().map(|(at, rule)| {
            if let Some(found) = found.filter(|found| found.rule == at) {
                return Verdict::Chosen {
                    matched: found.matched,
                };
            }
            if rule.matches.is_empty() {
                return Verdict::Outranked { matched: None };
            }
            let failed: Vec<_> = rule.matches.iter().map(|of| of.failed(view)).collect();
            match failed.iter().position(Option::is_none) {
                Some(at) => Verdict::Outranked { matched: Some(at) },
                None => Verdict::Failed(failed.into_iter().flatten().collect()),
            }
        });
        verdicts.collect()
    }
}
