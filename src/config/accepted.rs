//! Findings of `portslice doctor` that the operator knows and leaves as they are.
//!
//! What does not live here: the findings themselves (`doctor`).

use crate::refusal::unknown;
use serde::Serialize;
use std::str::FromStr;

/// A finding of `portslice doctor` that may be as the operator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceptable {
    /// The host's firewall does not see the traffic of containers.
    Firewall,
    /// Containers may not reach the resolver of the host's resolv.conf.
    Resolver,
    /// The uplink has more addresses than containers carry.
    Addresses,
    /// A rule of IPv6 that does not count for containers.
    Rules,
}

impl FromStr for Acceptable {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Acceptable::Firewall, Acceptable::Resolver, Acceptable::Addresses, Acceptable::Rules];
        let found = all.into_iter().find(|finding| finding.name() == text);
        found.ok_or_else(|| unknown("finding", text, &all.map(Acceptable::name)))
    }
}

impl Acceptable {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Acceptable::Firewall => "firewall",
            Acceptable::Resolver => "resolver",
            Acceptable::Addresses => "addresses",
            Acceptable::Rules => "rules",
        }
    }
}
