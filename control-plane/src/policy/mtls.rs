//! `mtls`, read.

use std::collections::BTreeMap;

use remora_proto::v1;

use super::parse::Faults;
use super::schema::{Mtls, MtlsMode};
use crate::core::settings;

/// The block, typed.
pub(super) fn block(block: &Mtls, faults: &mut Faults) -> settings::Mtls {
    let mut ports = BTreeMap::new();
    for (text, said) in block.ports.iter().flatten() {
        match port(text) {
            Some(port) => {
                ports.insert(port, mode(*said));
            }
            None => faults.add(
                format!("spec.mtls.ports.{text}"),
                format!("is for {text:?}, which is no port: must be a number from 1 to 65535"),
            ),
        }
    }
    settings::Mtls {
        mode: block.mode.map(mode),
        ports,
    }
}

/// A port as it is written: without a sign, without zeros before it.
fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

fn mode(mode: MtlsMode) -> v1::MtlsMode {
    match mode {
        MtlsMode::Strict => v1::MtlsMode::Strict,
        MtlsMode::Permissive => v1::MtlsMode::Permissive,
        MtlsMode::Disabled => v1::MtlsMode::Disabled,
    }
}

/// As a policy writes it.
pub fn word(mode: v1::MtlsMode) -> &'static str {
    match mode {
        v1::MtlsMode::Strict => "Strict",
        v1::MtlsMode::Permissive => "Permissive",
        v1::MtlsMode::Disabled => "Disabled",
    }
}
