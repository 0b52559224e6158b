//! The name of a host, as it may stand in the `Host` of an HTTP request.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::refusal::quoted;

/// A host's name or address, without a port and in lower case; `*` stands for every host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The longest that DNS has (RFC 1035, 2.3.4).
    const LONGEST: usize = 253;

    /// Whether `host`, in lower case and without a port, is meant.
    pub fn is(&self, host: &str) -> bool {
        self.0 == "*" || self.0 == host
    }
}

impl FromStr for HostName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = !text.is_empty()
            && text.len() <= Self::LONGEST
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(HostName(address.to_string()));
        }
        if is_name || text == "*" {
            return Ok(HostName(text.trim_end_matches('.').to_ascii_lowercase()));
        }
        Err(format!("{} is no host's name; write one without a port, such as metrics.example.org", quoted(text)))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_port_and_no_case() {
        for (text, name) in [
            ("Node1.Example.org", "node1.example.org"),
            ("node1.", "node1"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::0:1", "2001:db8::1"),
            ("*", "*"),
        ] {
            assert_eq!(text.parse::<HostName>().unwrap().to_string(), name);
        }
        for text in ["", "node1:5051", "http://node1", "[::1]", "a b", "*.example.org", "n\u{7}", &"x".repeat(254)] {
            let why = text.parse::<HostName>().unwrap_err();
            assert!(why.contains("metrics.example.org") && !why.contains('\u{7}'), "{why}");
        }
    }
}
