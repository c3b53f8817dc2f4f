//! How the values of annotations are read. What `remora-proxy` reads again is
//! only checked here, and passed on as it was written.

use std::net::IpAddr;

/// Entries of a list; `remora-proxy intercept` takes no more.
const MAX_LIST: usize = 128;
/// The longest drain that can be asked for.
const MAX_DRAIN_MS: u64 = 600_000;
/// The most data workers; the sidecar takes no more.
const MAX_CONCURRENCY: u32 = 256;

/// With less memory a sidecar cannot start: 16Mi.
const MIN_MEMORY: f64 = 16.0 * 1024.0 * 1024.0;

type Checked = Result<(), String>;

fn list(text: &str, one: impl Fn(&str) -> bool, wanted: &str) -> Checked {
    let entries: Vec<&str> = text.split(',').map(str::trim).collect();
    if entries.len() > MAX_LIST {
        return Err(format!(
            "{} entries are more than {MAX_LIST}",
            entries.len()
        ));
    }
    match entries.into_iter().find(|entry| !one(entry)) {
        Some(entry) => Err(format!("`{entry}` is not {wanted}")),
        None => Ok(()),
    }
}

/// `3306,7000-7010`.
pub fn ports(text: &str) -> Checked {
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        matches!((port(first), port(last)), (Some(first), Some(last)) if first <= last)
    };
    list(
        text,
        range,
        "a port (1-65535) nor a range such as 7000-7010",
    )
}

/// `10.0.0.0/8,fd00::/8`.
pub fn networks(text: &str) -> Checked {
    let network = |text: &str| {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "0"));
        let Ok(address) = address.parse::<IpAddr>() else {
            return false;
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        prefix.parse::<u8>().is_ok_and(|prefix| prefix <= width)
    };
    list(text, network, "a network such as 10.0.0.0/8 or fd00::/8")
}

/// `1000,1001`.
pub fn users(text: &str) -> Checked {
    let user = |text: &str| text.parse::<u32>().is_ok_and(|uid| uid != u32::MAX);
    list(text, user, "a user id")
}

/// A level, or `target=level` several times (`tracing`'s filter).
pub fn log_filter(text: &str) -> Checked {
    let level = |text: &str| matches!(text, "off" | "error" | "warn" | "info" | "debug");
    let target = |text: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        !text.is_empty() && text.chars().all(letter)
    };
    let directive = |text: &str| match text.split_once('=') {
        Some((name, of)) => target(name) && level(of),
        None => level(text),
    };
    list(
        text,
        directive,
        "off, error, warn, info or debug, nor target=level",
    )
}

/// `1` to `256`.
pub fn concurrency(text: &str) -> Checked {
    match text.parse::<u32>() {
        Ok(workers) if (1..=MAX_CONCURRENCY).contains(&workers) => Ok(()),
        _ => Err(format!(
            "`{text}` is not a number from 1 to {MAX_CONCURRENCY}"
        )),
    }
}

/// `off` or `stdout`. Not a file: the sidecar's file system is read-only.
pub fn access_log(text: &str) -> Checked {
    match text {
        "off" | "stdout" => Ok(()),
        _ => Err(format!("`{text}` is neither off nor stdout")),
    }
}

/// `5s`, `500ms`, `1m`.
pub fn drain_timeout(text: &str) -> Checked {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => 0,
    };
    let ms = text[..digits]
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    match ms {
        Some(ms) if unit > 0 && ms <= MAX_DRAIN_MS => Ok(()),
        _ => Err(format!(
            "`{text}` is not a duration up to 10m such as 5s or 500ms"
        )),
    }
}

/// What a quantity comes to, in its base unit, as Kubernetes reads it
/// (apimachinery, `resource.Quantity`); only for comparing.
pub fn quantity(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a quantity above 0 such as 100m or 64Mi");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => exponent(suffix).ok_or_else(wrong)?,
    };
    // Rust reads "1." and ".5" as Kubernetes does, and "." as neither does.
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let value = number * factor;
    if value > 0.0 && value.is_finite() {
        Ok(value)
    } else {
        Err(wrong())
    }
}

/// A quantity of memory in which a sidecar can start.
pub fn memory(text: &str) -> Checked {
    if quantity(text)? < MIN_MEMORY {
        return Err(format!(
            "`{text}` is less than the 16Mi that a sidecar needs"
        ));
    }
    Ok(())
}

/// `e3`, `E-2`.
fn exponent(suffix: &str) -> Option<f64> {
    let digits = suffix.strip_prefix(['e', 'E'])?;
    let power: i32 = digits.parse().ok()?;
    (-9..=18).contains(&power).then(|| 10_f64.powi(power))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(read: fn(&str) -> Checked, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(read(text), Ok(()), "{text}");
        }
        for text in bad {
            let error = read(text).unwrap_err();
            assert!(
                error.contains('`') || error.contains("entries"),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn each_value_is_taken_or_named() {
        check(
            ports,
            &["22", "3306, 7000-7010"],
            &["", "0", "70000", "9-3", "a", "1,,2"],
        );
        let many = vec!["1"; MAX_LIST + 1].join(",");
        check(ports, &[], &[&many]);
        check(
            networks,
            &["10.0.0.0/8", "fd00::/8,10.1.2.3"],
            &["", "10.0.0.0/33", "x/8", "10.0.0.0/"],
        );
        check(
            users,
            &["0", "1000,1001"],
            &["", "-1", "root", "4294967295"],
        );
        check(
            log_filter,
            &["debug", "info,remora_proxy::pool=debug"],
            &["", "loud", "a b=info", "=info"],
        );
        check(concurrency, &["1", "256"], &["", "0", "257", "x"]);
        check(
            memory,
            &["16Mi", "16777216", "1Gi"],
            &["", "1Mi", "16M", "x"],
        );
        check(access_log, &["off", "stdout"], &["", "/tmp/log", "on"]);
        check(
            drain_timeout,
            &["0s", "5s", "500ms", "10m"],
            &["", "5", "s", "11m", "-1s", "5h"],
        );
    }

    #[test]
    fn quantities_compare_as_kubernetes_compares_them() {
        let value = |text| quantity(text).unwrap();
        assert!(value("100m") < value("0.2"));
        assert!(value("64Mi") > value("64M"));
        assert!(value("1e3") > value("999"));
        assert!((value("1Gi") - value("1024Mi")).abs() < 1.0);
        for text in ["", "0", "-1", "64MB", "m", ".", "1e", "1e99", "1 Gi"] {
            assert!(quantity(text).is_err(), "{text}");
        }
    }
}
