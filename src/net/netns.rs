//! A network namespace held open, its identity, and running a closure inside it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The namespace of the calling thread.
const HERE: &str = "/proc/thread-self/ns/net";

/// What tells one namespace from every other one that is alive: device and inode of its nsfs file.
/// The default is no namespace's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// An open network namespace; it stays alive as long as this does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    /// How it was found.
    pub path: PathBuf,
    /// Which one it is.
    pub id: NetnsId,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(HERE))
    }

    /// Which one the calling thread is in.
    pub fn here() -> Result<NetnsId> {
        let meta = fs::metadata(HERE).map_err(Error::file("inspect network namespace", HERE))?;
        Ok(NetnsId { dev: meta.dev(), ino: meta.ino() })
    }

    /// The namespace of a process.
    pub fn of_pid(pid: u32) -> Result<Self> {
        match Self::open(Path::new(&format!("/proc/{pid}/ns/net"))) {
            Err(Error::NotFound(_)) => {
                Err(Error::NotFound(format!("process {pid} is gone: it has no network namespace to attach")))
            }
            other => other,
        }
    }

    /// The namespace behind a path: `/run/netns/NAME`, `/proc/PID/ns/net`.
    pub fn open(path: &Path) -> Result<Self> {
        // Opening a FIFO waits for a writer; with O_NONBLOCK it does not, and a namespace does not care.
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Err(Error::NotFound(format!("there is no network namespace {}: is it gone?", path.display())));
            }
            opened => opened.map_err(Error::file("open network namespace", path))?,
        };
        // anything else (a plain file left over by a lost mount, a directory) would only fail later, in setns
        const NSFS_MAGIC: i64 = 0x6e73_6673;
        let kind = nix::sys::statfs::fstatfs(&file)
            .map_err(|e| Error::file("inspect network namespace", path)(e.into()))?
            .filesystem_type();
        if kind.0 as i64 != NSFS_MAGIC {
            return Err(Error::NotFound(format!(
                "{} is not a network namespace: its mount is gone, or the path is wrong",
                path.display()
            )));
        }
        // ioctl_nsfs(2)
        const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
        // SAFETY: takes no argument; the file is open.
        if unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) } != libc::CLONE_NEWNET {
            return Err(Error::NotFound(format!(
                "{} is a namespace of another kind, not a network namespace",
                path.display()
            )));
        }
        let meta = file.metadata().map_err(Error::file("inspect network namespace", path))?;
        Ok(Self { file, path: path.to_owned(), id: NetnsId { dev: meta.dev(), ino: meta.ino() } })
    }

    /// The number by which the kernel tells this namespace from every other one of this boot, ended ones among them. Linux 5.14.
    pub fn cookie(&self) -> Result<u64> {
        // include/uapi/asm-generic/socket.h; a socket's, of any family, is that of the namespace it was made in
        const SO_NETNS_COOKIE: libc::c_int = 71;
        let fail = |e: io::Error| Error::file("tell the cookie of network namespace", &self.path)(e);
        self.inside(|| {
            let socket = UnixDatagram::unbound().map_err(fail)?;
            let (mut cookie, mut size) = (0u64, size_of::<u64>() as libc::socklen_t);
            let at = std::ptr::from_mut(&mut cookie).cast();
            // SAFETY: the pointers are to a value and to its size, both of this frame.
            let done =
                unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, at, &mut size) };
            if done == 0 { Ok(cookie) } else { Err(fail(io::Error::last_os_error())) }
        })
    }

    /// Runs `work` with the calling thread inside this namespace. The thread is back where it was afterwards, also
    /// when `work` panics; a thread that cannot come back ends the process, as everything it did next would hit the
    /// wrong namespace.
    pub fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        struct Back(File);
        impl Drop for Back {
            fn drop(&mut self) {
                if setns(&self.0, CloneFlags::CLONE_NEWNET).is_err() {
                    std::process::abort();
                }
            }
        }
        let home = File::open(HERE).map_err(Error::file("open network namespace", HERE))?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::file("enter network namespace", &self.path)(e.into()))?;
        let _back = Back(home);
        work()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
