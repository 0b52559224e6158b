//! The ledger: the durable store of all leases.
//!
//! ```text
//! <state_dir>/lock           flock: held for a decision, never for the wiring (`lock`)
//! <state_dir>/leases/<id>    one lease as JSON, under the id of the slice's first member
//! <state_dir>/members/<id>   of every other member: a symbolic link whose target is the id of its slice
//! <state_dir>/finished       what was counted for members that ended (`journal`)
//! ```
//!
//! The kernel keeps every record as well, byte for byte (`steer::book`), so that a lost file can be written again. Which
//! ports and slots are taken is read from the data path's maps ([`super::desk`]), never from these files. Every file is
//! written beside its place and renamed, so a reader and a killed writer never see half of one. There is no fsync: kernel
//! state dies at a reboot, and so must leases.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::journal::Journal;
use super::lock::{self, Lock};
use super::record::{FORMAT, FORMATS, Lease};
use crate::error::{Error, Result};
use crate::file;
use crate::request::ContainerId;
use crate::steer::Book;

/// What the names of half-written files begin with; the writer's process id follows.
const BESIDE: &str = "tmp-";
/// The lock file of those who let slices follow the host.
const FOLLOWING: &str = "following";

/// The ledger under the state directory.
#[derive(Clone, Debug)]
pub struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    /// The ledger in `state_dir`, which need not exist yet.
    pub fn at(state_dir: &Path) -> Self {
        Self { directory: state_dir.to_owned() }
    }

    /// The directory in which it is.
    pub fn state_dir(&self) -> &Path {
        &self.directory
    }

    /// Makes the directories, readable by root alone.
    pub fn create(&self) -> Result<()> {
        for name in ["leases", "members"] {
            make(&self.path(name))?;
        }
        Ok(())
    }

    /// Takes the lock; see [`lock::take`].
    pub fn lock(&self) -> Result<Lock> {
        lock::take(&self.path("lock"))
    }

    /// Takes the lock of those who let slices follow the host: one at a time, so that nobody gives a slice what is older
    /// than what it has. It is never taken while the other one is held.
    pub fn following(&self) -> Result<Lock> {
        lock::take(&self.path(FOLLOWING))
    }

    /// The lease of the slice `id`; `None` when there is none.
    pub fn read(&self, id: &ContainerId) -> Result<Option<Lease>> {
        self.bytes(id)?.map(|bytes| decode(&bytes, &self.lease_path(id.as_str()))).transpose()
    }

    /// The record of the slice `id` as it lies there.
    pub fn bytes(&self, id: &ContainerId) -> Result<Option<Vec<u8>>> {
        let path = self.lease_path(id.as_str());
        match file::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some).map_err(Error::file("read", path)),
        }
    }

    /// The lease of the slice in which `id` is a member; `None` when there is none.
    pub fn of_member(&self, id: &ContainerId) -> Result<Option<Lease>> {
        let lease = match self.linked(id)? {
            Some(slice) => self.read(&slice)?,
            None => None,
        };
        let has = |lease: &Lease| lease.member(id).is_some();
        match lease.filter(has) {
            Some(lease) => Ok(Some(lease)),
            None => Ok(self.read(id)?.filter(has)),
        }
    }

    /// The slice that the link of `member` names, whether or not that has a record.
    pub fn linked(&self, member: &ContainerId) -> Result<Option<ContainerId>> {
        let link = self.member_path(member);
        match fs::read_link(&link) {
            Ok(target) => Ok(target.to_str().and_then(|name| name.parse().ok())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("read", link)(e)),
        }
    }

    /// The ids of all slices that have a record.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        let path = self.path("leases");
        let entries = match fs::read_dir(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::file("list", &path))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::file("list", &path))?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<ContainerId>().ok()));
        }
        Ok(ids)
    }

    /// All leases, by slot. One that cannot be read is left out and logged; its ports stay taken.
    pub fn all(&self) -> Result<Vec<Lease>> {
        let (leases, unreadable) = self.all_and_unreadable()?;
        unreadable.iter().for_each(|e| log::warn!("{e}"));
        Ok(leases)
    }

    /// The same, and why others cannot be read.
    pub fn all_and_unreadable(&self) -> Result<(Vec<Lease>, Vec<Error>)> {
        let (mut leases, mut unreadable) = (Vec::new(), Vec::new());
        for id in self.ids()? {
            match self.read(&id) {
                // It may have ended between the listing and the reading.
                Ok(lease) => leases.extend(lease),
                Err(e) => unreadable.push(e),
            }
        }
        leases.sort_by_key(|lease: &Lease| lease.slot);
        Ok((leases, unreadable))
    }

    /// Records a lease, new or changed: in the kernel, as a file, and the links of its members.
    pub fn write(&self, lease: &Lease, book: &Book) -> Result<()> {
        let bytes = encode(lease)?;
        book.write(lease.slot, &bytes)?;
        match self.write_bytes(&lease.id, &bytes) {
            // Somebody removed the directories of a host that is prepared: that must not keep containers from starting.
            Err(e) if lock::is_gone(&e) && self.path("lock").exists() => {
                self.create()?;
                self.write_bytes(&lease.id, &bytes)?;
            }
            written => written?,
        }
        for member in lease.members.iter().filter(|member| member.id != lease.id) {
            let path = self.member_path(&member.id);
            match fs::read_link(&path) {
                Ok(target) if target.as_os_str() == lease.id.as_str() => continue,
                Ok(_) => file::remove(&path).map_err(Error::file("remove", &path))?,
                Err(_) => {}
            }
            symlink(lease.id.as_str(), &path).map_err(Error::file("create", &path))?;
        }
        Ok(())
    }

    /// Writes a record as it is: for a lease that only the kernel still has.
    pub fn write_bytes(&self, id: &ContainerId, bytes: &[u8]) -> Result<()> {
        self.replace(&self.lease_path(id.as_str()), bytes)
    }

    /// Forgets that `member` belongs to a slice.
    pub fn unlink(&self, member: &ContainerId) -> Result<()> {
        let path = self.member_path(member);
        file::remove(&path).map_err(Error::file("remove", path))
    }

    /// Forgets a member that may be none.
    pub fn unlink_if_there(&self, member: &ContainerId) -> Result<()> {
        if self.path("members").exists() { self.unlink(member) } else { Ok(()) }
    }

    /// Forgets a lease: its links, its file, its record in the kernel.
    pub fn erase(&self, lease: &Lease, book: &Book) -> Result<()> {
        let before = lease.before.iter().flat_map(|before| &before.members);
        for member in lease.members.iter().chain(before).filter(|member| member.id != lease.id) {
            self.unlink(&member.id)?;
        }
        self.erase_file(&lease.id)?;
        book.erase(lease.slot)
    }

    /// Removes the file of the slice `id` alone.
    pub fn erase_file(&self, id: &ContainerId) -> Result<()> {
        let path = self.lease_path(id.as_str());
        file::remove(&path).map_err(Error::file("remove", path))
    }

    /// Removes what writers that were killed left beside the files they were writing.
    pub fn remove_leftovers(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).map_err(Error::file("list", &self.directory))?.flatten() {
            let name = entry.file_name();
            let writer = name.to_str().and_then(|n| n.strip_prefix(BESIDE)).and_then(|pid| pid.parse::<u32>().ok());
            if writer.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                file::remove(&entry.path()).map_err(Error::file("remove", entry.path()))?;
            }
        }
        Ok(())
    }

    /// What was counted for members that ended.
    pub fn journal(&self) -> Journal {
        Journal::at(&self.directory)
    }

    /// Takes the ledger's files away, for a host that shall be as before; the lock goes last.
    pub fn remove(&self) -> Result<()> {
        self.remove_leftovers()?;
        self.journal().remove()?;
        for name in ["leases", "members"] {
            let path = self.path(name);
            match fs::remove_dir_all(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::file("remove", path)(e)),
                _ => {}
            }
        }
        let following = self.path(FOLLOWING);
        file::remove(&following).map_err(Error::file("remove", following))?;
        let lock = self.path("lock");
        file::remove(&lock).map_err(Error::file("remove", lock))
    }

    /// Writes a file of the state directory beside its place and renames it.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        // Outside leases/: what lies there is a lease.
        let beside = self.path(&format!("{BESIDE}{}", std::process::id()));
        file::replace(path, &beside, bytes).map_err(Error::file("write", path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn member_path(&self, id: &ContainerId) -> PathBuf {
        self.directory.join("members").join(id.as_str())
    }

    pub(super) fn lease_path(&self, id: &str) -> PathBuf {
        self.directory.join("leases").join(id)
    }
}

/// Makes a directory and what it lies in. An undo that removes either between the calls which this takes is no failure; what
/// is in the way for good is.
fn make(path: &Path) -> Result<()> {
    let mut left = 100;
    loop {
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(e) if left > 0 && matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => left -= 1,
            done => return done.map_err(Error::file("create", path)),
        }
    }
}

/// A lease from its record, in this version's format; `path` is where it was found, for the refusal.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Lease> {
    let lease = match serde_json::from_slice::<Lease>(bytes) {
        Ok(lease) if lease.format == FORMAT => return Ok(lease),
        lease => lease,
    };
    // What is wrong with it is asked for only where something is: every start of a container reads some.
    #[derive(Deserialize)]
    struct About {
        format: Option<u32>,
    }
    let taken = "its ports count as taken";
    if let Ok(About { format }) = serde_json::from_slice(bytes) {
        FORMATS.check(format, &format!("the lease {} ({taken})", path.display()))?;
    }
    let damaged = |e: serde_json::Error| {
        let path = path.display();
        Error::Failed(format!(
            "the lease {path} cannot be read ({e}), {taken}: run `portslice fsck --rebuild`, and remove it if that \
             cannot restore it"
        ))
    };
    lease.map(|lease| Lease { format: FORMAT, ..lease }).map_err(damaged)
}

/// The record of a lease.
pub fn encode(lease: &Lease) -> Result<Vec<u8>> {
    serde_json::to_vec(lease).map_err(|e| Error::Failed(format!("cannot encode the lease of {}: {e}", lease.id)))
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
