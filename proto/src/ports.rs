//! Ranges of ports as annotations and settings write them: `3306`, `7000-7010`.

use std::fmt;
use std::str::FromStr;

/// A text is neither a port nor a range of ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotPorts(pub String);

impl fmt::Display for NotPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a port (1-65535) nor a range of ports such as 7000-7010",
            self.0
        )
    }
}

impl std::error::Error for NotPorts {}

/// A range of ports, both ends belonging to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range of one port.
    pub fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether the port lies in the range.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = NotPorts;

    fn from_str(text: &str) -> Result<Self, NotPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |part: &str| part.trim().parse::<u16>().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(NotPorts(text.to_owned())),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The parts of a list such as `3306, 7000-7010`; empty parts are passed over.
pub fn ranges(list: &str) -> impl Iterator<Item = Result<PortRange, NotPorts>> + '_ {
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(str::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_told_apart() {
        let all: Vec<_> = ranges("3306, 7000-7010,").map(Result::unwrap).collect();
        assert!(all[0].contains(3306) && !all[0].contains(3307));
        assert!(all[1].contains(7000) && all[1].contains(7010) && !all[1].contains(7011));
        assert_eq!(all[1].to_string(), "7000-7010");
        for wrong in ["0", "7010-7000", "x", "70000", "-", "1-"] {
            assert_eq!(wrong.parse::<PortRange>(), Err(NotPorts(wrong.to_owned())));
        }
    }
}
