//! One check, kept up: a probe at a time, at jittered intervals.

use std::future::Future;
use std::time::Duration;

use super::verdict::Verdict;
use crate::policy::config::HealthCheck;
use crate::random;
use crate::state::Health;

/// Intervals are up to this share longer or shorter.
const JITTER: f64 = 0.1;

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The application is well.
    Ok,
    /// It is not.
    Failed,
    /// It did not say in time.
    Timeout,
}

impl ProbeResult {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Timeout];

    /// The word for it in metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }
}

/// Probes for ever. `told` hears of each probe: its result, the verdict, and in
/// words what was found.
pub async fn keep<F: Future<Output = Result<(), String>> + Send>(
    check: HealthCheck,
    probe: impl Fn() -> F + Send,
    told: impl Fn(ProbeResult, Health, String) + Send,
) {
    let mut verdict = Verdict::default();
    // Not all of them at once: anywhere in the first interval.
    let mut wait = check.interval.mul_f64(random::unit(random::next()));
    loop {
        tokio::time::sleep(wait).await;
        let (result, detail) = match tokio::time::timeout(check.timeout, probe()).await {
            Ok(Ok(())) => (ProbeResult::Ok, String::new()),
            Ok(Err(detail)) => (ProbeResult::Failed, detail),
            Err(_) => {
                let detail = format!("no answer within {} ms", check.timeout.as_millis());
                (ProbeResult::Timeout, detail)
            }
        };
        verdict.record(result == ProbeResult::Ok, &check);
        told(result, verdict.health(), detail);
        wait = jittered(check.interval, random::next());
    }
}

fn jittered(interval: Duration, random: u64) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * random::unit(random))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use parking_lot::Mutex;

    use super::*;
    use crate::clock;
    use crate::policy::config::health::Probe;

    const CHECK: HealthCheck = HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        window: 3,
        unhealthy_threshold: 3,
        healthy_threshold: 1,
    };

    #[tokio::test(start_paused = true)]
    async fn it_probes_at_intervals_that_jitter_and_one_that_hangs_is_a_failure() {
        let heard = Arc::<Mutex<Vec<_>>>::default();
        let hears = Arc::clone(&heard);
        let number = AtomicU32::new(0);
        let probe = || {
            let number = number.fetch_add(1, SeqCst);
            async move {
                match number {
                    0 => Ok(()),
                    1 | 2 => Err("status 500".to_owned()),
                    3 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        };
        let told = move |result, health, detail| {
            hears.lock().push((result, health, detail, clock::now()));
        };
        let keeping = keep(CHECK, probe, told);
        let _ = tokio::time::timeout(Duration::from_secs(70), keeping).await;
        let heard = heard.lock();
        let said: Vec<_> = heard.iter().map(|it| (it.0, it.1)).take(5).collect();
        assert_eq!(
            said,
            [
                (ProbeResult::Ok, Health::Healthy),
                (ProbeResult::Failed, Health::Healthy),
                (ProbeResult::Failed, Health::Healthy),
                (ProbeResult::Timeout, Health::Unhealthy),
                (ProbeResult::Ok, Health::Healthy),
            ]
        );
        assert_eq!(heard[3].2, "no answer within 1000 ms");
        for pair in heard.windows(2) {
            let apart = pair[1].3.since(pair[0].3);
            assert!(apart >= Duration::from_secs(9) && apart <= Duration::from_secs(13));
        }
    }

    #[test]
    fn intervals_jitter_by_a_tenth_and_no_more() {
        let second = Duration::from_secs(1);
        assert_eq!(jittered(second, 0), Duration::from_millis(900));
        assert_eq!(jittered(second, u64::MAX), Duration::from_millis(1100));
    }
}
