//! What of an X.509 certificate is looked at beside what `rustls-webpki`
//! verifies: between which moments it is valid, what its key may do, and whose
//! it is.
//!
//! Reads; believes nothing. What is read here counts only for a certificate
//! whose chain was verified, or that is our own.

use remora_proto::spiffe::SpiffeId;

use super::der::{self, Reader};
use super::outcome::HandshakeResult;

/// URI names of one certificate that are counted; one is right, two are wrong.
const URIS: usize = 2;

/// `id-ce-keyUsage`, 2.5.29.15
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// `id-ce-subjectAltName`, 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `uniformResourceIdentifier` of GeneralName (RFC 5280, section 4.2.1.6)
const URI: u8 = 0x86;

/// Bits of KeyUsage (RFC 5280, section 4.2.1.3), the first octet.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_CERT_SIGN: u8 = 0x04;
const CRL_SIGN: u8 = 0x02;

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Its serial number, as many bytes as it has.
    pub serial: &'a [u8],
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds; valid up to and with it.
    pub not_after: u64,
    /// The first octet of its key usage, where it has one.
    key_usage: Option<u8>,
    uris: [&'a [u8]; URIS],
    uri_count: usize,
}

/// Finds its way through a certificate; `None` where that is none.
pub fn read(der: &[u8]) -> Option<Certificate<'_>> {
    let certificate = Reader::new(der).of_tag(der::SEQUENCE)?;
    let mut fields = Reader::new(Reader::new(certificate).of_tag(der::SEQUENCE)?);
    fields.skip_if(der::context(0));
    let serial = fields.of_tag(der::INTEGER)?;
    fields.of_tag(der::SEQUENCE)?;
    // The issuer's name.
    fields.of_tag(der::SEQUENCE)?;
    let mut validity = Reader::new(fields.of_tag(der::SEQUENCE)?);
    let (tag, text) = validity.element()?;
    let not_before = der::unix_seconds(tag, text)?;
    let (tag, text) = validity.element()?;
    let not_after = der::unix_seconds(tag, text)?;
    let mut read = Certificate {
        serial,
        not_before,
        not_after,
        ..Certificate::default()
    };
    while let Some((tag, content)) = fields.element() {
        if tag == der::context(3) {
            read.extensions(Reader::new(content).of_tag(der::SEQUENCE)?)?;
        }
    }
    Some(read)
}

impl<'a> Certificate<'a> {
    fn extensions(&mut self, list: &'a [u8]) -> Option<()> {
        let mut list = Reader::new(list);
        while let Some((_, extension)) = list.element() {
            let mut extension = Reader::new(extension);
            let id = extension.of_tag(der::OBJECT_IDENTIFIER)?;
            // BOOLEAN, whether it is critical.
            extension.skip_if(0x01);
            let value = extension.of_tag(der::OCTET_STRING)?;
            if id == KEY_USAGE {
                // The first octet of a BIT STRING counts its unused bits.
                let bits = Reader::new(value).of_tag(der::BIT_STRING)?;
                self.key_usage = Some(bits.get(1).copied().unwrap_or(0));
            } else if id == SUBJECT_ALT_NAME {
                let mut names = Reader::new(Reader::new(value).of_tag(der::SEQUENCE)?);
                while let Some((tag, name)) = names.element() {
                    if tag == URI {
                        if let Some(place) = self.uris.get_mut(self.uri_count) {
                            *place = name;
                        }
                        self.uri_count += 1;
                    }
                }
            }
        }
        Some(())
    }

    /// Whose it is, as the X.509-SVID specification says (sections 2, 4.3 and
    /// 5.2): exactly one URI, and that a SPIFFE id; a key that signs, and
    /// neither certificates nor lists of revoked ones.
    ///
    /// # Errors
    /// [`HandshakeResult::BadName`] and [`HandshakeResult::WrongUsage`].
    pub fn identity(&self) -> Result<SpiffeId, HandshakeResult> {
        let usage = self.key_usage.unwrap_or(0);
        if usage & DIGITAL_SIGNATURE == 0 || usage & (KEY_CERT_SIGN | CRL_SIGN) != 0 {
            return Err(HandshakeResult::WrongUsage);
        }
        if self.uri_count != 1 {
            return Err(HandshakeResult::BadName);
        }
        // NUL, and every other byte that could mean something, is none of an id.
        std::str::from_utf8(self.uris[0])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(HandshakeResult::BadName)
    }

    /// Whether its key may sign certificates, as that of a CA must (X509-SVID,
    /// section 4.3; RFC 5280, section 6.1.4, n). It may where nothing is said.
    pub fn may_issue(&self) -> bool {
        self.key_usage
            .is_none_or(|usage| usage & KEY_CERT_SIGN != 0)
    }

    /// The serial number as people write it.
    pub fn serial_text(&self) -> String {
        hex(self.serial)
    }
}

/// `0a:1b:2c`
pub fn hex(bytes: &[u8]) -> String {
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}
