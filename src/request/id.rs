//! The name of a container, checked before anything else is done with it.
//!
//! What does not live here: where an id comes from (`face`) and what is kept under it (`lease`).

use crate::error::{Error, Result};
use crate::refusal::{from_text, quoted};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name of a container: 1..=255 bytes of `[A-Za-z0-9_.:-]`, not `.` or `..`; safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ContainerId(String);

impl ContainerId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(allowed) && text != "." && text != ".." {
            return Ok(ContainerId(text.to_string()));
        }
        let why = "an id is 1 to 255 characters out of A-Z a-z 0-9 _ . : - and neither . nor ..";
        Err(Error::invalid(format!("container id {}", quoted(text)), why))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a container id")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_file_names() {
        for good in ["a", "web-1", "3f2a:b_c.d", "...", &"x".repeat(255)] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "../etc", "a b", "a\n", "ä", "a\0", &"x".repeat(256)] {
            let error = bad.parse::<ContainerId>().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(serde_json::from_str::<ContainerId>("\"../x\"").is_err());
    }
}
