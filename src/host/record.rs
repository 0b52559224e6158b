//! What was done to the host, so that it is done once and can be undone: `<state_dir>/host.json`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sysctl::Setting;
use crate::error::{Error, Result};
use crate::net::netns::NetnsId;
use crate::net::qdisc::Leaf;
use crate::ports::PortSet;

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Below /proc/sys/net.
    pub key: String,
    /// What it was.
    pub before: String,
    /// What we made it; somebody else's later value is not ours to undo.
    pub now: String,
}

/// Ports added to `ip_local_reserved_ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// What it was, as the kernel wrote it.
    pub before: String,
    /// What was added.
    pub added: PortSet,
}

/// The record. Written before the first change and after the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    /// The boot in which this is true.
    pub boot: String,
    /// The namespace the programs are attached in.
    pub netns: Option<NetnsId>,
    /// Which installation this is: 24 random bits, never 0 once the host was prepared. The Ethernet addresses of our
    /// devices carry them.
    pub instance: u32,
    /// Are programs loaded and attached?
    pub ready: bool,
    /// Settings of the host that differ from what a fresh namespace has: containers get them.
    pub copied: Vec<Setting>,
    /// Which preparation this is: nanoseconds since 1970.
    pub generation: u64,
    /// `steer::program::VERSION` of them.
    pub version: String,
    /// `steer::maps::LAYOUT` of the maps.
    pub layout: u32,
    /// The uplink they are attached to.
    pub uplink: u32,
    /// Hooked through tcx; otherwise through clsact.
    pub tcx: bool,
    /// Devices (by index) that got their clsact from us.
    pub clsact: Vec<u32>,
    /// What packets wait in behind a limit; `None`: this kernel has no limits (HTB).
    pub leaf: Option<Leaf>,
    /// The device whose qdisc shapes what containers send; 0 until the first one is limited.
    pub shaper: u32,
    /// The uplink whose root qdisc we replaced by one with a flow for each container; 0 for none.
    pub fair: u32,
    /// Did we mount the bpffs?
    pub mounted: bool,
    /// Settings under /proc/sys/net as they were before, and as we left them.
    pub changed: Vec<Changed>,
    /// `ip_local_reserved_ports` as it was, and what we added to it.
    pub reserved: Option<Reserved>,
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

    /// Gives the installation its number, once.
    pub fn identify(&mut self) -> Result<()> {
        const SOURCE: &str = "/dev/urandom";
        while self.instance == 0 {
            let mut random = [0; 4];
            File::open(SOURCE).and_then(|mut f| f.read_exact(&mut random[1..])).map_err(Error::file("read", SOURCE))?;
            self.instance = u32::from_be_bytes(random);
        }
        Ok(())
    }

    /// Remembers what a setting was, unless an earlier value is remembered already.
    pub fn remember(&mut self, key: &str, before: &str, now: &str) {
        if !self.changed.iter().any(|c| c.key == key) {
            self.changed.push(Changed { key: key.into(), before: before.into(), now: now.into() });
        }
    }
}
