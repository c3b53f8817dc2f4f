//! Until when a certificate is valid: of X.509 no more than that is needed
//! here, so no more is read.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Seconds since 1970 at which the first certificate of a PEM text ends to be
/// valid; `None` where there is none that can be read.
pub fn not_after(pem: &[u8]) -> Option<i64> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    of_der(&certificate)
}

/// The same of every certificate of a bundle.
pub fn all_not_after(pem: &[u8]) -> Vec<i64> {
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok);
    certificates.filter_map(|one| of_der(&one)).collect()
}

/// RFC 5280, 4.1: Certificate { TBSCertificate { [0] version, serialNumber,
/// signature, issuer, Validity { notBefore, notAfter }, ...
fn of_der(der: &[u8]) -> Option<i64> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    if let Some((_, after)) = element(rest, VERSION) {
        rest = after;
    }
    let (_, rest) = element(rest, INTEGER)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, rest) = any(validity)?;
    let ((tag, time), _) = any(rest)?;
    seconds(tag, time)
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The content of the next element, which must have this tag, and what follows.
fn element(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let ((tag, content), rest) = any(der)?;
    (tag == wanted).then_some((content, rest))
}

/// Tag and content of the next element, and what follows (X.690, 8.1).
fn any(der: &[u8]) -> Option<((u8, &[u8]), &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (bytes, rest) = rest.split_at_checked(count)?;
        let length = bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some(((tag, content), rest))
}

/// RFC 5280, 4.1.2.5: `YYMMDDHHMMSSZ` and `YYYYMMDDHHMMSSZ`.
fn seconds(tag: u8, time: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = text[..2].parse().ok()?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &text[2..],
            )
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |index: usize| rest[index * 2..index * 2 + 2].parse::<i8>().ok();
    let date = k8s_openapi::jiff::civil::DateTime::new(
        year,
        part(0)?,
        part(1)?,
        part(2)?,
        part(3)?,
        part(4)?,
        0,
    );
    let zoned = date.ok()?.to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC);
    Some(zoned.ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl req -x509 -newkey ec -days 3000 ...`.
    const PEM: &str = include_str!("testdata/certificate.pem");

    #[test]
    fn the_end_of_a_certificate_is_read() {
        assert_eq!(not_after(PEM.as_bytes()), Some(2_054_483_342));
        let twice = format!("{PEM}{PEM}");
        assert_eq!(all_not_after(twice.as_bytes()).len(), 2);
        assert_eq!(not_after(b"no certificate"), None);
    }

    #[test]
    fn both_forms_of_time_are_read() {
        assert_eq!(seconds(UTC_TIME, b"700101000000Z"), Some(0));
        assert_eq!(
            seconds(GENERALIZED_TIME, b"20500101000000Z"),
            Some(2_524_608_000)
        );
        assert_eq!(seconds(UTC_TIME, b"701301000000Z"), None);
        assert_eq!(seconds(GENERALIZED_TIME, b"700101000000Z"), None);
    }

    #[test]
    fn nothing_that_is_cut_short_panics() {
        let der = CertificateDer::from_pem_slice(PEM.as_bytes()).unwrap();
        for end in 0..der.len() {
            let _ = of_der(&der[..end]);
        }
        let mut changed = der.to_vec();
        for index in 0..changed.len().min(200) {
            let held = std::mem::replace(&mut changed[index], 0xff);
            let _ = of_der(&changed);
            changed[index] = held;
        }
        assert_eq!(of_der(&changed), Some(2_054_483_342));
    }
}
