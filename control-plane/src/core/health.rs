//! What probes say of pods' ports, among the objects.

use remora_proto::v1::Health;

use super::index::Index;
use super::objects::{Pod, PodHealth};

impl Index {
    /// Takes what is known of a pod's health; whoever tells it bounds how many there are.
    pub(super) fn set_health(&mut self, health: PodHealth) {
        let PodHealth { id, uid, ports } = health;
        let now = (uid, ports);
        if self.health.get(&id) == Some(&now) {
            return;
        }
        if now.1.is_empty() {
            // A pod of this name that is gone takes nothing of the one that is there.
            if self.health.get(&id).is_some_and(|(held, _)| *held != now.0) {
                return;
            }
            self.health.remove(&id);
        } else {
            self.health.insert(id.clone(), now);
        }
        self.touch_seats(&id);
    }

    /// What is known of the health of a pod's port.
    pub fn health(&self, pod: &Pod, port: u16) -> Health {
        let known = self.health.get(&pod.id);
        let known = known.filter(|(uid, _)| *uid == pod.uid);
        let verdict = known.and_then(|(_, ports)| ports.get(&port).copied());
        verdict.unwrap_or(Health::Unknown)
    }
}
