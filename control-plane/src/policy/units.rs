//! Durations and quantities with their units, parsed once.

/// Milliseconds of a duration as GEP-2257 writes it: `250ms`, `10s`, `5m`,
/// `1h`, or several parts (`1m30s`). `None` where it is not of that form.
pub fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 || parts == 4 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, length) = if rest.starts_with("ms") {
            (1, 2)
        } else if rest.starts_with('s') {
            (1_000, 1)
        } else if rest.starts_with('m') {
            (60_000, 1)
        } else if rest.starts_with('h') {
            (3_600_000, 1)
        } else {
            return None;
        };
        rest = &rest[length..];
        total = total.checked_add(number.checked_mul(unit)?)?;
        parts += 1;
    }
    (parts > 0).then_some(total)
}

/// Bytes of a quantity: `65536`, `64KiB`, `64Ki`, `1MiB`, `1MB`, `10kB`.
/// `None` where it is not of that form.
pub fn quantity_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || digits > 12 {
        return None;
    }
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "B" => 1,
        "k" | "kB" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// A duration as a person would write it, for messages.
pub fn display_ms(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration_ms("250ms"), Some(250));
        assert_eq!(duration_ms("10s"), Some(10_000));
        assert_eq!(duration_ms("1m30s"), Some(90_000));
        assert_eq!(duration_ms("0s"), Some(0));
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "100000s",
            "1s1s1s1s1s",
            "5d",
            "10S",
        ] {
            assert_eq!(duration_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn quantities_are_read_with_their_unit() {
        assert_eq!(quantity_bytes("64KiB"), Some(65_536));
        assert_eq!(quantity_bytes("64Ki"), Some(65_536));
        assert_eq!(quantity_bytes("1MB"), Some(1_000_000));
        assert_eq!(quantity_bytes("12"), Some(12));
        for bad in ["", "KiB", "1.5KiB", "-1", "1 KiB", "9999999999999", "64kib"] {
            assert_eq!(quantity_bytes(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(ms in 0u64..86_400_000) {
            let shown = display_ms(ms);
            // More than five digits of milliseconds have no written form.
            if ms % 1000 == 0 && ms < 99_999_000 || ms < 99_999 {
                prop_assert_eq!(duration_ms(&shown), Some(ms));
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = duration_ms(&text);
            let _ = quantity_bytes(&text);
        }
    }
}
