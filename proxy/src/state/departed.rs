//! Endpoints that left: their state waits a while, because a pod that comes
//! back under the same uid finds its breaker as it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::runtime::EndpointRuntime;

/// So long the state of an endpoint that left is kept.
pub const KEEP_DEPARTED: Duration = Duration::from_secs(10 * 60);
/// So many are kept for each service; beyond that the longest gone go first.
pub const MAX_DEPARTED: usize = 256;

/// What makes an endpoint the same one again: the pod's uid, or else its
/// address, and the target port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointKey {
    /// The pod's uid, or else its address.
    pub member: String,
    /// The pod's port.
    pub target_port: u16,
}

/// The endpoints of one service that left.
#[derive(Debug, Default)]
pub struct Departed {
    runtimes: HashMap<EndpointKey, (Arc<EndpointRuntime>, Timestamp)>,
}

impl Departed {
    /// An endpoint left at `now`.
    pub fn keep(&mut self, key: EndpointKey, runtime: Arc<EndpointRuntime>, now: Timestamp) {
        if self.runtimes.len() >= MAX_DEPARTED && !self.runtimes.contains_key(&key) {
            let longest_gone = self
                .runtimes
                .iter()
                .min_by_key(|(_, (_, since))| *since)
                .map(|(key, _)| key.clone());
            if let Some(key) = longest_gone {
                self.runtimes.remove(&key);
            }
        }
        self.runtimes.insert(key, (runtime, now));
    }

    /// An endpoint came: its state, if it was here before.
    pub fn take(&mut self, key: &EndpointKey, now: Timestamp) -> Option<Arc<EndpointRuntime>> {
        let (runtime, since) = self.runtimes.remove(key)?;
        (now.since(since) < KEEP_DEPARTED).then_some(runtime)
    }

    /// Forgets those that left too long ago.
    pub fn expire(&mut self, now: Timestamp) {
        self.runtimes
            .retain(|_, (_, since)| now.since(*since) < KEEP_DEPARTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::breaker::Journal;
    use crate::policy::config::ServicePolicy;
    use crate::runtime::{Identity, ServiceRuntime};
    use crate::state::EndpointConfig;

    fn key(member: &str) -> EndpointKey {
        EndpointKey {
            member: member.to_owned(),
            target_port: 8080,
        }
    }

    fn runtime() -> Arc<EndpointRuntime> {
        let config = EndpointConfig {
            namespace: "shop".into(),
            service: "catalog".into(),
            port: 80,
            address: "10.0.0.1:8080".parse().unwrap(),
            pod: "catalog-1".into(),
            pod_uid: "u1".into(),
            node: String::new(),
            zone: String::new(),
            weight: 1,
            ready: true,
            draining: false,
            serving: true,
            hint_zones: Vec::new(),
            sidecar: true,
            mesh: Default::default(),
            secured: None,
            health: Default::default(),
        };
        let policy = ServicePolicy::default();
        let now = Timestamp::default();
        let service = ServiceRuntime::new("shop/catalog", &policy, false, &Journal::new(), now);
        Arc::new(EndpointRuntime::new(
            &service,
            &policy,
            Identity::of(&config),
            now,
        ))
    }

    #[test]
    fn one_that_comes_back_in_time_finds_its_state() {
        let start = Timestamp::from_millis(1000);
        let (mut departed, state) = (Departed::default(), runtime());
        departed.keep(key("uid-1"), state.clone(), start);
        assert!(departed.take(&key("uid-2"), start).is_none());
        let found = departed.take(&key("uid-1"), start.after(KEEP_DEPARTED / 2));
        assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &state)));

        departed.keep(key("uid-1"), state, start);
        assert!(
            departed
                .take(&key("uid-1"), start.after(KEEP_DEPARTED))
                .is_none()
        );
    }

    #[test]
    fn the_longest_gone_makes_room() {
        let mut departed = Departed::default();
        for index in 0..=MAX_DEPARTED {
            let now = Timestamp::from_millis(index as u64);
            departed.keep(key(&index.to_string()), runtime(), now);
        }
        assert_eq!(departed.runtimes.len(), MAX_DEPARTED);
        assert!(
            departed
                .take(&key("0"), Timestamp::from_millis(0))
                .is_none()
        );
        assert!(
            departed
                .take(&key("1"), Timestamp::from_millis(0))
                .is_some()
        );
        departed.expire(Timestamp::from_millis(1).after(KEEP_DEPARTED));
        assert!(
            departed
                .take(&key("2"), Timestamp::from_millis(2))
                .is_some()
        );
    }
}
