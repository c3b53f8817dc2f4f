//! What was found of a token seconds ago is not asked again, and no flood of
//! tokens becomes a flood of questions. A token is kept as its hash.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use tokio::sync::Semaphore;

use super::{Caller, Check, TokenError};
use crate::clock;

/// How long a good token is taken without being asked about again: for so long
/// one that is withdrawn may still be used.
pub const GOOD_FOR: Duration = Duration::from_secs(10);
/// How long a bad one is refused so.
const BAD_FOR: Duration = Duration::from_secs(2);
/// Tokens that are remembered.
const MAX_HELD: usize = 8_192;
/// Questions at once.
const MAX_ASKING: usize = 64;
/// How long one waits for its turn to ask.
const TURN: Duration = Duration::from_secs(4);

type Found = Result<Caller, TokenError>;

/// Remembers what another one finds.
pub struct Cache {
    check: Arc<dyn Check>,
    held: Mutex<HashMap<Vec<u8>, (Found, Instant)>>,
    asking: Semaphore,
}

impl Cache {
    /// Of this one's answers.
    pub fn new(check: Arc<dyn Check>) -> Self {
        Self {
            check,
            held: Mutex::default(),
            asking: Semaphore::new(MAX_ASKING),
        }
    }

    /// What is remembered of a token.
    pub fn remembered(&self, token: &str, now: Instant) -> Option<Found> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, until) = held.get(&hash(token))?;
        (now < *until).then(|| found.clone())
    }

    /// Asks, and remembers the answer.
    ///
    /// # Errors
    /// As [`Check::check`].
    pub async fn ask(&self, token: &str) -> Found {
        let turn = tokio::time::timeout(TURN, self.asking.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(TokenError::Unavailable(
                "too many are being checked".to_owned(),
            ));
        };
        // While this one waited another may have asked.
        if let Some(found) = self.remembered(token, clock::now()) {
            return found;
        }
        let asked = clock::now();
        let found = self.check.check(token, clock::unix_seconds()).await;
        self.remember(token, &found, asked);
        found
    }

    fn remember(&self, token: &str, found: &Found, asked: Instant) {
        let until = match found {
            Ok(_) => asked + GOOD_FOR,
            Err(TokenError::Unavailable(_)) => return,
            Err(_) => asked + BAD_FOR,
        };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_HELD {
            held.retain(|_, (_, until)| asked < *until);
        }
        // Full of fresh ones: this one is asked about again next time.
        if held.len() < MAX_HELD {
            held.insert(hash(token), (found.clone(), until));
        }
    }
}

fn hash(token: &str) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA256, token.as_bytes());
    hash.as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    #[tonic::async_trait]
    impl Check for Counting {
        async fn check(&self, token: &str, _now: u64) -> Found {
            self.0.fetch_add(1, Ordering::Relaxed);
            match token {
                "away" => Err(TokenError::Unavailable("x".to_owned())),
                "good" => Caller::new("a", "b", "c", "d"),
                _ => Err(TokenError::Malformed),
            }
        }
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_seconds_and_none_is_not_kept() {
        let counting = Arc::new(Counting::default());
        let cache = Cache::new(counting.clone());
        let asked = || counting.0.load(Ordering::Relaxed);
        for (token, wanted) in [("good", 1), ("bad", 2), ("away", 4)] {
            let first = cache.ask(token).await;
            assert_eq!(cache.ask(token).await, first);
            assert_eq!(asked(), wanted, "{token}");
        }
        let now = clock::now();
        let later = now + GOOD_FOR + Duration::from_secs(1);
        assert!(
            cache
                .remembered("good", now)
                .is_some_and(|found| found.is_ok())
        );
        assert!(cache.remembered("good", later).is_none());
        assert!(cache.remembered("bad", now + BAD_FOR).is_none());
        assert!(cache.remembered("away", now).is_none());
    }

    #[tokio::test]
    async fn a_flood_is_forgotten_and_takes_no_more_room() {
        let cache = Cache::new(Arc::new(Counting::default()));
        for number in 0..MAX_HELD + 100 {
            let refused = cache.ask(&number.to_string()).await;
            assert_eq!(refused, Err(TokenError::Malformed));
        }
        let held = cache.held.lock().unwrap().len();
        assert!(held <= MAX_HELD, "{held}");
    }
}
