//! What a connection that begins with TLS asks for: whether another sidecar
//! speaks (it offers a protocol of ours, ALPN, RFC 7301), or an application.
//!
//! Pure, and decides nothing that rustls does not decide again: what is taken
//! for a sidecar's here must still be one there.

use super::config::Alpn;

/// A ClientHello is settled within so many bytes; a longer one is an
/// application's. A sidecar's, hybrid key share included, has about 1,600.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

/// Content type `handshake` (RFC 8446, section 5.1).
pub const HANDSHAKE_RECORD: u8 = 22;
/// `client_hello` (RFC 8446, section 4).
const CLIENT_HELLO: u8 = 1;
/// `application_layer_protocol_negotiation` (RFC 7301, section 3.1).
const ALPN_EXTENSION: u16 = 16;
/// Record header: type, version, length.
const RECORD_HEADER: usize = 5;

/// Who speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed.
    Undecided,
    /// A sidecar.
    Mesh,
    /// An application, by a ClientHello that offers none of our protocols.
    Foreign,
    /// It is no ClientHello.
    NotTls,
}

/// Judges all that a client has sent so far, from the first byte.
pub fn judge(bytes: &[u8]) -> Hello {
    match first_bytes(bytes) {
        Some(true) => {}
        Some(false) => return Hello::NotTls,
        None => return Hello::Undecided,
    }
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(hello) = whole_hello(&message) {
            return match hello {
                Some(hello) => of_hello(hello),
                None => Hello::NotTls,
            };
        }
        let Some((header, after)) = rest.split_first_chunk::<RECORD_HEADER>() else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE_RECORD || header[1] != 3 || length == 0 {
            return Hello::NotTls;
        }
        let taken = length.min(after.len());
        message.extend_from_slice(&after[..taken]);
        rest = &after[taken..];
        if taken < length {
            break;
        }
    }
    match whole_hello(&message) {
        Some(Some(hello)) => of_hello(hello),
        Some(None) => Hello::NotTls,
        None if bytes.len() >= MAX_HELLO_BYTES => Hello::Foreign,
        None => Hello::Undecided,
    }
}

/// Whether it begins as a record with a ClientHello does, as far as it goes.
fn first_bytes(bytes: &[u8]) -> Option<bool> {
    let expected = |at: usize, byte: u8| match at {
        0 => byte == HANDSHAKE_RECORD,
        1 => byte == 3,
        2 => byte <= 4,
        5 => byte == CLIENT_HELLO,
        _ => true,
    };
    let wrong = bytes
        .iter()
        .take(RECORD_HEADER + 1)
        .enumerate()
        .any(|(at, byte)| !expected(at, *byte));
    if wrong {
        return Some(false);
    }
    (bytes.len() > RECORD_HEADER).then_some(true)
}

/// The body of the handshake message, once it is whole; `Some(None)` where it
/// is another message.
fn whole_hello(message: &[u8]) -> Option<Option<&[u8]>> {
    let (header, rest) = message.split_first_chunk::<4>()?;
    if header[0] != CLIENT_HELLO {
        return Some(None);
    }
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
    if length > MAX_HELLO_BYTES {
        return Some(None);
    }
    rest.get(..length).map(Some)
}

fn of_hello(hello: &[u8]) -> Hello {
    match offers_ours(hello) {
        Some(true) => Hello::Mesh,
        Some(false) => Hello::Foreign,
        None => Hello::NotTls,
    }
}

/// RFC 8446, section 4.1.2.
fn offers_ours(hello: &[u8]) -> Option<bool> {
    // legacy_version and random
    let mut hello = Fields(hello.get(34..)?);
    hello.vector8()?; // legacy_session_id
    hello.vector16()?; // cipher_suites
    hello.vector8()?; // legacy_compression_methods
    if hello.0.is_empty() {
        return Some(false);
    }
    let mut extensions = Fields(hello.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number16()?;
        let content = extensions.vector16()?;
        if kind != ALPN_EXTENSION {
            continue;
        }
        let mut names = Fields(Fields(content).vector16()?);
        while !names.0.is_empty() {
            if Alpn::named(names.vector8()?).is_some() {
                return Some(true);
            }
        }
    }
    Some(false)
}

/// Fields of a TLS structure (RFC 8446, section 3).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.0.split_first()?;
        self.0 = rest;
        self.take(usize::from(length))
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    fn hello(protocols: &[&str]) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(super::super::config::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
        let name = ServerName::try_from("example.org").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of at most `size` bytes.
    fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
        bytes[RECORD_HEADER..]
            .chunks(size)
            .flat_map(|piece| {
                let mut record = vec![HANDSHAKE_RECORD, 3, 1];
                record.extend((piece.len() as u16).to_be_bytes());
                record.extend_from_slice(piece);
                record
            })
            .collect()
    }

    #[test]
    fn sidecars_are_told_from_applications() {
        assert_eq!(judge(&hello(&["remora-h2"])), Hello::Mesh);
        assert_eq!(judge(&hello(&["h2", "remora-tcp"])), Hello::Mesh);
        assert_eq!(judge(&hello(&["h2", "http/1.1"])), Hello::Foreign);
        assert_eq!(judge(&hello(&["remora-h3"])), Hello::Foreign);
        assert_eq!(judge(&hello(&[])), Hello::Foreign);
        assert_eq!(judge(b"GET / HTTP/1.1\r\n"), Hello::NotTls);
        assert_eq!(judge(b"\x16\x03\x01\x00\x05\x02"), Hello::NotTls);
        assert_eq!(judge(b"\x16\x03"), Hello::Undecided);
        assert_eq!(judge(b""), Hello::Undecided);
    }

    #[test]
    fn a_hello_that_never_ends_is_an_applications() {
        let mut endless = vec![
            HANDSHAKE_RECORD,
            3,
            1,
            0xff,
            0xff,
            CLIENT_HELLO,
            0,
            0x3f,
            0xff,
        ];
        endless.resize(MAX_HELLO_BYTES, 0);
        assert_eq!(judge(&endless), Hello::Foreign);
        assert_eq!(judge(&endless[..MAX_HELLO_BYTES - 1]), Hello::Undecided);
    }

    proptest! {
        #[test]
        fn any_records_and_any_piece_give_the_same_answer(size in 1_usize..2_000, step in 50_usize..400, mesh: bool) {
            let (name, expected) = match mesh {
                true => ("remora-h1", Hello::Mesh),
                false => ("h2", Hello::Foreign),
            };
            let bytes = in_records(&hello(&[name]), size);
            for end in (0..bytes.len()).step_by(step) {
                prop_assert_eq!(judge(&bytes[..end]), Hello::Undecided, "{} of {}", end, bytes.len());
            }
            prop_assert_eq!(judge(&bytes), expected);
        }

        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..600) {
            let _ = judge(&bytes);
            let real = hello(&["remora-h2"]);
            let length = bytes.len().min(real.len());
            bytes[..at.min(length)].copy_from_slice(&real[..at.min(length)]);
            let _ = judge(&bytes);
        }
    }
}
