//! Profiles: what containers ask for that cannot say so themselves, such as those that are given a CDI device.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, DEFAULT_FILE, Key, Misread, Value, entries};
use crate::error::{Error, Result};
use crate::refusal::{one_line, quoted, unknown};
use crate::request::{ContainerId, Request};

/// Keys of annotations with their values.
pub type Profile = BTreeMap<String, String>;

/// The profile that is meant where none is named. It may be absent, and then asks for nothing.
pub const DEFAULT_PROFILE: &str = "default";

/// Reads `[profile.NAME]`, all of them: texts under keys.
pub(super) fn read(key: &Key<'_>, value: &Value<'_>) -> std::result::Result<BTreeMap<String, Profile>, Misread> {
    let mut profiles = BTreeMap::new();
    for (name, table) in entries(key, value)? {
        let mut profile = Profile::new();
        for (asked, text) in entries(name, table)? {
            let text =
                text.get_ref().as_str().ok_or_else(|| Misread::of(asked, "it is a string: write it in quotes"))?;
            profile.insert(asked.get_ref().to_string(), text.to_owned());
        }
        profiles.insert(name.get_ref().to_string(), profile);
    }
    Ok(profiles)
}

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
            if !is_name(name) {
                let rule = "write up to 64 letters and digits, with _ - . : between them";
                let why = format!("{} is no name of a profile; {rule}", quoted(name));
                return Err(Error::invalid(format!("{} key profile", one_line(&file)), why));
            }
            let mut request = Request::new(id.clone());
            for (key, value) in profile {
                request.set(key, value, &format!("{} key profile.{name}.{}", one_line(&file), one_line(key)))?;
            }
        }
        Ok(())
    }
}

/// Is it the name of a CDI device? Letters and digits, between them also `_`, `-`, `.` and `:`.
fn is_name(name: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
    let bytes = name.as_bytes();
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner) && bytes.len() <= 64
}
