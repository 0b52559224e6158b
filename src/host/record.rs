//! What was done to the host, so that it is done once and can be undone: `<state_dir>/host.json`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sysctl::Setting;
use crate::error::{Error, Result};
use crate::net::netns::NetnsId;

/// The record. Written before the first change and after the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    /// The boot in which this is true.
    pub boot: String,
    /// The namespace the programs are attached in.
    pub netns: Option<NetnsId>,
    /// Are programs loaded and attached?
    pub ready: bool,
    /// `steer::program::version` of them.
    pub version: String,
    /// `steer::maps::LAYOUT` of the maps.
    pub layout: u32,
    /// The uplink they are attached to.
    pub uplink: u32,
    /// Hooked through tcx; otherwise through clsact.
    pub tcx: bool,
    /// Devices (by index) that got their clsact from us.
    pub clsact: Vec<u32>,
    /// Did we mount the bpffs?
    pub mounted: bool,
    /// Settings under /proc/sys/net as they were before.
    pub before: Vec<Setting>,
}

impl HostRecord {
    /// The record in `state_dir`; an empty one when there is none, or none of this boot.
    pub fn read(state_dir: &Path, boot: &str) -> Result<Self> {
        let path = Self::path(state_dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::file("read", path)(e)),
        };
        let record: Self = serde_json::from_slice(&text).map_err(|e| {
            Error::Failed(format!("{} is damaged ({e}): reboot, or remove the state directory", path.display()))
        })?;
        Ok(if record.boot == boot { record } else { Self::default() })
    }

    /// As bytes for the file.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Where it is.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("host.json")
    }

    /// Remembers what a setting was, unless an earlier value is remembered already.
    pub fn remember(&mut self, key: &str, value: &str) {
        if !self.before.iter().any(|(k, _)| k == key) {
            self.before.push((key.to_owned(), value.to_owned()));
        }
    }
}
