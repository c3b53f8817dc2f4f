//! Gives memory back to the machine, after a peak and after the start.
//!
//! glibc keeps what was freed: after 2,000 connections at once a sidecar that
//! had 10 MB held 93. Asking for it to be given back costs a walk over the free
//! lists under each arena's lock, so it is asked for only when demand has
//! fallen, never while it is at its height.
//!
//! The program's own pages are the machine's already, but stay mapped once they
//! were touched, sixteen at a time, or 2 MB where the file lies so in the page
//! cache: a sidecar that stands idle held 6 MB of code for what it did once, to
//! read its configuration and to shake hands with the control plane. So they are
//! let go of once it is ready; what is needed again is mapped again out of the
//! page cache, without a read, in small pieces (what that costs was less than the
//! noise of its measurement).
//!
//! JUSTIFICATION for the two `unsafe` blocks: no safe wrapper of `malloc_trim`
//! or `madvise` exists, and the allocators that give memory back by themselves
//! cost more at rest than a whole sidecar may take (jemalloc 1.1 MB, mimalloc
//! 4.3 MB more).

use std::ops::Range;
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

/// The start is over: lets go of the program's pages. Once, because what is
/// touched from now on is touched again and again.
pub fn give_back_program() {
    // The machine does not say: then they stay.
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for range in unwritten(&maps) {
        let_go(range);
    }
}

/// Where a file is mapped that cannot be written there, and nothing was ever
/// written (proc(5), `smaps`): programs' code and constants, but for what the
/// loader has filled in.
fn unwritten(maps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in maps.lines() {
        if let Some(range) = file_without_writing(line) {
            mapping = Some(range);
        } else if line.contains('-') && !line.contains("kB") {
            // Another mapping begins.
            mapping = None;
        } else if let Some(rest) = line.strip_prefix("Anonymous:")
            && rest.trim() == "0 kB"
        {
            found.extend(mapping.take());
        }
    }
    found
}

/// `55e1ea44c000-55e1ea66c000 r--p 00000000 fe:00 1311 /usr/bin/remora-proxy`
fn file_without_writing(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let permissions = words.next()?;
    // Offset, device and inode.
    let of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
    (matches!(permissions, "r--p" | "r-xp") && of_file).then_some(range)
}

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "see JUSTIFICATION above")]
fn let_go(range: Range<usize>) {
    let start = std::ptr::with_exposed_provenance_mut(range.start);
    // SAFETY: a private mapping of a file that cannot be written and of which no
    // page was copied (`unwritten`) reads the same bytes after MADV_DONTNEED
    // (madvise(2)): they are mapped from the file again when they are next
    // touched. MADV_NOHUGEPAGE changes how large the pieces are. Nothing in this
    // process changes or unmaps such a mapping.
    let let_go = unsafe {
        // Where the kernel was built without it, pieces are small anyway.
        libc::madvise(start, range.len(), libc::MADV_NOHUGEPAGE);
        libc::madvise(start, range.len(), libc::MADV_DONTNEED)
    };
    if let_go != 0 {
        tracing::debug!("the program's pages stay mapped");
    }
}

#[cfg(not(target_os = "linux"))]
fn let_go(_: Range<usize>) {}

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

    #[test]
    fn only_what_was_never_written_of_a_file_is_let_go() {
        let maps = "\
1000-3000 r--p 00000000 fe:00 1311                       /usr/bin/remora-proxy
Rss:                   8 kB
Anonymous:             0 kB
3000-5000 r-xp 00002000 fe:00 1311                       /usr/bin/remora-proxy
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 1311                       /usr/bin/remora-proxy
Anonymous:             4 kB
6000-7000 rw-p 00005000 fe:00 1311                       /usr/bin/remora-proxy
Anonymous:             0 kB
7000-8000 r--p 00000000 00:00 0
Anonymous:             0 kB
8000-9000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
a000-b000 r--s 00000000 fe:00 1312                       /usr/share/a
Anonymous:             0 kB
";
        assert_eq!(unwritten(maps), [0x1000..0x3000, 0x3000..0x5000]);
    }

    #[test]
    fn what_was_let_go_comes_back() {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(!unwritten(&maps).is_empty());
        let before = resident_bytes();
        give_back_program();
        assert!(resident_bytes() < before);
    }
}
