//! `healthCheck`, checked: of a Service for its callers, of a port for its own sidecar.

use std::ops::RangeInclusive;
use std::time::Duration;

use remora_proto::bounds::{
    MAX_EXPECTED_STATUSES, MAX_PROBE_INTERVAL_MS, MAX_PROBE_WINDOW, MAX_TEXT, MIN_PROBE_INTERVAL_MS,
};
use remora_proto::v1;
use remora_proto::v1::health_check::Kind;

use super::policy;
use super::problems::Problems;
use crate::policy::config::health::{HealthCheck, HttpProbe, Probe};

/// One of a kind that is not known here is none.
pub fn health_check(part: &v1::HealthCheck, problems: &mut Problems) -> Option<HealthCheck> {
    let probe = match part.kind.as_ref()? {
        Kind::Http(part) => Probe::Http(problems.within("http", |problems| http(part, problems))),
        Kind::Tcp(_) => Probe::Tcp,
        Kind::Grpc(part) => Probe::Grpc(problems.text(
            "grpc.service",
            &part.service,
            is_text,
            "the name of a service",
        )),
    };
    let interval_ms = problems.number(
        "interval_ms",
        part.interval_ms,
        MIN_PROBE_INTERVAL_MS..=MAX_PROBE_INTERVAL_MS,
    );
    let timeout_ms = problems.number("timeout_ms", part.timeout_ms, 1..=MAX_PROBE_INTERVAL_MS);
    if timeout_ms > interval_ms {
        problems.add("timeout_ms", "is longer than interval_ms");
    }
    let window = problems.number("window", part.window, 1..=MAX_PROBE_WINDOW);
    let unhealthy_threshold = problems.number(
        "unhealthy_threshold",
        part.unhealthy_threshold,
        1..=MAX_PROBE_WINDOW,
    );
    if unhealthy_threshold > window {
        problems.add("unhealthy_threshold", "is more than window");
    }
    Some(HealthCheck {
        probe,
        interval: Duration::from_millis(interval_ms),
        timeout: Duration::from_millis(timeout_ms),
        window,
        unhealthy_threshold,
        healthy_threshold: problems.number(
            "healthy_threshold",
            part.healthy_threshold,
            1..=MAX_PROBE_WINDOW,
        ),
    })
}

/// A list of checks, in the field `health_checks`.
pub fn health_checks(checks: &[v1::HealthCheck], problems: &mut Problems) -> Vec<HealthCheck> {
    let at_most = remora_proto::bounds::MAX_PORT_POLICIES;
    let checks = problems.list("health_checks", checks, at_most);
    let checks = checks.iter().enumerate().filter_map(|(at, part)| {
        problems.within(format!("health_checks[{at}]"), |problems| {
            health_check(part, problems)
        })
    });
    checks.collect()
}

fn http(part: &v1::HttpCheck, problems: &mut Problems) -> HttpProbe {
    let expected_statuses = problems
        .list(
            "expected_statuses",
            &part.expected_statuses,
            MAX_EXPECTED_STATUSES,
        )
        .iter()
        .map(|range| statuses(*range, problems))
        .collect();
    HttpProbe {
        path: problems.text("path", &part.path, is_target, "a path"),
        expected_statuses,
        expected_body: problems.text(
            "expected_body",
            &part.expected_body,
            |text| text.len() <= MAX_TEXT,
            "at most 1024 bytes",
        ),
    }
}

fn statuses(range: v1::StatusRange, problems: &mut Problems) -> RangeInclusive<u16> {
    let mut status =
        |field, status| problems.number::<u32>(field, status, 100..=599).min(999) as u16;
    let first = status("expected_statuses.first", range.first);
    let last = status("expected_statuses.last", range.last);
    if last < first {
        problems.add("expected_statuses", "ends before it begins");
    }
    first..=last
}

/// What can stand in a request line.
fn is_target(path: &str) -> bool {
    policy::is_path(path) && path.parse::<http::uri::PathAndQuery>().is_ok()
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}
