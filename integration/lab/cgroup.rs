//! A cgroup of this test process' own, for programs at sockets: what is attached there sees the sockets of the tests, and of
//! nobody else on the machine.

use super::ns::Ns;
use super::wait::eventually;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The directory above the cgroup, once this process is in it.
static ABOVE: Mutex<Option<File>> = Mutex::new(None);

/// Moves this process, and so what it starts from now on, into a cgroup of its own, and returns where a host finds it. The process
/// leaves it, and removes it, when it ends. `dir`: where the hierarchy may be mounted for that host.
pub fn of_tests(host: &Ns, dir: &Path) -> PathBuf {
    let at = mounted(host, dir);
    let cgroups = fs::read_to_string("/proc/self/cgroup").expect("own cgroups");
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).expect("a place in the cgroup2 hierarchy");
    let name = name();
    let mut above = ABOVE.lock().unwrap();
    if above.is_some() {
        return at.join(own);
    }
    let parent = host.root(&at.join(own).to_string_lossy());
    fs::create_dir(parent.join(&name)).expect("a cgroup");
    *above = Some(File::open(&parent).expect("the cgroup above"));
    fs::write(parent.join(&name).join("cgroup.procs"), "0").expect("move into the cgroup");
    // SAFETY: registers a handler that needs nothing but the static above.
    unsafe { libc::atexit(leave) };
    at.join(own).join(name)
}

fn name() -> String {
    format!("lab{}-sockets", std::process::id())
}

/// Where the host has the hierarchy mounted.
fn mounted(host: &Ns, dir: &Path) -> PathBuf {
    let at = dir.join("cgroup2");
    host.inside_mounts(move || {
        if statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            return PathBuf::from("/sys/fs/cgroup");
        }
        fs::create_dir_all(&at).expect("a place for cgroup2");
        if !statfs(&at).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) {
            mount(Some("cgroup2"), &at, Some("cgroup2"), MsFlags::empty(), None::<&str>).expect("mount cgroup2");
        }
        at
    })
}

extern "C" fn leave() {
    let Some(open) = ABOVE.lock().ok().and_then(|mut above| above.take()) else { return };
    let above = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    let remove = || fs::remove_dir(above.join(name()));
    let left = fs::write(above.join("cgroup.procs"), "0").and_then(|()| {
        // A thread that is ending is not moved, and is in the way until it has ended.
        if eventually(|| remove().is_ok()) { Ok(()) } else { remove() }
    });
    if let Err(e) = left {
        eprintln!("the cgroup {} is left behind: {e}", name());
    }
}
