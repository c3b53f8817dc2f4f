//! Which requests a limit counts, and by which key.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use crate::policy::config::{KeyPart, Match, PathMatch};
use crate::tls::Peer;

/// What a limit may ask of a request.
pub trait Facts {
    /// The HTTP method.
    fn method(&self) -> &str;
    /// The path, without the query.
    fn path(&self) -> &str;
    /// The value of the first header of this lower-case name.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// The caller's address.
    fn remote_address(&self) -> Option<IpAddr>;
    /// The caller's SPIFFE id, where it has shown one.
    fn client_identity(&self) -> Option<&str>;
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// From this address.
    pub address: IpAddr,
    /// Who it has shown to be.
    pub identity: Option<&'a Peer>,
}

/// Whether everything that `conditions` names holds.
pub fn matches(conditions: &Match, facts: &impl Facts) -> bool {
    let Match {
        methods,
        path,
        headers,
    } = conditions;
    (methods.is_empty() || methods.iter().any(|method| method == facts.method()))
        && path.as_ref().is_none_or(|path| match path {
            PathMatch::Exact(exact) => facts.path() == exact,
            PathMatch::Prefix(prefix) => facts.path().starts_with(prefix.as_str()),
        })
        && headers
            .iter()
            .all(|header| facts.header(&header.name) == Some(header.exact.as_bytes()))
}

/// Makes keys; the secrets differ from process to process.
#[derive(Debug, Default)]
pub(super) struct Keys {
    high: RandomState,
    low: RandomState,
}

impl Keys {
    /// The key of a request. What the request does not have counts as empty.
    pub(super) fn of(&self, parts: &[KeyPart], facts: &impl Facts) -> u128 {
        let mut high = self.high.build_hasher();
        let mut low = self.low.build_hasher();
        let mut add = |bytes: &[u8]| {
            for hasher in [&mut high, &mut low] {
                // The length first, so that no two lists of parts look alike.
                hasher.write_usize(bytes.len());
                hasher.write(bytes);
            }
        };
        for part in parts {
            match part {
                KeyPart::Header(name) => add(facts.header(name).unwrap_or_default()),
                KeyPart::Path => add(facts.path().as_bytes()),
                KeyPart::Method => add(facts.method().as_bytes()),
                KeyPart::ClientIdentity => {
                    add(facts.client_identity().unwrap_or_default().as_bytes());
                }
                KeyPart::RemoteAddress => {
                    match facts.remote_address().map(|it| it.to_canonical()) {
                        Some(IpAddr::V4(address)) => add(&address.octets()),
                        Some(IpAddr::V6(address)) => add(&address.octets()),
                        None => add(&[]),
                    }
                }
            }
        }
        (u128::from(high.finish()) << 64) | u128::from(low.finish())
    }
}

/// A request of this method for `/`, of which nothing else is known.
#[cfg(test)]
pub struct Bare(pub &'static str);

#[cfg(test)]
impl Facts for Bare {
    fn method(&self) -> &str {
        self.0
    }

    fn path(&self) -> &str {
        "/"
    }

    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }

    fn remote_address(&self) -> Option<IpAddr> {
        None
    }

    fn client_identity(&self) -> Option<&str> {
        None
    }
}
