//! What must hold of a trial's figures.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;

/// One thing that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// In words.
    pub says: &'static str,
    /// What is looked at: `stage:figure`, sums of them by ` + `, and the quotient of
    /// two such sums by ` / `. A count that is not there is 0.
    pub of: &'static str,
    /// The least that it may be.
    pub at_least: f64,
    /// The most.
    pub at_most: f64,
}

/// No less than this.
pub const fn at_least(says: &'static str, of: &'static str, least: f64) -> Claim {
    between(says, of, least..=f64::INFINITY)
}

/// No more than this.
pub const fn at_most(says: &'static str, of: &'static str, most: f64) -> Claim {
    between(says, of, 0.0..=most)
}

/// Within this.
pub const fn between(says: &'static str, of: &'static str, within: RangeInclusive<f64>) -> Claim {
    Claim {
        says,
        of,
        at_least: *within.start(),
        at_most: *within.end(),
    }
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// What was claimed.
    pub claim: &'static str,
    /// What was looked at.
    pub of: &'static str,
    /// What it was; none where there was nothing to divide by.
    pub value: Option<f64>,
    /// The least that it may be.
    pub at_least: f64,
    /// The most; none: no matter how much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Whether it held.
    pub held: bool,
}

/// The figures of which something is said.
pub fn terms(of: &'static str) -> impl Iterator<Item = &'static str> {
    of.split(" / ").flat_map(|sum| sum.split(" + "))
}

impl Claim {
    /// The figures that it is about.
    pub fn terms(&self) -> impl Iterator<Item = &'static str> {
        terms(self.of)
    }

    /// Looks at what came.
    pub fn judge(&self, figures: &BTreeMap<String, f64>) -> Judged {
        let sum = |terms: &str| -> f64 {
            let terms = terms.split(" + ").filter_map(|term| figures.get(term));
            // The sum of nothing is -0.
            terms.sum::<f64>() + 0.0
        };
        let value = match self.of.split_once(" / ") {
            None => Some(sum(self.of)),
            Some((above, below)) => Some(sum(below))
                .filter(|below| *below > 0.0)
                .map(|below| sum(above) / below),
        };
        let value = value.map(|value| (value * 1000.0).round() / 1000.0);
        Judged {
            claim: self.says,
            of: self.of,
            held: value.is_some_and(|value| (self.at_least..=self.at_most).contains(&value)),
            value,
            at_least: self.at_least,
            at_most: self.at_most.is_finite().then_some(self.at_most),
        }
    }
}

impl Judged {
    /// What became of it, in a line.
    pub fn line(&self) -> String {
        let word = if self.held { "held" } else { "did not hold" };
        let value = self.value.map_or("nothing to go by".to_owned(), |value| {
            let of = match (self.at_least, self.at_most) {
                (least, None) => format!("at least {least}"),
                (0.0, Some(most)) => format!("at most {most}"),
                (least, Some(most)) => format!("{least} to {most}"),
            };
            format!("{value}, of {of}")
        });
        format!("{word}: {} ({value})", self.claim)
    }

    /// What is wrong, in a sentence.
    pub fn sentence(&self) -> String {
        let value = self
            .value
            .map_or("nothing".to_owned(), |value| value.to_string());
        let most = self.at_most.map(|most| format!(", at most {most}"));
        format!(
            "{} That did not hold: {} is {value}; it must be at least {}{}.",
            self.claim,
            self.of,
            self.at_least,
            most.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> BTreeMap<String, f64> {
        let figures = [("a:x", 3.0), ("a:y", 1.0), ("b:x", 8.0)];
        figures.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn sums_and_quotients_are_looked_at() {
        let value = |of| at_least("", of, 0.0).judge(&figures()).value;
        assert_eq!(value("a:x"), Some(3.0));
        assert_eq!(value("a:x + a:y / b:x"), Some(0.5));
        assert_eq!(value("a:x / a:y + a:x"), Some(0.75));
        let nothing = value("a:z").unwrap();
        assert!(nothing == 0.0 && nothing.is_sign_positive(), "{nothing}");
        assert_eq!(value("a:x / a:z"), None);
    }

    #[test]
    fn what_became_of_a_claim_is_told_in_a_line() {
        let line = |claim: Claim| claim.judge(&figures()).line();
        assert_eq!(
            line(at_most("No more than two.", "a:x", 2.0)),
            "did not hold: No more than two. (3, of at most 2)"
        );
        assert_eq!(
            line(at_least("Some.", "b:x", 1.0)),
            "held: Some. (8, of at least 1)"
        );
        assert_eq!(
            line(between("Half.", "a:x / b:x", 0.2..=0.5)),
            "held: Half. (0.375, of 0.2 to 0.5)"
        );
        assert_eq!(
            line(at_least("A share.", "a:x / a:z", 0.0)),
            "did not hold: A share. (nothing to go by)"
        );
    }

    #[test]
    fn a_claim_that_does_not_hold_says_by_how_much() {
        assert!(between("", "a:x", 3.0..=3.0).judge(&figures()).held);
        let told = at_most("No more than two.", "a:x", 2.0).judge(&figures());
        assert!(!told.held);
        let sentence = told.sentence();
        assert!(
            sentence.contains("a:x is 3") && sentence.contains("at most 2"),
            "{sentence}"
        );
        assert!(
            !at_least("", "a:x / a:z", 0.0).judge(&figures()).held,
            "nothing is no proof"
        );
    }
}
