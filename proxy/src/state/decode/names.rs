//! Which names and addresses are accepted. Names come from the network and go
//! into logs, metrics and subscriptions, so nothing but Kubernetes' own forms
//! passes. (kubernetes.io/docs/concepts/overview/working-with-objects/names)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest DNS label, RFC 1123.
pub const MAX_LABEL: usize = 63;
/// The longest DNS subdomain, RFC 1123.
pub const MAX_SUBDOMAIN: usize = 253;
/// The longest pod uid that is accepted; Kubernetes' have 36 characters.
pub const MAX_UID: usize = 128;

/// A DNS label as RFC 1123 has it: namespaces and Services.
pub fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(inner)
        && bytes.last().is_some_and(inner)
        && bytes.iter().all(|byte| inner(byte) || *byte == b'-')
}

/// A DNS subdomain as RFC 1123 has it: pods, nodes, policies.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_SUBDOMAIN && name.split('.').all(is_long_label)
}

/// Kubernetes bounds the whole of a subdomain only, not each part.
fn is_long_label(part: &str) -> bool {
    let bytes = part.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(inner)
        && bytes.last().is_some_and(inner)
        && bytes.iter().all(|byte| inner(byte) || *byte == b'-')
}

/// A pod's uid: letters, digits, `-`, `_`, `.`, `:`.
pub fn is_uid(uid: &str) -> bool {
    (1..=MAX_UID).contains(&uid.len())
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// A label's value as Kubernetes has it: zones.
pub fn is_label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// `namespace/name`, both well formed.
pub fn is_namespaced(name: &str) -> bool {
    name.split_once('/')
        .is_some_and(|(namespace, name)| is_label(namespace) && is_subdomain(name))
}

/// The canonical name of a Service resource: `<namespace>/<name>` or `pod/<namespace>/<pod>`.
pub fn is_service_name(name: &str) -> bool {
    match name.strip_prefix("pod/") {
        // A namespace may itself be called `pod`: then there is one slash only.
        Some(rest) if rest.contains('/') => is_namespaced(rest),
        _ => name
            .split_once('/')
            .is_some_and(|(namespace, name)| is_label(namespace) && is_label(name)),
    }
}

/// 4 or 16 bytes in network order; an IPv4 address in IPv6 form becomes IPv4.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        for good in ["a", "shop", "payment-v1", "0x"] {
            assert!(is_label(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a\nb", "ä", &long] {
            assert!(!is_label(bad), "{bad}");
        }
        assert!(is_subdomain("web-0.web"));
        assert!(!is_subdomain("web..x"));
        assert!(!is_subdomain(&"a.".repeat(200)));
    }

    #[test]
    fn service_names_have_two_forms() {
        assert!(is_service_name("shop/catalog"));
        assert!(is_service_name("pod/shop/catalog-0"));
        assert!(is_service_name("pod/catalog"), "a namespace called pod");
        for bad in [
            "", "shop", "shop/", "/x", "*", "shop/*", "shop/a/b", "pod//x",
        ] {
            assert!(!is_service_name(bad), "{bad}");
        }
    }

    #[test]
    fn addresses_have_four_or_sixteen_bytes() {
        assert_eq!(address(&[10, 0, 0, 1]), Some("10.0.0.1".parse().unwrap()));
        let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(address(&mapped.octets()), Some("10.0.0.1".parse().unwrap()));
        for length in [0, 3, 5, 15, 17] {
            assert_eq!(address(&vec![1; length]), None);
        }
    }
}
