//! What travels on the stage's network, as a file that tcpdump and Wireshark
//! read: pcap (draft-ietf-opsawg-pcap), Ethernet frames, each of them once.
//!
//! A thread of its own reads a packet socket (packet(7)) of the namespace in
//! which the bridge is, and so sees every frame that a pod sends or is sent.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::clock;
use super::stage::network::{BRIDGE, GATEWAY};

/// Bytes of a file; what travels after is not written.
pub const LARGEST_FILE_BYTES: u64 = 256 << 20;
/// Bytes that may wait in the kernel, so that a burst is not lost.
const RECEIVE_BYTES: usize = 32 << 20;
/// The largest frame: segmentation is offloaded to cables that have none.
const LARGEST_FRAME_BYTES: usize = 1 << 16;
/// How late the end is noticed.
const GLANCE_MS: i64 = 50;
/// `PACKET_OUTGOING` of linux/if_packet.h: frames on their way to a cable. Each
/// was seen before, on its way in from another one.
const OUTGOING: u8 = 4;
/// `LINKTYPE_ETHERNET`
const ETHERNET: u32 = 1;

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    end: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Captured>>,
}

/// What was captured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Captured {
    /// Frames in the file.
    pub frames: u64,
    /// Frames that came when the file was full.
    pub left_out: u64,
}

impl Capture {
    /// Captures what travels in the calling thread's network namespace, from now on.
    ///
    /// # Errors
    /// A file that cannot be made, a kernel that gives no packet socket.
    pub fn start(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("--capture: {} cannot be written", path.display()))?;
        let mut out = BufWriter::new(file);
        out.write_all(&file_header())?;
        let packets = open().context("--capture: the kernel gives no packet socket (packet(7))")?;
        let own = [BRIDGE, GATEWAY].map(|name| if_nametoindex(name).unwrap_or(0) as usize);
        let end = Arc::new(AtomicBool::new(false));
        let until = end.clone();
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || run(&packets, own, out, &until))?;
        Ok(Self { end, thread })
    }

    /// Ends it; the file is whole.
    ///
    /// # Errors
    /// What could not be read or written.
    pub fn finish(self) -> anyhow::Result<Captured> {
        self.end.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(captured) => Ok(captured.context("--capture")?),
            Err(_) => anyhow::bail!("--capture: its thread ended too early"),
        }
    }
}

fn open() -> nix::Result<OwnedFd> {
    let packets = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    setsockopt(
        &packets,
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(GLANCE_MS),
    )?;
    // What the kernel allows of it.
    let _ = setsockopt(&packets, sockopt::RcvBufForce, &RECEIVE_BYTES)
        .or_else(|_| setsockopt(&packets, sockopt::RcvBuf, &RECEIVE_BYTES));
    Ok(packets)
}

fn run(
    packets: &OwnedFd,
    own: [usize; 2],
    mut out: BufWriter<File>,
    end: &AtomicBool,
) -> io::Result<Captured> {
    let mut frame = vec![0; LARGEST_FRAME_BYTES];
    let mut captured = Captured::default();
    let mut written = 0;
    while !end.load(Ordering::Relaxed) {
        let (length, from) = match recvfrom::<LinkAddr>(packets.as_raw_fd(), &mut frame) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => continue,
            Err(error) => return Err(error.into()),
        };
        let is_first_sight =
            |from: LinkAddr| from.pkttype() != OUTGOING && !own.contains(&from.ifindex());
        if !from.is_some_and(is_first_sight) {
            continue;
        }
        let record = record_header(clock::since_epoch(), length);
        let size = (record.len() + length) as u64;
        if written + size > LARGEST_FILE_BYTES {
            captured.left_out += 1;
            continue;
        }
        out.write_all(&record)?;
        out.write_all(frame.get(..length).unwrap_or_default())?;
        written += size;
        captured.frames += 1;
    }
    out.flush()?;
    Ok(captured)
}

/// Section 4 of the draft, in our own byte order, as its magic number says.
fn file_header() -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_ne_bytes());
    header[4..6].copy_from_slice(&2_u16.to_ne_bytes());
    header[6..8].copy_from_slice(&4_u16.to_ne_bytes());
    header[16..20].copy_from_slice(&(LARGEST_FRAME_BYTES as u32).to_ne_bytes());
    header[20..].copy_from_slice(&ETHERNET.to_ne_bytes());
    header
}

/// Section 5.
fn record_header(at: Duration, length: usize) -> [u8; 16] {
    // Seconds since 1970 in 32 bits are the format's, until 2106.
    let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut header = [0; 16];
    for (place, word) in
        header
            .chunks_exact_mut(4)
            .zip([seconds, at.subsec_micros(), length, length])
    {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_head_and_a_records_are_as_the_format_has_them() {
        let header = file_header();
        assert_eq!(
            u32::from_ne_bytes(header[..4].try_into().unwrap()),
            0xa1b2_c3d4
        );
        assert_eq!(
            u32::from_ne_bytes(header[16..20].try_into().unwrap()),
            65_536
        );
        assert_eq!(u32::from_ne_bytes(header[20..].try_into().unwrap()), 1);
        let record = record_header(Duration::from_micros(7_000_042), 60);
        let words: Vec<u32> = record
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [7, 42, 60, 60]);
    }
}
