//! What is worth an Event. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use remora_proto::v1;

use crate::core::objects::{self, Id, Name};
use crate::core::store::{ResourceType, Store};
use crate::policy::status::TrafficPolicyStatus;
use crate::reports::Opened;
use crate::reports::tally::Refusal;
use crate::source::kubernetes::PolicySeen;
use crate::status::plan;

/// Sidecars refuse a policy.
pub const REFUSED: &str = "Refused";
/// A policy says what cannot be taken.
pub const INVALID: &str = "Invalid";
/// An older policy has the target.
pub const CONFLICTED: &str = "Conflicted";
/// The target is not there.
pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
/// A breaker opened.
pub const BREAKER_OPENED: &str = "BreakerOpened";
/// A running pod has no sidecar.
pub const NOT_INJECTED: &str = "NotInjected";

/// What an Event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A TrafficPolicy.
    TrafficPolicy,
    /// An AuthorizationPolicy.
    AuthorizationPolicy,
    /// A Pod.
    Pod,
    /// A Service.
    Service,
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The kind of the object.
    pub kind: Kind,
    /// The object.
    pub id: Id,
    /// Its uid, where it is known already.
    pub uid: Option<Name>,
    /// One of the words above.
    pub reason: &'static str,
    /// What was being done, in one word.
    pub action: &'static str,
    /// In words.
    pub note: String,
}

/// A running pod of a labelled namespace that has no sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uninjected {
    /// The pod.
    pub id: Id,
    /// Its uid.
    pub uid: Name,
    /// Why the injector left it alone, if it says so.
    pub reason: Option<Name>,
}

/// Of a status that was written over another.
pub fn of_status(
    seen: &PolicySeen,
    before: Option<&TrafficPolicyStatus>,
    after: &TrafficPolicyStatus,
    refusal: Option<&Refusal>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let kind = match seen.kind {
        objects::Kind::AuthorizationPolicy => Kind::AuthorizationPolicy,
        _ => Kind::TrafficPolicy,
    };
    let mut notice = |reason, action, note| {
        notices.push(Notice {
            kind,
            id: seen.id.clone(),
            uid: Some(seen.uid.clone()),
            reason,
            action,
            note,
        });
    };
    let (was, is) = (before.and_then(plan::reason), plan::reason(after));
    if let Some(is) = is {
        let is_news = was.is_none_or(|was| was.reason != is.reason || was.message != is.message);
        let words = [INVALID, CONFLICTED, TARGET_NOT_FOUND];
        let word = words.into_iter().find(|word| *word == is.reason);
        if let Some(word) = word.filter(|_| is_news) {
            notice(word, "Attach", is.message.clone());
        }
    }
    let refused = |status: &TrafficPolicyStatus| status.sidecars.map_or(0, |counts| counts.refused);
    let (was, is) = (before.map_or(0, refused), refused(after));
    if is > 0 && was == 0 {
        let why = refusal.map_or_else(String::new, |refusal| {
            let Refusal {
                sidecar,
                resource,
                reason,
            } = refusal;
            format!("; that of {sidecar} says of {resource}: {reason}")
        });
        let sidecars = if is == 1 {
            "sidecar keeps"
        } else {
            "sidecars keep"
        };
        let note = format!("{is} {sidecars} the last good configuration{why}");
        notice(REFUSED, "Apply", note);
    }
    notices
}

/// Leaves out breakers of what is no Service, and of pods that are no endpoint of
/// it: a sidecar tells of its own calls, and else could have Events written
/// about whatever it names.
pub fn keep_endpoints(store: &Store, opened: &mut Vec<Opened>) {
    let mut pods: HashMap<String, HashSet<String>> = HashMap::new();
    opened.retain(|opened| {
        if store
            .exact(ResourceType::Service, &opened.service)
            .is_none()
        {
            return false;
        }
        if !is_pod(&opened.endpoint) {
            return true;
        }
        let pods = pods
            .entry(opened.service.clone())
            .or_insert_with(|| pods_of(store, &opened.service));
        pods.contains(&opened.endpoint)
    });
}

fn pods_of(store: &Store, service: &str) -> HashSet<String> {
    let members = store.members(ResourceType::Endpoint, service);
    let endpoints = members
        .iter()
        .filter_map(|name| store.exact(ResourceType::Endpoint, name)?.open());
    endpoints
        .map(|endpoint: v1::Endpoint| endpoint.pod)
        .collect()
}

/// Of breakers that opened at about the same time: one for each target.
pub fn of_opened(opened: Vec<Opened>) -> Vec<Notice> {
    let mut targets: BTreeMap<(String, String), Vec<Opened>> = BTreeMap::new();
    for one in opened {
        let key = (one.service.clone(), one.endpoint.clone());
        targets.entry(key).or_default().push(one);
    }
    let notices = targets
        .into_iter()
        .filter_map(|((service, endpoint), callers)| {
            let (namespace, name) = service.split_once('/')?;
            let (kind, name) = if is_pod(&endpoint) {
                (Kind::Pod, endpoint.as_str())
            } else {
                (Kind::Service, name)
            };
            let first = callers.first()?;
            let for_what = if endpoint.is_empty() || kind == Kind::Pod {
                format!("for {service}")
            } else {
                format!("for {service} at {endpoint}")
            };
            let others = match callers.len() {
                1 => String::new(),
                2 => " (and that of 1 more caller)".to_owned(),
                more => format!(" (and those of {} more callers)", more - 1),
            };
            Some(Notice {
                kind,
                id: Id::new(namespace, name),
                uid: None,
                reason: BREAKER_OPENED,
                action: "Break",
                note: format!(
                    "the breaker of {}/{} {for_what} opened{others}: {}",
                    first.namespace, first.pod, first.cause
                ),
            })
        });
    notices.collect()
}

/// Where there is no pod, an endpoint is called by its address, or, when the
/// whole service is meant, not at all.
fn is_pod(endpoint: &str) -> bool {
    !endpoint.is_empty()
        && endpoint.parse::<IpAddr>().is_err()
        && endpoint.parse::<SocketAddr>().is_err()
}

/// Of pods without a sidecar, each once. `told` are the uids of those that
/// were told before; who is gone or mended is forgotten.
pub fn of_uninjected(uninjected: &[Uninjected], told: &mut HashSet<Name>) -> Vec<Notice> {
    let now: HashSet<&Name> = uninjected.iter().map(|pod| &pod.uid).collect();
    told.retain(|uid| now.contains(uid));
    let new = uninjected.iter().filter(|pod| told.insert(pod.uid.clone()));
    new.map(|pod| Notice {
        kind: Kind::Pod,
        id: pod.id.clone(),
        uid: Some(pod.uid.clone()),
        reason: NOT_INJECTED,
        action: "Inject",
        note: match &pod.reason {
            Some(reason) => format!("runs without a sidecar: {reason}"),
            None => "runs without a sidecar: created before the namespace was labelled, or while \
                     the injector was away; restart it"
                .to_owned(),
        },
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::store::Resource;
    use crate::policy::status::{SidecarCounts, StatusCondition};

    fn seen() -> PolicySeen {
        PolicySeen {
            kind: crate::core::objects::Kind::TrafficPolicy,
            id: Id::new("shop", "catalog"),
            uid: "u".into(),
            generation: 1,
            given: Some(1),
            invalid: None,
            targets: Vec::new(),
            status: 0,
        }
    }

    fn status(reason: &str, refused: u32) -> TrafficPolicyStatus {
        let condition = StatusCondition {
            r#type: "Accepted".to_owned(),
            status: "False".to_owned(),
            reason: reason.to_owned(),
            message: format!("{reason}, in words"),
            last_transition_time: String::new(),
            observed_generation: Some(1),
        };
        TrafficPolicyStatus {
            conditions: vec![condition],
            sidecars: Some(SidecarCounts {
                total: 9,
                applied: 0,
                refused,
            }),
            ..TrafficPolicyStatus::default()
        }
    }

    fn reasons(
        before: Option<&TrafficPolicyStatus>,
        after: &TrafficPolicyStatus,
    ) -> Vec<&'static str> {
        let notices = of_status(&seen(), before, after, None);
        notices.iter().map(|notice| notice.reason).collect()
    }

    #[test]
    fn a_policy_that_becomes_what_it_should_not_be_is_told_once() {
        let accepted = status("Accepted", 0);
        for word in [INVALID, CONFLICTED, TARGET_NOT_FOUND] {
            let bad = status(word, 0);
            assert_eq!(reasons(None, &bad), [word]);
            assert_eq!(reasons(Some(&accepted), &bad), [word]);
            assert!(reasons(Some(&bad), &bad).is_empty());
            assert!(reasons(Some(&bad), &accepted).is_empty());
        }
        let invalid = status(INVALID, 0);
        let mut otherwise = invalid.clone();
        otherwise.conditions[0].message = "something else".to_owned();
        assert_eq!(reasons(Some(&invalid), &otherwise), [INVALID]);
    }

    #[test]
    fn the_first_refusal_is_told_with_its_reason() {
        let refusal = Refusal {
            sidecar: "shop/web-1".to_owned(),
            resource: "shop/catalog".to_owned(),
            reason: "policy.retries: too many".to_owned(),
        };
        let (none, some) = (status("Accepted", 0), status("Accepted", 2));
        let [notice] = &of_status(&seen(), Some(&none), &some, Some(&refusal))[..] else {
            panic!("not one");
        };
        assert_eq!(
            notice.note,
            "2 sidecars keep the last good configuration; that of shop/web-1 says of \
             shop/catalog: policy.retries: too many"
        );
        assert!(reasons(Some(&some), &status("Accepted", 3)).is_empty());
    }

    fn opened(pod: &str, endpoint: &str) -> Opened {
        Opened {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            service: "shop/catalog".to_owned(),
            endpoint: endpoint.to_owned(),
            cause: "3 consecutive failures".to_owned(),
            at_ms: 1,
        }
    }

    #[test]
    fn a_breaker_of_what_is_no_endpoint_of_the_service_is_no_event() {
        let store = Store::default();
        let resource = |kind, name: &str, message: &v1::Endpoint| {
            Resource::new(kind, name.into(), Vec::new(), None, message)
        };
        let none = v1::Endpoint::default();
        store.set(
            ResourceType::Service,
            resource(ResourceType::Service, "shop/catalog", &none),
        );
        let endpoint = v1::Endpoint {
            pod: "catalog-1".to_owned(),
            ..v1::Endpoint::default()
        };
        let name = "shop/catalog/8080/uid-1";
        store.set(
            ResourceType::Endpoint,
            resource(ResourceType::Endpoint, name, &endpoint),
        );
        let elsewhere = Opened {
            service: "vault/keys".to_owned(),
            ..opened("web-1", "10.0.0.1")
        };
        let mut told = vec![
            opened("web-1", "catalog-1"),
            opened("web-1", "payment-1"),
            opened("web-1", "10.0.0.1:8080"),
            opened("web-1", ""),
            elsewhere,
        ];
        keep_endpoints(&store, &mut told);
        let kept: Vec<_> = told.iter().map(|one| one.endpoint.as_str()).collect();
        assert_eq!(kept, ["catalog-1", "10.0.0.1:8080", ""]);
    }

    #[test]
    fn many_callers_of_one_pod_are_one_event_about_that_pod() {
        let notices = of_opened(vec![
            opened("web-1", "catalog-1"),
            opened("web-2", "catalog-1"),
        ]);
        let [notice] = &notices[..] else {
            panic!("{notices:?}");
        };
        assert_eq!((notice.kind, &*notice.id.name), (Kind::Pod, "catalog-1"));
        assert_eq!(
            notice.note,
            "the breaker of shop/web-1 for shop/catalog opened (and that of 1 more caller): \
             3 consecutive failures"
        );
    }

    #[test]
    fn without_a_pod_the_event_is_about_the_service() {
        for endpoint in ["", "10.0.0.1", "10.0.0.1:8080", "[fd00::1]:8080"] {
            let notices = of_opened(vec![opened("web-1", endpoint)]);
            assert_eq!(notices[0].kind, Kind::Service, "{endpoint}");
            assert_eq!(&*notices[0].id.name, "catalog");
        }
        let mut hostile = opened("web-1", "x");
        hostile.service = "no-slash".to_owned();
        assert!(of_opened(vec![hostile]).is_empty());
    }

    #[test]
    fn a_pod_without_a_sidecar_is_told_once_with_the_injectors_reason() {
        let pod = |name: &str, reason: Option<&str>| Uninjected {
            id: Id::new("shop", name),
            uid: name.into(),
            reason: reason.map(Name::from),
        };
        let mut told = HashSet::new();
        let both = [pod("a", Some("hostNetwork")), pod("b", None)];
        let notices = of_uninjected(&both, &mut told);
        assert!(notices[0].note.ends_with("hostNetwork"), "{notices:?}");
        assert!(notices[1].note.ends_with("restart it"), "{notices:?}");
        assert!(of_uninjected(&both, &mut told).is_empty());
        assert!(of_uninjected(&both[..1], &mut told).is_empty());
        assert_eq!(told.len(), 1, "who is gone is forgotten");
    }
}
