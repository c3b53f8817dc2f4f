//! A recorded exchange between a sidecar and a control plane, as text:
//!
//! ```text
//! # a remark
//! = all that the control plane's source holds from here on, as YAML:
//! | apiVersion: v1
//! > stream 0a1b2c      the sidecar's message on the stream of configuration
//! < stream 0a1b2c      the control plane's
//! > reports 0a1b2c     and the same on the stream of reports
//! ```
//!
//! Messages are the bytes that went over the wire, in hexadecimal.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use prost::Message;
use remora_proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use remora_proto::v1::{ReportAcknowledgement, SidecarReport};

/// The build that was recorded: the last one in which no `Workload` said where
/// reports go.
pub const OLDER: &str = "0.1.0-1044bb1";

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stream,
    Reports,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The source holds this YAML from here on.
    World(String),
    FromSidecar(Channel, Vec<u8>),
    FromControlPlane(Channel, Vec<u8>),
}

/// Where the exchange of a build stands.
pub fn path(build: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/recorded");
    root.join(format!("exchange-{build}.txt"))
}

/// The exchange of the build [`OLDER`].
pub fn older() -> Vec<Line> {
    let path = path(OLDER);
    let text = std::fs::read_to_string(&path);
    parse(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

pub fn parse(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let (sign, rest) = line.split_at(line.len().min(1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match (sign, lines.last_mut()) {
            ("" | "#", _) => {}
            ("=", _) => lines.push(Line::World(String::new())),
            ("|", Some(Line::World(yaml))) => {
                yaml.push_str(rest);
                yaml.push('\n');
            }
            (">" | "<", _) => {
                let (channel, hex) = rest.split_once(' ').unwrap_or((rest, ""));
                let channel = match channel {
                    "stream" => Channel::Stream,
                    "reports" => Channel::Reports,
                    _ => panic!("neither of the streams: {line}"),
                };
                lines.push(match sign {
                    ">" => Line::FromSidecar(channel, from_hex(hex)),
                    _ => Line::FromControlPlane(channel, from_hex(hex)),
                });
            }
            _ => panic!("not a line of an exchange: {line}"),
        }
    }
    lines
}

/// The text of an exchange, each message below what it says.
pub fn print(head: &str, lines: &[Line]) -> String {
    let mut text: String = head.lines().map(|line| format!("# {line}\n")).collect();
    for line in lines {
        match line {
            Line::World(yaml) => {
                text.push_str("\n= the source holds from here on:\n");
                yaml.lines().for_each(|line| push(&mut text, "|", line));
            }
            Line::FromSidecar(channel, bytes) => message(&mut text, ">", *channel, bytes),
            Line::FromControlPlane(channel, bytes) => message(&mut text, "<", *channel, bytes),
        }
    }
    text
}

fn message(text: &mut String, sign: &str, channel: Channel, bytes: &[u8]) {
    push(text, "\n#", &says(sign == ">", channel, bytes));
    let channel = match channel {
        Channel::Stream => "stream",
        Channel::Reports => "reports",
    };
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    push(text, sign, &format!("{channel} {hex}"));
}

fn push(text: &mut String, sign: &str, rest: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", format!("{sign} {rest}").trim_end());
}

/// For readers; what counts are the bytes.
fn says(from_sidecar: bool, channel: Channel, bytes: &[u8]) -> String {
    let short = |type_url: &str| type_url.rsplit('.').next().unwrap_or_default().to_owned();
    match (channel, from_sidecar) {
        (Channel::Stream, true) => {
            let request = DeltaDiscoveryRequest::decode(bytes).unwrap();
            let (kind, nonce) = (short(&request.type_url), request.response_nonce);
            let error = request.error_detail.map(|status| status.message);
            let names = request.resource_names_subscribe;
            format!("sidecar: {kind}, subscribes to {names:?}, answers {nonce:?}, error {error:?}")
        }
        (Channel::Stream, false) => {
            let response = DeltaDiscoveryResponse::decode(bytes).unwrap();
            let resources = response.resources.into_iter();
            let names: Vec<String> = resources.map(|resource| resource.name).collect();
            let (kind, nonce) = (short(&response.type_url), response.nonce);
            let removed = response.removed_resources;
            format!("control plane: {kind}, nonce {nonce:?}, {names:?}, removed {removed:?}")
        }
        (Channel::Reports, true) => {
            let report = SidecarReport::decode(bytes).unwrap();
            let (sequence, applied) = (report.sequence, report.applied.len());
            let (breakers, usage) = (report.breaker_changes.len(), report.usage.len());
            format!(
                "sidecar: report {sequence}: {applied} applied, {breakers} changes of breakers, usage of {usage}"
            )
        }
        (Channel::Reports, false) => {
            let sequence = ReportAcknowledgement::decode(bytes).unwrap().sequence;
            format!("control plane: has report {sequence}")
        }
    }
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "half a byte: {hex}");
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
        .collect()
}
