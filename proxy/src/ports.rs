//! A set of ports, written `3306,7000-7010`.

use remora_proto::ports::{PortRange, ranges};

/// Ports and ranges of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    ranges: Vec<PortRange>,
}

impl PortSet {
    /// Parses `3306,7000-7010`; `None` where a part is no port or an empty range.
    pub fn parse(text: &str) -> Option<Self> {
        let ranges = ranges(text).collect::<Result<_, _>>().ok()?;
        Some(Self { ranges })
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|range| range.contains(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_the_union_of_its_ranges() {
        let ports = PortSet::parse("3306, 7000-7010").unwrap();
        assert!(ports.contains(3306) && ports.contains(7010) && !ports.contains(3307));
        assert_eq!(PortSet::parse("3306,x"), None);
        assert!(!PortSet::default().contains(1));
    }
}
