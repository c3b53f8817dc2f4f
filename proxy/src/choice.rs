//! What in a request chooses its endpoint, beside the balancer: the pod that it
//! names, the session that it has, what it has in common with others.
//!
//! Made only where the policy asks for any of it.

use std::net::IpAddr;

use http::header::HeaderMap;
use http::request::Parts;

use crate::balance::StableHash;
use crate::clock;
use crate::headers;
use crate::policy::config::LoadBalancing;
use crate::policy::config::balancing::{Algorithm, HashPart, Persistence};
use crate::routes::request::View;
use crate::routes::session::Sessions;
use crate::runtime::EndpointRuntime;
use crate::state::Service;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Choice {
    /// The pod that the request is to go to.
    pub pin: Option<Box<str>>,
    /// Who has the same is served by the same endpoint.
    pub hash: Option<u64>,
    /// Of the service's own session persistence.
    sessions: Option<Sessions>,
}

impl Choice {
    /// Of a request that goes to a service with this policy; nothing where the
    /// balancer is free. `has_session`: a route's rule has sessions of its own.
    pub fn of(
        policy: &LoadBalancing,
        pin: Option<Box<str>>,
        has_session: bool,
        parts: &Parts,
        source: IpAddr,
    ) -> Option<Box<Self>> {
        let pin = pin.filter(|_| policy.pinning);
        let persistence = policy.persistence.as_ref().filter(|_| !has_session);
        let is_hashed = matches!(policy.algorithm, Algorithm::ConsistentHash(_));
        if pin.is_none() && persistence.is_none() && !is_hashed {
            return None;
        }
        Some(Box::new(Self {
            pin,
            hash: hash(policy, Some(parts), source),
            sessions: persistence.map(|it| Sessions::of(&it.session, &parts.headers)),
        }))
    }

    /// Whether the caller has a session with this endpoint.
    pub fn has_session_with(
        &self,
        persistence: &Persistence,
        endpoint: &EndpointRuntime,
        context: &str,
    ) -> bool {
        let sessions = self.sessions.as_ref();
        let now = clock::system_seconds();
        sessions.is_some_and(|sessions| {
            sessions.is_with(&endpoint.session_key, &persistence.session, context, now)
        })
    }

    /// Whether the service's own persistence is in force.
    pub fn keeps_sessions(&self) -> bool {
        self.sessions.is_some()
    }

    /// Whether the request shows a session of this service, with whomever it is.
    pub fn has_session(&self, persistence: &Persistence, context: &str) -> bool {
        let now = clock::system_seconds();
        let sessions = self.sessions.as_ref();
        sessions.is_some_and(|sessions| sessions.has_any(&persistence.session, context, now))
    }

    /// This endpoint gets the request.
    pub fn served_by(&mut self, target: &Service, endpoint: &EndpointRuntime) {
        let persistence = &target.config.policy.load_balancing.persistence;
        if let (Some(sessions), Some(persistence)) = (&mut self.sessions, persistence) {
            let (key, now) = (&endpoint.session_key, clock::system_seconds());
            sessions.served(key, &persistence.session, &target.runtime.name, now);
        }
    }

    /// Tells the caller of its session.
    pub fn tell(&self, target: &Service, answer: &mut HeaderMap) {
        let persistence = &target.config.policy.load_balancing.persistence;
        if let (Some(sessions), Some(persistence)) = (&self.sessions, persistence) {
            let of_service = |tag: &[u8; 8]| {
                let mut endpoints = target.all_endpoints();
                endpoints.any(|endpoint| endpoint.runtime.session_key.has(tag))
            };
            let now = clock::system_seconds();
            sessions.tell(&persistence.session, answer, now, of_service);
        }
    }
}

/// What a request (`None`: a raw connection) has in common with others; nothing
/// where it lacks all parts.
pub fn hash(policy: &LoadBalancing, parts: Option<&Parts>, source: IpAddr) -> Option<u64> {
    let Algorithm::ConsistentHash(config) = &policy.algorithm else {
        return None;
    };
    let mut hash = StableHash::new();
    let mut is_there = false;
    for (at, part) in config.on.iter().enumerate() {
        // What is not there differs from what is empty, and each part from the others.
        is_there |= write(part, parts, source, |bytes| {
            hash.write(&[at as u8, 1]);
            hash.write(bytes);
        });
        hash.write(&[0]);
    }
    is_there.then(|| hash.finish())
}

/// Whether the part was there.
fn write(
    part: &HashPart,
    parts: Option<&Parts>,
    source: IpAddr,
    mut write: impl FnMut(&[u8]),
) -> bool {
    if *part == HashPart::SourceAddress {
        match source.to_canonical() {
            IpAddr::V4(address) => write(&address.octets()),
            IpAddr::V6(address) => write(&address.octets()),
        }
        return true;
    }
    let Some(parts) = parts else { return false };
    let found = match part {
        HashPart::Header(name) => parts.headers.get(name).map(|value| value.as_bytes()),
        HashPart::Cookie(name) => headers::cookie(&parts.headers, name).map(str::as_bytes),
        HashPart::Path => Some(parts.uri.path().as_bytes()).filter(|path| !path.is_empty()),
        HashPart::Query(name) => View::of(parts).parameter(name).map(str::as_bytes),
        HashPart::SourceAddress => None,
    };
    found.map(&mut write).is_some()
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::policy::config::balancing::ConsistentHash;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));

    fn policy(on: &[HashPart]) -> LoadBalancing {
        LoadBalancing {
            algorithm: Algorithm::ConsistentHash(ConsistentHash {
                on: on.to_vec(),
                load_bound_percent: 125,
            }),
            ..LoadBalancing::default()
        }
    }

    fn parts(uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn who_has_the_same_has_the_same_hash_and_nobody_else() {
        let policy = policy(&[
            HashPart::Header("x-user".into()),
            HashPart::Cookie("session".into()),
            HashPart::Query("id".into()),
        ]);
        let of = |uri: &str, headers: &[_]| hash(&policy, Some(&parts(uri, headers)), SOURCE);
        let one = of(
            "/a?id=7",
            &[("x-user", "ada"), ("cookie", "a=1; session=x")],
        );
        let same = of("/b?x=1&id=7", &[("cookie", "session=x"), ("x-user", "ada")]);
        assert!(one.is_some());
        assert_eq!(one, same);
        for (uri, headers) in [
            ("/a?id=8", [("x-user", "ada"), ("cookie", "session=x")]),
            ("/a?id=7", [("x-user", "bob"), ("cookie", "session=x")]),
            ("/a?id=7", [("x-user", "ada"), ("cookie", "session=y")]),
            ("/a", [("x-user", "ada"), ("cookie", "session=x")]),
        ] {
            assert_ne!(of(uri, &headers), one, "{uri} {headers:?}");
        }
        assert_eq!(of("/a", &[]), None, "it has none of them");
        assert_ne!(
            of("/a", &[("x-user", "x")]),
            of("/a", &[("cookie", "session=x")]),
            "the same value elsewhere"
        );
    }

    #[test]
    fn of_a_raw_connection_the_source_alone_is_known() {
        let path = policy(&[HashPart::Path]);
        assert_eq!(hash(&path, None, SOURCE), None);
        let both = policy(&[HashPart::Path, HashPart::SourceAddress]);
        assert!(hash(&both, None, SOURCE).is_some());
        let mapped: IpAddr = "::ffff:10.0.0.7".parse().unwrap();
        assert_eq!(hash(&both, None, SOURCE), hash(&both, None, mapped));
    }
}
