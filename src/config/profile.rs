//! Profiles: what containers ask for that cannot say so themselves, such as those that are given a CDI device.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, DEFAULT_FILE, Disagreement};
use crate::error::{Error, Result};
use crate::refusal::{one_line, quoted, unknown};
use crate::request::{ContainerId, Request};

/// Keys of annotations with their values.
pub type Profile = BTreeMap<String, String>;

/// The profile that is meant where none is named. It may be absent, and then asks for nothing.
pub const DEFAULT_PROFILE: &str = "default";

impl Config {
    /// The profile of this name.
    pub fn profile(&self, name: &str) -> Result<Profile> {
        match self.profile.get(name) {
            Some(profile) => Ok(profile.clone()),
            None if name == DEFAULT_PROFILE => Ok(Profile::new()),
            None => {
                let known: Vec<&str> = self.profiles().collect();
                Err(Error::invalid(format!("profile {}", quoted(name)), unknown("profile", name, &known)))
            }
        }
    }

    /// The names of all profiles, that of the one which is meant where none is named first.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        let named = self.profile.keys().map(String::as_str).filter(|name| *name != DEFAULT_PROFILE);
        std::iter::once(DEFAULT_PROFILE).chain(named)
    }

    /// Refuses a profile with a key or a value that no container may ask for. The command line looks before it does anything
    /// else. Hooks do not: the one that takes a container out of its slice needs no profile, and would have to carry all
    /// that reads them; the other one reads the profile that it is given.
    pub fn check_profiles(&self) -> Result<()> {
        let id: ContainerId = "any".parse()?;
        let file = self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).to_string_lossy();
        for (name, profile) in &self.profile {
            let mut request = Request::new(id.clone());
            for (key, value) in profile {
                request.set(key, value, &format!("{} key profile.{name}.{}", one_line(&file), one_line(key)))?;
            }
        }
        Ok(())
    }

    /// A profile is the name of a CDI device: letters and digits, between them also `_`, `-`, `.` and `:`.
    pub(super) fn profiles_agree(&self) -> Result<(), Disagreement> {
        let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
        let good = |name: &str| {
            let bytes = name.as_bytes();
            end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner) && bytes.len() <= 64
        };
        let Some(name) = self.profile.keys().find(|name| !good(name)) else { return Ok(()) };
        let rule = "write up to 64 letters and digits, with _ - . : between them";
        Err((vec!["profile".to_owned()], format!("{} is no name of a profile; {rule}", quoted(name))))
    }
}
