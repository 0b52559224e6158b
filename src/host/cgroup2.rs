//! The root of the cgroup2 hierarchy, where programs see the sockets of every process.
//!
//! Every machine has that hierarchy, and every process is in it; where cgroups are of version 1 nobody has mounted it. Then it is
//! mounted here without a place in the file system, for as long as somebody has it open.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use crate::error::{Error, Result};

/// A cgroup of the cgroup2 hierarchy, open.
pub struct Cgroup {
    /// Its directory.
    pub directory: OwnedFd,
    /// What the kernel calls it: its inode.
    pub id: u64,
}

/// Opens the cgroup that `configured` names (config key `socket_cgroup`), else the root of the hierarchy.
///
/// # Errors
///
/// [`Error::Invalid`] for a name that leads to no cgroup, [`Error::Unsupported`] where there is no hierarchy.
pub fn open(configured: Option<&Path>) -> Result<Cgroup> {
    if let Some(path) = configured {
        let wrong = |why: String| {
            let remedy = "name a directory on a cgroup2 mount, as /sys/fs/cgroup is one";
            Error::invalid("config key socket_cgroup", format!("{why}; {remedy}"))
        };
        let directory =
            directory(path).map_err(|e| wrong(format!("cannot open the cgroup {} ({e})", path.display())))?;
        let none = || wrong(format!("{} is no cgroup of the cgroup2 hierarchy", path.display()));
        return of(directory)?.ok_or_else(none);
    }
    let failed = |e: io::Error| {
        Error::unsupported(
            format!("the cgroup2 hierarchy cannot be mounted ({e})"),
            "build the kernel with CONFIG_CGROUPS",
        )
    };
    // A mount that is there already comes first: another one would reset its options (cgroup_get_tree, kernel/cgroup/cgroup.c).
    for root in ["", "/proc/1/root"] {
        let of_process = if root.is_empty() { "self" } else { "1" };
        let mounts = fs::read_to_string(format!("/proc/{of_process}/mountinfo")).unwrap_or_default();
        for path in roots(&mounts) {
            let path = PathBuf::from(format!("{root}{path}"));
            if let Some(cgroup) = directory(&path).ok().map(of).transpose()?.flatten() {
                return Ok(cgroup);
            }
        }
    }
    of(mount().map_err(failed)?)?.ok_or_else(|| failed(io::Error::other("what was mounted is another file system")))
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?;
    Ok(file.into())
}

/// `None` for a directory of another file system.
fn of(directory: OwnedFd) -> Result<Option<Cgroup>> {
    let fail = |e: io::Error| Error::file("look at", "the root of the cgroup2 hierarchy")(e);
    if fstatfs(&directory).map_err(|e| fail(e.into()))?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Ok(None);
    }
    let file = File::from(directory);
    let id = file.metadata().map_err(fail)?.ino();
    Ok(Some(Cgroup { directory: file.into(), id }))
}

/// Where the whole hierarchy is mounted. mountinfo(5): root is field 4, the mount point field 5, blanks as \\040; the type
/// follows a lone dash.
fn roots(mountinfo: &str) -> Vec<String> {
    let whole = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let fields: Vec<&str> = place.split(' ').collect();
        (kind.starts_with("cgroup2 ") && fields.get(3) == Some(&"/"))
            .then(|| fields.get(4).copied())
            .flatten()
            .map(|point| point.replace("\\040", " "))
    };
    mountinfo.lines().filter_map(whole).collect()
}

/// A mount of its own, at no place (fsopen(2), Linux 5.2): it goes with the descriptor.
fn mount() -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_long = 1;
    const FSCONFIG_CMD_CREATE: libc::c_long = 6;
    const FSMOUNT_CLOEXEC: libc::c_long = 1;
    let kind: &CStr = c"cgroup2";
    // SAFETY: the name ends with NUL; the call takes nothing else of ours.
    let context = opened(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes integers only.
    let mounted = opened(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })?;
    // What fsmount returns was opened with O_PATH, which bpf(2) does not take.
    // SAFETY: the path ends with NUL; the directory is open.
    opened(
        unsafe {
            libc::openat(mounted.as_raw_fd(), c".".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC)
        }
        .into(),
    )
}

fn opened(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mount_of_the_whole_hierarchy_is_its_root() {
        let mountinfo = "24 1 0:22 / /proc rw - proc proc rw\n\
                         31 24 0:27 /system.slice /mnt/part rw - cgroup2 cgroup2 rw\n\
                         32 24 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                         33 24 0:27 / /sys/fs/my\\040cgroup rw shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(roots(mountinfo), ["/sys/fs/my cgroup"]);
        assert!(roots("").is_empty());
    }
}
