//! Addresses of names, kept for a moment, as the client libraries of real
//! applications keep them: a lookup for each connection would make the demo a
//! test of the name server.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::lookup_host;
use tokio::time::timeout;

use super::clock;

/// So long an answer is good.
const KEEP: Duration = Duration::from_secs(1);
/// So long an answer is waited for; then the last one is taken, if there was one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names that are kept; the demo knows a handful.
const MAX_NAMES: usize = 64;

/// What was found lately.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: Arc<Mutex<HashMap<String, Known>>>,
    /// Held while a name is looked up for the first time.
    first: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    until: Instant,
}

impl Names {
    /// The addresses of `host:port`.
    ///
    /// # Errors
    /// When there are none, or the name server gave no answer in time and never did.
    pub async fn look_up(&self, authority: &str) -> io::Result<Vec<SocketAddr>> {
        if self.last(authority).is_none()
            && let Some(first) = self.first(authority)
        {
            // Whoever comes meanwhile waits for that one answer.
            let _alone = first.lock().await;
            return self.look_up_now(authority).await;
        }
        self.look_up_now(authority).await
    }

    async fn look_up_now(&self, authority: &str) -> io::Result<Vec<SocketAddr>> {
        let now = clock::now();
        let last = self.last(authority);
        if let Some(last) = last.as_ref().filter(|last| now < last.until) {
            return Ok(last.addresses.clone());
        }
        if let Some(last) = &last {
            // One looks it up; the others go on with what was found last.
            self.keep(authority, last.addresses.clone(), now + PATIENCE);
        }
        let failure = match timeout(PATIENCE, lookup_host(authority)).await {
            Ok(Ok(found)) => {
                let addresses: Vec<SocketAddr> = found.collect();
                self.keep(authority, addresses.clone(), now + KEEP);
                return Ok(addresses);
            }
            Ok(Err(failure)) => failure,
            Err(_) => io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer to the name's lookup: does the cluster's DNS work?",
            ),
        };
        last.map(|last| last.addresses).ok_or(failure)
    }

    fn first(&self, authority: &str) -> Option<Arc<tokio::sync::Mutex<()>>> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let may = first.len() < MAX_NAMES || first.contains_key(authority);
        may.then(|| Arc::clone(first.entry(authority.to_owned()).or_default()))
    }

    fn last(&self, authority: &str) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(authority).cloned()
    }

    fn keep(&self, authority: &str, addresses: Vec<SocketAddr>, until: Instant) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_NAMES || known.contains_key(authority) {
            known.insert(authority.to_owned(), Known { addresses, until });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_kept_and_outlives_a_name_server_that_fails() {
        let names = Names::default();
        let found = names.look_up("localhost:80").await.unwrap();
        assert!(!found.is_empty());
        assert!(names.look_up("no-such-host.invalid:80").await.is_err());
        // As if it had been found once, and is no longer.
        let past = clock::now();
        names.keep("no-such-host.invalid:80", found.clone(), past);
        let kept = names.look_up("no-such-host.invalid:80").await.unwrap();
        assert_eq!(kept, found);
    }
}
