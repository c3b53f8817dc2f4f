//! `healthCheck`, read.

use remora_proto::v1;
use remora_proto::v1::health_check::Kind;

use super::conditions::STATUS_CODES;
use super::forms::{self, IntOrString};
use super::parse::Faults;
use super::{bounds, schema};
use crate::core::settings::defaults;
use crate::core::settings::health::HealthCheck;

const AT: &str = "spec.healthCheck";
/// `http.expectedStatuses` where it is not given.
const WELL: v1::StatusRange = v1::StatusRange {
    first: 200,
    last: 299,
};

/// The block, typed.
pub(super) fn block(block: &schema::HealthCheck, faults: &mut Faults) -> HealthCheck {
    let interval = format!("{AT}.interval");
    let timeout = format!("{AT}.timeout");
    let interval_ms = faults.duration(&interval, block.interval.as_ref(), bounds::PROBE_INTERVAL);
    let timeout_ms = faults.duration(&timeout, block.timeout.as_ref(), bounds::PROBE_TIMEOUT);
    faults.ordered(
        (&timeout, timeout_ms, defaults::PROBE_TIMEOUT_MS),
        (&interval, interval_ms, defaults::PROBE_INTERVAL_MS),
    );
    let window = format!("{AT}.window");
    let threshold = block
        .unhealthy_threshold
        .unwrap_or(defaults::UNHEALTHY_THRESHOLD);
    let is_read = !faults.is_given(&format!("{AT}.unhealthyThreshold"));
    if let Some(probes) = block.window.filter(|probes| *probes < threshold && is_read) {
        let message =
            format!("is {probes}, must not be less than unhealthyThreshold, which is {threshold}");
        faults.add(window, message);
    }
    HealthCheck {
        kind: kind(block, faults),
        interval_ms,
        timeout_ms,
        window: block.window,
        unhealthy_threshold: block.unhealthy_threshold,
        healthy_threshold: block.healthy_threshold,
    }
}

fn kind(block: &schema::HealthCheck, faults: &mut Faults) -> Option<Kind> {
    let http = block.http.as_ref().map(|block| {
        Kind::Http(v1::HttpCheck {
            path: block.path.clone(),
            expected_statuses: statuses(block.expected_statuses.as_ref(), faults),
            expected_body: block.expected_body.clone().unwrap_or_default(),
        })
    });
    let tcp = block.tcp.map(|_| Kind::Tcp(v1::TcpCheck {}));
    let grpc = block.grpc.as_ref().map(|block| {
        Kind::Grpc(v1::GrpcCheck {
            service: block.service.clone().unwrap_or_default(),
        })
    });
    let mut given: Vec<Kind> = [http, tcp, grpc].into_iter().flatten().collect();
    let is_read = ["http", "tcp", "grpc"]
        .iter()
        .all(|field| !faults.is_given(&format!("{AT}.{field}")));
    if given.len() > 1 || (given.is_empty() && is_read) {
        faults.add(AT, schema::ONE_CHECK);
    }
    given.pop()
}

fn statuses(written: Option<&Vec<IntOrString>>, faults: &mut Faults) -> Vec<v1::StatusRange> {
    let mut ranges = Vec::new();
    let Some(written) = written else {
        return vec![WELL];
    };
    for (index, word) in written.iter().enumerate() {
        match status_range(word) {
            Some(range) if ranges.contains(&range) => {}
            Some(range) => ranges.push(range),
            None => {
                let at = format!("{AT}.http.expectedStatuses[{index}]");
                let shown = match word {
                    IntOrString::Int(number) => number.to_string(),
                    IntOrString::String(text) => format!("{text:?}"),
                };
                faults.add(at, format!("is {shown}, {}", forms::STATUS_RANGE));
            }
        }
    }
    ranges
}

fn status_range(word: &IntOrString) -> Option<v1::StatusRange> {
    let code = |text: &str| {
        let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        let code = text.parse().ok().filter(|_| is_code);
        code.filter(|code| STATUS_CODES.contains(code))
    };
    let (first, last) = match word {
        IntOrString::Int(number) => {
            let number = u32::try_from(*number).ok();
            let number = number.filter(|number| STATUS_CODES.contains(number))?;
            (number, number)
        }
        IntOrString::String(text) => match text.split_once('-') {
            Some((first, last)) => (code(first)?, code(last)?),
            None => (code(text)?, code(text)?),
        },
    };
    (first <= last).then_some(v1::StatusRange { first, last })
}
