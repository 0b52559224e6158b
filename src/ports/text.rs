//! How ranges and sets of ports are written and read: "31000-31009,31100", in files, JSON and on the command line.
//!
//! What does not live here: what a set can do (`set`).

use super::set::{PortRange, PortSet};
use crate::refusal::{from_text, quoted};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Why a text is not a port, a range or a set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Two commas without anything between them, or one at an end.
    #[error("there is an empty item; write ports and ranges separated by single commas, such as 31000-31009,31100")]
    EmptyItem,
    /// Not a decimal number.
    #[error("{} is not a port or a range; write 31100 or 31000-31009", quoted(.0))]
    NotANumber(String),
    /// Zero, or more than 16 bits.
    #[error("{} is outside 1-65535", quoted(.0))]
    OutOfRange(String),
    /// The end stands before the begin.
    #[error("{begin}-{end} is reversed; write {end}-{begin}")]
    Reversed {
        /// The first number.
        begin: u16,
        /// The second, smaller one.
        end: u16,
    },
}

impl FromStr for PortRange {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let text = text.trim();
        let (begin, end) = match text.split_once('-') {
            _ if text.is_empty() => return Err(PortError::EmptyItem),
            Some((begin, end)) => (port(begin.trim(), text)?, port(end.trim(), text)?),
            None => port(text, text).map(|port| (port, port))?,
        };
        PortRange::new(begin, end).ok_or(PortError::Reversed { begin, end })
    }
}

impl FromStr for PortSet {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        if text.trim().is_empty() {
            return Ok(PortSet::empty());
        }
        text.split(',').map(str::parse).collect()
    }
}

impl PortSet {
    /// Of a list as the kernel reads and writes it (`ip_local_reserved_ports`), to which 0 is a port as well.
    pub fn of_kernel(list: &str) -> Result<Self, PortError> {
        let ports = |item: &str| match item.trim().split_once('-') {
            Some(("0", end)) => format!("1-{end}"),
            _ => item.to_owned(),
        };
        let none = |item: &str| ["", "0", "0-0"].contains(&item);
        list.split(',').map(str::trim).filter(|item| !none(item)).map(|item| ports(item).parse()).collect()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.begin() == self.end() {
            write!(f, "{}", self.begin())
        } else {
            write!(f, "{}-{}", self.begin(), self.end())
        }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{range}")?;
        }
        Ok(())
    }
}

impl Serialize for PortSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a port set such as \"31000-31009,31100\"")
    }
}

/// One port; `item` is the whole item, which is what the message shows.
fn port(digits: &str, item: &str) -> Result<u16, PortError> {
    // `u16::from_str` would take a plus sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PortError::NotANumber(item.to_string()));
    }
    digits.parse().ok().filter(|&port| port != 0).ok_or_else(|| PortError::OutOfRange(item.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> PortSet {
        text.parse().unwrap()
    }

    #[test]
    fn one_spelling() {
        for (given, canonical) in [
            ("31000-31009,31100", "31000-31009,31100"),
            (" 31100 , 31000 - 31009 ", "31000-31009,31100"),
            ("5,4,3,1", "1,3-5"),
            ("1-65535,80", "1-65535"),
            ("7-7", "7"),
            (" ", ""),
        ] {
            assert_eq!(set(given).to_string(), canonical);
        }
    }

    #[test]
    fn refusals_name_the_item() {
        for (given, message) in [
            ("80,,81", "empty item"),
            ("80,", "empty item"),
            ("0", "\"0\" is outside 1-65535"),
            ("0-5", "\"0-5\" is outside"),
            ("65536", "\"65536\" is outside"),
            ("99999999999999999999", "is outside"),
            ("9-8", "9-8 is reversed; write 8-9"),
            ("-5", "\"-5\" is not a port"),
            ("5-", "\"5-\" is not"),
            ("1-2-3", "\"1-2-3\" is not"),
            ("+5", "\"+5\" is not"),
            ("http\u{1b}", "\"http\\u{1b}\" is not"),
        ] {
            let error = given.parse::<PortSet>().unwrap_err().to_string();
            assert!(error.contains(message), "{given}: {error}");
        }
    }
}
