//! The words by which a policy names how an attempt can end.

use std::ops::Range;

use remora_proto::v1;

use super::forms::IntOrString;

/// gRPC's status codes by number. `OK` is no failure and cannot be named.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The words that are no code.
const WORDS: [&str; 7] = [
    "connect-failure",
    "refused-stream",
    "reset",
    "timeout",
    "gateway-error",
    "5xx",
    "retriable-4xx",
];

/// The status codes that may be named.
pub const STATUS_CODES: Range<u32> = 200..600;

/// What may be written, as a pattern for strings; numbers are [`STATUS_CODES`].
pub fn pattern() -> String {
    let codes = &GRPC_CODES[1..];
    format!(
        "^({}|[2-5][0-9]{{2}}|{})$",
        WORDS.join("|"),
        codes.join("|")
    )
}

/// What may be written, for messages.
pub const ALLOWED: &str = "connect-failure, refused-stream, reset, timeout, gateway-error, 5xx, \
     retriable-4xx, a status code from 200 to 599, or the name of a gRPC code such as UNAVAILABLE";

/// Adds what one word means; `None` where it means nothing.
pub fn add(conditions: &mut v1::Conditions, word: &IntOrString) -> Option<()> {
    let text = match word {
        IntOrString::Int(number) => return add_status(conditions, *number),
        IntOrString::String(text) => text.as_str(),
    };
    match text {
        "connect-failure" => conditions.connect_failure = true,
        "refused-stream" => conditions.refused_stream = true,
        "reset" => conditions.reset = true,
        "timeout" => conditions.timeout = true,
        "gateway-error" => conditions.gateway_error = true,
        "5xx" => conditions.server_error = true,
        "retriable-4xx" => conditions.retriable_client_error = true,
        // Three digits: what the schema's pattern takes.
        _ if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            return add_status(conditions, text.parse().ok()?);
        }
        _ => {
            let code = GRPC_CODES.iter().skip(1).position(|name| *name == text)? as u32 + 1;
            if !conditions.grpc_codes.contains(&code) {
                conditions.grpc_codes.push(code);
            }
        }
    }
    Some(())
}

fn add_status(conditions: &mut v1::Conditions, number: i64) -> Option<()> {
    let code = u32::try_from(number)
        .ok()
        .filter(|code| STATUS_CODES.contains(code))?;
    if !conditions.status_codes.contains(&code) {
        conditions.status_codes.push(code);
    }
    Some(())
}

/// The words that mean these conditions: what [`add`] reads, in a fixed order.
pub fn words(conditions: &v1::Conditions) -> Vec<IntOrString> {
    let flags = [
        ("5xx", conditions.server_error),
        ("gateway-error", conditions.gateway_error),
        ("connect-failure", conditions.connect_failure),
        ("refused-stream", conditions.refused_stream),
        ("reset", conditions.reset),
        ("timeout", conditions.timeout),
        ("retriable-4xx", conditions.retriable_client_error),
    ];
    let flags = flags.into_iter().filter(|(_, is_set)| *is_set);
    let statuses = conditions.status_codes.iter();
    let names = conditions
        .grpc_codes
        .iter()
        .filter_map(|code| GRPC_CODES.get(usize::try_from(*code).ok()?));
    flags
        .map(|(word, _)| IntOrString::String(word.to_owned()))
        .chain(statuses.map(|code| IntOrString::Int(i64::from(*code))))
        .chain(names.map(|name| IntOrString::String((*name).to_owned())))
        .collect()
}

/// What counts as a failure where a policy does not say.
pub fn default_failures() -> v1::Conditions {
    v1::Conditions {
        connect_failure: true,
        reset: true,
        timeout: true,
        server_error: true,
        // UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS, DEADLINE_EXCEEDED.
        grpc_codes: vec![14, 13, 2, 15, 4],
        ..v1::Conditions::default()
    }
}

/// What is retried on where a policy does not say.
pub fn default_retry_on() -> v1::Conditions {
    v1::Conditions {
        connect_failure: true,
        refused_stream: true,
        reset: true,
        gateway_error: true,
        ..v1::Conditions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_default_of_failures_is_the_default() {
        let mut written = v1::Conditions::default();
        for word in [
            "5xx",
            "connect-failure",
            "reset",
            "timeout",
            "UNAVAILABLE",
            "INTERNAL",
            "UNKNOWN",
            "DATA_LOSS",
            "DEADLINE_EXCEEDED",
        ] {
            add(&mut written, &IntOrString::String(word.to_owned())).unwrap();
        }
        assert_eq!(written, default_failures());
    }

    #[test]
    fn every_word_of_the_pattern_means_something() {
        let pattern = pattern();
        let words = pattern.trim_start_matches("^(").trim_end_matches(")$");
        let words: Vec<&str> = words.split('|').collect();
        assert_eq!(words.len(), WORDS.len() + 1 + GRPC_CODES.len() - 1);
        for word in words.iter().filter(|word| !word.starts_with("[2-5]")) {
            let word = IntOrString::String((*word).to_owned());
            assert!(
                add(&mut v1::Conditions::default(), &word).is_some(),
                "{word:?}"
            );
        }
    }

    #[test]
    fn codes_are_taken_as_numbers_and_as_strings_once() {
        let mut read = v1::Conditions::default();
        add(&mut read, &IntOrString::Int(429)).unwrap();
        add(&mut read, &IntOrString::String("429".to_owned())).unwrap();
        assert_eq!(read.status_codes, [429]);
        for word in ["OK", "42", "600", "0429", "unavailable", "", "UNAVAILABLE "] {
            assert_eq!(
                add(&mut read, &IntOrString::String(word.to_owned())),
                None,
                "{word}"
            );
        }
    }
    #[test]
    fn what_is_shown_reads_back_as_it_was() {
        let mut all = v1::Conditions {
            gateway_error: true,
            refused_stream: true,
            retriable_client_error: true,
            status_codes: vec![429, 200],
            ..default_failures()
        };
        all.grpc_codes.extend([8, 16]);
        for conditions in [all, default_retry_on(), v1::Conditions::default()] {
            let mut read = v1::Conditions::default();
            for word in words(&conditions) {
                add(&mut read, &word).unwrap();
            }
            assert_eq!(read, conditions);
        }
    }
}
