//! A cgroup of a benchmark's own, on which the programs at the sockets are: who is not in it meets none of them. Threads of one
//! process may be in it and outside.

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The cgroup; it is removed with this.
pub struct Group(PathBuf);

impl Group {
    /// Below the one that this process is in, in a hierarchy that is mounted for us where none is.
    pub fn new(name: &str) -> io::Result<Group> {
        let at = hierarchy()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .ok_or_else(|| io::Error::other("no place in the cgroup2 hierarchy"))?;
        let at = at.join(own).join(format!("bench{}-{name}", std::process::id()));
        fs::create_dir(&at)?;
        let group = Group(at);
        fs::write(group.0.join("cgroup.type"), "threaded")
            .map_err(|e| io::Error::other(format!("{}: cannot hold threads: {e}", group.0.display())))?;
        Ok(group)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Moves the calling thread in.
    pub fn enter(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.threads"), "0")
    }
}

/// Who was in it has ended before.
impl Drop for Group {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(&self.0) {
            eprintln!("{} is left behind: {e}", self.0.display());
        }
    }
}

/// Where cgroup2 is mounted: the machine's own mount, or one in our `/run`.
fn hierarchy() -> io::Result<PathBuf> {
    let is_one = |at: &Path| statfs(at).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let [machine, ours] = ["/sys/fs/cgroup", "/run/cgroup2"].map(PathBuf::from);
    if is_one(&machine) {
        return Ok(machine);
    }
    if !is_one(&ours) {
        fs::create_dir(&ours)?;
        mount(Some("cgroup2"), &ours, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    }
    Ok(ours)
}
