//! What is said of a route, for each Service that it names as a parent: the
//! conditions of Gateway API.

use super::references::Unresolved;
use super::{FaultReason, ParentRef, Route, RouteId};
use crate::core::Note;
use crate::core::objects::Key;

/// Bytes of what is said of several things together.
const MAX_MESSAGE_BYTES: usize = 2_048;

/// The conditions of one route, each parent in the order written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteVerdict {
    /// Which.
    pub route: RouteId,
    /// The generation that this is about.
    pub generation: i64,
    /// Of each parent that is a Service.
    pub parents: Vec<ParentVerdict>,
}

/// The conditions for one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentVerdict {
    /// Which.
    pub parent: ParentRef,
    /// Accepted, ResolvedRefs, and PartiallyInvalid where it is so.
    pub conditions: Vec<RouteCondition>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCondition {
    /// Its type.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// In one word.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

impl RouteVerdict {
    /// What is wrong, for people: of each parent what is not as it is meant.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes: Vec<Note> = Vec::new();
        for parent in &self.parents {
            let wrong = |one: &&RouteCondition| one.status == (one.kind == PARTIALLY_INVALID);
            for condition in parent.conditions.iter().filter(wrong) {
                let message = format!("{}: {}", condition.reason, condition.message);
                // What it names is the same for all of its parents.
                if notes.iter().all(|note| note.message != message) {
                    notes.push(Note {
                        key: Key {
                            kind: self.route.kind.kind(),
                            id: self.route.id.clone(),
                        },
                        field: format!("spec.parentRefs[{}]", parent.parent.index),
                        message,
                        information: false,
                    });
                }
            }
        }
        notes
    }
}

/// Whether the route is taken.
pub const ACCEPTED: &str = "Accepted";
/// Whether all that it names is there.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// That some of its rules are not.
pub const PARTIALLY_INVALID: &str = "PartiallyInvalid";

/// Why a route is not taken, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such Service, or no such port of it.
    NoMatchingParent,
    /// Every rule has something that is not known.
    UnsupportedValue,
    /// Every rule has filters that cannot stand together.
    IncompatibleFilters,
    /// Its ports have GRPCRoutes.
    Conflicted,
    /// The ports carry no HTTP.
    UnsupportedProtocol,
    /// Older routes of the Service leave no room for it.
    TooManyRoutes,
}

impl Refusal {
    fn as_str(self) -> &'static str {
        match self {
            Self::NoMatchingParent => "NoMatchingParent",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::Conflicted => "Conflicted",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::TooManyRoutes => "TooManyRoutes",
        }
    }
}

impl From<FaultReason> for Refusal {
    fn from(reason: FaultReason) -> Self {
        match reason {
            FaultReason::UnsupportedValue => Self::UnsupportedValue,
            FaultReason::IncompatibleFilters => Self::IncompatibleFilters,
        }
    }
}

/// What is wrong with a route by itself: the reason and the words, where nothing
/// of it is in force as it is meant.
pub fn own_fault(route: &Route) -> Option<(Refusal, String)> {
    if let Some(fault) = &route.says.fault {
        return Some((fault.reason.into(), fault.message.clone()));
    }
    let faults: Vec<_> = route
        .says
        .rules
        .iter()
        .filter_map(|rule| rule.fault.as_ref())
        .collect();
    let first = faults.first()?;
    if faults.len() < route.says.rules.len() {
        return None;
    }
    let same = |reason| faults.iter().all(|one| one.fault.reason == reason);
    let reason = if same(first.fault.reason) {
        first.fault.reason
    } else {
        FaultReason::UnsupportedValue
    };
    let mut message = format!("no rule of it can be done: {}", faulty_rules(route));
    if faults.iter().any(|fault| fault.of_filters) {
        message.push_str(ANSWERED);
    }
    Some((reason.into(), message))
}

/// What becomes of requests whose filter cannot be done.
const ANSWERED: &str = "; what matches a rule whose filters cannot be done is answered with an \
                        error, because they must not be passed over";

fn faulty_rules(route: &Route) -> String {
    let rules = route.says.rules.iter().enumerate();
    let faulty = rules.filter_map(|(place, rule)| {
        let fault = rule.fault.as_ref()?;
        let name = if rule.name.is_empty() {
            String::new()
        } else {
            format!(" ({})", rule.name)
        };
        Some(format!("{place}{name}: {}", fault.fault.message))
    });
    faulty.collect::<Vec<_>>().join("; ")
}

/// The conditions of a route for one parent: `accepted` is where it is in force,
/// or why it is not.
pub fn conditions(
    route: &Route,
    accepted: &Result<String, (Refusal, String)>,
    unresolved: &[Unresolved],
) -> Vec<RouteCondition> {
    let mut conditions = Vec::with_capacity(3);
    let (status, reason, mut message) = match accepted {
        Ok(where_) => (true, "Accepted", where_.clone()),
        Err((refusal, why)) => (false, refusal.as_str(), why.clone()),
    };
    for remark in &route.says.remarks {
        message.push_str("; ");
        message.push_str(remark);
    }
    conditions.push(condition(ACCEPTED, status, reason, message));
    conditions.push(match unresolved.first() {
        None => condition(
            RESOLVED_REFS,
            true,
            "ResolvedRefs",
            "all that it names is there".to_owned(),
        ),
        Some(first) => {
            let mut messages: Vec<&str> = Vec::new();
            for one in unresolved {
                if !messages.contains(&&*one.message) {
                    messages.push(&one.message);
                }
            }
            let message = messages.join("; ");
            condition(RESOLVED_REFS, false, first.reason.as_str(), message)
        }
    });
    let faults = route
        .says
        .rules
        .iter()
        .filter_map(|rule| rule.fault.as_ref());
    if status && faults.clone().next().is_some() {
        let mut message = format!("Dropped Rule {}", faulty_rules(route));
        if faults.clone().any(|fault| fault.of_filters) {
            message.push_str(ANSWERED);
        }
        conditions.push(condition(
            PARTIALLY_INVALID,
            true,
            "UnsupportedValue",
            message,
        ));
    }
    conditions
}

fn condition(
    kind: &'static str,
    status: bool,
    reason: &'static str,
    mut message: String,
) -> RouteCondition {
    if message.len() > MAX_MESSAGE_BYTES {
        crate::text::cut(&mut message, MAX_MESSAGE_BYTES);
        message.push('…');
    }
    RouteCondition {
        kind,
        status,
        reason,
        message,
    }
}
