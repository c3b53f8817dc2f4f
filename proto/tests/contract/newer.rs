//! What a newer peer writes: every message of the contract with fields that
//! nobody here knows, made from the `.proto` files themselves, so that a
//! message that is added to them is held to it too.

use std::collections::BTreeMap;
use std::path::Path;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto};

const FILES: [&str; 4] = [
    "remora/v1/policy.proto",
    "remora/v1/report.proto",
    "remora/v1/resources.proto",
    "envoy/service/discovery/v3/discovery.proto",
];
/// Its value is a message of the type that it names.
const ANY: &str = "google.protobuf.Any";
/// Numbers that no message has.
const UNKNOWN: [u32; 4] = [15_001, 15_002, 15_003, 15_004];

/// The contract as its `.proto` files say it.
pub struct Contract {
    /// By full name, such as `remora.v1.Service`.
    pub messages: BTreeMap<String, DescriptorProto>,
    /// By full name, such as `remora.v1.Service.Kind`.
    pub enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Contract {
    pub fn load() -> Self {
        let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
        let mut contract = Self {
            messages: BTreeMap::new(),
            enums: BTreeMap::new(),
        };
        for file in protox::compile(FILES, [proto]).unwrap().file {
            let package = file.package().to_owned();
            contract.add(&package, &file.message_type, &file.enum_type);
        }
        contract
    }

    fn add(&mut self, within: &str, messages: &[DescriptorProto], enums: &[EnumDescriptorProto]) {
        for one in enums {
            let name = format!("{within}.{}", one.name());
            self.enums.insert(name, one.clone());
        }
        for message in messages {
            let name = format!("{within}.{}", message.name());
            self.add(&name, &message.nested_type, &message.enum_type);
            self.messages.insert(name, message.clone());
        }
    }

    /// The message in `bytes`, and every message in it, with unknown fields of
    /// each wire type before and after those that are known.
    pub fn with_unknown_fields(&self, message: &str, mut bytes: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        encode_key(UNKNOWN[0], WireType::Varint, &mut written);
        encode_varint(7, &mut written);
        delimited(UNKNOWN[1], b"from a later version", &mut written);
        let mut any = String::new();
        while bytes.has_remaining() {
            let (number, wire) = decode_key(&mut bytes).unwrap();
            let mut fixed = |length| {
                encode_key(number, wire, &mut written);
                written.put(bytes.copy_to_bytes(length));
            };
            match wire {
                WireType::ThirtyTwoBit => fixed(4),
                WireType::SixtyFourBit => fixed(8),
                WireType::Varint => {
                    encode_key(number, wire, &mut written);
                    encode_varint(decode_varint(&mut bytes).unwrap(), &mut written);
                }
                WireType::LengthDelimited => {
                    let length = decode_varint(&mut bytes).unwrap();
                    let value = bytes.copy_to_bytes(length as usize);
                    if (message, number) == (ANY, 1) {
                        let url = std::str::from_utf8(&value).unwrap();
                        any = url.rsplit('/').next().unwrap_or_default().to_owned();
                    }
                    match self.inner(message, number, &any) {
                        Some(inner) => {
                            let value = self.with_unknown_fields(&inner, &value);
                            delimited(number, &value, &mut written);
                        }
                        None => delimited(number, &value, &mut written),
                    }
                }
                WireType::StartGroup | WireType::EndGroup => panic!("the contract has no groups"),
            }
        }
        encode_key(UNKNOWN[2], WireType::ThirtyTwoBit, &mut written);
        written.put_u32_le(7);
        encode_key(UNKNOWN[3], WireType::SixtyFourBit, &mut written);
        written.put_u64_le(7);
        written
    }

    /// The type of message in a field.
    fn inner(&self, message: &str, number: u32, any: &str) -> Option<String> {
        if (message, number) == (ANY, 2) {
            return self.messages.contains_key(any).then(|| any.to_owned());
        }
        let mut fields = self.messages[message].field.iter();
        let field = fields.find(|field| field.number() == number as i32)?;
        let inner = field.type_name().trim_start_matches('.');
        (field.r#type() == Type::Message).then(|| inner.to_owned())
    }

    /// A message with something in each of its fields.
    pub fn sample(&self, message: &str) -> Vec<u8> {
        let mut written = Vec::new();
        for field in &self.messages[message].field {
            let number = field.number() as u32;
            match field.r#type() {
                Type::String | Type::Bytes => delimited(number, b"some", &mut written),
                Type::Message => {
                    let inner = self.sample(field.type_name().trim_start_matches('.'));
                    delimited(number, &inner, &mut written);
                }
                Type::Bool | Type::Enum => varint(number, 1, &mut written),
                Type::Uint32 | Type::Uint64 | Type::Int32 | Type::Int64 => {
                    varint(number, u64::from(number) + 300, &mut written);
                }
                other => panic!("say here how a {other:?} is written"),
            }
        }
        written
    }

    /// Every field and every value of an enum of Remora's own, a line each.
    pub fn lines(&self) -> Vec<String> {
        let own = |name: &str| name.starts_with("remora.");
        let mut lines = Vec::new();
        for (name, message) in self.messages.iter().filter(|(name, _)| own(name)) {
            for field in &message.field {
                let kind = match field.type_name() {
                    "" => format!("{:?}", field.r#type()).to_lowercase(),
                    named => named.trim_start_matches('.').to_owned(),
                };
                let label = match field.label() {
                    Label::Repeated => "repeated ",
                    _ if field.proto3_optional() => "optional ",
                    _ => "",
                };
                let (number, field) = (field.number(), field.name());
                lines.push(format!("{name} {number} {label}{kind} {field}"));
            }
        }
        for (name, one) in self.enums.iter().filter(|(name, _)| own(name)) {
            for value in &one.value {
                lines.push(format!("{name} = {} {}", value.number(), value.name()));
            }
        }
        lines
    }
}

fn varint(number: u32, value: u64, into: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, into);
    encode_varint(value, into);
}

fn delimited(number: u32, value: &[u8], into: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(value.len() as u64, into);
    into.put(value);
}
