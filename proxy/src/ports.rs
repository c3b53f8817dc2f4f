//! A set of ports, written `3306,7000-7010`.

/// Ports and ranges of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    ranges: Vec<(u16, u16)>,
}

impl PortSet {
    /// Parses `3306,7000-7010`; `None` where a part is no port or an empty range.
    pub fn parse(text: &str) -> Option<Self> {
        let mut ranges = Vec::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            if first == 0 || first > last {
                return None;
            }
            ranges.push((first, last));
        }
        Some(Self { ranges })
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_told_apart() {
        let ports = PortSet::parse("3306, 7000-7010").unwrap();
        assert!(ports.contains(3306) && ports.contains(7000) && ports.contains(7010));
        assert!(!ports.contains(3307) && !ports.contains(7011));
        for wrong in ["0", "7010-7000", "x", "70000"] {
            assert_eq!(PortSet::parse(wrong), None, "{wrong} was taken");
        }
    }
}
