//! As much of HPACK (RFC 7541) as the tests' raw peer needs: it writes
//! literals only, and reads what does not use the dynamic table, which it
//! switches off.

/// The static table, from index 1; only what an answer may use has its value.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The Huffman code is canonical: symbols by length of their codes, 5 to 8 bits.
/// Longer codes are of characters that no header of ours has.
const CODES: [(u32, &[u8]); 4] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
];

/// These fields as literals, none of which enters a table.
pub fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name.as_bytes());
        string(&mut block, value.as_bytes());
    }
    block
}

/// A literal that enters the dynamic table.
pub fn indexed_literal(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    string(&mut block, name.as_bytes());
    string(&mut block, value.as_bytes());
    block
}

/// The newest entry of the dynamic table, as a field.
pub const NEWEST: u8 = 0x80 | 62;

fn string(block: &mut Vec<u8>, text: &[u8]) {
    integer(block, 7, 0, text.len());
    block.extend(text);
}

fn integer(block: &mut Vec<u8>, prefix: u32, flags: u8, mut value: usize) {
    let most = (1 << prefix) - 1;
    if value < most {
        return block.push(flags | value as u8);
    }
    block.push(flags | most as u8);
    value -= most;
    while value >= 128 {
        block.push(value as u8 | 128);
        value >>= 7;
    }
    block.push(value as u8);
}

/// The fields of a block; what refers to the dynamic table is left out.
pub fn decode(mut block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some(first) = block.first().copied() {
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => {
                take_integer(&mut block, 5);
                continue;
            }
            _ => (4, true),
        };
        let index = take_integer(&mut block, prefix);
        let known = index.checked_sub(1).and_then(|at| STATIC.get(at));
        match (literal, known) {
            (false, Some((name, value))) => fields.push(((*name).into(), (*value).into())),
            (false, None) => {}
            (true, known) => {
                let name = match (index, known) {
                    (0, _) => take_string(&mut block),
                    (_, Some((name, _))) => (*name).to_owned(),
                    (_, None) => String::new(),
                };
                fields.push((name, take_string(&mut block)));
            }
        }
    }
    fields
}

fn take_integer(block: &mut &[u8], prefix: u32) -> usize {
    let most = (1 << prefix) - 1;
    let mut value = block[0] as usize & most;
    *block = &block[1..];
    if value < most {
        return value;
    }
    for shift in (0..28).step_by(7) {
        let next = block[0];
        *block = &block[1..];
        value += (next as usize & 127) << shift;
        if next & 128 == 0 {
            break;
        }
    }
    value
}

fn take_string(block: &mut &[u8]) -> String {
    let huffman = block[0] & 0x80 != 0;
    let length = take_integer(block, 7);
    let (text, rest) = block.split_at(length);
    *block = rest;
    match huffman {
        true => unpack(text),
        false => String::from_utf8_lossy(text).into_owned(),
    }
}

fn unpack(packed: &[u8]) -> String {
    let mut text = String::new();
    let (mut code, mut bits) = (0_u32, 0_u32);
    for at in 0..packed.len() * 8 {
        code = code << 1 | u32::from(packed[at / 8] >> (7 - at % 8) & 1);
        bits += 1;
        if let Some(symbol) = symbol(code, bits) {
            text.push(symbol);
            (code, bits) = (0, 0);
        }
    }
    text
}

fn symbol(code: u32, bits: u32) -> Option<char> {
    let mut first = 0;
    let mut before = 5;
    for (length, symbols) in CODES {
        first <<= length - before;
        before = length;
        if length == bits {
            let at = code.checked_sub(first)? as usize;
            return symbols.get(at).map(|symbol| char::from(*symbol));
        }
        first += symbols.len() as u32;
    }
    None
}

#[test]
fn what_is_written_is_read_and_examples_of_the_rfc_too() {
    let fields = [(":status", "302"), ("x-remora-reason", "bad_request")];
    let read = decode(&encode(&fields));
    assert_eq!(read.len(), 2);
    assert_eq!((read[1].0.as_str(), read[1].1.as_str()), fields[1]);
    // RFC 7541, C.6.1: ":status: 302" and "cache-control: private", by Huffman.
    let block = b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b";
    let expected = [(":status", "302"), ("cache-control", "private")];
    assert_eq!(
        decode(block),
        expected.map(|(name, value)| (name.into(), value.into()))
    );
}
