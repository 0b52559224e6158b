//! The ports a container asks to listen on: named ones, and a number of the host's choice.
//!
//! What does not live here: which ports `auto:` finds (`lease::pool`).

use crate::ports::{PortError, PortNames, PortNamesError, PortRange, PortSet};
use crate::refusal::quoted;
use std::fmt;
use std::str::FromStr;

/// The text that asks for no port, beside the empty one.
pub const NONE: &str = "none";

/// Ports to listen on, such as `31000-31009,auto:2`, or `31000:80` for one that programs inside know as 80. A `+` between items is a comma, since Podman 4 cuts the values of its
/// `--annotation`, and every version the options of a network, at commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortsAsked {
    /// These.
    pub set: PortSet,
    /// And that many of the host's choice.
    pub auto: u16,
    /// What programs inside know some of `set` as.
    pub names: PortNames,
}

/// Why a text does not say which ports are asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsAskedError {
    /// The part that names ports is wrong.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A name is wrong.
    #[error(transparent)]
    Name(#[from] PortNamesError),
    /// Not a count.
    #[error("{} does not say how many; write auto:1 to auto:65535", quoted(.0))]
    Count(String),
    /// More than one count.
    #[error("auto: is given twice; write one with the sum")]
    Twice,
}

impl PortsAsked {
    /// Whether it asks for no port at all.
    pub fn is_empty(&self) -> bool {
        self.auto == 0 && self.set.is_empty()
    }
}

impl FromStr for PortsAsked {
    type Err = PortsAskedError;

    fn from_str(text: &str) -> Result<Self, PortsAskedError> {
        let mut auto = None;
        let (mut ranges, mut names): (Vec<PortRange>, PortNames) = Default::default();
        let items = (!["", NONE].contains(&text.trim())).then(|| text.split([',', '+']).map(str::trim));
        for item in items.into_iter().flatten() {
            match item.strip_prefix("auto:") {
                Some(_) if auto.is_some() => return Err(PortsAskedError::Twice),
                Some(count) => auto = Some(count_of(count).ok_or_else(|| PortsAskedError::Count(item.to_string()))?),
                None if item.contains(':') => ranges.push(names.read(item)?),
                None => ranges.push(item.parse()?),
            }
        }
        Ok(PortsAsked { set: ranges.into_iter().collect(), auto: auto.unwrap_or(0), names: names.checked()? })
    }
}

impl fmt::Display for PortsAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = if self.set.is_empty() { "" } else { "," };
        f.write_str(&self.names.beside(&self.set))?;
        if self.auto == 0 { Ok(()) } else { write!(f, "{comma}auto:{}", self.auto) }
    }
}

fn count_of(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&count| plain && count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_mix_named_and_chosen() {
        for (text, shown) in [
            ("31000-31009,31100", "31000-31009,31100"),
            ("auto:3", "auto:3"),
            (" auto:2 , 31100", "31100,auto:2"),
            ("31000-31009+31100", "31000-31009,31100"),
            ("auto:2 + 31100,31200", "31100,31200,auto:2"),
            ("31100 + 31000-31001:80-81/tcp,auto:1", "31000-31001:80-81/tcp,31100,auto:1"),
            ("31000,31000:80", "31000:80"),
            ("31000:31000", "31000"),
            ("", ""),
            ("none", ""),
        ] {
            assert_eq!(text.parse::<PortsAsked>().unwrap().to_string(), shown);
        }
        for bad in [
            "auto:0",
            "auto:",
            "auto:-1",
            "auto:+1",
            "auto:65536",
            "auto:1,auto:1",
            "auto",
            "1,",
            "none,1",
            "31000,,1",
            "+1",
            "1+",
            "1++2",
            "31000:80,31001:80",
            "31000:80/sctp",
            "31000-31001:80",
            "auto:1:80",
        ] {
            assert!(bad.parse::<PortsAsked>().is_err(), "{bad}");
        }
    }
}
