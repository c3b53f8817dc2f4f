//! What the HTTP/1.1 engine allows a peer.

/// A head may be so large, and have so many fields; then 431.
pub const HEAD_BYTES: usize = 64 * 1024;
/// See [`HEAD_BYTES`].
pub const HEAD_FIELDS: usize = 256;

/// Empty lines that are skipped before a head (RFC 9112, section 2.2).
pub const LEADING_LINES: usize = 4;

/// Chunk extensions of one body, all together: they carry nothing here, and a
/// peer could send them for ever between two bytes of a body.
pub const EXTENSION_BYTES: usize = 4 * 1024;

/// Interim answers of one request; an upstream that sends more is broken.
pub const INTERIM_ANSWERS: usize = 64;

/// A body of which at least so much is still to come is read into buffers of
/// its own, without a copy.
pub const DIRECT_BYTES: usize = 16 * 1024;
/// Such a buffer.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// A piece of a body up to this size is copied behind what is sent before it:
/// cheaper than a further entry in the list that the kernel is given.
pub const COPIED_BYTES: usize = 4 * 1024;
/// Pieces of a body that go out in one system call.
pub const GATHERED_PIECES: usize = 8;
/// No further piece is asked for once so much is gathered.
pub const GATHERED_BYTES: usize = 64 * 1024;

/// What is read of a request's body that nobody wanted, to keep the connection;
/// for at most [`LINGER_TIME`].
pub const DRAINED_BYTES: usize = 64 * 1024;
/// What is read, and for how long, after the last answer on a connection, so
/// that a reset does not overtake the answer (RFC 9112, section 9.6).
pub const LINGER_BYTES: usize = 1024 * 1024;
/// See [`LINGER_BYTES`].
pub const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(1);
