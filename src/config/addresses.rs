//! Which of the host's addresses containers carry.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::refusal::{from_text, quoted};

/// What is to be written.
const EXPECTED: &str = "\"all\", \"uplink\", or addresses such as \"10.0.0.5,2001:db8::5\"";

/// Which of the host's addresses containers carry. Those that they do not are still destinations: the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// The global addresses of all devices.
    #[default]
    All,
    /// Those of the uplink alone.
    Uplink,
    /// These, as far as the host has them.
    These(Vec<IpAddr>),
}

impl Addresses {
    /// Is an address carried? `uplink`: it is one of the uplink's.
    pub fn has(&self, ip: IpAddr, uplink: bool) -> bool {
        match self {
            Addresses::All => true,
            Addresses::Uplink => uplink,
            Addresses::These(these) => these.contains(&ip),
        }
    }
}

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => return Ok(Addresses::All),
            "uplink" => return Ok(Addresses::Uplink),
            _ => {}
        }
        let these = text.split(',').map(|word| word.trim().parse().ok()).collect::<Option<_>>();
        these.map(Addresses::These).ok_or_else(|| format!("{} is not {EXPECTED}", quoted(text)))
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addresses::All => f.write_str("all"),
            Addresses::Uplink => f.write_str("uplink"),
            Addresses::These(these) => {
                f.write_str(&these.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, EXPECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_the_uplinks_or_some() {
        for text in ["all", "uplink", "10.0.0.5,2001:db8::5"] {
            assert_eq!(text.parse::<Addresses>().unwrap().to_string(), text);
        }
        let some: Addresses = "10.0.0.5, 2001:DB8::5".parse().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(some.has(ip("2001:db8::5"), false) && !some.has(ip("10.0.0.6"), true));
        assert!(Addresses::Uplink.has(ip("10.0.0.6"), true) && !Addresses::Uplink.has(ip("10.0.0.6"), false));
        for text in ["", "eth0", "10.0.0.5,", "10.0.0.0/24"] {
            assert!(text.parse::<Addresses>().unwrap_err().contains("\"uplink\""), "{text}");
        }
    }
}
