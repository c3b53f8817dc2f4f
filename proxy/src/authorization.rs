//! Who may call the pod, asked for each request and each raw connection: the
//! rules that are in force now, what they decided, and who waits for others.
//!
//! What a rule means is not here but in [`crate::policy::authorize`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderName, Method, Uri};
use tokio::sync::watch;

use crate::access_log;
use crate::answer::Reason;
use crate::clock;
use crate::headers;
use crate::normalize;
use crate::policy::authorize::{Action, Request, Rule, Rules, Subject, Verdict};
use crate::tls::Peer;

/// Headers that ask an application to take another method than the request's.
const OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];
/// So many methods a request may ask for in them.
const MAX_OVERRIDES: usize = 4;
/// Audits are told in the log at most so often.
const AUDIT_LOG_EVERY_MS: u64 = 1_000;

/// Who calls, and which of the pod's ports.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The caller's address.
    pub peer: SocketAddr,
    /// Who it has shown to be.
    pub identity: Option<&'a Peer>,
    /// The pod's port.
    pub port: u16,
}

impl<'a> Caller<'a> {
    fn asks(&self, request: Option<Request<'a>>) -> Subject<'a> {
        Subject {
            identity: self.identity.map(|peer| &peer.id),
            port: self.port,
            request,
        }
    }
}

/// Why a request is not carried, and in words for who sent it. They do not name
/// the policy: that is for the operator, in the metrics.
pub type Refusal = (Reason, String);

/// See the module's page.
#[derive(Debug, Default)]
pub struct Authorization {
    held: ArcSwap<Held>,
    changes: watch::Sender<()>,
    audit_logged_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    rules: Rules,
    /// What each of [`Rules::all`] decided.
    counts: Vec<Arc<AtomicU64>>,
    /// Refused because no Allow matched.
    not_allowed: Arc<AtomicU64>,
}

/// What one policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// `allow`, `deny` or `audit`.
    pub action: &'static str,
    /// `namespace/name`; empty for what no Allow matched.
    pub policy: Arc<str>,
    /// How often.
    pub count: u64,
}

impl Authorization {
    /// Takes the rules of a workload over; counters of policies that stay go on.
    pub fn configure(&self, rules: &Rules) {
        let before = self.held.load();
        if before.rules == *rules {
            return;
        }
        let count = |rule: &Rule| {
            let mut known = before.rules.all().iter().zip(&before.counts);
            let same =
                known.find(|(known, _)| known.policy == rule.policy && known.action == rule.action);
            same.map_or_else(Arc::default, |(_, count)| Arc::clone(count))
        };
        self.held.store(Arc::new(Held {
            counts: rules.all().iter().map(count).collect(),
            rules: rules.clone(),
            not_allowed: Arc::clone(&before.not_allowed),
        }));
        self.changes.send_replace(());
    }

    /// Asks for a request, whose path is normalized where rules name paths.
    ///
    /// # Errors
    /// Why it is not carried.
    pub fn request(&self, parts: &mut Parts, caller: &Caller<'_>) -> Result<(), Refusal> {
        let held = self.held.load();
        if held.rules.is_empty() {
            return Ok(());
        }
        let mut changed = None;
        let mut path = None;
        if held.rules.names_paths() && has_path(parts) {
            let normal = normalize::normalize(parts.uri.path())
                .map_err(|why| (Reason::BadRequest, why.to_string()))?;
            if let std::borrow::Cow::Owned(normal) = normal {
                changed = Some(normal);
            }
            path = Some(changed.as_deref().unwrap_or(parts.uri.path()));
        }
        let mut overrides = [""; MAX_OVERRIDES];
        let mut count = 0;
        if held.rules.names_methods() {
            for method in overriding(parts) {
                let place = overrides.get_mut(count).ok_or_else(too_many)?;
                *place = method.ok_or_else(not_a_method)?;
                count += 1;
            }
        }
        let subject = caller.asks(Some(Request {
            method: parts.method.as_str(),
            overrides: &overrides[..count],
            path,
        }));
        let passes = held.decide(&subject);
        self.audit(&held, &subject, caller);
        if !passes {
            return Err((Reason::Denied, DENIED.to_owned()));
        }
        match changed {
            Some(path) => set_path(&mut parts.uri, &path),
            None => Ok(()),
        }
    }

    /// Asks for a connection that is not HTTP, and counts what is decided.
    pub fn connection(&self, caller: &Caller<'_>) -> bool {
        let held = self.held.load();
        if held.rules.is_empty() {
            return true;
        }
        let subject = caller.asks(None);
        let passes = held.decide(&subject);
        self.audit(&held, &subject, caller);
        passes
    }

    /// Whether [`Authorization::connection`] would let it pass; nothing is counted.
    pub fn would_take(&self, caller: &Caller<'_>) -> bool {
        let held = self.held.load();
        held.rules.is_empty() || held.rules.judge(&caller.asks(None)).passes()
    }

    /// Completes when a connection that is not HTTP may be no longer, which is
    /// counted.
    pub async fn until_denied(&self, caller: &Caller<'_>) {
        let mut changes = self.changes.subscribe();
        while self.would_take(caller) {
            // The sender lives as long as this does.
            let _ = changes.changed().await;
        }
        self.held.load().decide(&caller.asks(None));
    }

    /// What each policy decided so far.
    pub fn decided(&self) -> Vec<Decided> {
        let held = self.held.load();
        if held.rules.is_empty() {
            return Vec::new();
        }
        let rules = held.rules.all().iter().zip(&held.counts);
        let mut decided: Vec<Decided> = rules
            .map(|(rule, count)| Decided {
                action: match rule.action {
                    Action::Allow => "allow",
                    Action::Deny => "deny",
                    Action::Audit => "audit",
                },
                policy: Arc::clone(&rule.policy),
                count: count.load(Relaxed),
            })
            .collect();
        decided.push(Decided {
            action: "deny",
            policy: "".into(),
            count: held.not_allowed.load(Relaxed),
        });
        decided
    }

    fn audit(&self, held: &Held, subject: &Subject<'_>, caller: &Caller<'_>) {
        for rule in held.rules.audited(subject) {
            held.count(rule);
            let (now, last) = (clock::unix_ms(clock::now()), &self.audit_logged_ms);
            let before = last.load(Relaxed);
            if now < before + AUDIT_LOG_EVERY_MS
                || last
                    .compare_exchange(before, now, Relaxed, Relaxed)
                    .is_err()
            {
                continue;
            }
            let request = subject.request;
            tracing::info!(
                policy = %rule.policy,
                peer = %caller.peer,
                port = caller.port,
                identity = subject.identity.map(|id| id.as_str()),
                method = request.map(|request| request.method),
                path = request.and_then(|request| request.path).map(access_log::shortened),
                "an Audit policy matches (told at most once a second; the metrics count each)"
            );
        }
    }
}

impl Held {
    fn decide(&self, subject: &Subject<'_>) -> bool {
        match self.rules.judge(subject) {
            Verdict::Allowed(by) => {
                if let Some(rule) = by {
                    self.count(rule);
                }
                true
            }
            Verdict::DeniedBy(rule) => {
                self.count(rule);
                false
            }
            Verdict::NotAllowed => {
                self.not_allowed.fetch_add(1, Relaxed);
                false
            }
        }
    }

    fn count(&self, rule: &Rule) {
        if let Some(count) = self.counts.get(rule.place) {
            count.fetch_add(1, Relaxed);
        }
    }
}

const DENIED: &str = "the caller may not do this (AuthorizationPolicy of the target)";

fn too_many() -> Refusal {
    let detail = format!("the headers ask for more than {MAX_OVERRIDES} other methods");
    (Reason::BadRequest, detail)
}

fn not_a_method() -> Refusal {
    let detail = "a header asks for another method, which is none".to_owned();
    (Reason::BadRequest, detail)
}

/// CONNECT to a host, and `OPTIONS *`, have none.
fn has_path(parts: &Parts) -> bool {
    let path = parts.uri.path();
    !(path.is_empty() || (path == "*" && parts.method == Method::OPTIONS))
}

/// The methods that headers ask for; `None` is none that can be read.
fn overriding(parts: &Parts) -> impl Iterator<Item = Option<&str>> {
    let asks = |name: &HeaderName| {
        let name = name.as_str().as_bytes();
        OVERRIDES
            .iter()
            .any(|wanted| headers::is_read_as(name, wanted))
    };
    parts
        .headers
        .iter()
        .filter(move |(name, _)| asks(name))
        .flat_map(|(_, value)| {
            let text = value.to_str().ok();
            let words = text.map(|text| text.split(',').map(|word| Some(word.trim())));
            let unread = text.is_none().then_some(None);
            words.into_iter().flatten().chain(unread)
        })
        .filter(|word| *word != Some(""))
}

fn set_path(uri: &mut Uri, path: &str) -> Result<(), Refusal> {
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let changed = PathAndQuery::from_maybe_shared(Bytes::from(target)).map(|target| {
        let mut parts = std::mem::take(uri).into_parts();
        parts.path_and_query = Some(target);
        Uri::from_parts(parts)
    });
    match changed {
        Ok(Ok(changed)) => {
            *uri = changed;
            Ok(())
        }
        // A normal form is always a path.
        Ok(Err(_)) | Err(_) => Err((Reason::BadRequest, "the path has no normal form".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::authorize::{PathRule, RequestMatch};

    fn rule(action: Action, to: RequestMatch) -> Rule {
        Rule {
            policy: "shop/rule".into(),
            action,
            from: Vec::new(),
            to: vec![to],
            ports: BTreeSet::new(),
            place: 0,
        }
    }

    fn of_path(action: Action, prefix: &str) -> Rule {
        rule(
            action,
            RequestMatch {
                paths: vec![PathRule::Prefix(prefix.to_owned())],
                ..RequestMatch::default()
            },
        )
    }

    fn caller() -> Caller<'static> {
        Caller {
            peer: "10.0.0.1:5".parse().unwrap(),
            identity: None,
            port: 8080,
        }
    }

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn with(rules: impl IntoIterator<Item = Rule>) -> Authorization {
        let authorization = Authorization::default();
        authorization.configure(&Rules::new(rules));
        authorization
    }

    #[test]
    fn where_paths_are_named_the_application_receives_the_normal_form() {
        let authorization = with([of_path(Action::Deny, "/admin")]);
        for (target, becomes) in [
            ("/a//b/../c?q=//..", Ok("/a/c?q=//..")),
            ("http://web/%61?x", Ok("http://web/a?x")),
            ("/x", Ok("/x")),
            ("/b/..//%61dmin/", Err(Reason::Denied)),
            ("/a%2Fb", Err(Reason::BadRequest)),
        ] {
            let mut parts = head("GET", target, &[]);
            let result = authorization.request(&mut parts, &caller());
            let result = result.map(|()| parts.uri.to_string());
            let result = result.map_err(|(reason, _)| reason);
            assert_eq!(result, becomes.map(str::to_owned), "{target}");
        }
        // Elsewhere nothing is touched.
        let mut parts = head("GET", "/a//b%2F", &[]);
        assert!(
            Authorization::default()
                .request(&mut parts, &caller())
                .is_ok()
        );
        assert_eq!(parts.uri, "/a//b%2F");
    }

    #[test]
    fn what_headers_ask_for_is_judged_too() {
        let to = RequestMatch {
            methods: vec!["DELETE".to_owned()],
            ..RequestMatch::default()
        };
        let authorization = with([rule(Action::Deny, to)]);
        let judge = |headers: &[(&str, &str)]| {
            let mut parts = head("POST", "/", headers);
            let result = authorization.request(&mut parts, &caller());
            result.map_err(|(reason, _)| reason)
        };
        assert_eq!(judge(&[]), Ok(()));
        assert_eq!(judge(&[("x-http-method-override", "")]), Ok(()));
        for headers in [
            &[("X-HTTP-Method-Override", "DELETE")][..],
            &[("x-http-method", " delete ")],
            &[("x-method-override", "PUT,Delete")],
            &[("X_HTTP_Method_Override", "DELETE")],
            &[
                ("x-method-override", "PUT"),
                ("x-method-override", "DELETE"),
            ],
        ] {
            assert_eq!(judge(headers), Err(Reason::Denied), "{headers:?}");
        }
        assert_eq!(
            judge(&[("x-http-method", "A,B,C,D,E")]),
            Err(Reason::BadRequest)
        );
    }

    #[tokio::test]
    async fn a_raw_connection_ends_when_it_is_no_longer_allowed() {
        let authorization = with([of_path(Action::Audit, "")]);
        let whole = caller();
        assert!(authorization.connection(&whole));
        let ended = authorization.until_denied(&whole);
        tokio::pin!(ended);
        assert!(futures_poll(ended.as_mut()).await.is_none());
        authorization.configure(&Rules::new([of_path(Action::Deny, "/a")]));
        assert!(futures_poll(ended).await.is_some());
        let deny = &authorization.decided()[0];
        assert_eq!((deny.action, deny.count), ("deny", 1));
    }

    async fn futures_poll<F: Future>(future: F) -> Option<F::Output> {
        let wait = std::time::Duration::from_millis(50);
        tokio::time::timeout(wait, future).await.ok()
    }

    #[test]
    fn counters_of_policies_that_stay_go_on() {
        let authorization = with([of_path(Action::Deny, "/a")]);
        assert!(!authorization.connection(&caller()));
        authorization.configure(&Rules::new([
            of_path(Action::Deny, "/b"),
            of_path(Action::Audit, "/c"),
        ]));
        let decided = authorization.decided();
        assert_eq!((decided[0].action, decided[0].count), ("deny", 1));
        assert_eq!((decided[1].action, decided[1].count), ("audit", 0));
    }
}
