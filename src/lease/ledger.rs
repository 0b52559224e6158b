//! The ledger: the durable, file-locked store of all leases.
//!
//! ```text
//! <state_dir>/lock          flock: held for a decision, never for the wiring
//! <state_dir>/leases/<id>   one lease as JSON: the truth
//! <state_dir>/finished      what was counted for leases that ended ([`super::journal`])
//! <state_dir>/index         slots, blocks and ports of all leases, and whose block rests: what a decision needs
//! ```
//!
//! A thousand leases are a third of a megabyte of JSON, and parsing that would be slower than the whole attach; the
//! index says the same in 40 bytes each. It is derived: when it is missing or damaged it is rebuilt from the leases.
//! Every file is written beside its place and renamed, so a reader and a killed writer never see half of one. There
//! is no fsync: kernel state dies at a reboot, and so must leases.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fs2::FileExt;

use super::index::{Entry, Index, Lines, Past};
use super::journal::Journal;
use super::record::Lease;
use crate::error::{Error, Result};
use crate::request::ContainerId;

/// What the names of half-written files begin with; the writer's process id follows.
const BESIDE: &str = "tmp-";

/// The ledger under the state directory.
#[derive(Clone, Debug)]
pub struct Ledger {
    directory: PathBuf,
}

/// The ledger while it is locked: nobody else decides.
pub struct Locked<'a> {
    ledger: &'a Ledger,
    _lock: File,
    /// What the decision is about. [`Self::grant`], [`Self::cancel`] and [`Self::release`] change it.
    pub index: Index,
    lines: Lines,
}

impl Ledger {
    /// The ledger in `state_dir`, which need not exist yet.
    pub fn at(state_dir: &Path) -> Self {
        Self { directory: state_dir.to_owned() }
    }

    /// Makes the directories, readable by root alone.
    pub fn create(&self) -> Result<()> {
        let leases = self.directory.join("leases");
        DirBuilder::new().recursive(true).mode(0o700).create(&leases).map_err(Error::file("create", &leases))
    }

    /// Waits for the lock and reads the index.
    pub fn lock(&self) -> Result<Locked<'_>> {
        let lock = self.flock()?;
        let (index, lines) = match fs::read_to_string(self.path("index")) {
            Ok(text) => match Index::parse(&text) {
                Some(parsed) => parsed,
                None => {
                    log::warn!("{} is damaged: rebuilding it from the leases", self.path("index").display());
                    self.rebuild()?
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.rebuild()?,
            Err(e) => return Err(Error::file("read", self.path("index"))(e)),
        };
        Ok(Locked { ledger: self, _lock: lock, index, lines })
    }

    /// Waits for the lock alone: for work that must happen once on the host.
    pub fn flock(&self) -> Result<File> {
        let path = self.path("lock");
        loop {
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(Error::file("open", &path))?;
            FileExt::lock_exclusive(&lock).map_err(Error::file("lock", &path))?;
            // `setup --undo` removes the file: the lock of one that is gone keeps nobody out
            let held = lock.metadata().map_err(Error::file("inspect", &path))?.ino();
            if fs::metadata(&path).is_ok_and(|there| there.ino() == held) {
                return Ok(lock);
            }
        }
    }

    /// A container's lease; `None` when it has none.
    pub fn read(&self, id: &ContainerId) -> Result<Option<Lease>> {
        let path = self.lease_path(id.as_str());
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::file("read", path)(e)),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::Failed(format!("the lease {} is damaged ({e}): remove it", path.display())))
    }

    /// All leases, by slot. A damaged one is left out and logged.
    pub fn all(&self) -> Result<Vec<Lease>> {
        let path = self.directory.join("leases");
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file("list", path)(e)),
        };
        let mut leases = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::file("list", &path))?.file_name();
            let Some(id) = name.to_str().and_then(|n| n.parse::<ContainerId>().ok()) else { continue };
            match self.read(&id) {
                // it may have ended between the listing and the reading
                Ok(lease) => leases.extend(lease),
                Err(e) => log::warn!("{e}"),
            }
        }
        leases.sort_by_key(|l| l.slot);
        Ok(leases)
    }

    /// Records a lease, new or changed.
    pub fn write(&self, lease: &Lease) -> Result<()> {
        let text = serde_json::to_vec(lease).map_err(|e| Error::Failed(format!("cannot encode a lease: {e}")))?;
        self.replace(&self.lease_path(lease.id.as_str()), &text)
    }

    /// Forgets a lease's record. [`Locked::release`] comes first.
    pub fn erase(&self, id: &ContainerId) -> Result<()> {
        remove(&self.lease_path(id.as_str()))
    }

    /// Removes what writers that were killed left beside the files they were writing.
    pub fn remove_leftovers(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).map_err(Error::file("list", &self.directory))?.flatten() {
            let name = entry.file_name();
            let writer = name.to_str().and_then(|n| n.strip_prefix(BESIDE)).and_then(|pid| pid.parse::<u32>().ok());
            if writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// What was counted for containers that ended.
    pub fn journal(&self) -> Journal {
        Journal::at(&self.directory)
    }

    /// Takes the ledger's files away, for a host that shall be as before.
    pub fn remove(&self) -> Result<()> {
        self.remove_leftovers()?;
        self.journal().remove()?;
        remove(&self.path("index"))?;
        remove(&self.path("lock"))?;
        let leases = self.directory.join("leases");
        match fs::remove_dir_all(&leases) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", leases)(e)),
            _ => Ok(()),
        }
    }

    /// Writes a file of the state directory beside its place and renames it.
    pub fn replace(&self, path: &Path, text: &[u8]) -> Result<()> {
        // outside leases/: what lies there is a lease
        let beside = self.directory.join(format!("{BESIDE}{}", std::process::id()));
        let written = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)
            .and_then(|mut file| file.write_all(text))
            .and_then(|()| fs::rename(&beside, path));
        written.map_err(|e| {
            let _ = fs::remove_file(&beside);
            Error::file("write", path)(e)
        })
    }

    fn rebuild(&self) -> Result<(Index, Lines)> {
        let mut index = Index::default();
        for lease in self.all()? {
            index.epoch = index.epoch.max(lease.epoch);
            index.last_slot = index.last_slot.max(lease.slot);
            index.entries.insert(lease.slot, Entry::of(&lease));
        }
        let lines = Lines::of(&index);
        Ok((index, lines))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn lease_path(&self, id: &str) -> PathBuf {
        self.directory.join("leases").join(id)
    }
}

impl<'a> Locked<'a> {
    /// What is locked.
    pub fn ledger(&self) -> &'a Ledger {
        self.ledger
    }

    /// Enters a lease: first its record, then the index, so that whatever the index names has a record.
    pub fn grant(&mut self, lease: &Lease) -> Result<()> {
        self.ledger.write(lease)?;
        if self.index.past.remove(&lease.block.begin()).is_some() {
            self.lines.remove(&format!("P {} ", lease.block.begin()));
        }
        self.index.cursor = lease.block.end().wrapping_add(1);
        self.index.last_slot = lease.slot;
        self.index.epoch = lease.epoch;
        self.enter(lease);
        self.save().inspect_err(|_| {
            let _ = self.ledger.erase(&lease.id);
        })
    }

    /// Records a lease whose ports changed. On failure the ledger is as it was.
    pub fn change(&mut self, lease: &Lease) -> Result<()> {
        let Some(known) = self.index.find(&lease.id).cloned() else {
            return Err(Error::NotFound(format!("no container {} is attached", lease.id)));
        };
        let earlier = self.ledger.read(&lease.id)?;
        self.ledger.write(lease)?;
        if known.ports == lease.listening() {
            return Ok(());
        }
        self.enter(lease);
        self.save().inspect_err(|_| {
            if let Some(earlier) = earlier {
                self.enter(&earlier);
                let _ = self.ledger.write(&earlier);
            }
        })
    }

    /// Puts a lease into the index, in place of what it has of its slot.
    fn enter(&mut self, lease: &Lease) {
        let entry = Entry::of(lease);
        self.lines.remove(&format!("L {} ", lease.slot));
        self.lines.add(&entry);
        self.index.entries.insert(lease.slot, entry);
    }

    /// Takes back a lease that never came into use: nobody has talked to its ports.
    pub fn cancel(&mut self, id: &ContainerId) -> Result<()> {
        if let Some(slot) = self.index.find(id).map(|e| e.slot) {
            self.index.entries.remove(&slot);
            self.lines.remove(&format!("L {slot} "));
            self.settle(id)
        } else {
            self.ledger.erase(id)
        }
    }

    /// Ends a lease; its block rests.
    pub fn release(&mut self, id: &ContainerId) -> Result<()> {
        if let Some(entry) = self.index.find(id).cloned() {
            self.index.entries.remove(&entry.slot);
            // of this container and of what overlaps, only the newest past counts
            let range = entry.block.range();
            self.lines.remove(&format!("L {} ", entry.slot));
            let lines = &mut self.lines;
            self.index.past.retain(|begin, p| {
                let keep = p.id != entry.id && p.block.range().overlap(range).is_none();
                if !keep {
                    lines.remove(&format!("P {begin} "));
                }
                keep
            });
            let past = Past { block: entry.block, id: entry.id, freed: unix_now() };
            self.lines.rest(&past);
            self.index.past.insert(past.block.begin(), past);
            return self.settle(id);
        }
        self.ledger.erase(id)
    }

    /// First the index, then the record. On a full disk the other way round, which frees room for the index; and if
    /// there is still none, the index goes: it is made anew from the leases.
    fn settle(&self, id: &ContainerId) -> Result<()> {
        if self.save().is_ok() {
            return self.ledger.erase(id);
        }
        self.ledger.erase(id)?;
        self.save().or_else(|e| {
            log::warn!("{e}: the order in which blocks rest is lost");
            remove(&self.ledger.path("index"))
        })
    }

    fn save(&self) -> Result<()> {
        self.ledger.replace(&self.ledger.path("index"), self.lines.with_head(&self.index).as_bytes())
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Block, BlockSize};

    #[test]
    fn what_is_saved_is_what_is_read() {
        let state = std::env::temp_dir().join(format!("portslice-ledger-{}", std::process::id()));
        let ledger = Ledger::at(&state);
        ledger.create().unwrap();
        let id = |s: &str| s.parse::<ContainerId>().unwrap();
        let lease = |name: &str, slot: u16, ports: &str| Lease {
            id: id(name),
            slot,
            block: Block::new(32768 + 16 * slot, BlockSize::MIN).unwrap(),
            terms: crate::lease::Terms { ports: ports.parse().unwrap(), ..Default::default() },
            before: None,
            dropped: Default::default(),
            bundle_cpus: None,
            cpu: Default::default(),
            cgroups: None,
            pid: None,
            netns: "/run/netns/x".into(),
            stage: crate::lease::Stage::Attached,
            created: 0,
            netns_id: crate::net::netns::NetnsId { dev: 4, ino: 1 },
            epoch: slot.into(),
            device: "eth0".into(),
            host_loopback: true,
            labels: Default::default(),
            worker: crate::host::process::Worker { pid: 1, started: 1 },
        };
        let mut locked = ledger.lock().unwrap();
        for slot in [1, 11, 12, 2] {
            locked.grant(&lease(&format!("a:b.{slot}"), slot, "31000-31009,31100")).unwrap();
        }
        locked.release(&id("a:b.1")).unwrap();
        locked.cancel(&id("a:b.12")).unwrap();
        locked.grant(&lease("again", 1, "")).unwrap();
        locked.release(&id("a:b.2")).unwrap();
        let kept = locked.index.clone();
        drop(locked);
        assert_eq!(ledger.lock().unwrap().index, kept);
        assert_eq!(kept.entries.keys().collect::<Vec<_>>(), [&1, &11]);
        assert_eq!(kept.past.values().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["a:b.2"]);
        fs::write(state.join("index"), "portslice-index 1 0 0 0\nL 1 3").unwrap();
        assert_eq!(ledger.lock().unwrap().index.entries, kept.entries, "rebuilt from the leases");
        fs::remove_dir_all(&state).unwrap();
    }
}
