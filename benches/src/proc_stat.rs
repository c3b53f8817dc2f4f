//! What the kernel says of a process: CPU time and memory.

use std::time::Duration;

use anyhow::Context;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time of all threads of a process, since its start or between two readings.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// User and system together, from the process's own CPU clock: exact, where
    /// the fields of `/proc` are in ticks.
    pub total: Duration,
    /// `utime`, in ticks.
    user_ticks: u64,
    /// `stime`, in ticks.
    system_ticks: u64,
}

impl CpuTime {
    /// What was spent after `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            user_ticks: self.user_ticks.saturating_sub(earlier.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(earlier.system_ticks),
        }
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            total: self.total + other.total,
            user_ticks: self.user_ticks + other.user_ticks,
            system_ticks: self.system_ticks + other.system_ticks,
        }
    }

    /// Of it in user space, as the ticks divide it.
    pub fn user(self) -> Duration {
        let ticks = self.user_ticks + self.system_ticks;
        if ticks == 0 {
            return Duration::ZERO;
        }
        self.total.mul_f64(self.user_ticks as f64 / ticks as f64)
    }

    /// Of it in the kernel.
    pub fn system(self) -> Duration {
        self.total.saturating_sub(self.user())
    }
}

/// CPU time of all threads of the process since its start.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> anyhow::Result<CpuTime> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let (user_ticks, system_ticks) =
        ticks(&stat).with_context(|| format!("cannot understand {path}"))?;
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?))
        .and_then(clock_gettime)
        .with_context(|| format!("cannot read the CPU clock of process {pid}"))?;
    Ok(CpuTime {
        total: Duration::from(clock),
        user_ticks,
        system_ticks,
    })
}

/// `utime` and `stime`, the 14th and 15th field (proc_pid_stat(5)). The second,
/// the name, may itself contain spaces and brackets.
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// What a process holds of memory.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Memory {
    /// Resident, pages of files included.
    pub rss_bytes: u64,
    /// The same with what is shared counted in parts.
    pub pss_bytes: u64,
    /// Resident and the process's own (`RssAnon`): heap and stacks.
    pub anonymous_bytes: u64,
}

impl Memory {
    /// Resident, in MiB.
    pub fn rss_mib(&self) -> f64 {
        self.rss_bytes as f64 / 1024.0 / 1024.0
    }
}

/// What the process holds of memory now.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let field = |text: &str, name: &str| -> anyhow::Result<u64> {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .with_context(|| format!("/proc/{pid} says nothing of {name}"))
    };
    Ok(Memory {
        rss_bytes: field(&status, "VmRSS")?,
        pss_bytes: field(&rollup, "Pss")?,
        anonymous_bytes: field(&status, "RssAnon")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_moves_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 9 9";
        assert_eq!(ticks(stat), Some((250, 50)));
    }

    #[test]
    fn this_process_holds_memory_and_has_used_time() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0);
        let spent = cpu_time(std::process::id()).unwrap();
        assert!(spent.total > Duration::ZERO);
        assert_eq!(spent.user() + spent.system(), spent.total);
    }
}
