use proptest::prelude::*;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::parse_x509_certificate;

use super::*;
use crate::identity::authority::verify;
use crate::identity::material::Material;

const NOW: u64 = 1_800_000_000;
const TRUST_DOMAIN: &str = "cluster.local";

fn authority() -> Authority {
    let material = Material::generate(TRUST_DOMAIN, [9; 16], NOW).unwrap();
    Authority::read(&material, TRUST_DOMAIN, NOW).unwrap()
}

fn request(key: &KeyPair, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn id() -> SpiffeId {
    SpiffeId::new(TRUST_DOMAIN, "shop", "web").unwrap()
}

#[test]
fn a_leaf_is_an_svid_as_the_specification_has_it() {
    let authority = authority();
    let key = requested_key(&request(&KeyPair::generate().unwrap(), &["evil.example"])).unwrap();
    let id = id();
    let issued = authority
        .issue(&key, &Leaf::new(&id, 3_600), [0xab; 16], NOW)
        .unwrap();
    assert_eq!(issued.chain.len(), 1, "the root is not sent");
    verify(&issued.chain, &authority.roots()[0], NOW).unwrap();
    let (_, leaf) = parse_x509_certificate(&issued.chain[0]).unwrap();
    assert_eq!(leaf.raw_serial(), [&[0][..], &[0xab; 16]].concat());
    assert!(leaf.subject().iter().next().is_none());
    let validity = leaf.validity();
    assert_eq!(
        validity.not_before.timestamp() as u64,
        NOW - BACKDATED_SECONDS
    );
    assert_eq!(validity.not_after.timestamp() as u64, NOW + 3_600);
    let extension = |wanted: fn(&ParsedExtension<'_>) -> bool| {
        let mut all = leaf.extensions().iter();
        all.find(|one| wanted(one.parsed_extension())).unwrap()
    };
    let names = extension(|one| matches!(one, ParsedExtension::SubjectAlternativeName(_)));
    assert!(names.critical, "the subject is empty");
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        names.value.general_names,
        [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")],
        "what the request asks for does not count"
    );
    let usage = extension(|one| matches!(one, ParsedExtension::KeyUsage(_)));
    assert!(usage.critical);
    assert_eq!(
        leaf.key_usage().unwrap().unwrap().value.flags,
        1,
        "digitalSignature alone"
    );
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(!constraints.value.ca && constraints.critical);
    assert!(leaf.extensions().iter().any(|one| matches!(
        one.parsed_extension(),
        ParsedExtension::AuthorityKeyIdentifier(_)
    )));
}

#[test]
fn a_server_has_its_names_beside_its_id() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let id = id();
    let names = ["plane.remora-system.svc".to_owned()];
    let addresses = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let leaf = Leaf {
        names: &names,
        addresses: &addresses,
        ..Leaf::new(&id, 60)
    };
    let issued = authority.issue(&key, &leaf, [1; 16], NOW).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&issued.chain[0]).unwrap();
    for name in ["plane.remora-system.svc", "10.0.0.7", "fd00::7"] {
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        leaf.verify_is_valid_for_subject_name(&name).unwrap();
    }
    let bad = ["ü".to_owned()];
    let leaf = Leaf {
        names: &bad,
        ..Leaf::new(&id, 60)
    };
    let refused = authority.issue(&key, &leaf, [1; 16], NOW).unwrap_err();
    assert!(matches!(refused, IssueError::Name(_)), "{refused}");
}

#[test]
fn keys_of_few_kinds_are_taken() {
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        requested_key(&request(&key, &[])).unwrap();
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
    let refused = requested_key(&request(&key, &[])).unwrap_err();
    assert_eq!(refused, RequestError::Algorithm);
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let key = requested_key(&request(&rsa, &[])).unwrap();
    let (authority, id) = (authority(), id());
    let issued = authority
        .issue(&key, &Leaf::new(&id, 60), [1; 16], NOW)
        .unwrap();
    verify(&issued.chain, &authority.roots()[0], NOW).unwrap();
}

#[test]
fn who_does_not_have_the_key_gets_nothing() {
    let good = request(&KeyPair::generate().unwrap(), &[]);
    // The last byte is of the signature.
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let refused = requested_key(&forged).unwrap_err();
    assert!(matches!(
        refused,
        RequestError::Signature | RequestError::Unreadable
    ));
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(
        requested_key(&longer).unwrap_err(),
        RequestError::Unreadable
    );
    assert_eq!(requested_key(&[]).unwrap_err(), RequestError::Unreadable);
    let huge = vec![0; MAX_REQUEST_BYTES + 1];
    assert_eq!(requested_key(&huge).unwrap_err(), RequestError::TooLong);
}

proptest! {
    /// Whenever and for however long: a leaf lies within its CA's time, begins
    /// before now and ends after it, and is verified; or nothing is issued.
    #[test]
    fn a_leaf_never_outlives_its_ca(
        now in NOW - 3_000..NOW + 11 * 365 * 86_400,
        lifetime_seconds in 1_u64..40 * 86_400,
        serial in any::<[u8; 16]>(),
    ) {
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let id = id();
        let issued = authority.issue(&key, &Leaf::new(&id, lifetime_seconds), serial, now);
        if now >= authority.ends() {
            prop_assert!(matches!(issued, Err(IssueError::Expired)));
        } else {
            let issued = issued.unwrap();
            prop_assert!(issued.life.begins <= now && now < issued.life.ends);
            prop_assert!(issued.life.begins >= now - BACKDATED_SECONDS);
            prop_assert!(issued.life.ends <= authority.ends());
            prop_assert!(issued.life.ends <= now + lifetime_seconds);
            verify(&issued.chain, &authority.roots()[0], now).unwrap();
            verify(&issued.chain, &authority.roots()[0], issued.life.ends + 1).unwrap_err();
        }
    }

    #[test]
    fn no_request_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..400, with in any::<u8>()) {
        let _ = requested_key(&bytes);
        let mut near = request(&KeyPair::generate().unwrap(), &["a"]);
        // Of what is signed.
        let at = 8 + at % 100;
        let same = near[at] == with;
        near[at] = with;
        // A byte of it that is another makes it nobody's.
        prop_assert!(same || requested_key(&near).is_err());
    }
}
