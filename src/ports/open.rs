//! Open ports: those that a container may claim with bind(), as text and as a set.
//!
//! What does not live here: who has claimed which port (`steer`), and what a container is offered on this host (`lease`).

use super::set::{PortRange, PortSet};
use super::text::PortError;
use crate::refusal::from_text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The ports that a container may claim. In text `none`, or items such as `8080,9000-9099,all`. A `+` between items is a comma,
/// as for ports that are assigned.
///
/// `all` means the ports from 1024 up. A port below 1024 is meant only where it is written, alone or within a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenPorts(PortSet);

/// Why a text does not say which ports are open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenPortsError {
    /// An item is wrong.
    #[error("{0}; besides, all and none are understood")]
    Port(#[from] PortError),
    /// More ranges than a lease has room for.
    #[error("it has {0} ranges that do not touch; at most {most} are understood", most = OpenPorts::RANGES)]
    Scattered(usize),
    /// Ports, and none.
    #[error("none stands beside ports; write one of the two")]
    Beside,
}

impl OpenPorts {
    /// What `all` means: privileged ports are not among them.
    const ALL: (u16, u16) = (1024, u16::MAX);

    /// The most ranges: the kernel's copy of a lease has room for some 4000, and a lease has more in it.
    const RANGES: usize = 512;

    /// The ports as a set.
    pub fn set(&self) -> &PortSet {
        &self.0
    }

    /// Whether no port is open.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<PortSet> for OpenPorts {
    fn from(set: PortSet) -> Self {
        OpenPorts(set)
    }
}

impl FromStr for OpenPorts {
    type Err = OpenPortsError;

    fn from_str(text: &str) -> Result<Self, OpenPortsError> {
        if ["", "none"].contains(&text.trim()) {
            return Ok(OpenPorts::default());
        }
        let item = |item: &str| match item.trim() {
            "none" => Err(OpenPortsError::Beside),
            "all" => PortRange::new(Self::ALL.0, Self::ALL.1).ok_or(PortError::EmptyItem.into()),
            range => range.parse().map_err(OpenPortsError::Port),
        };
        let ports = text.split([',', '+']).map(item).collect::<Result<PortSet, _>>()?;
        match ports.ranges().len() {
            many if many > Self::RANGES => Err(OpenPortsError::Scattered(many)),
            _ => Ok(OpenPorts(ports)),
        }
    }
}

impl fmt::Display for OpenPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.ranges() {
            [] => f.write_str("none"),
            [range] if (range.begin(), range.end()) == Self::ALL => f.write_str("all"),
            _ => self.0.fmt(f),
        }
    }
}

impl Serialize for OpenPorts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OpenPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a port set such as \"8080,9000-9099\", \"all\" or \"none\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_ports_have_one_spelling() {
        for (given, shown, ports) in [
            ("none", "none", ""),
            (" ", "none", ""),
            ("all", "all", "1024-65535"),
            ("1024-65535", "all", "1024-65535"),
            ("1024-40000+40001-65535", "all", "1024-65535"),
            ("80, all", "80,1024-65535", "80,1024-65535"),
            ("1-65535", "1-65535", "1-65535"),
            ("9000-9099+8080", "8080,9000-9099", "8080,9000-9099"),
        ] {
            let open: OpenPorts = given.parse().unwrap();
            assert_eq!((open.to_string().as_str(), open.set().to_string().as_str()), (shown, ports), "{given}");
            assert_eq!(open.to_string().parse::<OpenPorts>().unwrap(), open);
            assert_eq!(open.is_none(), ports.is_empty());
        }
    }

    #[test]
    fn refusals_say_what_is_understood() {
        let every_other = |n: u16| (0..n).map(|i| (2000 + 2 * i).to_string()).collect::<Vec<_>>().join(",");
        assert!(every_other(512).parse::<OpenPorts>().is_ok());
        let why = every_other(513).parse::<OpenPorts>().unwrap_err().to_string();
        assert_eq!(why, "it has 513 ranges that do not touch; at most 512 are understood");
        for (given, words) in [
            (
                "All",
                "\"All\" is not a port or a range; write 31100 or 31000-31009; besides, all and none are understood",
            ),
            ("any", "besides, all and none are understood"),
            ("0-1024", "outside 1-65535"),
            ("80,,81", "empty item"),
            ("+80", "empty item"),
            ("all,", "empty item"),
            ("9-8", "write 8-9"),
            ("none,80", "none stands beside ports"),
            ("80+none", "none stands beside ports"),
            ("auto:2", "\"auto:2\" is not a port"),
        ] {
            let why = given.parse::<OpenPorts>().unwrap_err().to_string();
            assert!(why.contains(words), "{given}: {why}");
        }
    }
}
