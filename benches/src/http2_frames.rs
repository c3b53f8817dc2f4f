//! Just enough HTTP/2 (RFC 9113) to ask for `/` and to see the answer's end.
//!
//! Header fields are sent as literals that are not indexed (RFC 7541, 6.2.2),
//! and the peer is told to keep no table either, so that nothing has to be
//! remembered; of an answer's fields only `:status: 200` is looked for, which is
//! one byte in the static table.

use anyhow::bail;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const FRAME_HEAD_BYTES: usize = 9;
/// The largest window there is: it is never given back, and 2 GiB are more than
/// a load of latencies takes on one connection.
const WINDOW: u32 = i32::MAX as u32;
/// What a connection's window is before any update.
const FIRST_WINDOW: u32 = 65_535;

fn frame(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + payload.len());
    // Frames made here are far shorter than 2^24.
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream_id.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// What a client says first: the preface, its settings, and the whole window.
pub fn preface() -> Vec<u8> {
    let mut settings = Vec::new();
    // HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE
    for (name, value) in [(1_u16, 0_u32), (2, 0), (4, WINDOW)] {
        settings.extend_from_slice(&name.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &settings));
    bytes.extend(frame(8, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes()));
    bytes
}

/// The fields of `GET http://<host>/`.
pub fn get_headers(host: &str) -> Vec<u8> {
    // Indexed: `:method: GET`, `:scheme: http`, `:path: /`; then a literal with
    // the name of index 1, `:authority`.
    let mut block = vec![0x82, 0x86, 0x84, 0x01];
    // Hosts here are shorter than the 127 bytes that one length byte can say.
    block.push(host.len() as u8 & 0x7f);
    block.extend_from_slice(host.as_bytes());
    block
}

/// A request without a body.
pub fn headers_frame(stream_id: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream_id, block)
}

/// The answer on one stream, as its frames come.
#[derive(Debug)]
pub struct Reply {
    stream_id: u32,
    status_seen: bool,
    /// The stream has ended.
    pub ended: bool,
    /// What the peer is owed: acknowledgements.
    pub to_send: Vec<u8>,
}

impl Reply {
    /// Of `stream_id`, before any of it came.
    pub const fn new(stream_id: u32) -> Self {
        Self {
            stream_id,
            status_seen: false,
            ended: false,
            to_send: Vec::new(),
        }
    }

    /// Takes the whole frames at the beginning of `bytes`; gives their length.
    ///
    /// # Errors
    /// The stream or the connection is given up, or the answer is not 200.
    pub fn take(&mut self, bytes: &[u8]) -> anyhow::Result<usize> {
        let mut taken = 0;
        while let Some(head) = bytes.get(taken..taken + FRAME_HEAD_BYTES) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let begin = taken + FRAME_HEAD_BYTES;
            let Some(payload) = bytes.get(begin..begin + length) else {
                break;
            };
            let stream_id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.frame(head[3], head[4], stream_id, payload)?;
            taken = begin + length;
        }
        Ok(taken)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> anyhow::Result<()> {
        match kind {
            SETTINGS if flags & ACK == 0 => self.to_send.extend(frame(SETTINGS, ACK, 0, &[])),
            PING if flags & ACK == 0 => self.to_send.extend(frame(PING, ACK, 0, payload)),
            GOAWAY => bail!("the connection is given up: GOAWAY {payload:?}"),
            RST_STREAM => bail!("stream {stream_id} was reset: {payload:?}"),
            HEADERS if stream_id == self.stream_id => {
                if !self.status_seen && !is_ok(flags, payload) {
                    bail!("the answer is not 200: {payload:?}");
                }
                self.status_seen = true;
                self.ended = flags & END_STREAM != 0;
            }
            DATA if stream_id == self.stream_id => self.ended = flags & END_STREAM != 0,
            _ => {}
        }
        Ok(())
    }
}

/// Whether a header block begins with `:status: 200`, indexed.
fn is_ok(flags: u8, payload: &[u8]) -> bool {
    let padding = usize::from(flags & PADDED != 0);
    let priority = if flags & PRIORITY != 0 { 5 } else { 0 };
    payload
        .iter()
        .skip(padding + priority)
        // Changes of the table's size (RFC 7541, 6.3) may come first.
        .find(|byte| *byte & 0xe0 != 0x20)
        .is_some_and(|byte| *byte == 0x88)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_pieces_ends_with_its_stream() {
        let mut said = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 4, 0]);
        said.extend(frame(HEADERS, END_HEADERS, 5, &[0x20, 0x88]));
        said.extend(frame(DATA, END_STREAM, 5, b"body"));
        let mut reply = Reply::new(5);
        let first = reply.take(&said[..20]).unwrap();
        assert_eq!(first, 15);
        assert_eq!(reply.to_send, frame(SETTINGS, ACK, 0, &[]));
        assert!(!reply.ended);
        assert_eq!(reply.take(&said[first..]).unwrap(), said.len() - first);
        assert!(reply.ended);
    }

    #[test]
    fn other_statuses_resets_and_goaways_are_errors() {
        let not_found = frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x8d]);
        assert!(Reply::new(1).take(&not_found).is_err());
        assert!(
            Reply::new(1)
                .take(&frame(RST_STREAM, 0, 1, &[0; 4]))
                .is_err()
        );
        assert!(Reply::new(1).take(&frame(GOAWAY, 0, 0, &[0; 8])).is_err());
    }

    #[test]
    fn a_request_is_three_indexed_fields_and_a_literal() {
        let bytes = headers_frame(3, &get_headers("up"));
        assert_eq!(
            bytes,
            [
                0, 0, 7, 1, 5, 0, 0, 0, 3, 0x82, 0x86, 0x84, 1, 2, b'u', b'p'
            ]
        );
    }
}
