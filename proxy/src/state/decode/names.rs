//! Which names and addresses are accepted. Names come from the network and go
//! into logs, metrics and subscriptions, so nothing but Kubernetes' own forms
//! passes. (kubernetes.io/docs/concepts/overview/working-with-objects/names)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use remora_proto::bounds::{is_label, is_label_value, is_subdomain, is_uid};

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
