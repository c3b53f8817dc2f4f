//! How many Events there may be, about one object and over all. Pure.

use std::collections::HashMap;
use std::time::Instant;

use super::decide::Kind;
use crate::bucket::Bucket;
use crate::core::objects::Id;

/// Events about one object each second: one in half a minute.
const OBJECT_RATE: f64 = 1.0 / 30.0;
/// Events about one object at once.
const OBJECT_BURST: f64 = 5.0;
/// Events over all objects each second.
const RATE: f64 = 5.0;
/// Events over all objects at once.
const BURST: f64 = 50.0;
/// Objects whose Events are counted; when all of them are busy a further one
/// has to wait.
const MAX_OBJECTS: usize = 2_048;

/// The buckets.
pub struct Limit {
    all: Bucket,
    objects: HashMap<(Kind, Id), Bucket>,
}

impl Limit {
    /// Full ones.
    pub fn new(now: Instant) -> Self {
        Self {
            all: Bucket::new(RATE, BURST, now),
            objects: HashMap::new(),
        }
    }

    /// Whether there may be one more about this object.
    pub fn take(&mut self, kind: Kind, id: &Id, now: Instant) -> bool {
        let key = (kind, id.clone());
        if self.objects.len() >= MAX_OBJECTS && !self.objects.contains_key(&key) {
            self.objects.retain(|_, bucket| !bucket.is_full(now));
            if self.objects.len() >= MAX_OBJECTS {
                return false;
            }
        }
        let bucket = self
            .objects
            .entry(key)
            .or_insert_with(|| Bucket::new(OBJECT_RATE, OBJECT_BURST, now));
        // The object first: what it may not say takes nothing from the others.
        bucket.take(now).is_ok() && self.all.take(now).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn id(number: usize) -> Id {
        Id::new("shop", &format!("web-{number}"))
    }

    #[test]
    fn one_object_cannot_take_what_is_for_all() {
        let now = clock::now();
        let mut limit = Limit::new(now);
        let noisy = (0..1_000).filter(|_| limit.take(Kind::Pod, &id(0), now));
        assert_eq!(noisy.count(), OBJECT_BURST as usize);
        assert!(limit.take(Kind::Pod, &id(1), now));
        assert!(!limit.take(Kind::Pod, &id(0), now + Duration::from_secs(29)));
        assert!(limit.take(Kind::Pod, &id(0), now + Duration::from_secs(60)));
    }

    #[test]
    fn over_all_objects_there_is_a_limit_and_what_is_remembered_is_bounded() {
        let now = clock::now();
        let mut limit = Limit::new(now);
        let taken = (0..10_000).filter(|number| limit.take(Kind::Pod, &id(*number), now));
        assert_eq!(taken.count(), BURST as usize);
        assert!(limit.objects.len() <= MAX_OBJECTS);
        let later = now + Duration::from_secs(300);
        assert!(
            limit.take(Kind::Pod, &id(10_001), later),
            "idle ones made room"
        );
    }
}
