//! What containers may claim, and how much of it they have: the maps `offers` and `claiming`, which the programs at the sockets read
//! and count in (`bpf/claim.h`). What does not live here: whose a port is ([`super::word`]), and what that means ([`super::claims`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::MAX_SLOTS;
use super::shared::{Words, open};
use super::sys;
use super::word::{MOST_REST, NUMBERS};
use crate::error::{Error, Result};
use crate::ports::PortSet;

/// What a container may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Ports, of TCP and of UDP.
    pub ports: PortSet,
    /// How many at one time, both protocols and resting ones together.
    pub limit: u32,
}

/// `struct claiming` in words.
const WORDS: usize = 4;
/// Bytes of `struct offer`: the limit, padding, and a bit for each port.
const OFFER: usize = 8 + NUMBERS / 8;

/// The maps `offers` and `claiming`.
pub struct Offers {
    offers: OwnedFd,
    claiming: Words,
}

impl Offers {
    /// Those pinned under `directory`; `None` where no program at the sockets claims.
    pub fn open(directory: &Path) -> Result<Option<Self>> {
        let offers = match sys::object_get(&directory.join("offers")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            offers => offers.map_err(Error::file("open", directory.join("offers")))?,
        };
        let claiming = Words::map(&open(directory, "claiming")?, "claiming", usize::from(MAX_SLOTS) * WORDS)?;
        Ok(Some(Self { offers, claiming }))
    }

    /// Writes what `slot` may claim.
    pub(super) fn set(&self, slot: u16, offer: &Offer) -> io::Result<()> {
        sys::update(self.offers.as_fd(), &u32::from(slot).to_ne_bytes(), &bytes_of(offer))
    }

    /// What `slot` may claim; `None`: nothing.
    pub(super) fn get(&self, slot: u16) -> io::Result<Option<Offer>> {
        let mut value = vec![0; OFFER];
        match sys::lookup(self.offers.as_fd(), &u32::from(slot).to_ne_bytes(), &mut value) {
            Ok(()) => Ok(Some(offer_of(&value))),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes it back.
    pub(super) fn forget(&self, slot: u16) -> io::Result<()> {
        match sys::delete(self.offers.as_fd(), &u32::from(slot).to_ne_bytes()) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    /// Has the slot claimed anything since it was forgotten last?
    pub(super) fn has_claimed(&self, slot: u16) -> bool {
        self.of(slot).iter().any(|word| word.load(Ordering::Acquire) != 0)
    }

    /// One held port more or less that the programs do not count.
    pub(super) fn count(&self, slot: u16, by: u64) {
        if let Some(held) = self.of(slot).first() {
            held.fetch_add(by, Ordering::AcqRel);
        }
    }

    /// One port less that rests until `until`: the programs count those by the span in which they stop (`count_rest`).
    pub(super) fn end_rest(&self, slot: u16, until: u16) {
        let span = until / MOST_REST;
        let Some(rests) = self.of(slot).get(1 + usize::from(span & 1)) else { return };
        let less = |rests: u64| (rests >> 32 == u64::from(span) && rests as u32 > 0).then(|| rests - 1);
        // nothing to do where they count another span there
        let _ = rests.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Counts nothing for the slot any more.
    pub(super) fn clear(&self, slot: u16) {
        self.of(slot).iter().for_each(|word| word.store(0, Ordering::Release));
    }

    fn of(&self, slot: u16) -> &[AtomicU64] {
        let at = usize::from(slot) * WORDS;
        self.claiming.all().get(at..at + WORDS).unwrap_or_default()
    }
}

fn bytes_of(offer: &Offer) -> Vec<u8> {
    let mut bytes = vec![0; OFFER];
    bytes[..4].copy_from_slice(&offer.limit.to_ne_bytes());
    for port in offer.ports.iter() {
        // words of 64 bits in the machine's order
        let (word, bit) = (usize::from(port) / 64, port % 64);
        let byte = if cfg!(target_endian = "big") { 7 - bit / 8 } else { bit / 8 };
        bytes[8 + word * 8 + usize::from(byte)] |= 1 << (bit % 8);
    }
    bytes
}

fn offer_of(bytes: &[u8]) -> Offer {
    let limit = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let mut ports = PortSet::empty();
    for (word, bytes) in bytes[8..].chunks_exact(8).enumerate() {
        let bits = u64::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
        (0..64).filter(|bit| bits >> bit & 1 == 1).for_each(|bit| ports.push((word * 64 + bit) as u16));
    }
    Offer { ports, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_as_they_are_written() {
        for ports in ["80", "1-1023,8080,65535", "64-127"] {
            let offer = Offer { ports: ports.parse().unwrap(), limit: 64 };
            assert_eq!(offer_of(&bytes_of(&offer)), offer);
        }
    }
}
