//! What we allow a peer, and ask of `h2`.
//!
//! Flow control is end to end: a window is given back only when the other side
//! has taken the bytes. So a window is the most that the sidecar ever holds for
//! a slow reader, and it is held only for slow readers.

use std::time::Duration;

use super::serve::Kind;

/// A stream from an application may send so much before it is read: four times
/// what a round trip inside a cluster carries at 10 Gbit/s in 50 us.
pub const CALLER_STREAM_WINDOW: u32 = 256 * 1024;
/// All streams of an application's connection together. What one caller can
/// make a sidecar hold; sixteen slow uploads before a seventeenth waits.
pub const CALLER_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// A stream from another sidecar, or from an upstream. 64 KiB cost 16-19 % more
/// CPU on bodies of 1 MiB, this 6 % more than 512 KiB.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// All streams of such a connection together. It is shared by many callers, so
/// it takes 128 that stand still until the others feel them.
pub const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;

/// Answers of one worker that may wait for callers who do not take them, before
/// streams upstream get [`CROWDED_STREAM_WINDOW`]: together 32 MiB.
pub const UNREAD_ANSWERS: usize = 128;
/// The window while more wait. Who reads has the same bytes, in more pieces.
pub const CROWDED_STREAM_WINDOW: u32 = 16 * 1024;
/// Answers that may wait before those that stand still are given up after
/// [`CROWDED_STALL`] instead of [`STREAM_STALL`].
pub const CROWDED_ANSWERS: usize = 512;
/// See [`CROWDED_ANSWERS`].
pub const CROWDED_STALL: Duration = Duration::from_secs(5);

/// Streams that an application may have open at a time on one connection.
pub const CALLER_STREAMS: u32 = 1_000;
/// Streams that a sidecar may have open at a time on one connection: it carries
/// every caller of one worker.
pub const MESH_STREAMS: u32 = 4_096;
/// Streams that we open at a time on one connection, whatever the peer allows.
pub const UPSTREAM_STREAMS: usize = 4_096;
/// Streams that we open before the upstream has said how many it allows; RFC
/// 9113, section 6.5.2, asks for no lower limit than this.
pub const UPSTREAM_STREAMS_AT_FIRST: usize = 100;

/// Decoded bytes of a head's fields, counted as RFC 9113, section 6.5.2, says;
/// beyond it the answer is 431.
pub const HEAD_BYTES: u32 = crate::http1::limits::HEAD_BYTES as u32;
/// Fields of a head; beyond it the answer is 431.
pub const HEAD_FIELDS: usize = crate::http1::limits::HEAD_FIELDS;

/// Streams of an application that are reset before we have looked at them. They
/// are looked at once for each read of 64 KiB, so an honest caller that
/// cancels much has some; `h2` allows 20 and then ends the connection.
pub const CALLER_RESET_UNSEEN: usize = CALLER_STREAMS as usize;
/// The same from a sidecar, which may have thousands of callers leave at once.
pub const MESH_RESET_UNSEEN: usize = MESH_STREAMS as usize;

/// Streams that we reset and still know, so that frames which were on their way
/// are ignored and not taken for errors. Costs about 400 bytes each.
pub const RESETS_REMEMBERED: usize = 4_096;
/// For how long: generous for a round trip.
pub const RESET_REMEMBERED_FOR: Duration = Duration::from_secs(1);

/// Streams that a caller makes us reset by frames that are wrong, in the life of
/// a connection (MadeYouReset, CVE-2025-8671). Streams above the limit of
/// concurrent ones count among them.
pub const CALLER_ERRORS: usize = 10_000;

/// What `h2` buffers of one stream while the socket does not take it.
pub const SEND_BUFFER: usize = 64 * 1024;

/// A closing connection whose peer does not read is cut off after this.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream whose caller grants no window for so long is reset: a caller could
/// otherwise hold an answer, and all that the request holds, for ever where no
/// policy has a timeout.
pub const STREAM_STALL: Duration = Duration::from_secs(300);

/// A connection whose peer takes nothing from the socket for so long is closed.
/// HTTP/2 has windows for those who cannot keep up; nobody stops reading. So long
/// a peer upstream may also leave what was sent unacknowledged.
pub const SOCKET_STALL: Duration = Duration::from_secs(30);

/// For a caller's connection.
pub fn server(kind: Kind) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_header_list_size(HEAD_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .reset_stream_duration(RESET_REMEMBERED_FOR)
        .max_local_error_reset_streams(Some(CALLER_ERRORS))
        .enable_connect_protocol();
    match kind {
        Kind::Application => builder
            .initial_window_size(CALLER_STREAM_WINDOW)
            .initial_connection_window_size(CALLER_CONNECTION_WINDOW)
            .max_concurrent_streams(CALLER_STREAMS)
            .max_pending_accept_reset_streams(CALLER_RESET_UNSEEN),
        Kind::Mesh => builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MESH_STREAMS)
            .max_pending_accept_reset_streams(MESH_RESET_UNSEEN),
    };
    builder
}

/// For a connection upstream.
pub fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_max_send_streams(UPSTREAM_STREAMS_AT_FIRST)
        .max_header_list_size(HEAD_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .reset_stream_duration(RESET_REMEMBERED_FOR)
        // h2 counts among them frames for streams that we cancelled long ago
        // (github.com/hyperium/h2/issues/856), and would end the connection that
        // everybody shares. A wrong answer costs its own stream alone.
        .max_local_error_reset_streams(None);
    builder
}
