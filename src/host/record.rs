//! What was done to the host, so that it is done once and can be undone: `<state_dir>/host.json`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Given;
use super::sysctl::Setting;
use crate::error::{Error, Result};
use crate::file;
use crate::format::{Known, RAISED};
use crate::net::netns::NetnsId;
use crate::net::qdisc::Leaf;
use crate::ports::PortSet;

/// Format of the record. Raised when an older program could not read a newer record correctly.
pub const FORMAT: u32 = 1 + RAISED;

/// The formats that are read. Fields that a format adds have defaults.
pub const FORMATS: Known = Known { oldest: 1, newest: FORMAT };

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reserved {
    /// What it was, as the kernel wrote it.
    pub before: String,
    /// What was added.
    pub added: PortSet,
    /// What a run was about to add that may have been killed before or after it did.
    pub adding: PortSet,
}

impl Reserved {
    /// Of what is reserved `now`, `ports` were added by us.
    pub fn of(now: &PortSet, ports: &PortSet) -> Self {
        let added = ports.intersection(now);
        Self { before: now.difference(&added).to_string(), added, adding: PortSet::empty() }
    }

    /// What of this still holds when `now` is reserved, and we need `wanted`.
    ///
    /// Whoever writes this setting writes all of it. So where some of ours that we need is missing, somebody has written
    /// what he needs himself, and nothing that stands is ours.
    pub fn recalled(&self, now: &PortSet, wanted: &PortSet) -> Self {
        if !self.added.intersection(wanted).is_subset(now) {
            return Self { before: now.to_string(), ..Self::default() };
        }
        let added = self.added.union(&self.adding).intersection(now);
        Self { before: self.before.clone(), added, adding: PortSet::empty() }
    }
}

/// The programs at the sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sockets {
    /// `steer::program::VERSION` of them; empty until they are attached.
    pub version: String,
    /// The cgroup that was configured; `None` for the root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// The id of that cgroup.
    pub id: u64,
    /// Why they are not there, one line, where the host does without.
    pub missing: Option<String>,
}

/// The record. Written before the first change and after the last one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    /// See [`FORMAT`]; as it was read, and what is written bears this version's.
    pub format: u32,
    /// The boot in which this is true.
    pub boot: String,
    /// 24 random bits that mark everything this installation makes; 0 before the first preparation.
    pub instance: u32,
    /// The state directory that this is the record of.
    pub state_dir: PathBuf,
    /// The namespace the programs are attached in.
    pub netns: Option<NetnsId>,
    /// Are programs loaded and attached?
    pub ready: bool,
    /// What containers are given of the host: the present one last, before it those that some slice still carries.
    pub given: Vec<Given>,
    /// Settings as a fresh namespace of this kernel has them, which nobody needs to be given.
    pub fresh: Vec<Setting>,
    /// Which preparation this is: nanoseconds since 1970.
    pub generation: u64,
    /// `steer::program::VERSION` of them.
    pub version: String,
    /// `steer::layout::LAYOUT` of the maps.
    pub layout: u32,
    /// The uplink they are attached to.
    pub uplink: u32,
    /// Have the uplink's frames no Ethernet header?
    pub frameless: bool,
    /// The devices beside it (by index) that have a filter of ours.
    pub sides: Vec<u32>,
    /// The uplink that takes in what is sent to any group because of us; 0 where it did so before.
    pub allmulti: u32,
    /// The device that the host's routes are asked from; 0 where that is not needed.
    pub fib: u32,
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
    /// The mount namespace in which it is mounted.
    pub mount_namespace: Option<NetnsId>,
    /// Settings under /proc/sys/net as they were before, and as we left them.
    pub changed: Vec<Changed>,
    /// `ip_local_reserved_ports` as it was, and what we added to it.
    pub reserved: Option<Reserved>,
    /// The programs at the sockets; `None` where bind() is not judged.
    pub sockets: Option<Sockets>,
}

/// Most bytes of [`HostRecord::given`]: the kernel's copy of the record has room for 62 KB.
const GIVEN_BYTES: usize = 32 * 1024;

impl HostRecord {
    /// The record in `state_dir`; an empty one when there is none, or none of this boot.
    pub fn read(state_dir: &Path, boot: &str) -> Result<Self> {
        let path = Self::path(state_dir);
        let text = match file::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(Error::file("read", path)(e)),
        };
        let damaged = |why: &str| {
            let path = path.display();
            Error::Failed(format!("{path} is damaged ({why}): run `portslice fsck --rebuild`, which restores it"))
        };
        let about: About = serde_json::from_slice(&text).map_err(|e| damaged(&e.to_string()))?;
        // Every record names its boot: one that does not was not written by us, and tells nothing of what is there.
        if about.boot.is_empty() {
            return Err(damaged("it names no boot"));
        }
        if about.boot != boot {
            return Ok(Self::default());
        }
        FORMATS.check(about.format, &path.display().to_string())?;
        serde_json::from_slice(&text).map_err(|e| damaged(&e.to_string()))
    }

    /// Makes it the record of the installation in `state_dir`, which serves the namespace `netns` in this `boot`.
    pub fn begin(&mut self, boot: &str, netns: NetnsId, state_dir: &Path) -> Result<()> {
        if self.instance == 0 {
            self.instance = new_instance()?;
        }
        (self.boot, self.netns, self.state_dir) = (boot.to_owned(), Some(netns), state_dir.to_path_buf());
        Ok(())
    }

    /// As bytes for the file, in this version's format.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&Self { format: FORMAT, ..self.clone() }).unwrap_or_default()
    }

    /// Is what stands in a book the host record of this installation? Of any format: whose it is, every one tells.
    pub fn is_mine(&self, record: &[u8]) -> bool {
        serde_json::from_slice::<About>(record)
            .is_ok_and(|theirs| theirs.instance != 0 && theirs.instance == self.instance)
    }

    /// What containers are given now.
    pub fn given(&self) -> Given {
        self.given.last().cloned().unwrap_or_default()
    }

    /// Makes `given` what containers are given from now on. Returns whether it differs from what they were given before.
    pub fn give(&mut self, given: Given) -> bool {
        let last = self.given.last();
        if last.is_some_and(|last| last.same(&given)) {
            return false;
        }
        let generation = last.map_or(0, |last| last.generation).wrapping_add(1).max(1);
        self.given.push(Given { generation, ..given });
        // A host that changes on and on while slices are worked on: what is too much is looked up in the namespaces again.
        let bytes = |given: &[Given]| serde_json::to_vec(given).map_or(0, |bytes| bytes.len());
        while self.given.len() > 1 && bytes(&self.given) > GIVEN_BYTES {
            self.given.remove(0);
        }
        true
    }

    /// Where it is.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("host.json")
    }

    /// Remembers what a setting was, unless an earlier value is remembered already.
    pub fn remember(&mut self, key: &str, before: &str, now: &str) {
        if !self.changed.iter().any(|c| c.key == key) {
            self.changed.push(Changed { key: key.into(), before: before.into(), now: now.into() });
        }
    }
}

/// What every format of the record has.
#[derive(Deserialize)]
struct About {
    #[serde(default)]
    format: Option<u32>,
    #[serde(default)]
    boot: String,
    #[serde(default)]
    instance: u32,
}

/// A new mark: 24 random bits, not 0.
fn new_instance() -> Result<u32> {
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0; 3];
    let mut source = File::open(SOURCE).map_err(Error::file("open", SOURCE))?;
    loop {
        source.read_exact(&mut bytes).map_err(Error::file("read", SOURCE))?;
        let [a, b, c] = bytes;
        match u32::from_be_bytes([0, a, b, c]) {
            0 => {}
            instance => return Ok(instance),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortSet {
        if text.is_empty() { PortSet::empty() } else { text.parse().unwrap() }
    }

    #[test]
    fn what_was_reserved_is_told_from_what_others_reserved() {
        // what was added, what a killed run was adding, what is reserved now, what is needed: what is ours
        for (added, adding, now, wanted, ours) in [
            ("100-199", "", "50,100-199", "100-199", "100-199"),
            ("100-199", "", "50,100-199,300", "100-299", "100-199"),
            // killed before and after the write
            ("100-199", "200-299", "100-199", "100-299", "100-199"),
            ("100-199", "200-299", "100-299", "100-299", "100-299"),
            ("", "100-199", "", "100-199", ""),
            // a run that narrows was killed after the write
            ("100-199", "", "100-149", "100-149", "100-149"),
            // somebody has written all of it anew
            ("100-199", "", "150-160", "100-199", ""),
            ("100-199", "", "", "100-199", ""),
            // on the way back nothing is needed
            ("100-199", "", "150-160,300", "", "150-160"),
        ] {
            let reserved = Reserved { before: "50".into(), added: ports(added), adding: ports(adding) };
            let recalled = reserved.recalled(&ports(now), &ports(wanted));
            assert_eq!(recalled.added, ports(ours), "{added} + {adding}, now {now}, wanted {wanted}");
            assert!(recalled.adding.is_empty());
        }
        let of_a_file = Reserved::of(&ports("20,100-149"), &ports("100-199"));
        assert_eq!((of_a_file.before.as_str(), of_a_file.added), ("20", ports("100-149")));
    }
}
