//! What all maps have in common: opening one, an array map in memory, whose words are read and written without a system call, and
//! how many values an entry of a per-CPU map has.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use std::path::Path;

use super::sys;
use crate::error::{Error, Result};
use crate::file;

/// The words of an array map that was made with BPF_F_MMAPABLE.
pub struct Words {
    first: NonNull<AtomicU64>,
    count: usize,
    bytes: NonZeroUsize,
}

// SAFETY: a pointer to shared memory that everybody, other processes among them, accesses as atomic words only; it is
// unmapped when the one owner goes.
unsafe impl Send for Words {}
// SAFETY: the same.
unsafe impl Sync for Words {}

impl Words {
    /// Maps all `count` words of the map `name`. The kernel refuses more than the map has (array_map_mmap).
    pub fn map(fd: &OwnedFd, name: &str, count: usize) -> Result<Self> {
        let fail = |why: String| Error::Bpf { doing: format!("map {name} into memory"), why };
        let bytes = NonZeroUsize::new(count * size_of::<u64>()).ok_or_else(|| fail("it has no words".into()))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing.
        let address =
            unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) }
                .map_err(|e| fail(e.to_string()))?;
        Ok(Self { first: address.cast(), count, bytes })
    }

    /// All words.
    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `count` aligned words and lives as long as self; others (programs, other
        // processes) only access them as single words.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `map`, and no reference into it outlives self.
        let _ = unsafe { munmap(self.first.cast(), self.bytes.get()) };
    }
}

/// Opens the map `name` that is pinned under `directory`.
pub(super) fn open(directory: &Path, name: &str) -> Result<OwnedFd> {
    sys::object_get(&directory.join(name)).map_err(|e| Error::Bpf {
        doing: format!("open the map {}", directory.join(name).display()),
        why: format!("{e}; `portslice setup` makes it"),
    })
}

/// How many values an entry of a per-CPU map has: one for every CPU that could ever be there, not only for those that are.
pub(super) fn possible_cpus() -> Result<usize> {
    const PATH: &str = "/sys/devices/system/cpu/possible";
    let text = file::read_generated_text(PATH).map_err(Error::file("read", PATH))?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<usize>().ok());
    last.map(|n| n + 1).ok_or_else(|| Error::Failed(format!("cannot understand {PATH}: {:?}", text.trim())))
}
