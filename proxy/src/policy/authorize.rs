//! Who may call: the AuthorizationPolicies of one workload, judged. Pure.
//!
//! A Deny that matches wins; where at least one Allow counts for the port, only
//! what one of them matches may pass; an Audit is told and changes nothing.
//! (SEMANTICS.md, "mtls and AuthorizationPolicy".)

use std::collections::BTreeSet;
use std::sync::Arc;

use remora_proto::spiffe::SpiffeId;

/// What a rule that matches means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It may pass.
    Allow,
    /// It may not.
    Deny,
    /// As a Deny would, it is told; it passes.
    Audit,
}

/// One AuthorizationPolicy as it counts for the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `namespace/name` of the policy.
    pub policy: Arc<str>,
    /// What it does.
    pub action: Action,
    /// Of whom; empty: of everybody, callers without identity included.
    pub from: Vec<CallerMatch>,
    /// What; empty: everything.
    pub to: Vec<RequestMatch>,
    /// For these ports of the pod; empty: for all.
    pub ports: BTreeSet<u16>,
    /// Where it stands in [`Rules::all`]; set there.
    pub place: usize,
}

/// All that is set must match; empty is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerMatch {
    /// SPIFFE ids, any of them.
    pub identities: Vec<String>,
    /// Namespaces of the caller's identity, any of them.
    pub namespaces: Vec<String>,
}

/// All that is set must match; empty is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMatch {
    /// Any of them. Case counts for what is allowed (RFC 9110, section 9.1) and
    /// not for what is denied: there are servers to which it does not.
    pub methods: Vec<String>,
    /// Any of them, in normalized form.
    pub paths: Vec<PathRule>,
    /// Any of them.
    pub grpc_methods: Vec<GrpcMethod>,
    /// The pod's ports, any of them.
    pub ports: BTreeSet<u16>,
}

/// Of a normalized path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRule {
    /// The whole.
    Exact(String),
    /// By whole segments, without a slash at its end: `/a` is `/a`, `/a/` and
    /// `/a/b`, not `/ab`. Empty: every path.
    Prefix(String),
}

/// Of a gRPC call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcMethod {
    /// `package.Service`
    pub service: String,
    /// Absent: every method of it.
    pub method: Option<String>,
}

/// What asks to pass.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Whose certificate was verified; absent: nobody's.
    pub identity: Option<&'a SpiffeId>,
    /// The pod's port.
    pub port: u16,
    /// Absent: a connection that is not HTTP.
    pub request: Option<Request<'a>>,
}

/// An HTTP request, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a str,
    /// The methods that its headers ask the application to take in its stead,
    /// in any case.
    pub overrides: &'a [&'a str],
    /// Normalized ([`crate::normalize`]), without the query. Absent: it has
    /// none (CONNECT, `OPTIONS *`).
    pub path: Option<&'a str>,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It passes: by this Allow, or because there is none for the port.
    Allowed(Option<&'a Rule>),
    /// This Deny matched.
    DeniedBy(&'a Rule),
    /// There are Allow policies, and none matched.
    NotAllowed,
}

/// All rules of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Those that deny, then those that allow, then those that are only told.
    all: Vec<Rule>,
    allow_from: usize,
    audit_from: usize,
    names_paths: bool,
    names_methods: bool,
}

impl Rules {
    /// Of rules in any order.
    pub fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        let mut all: Vec<Rule> = rules.into_iter().collect();
        all.sort_by_key(|rule| match rule.action {
            Action::Deny => 0,
            Action::Allow => 1,
            Action::Audit => 2,
        });
        for (place, rule) in all.iter_mut().enumerate() {
            rule.place = place;
        }
        let any = |looks: fn(&RequestMatch) -> bool| all.iter().flat_map(|one| &one.to).any(looks);
        Self {
            names_paths: any(|to| !to.paths.is_empty() || !to.grpc_methods.is_empty()),
            names_methods: any(|to| !to.methods.is_empty()),
            allow_from: all.partition_point(|rule| rule.action == Action::Deny),
            audit_from: all.partition_point(|rule| rule.action != Action::Audit),
            all,
        }
    }

    /// All of them.
    pub fn all(&self) -> &[Rule] {
        &self.all
    }

    /// Whether nothing has to be asked.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the application must receive normalized paths.
    pub fn names_paths(&self) -> bool {
        self.names_paths
    }

    /// Whether it matters what method a request asks for in its headers.
    pub fn names_methods(&self) -> bool {
        self.names_methods
    }

    /// Judges.
    pub fn judge(&self, subject: &Subject<'_>) -> Verdict<'_> {
        let deny = &self.all[..self.allow_from];
        if let Some(rule) = deny.iter().find(|rule| rule.denies(subject)) {
            return Verdict::DeniedBy(rule);
        }
        let mut any = false;
        for rule in &self.all[self.allow_from..self.audit_from] {
            if rule.counts_for(subject.port) {
                any = true;
                if rule.allows(subject) {
                    return Verdict::Allowed(Some(rule));
                }
            }
        }
        if any {
            Verdict::NotAllowed
        } else {
            Verdict::Allowed(None)
        }
    }

    /// The Audit policies that match, each of which is told.
    pub fn audited<'a>(&'a self, subject: &'a Subject<'_>) -> impl Iterator<Item = &'a Rule> {
        let audit = &self.all[self.audit_from..];
        audit.iter().filter(|rule| rule.denies(subject))
    }
}

impl Verdict<'_> {
    /// Whether it may pass.
    pub fn passes(self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

impl Rule {
    fn counts_for(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    fn is_from(&self, identity: Option<&SpiffeId>) -> bool {
        self.from.is_empty() || self.from.iter().any(|from| from.matches(identity))
    }

    /// In doubt it does: on a connection of which nothing else is known, and
    /// for whichever of its methods an application might take.
    fn denies(&self, subject: &Subject<'_>) -> bool {
        self.counts_for(subject.port)
            && self.is_from(subject.identity)
            && (self.to.is_empty() || self.to.iter().any(|to| to.denies(subject)))
    }

    /// In doubt it does not. (That it counts for the port was asked before.)
    fn allows(&self, subject: &Subject<'_>) -> bool {
        self.is_from(subject.identity)
            && (self.to.is_empty() || self.to.iter().any(|to| to.allows(subject)))
    }
}

impl CallerMatch {
    fn matches(&self, identity: Option<&SpiffeId>) -> bool {
        let Some(identity) = identity else {
            // One that asks for nothing is for everybody.
            return self.identities.is_empty() && self.namespaces.is_empty();
        };
        (self.identities.is_empty() || self.identities.iter().any(|id| id == identity.as_str()))
            && (self.namespaces.is_empty()
                || self
                    .namespaces
                    .iter()
                    .any(|name| name == identity.namespace()))
    }
}

impl RequestMatch {
    fn denies(&self, subject: &Subject<'_>) -> bool {
        self.is_for(subject.port)
            && match &subject.request {
                None => true,
                Some(request) => {
                    (self.methods.is_empty()
                        || request.methods().any(|one| self.names_any_case(one)))
                        && (self.reaches(request.path) || request.is_tunnel())
                }
            }
    }

    fn allows(&self, subject: &Subject<'_>) -> bool {
        self.is_for(subject.port)
            && match &subject.request {
                None => {
                    self.methods.is_empty() && self.paths.is_empty() && self.grpc_methods.is_empty()
                }
                Some(request) => {
                    (self.methods.is_empty() || self.names_all(request))
                        && self.reaches(request.path)
                }
            }
    }

    fn is_for(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    fn names_any_case(&self, method: &str) -> bool {
        let mut named = self.methods.iter();
        named.any(|named| named.eq_ignore_ascii_case(method))
    }

    fn names_all(&self, request: &Request<'_>) -> bool {
        self.methods.iter().any(|named| named == request.method)
            && request.overrides.iter().all(|one| self.names_any_case(one))
    }

    fn reaches(&self, path: Option<&str>) -> bool {
        let by_path = self.paths.is_empty()
            || path.is_some_and(|path| self.paths.iter().any(|rule| rule.matches(path)));
        let by_call = self.grpc_methods.is_empty()
            || path.is_some_and(|path| self.grpc_methods.iter().any(|call| call.matches(path)));
        by_path && by_call
    }
}

impl PathRule {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        }
    }
}

impl GrpcMethod {
    fn matches(&self, path: &str) -> bool {
        let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        parts.is_some_and(|(service, method)| {
            service == self.service && self.method.as_ref().is_none_or(|wanted| wanted == method)
        })
    }
}

impl Request<'_> {
    /// CONNECT to a host makes bytes of a connection, in which anything may
    /// follow: as little is known of it as of a connection that is not HTTP.
    fn is_tunnel(&self) -> bool {
        self.path.is_none() && self.method == "CONNECT"
    }

    fn methods(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.method).chain(self.overrides.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: &str, account: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", namespace, account).unwrap()
    }

    fn rule(action: Action, from: Vec<CallerMatch>, to: Vec<RequestMatch>) -> Rule {
        Rule {
            policy: "shop/rule".into(),
            action,
            from,
            to,
            ports: BTreeSet::new(),
            place: 0,
        }
    }

    fn of(identities: &[&SpiffeId], namespaces: &[&str]) -> CallerMatch {
        CallerMatch {
            identities: identities.iter().map(ToString::to_string).collect(),
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
        }
    }

    fn to(methods: &[&str], prefix: &str) -> RequestMatch {
        RequestMatch {
            methods: methods.iter().map(ToString::to_string).collect(),
            paths: match prefix {
                "" => Vec::new(),
                prefix => vec![PathRule::Prefix(prefix.to_owned())],
            },
            ..RequestMatch::default()
        }
    }

    fn request<'a>(identity: Option<&'a SpiffeId>, method: &'a str, path: &'a str) -> Subject<'a> {
        Subject {
            identity,
            port: 8080,
            request: Some(Request {
                method,
                overrides: &[],
                path: Some(path),
            }),
        }
    }

    fn passes(rules: &Rules, subject: &Subject<'_>) -> bool {
        rules.judge(subject).passes()
    }

    #[test]
    fn without_an_allow_everybody_may_and_with_one_only_whom_it_names() {
        let (web, other) = (id("shop", "web"), id("shop", "other"));
        assert!(passes(&Rules::default(), &request(None, "GET", "/")));
        let deny = rule(Action::Deny, vec![of(&[&other], &[])], Vec::new());
        let rules = Rules::new([deny.clone()]);
        assert!(passes(&rules, &request(None, "GET", "/")));
        assert!(!passes(&rules, &request(Some(&other), "GET", "/")));

        let allow = rule(Action::Allow, vec![of(&[&web], &[])], Vec::new());
        let rules = Rules::new([allow.clone(), deny]);
        assert!(passes(&rules, &request(Some(&web), "GET", "/")));
        assert_eq!(rules.judge(&request(None, "GET", "/")), Verdict::NotAllowed);
        let denied = request(Some(&other), "GET", "/");
        assert!(matches!(
            rules.judge(&denied),
            Verdict::DeniedBy(rule) if &*rule.policy == "shop/rule" && rule.place == 0
        ));

        // The port of another Service of the pod is not its business.
        let of_port = Rule {
            ports: BTreeSet::from([9090]),
            ..allow
        };
        let rules = Rules::new([of_port]);
        assert!(passes(&rules, &request(None, "GET", "/")));
    }

    #[test]
    fn a_deny_wins_over_an_allow_and_an_audit_over_nothing() {
        let web = id("shop", "web");
        let allow = rule(Action::Allow, Vec::new(), Vec::new());
        let deny = rule(Action::Deny, Vec::new(), vec![to(&[], "/admin")]);
        let audit = rule(Action::Audit, Vec::new(), vec![to(&[], "/secret")]);
        let rules = Rules::new([allow, deny, audit]);
        assert!(rules.names_paths());
        assert!(passes(&rules, &request(Some(&web), "GET", "/")));
        assert!(!passes(&rules, &request(Some(&web), "GET", "/admin/x")));
        let secret = request(Some(&web), "GET", "/secret");
        assert!(passes(&rules, &secret));
        assert_eq!(rules.audited(&secret).count(), 1);
        assert_eq!(rules.audited(&request(None, "GET", "/")).count(), 0);
    }

    #[test]
    fn callers_are_known_by_their_certificate_alone() {
        let (web, twin) = (id("shop", "web"), id("other", "web"));
        for (from, caller, matches) in [
            (of(&[&web], &[]), Some(&web), true),
            (of(&[&web], &[]), Some(&twin), false),
            (of(&[&web], &[]), None, false),
            (of(&[], &["shop"]), Some(&web), true),
            (of(&[], &["shop"]), Some(&twin), false),
            (of(&[], &["shop"]), None, false),
            (of(&[&web, &twin], &["other"]), Some(&twin), true),
            (of(&[&web, &twin], &["other"]), Some(&web), false),
            (CallerMatch::default(), None, true),
        ] {
            assert_eq!(from.matches(caller), matches, "{from:?} {caller:?}");
        }
    }

    #[test]
    fn a_prefix_is_of_whole_segments() {
        let prefix = PathRule::Prefix("/a".to_owned());
        let matching = ["/a", "/a/", "/a/b"]
            .iter()
            .all(|path| prefix.matches(path));
        assert!(matching);
        assert!(!prefix.matches("/ab") && !prefix.matches("/") && !prefix.matches("/A"));
        assert!(PathRule::Prefix(String::new()).matches("/"));
        let exact = PathRule::Exact("/a".to_owned());
        assert!(exact.matches("/a") && !exact.matches("/a/"));
    }

    #[test]
    fn of_a_connection_that_is_not_http_only_the_rest_is_known() {
        let subject = Subject {
            identity: None,
            port: 8080,
            request: None,
        };
        let allow = |to| Rules::new([rule(Action::Allow, Vec::new(), vec![to])]);
        let deny = |to| Rules::new([rule(Action::Deny, Vec::new(), vec![to])]);
        let of_port = RequestMatch {
            ports: BTreeSet::from([8080]),
            ..RequestMatch::default()
        };
        let of_other_port = RequestMatch {
            ports: BTreeSet::from([80]),
            ..to(&["GET"], "/")
        };
        assert!(passes(&allow(of_port.clone()), &subject));
        assert!(!passes(&allow(to(&["GET"], "")), &subject));
        assert!(!passes(&allow(to(&[], "/a")), &subject));
        assert!(!passes(&deny(to(&["GET"], "/a")), &subject));
        assert!(!passes(&deny(of_port), &subject));
        assert!(passes(&deny(of_other_port), &subject));
    }

    #[test]
    fn the_case_of_a_method_opens_nothing() {
        let deny = Rules::new([rule(Action::Deny, Vec::new(), vec![to(&["DELETE"], "")])]);
        let allow = Rules::new([rule(Action::Allow, Vec::new(), vec![to(&["GET"], "")])]);
        assert!(!passes(&deny, &request(None, "delete", "/")));
        assert!(!passes(&allow, &request(None, "get", "/")));
        assert!(passes(&allow, &request(None, "GET", "/")));
    }

    /// An application may take the method of such a header for the request's.
    #[test]
    fn a_method_in_a_header_counts_too() {
        let overrides = ["delete"];
        let subject = Subject {
            identity: None,
            port: 8080,
            request: Some(Request {
                method: "POST",
                overrides: &overrides,
                path: Some("/"),
            }),
        };
        let deny = Rules::new([rule(Action::Deny, Vec::new(), vec![to(&["DELETE"], "")])]);
        let allow = Rules::new([rule(Action::Allow, Vec::new(), vec![to(&["POST"], "")])]);
        assert!(!passes(&deny, &subject));
        assert!(!passes(&allow, &subject));
        assert!(passes(&allow, &request(None, "POST", "/")));
        assert!(passes(&deny, &request(None, "POST", "/")));
    }

    #[test]
    fn grpc_methods_are_paths_of_two_segments() {
        let call = |method: Option<&str>| GrpcMethod {
            service: "shop.Cart".to_owned(),
            method: method.map(str::to_owned),
        };
        assert!(call(Some("Add")).matches("/shop.Cart/Add"));
        assert!(!call(Some("Add")).matches("/shop.Cart/add"));
        assert!(call(None).matches("/shop.Cart/Remove"));
        assert!(!call(None).matches("/shop.Cart"));
        assert!(!call(None).matches("/shop.CartX/Add"));
    }

    #[test]
    fn what_has_no_path_is_reached_by_no_rule_of_paths_but_a_tunnel_is_denied() {
        let allow = Rules::new([rule(Action::Allow, Vec::new(), vec![to(&[], "/a")])]);
        let deny = Rules::new([rule(Action::Deny, Vec::new(), vec![to(&[], "/a")])]);
        for (method, passes_deny) in [("OPTIONS", true), ("CONNECT", false)] {
            let subject = Subject {
                identity: None,
                port: 8080,
                request: Some(Request {
                    method,
                    overrides: &[],
                    path: None,
                }),
            };
            assert!(!passes(&allow, &subject), "{method}");
            assert_eq!(passes(&deny, &subject), passes_deny, "{method}");
        }
    }
}
