//! Finding a network namespace again that was known by a path: the process that was named may be gone while another is in
//! it, or a mount holds it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Netns;
use super::netns::NetnsId;
use crate::error::{Error, Result};

/// Who holds which network namespace. Mounts and processes are looked at when they are first needed, and then no more: a
/// thousand containers that are gone cost no more than one.
#[derive(Debug, Default)]
pub struct Holders {
    /// Mount points, by the inode of the namespace.
    mounts: OnceLock<HashMap<u64, Vec<PathBuf>>>,
    /// Processes, by the inode of the namespace that the first thread of each is in.
    processes: OnceLock<HashMap<u64, Vec<u32>>>,
}

impl Holders {
    /// The namespace `id`, which was at `path`. [`Error::NotFound`] when nobody holds it any more, and another error when
    /// it may well be there.
    pub fn reach(&self, path: &Path, id: NetnsId) -> Result<Netns> {
        let why = match Netns::open(path) {
            Ok(netns) if netns.id == id => return Ok(netns),
            Ok(_) => Error::NotFound(format!("{} is another network namespace now", path.display())),
            Err(e) => e,
        };
        let open = |path: &Path| Netns::open(path).ok().filter(|netns| netns.id == id);
        let mounts = self.mounts.get_or_init(mounts).get(&id.ino).map(Vec::as_slice).unwrap_or_default();
        if let Some(found) = mounts.iter().find_map(|mount| open(mount)) {
            return Ok(found);
        }
        self.processes(id).iter().find_map(|pid| open(Path::new(&format!("/proc/{pid}/ns/net")))).ok_or(why)
    }

    /// The processes whose first thread is in the namespace `id`.
    pub fn processes(&self, id: NetnsId) -> &[u32] {
        self.processes.get_or_init(processes).get(&id.ino).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Mounts of namespaces. mountinfo(5): root is field 4, the mount point field 5, blanks as \\040.
fn mounts() -> HashMap<u64, Vec<PathBuf>> {
    let mut all: HashMap<u64, Vec<PathBuf>> = HashMap::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(3);
        if let (Some(inode), Some(point)) = (fields.next().and_then(inode), fields.next()) {
            all.entry(inode).or_default().push(point.replace("\\040", " ").into());
        }
    }
    all
}

fn processes() -> HashMap<u64, Vec<u32>> {
    let mut all: HashMap<u64, Vec<u32>> = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // it may have ended meanwhile
        let link = fs::read_link(format!("/proc/{pid}/ns/net"));
        if let Some(inode) = link.ok().as_deref().and_then(Path::to_str).and_then(inode) {
            all.entry(inode).or_default().push(pid);
        }
    }
    all
}

/// Does anybody hold the namespace: a thread of any process, an open file, or a mount in any mount namespace? One that nobody
/// holds lives only in the kernel, for data that its sockets could not send. This looks at every open file of the machine.
pub fn is_held(id: NetnsId) -> bool {
    let name = format!("net:[{}]", id.ino);
    let is_it = |link: &Path| fs::read_link(link).is_ok_and(|target| target.as_os_str() == name.as_str());
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut mount_namespaces = HashSet::new();
    entries("/proc".into()).filter(|path| is_process(path)).any(|process| {
        // The mounts of one process are those of all in its mount namespace.
        let mounted = fs::read_link(process.join("ns/mnt")).is_ok_and(|space| mount_namespaces.insert(space))
            && fs::read_to_string(process.join("mountinfo")).is_ok_and(|mounts| mounts.contains(&name));
        mounted
            || entries(process.join("task")).any(|task| is_it(&task.join("ns/net")))
            || entries(process.join("fd")).any(|file| is_it(&file))
    })
}

fn is_process(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes()[0].is_ascii_digit())
}

/// Of `net:[4026531840]`.
fn inode(name: &str) -> Option<u64> {
    name.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_whoever_is_in_it() {
        let own = Netns::current().unwrap();
        let holders = Holders::default();
        for path in ["/proc/self/ns/net", "/nonexistent"] {
            assert_eq!(holders.reach(Path::new(path), own.id).unwrap().id, own.id, "{path}");
        }
        assert!(holders.processes(own.id).contains(&std::process::id()));
        let other = NetnsId { ino: own.id.ino + 1_000_000, ..own.id };
        assert!(is_held(own.id) && !is_held(other));
        let error = holders.reach(Path::new("/nonexistent"), other).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error}");
        let error = holders.reach(Path::new("/dev/null/x"), other).unwrap_err();
        assert!(!matches!(error, Error::NotFound(_)), "{error}");
    }
}
