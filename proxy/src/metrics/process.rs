//! What the kernel says of the process, and tokio of the workers' event loops.

use parking_lot::Mutex;
use tokio::runtime::RuntimeMetrics;

use super::exposition::one;
use super::text::{Exposition, Labels, Samples};
use crate::clock::{self, Timestamp};
use crate::heap;
use crate::worker::Shared;

/// The event loops of the sidecar's threads.
#[derive(Debug, Default)]
pub struct Loops(Mutex<Vec<(String, RuntimeMetrics)>>);

impl Loops {
    /// That of the thread on which this is called, under its name.
    pub fn add(&self, name: &str) {
        let metrics = tokio::runtime::Handle::current().metrics();
        self.0.lock().push((name.to_owned(), metrics));
    }

    fn each<T>(&self, read: impl Fn(&RuntimeMetrics) -> T) -> Samples<T> {
        let all = self.0.lock();
        all.iter()
            .map(|(name, metrics)| {
                let labels: Labels = vec![("thread", name.clone())];
                (labels, read(metrics))
            })
            .collect()
    }
}

pub(super) fn write(shared: &Shared, text: &mut Exposition) {
    let loops = &shared.loops;
    text.counter(
        "remora_loop_busy_seconds",
        "Time in which a thread's event loop had work",
        &loops.each(|metrics| metrics.worker_total_busy_duration(0).as_secs_f64()),
    );
    text.counter(
        "remora_loop_parks",
        "How often a thread's event loop had nothing to do and slept",
        &loops.each(|metrics| metrics.worker_park_count(0)),
    );
    text.gauge(
        "remora_loop_tasks",
        "Tasks of a thread's event loop that have not ended",
        &loops.each(RuntimeMetrics::num_alive_tasks),
    );
    process(text);
}

/// By the names that Prometheus' own libraries have for these.
fn process(text: &mut Exposition) {
    text.gauge(
        "process_start_time_seconds",
        "When the process began, in seconds since the Unix epoch",
        &one(clock::unix_ms(Timestamp::default()) as f64 / 1_000.0),
    );
    text.gauge(
        "process_resident_memory_bytes",
        "Memory that is resident",
        &one(heap::resident_bytes()),
    );
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(stat) = Stat::parse(&stat) {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        text.counter(
            "process_cpu_seconds",
            "CPU time, the kernel's and the program's own",
            &one(stat.cpu_ticks as f64 / ticks as f64),
        );
        text.gauge("process_threads", "Threads", &one(stat.threads));
        text.gauge(
            "process_virtual_memory_bytes",
            "Memory that is mapped",
            &one(stat.virtual_bytes),
        );
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        // Not the one by which they are listed.
        let open = entries.count().saturating_sub(1);
        text.gauge("process_open_fds", "Open file descriptors", &one(open));
    }
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(most) = most {
        text.gauge(
            "process_max_fds",
            "File descriptors that may be open",
            &one(most),
        );
    }
}

/// Of proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    virtual_bytes: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name is in parentheses, and may hold some itself.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // `rest` begins with the third.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            virtual_bytes: field(23)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_programs_name() {
        let line = "4711 (a) 1 (b) S 1 1 1 0 -1 4194560 2437 0 0 0 17 4 0 0 20 0 3 0 97 8192 642 \
                    18446744073709551615";
        let expected = Stat {
            cpu_ticks: 21,
            threads: 3,
            virtual_bytes: 8192,
        };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("4711 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
