//! Maps of an older layout: what stands in them goes into those of this one.
//!
//! What a layout may change is said at [`super::layout::LAYOUT`]: values grow at their end. So the shape that the kernel tells
//! of two maps is all that copying needs to know. What does not live here: the records in the book (`lease`), and who sees to it
//! that nothing changes meanwhile (`slice::setup`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::maps::possible_cpus;
use super::sys::{self, MapInfo};
use crate::error::{Error, Result};

/// The maps that are copied, in this order. The others tell for seconds where a part of a datagram, or an answer, goes.
pub(super) const LASTING: [&str; 8] = ["book", "tenants", "ports", "slots", "devices", "counters", "addresses", "host"];

/// Copies every entry of `from` into `to`, whose values may be larger.
pub(super) fn copy(name: &str, from: &OwnedFd, to: &OwnedFd) -> Result<()> {
    let fail = |why: String| Error::Bpf { doing: format!("copy the older map {name}"), why };
    let (from, to) = (Side::of(from).map_err(|e| fail(e.to_string()))?, Side::of(to).map_err(|e| fail(e.to_string()))?);
    if from.info.kind != to.info.kind || from.info.key_size != to.info.key_size || from.value > to.value {
        return Err(fail("it is of a kind that this version does not know".into()));
    }
    from.each(|key, value| to.put(key, value, from.value)).map_err(|e| fail(e.to_string()))
}

/// A map, and what its entries are like.
struct Side<'a> {
    map: BorrowedFd<'a>,
    info: MapInfo,
    /// Bytes of a value, on each CPU.
    value: usize,
    /// Values of an entry.
    cpus: usize,
}

impl<'a> Side<'a> {
    fn of(fd: &'a OwnedFd) -> io::Result<Self> {
        let map = fd.as_fd();
        let info = sys::map_info(map)?;
        if info.kind == sys::MAP_TYPE_PERCPU_ARRAY {
            let cpus = possible_cpus().map_err(|e| io::Error::other(e.to_string()))?;
            // the kernel pads each CPU's value to eight bytes
            return Ok(Self { map, info, value: (info.value_size as usize).next_multiple_of(8), cpus });
        }
        Ok(Self { map, info, value: info.value_size as usize, cpus: 1 })
    }

    /// Calls `put` with every entry that is not all zeros, which is what entries of arrays are without anybody.
    fn each(&self, mut put: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut key = vec![0; self.info.key_size as usize];
        let mut next = key.clone();
        let mut value = vec![0; self.value * self.cpus];
        let mut at = None;
        while sys::next_key(self.map, at, &mut next)? {
            key.copy_from_slice(&next);
            match sys::lookup(self.map, &key, &mut value) {
                Ok(()) if value.iter().any(|byte| *byte != 0) => put(&key, &value)?,
                // A device that went took its entry along.
                Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
                _ => {}
            }
            at = Some(&key[..]);
        }
        Ok(())
    }

    /// Enters a value whose parts have `part` bytes each.
    fn put(&self, key: &[u8], value: &[u8], part: usize) -> io::Result<()> {
        let mut grown = vec![0; self.value * self.cpus];
        for (to, from) in grown.chunks_exact_mut(self.value).zip(value.chunks_exact(part)) {
            to[..part].copy_from_slice(from);
        }
        if self.info.kind == sys::MAP_TYPE_DEVMAP {
            // what is read of a device's program is an id, what is written a descriptor; there is none
            grown[4..].fill(0);
        }
        match sys::update(self.map, key, &grown) {
            // The device went meanwhile.
            Err(e) if self.info.kind == sys::MAP_TYPE_DEVMAP && e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            done => done,
        }
    }
}
