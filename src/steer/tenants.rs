//! The tenants: who has which slot and block, and whose block rests, read without a system call.
//!
//! Writers hold the ledger's lock; readers need none.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use nix::time::{ClockId, clock_gettime};

use super::layout::MAX_SLOTS;
use super::shared::{Words, open};
use crate::error::Result;

/// `struct tenant` in words: netns, id, and the rest.
const WORDS: usize = 3;

/// Whether a slot is given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TenantState {
    /// Free, and never used.
    #[default]
    Free,
    /// Leased.
    Leased,
    /// Free; the block of its last tenant rests.
    Rests,
}

/// Who has a slot, or had it last (`struct tenant`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// Inode of the network namespace.
    pub netns: u64,
    /// [`id_hash`] of the container's id.
    pub id: u64,
    /// When it became free: [`boottime`]. While it is leased: which of `host::Given` its slice carries.
    pub stamp: u32,
    /// First port and size of its block; sizes are powers of two.
    pub block: Option<(u16, u16)>,
    /// Given out or not.
    pub state: TenantState,
}

/// What was given out last, so that the next one gets something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Epoch of the newest lease.
    pub epoch: u32,
    /// Slot of the newest lease.
    pub last_slot: u16,
    /// Port at which the search for a block goes on.
    pub block: u16,
}

/// The map `tenants` in memory.
pub struct Tenants(Words);

impl Tenants {
    /// The tenants pinned under `directory`.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::from_fd(&open(directory, "tenants")?)
    }

    /// The tenants behind a descriptor.
    pub fn from_fd(fd: &OwnedFd) -> Result<Self> {
        Words::map(fd, "tenants", usize::from(MAX_SLOTS) * WORDS).map(Self)
    }

    /// Who has `slot`. Slots that do not exist are free.
    pub fn get(&self, slot: u16) -> Tenant {
        let Some(entry) = self.entry(slot) else { return Tenant::default() };
        loop {
            let rest = entry[2].load(Ordering::Acquire);
            let (netns, id) = (entry[0].load(Ordering::Relaxed), entry[1].load(Ordering::Relaxed));
            // a writer stores the last word last
            fence(Ordering::Acquire);
            if entry[2].load(Ordering::Relaxed) == rest {
                return Tenant::unpack([netns, id, rest]);
            }
        }
    }

    /// Says who has `slot`. A lease is seen only when it is complete; an end is seen at once.
    pub fn put(&self, slot: u16, tenant: Tenant) {
        let Some(entry) = self.entry(slot) else { return };
        let [netns, id, rest] = tenant.pack();
        if tenant.state != TenantState::Leased {
            entry[2].store(rest, Ordering::Relaxed);
            fence(Ordering::Release);
        }
        entry[0].store(netns, Ordering::Relaxed);
        entry[1].store(id, Ordering::Relaxed);
        entry[2].store(rest, Ordering::Release);
    }

    /// What was given out last.
    pub fn cursor(&self) -> Cursor {
        let [_, id, rest] = self.zero();
        let rest = Rest::of(rest.load(Ordering::Acquire));
        Cursor { epoch: id.load(Ordering::Acquire) as u32, last_slot: rest.stamp as u16, block: rest.begin }
    }

    /// Says what was given out last.
    pub fn set_cursor(&self, cursor: Cursor) {
        let [_, id, rest] = self.zero();
        id.store(cursor.epoch.into(), Ordering::Release);
        let last = Rest { stamp: cursor.last_slot.into(), begin: cursor.block, ..Rest::default() };
        rest.store(last.word(), Ordering::Release);
    }

    /// The slots that are leased, ascending.
    pub fn leased(&self) -> impl Iterator<Item = u16> {
        self.in_state(TenantState::Leased)
    }

    /// The slots that are free and whose block rests, ascending.
    pub fn resting(&self) -> impl Iterator<Item = u16> {
        self.in_state(TenantState::Rests)
    }

    /// The slots whose tenant has, or had, the network namespace of this inode.
    pub fn in_namespace(&self, ino: u64) -> impl Iterator<Item = u16> {
        self.which(move |entry| entry[0].load(Ordering::Acquire) == ino)
    }

    /// The slots whose tenant has, or had, an id of this hash.
    pub fn of_id(&self, hash: u64) -> impl Iterator<Item = u16> {
        self.which(move |entry| entry[1].load(Ordering::Acquire) == hash)
    }

    fn in_state(&self, state: TenantState) -> impl Iterator<Item = u16> {
        self.which(move |entry| Rest::of(entry[2].load(Ordering::Acquire)).state() == state)
    }

    /// Looks at one word of each entry alone: thousands of them are looked through for one decision.
    fn which(&self, chosen: impl Fn(&[AtomicU64]) -> bool) -> impl Iterator<Item = u16> {
        let entries = (0..MAX_SLOTS).zip(self.0.all().chunks_exact(WORDS)).skip(1);
        entries.filter(move |(_, entry)| chosen(entry)).map(|(slot, _)| slot)
    }

    fn entry(&self, slot: u16) -> Option<&[AtomicU64]> {
        let at = usize::from(slot) * WORDS;
        if slot == 0 { None } else { self.0.all().get(at..at + WORDS) }
    }

    /// Entry 0: the counters.
    fn zero(&self) -> [&AtomicU64; WORDS] {
        let words = self.0.all();
        [&words[0], &words[1], &words[2]]
    }
}

impl Tenant {
    fn pack(&self) -> [u64; WORDS] {
        let (begin, size) = self.block.unwrap_or_default();
        let state = match self.state {
            TenantState::Free => 0,
            TenantState::Leased => 1,
            TenantState::Rests => 2,
        };
        let power = size.checked_ilog2().unwrap_or(0) as u8;
        [self.netns, self.id, Rest { stamp: self.stamp, begin, state, power }.word()]
    }

    fn unpack([netns, id, rest]: [u64; WORDS]) -> Self {
        let rest = Rest::of(rest);
        let size = 1u16.checked_shl(rest.power.into()).unwrap_or(0);
        let block = (rest.begin != 0).then_some((rest.begin, size));
        Self { netns, id, stamp: rest.stamp, block, state: rest.state() }
    }
}

/// The last word of `struct tenant`.
#[derive(Clone, Copy, Default)]
struct Rest {
    stamp: u32,
    begin: u16,
    state: u8,
    power: u8,
}

impl Rest {
    fn of(word: u64) -> Self {
        let [a, b, c, d, e, f, state, power] = word.to_ne_bytes();
        Self { stamp: u32::from_ne_bytes([a, b, c, d]), begin: u16::from_ne_bytes([e, f]), state, power }
    }

    fn word(self) -> u64 {
        let ([a, b, c, d], [e, f]) = (self.stamp.to_ne_bytes(), self.begin.to_ne_bytes());
        u64::from_ne_bytes([a, b, c, d, e, f, self.state, self.power])
    }

    /// A state that this version does not know counts as leased: nobody gets what somebody may have.
    fn state(self) -> TenantState {
        match self.state {
            0 => TenantState::Free,
            2 => TenantState::Rests,
            _ => TenantState::Leased,
        }
    }
}

/// What stands for a container's id (64-bit FNV-1a).
pub fn id_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Seconds since the machine was started, sleep included: nobody sets this clock.
pub fn boottime() -> u32 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_sec() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        for state in [TenantState::Free, TenantState::Leased, TenantState::Rests] {
            for block in [None, Some((16, 16)), Some((32768, 16384)), Some((65520, 16))] {
                let tenant = Tenant { netns: u64::MAX, id: 1 << 63, stamp: u32::MAX, block, state };
                assert_eq!(Tenant::unpack(tenant.pack()), tenant);
            }
        }
        assert_eq!(Tenant::default().pack(), [0; 3]);
        assert_eq!(Tenant::unpack([0; 3]), Tenant::default());
    }

    #[test]
    fn layout_follows_the_struct() {
        let state = TenantState::Rests;
        let bytes: Vec<u8> = Tenant { netns: 1, id: 2, stamp: 0x0403_0201, block: Some((0x8000, 1024)), state }
            .pack()
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        assert_eq!(bytes[16..20], 0x0403_0201u32.to_ne_bytes());
        assert_eq!(bytes[20..22], 0x8000u16.to_ne_bytes());
        assert_eq!(bytes[22..], [2, 10]);
    }

    #[test]
    fn hashes_as_published() {
        // http://www.isthe.com/chongo/tech/comp/fnv/: the test vectors of FNV-1a
        assert_eq!(id_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(id_hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(id_hash("foobar"), 0x8594_4171_f739_67e8);
    }
}
