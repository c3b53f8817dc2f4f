//! What the kernel says about a process: its memory, its time, its descriptors.

use std::time::Duration;

/// A process, by its number.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// One MiB.
pub const MIB: u64 = 1 << 20;

impl Process {
    /// Resident memory in bytes.
    pub fn resident(self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most resident memory since the start or since [`Process::forget_peak`], in bytes.
    pub fn peak(self) -> u64 {
        self.status("VmHWM:")
    }

    /// The peak begins again at what is resident now (proc(5), `clear_refs`).
    pub fn forget_peak(self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.0), "5").unwrap();
    }

    /// Processor time so far, user and system, in steps of 10 ms.
    pub fn processor_time(self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        // The name, in brackets, may hold anything; `utime` is the 12th after it.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// How many descriptors it has open.
    pub fn descriptors(self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.0));
        open.unwrap().count()
    }

    fn status(self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<u64>().unwrap() * 1024
    }
}
