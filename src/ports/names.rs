//! Port names: the number that programs in a container know for a port that is another one outside, `31000:80`.
//!
//! What does not live here: how a program comes to see the name (`steer`), and whether a container may have the port (`plan`).

use super::set::{PortRange, PortSet};
use super::text::PortError;
use crate::refusal::{from_text, quoted};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Whose ports a name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameProtocol {
    /// TCP and UDP.
    Both,
    /// TCP alone.
    Tcp,
    /// UDP alone.
    Udp,
}

/// The port names of a container. In text items such as `31000:80`, outside:inside, or `31000-31009:8000-8009`; with `/tcp` or `/udp`
/// behind for one protocol alone. A port whose name is its own number has none.
///
/// Within a protocol every outside port has one name, and no two have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortNames {
    tcp: Names,
    udp: Names,
}

/// The names of one protocol, by port and by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    names: BTreeMap<u16, u16>,
    ports: BTreeMap<u16, u16>,
}

/// Why names cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortNamesError {
    /// A port or a range is wrong.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Not `outside:inside`.
    #[error("{} is not a port name; write 31000:80 or 31000-31009:8000-8009", quoted(.0))]
    NotAName(String),
    /// Neither TCP nor UDP.
    #[error("{} is neither tcp nor udp; names are for these", quoted(.0))]
    Protocol(String),
    /// As many ports as numbers are needed.
    #[error("{0}:{1} gives {outside} ports {inside} names; write ranges of the same length", outside = .0.len(), inside = .1.len())]
    Lengths(PortRange, PortRange),
    /// One outside port, two names.
    #[error("port {outside} is named {first} and {second}; give it one name")]
    Twice {
        /// The port.
        outside: u16,
        /// One name.
        first: u16,
        /// The other.
        second: u16,
    },
    /// One name, two outside ports.
    #[error(
        "ports {first} and {second} are both named {inside}, but bind() of {inside} takes one of them; give it to one"
    )]
    Shared {
        /// The name.
        inside: u16,
        /// One port.
        first: u16,
        /// The other.
        second: u16,
    },
    /// More ranges than a lease has room for.
    #[error("the names form {0} ranges; at most {most} are understood", most = PortNames::RANGES)]
    Scattered(usize),
}

/// Names in a row: outside ports from the first on, inside numbers from the second.
struct Row {
    outside: u16,
    inside: u16,
    length: u16,
    protocol: NameProtocol,
}

impl PortNames {
    /// The most ranges: the kernel's copy of a lease has room for some 4000, and a lease has more in it.
    const RANGES: usize = 512;

    /// Has no port a name?
    pub fn is_empty(&self) -> bool {
        self.tcp.names.is_empty() && self.udp.names.is_empty()
    }

    /// Names the ports of `outside` from `inside` on.
    pub fn add(&mut self, outside: PortRange, inside: PortRange, protocol: NameProtocol) -> Result<(), PortNamesError> {
        if outside.len() != inside.len() {
            return Err(PortNamesError::Lengths(outside, inside));
        }
        for (outside, inside) in (outside.begin()..=outside.end()).zip(inside.begin()..=inside.end()) {
            if protocol != NameProtocol::Udp {
                self.tcp.add(outside, inside)?;
            }
            if protocol != NameProtocol::Tcp {
                self.udp.add(outside, inside)?;
            }
        }
        Ok(())
    }

    /// Those of both.
    pub fn union(&self, other: &Self) -> Result<Self, PortNamesError> {
        let mut all = self.clone();
        for (mine, theirs) in [(&mut all.tcp, &other.tcp), (&mut all.udp, &other.udp)] {
            theirs.names.iter().try_for_each(|(outside, inside)| mine.add(*outside, *inside))?;
        }
        all.checked()
    }

    /// The names of ports that are not among `ports`.
    pub fn without(&self, ports: &PortSet) -> Self {
        let left = |all: &Names| {
            let stays = |(outside, _): &(&u16, &u16)| !ports.contains(**outside);
            let names: BTreeMap<u16, u16> = all.names.iter().filter(stays).map(|(o, i)| (*o, *i)).collect();
            Names { ports: names.iter().map(|(outside, inside)| (*inside, *outside)).collect(), names }
        };
        PortNames { tcp: left(&self.tcp), udp: left(&self.udp) }
    }

    /// The ports that have a name.
    pub fn outside(&self) -> PortSet {
        self.tcp.names.keys().chain(self.udp.names.keys()).filter_map(|port| PortRange::new(*port, *port)).collect()
    }

    /// The names.
    pub fn inside(&self) -> PortSet {
        self.tcp.ports.keys().chain(self.udp.ports.keys()).filter_map(|port| PortRange::new(*port, *port)).collect()
    }

    /// The ports of one protocol with their names.
    pub fn of(&self, udp: bool) -> impl Iterator<Item = (u16, u16)> {
        self.half(udp).names.iter().map(|(outside, inside)| (*outside, *inside))
    }

    /// The name of a port of one protocol.
    pub fn name(&self, outside: u16, udp: bool) -> Option<u16> {
        self.half(udp).names.get(&outside).copied()
    }

    /// The names of a container that has `ports`, with those of its ports that have none: `31000:80,31001-31009`.
    pub fn beside(&self, ports: &PortSet) -> String {
        let plain = ports.difference(&self.outside());
        let parts = [self.to_string(), plain.to_string()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",")
    }

    /// Are all names of this one among those of `other`?
    pub fn is_subset(&self, other: &Self) -> bool {
        let among = |mine: &Names, theirs: &Names| {
            mine.names.iter().all(|(outside, inside)| theirs.names.get(outside) == Some(inside))
        };
        among(&self.tcp, &other.tcp) && among(&self.udp, &other.udp)
    }

    /// Reads one item, `31000:80`, into the names; returns its outside ports.
    pub fn read(&mut self, item: &str) -> Result<PortRange, PortNamesError> {
        let (ranges, protocol) = match item.split_once('/') {
            None => (item, NameProtocol::Both),
            Some((ranges, "tcp")) => (ranges, NameProtocol::Tcp),
            Some((ranges, "udp")) => (ranges, NameProtocol::Udp),
            Some((_, other)) => return Err(PortNamesError::Protocol(other.to_owned())),
        };
        let (outside, inside) = ranges.split_once(':').ok_or_else(|| PortNamesError::NotAName(item.to_owned()))?;
        let (outside, inside) = match (outside.parse(), inside.parse()) {
            (Ok(outside), Ok(inside)) => (outside, inside),
            (Err(PortError::OutOfRange(n)), _) | (_, Err(PortError::OutOfRange(n))) => {
                return Err(PortError::OutOfRange(n).into());
            }
            (Err(e @ PortError::Reversed { .. }), _) | (_, Err(e @ PortError::Reversed { .. })) => return Err(e.into()),
            _ => return Err(PortNamesError::NotAName(item.to_owned())),
        };
        self.add(outside, inside, protocol)?;
        Ok(outside)
    }

    /// The same names, if a lease has room for them.
    pub fn checked(self) -> Result<Self, PortNamesError> {
        match self.rows().len() {
            many if many > Self::RANGES => Err(PortNamesError::Scattered(many)),
            _ => Ok(self),
        }
    }

    fn half(&self, udp: bool) -> &Names {
        if udp { &self.udp } else { &self.tcp }
    }

    fn rows(&self) -> Vec<Row> {
        let (tcp, udp) = (&self.tcp.names, &self.udp.names);
        let both = tcp.iter().filter(|(outside, inside)| udp.get(outside) == Some(inside));
        let of_tcp = tcp.iter().filter(|(outside, inside)| udp.get(outside) != Some(inside));
        let of_udp = udp.iter().filter(|(outside, inside)| tcp.get(outside) != Some(inside));
        let mut rows = in_rows(both, NameProtocol::Both);
        rows.extend(in_rows(of_tcp, NameProtocol::Tcp));
        rows.extend(in_rows(of_udp, NameProtocol::Udp));
        rows.sort_by_key(|row| row.outside);
        rows
    }
}

impl Names {
    fn add(&mut self, outside: u16, inside: u16) -> Result<(), PortNamesError> {
        if outside == inside {
            return Ok(());
        }
        if let Some(first) = self.names.get(&outside).filter(|first| **first != inside) {
            return Err(PortNamesError::Twice { outside, first: *first, second: inside });
        }
        if let Some(first) = self.ports.get(&inside).filter(|first| **first != outside) {
            return Err(PortNamesError::Shared { inside, first: *first, second: outside });
        }
        self.names.insert(outside, inside);
        self.ports.insert(inside, outside);
        Ok(())
    }
}

fn in_rows<'a>(names: impl Iterator<Item = (&'a u16, &'a u16)>, protocol: NameProtocol) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (&outside, &inside) in names {
        let follows = |row: &&mut Row| {
            let next = |begin: u16| begin.checked_add(row.length);
            next(row.outside) == Some(outside) && next(row.inside) == Some(inside)
        };
        match rows.last_mut().filter(follows) {
            Some(row) => row.length += 1,
            None => rows.push(Row { outside, inside, length: 1, protocol }),
        }
    }
    rows
}

impl FromStr for PortNames {
    type Err = PortNamesError;

    fn from_str(text: &str) -> Result<Self, PortNamesError> {
        let mut names = PortNames::default();
        if !text.trim().is_empty() {
            text.split(',').map(str::trim).try_for_each(|item| names.read(item).map(drop))?;
        }
        names.checked()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |begin: u16| match self.length {
            1 => begin.to_string(),
            length => format!("{begin}-{}", begin + (length - 1)),
        };
        let protocol = match self.protocol {
            NameProtocol::Both => "",
            NameProtocol::Tcp => "/tcp",
            NameProtocol::Udp => "/udp",
        };
        write!(f, "{}:{}{protocol}", range(self.outside), range(self.inside))
    }
}

impl fmt::Display for PortNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, row) in self.rows().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{row}")?;
        }
        Ok(())
    }
}

impl Serialize for PortNames {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "port names such as \"31000:80\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> PortNames {
        text.parse().unwrap()
    }

    #[test]
    fn names_have_one_spelling() {
        for (given, shown) in [
            ("31000:80", "31000:80"),
            ("31001:81, 31000:80", "31000-31001:80-81"),
            ("31000-31009:8000-8009", "31000-31009:8000-8009"),
            ("31000:80/tcp,31000:80/udp", "31000:80"),
            ("31000:80/tcp,31000:53/udp", "31000:80/tcp,31000:53/udp"),
            ("31053:53/udp,31000:80/tcp", "31000:80/tcp,31053:53/udp"),
            ("31000:80/tcp,31001:80/udp", "31000:80/tcp,31001:80/udp"),
            ("31000:31000", ""),
            ("65534-65535:1-2", "65534-65535:1-2"),
            ("31000:80,31000:80", "31000:80"),
            ("", ""),
        ] {
            assert_eq!(names(given).to_string(), shown, "{given}");
            assert_eq!(names(shown), names(given), "{given}");
        }
        assert_eq!(names("31000-31001:80-81").beside(&"31000-31005".parse().unwrap()), "31000-31001:80-81,31002-31005");
        assert_eq!(names("").beside(&"31000".parse().unwrap()), "31000");
    }

    #[test]
    fn names_that_cannot_be_are_refused_in_one_line() {
        for (given, words) in [
            ("31000", "\"31000\" is not a port name; write 31000:80 or"),
            ("31000:", "\"31000:\" is not a port name"),
            (":80", "\":80\" is not a port name"),
            ("31000:80:1", "\"31000:80:1\" is not a port name"),
            ("31000:a\u{1b}", "\"31000:a\\u{1b}\" is not"),
            ("31000:80/sctp", "\"sctp\" is neither tcp nor udp"),
            ("31000:0", "\"0\" is outside 1-65535"),
            ("70000:80", "\"70000\" is outside 1-65535"),
            ("31001-31000:80-81", "write 31000-31001"),
            ("31000-31009:80-81", "31000-31009:80-81 gives 10 ports 2 names; write ranges of the same length"),
            ("31000-31009:80", "gives 10 ports 1 names"),
            ("31000:80,31000:81", "port 31000 is named 80 and 81; give it one name"),
            ("31000:80,31001:80", "ports 31000 and 31001 are both named 80, but bind() of 80 takes one of them"),
            ("31000:80/tcp,31001:80", "ports 31000 and 31001 are both named 80"),
        ] {
            let why = given.parse::<PortNames>().unwrap_err().to_string();
            assert!(why.contains(words) && !why.contains('\n'), "{given}: {why}");
        }
        let scattered = (0..600).map(|i| format!("{}:{}", 31000 + 2 * i, 1 + i)).collect::<Vec<_>>().join(",");
        let why = scattered.parse::<PortNames>().unwrap_err().to_string();
        assert_eq!(why, "the names form 600 ranges; at most 512 are understood");
    }

    #[test]
    fn names_of_several_are_told_apart() {
        let all = names("31000:80").union(&names("31001:81,31000:80")).unwrap();
        assert_eq!(all, names("31000-31001:80-81"));
        assert!(names("31001:80").union(&all).is_err());
        assert!(names("31001:81/udp").is_subset(&all) && !names("31001:80/udp").is_subset(&all));
        assert_eq!((all.outside().to_string(), all.inside().to_string()), ("31000-31001".into(), "80-81".into()));
        assert_eq!(all.without(&"31000".parse().unwrap()), names("31001:81"));
        assert_eq!((all.name(31001, true), all.name(31002, false)), (Some(81), None));
    }
}
