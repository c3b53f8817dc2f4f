//! Gives memory back to the machine after a peak.
//!
//! glibc keeps what was freed: after 2,000 connections at once a sidecar that
//! had 10 MB held 93. Asking for it to be given back costs a walk over the free
//! lists under each arena's lock, so it is asked for only when demand has
//! fallen, never while it is at its height.
//!
//! JUSTIFICATION for the one `unsafe` call: no safe wrapper of `malloc_trim`
//! exists, and the allocators that give memory back by themselves cost more at
//! rest than a whole sidecar may take (jemalloc 1.1 MB, mimalloc 4.3 MB more).

use std::time::Duration;

/// So often demand and memory are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Growth since memory was last given back that is worth asking for.
const WORTH_BYTES: u64 = 1024 * 1024;

/// Whether it is time to give memory back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trimmer {
    /// Resident after the last time.
    floor_bytes: u64,
    /// The highest demand since.
    peak: u64,
}

impl Trimmer {
    /// Looks at `demand` (requests in flight and connections open) and at what
    /// is resident; true when memory is to be given back now.
    pub fn look(&mut self, demand: u64, resident_bytes: u64) -> bool {
        self.peak = self.peak.max(demand);
        if self.floor_bytes == 0 {
            self.floor_bytes = resident_bytes;
        }
        demand * 2 <= self.peak && resident_bytes >= self.floor_bytes + WORTH_BYTES
    }

    /// Memory was given back; so much is resident now.
    pub fn trimmed(&mut self, demand: u64, resident_bytes: u64) {
        self.peak = demand;
        self.floor_bytes = resident_bytes;
    }
}

/// Gives back what the allocator holds free.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "see JUSTIFICATION above")]
pub fn give_back() {
    // SAFETY: `malloc_trim` takes no pointer and may be called from any thread
    // at any time (malloc_trim(3): MT-Safe); it touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators are not asked.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

/// Bytes that are resident; zero where the machine does not say.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn memory_is_given_back_when_demand_has_fallen_and_not_before() {
        let mut trimmer = Trimmer::default();
        assert!(!trimmer.look(0, 6 * MIB));
        assert!(!trimmer.look(2000, 93 * MIB), "at the height of demand");
        assert!(!trimmer.look(1500, 93 * MIB));
        assert!(trimmer.look(10, 93 * MIB));
        trimmer.trimmed(10, 7 * MIB);
        assert!(!trimmer.look(0, 7 * MIB), "there is nothing to gain");
    }

    #[test]
    fn what_is_resident_is_known_here() {
        assert!(resident_bytes() > MIB);
        give_back();
    }
}
