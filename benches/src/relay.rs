//! The floor under everything that relays TCP: bytes from one socket to the
//! other and nothing else.
//!
//! One thread, one edge-triggered epoll set in which each socket is registered
//! once. Two ways to move the bytes:
//! - [`Mover::Copy`]: `read` into a buffer of 64 KiB that each direction has,
//!   `write` from it. A read that does not fill the buffer has emptied the
//!   socket, so a request and its answer cost two reads, two writes and a share
//!   of an `epoll_wait`.
//! - [`Mover::Splice`]: `splice` through a pipe of 64 KiB for each direction:
//!   no copy in user space, but more calls.
//!
//! A direction whose receiver is full waits for it, so memory is bounded by a
//! buffer (or a pipe) for each direction.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use anyhow::Context;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::{Errno, read, write};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

/// The buffer of [`Mover::Copy`], and what one `splice` is asked for.
const PIECE_BYTES: usize = 64 * 1024;
/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// The events of listeners begin here, those of connections at zero.
const LISTENERS: u64 = 1 << 63;

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    /// `read` and `write`.
    Copy,
    /// `splice`.
    Splice,
}

/// Where connections come to, and where they are passed on to.
#[derive(Clone, Copy, Debug)]
pub struct Road {
    /// Connections come here.
    pub listen: SocketAddr,
    /// And go there.
    pub upstream: SocketAddr,
}

impl FromStr for Road {
    type Err = anyhow::Error;

    /// `127.0.0.1:8081=127.0.0.1:80`
    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (listen, upstream) = text
            .split_once('=')
            .with_context(|| format!("{text:?} is not LISTEN=UPSTREAM"))?;
        Ok(Self {
            listen: listen.parse()?,
            upstream: upstream.parse()?,
        })
    }
}

/// Relays every connection, until the process ends.
///
/// # Errors
/// When it cannot listen, or the kernel refuses epoll.
pub fn run(roads: &[Road], mover: Mover) -> anyhow::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut listeners = Vec::new();
    for (index, road) in (LISTENERS..).zip(roads) {
        let listener = TcpListener::bind(road.listen)
            .with_context(|| format!("cannot bind {}", road.listen))?;
        listener.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index);
        epoll::add(&poll, &listener, data, epoll::EventFlags::IN)?;
        listeners.push((listener, road.upstream));
    }
    let mut relay = Relay {
        poll,
        mover,
        pairs: Vec::new(),
        free: Vec::new(),
    };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&relay.poll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let token = event.data.u64();
            match token.checked_sub(LISTENERS).map(usize::try_from) {
                None => relay.wake(token, event.flags),
                Some(index) => {
                    let (listener, upstream) = &listeners[index?];
                    relay.accept(listener, *upstream);
                }
            }
        }
    }
}

struct Relay {
    poll: OwnedFd,
    mover: Mover,
    /// A connection's two events are twice its place here, and one more.
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
}

/// The caller's socket and the upstream's.
struct Pair {
    sockets: [TcpStream; 2],
    /// From the first to the second, and back.
    ways: [Way; 2],
}

/// One direction.
struct Way {
    /// Of [`Mover::Copy`].
    buffer: Vec<u8>,
    /// Of it, what was read and could not be written yet.
    left: Range<usize>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    /// In the pipe.
    piped: usize,
    /// The sender has ended: no event comes any more, whatever is left to read.
    last_event: bool,
    ended: bool,
}

/// Why a direction stands still.
enum Pause {
    /// Nothing to read, or no room to write.
    Wait,
    /// The sender has ended and everything was passed on.
    End,
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener, upstream: SocketAddr) {
        while let Ok((caller, _)) = listener.accept() {
            // One that cannot be connected is closed: its caller will tell.
            let _ = self.connect(caller, upstream);
        }
    }

    fn connect(&mut self, caller: TcpStream, upstream: SocketAddr) -> anyhow::Result<()> {
        let upstream = TcpStream::connect(upstream)?;
        for socket in [&caller, &upstream] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        let place = self.free.pop().unwrap_or(self.pairs.len());
        if place == self.pairs.len() {
            self.pairs.push(None);
        }
        for (side, socket) in [&caller, &upstream].into_iter().enumerate() {
            let data = epoll::EventData::new_u64(u64::try_from(place * 2 + side)?);
            let flags = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            epoll::add(&self.poll, socket, data, flags)?;
        }
        self.pairs[place] = Some(Pair {
            sockets: [caller, upstream],
            ways: [Way::new(self.mover)?, Way::new(self.mover)?],
        });
        Ok(())
    }

    /// A socket became readable or writable: the way from it and the way to it
    /// may go on.
    fn wake(&mut self, token: u64, flags: epoll::EventFlags) {
        let Ok(token) = usize::try_from(token) else {
            return;
        };
        let (place, side) = (token / 2, token % 2);
        let Some(pair) = self.pairs.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        let last = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        pair.ways[side].last_event |= flags.intersects(last);
        let from_it = pair.advance(side);
        // The way to it stands still only where it waits for room.
        let to_it = match pair.ways[1 - side].is_stuck() {
            true => pair.advance(1 - side),
            false => Ok(()),
        };
        let over = pair.ways.iter().all(|way| way.ended);
        if over || from_it.is_err() || to_it.is_err() {
            self.pairs[place] = None;
            self.free.push(place);
        }
    }
}

impl Pair {
    fn advance(&mut self, way: usize) -> Result<(), Errno> {
        let (from, to) = (&self.sockets[way], &self.sockets[1 - way]);
        let way = &mut self.ways[way];
        if way.ended {
            return Ok(());
        }
        let pause = match &way.pipe {
            None => way.copy(from, to)?,
            Some(_) => way.splice(from, to)?,
        };
        if matches!(pause, Pause::End) {
            way.ended = true;
            match to.shutdown(Shutdown::Write) {
                Err(error) if error.kind() != ErrorKind::NotConnected => return Err(Errno::PIPE),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Way {
    fn new(mover: Mover) -> anyhow::Result<Self> {
        let (buffer, pipe) = match mover {
            Mover::Copy => (vec![0; PIECE_BYTES], None),
            Mover::Splice => {
                let pipe = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
                (Vec::new(), Some(pipe))
            }
        };
        Ok(Self {
            buffer,
            left: 0..0,
            pipe,
            piped: 0,
            last_event: false,
            ended: false,
        })
    }

    fn is_stuck(&self) -> bool {
        !self.left.is_empty() || self.piped > 0
    }

    fn copy(&mut self, from: &TcpStream, to: &TcpStream) -> Result<Pause, Errno> {
        let mut filled = true;
        loop {
            while !self.left.is_empty() {
                match write(to, &self.buffer[self.left.clone()]) {
                    Ok(written) => self.left.start += written,
                    Err(Errno::AGAIN) => return Ok(Pause::Wait),
                    Err(error) => return Err(error),
                }
            }
            // Less than asked for: the socket is empty, and its next byte or
            // its end is a new event, unless that has come already.
            if !filled && !self.last_event {
                return Ok(Pause::Wait);
            }
            match read(from, &mut self.buffer[..]) {
                Ok(0) => return Ok(Pause::End),
                Ok(got) => {
                    self.left = 0..got;
                    filled = got == self.buffer.len();
                }
                Err(Errno::AGAIN) => return Ok(Pause::Wait),
                Err(error) => return Err(error),
            }
        }
    }

    fn splice(&mut self, from: &TcpStream, to: &TcpStream) -> Result<Pause, Errno> {
        let Some((out, into)) = &self.pipe else {
            return Ok(Pause::End);
        };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            while self.piped > 0 {
                match splice(out, None, to, None, self.piped, flags) {
                    Ok(moved) => self.piped -= moved,
                    Err(Errno::AGAIN) => return Ok(Pause::Wait),
                    Err(error) => return Err(error),
                }
            }
            match splice(from, None, into, None, PIECE_BYTES, flags) {
                Ok(0) => return Ok(Pause::End),
                Ok(moved) => self.piped = moved,
                Err(Errno::AGAIN) => return Ok(Pause::Wait),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{free_port, loopback};
    use std::io::{Read, Write};

    /// An upstream that gives back what it got, to its end.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind(loopback(0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut copy = stream.try_clone().unwrap();
                    let _ = std::io::copy(&mut &stream, &mut copy);
                });
            }
        });
        address
    }

    fn carries(mover: Mover) {
        let (upstream, listen) = (echo(), loopback(free_port().unwrap()));
        let road = Road { listen, upstream };
        std::thread::spawn(move || run(&[road], mover));
        let mut tries = 0;
        let mut stream = loop {
            match TcpStream::connect(listen) {
                Ok(stream) => break stream,
                Err(_) if tries < 100 => tries += 1,
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        // Far more than the buffers on the way hold, written before any of it is read.
        let sent: Vec<u8> = (0..8_000_000_u32).map(|byte| (byte % 251) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let copy = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writing.join().unwrap();
        assert!(got == sent, "{} bytes came of {}", got.len(), sent.len());
    }

    #[test]
    fn copying_passes_every_byte_and_both_ends_on() {
        carries(Mover::Copy);
    }

    #[test]
    fn splicing_passes_every_byte_and_both_ends_on() {
        carries(Mover::Splice);
    }
}
