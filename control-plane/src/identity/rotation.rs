//! Which CA issues, while one takes another's place. Pure; time is handed in.
//!
//! ```text
//!            other issuing certificate              PROPAGATION later,
//!  Settled -----------------------------> Waiting ---------------------> Settled
//!  (issues)   its roots are trusted now    |  ^    or the first has expired
//!                                          +--+
//!                                    another one yet
//! ```
//!
//! A leaf of the new CA is of no use to a peer that does not know its root yet;
//! so the new roots go out at once, and the first leaf follows.

use std::sync::Arc;

use super::authority::Authority;

/// How long new roots go ahead of the first leaf below them: streams carry them
/// in well under a second, and a sidecar that lost its stream is back within
/// some ten.
pub const PROPAGATION_SECONDS: u64 = 20;

/// The CA that issues, and the one that will.
#[derive(Debug)]
pub struct Rotation {
    issuing: Arc<Authority>,
    next: Option<(Arc<Authority>, u64)>,
}

impl Rotation {
    /// With the first CA: nobody holds another's leaves.
    pub fn new(authority: Arc<Authority>) -> Self {
        Self {
            issuing: authority,
            next: None,
        }
    }

    /// This is the CA now.
    pub fn take(&mut self, authority: Arc<Authority>, now: u64) {
        if self.issuing.issues_like(&authority) {
            // Only its roots or its chain differ, or it is the one from before.
            self.issuing = authority;
            self.next = None;
        } else {
            let at = now.saturating_add(PROPAGATION_SECONDS);
            self.next = Some((authority, at));
        }
    }

    /// The CA that issues at `now`.
    pub fn issuing(&mut self, now: u64) -> &Arc<Authority> {
        let is_due = |(_, at): &mut (Arc<Authority>, u64)| *at <= now || self.issuing.ends() <= now;
        if let Some((next, _)) = self.next.take_if(is_due) {
            self.issuing = next;
        }
        &self.issuing
    }

    /// The CA that is written now, whose roots are in force.
    pub fn latest(&self) -> &Arc<Authority> {
        self.next.as_ref().map_or(&self.issuing, |(next, _)| next)
    }

    /// When another one issues.
    pub fn due(&self) -> Option<u64> {
        let (_, at) = self.next.as_ref()?;
        Some((*at).min(self.issuing.ends()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::material::Material;

    const NOW: u64 = 1_800_000_000;

    fn authority(id: u8) -> Arc<Authority> {
        let material = Material::generate("cluster.local", [id; 16], NOW).unwrap();
        Arc::new(Authority::read(&material, "cluster.local", NOW).unwrap())
    }

    #[test]
    fn a_new_ca_issues_only_when_its_root_is_known_everywhere() {
        let (one, two, three) = (authority(1), authority(2), authority(3));
        let mut rotation = Rotation::new(one.clone());
        rotation.take(two, NOW);
        assert_eq!(rotation.due(), Some(NOW + PROPAGATION_SECONDS));
        // Another one yet: it waits its own time.
        rotation.take(three.clone(), NOW + 10);
        let late = NOW + 10 + PROPAGATION_SECONDS;
        assert!(Arc::ptr_eq(rotation.issuing(late - 1), &one));
        assert!(Arc::ptr_eq(rotation.latest(), &three));
        assert!(Arc::ptr_eq(rotation.issuing(late), &three));
        assert_eq!(rotation.due(), None);
    }

    #[test]
    fn what_is_taken_back_in_time_never_issues_and_an_expired_one_does_not_hold_up() {
        let (one, two) = (authority(1), authority(2));
        let mut rotation = Rotation::new(one.clone());
        rotation.take(two.clone(), NOW);
        rotation.take(one.clone(), NOW + 1);
        assert!(Arc::ptr_eq(rotation.issuing(NOW + 1_000), &one));
        let end = one.ends();
        rotation.take(two.clone(), end);
        assert!(Arc::ptr_eq(rotation.issuing(end), &two));
    }
}
