//! What the injector counts, and its own process, in Prometheus' text form.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What became of a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The pod has the sidecar.
    Injected,
    /// It was asked for and cannot be had, or not as wished.
    Declined,
    /// Nobody asked, or it must never be.
    Skipped,
    /// It could not be decided; the pod was let through as it was.
    Failed,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 4] = [
        (Outcome::Injected, "injected"),
        (Outcome::Declined, "declined"),
        (Outcome::Skipped, "skipped"),
        (Outcome::Failed, "failed"),
    ];
}

/// Upper bounds of the buckets. The bar is 10 ms.
const BOUNDS_SECONDS: [f64; 12] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// Counters; read at each scrape.
#[derive(Debug, Default)]
pub struct Metrics {
    outcomes: [AtomicU64; 4],
    buckets: [AtomicU64; BOUNDS_SECONDS.len() + 1],
    sum_nanoseconds: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
    handshake_failures: AtomicU64,
}

impl Metrics {
    /// A review was answered.
    pub fn answered(&self, outcome: Outcome, took: Duration) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS_SECONDS.iter().position(|bound| seconds <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS_SECONDS.len())].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// How many reviews had this outcome.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Relaxed)
    }

    /// A request was answered with an HTTP error.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A connection was taken.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A TLS handshake failed.
    pub fn handshake_failed(&self) {
        self.handshake_failures.fetch_add(1, Relaxed);
    }

    /// All of them, with what `conditions` says of readiness, and when the
    /// certificate ends (seconds since the epoch, 0 where there is none).
    pub fn shown(&self, conditions: &[(&str, bool)], certificate_ends: u64) -> String {
        let mut text = String::new();
        let name = "remora_injections_total";
        about(&mut text, name, "counter", "Reviews of pods, by result.");
        for (outcome, word) in Outcome::ALL {
            line(
                &mut text,
                name,
                &format!("{{result=\"{word}\"}}"),
                self.count(outcome),
            );
        }
        self.durations(&mut text);
        for (name, help, count) in [
            (
                "remora_injector_refused_requests_total",
                "Requests answered with an HTTP error: no AdmissionReview.",
                &self.refused,
            ),
            (
                "remora_injector_connections_total",
                "Connections to the webhook.",
                &self.connections,
            ),
            (
                "remora_injector_handshake_failures_total",
                "TLS handshakes that failed.",
                &self.handshake_failures,
            ),
        ] {
            about(&mut text, name, "counter", help);
            line(&mut text, name, "", count.load(Relaxed));
        }
        let name = "remora_injector_condition";
        about(
            &mut text,
            name,
            "gauge",
            "1 where what readiness needs is there.",
        );
        for (condition, holds) in conditions {
            let label = format!("{{condition=\"{condition}\"}}");
            line(&mut text, name, &label, u8::from(*holds));
        }
        let name = "remora_injector_certificate_expiry_timestamp_seconds";
        about(
            &mut text,
            name,
            "gauge",
            "When the certificate that is served ends.",
        );
        line(&mut text, name, "", certificate_ends);
        process(&mut text);
        text
    }

    fn durations(&self, text: &mut String) {
        let name = "remora_injection_duration_seconds";
        let help = "From a review's head to its answer.";
        about(text, name, "histogram", help);
        let mut total = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Relaxed);
            let bound = BOUNDS_SECONDS.get(index).map(f64::to_string);
            let bound = bound.unwrap_or_else(|| "+Inf".to_owned());
            line(
                text,
                &format!("{name}_bucket"),
                &format!("{{le=\"{bound}\"}}"),
                total,
            );
        }
        let sum = Duration::from_nanos(self.sum_nanoseconds.load(Relaxed)).as_secs_f64();
        line(text, &format!("{name}_sum"), "", sum);
        line(text, &format!("{name}_count"), "", total);
    }
}

fn about(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name}{labels} {value}");
}

/// What every client library of Prometheus says of its process, where Linux
/// says it.
fn process(text: &mut String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        let name = "process_resident_memory_bytes";
        about(text, name, "gauge", "Resident memory.");
        line(text, name, "", bytes);
    }
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&stat) {
        let name = "process_cpu_seconds_total";
        about(text, name, "counter", "CPU time, user and system.");
        line(text, name, "", seconds);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let name = "process_open_fds";
        about(text, name, "gauge", "Open file descriptors.");
        line(text, name, "", files.count());
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Of proc(5), `stat`: utime and stime, the 14th and 15th field, in ticks of
/// which user space is always told 100 a second.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name, which may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let sum = ticks()? + ticks()?;
    Some(sum as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_durations_are_shown() {
        let metrics = Metrics::default();
        metrics.answered(Outcome::Injected, Duration::from_micros(300));
        metrics.answered(Outcome::Injected, Duration::from_millis(7));
        metrics.answered(Outcome::Failed, Duration::from_secs(9));
        metrics.refused();
        let text = metrics.shown(&[("certificate", true), ("namespaces", false)], 7);
        for line in [
            "remora_injections_total{result=\"injected\"} 2",
            "remora_injections_total{result=\"skipped\"} 0",
            "remora_injections_total{result=\"failed\"} 1",
            "remora_injection_duration_seconds_bucket{le=\"0.00025\"} 0",
            "remora_injection_duration_seconds_bucket{le=\"0.0005\"} 1",
            "remora_injection_duration_seconds_bucket{le=\"0.01\"} 2",
            "remora_injection_duration_seconds_bucket{le=\"5\"} 2",
            "remora_injection_duration_seconds_bucket{le=\"+Inf\"} 3",
            "remora_injection_duration_seconds_count 3",
            "remora_injector_refused_requests_total 1",
            "remora_injector_condition{condition=\"certificate\"} 1",
            "remora_injector_condition{condition=\"namespaces\"} 0",
            "remora_injector_certificate_expiry_timestamp_seconds 7",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
        }
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn the_process_is_read_as_linux_writes_it() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("x"), None);
        assert_eq!(resident_bytes("VmPeak:\t9 kB\nVmRSS:\t 4 kB\n"), Some(4096));
    }
}
