//! The switches by which a pod makes trouble on demand. Each is a POST; `0` mends:
//!
//! - `/slow?ms=N`: answers come N ms late; `&percent=P`: only P of a hundred.
//! - `/break?status=N`: every answer is that status; `&percent=P` likewise.
//! - `/serve?ms=N&at_once=M`: each request takes N ms, and M are served at once:
//!   the others wait. It sleeps, and so needs no CPU.
//! - `/refuse?ms=N`: for N ms the port is closed, and what is open ends.
//! - `/ill?status=N`: `GET /well` answers that, though nothing else is wrong.
//! - `/mend`: all of these.
//!
//! Owns what is set, not what is done with it.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::sync::{Semaphore, watch};

use super::clock;

/// The slowest that a pod can be made.
const MAX_SLOW_MS: u32 = 60_000;
/// The most that are served at once where that is bounded.
const MAX_AT_ONCE: u32 = 10_000;

/// What is set.
#[derive(Debug)]
pub struct Switches {
    slow_ms: AtomicU32,
    slowed: Share,
    broken: AtomicU16,
    breaks: Share,
    ill: AtomicU16,
    service: Mutex<Option<Service>>,
    refuses_until: watch::Sender<Option<Instant>>,
}

/// A fixed service time, and places.
#[derive(Debug, Clone)]
struct Service {
    time: Duration,
    places: Arc<Semaphore>,
}

/// Which of them: of a hundred so many, evenly spread, so that few tell the share as
/// well as many.
#[derive(Debug)]
struct Share {
    percent: AtomicU32,
    asked: AtomicU64,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            percent: AtomicU32::new(100),
            asked: AtomicU64::new(0),
        }
    }
}

impl Share {
    fn is_next(&self) -> bool {
        let percent = u64::from(self.percent.load(Ordering::Relaxed));
        let n = self.asked.fetch_add(1, Ordering::Relaxed) % 100;
        (n + 1) * percent / 100 > n * percent / 100
    }

    fn set(&self, query: &str) -> Result<(), String> {
        let percent = match value(query, "percent") {
            None => Some(100),
            Some(text) => text.parse().ok().filter(|percent| *percent <= 100),
        };
        let percent = percent.ok_or("percent is a whole number from 0 to 100")?;
        self.percent.store(percent, Ordering::Relaxed);
        Ok(())
    }
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            slow_ms: AtomicU32::new(0),
            slowed: Share::default(),
            broken: AtomicU16::new(0),
            breaks: Share::default(),
            ill: AtomicU16::new(0),
            service: Mutex::new(None),
            refuses_until: watch::Sender::new(None),
        }
    }
}

impl Switches {
    /// Takes an order; `None`: it is none.
    pub fn obey(&self, path: &str, query: &str) -> Option<Result<(), String>> {
        Some(match path {
            "/slow" => self.set_slow(query),
            "/break" => self.set_broken(query),
            "/serve" => self.set_service(query),
            "/refuse" => self.set_refusing(query),
            "/ill" => status(query).map(|status| self.ill.store(status, Ordering::Relaxed)),
            "/mend" => {
                self.mend();
                Ok(())
            }
            _ => return None,
        })
    }

    /// How late this answer comes.
    pub fn delay(&self) -> Option<Duration> {
        match self.slow_ms.load(Ordering::Relaxed) {
            0 => None,
            ms => self
                .slowed
                .is_next()
                .then(|| Duration::from_millis(ms.into())),
        }
    }

    /// The status of this answer.
    pub fn broken(&self) -> Option<StatusCode> {
        let status = StatusCode::from_u16(self.broken.load(Ordering::Relaxed)).ok()?;
        self.breaks.is_next().then_some(status)
    }

    /// What whoever asks for its health is told.
    pub fn health(&self) -> StatusCode {
        StatusCode::from_u16(self.ill.load(Ordering::Relaxed)).unwrap_or(StatusCode::OK)
    }

    /// Waits for a place, and then as long as the service takes.
    pub async fn serve(&self) {
        let service = {
            let service = self.service.lock().unwrap_or_else(PoisonError::into_inner);
            service.clone()
        };
        if let Some(Service { time, places }) = service {
            let _place = places.acquire().await;
            tokio::time::sleep(time).await;
        }
    }

    /// Until when connections are to be refused, if they are; and its changes.
    pub fn refusals(&self) -> watch::Receiver<Option<Instant>> {
        self.refuses_until.subscribe()
    }

    fn set_slow(&self, query: &str) -> Result<(), String> {
        let ms = milliseconds(query)?;
        self.slowed.set(query)?;
        self.slow_ms.store(ms, Ordering::Relaxed);
        Ok(())
    }

    fn set_broken(&self, query: &str) -> Result<(), String> {
        let status = status(query)?;
        self.breaks.set(query)?;
        self.broken.store(status, Ordering::Relaxed);
        Ok(())
    }

    fn set_service(&self, query: &str) -> Result<(), String> {
        let ms = milliseconds(query)?;
        let at_once = value(query, "at_once").and_then(|text| text.parse().ok());
        let at_once = at_once.filter(|at_once| (1..=MAX_AT_ONCE).contains(at_once));
        let service = match (ms, at_once) {
            (0, _) => None,
            (_, None) => return Err(format!("say &at_once=N, N from 1 to {MAX_AT_ONCE}")),
            (ms, Some(at_once)) => Some(Service {
                time: Duration::from_millis(ms.into()),
                places: Arc::new(Semaphore::new(at_once as usize)),
            }),
        };
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = service;
        Ok(())
    }

    fn set_refusing(&self, query: &str) -> Result<(), String> {
        let until = match milliseconds(query)? {
            0 => None,
            ms => Some(clock::now() + Duration::from_millis(ms.into())),
        };
        self.refuses_until.send_replace(until);
        Ok(())
    }

    fn mend(&self) {
        self.slow_ms.store(0, Ordering::Relaxed);
        self.broken.store(0, Ordering::Relaxed);
        self.ill.store(0, Ordering::Relaxed);
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.refuses_until.send_replace(None);
    }
}

/// Takes `ms=N`.
fn milliseconds(query: &str) -> Result<u32, String> {
    let ms = value(query, "ms").and_then(|text| text.parse().ok());
    ms.filter(|ms| *ms <= MAX_SLOW_MS)
        .ok_or_else(|| format!("say ?ms=N, N from 0 (mend) to {MAX_SLOW_MS}"))
}

/// Takes `status=N`.
fn status(query: &str) -> Result<u16, String> {
    value(query, "status")
        .and_then(|text| text.parse().ok())
        .filter(|status| *status == 0 || (400..600).contains(status))
        .ok_or_else(|| "say ?status=N, N 0 (mend) or from 400 to 599".to_owned())
}

/// What a query says of a name, as it stands there.
pub fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    values(query, name).next()
}

/// All that a query says of a name.
pub fn values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(switches: &Switches, path: &str, query: &str) -> Result<(), String> {
        switches.obey(path, query).unwrap()
    }

    #[test]
    fn switches_take_what_they_say_and_refuse_the_rest() {
        let switches = Switches::default();
        assert!(switches.delay().is_none() && switches.broken().is_none());
        told(&switches, "/slow", "ms=250").unwrap();
        assert_eq!(switches.delay(), Some(Duration::from_millis(250)));
        told(&switches, "/break", "x=1&status=503").unwrap();
        assert_eq!(switches.broken(), Some(StatusCode::SERVICE_UNAVAILABLE));
        for query in ["", "ms=", "ms=-1", "ms=60001", "ms=1&percent=101"] {
            assert!(told(&switches, "/slow", query).is_err(), "{query}");
        }
        for query in ["", "status=200", "status=600", "status=65536"] {
            assert!(told(&switches, "/break", query).is_err(), "{query}");
            assert!(told(&switches, "/ill", query).is_err(), "{query}");
        }
        for query in ["ms=5", "ms=5&at_once=0", "ms=5&at_once=10001", "at_once=5"] {
            assert!(told(&switches, "/serve", query).is_err(), "{query}");
        }
        assert_eq!(switches.broken(), Some(StatusCode::SERVICE_UNAVAILABLE));
        told(&switches, "/mend", "").unwrap();
        assert!(switches.delay().is_none() && switches.broken().is_none());
        assert_eq!(switches.obey("/reviews", ""), None);
    }

    #[test]
    fn of_a_hundred_exactly_as_many_as_was_said_and_never_all_at_once() {
        let switches = Switches::default();
        told(&switches, "/break", "status=500&percent=10").unwrap();
        let broken: Vec<_> = (0..200).map(|_| switches.broken().is_some()).collect();
        assert_eq!(broken.iter().filter(|broken| **broken).count(), 20);
        assert!(!broken.windows(2).any(|pair| pair[0] && pair[1]));
    }

    #[test]
    fn who_is_ill_answers_everything_else_as_before() {
        let switches = Switches::default();
        told(&switches, "/ill", "status=503").unwrap();
        assert_eq!(switches.health(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(switches.broken().is_none());
        told(&switches, "/ill", "status=0").unwrap();
        assert_eq!(switches.health(), StatusCode::OK);
    }

    #[tokio::test]
    async fn as_many_are_served_at_once_as_there_are_places() {
        let switches = Switches::default();
        told(&switches, "/serve", "ms=20&at_once=2").unwrap();
        let begin = clock::now();
        let all = (0..6).map(|_| switches.serve());
        futures_util::future::join_all(all).await;
        assert!(begin.elapsed().as_millis() >= 60);
    }
}
