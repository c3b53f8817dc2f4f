//! What the options are made of: port ranges, networks, lists of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use remora_proto::ports::NotPorts;
pub use remora_proto::ports::PortRange;

/// The longest list that one option takes. Every entry is one more rule that
/// the kernel asks at each new connection, and the whole batch must fit into
/// one netlink send buffer.
pub const MAX_LIST: usize = 128;

/// Why a text is not what the option needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a port, nor a range of ports.
    #[error(transparent)]
    Port(#[from] NotPorts),
    /// Not a network.
    #[error("`{0}` is not a network such as 10.0.0.0/8 or fd00::/8")]
    Cidr(String),
    /// Not a user id.
    #[error("`{0}` is not a user id")]
    Uid(String),
    /// Not an address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// Not a socket mark.
    #[error("`{0}` is not a socket mark: a number but 0, decimal or after 0x")]
    Mark(String),
    /// Too many entries.
    #[error("{0} entries are more than the {MAX_LIST} that fit")]
    TooMany(usize),
}

/// A network: an address without host bits, and how many bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network of `prefix` bits to which the address belongs; a prefix
    /// longer than the address counts as all of it.
    pub fn new(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(width(address));
        let mask = mask(address, prefix);
        let address = match address {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| v4.octets()[i] & mask[i]);
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                octets.iter_mut().zip(&mask).for_each(|(o, m)| *o &= m);
                IpAddr::V6(Ipv6Addr::from(octets))
            }
        };
        Cidr { address, prefix }
    }

    /// The lowest address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The bits that count, as the bytes of an address (4 or 16).
    pub fn mask(self) -> Vec<u8> {
        mask(self.address, self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, prefix: u8) -> Vec<u8> {
    (0..width(address) / 8)
        .map(|byte| {
            let bits = prefix.saturating_sub(byte * 8).min(8);
            // Shifting a u16 so that 0 and 8 bits need no case of their own.
            ((0xff00_u16 >> bits) & 0xff) as u8
        })
        .collect()
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Cidr(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
            None => width(address),
        };
        if prefix > width(address) {
            return Err(wrong());
        }
        Ok(Cidr::new(address, prefix))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Reads a comma-separated list; an empty text is the empty list, so that an
/// environment variable may be set and empty.
fn list<T>(text: &str, one: impl Fn(&str) -> Result<T, ValueError>) -> Result<List<T>, ValueError> {
    if text.trim().is_empty() {
        return Ok(List(Vec::new()));
    }
    let entries: Vec<T> = text
        .split(',')
        .map(|entry| one(entry.trim()))
        .collect::<Result<_, _>>()?;
    if entries.len() > MAX_LIST {
        return Err(ValueError::TooMany(entries.len()));
    }
    Ok(List(entries))
}

/// The entries of one option.
// A type of its own, because clap would take `Vec<T>` for an option that is
// given several times and then could not take an empty variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T: FromStr<Err: Into<ValueError>>> FromStr for List<T> {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        list(text, |part| part.parse::<T>().map_err(Into::into))
    }
}

/// Reads a list of user ids.
pub fn uids(text: &str) -> Result<List<u32>, ValueError> {
    list(text, |uid| {
        // The highest number means "no user" to the kernel.
        uid.parse()
            .ok()
            .filter(|uid| *uid != u32::MAX)
            .ok_or_else(|| ValueError::Uid(uid.to_owned()))
    })
}

/// Reads a list of addresses.
pub fn addresses(text: &str) -> Result<List<IpAddr>, ValueError> {
    list(text, |address| {
        address
            .parse()
            .map_err(|_| ValueError::Address(address.to_owned()))
    })
}

/// Reads a socket mark. Zero is what every socket has, so it is refused.
pub fn mark(text: &str) -> Result<u32, ValueError> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number
        .ok()
        .filter(|mark| *mark != 0)
        .ok_or_else(|| ValueError::Mark(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_read_and_printed_alike() {
        for text in ["1", "3306", "7000-7010", "65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for text in ["", "0", "65536", "7010-7000", "-5", "5-", "a", "1-2-3"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn host_bits_of_a_network_are_dropped() {
        let printed = |text: &str| text.parse::<Cidr>().unwrap().to_string();
        assert_eq!(printed("10.1.2.3/8"), "10.0.0.0/8");
        assert_eq!(printed("10.1.2.3/31"), "10.1.2.2/31");
        assert_eq!(printed("10.1.2.3"), "10.1.2.3/32");
        assert_eq!(printed("0.0.0.0/0"), "0.0.0.0/0");
        assert_eq!(printed("fd00:1:2::3/20"), "fd00::/20");
        assert_eq!(printed("fd00:1:2::3"), "fd00:1:2::3/128");
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "x"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn masks_cover_exactly_the_prefix() {
        let mask = |text: &str| text.parse::<Cidr>().unwrap().mask();
        assert_eq!(mask("10.0.0.0/8"), [255, 0, 0, 0]);
        assert_eq!(mask("10.0.0.0/12"), [255, 240, 0, 0]);
        assert_eq!(mask("0.0.0.0/0"), [0; 4]);
        assert_eq!(mask("1.2.3.4/32"), [255; 4]);
        assert_eq!(mask("fd00::/8")[..2], [255, 0]);
        assert_eq!(mask("::1/128"), [255; 16]);
    }

    #[test]
    fn an_empty_list_is_empty_and_a_bad_entry_is_named() {
        let ports = |text: &str| text.parse::<List<PortRange>>();
        assert_eq!(ports(" ").unwrap().0, []);
        assert_eq!(ports("3306, 7000-7010").unwrap().0.len(), 2);
        let error = ports("3306,abc").unwrap_err();
        assert!(error.to_string().contains("`abc`"), "{error}");
        let long = vec!["1"; MAX_LIST + 1].join(",");
        assert_eq!(ports(&long).unwrap_err(), ValueError::TooMany(MAX_LIST + 1));
    }

    #[test]
    fn marks_are_decimal_or_hexadecimal_and_never_zero() {
        assert_eq!(mark("0x524d5241"), Ok(0x524d_5241));
        assert_eq!(mark("17"), Ok(17));
        assert!(mark("0").is_err() && mark("0x").is_err() && mark("").is_err());
    }

    #[test]
    fn user_ids_and_addresses_are_lists_too() {
        assert_eq!(uids("0,1000").unwrap().0, [0, 1000]);
        assert!(uids("4294967295").is_err() && uids("root").is_err());
        assert_eq!(addresses("10.0.0.1,fd00::1").unwrap().0.len(), 2);
        assert!(addresses("10.0.0").is_err());
    }
}
