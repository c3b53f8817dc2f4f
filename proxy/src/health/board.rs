//! What probes have found, for reports, metrics and the admin endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::watch::ProbeResult;
use crate::state::Health;

/// Whose probes are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Those of one of the pod's own ports.
    Port(u16),
    /// Those of a service's endpoints without a sidecar.
    Service(Arc<str>),
}

/// What is said of one of the pod's ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortVerdict {
    /// Unhealthy where one of its checks says so, unknown where one has yet to.
    pub health: Health,
    /// What the last probe found that decides, in words.
    pub detail: String,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Board {
    // A lock is allowed: only the control thread takes it.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By port, and the check's place in its list.
    ports: BTreeMap<u16, BTreeMap<usize, PortVerdict>>,
    counts: BTreeMap<Whose, [u64; ProbeResult::ALL.len()]>,
}

impl Board {
    /// A probe of a port's check ended. Returns whether the port's verdict is another.
    pub fn port(&self, port: u16, check: usize, verdict: PortVerdict) -> bool {
        let mut inner = self.inner.lock();
        let checks = inner.ports.entry(port).or_default();
        let before = overall(checks).health;
        checks.insert(check, verdict);
        overall(checks).health != before
    }

    /// These are checked, and so many checks each has: all else is forgotten.
    /// A check that is new is unknown.
    pub fn set_checks(&self, checks: &BTreeMap<u16, usize>) {
        let mut inner = self.inner.lock();
        inner.ports.retain(|port, _| checks.contains_key(port));
        for (port, count) in checks {
            let held = inner.ports.entry(*port).or_default();
            held.retain(|at, _| at < count);
            for at in 0..*count {
                held.entry(at).or_default();
            }
        }
        inner.counts.retain(|whose, _| match whose {
            Whose::Port(port) => checks.contains_key(port),
            Whose::Service(_) => true,
        });
    }

    /// A check's verdict counts no more: it is another check now.
    pub fn forget_check(&self, port: u16, check: usize) {
        let mut inner = self.inner.lock();
        if let Some(checks) = inner.ports.get_mut(&port) {
            checks.insert(check, PortVerdict::default());
        }
    }

    /// Counts a probe.
    pub fn count(&self, whose: Whose, result: ProbeResult) {
        let mut inner = self.inner.lock();
        inner.counts.entry(whose).or_default()[result as usize] += 1;
    }

    /// Only of these services' endpoints probes are counted from now on.
    pub fn keep_services(&self, is_kept: impl Fn(&Arc<str>) -> bool) {
        let mut inner = self.inner.lock();
        inner.counts.retain(|whose, _| match whose {
            Whose::Service(service) => is_kept(service),
            Whose::Port(_) => true,
        });
    }

    /// The pod's ports that are checked.
    pub fn ports(&self) -> BTreeMap<u16, PortVerdict> {
        let inner = self.inner.lock();
        let ports = inner.ports.iter();
        ports
            .map(|(port, checks)| (*port, overall(checks)))
            .collect()
    }

    /// How many probes ended how.
    pub fn counts(&self) -> BTreeMap<Whose, [u64; ProbeResult::ALL.len()]> {
        self.inner.lock().counts.clone()
    }
}

fn overall(checks: &BTreeMap<usize, PortVerdict>) -> PortVerdict {
    let of = |health| checks.values().find(|check| check.health == health);
    let found = of(Health::Unhealthy)
        .or_else(|| of(Health::Unknown))
        .or_else(|| of(Health::Healthy));
    found.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(health: Health) -> PortVerdict {
        PortVerdict {
            health,
            detail: health.word().to_owned(),
        }
    }

    #[test]
    fn a_port_is_unhealthy_where_one_check_says_so_and_healthy_where_all_do() {
        let board = Board::default();
        board.set_checks(&BTreeMap::from([(80, 2)]));
        let health = || board.ports()[&80].health;
        assert!(!board.port(80, 0, verdict(Health::Healthy)));
        assert_eq!(health(), Health::Unknown, "one has yet to say");
        assert!(board.port(80, 1, verdict(Health::Healthy)));
        assert!(board.port(80, 0, verdict(Health::Unhealthy)));
        assert_eq!(board.ports()[&80].detail, "unhealthy");
        assert!(!board.port(80, 1, verdict(Health::Unhealthy)));
        board.forget_check(80, 0);
        assert_eq!(health(), Health::Unhealthy);
        board.set_checks(&BTreeMap::from([(80, 1)]));
        assert_eq!(health(), Health::Unknown);
        board.set_checks(&BTreeMap::new());
        assert!(board.ports().is_empty());
    }
}
