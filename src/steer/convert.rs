//! Maps of an older layout: what stands in them goes into those of this one.
//!
//! What a layout may change is said at [`super::layout::LAYOUT`]: values grow at their end. So the shape that the kernel tells
//! of two maps is all that copying needs to know. What does not live here: the records in the book (`lease`), and who sees to it
//! that nothing changes meanwhile (`slice::setup`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::shared::possible_cpus;
use super::sys::{self, MapInfo};
use super::word::{Holding, NUMBERS, Word};
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
    if name == "ports" && from.info.max_entries == NUMBERS as u32 {
        return from.each(|key, value| to.put_port(key, value)).map_err(|e| fail(e.to_string()));
    }
    if name == "ports" {
        // what sockets do until the programs at them have the new map is counted in the older one alone
        return from.each(|key, value| to.put_looked_after(key, value)).map_err(|e| fail(e.to_string()));
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

    /// Enters a port as layouts before 8 tell of it, for both protocols: the low half of its word is the slot that packets go to,
    /// and while they go to the host's stack the high half is the slot that it is reserved for.
    fn put_port(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let (port, word) = (u32::from_ne_bytes(bytes(key)), u64::from_ne_bytes(bytes(value)));
        let (steered, reserved) = (word as u16, (word >> 32) as u16);
        let word = if steered != 0 { Word::leased(steered, true) } else { Word::leased(reserved, false) };
        for key in [port, port + NUMBERS as u32] {
            self.put(&key.to_ne_bytes(), &word.0.to_ne_bytes(), self.value)?;
        }
        Ok(())
    }

    /// Enters a port's word; one that sockets hold is to be looked after.
    fn put_looked_after(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let word = Word(u64::from_ne_bytes(bytes(value)));
        let claimed = matches!(word.holding(), Holding::Claimed { sockets: 1.., .. });
        let word = if claimed { word.with_look() } else { word };
        self.put(key, &word.0.to_ne_bytes(), self.value)
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

/// The first bytes; what is missing is zero.
fn bytes<const N: usize>(from: &[u8]) -> [u8; N] {
    std::array::from_fn(|i| from.get(i).copied().unwrap_or(0))
}
