//! The network of a simulation: which applications listen, and how they take a
//! connection.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::application;
use super::book;
use super::pipe::Pipe;

/// How an application behaves for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Well,
    Slow,
    /// Half of the answers are 503, some with `Retry-After`.
    Flaky,
    /// Breaks off at any moment of an exchange.
    Breaking,
    Failing,
    Refusing,
    /// Takes connections only after longer than anybody waits.
    Deaf,
    /// Takes everything and answers when nobody waits any more, or never.
    Silent,
}

impl Mood {
    pub fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u8(..14) {
            0..5 => Self::Well,
            5 => Self::Slow,
            6 | 7 => Self::Flaky,
            8 | 9 => Self::Breaking,
            10 => Self::Failing,
            11 => Self::Refusing,
            12 => Self::Deaf,
            _ => Self::Silent,
        }
    }
}

/// One application that listens.
#[derive(Debug)]
pub struct Listening {
    pub address: SocketAddr,
    pub mood: std::cell::Cell<Mood>,
    /// Its connections break off.
    pub killed: tokio::sync::Notify,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Network {
    listening: RefCell<BTreeMap<SocketAddr, Rc<Listening>>>,
}

thread_local! {
    static PRESENT: RefCell<Option<Rc<Network>>> = const { RefCell::new(None) };
}

/// This thread's, where it plays a simulation.
pub fn present() -> Option<Rc<Network>> {
    PRESENT.with_borrow(Option::clone)
}

/// From now on this thread's connections go over `network`.
pub fn set(network: Option<Rc<Network>>) {
    PRESENT.set(network);
}

impl Network {
    /// From now on `listening` takes what goes to its address.
    pub fn listen(&self, listening: Rc<Listening>) {
        self.listening
            .borrow_mut()
            .insert(listening.address, listening);
    }

    /// The process there ends without a word: what it was doing breaks off.
    pub fn kill(&self, address: SocketAddr) {
        if let Some(listening) = self.listening.borrow().get(&address) {
            listening.killed.notify_waiters();
        }
    }

    /// Opens a connection to an application.
    pub async fn dial(&self, address: SocketAddr, timeout: Duration) -> io::Result<Pipe> {
        let found = self.listening.borrow().get(&address).map(Rc::clone);
        let listening = found.ok_or(io::ErrorKind::ConnectionRefused)?;
        let latency = book::random(|random| random.u64(0..3));
        let wait = match listening.mood.get() {
            Mood::Deaf => timeout * 2,
            _ => Duration::from_millis(latency),
        };
        tokio::time::timeout(timeout, tokio::time::sleep(wait))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)?;
        if listening.mood.get() == Mood::Refusing {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = Pipe::pair();
        book::with(|book| book.connected(address, &theirs));
        tokio::task::spawn_local(application::serve(listening, theirs));
        Ok(ours)
    }
}
