//! Profiles: what containers ask for that cannot say so themselves, such as those that are given a CDI device.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Config, Disagreement};
use crate::error::{Error, Result};
use crate::refusal::{quoted, unknown};
use crate::request::{ContainerId, Request};

/// The profile that is meant where none is named. It may be absent, and then asks for nothing.
pub const DEFAULT_PROFILE: &str = "default";

/// Keys of annotations with their values, each of which is valid, and all of them together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Profile(BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for Profile {
    type Error = Error;

    fn try_from(keys: BTreeMap<String, String>) -> Result<Self> {
        let profile = Profile(keys);
        let id: ContainerId = "any".parse()?;
        let mut request = Request::new(id);
        for (key, value) in &profile.0 {
            request.set(key, value, &format!("profile key {}", quoted(key)))?;
        }
        Ok(profile)
    }
}

impl Profile {
    /// Its keys and their values.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl Config {
    /// The profile of this name.
    pub fn profile(&self, name: &str) -> Result<Profile> {
        match self.profile.get(name) {
            Some(profile) => Ok(profile.clone()),
            None if name == DEFAULT_PROFILE => Ok(Profile::default()),
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

    /// A profile is the name of a CDI device: letters and digits, between them also `_`, `-`, `.` and `:`.
    pub(super) fn profiles_agree(&self) -> Result<(), Disagreement> {
        let end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
        let good = |name: &str| {
            let bytes = name.as_bytes();
            end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner) && bytes.len() <= 64
        };
        match self.profile.keys().find(|name| !good(name)) {
            Some(name) => Err((
                vec!["profile".to_owned()],
                format!(
                    "{} is no name of a profile; write up to 64 letters and digits, with _ - . : between them",
                    quoted(name)
                ),
            )),
            None => Ok(()),
        }
    }
}
