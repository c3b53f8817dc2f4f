//! Relays raw TCP both ways, half-closes included.
//!
//! Reads only when a socket is readable, into a buffer that the worker's
//! connections share, so that an idle connection holds none.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::{self, Timestamp};
use crate::io::Stream;

/// What one read may take; the copy costs half of what it does with 8 KiB.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// What one read of a relay may take once a whole [`SCRATCH_BYTES`] came at once
/// and was taken at once: bulk costs a quarter of the calls. It is also the most
/// that a relay holds for a receiver who then stops.
pub const BULK_BYTES: usize = 256 * 1024;

/// The worker's shared buffers: nobody holds one over a wait.
#[derive(Clone, Debug)]
pub struct Scratch(Rc<Buffers>);

#[derive(Debug)]
struct Buffers {
    read: RefCell<Box<[u8]>>,
    write: RefCell<Vec<u8>>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(Buffers {
            // Of zeroes that the system gives: what was never read into is not resident.
            read: RefCell::new(vec![0; BULK_BYTES].into_boxed_slice()),
            write: RefCell::default(),
        }))
    }
}

impl Scratch {
    /// To read into.
    pub fn reading(&self) -> RefMut<'_, [u8]> {
        self.reading_up_to(SCRATCH_BYTES)
    }

    fn reading_up_to(&self, bytes: usize) -> RefMut<'_, [u8]> {
        RefMut::map(self.0.read.borrow_mut(), |buffer| &mut buffer[..bytes])
    }

    /// To put together what is written; as the last user left it.
    pub fn writing(&self) -> RefMut<'_, Vec<u8>> {
        let mut buffer = self.0.write.borrow_mut();
        if buffer.capacity() > SCRATCH_BYTES {
            // Somebody's head was huge; most are not.
            *buffer = Vec::new();
        }
        buffer
    }
}

/// How a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides closed in good order.
    Closed,
    /// The caller's side broke.
    CallerBroke,
    /// The upstream's side broke.
    UpstreamBroke,
    /// No byte either way for the idle timeout.
    Idle,
    /// The caller may no longer.
    Denied,
}

/// What a relayed connection carried, and how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// How it ended.
    pub end: RelayEnd,
    /// Bytes from the caller to the upstream.
    pub sent_bytes: u64,
    /// Bytes from the upstream to the caller.
    pub received_bytes: u64,
}

/// The state that both directions share.
struct Activity {
    last: Cell<Timestamp>,
    sent: Cell<u64>,
    received: Cell<u64>,
}

/// Which socket of a direction broke.
enum Side {
    Read,
    Write,
}

/// Relays between `caller` and `upstream` until both have ended, one breaks, or
/// neither has sent a byte for `idle`. `prefix` was read from the caller
/// already. `first_byte` is called once, when the upstream's first byte comes.
pub async fn relay(
    caller: &Stream,
    upstream: &Stream,
    prefix: Bytes,
    idle: Option<Duration>,
    scratch: &Scratch,
    first_byte: impl FnOnce(),
) -> Relayed {
    let never = std::future::pending();
    relay_until(caller, upstream, prefix, idle, scratch, first_byte, never).await
}

/// The same, at most until `denied`.
pub async fn relay_until(
    caller: &Stream,
    upstream: &Stream,
    prefix: Bytes,
    idle: Option<Duration>,
    scratch: &Scratch,
    first_byte: impl FnOnce(),
    denied: impl Future<Output = ()>,
) -> Relayed {
    let activity = Activity {
        last: Cell::new(clock::now()),
        sent: Cell::new(0),
        received: Cell::new(0),
    };
    let mut first_byte = Some(first_byte);
    let sending = async {
        write_all(upstream, &prefix)
            .await
            .map_err(|_| Side::Write)?;
        activity.sent.set(prefix.len() as u64);
        drop(prefix);
        pump(caller, upstream, scratch, &activity, |activity, bytes| {
            activity.sent.set(activity.sent.get() + bytes as u64);
        })
        .await
    };
    let receiving = pump(upstream, caller, scratch, &activity, |activity, bytes| {
        if let Some(first_byte) = first_byte.take() {
            first_byte();
        }
        activity
            .received
            .set(activity.received.get() + bytes as u64);
    });
    let both = async {
        let sent = async {
            sending
                .await
                .map_err(|side| blame(side, RelayEnd::CallerBroke, RelayEnd::UpstreamBroke))
        };
        let received = async {
            receiving
                .await
                .map_err(|side| blame(side, RelayEnd::UpstreamBroke, RelayEnd::CallerBroke))
        };
        match tokio::try_join!(sent, received) {
            Ok(_) => RelayEnd::Closed,
            Err(end) => end,
        }
    };
    let end = tokio::select! {
        end = both => end,
        () = until_idle(&activity, idle) => RelayEnd::Idle,
        () = denied => RelayEnd::Denied,
    };
    if end != RelayEnd::Closed {
        // Each side learns that this was no good end.
        caller.reset_on_close();
        upstream.reset_on_close();
    }
    Relayed {
        end,
        sent_bytes: activity.sent.get(),
        received_bytes: activity.received.get(),
    }
}

fn blame(side: Side, reader: RelayEnd, writer: RelayEnd) -> RelayEnd {
    match side {
        Side::Read => reader,
        Side::Write => writer,
    }
}

async fn pump(
    from: &Stream,
    to: &Stream,
    scratch: &Scratch,
    activity: &Activity,
    mut count: impl FnMut(&Activity, usize),
) -> Result<(), Side> {
    let mut most = SCRATCH_BYTES;
    loop {
        from.readable().await.map_err(|_| Side::Read)?;
        let rest = {
            let mut buffer = scratch.reading_up_to(most);
            match from.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    activity.last.set(clock::now());
                    count(activity, read);
                    if read < buffer.len() {
                        from.has_no_more();
                    }
                    let written = try_write(to, &buffer[..read]).map_err(|_| Side::Write)?;
                    most = if written < read {
                        SCRATCH_BYTES
                    } else if read == buffer.len() {
                        BULK_BYTES
                    } else {
                        most
                    };
                    // What the receiver does not take at once waits here, and
                    // nothing more is read meanwhile: the bound is one read.
                    (written < read).then(|| Bytes::copy_from_slice(&buffer[written..read]))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Err(Side::Read),
            }
        };
        if let Some(rest) = rest {
            write_all(to, &rest).await.map_err(|_| Side::Write)?;
            activity.last.set(clock::now());
        }
    }
    to.shutdown_in_order().await;
    Ok(())
}

/// As much as is taken now; TLS takes some records at a time.
fn try_write(to: &Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match to.try_write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

async fn write_all(to: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        let written = try_write(to, bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Completes when nothing has moved for `idle`; never without one. The timer
/// is set anew only when it fires, not with every byte.
async fn until_idle(activity: &Activity, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    loop {
        let deadline = activity.last.get().after(idle);
        if clock::now() >= deadline {
            return;
        }
        tokio::time::sleep_until(clock::instant(deadline)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        (client.unwrap(), server.unwrap().0.into())
    }

    #[tokio::test]
    async fn bytes_and_half_closes_pass_both_ways() {
        let (mut client, caller) = pair().await;
        let (mut server, upstream) = pair().await;
        let relaying = async {
            relay(
                &caller,
                &upstream,
                Bytes::from_static(b"he"),
                None,
                &Scratch::default(),
                || (),
            )
            .await
        };
        let talking = async {
            client.write_all(b"llo").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            server.write_all(&vec![7; 300_000]).await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            (heard, answer.len())
        };
        let (relayed, (heard, answer)) = tokio::join!(relaying, talking);
        assert_eq!((heard.as_slice(), answer), (b"hello".as_slice(), 300_000));
        assert_eq!(
            relayed,
            Relayed {
                end: RelayEnd::Closed,
                sent_bytes: 5,
                received_bytes: 300_000
            }
        );
    }

    #[tokio::test]
    async fn an_idle_connection_is_reset() {
        let (mut client, caller) = pair().await;
        let (_server, upstream) = pair().await;
        let idle = Some(Duration::from_millis(30));
        let relayed = relay(
            &caller,
            &upstream,
            Bytes::new(),
            idle,
            &Scratch::default(),
            || (),
        )
        .await;
        drop((caller, upstream));
        assert_eq!(relayed.end, RelayEnd::Idle);
        assert_eq!(
            client.read(&mut [0; 1]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}
