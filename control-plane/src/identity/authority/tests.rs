use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::*;
use crate::identity::material::moment;

const NOW: u64 = 1_800_000_000;

/// A certificate with its key, for what comes below it.
struct Made {
    pem: String,
    params: CertificateParams,
    key: KeyPair,
}

fn params(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(match path_length {
        Some(length) => BasicConstraints::Constrained(length),
        None => BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = moment(NOW - 100);
    params.not_after = moment(NOW + 100_000);
    params
}

fn root(params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Made { pem, params, key }
}

fn below(issuer: &Made, params: CertificateParams) -> Made {
    let key = KeyPair::generate().unwrap();
    let signer = Issuer::from_params(&issuer.params, &issuer.key);
    let pem = params.signed_by(&key, &signer).unwrap().pem();
    Made { pem, params, key }
}

fn read(chain: &[&Made], key: &KeyPair, roots: &[&Made]) -> Result<Authority, AuthorityError> {
    let pem = |all: &[&Made]| {
        all.iter()
            .map(|one| &*one.pem)
            .collect::<String>()
            .into_bytes()
    };
    let material = Material {
        certificate: pem(chain),
        key: key.serialize_pem().into_bytes(),
        roots: pem(roots),
    };
    Authority::read(&material, "cluster.local", NOW)
}

fn refused(chain: &[&Made], key: &KeyPair, roots: &[&Made], words: &str) {
    let error = read(chain, key, roots).unwrap_err().to_string();
    assert!(error.contains(words), "{words:?} in {error:?}");
}

#[test]
fn an_intermediate_with_its_chain_issues_and_never_beyond_the_first_end() {
    let mut short = params("one", Some(1));
    short.not_after = moment(NOW + 1_000);
    let top = root(params("root", None));
    let one = below(&top, short);
    let two = below(&one, params("two", Some(0)));
    let authority = read(&[&two, &one], &two.key, &[&top]).unwrap();
    assert_eq!((authority.chain.len(), authority.ends()), (2, NOW + 1_000));
    // The root may stand in tls.crt too; it is not sent.
    let with_root = read(&[&two, &one, &top], &two.key, &[&top]).unwrap();
    assert_eq!(with_root.chain.len(), 2);
    // Other roots beside are trusted, whatever leads to them.
    let other = root(params("other", None));
    let two_roots = read(&[&two, &one], &two.key, &[&other, &top]).unwrap();
    assert_eq!(two_roots.roots().len(), 2);
}

#[test]
fn keys_of_other_kinds_issue_too() {
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let made = params("root", None);
        let pem = made.self_signed(&key).unwrap().pem();
        let made = Made {
            pem,
            params: made,
            key,
        };
        read(&[&made], &made.key, &[&made]).unwrap();
    }
}

#[test]
fn what_is_wrong_with_a_ca_that_was_brought_is_said_with_what_to_do() {
    let top = root(params("root", None));
    let good = below(&top, params("good", Some(0)));
    let other = root(params("other", None));

    let mut leaf = params("leaf", None);
    leaf.is_ca = IsCa::ExplicitNoCa;
    let leaf = below(&top, leaf);
    refused(&[&leaf], &leaf.key, &[&top], "isCA: true");

    let mut silent = params("silent", None);
    silent.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let silent = below(&top, silent);
    refused(&[&silent], &silent.key, &[&top], "keyCertSign");

    refused(&[&good], &other.key, &[&top], "tls.key is not the key");
    refused(&[&top, &good], &good.key, &[&top], "tls.key is not the key");
    refused(
        &[&good],
        &good.key,
        &[&other],
        "does not lead to a certificate of ca.crt",
    );

    let deep = below(&good, params("deep", Some(0)));
    refused(&[&deep, &good], &deep.key, &[&top], "larger pathlen");
    let low = root(params("low root", Some(0)));
    let under = below(&low, params("under", Some(0)));
    refused(&[&under], &under.key, &[&low], "larger pathlen");

    let mut old = params("old", None);
    old.not_after = moment(NOW - 10);
    let old = below(&top, old);
    refused(&[&old], &old.key, &[&top], "expired 10 s ago: renew it");
    let mut early = params("early", None);
    early.not_before = moment(NOW + 7);
    let early = below(&top, early);
    refused(
        &[&early],
        &early.key,
        &[&top],
        "not valid before 7 s from now",
    );
    let mut gone = params("gone root", None);
    gone.not_after = moment(NOW - 1);
    let gone = root(gone);
    let child = below(&gone, params("child", Some(0)));
    refused(&[&child], &child.key, &[&gone], "expired 1 s ago");
}

#[test]
fn a_text_that_is_missing_or_broken_is_named() {
    let top = root(params("root", None));
    let pem = top.pem.clone().into_bytes();
    let good = Material {
        certificate: pem.clone(),
        key: top.key.serialize_pem().into_bytes(),
        roots: pem,
    };
    let say = |change: fn(&mut Material)| {
        let mut material = good.clone();
        change(&mut material);
        let read = Authority::read(&material, "cluster.local", NOW);
        read.unwrap_err().to_string()
    };
    assert!(say(|m| m.certificate.clear()).starts_with("tls.crt holds no certificate"));
    assert!(say(|m| m.roots.clear()).starts_with("ca.crt holds no certificate"));
    assert!(say(|m| m.key.clear()).starts_with("tls.key is not PEM"));
    assert!(say(|m| m.roots.truncate(60)).starts_with("ca.crt is not PEM"));
    let many = say(|m| m.roots = m.roots.repeat(MAX_CERTIFICATES + 1));
    assert!(many.contains("more than 32"), "{many}");
    let trust_domain = Authority::read(&good, "Not a domain", NOW).unwrap_err();
    assert!(matches!(trust_domain, AuthorityError::Issue(_)));
}
