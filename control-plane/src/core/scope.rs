//! Whom a policy is for, in its own namespace: what it names, or the pods that
//! have certain labels. That a Namespace is meant where pods are selected, in
//! a status, is not decided here.

use std::collections::BTreeMap;
use std::fmt;

use super::objects::Target;

/// Whom a policy is for, in its own namespace.
#[derive(Clone, Debug, PartialEq)]
pub enum Scope {
    /// The Services that it names, or the Namespace.
    Targets(Vec<Target>),
    /// These pods, with every port.
    Pods(Selector),
}

impl Scope {
    /// What it names; of a selector nothing.
    pub fn targets(&self) -> &[Target] {
        match self {
            Self::Targets(targets) => targets,
            Self::Pods(_) => &[],
        }
    }

    /// Its selector, where it has one.
    pub fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Targets(_) => None,
            Self::Pods(selector) => Some(selector),
        }
    }
}

/// Pods by their labels; every requirement must hold, and of none all pods are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector(pub Vec<Requirement>);

/// What must hold of a label, by its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Requirement {
    /// It has one of these values.
    In(String, Vec<String>),
    /// It has none of them, or is not there.
    NotIn(String, Vec<String>),
    /// It is there.
    Exists(String),
    /// It is not.
    DoesNotExist(String),
}

impl Selector {
    /// Whether it selects a pod with these labels.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|one| one.holds(labels.get(one.key())))
    }

    /// Whether it selects a pod that has these labels and maybe others; `None`
    /// where that depends on the others.
    pub fn selects_with(&self, some: &BTreeMap<String, String>) -> Option<bool> {
        let known = |one: &Requirement| some.get(one.key()).map(|value| one.holds(Some(value)));
        let judged: Vec<Option<bool>> = self.0.iter().map(known).collect();
        if judged.contains(&Some(false)) {
            Some(false)
        } else {
            (!judged.contains(&None)).then_some(true)
        }
    }
}

impl Requirement {
    fn key(&self) -> &str {
        match self {
            Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Exists(key)
            | Self::DoesNotExist(key) => key,
        }
    }

    /// Whether it holds of what the label has, `None` where it is not there.
    fn holds(&self, value: Option<&String>) -> bool {
        match self {
            Self::In(_, values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(_, values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists(_) => value.is_some(),
            Self::DoesNotExist(_) => value.is_none(),
        }
    }
}

/// As `kubectl get pods -l` takes it; empty for all pods.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&shown.join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values.join("")),
            Self::In(key, values) => write!(f, "{key} in ({})", values.join(",")),
            Self::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(",")),
            Self::Exists(key) => f.write_str(key),
            Self::DoesNotExist(key) => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn selector() -> Selector {
        Selector(vec![
            Requirement::In("app".to_owned(), vec!["cart".to_owned()]),
            Requirement::NotIn(
                "track".to_owned(),
                vec!["canary".to_owned(), "b".to_owned()],
            ),
            Requirement::Exists("tier".to_owned()),
            Requirement::DoesNotExist("old".to_owned()),
        ])
    }

    #[test]
    fn every_requirement_must_hold() {
        let good = labels(&[("app", "cart"), ("tier", "")]);
        assert!(selector().selects(&good));
        assert!(Selector::default().selects(&labels(&[])));
        for (key, value) in [("app", "web"), ("track", "canary"), ("old", "")] {
            let mut labels = good.clone();
            labels.insert(key.to_owned(), value.to_owned());
            assert!(!selector().selects(&labels), "{key}={value}");
        }
        assert!(!selector().selects(&labels(&[("app", "cart")])));
    }

    #[test]
    fn of_some_labels_only_what_is_sure_is_said() {
        let some = |pairs: &[(&str, &str)]| selector().selects_with(&labels(pairs));
        assert_eq!(some(&[]), None);
        assert_eq!(some(&[("app", "cart")]), None);
        assert_eq!(some(&[("app", "web")]), Some(false));
        assert_eq!(some(&[("old", "")]), Some(false));
        let of_one = Selector(selector().0.into_iter().take(1).collect());
        assert_eq!(of_one.selects_with(&labels(&[("app", "cart")])), Some(true));
        assert_eq!(Selector::default().selects_with(&labels(&[])), Some(true));
    }

    #[test]
    fn it_is_shown_as_kubectl_takes_it() {
        assert_eq!(
            selector().to_string(),
            "app=cart,track notin (canary,b),tier,!old"
        );
        assert_eq!(Selector::default().to_string(), "");
    }
}
