//! What the kernel says of a process: CPU time and memory.

use std::time::Duration;

use anyhow::Context;

/// The unit of times in `/proc`: 1/USER_HZ, which is 100 on every architecture
/// that Remora is built for.
const TICK: Duration = Duration::from_millis(10);

/// CPU time, user and system, of all threads of the process since its start.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("cannot understand {path}"))?;
    Ok(TICK * u32::try_from(ticks)?)
}

/// `utime` and `stime`, the 14th and 15th field (proc_pid_stat(5)). The second,
/// the name, may itself contain spaces and brackets.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
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
        assert_eq!(ticks(stat), Some(300));
    }

    #[test]
    fn this_process_holds_memory_and_has_used_time() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0);
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
