//! From the samples of all rounds to one line for each scenario and system.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::counters::Counts;
use crate::fixed_rate::Latencies;
use crate::proc_stat::CpuTime;
use crate::scenario::Scenario;
use crate::statistics::median;

/// The medians of one system in one scenario. CPU time is the system's own.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// The scenario.
    pub scenario: Scenario,
    /// The system.
    pub system: &'static str,
    /// Rounds in which it was measured without fault.
    pub rounds: usize,
    /// CPU microseconds for each unit, under the load that it can just bear;
    /// none where there is no process.
    pub cpu_us: Option<f64>,
    /// The lowest and the highest of the rounds.
    pub cpu_us_range: Option<(f64, f64)>,
    /// Of it in user space, as the kernel's ticks divide all rounds together.
    pub user_us: Option<f64>,
    /// `cpu_us` by that of each of [`Scenario::yardsticks`] in the same round: the
    /// median of the rounds' ratios, which the machine's changing pace disturbs
    /// least.
    pub beside: [Option<f64>; 2],
    /// Units each second, under the load that it can just bear.
    pub per_second: f64,
    /// What `perf` counted, under the same load.
    pub counts: Counts,
    /// At the fixed rate, where the scenario has one.
    pub at_rate: Option<AtRate>,
}

/// The medians at the fixed rate, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AtRate {
    /// CPU time for each request.
    pub cpu_us: Option<f64>,
    /// Half of the answers were faster.
    pub p50_us: f64,
    /// 99 of 100 were.
    pub p99_us: f64,
    /// 999 of 1,000 were.
    pub p999_us: f64,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Carried under the load that it can just bear.
    pub units: f64,
    /// Spent for that.
    pub spent: Option<CpuTime>,
    /// Units each second.
    pub per_second: f64,
    /// At the fixed rate: what was spent for each request, and latencies.
    pub at_rate: Option<(Option<f64>, Latencies)>,
}

impl Sample {
    fn cpu_us(&self) -> Option<f64> {
        Some(self.spent?.total.as_secs_f64() * 1e6 / self.units)
    }
}

/// Samples by round.
pub type Rounds = BTreeMap<u32, Sample>;

/// What the samples of one system in one scenario come to.
pub fn summarize(
    scenario: Scenario,
    system: &'static str,
    own: &Rounds,
    yardsticks: [Option<&Rounds>; 2],
    counts: Counts,
) -> Figures {
    let of = |pick: &dyn Fn(&Sample) -> Option<f64>| {
        let values: Vec<f64> = own.values().filter_map(pick).collect();
        median(&values)
    };
    let cpu = || own.values().filter_map(Sample::cpu_us);
    let user = || {
        let spent = own.values().filter_map(|sample| sample.spent);
        let spent = spent.reduce(CpuTime::plus)?;
        let units: f64 = own.values().map(|sample| sample.units).sum();
        Some(spent.user().as_secs_f64() * 1e6 / units)
    };
    let latency = |pick: fn(&Latencies) -> u64| {
        of(&|sample| sample.at_rate.map(|(_, latencies)| pick(&latencies) as f64))
    };
    let at_rate = || {
        Some(AtRate {
            cpu_us: of(&|sample| sample.at_rate?.0),
            p50_us: latency(|latencies| latencies.p50_us)?,
            p99_us: latency(|latencies| latencies.p99_us)?,
            p999_us: latency(|latencies| latencies.p999_us)?,
        })
    };
    Figures {
        scenario,
        system,
        rounds: own.len(),
        cpu_us: of(&Sample::cpu_us),
        cpu_us_range: cpu().reduce(f64::min).zip(cpu().reduce(f64::max)),
        user_us: user(),
        beside: yardsticks.map(|yardstick| ratio(own, yardstick?)),
        per_second: of(&|sample| Some(sample.per_second)).unwrap_or(0.0),
        counts,
        at_rate: at_rate(),
    }
}

/// Round by round.
fn ratio(own: &Rounds, beside: &Rounds) -> Option<f64> {
    let ratios: Vec<f64> = own
        .iter()
        .filter_map(|(round, own)| Some(own.cpu_us()? / beside.get(round)?.cpu_us()?))
        .collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn spent(us: u64) -> CpuTime {
        let mut spent = CpuTime::default();
        spent.total = Duration::from_micros(us);
        spent
    }

    fn rounds(cpu_us: &[(u32, u64)]) -> Rounds {
        let sample = |us| Sample {
            units: 1.0,
            spent: Some(spent(us)),
            per_second: 1.0,
            at_rate: None,
        };
        cpu_us.iter().map(|(at, us)| (*at, sample(*us))).collect()
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        let own = rounds(&[(1, 10), (2, 40), (3, 15)]);
        let beside = rounds(&[(1, 20), (3, 30), (4, 1)]);
        let figures = summarize(
            Scenario::Http1,
            "Remora",
            &own,
            [Some(&beside), None],
            Counts::default(),
        );
        assert_eq!(figures.beside, [Some(0.5), None]);
        assert_eq!(figures.cpu_us, Some(15.0));
        assert_eq!(figures.cpu_us_range, Some((10.0, 40.0)));
        assert!(figures.at_rate.is_none());
    }
}
