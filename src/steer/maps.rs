//! The maps from user space: who has a port, where a slot leads, what the host looks like, what was counted.
//!
//! Layouts mirror `bpf/maps.h`. Ports are written through shared memory: ten thousand of them cost no system call.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;

use super::book::Book;
use super::layout::{Addresses, Counters, Holder, HostFacts, MAX_ADDRESSES, REASONS, SlotEntry};
use super::names::Naming;
use super::namespaces::{HOST, Namespaces};
use super::offers::Offers;
use super::shared::{Words, open, possible_cpus};
use super::sys;
use super::tenants::Tenants;
use super::word::{Holding, NUMBERS, Word, now};
use crate::error::{Error, Result};
use crate::ports::{PortRange, PortSet};

/// Bytes of a value of `devices`: `struct bpf_devmap_val`.
const DEVICE: usize = 8;
const COUNTER_WORDS: usize = size_of::<Counters>() / 8;

/// Who has a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its slot.
    pub slot: u16,
    /// Do packets go there? Otherwise the port is only kept for it.
    pub steered: bool,
}

/// A port that cannot be leased: sockets of another container hold it, or it is leased to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The port.
    pub port: u16,
    /// The slot of whoever has it.
    pub by: u16,
}

/// The maps.
pub struct Maps {
    ports: Words,
    slots: OwnedFd,
    counters: OwnedFd,
    host: OwnedFd,
    addresses: OwnedFd,
    devices: OwnedFd,
    cpus: usize,
    /// The lease records.
    pub book: Book,
    /// Who has which slot.
    pub tenants: Tenants,
    /// Whose namespaces the programs at the sockets know; `None` where there are no such programs.
    pub namespaces: Option<Namespaces>,
    /// The names of ports; `None` where there are no such programs.
    pub names: Option<Naming>,
    /// What containers may claim; `None` where there are no such programs.
    pub(super) offers: Option<Offers>,
}

impl Maps {
    /// Opens the maps pinned under `directory`.
    pub fn open(directory: &Path) -> Result<Self> {
        let maps = Self::from_fds(|name| open(directory, name))?;
        let (namespaces, names) = (Namespaces::open(directory)?, Naming::open(directory)?);
        Ok(Self { namespaces, names, offers: Offers::open(directory)?, ..maps })
    }

    /// Takes the maps of the data path from descriptors, which `fd` has by name.
    pub fn from_fds(mut fd: impl FnMut(&str) -> Result<OwnedFd>) -> Result<Self> {
        Ok(Self {
            ports: Words::map(&fd("ports")?, "ports", 2 * NUMBERS)?,
            slots: fd("slots")?,
            counters: fd("counters")?,
            host: fd("host")?,
            addresses: fd("addresses")?,
            devices: fd("devices")?,
            cpus: possible_cpus()?,
            book: Book::from_fd(fd("book")?),
            tenants: Tenants::from_fd(&fd("tenants")?)?,
            namespaces: None,
            names: None,
            offers: None,
        })
    }

    /// Keeps `ports` for `slot`, of both protocols; packets to them go to the host's stack. None of them, if another container has
    /// one: a socket may have claimed it since the ports were chosen. Whether the host's own sockets use one is the caller's to look
    /// at.
    pub fn reserve(&self, ports: &PortSet, slot: u16) -> std::result::Result<(), Taken> {
        let (now, lease) = (now(), Word::leased(slot, false));
        let mut done = Vec::new();
        for port in ports.iter() {
            for at in both(port) {
                let by = |word: Word| other(word, slot, now);
                match self.change(at, |word| by(word).is_none().then(|| word.replaced_by(lease))) {
                    Some(before) => done.push((at, before)),
                    None => {
                        let by = by(self.word(at)).unwrap_or(slot);
                        // what it claimed itself is given back as it was, unless its sockets went meanwhile
                        for (at, before) in done {
                            self.change(at, |word| (word.holding() == lease.holding()).then_some(before));
                        }
                        return Err(Taken { port, by });
                    }
                }
            }
        }
        // what was claimed is leased now, and counts for the claims no more
        let claimed = |word: &Word| match word.holding() {
            Holding::Claimed { slot: of, sockets } => of == slot && (sockets > 0 || word.is_looked_after()),
            Holding::Free | Holding::Leased { .. } => false,
        };
        let claims = done.iter().filter(|(_, before)| claimed(before)).count() as u64;
        self.count_claims(slot, claims.wrapping_neg());
        Ok(())
    }

    /// Makes `slot` the owner of `ports`, of both protocols. From this moment packets to them are steered. What sockets of another
    /// container hold stays theirs.
    pub fn publish(&self, ports: &PortSet, slot: u16) {
        let (now, lease) = (now(), Word::leased(slot, true));
        let claimed =
            |word: Word| matches!(word.holding(), Holding::Claimed { .. }) && other(word, slot, now).is_some();
        self.exchange(ports, |word| !claimed(word), lease);
    }

    /// Stops steering those of `ports` that are steered to `slot`. They stay reserved for it.
    pub fn unpublish(&self, ports: &PortSet, slot: u16) {
        let steered = Holding::Leased { slot, steered: true };
        self.exchange(ports, |word| word.holding() == steered, Word::leased(slot, false));
    }

    /// Gives back those of `ports` that `slot` still has leased, steered or reserved.
    pub fn withdraw(&self, ports: &PortSet, slot: u16) {
        let is_its = |word: Word| matches!(word.holding(), Holding::Leased { slot: of, .. } if of == slot);
        self.exchange(ports, is_its, Word::default());
    }

    /// Which container has `port`: a lease has it of both protocols, sockets have it of one or both; `None` for one that is free, or
    /// the host's.
    pub fn owner(&self, port: u16) -> Option<Owner> {
        let now = now();
        both(port).into_iter().find_map(|at| owner_of(self.word(at), now))
    }

    /// The slot that packets of one protocol to `port` go to; `None`: to the host's stack.
    pub fn steered(&self, port: u16, udp: bool) -> Option<u16> {
        Some(self.word(both(port)[usize::from(udp)]).steered()).filter(|slot| *slot != 0)
    }

    /// May datagrams be sent from the UDP port `port` by everybody who shares it? Nobody has it, or only sockets that share it.
    pub(super) fn is_shared(&self, port: u16) -> bool {
        let word = self.word(both(port)[1]);
        word.holding() == Holding::Free || word.is_shared()
    }

    /// The ports of `within` that a container has, by lease or by its sockets; one that rests after its last socket among them.
    pub fn taken(&self, within: PortRange) -> PortSet {
        self.taken_by_others(within, HOST)
    }

    /// The same, but for those of `slot`.
    pub fn taken_by_others(&self, within: PortRange, slot: u16) -> PortSet {
        let now = now();
        let half = |half: usize| {
            let mut taken = PortSet::empty();
            self.each_word(range_of(within, half), |at, word| {
                if other(word, slot, now).is_some() {
                    taken.push((at % NUMBERS) as u16);
                }
            });
            taken
        };
        half(0).union(&half(NUMBERS))
    }

    /// The ports of `within` that are leased, steered or not.
    pub fn leased(&self, within: PortRange) -> PortSet {
        let mut leased = PortSet::empty();
        self.each_word(range_of(within, 0), |at, word| {
            if matches!(word.holding(), Holding::Leased { .. }) {
                leased.push(at as u16);
            }
        });
        leased
    }

    /// The leased ports that are steered to `slot`, and those that are only reserved for it.
    pub fn owned(&self, slot: u16) -> (PortSet, PortSet) {
        let (mut steered, mut reserved) = (PortSet::empty(), PortSet::empty());
        self.each_word(0..NUMBERS, |at, word| match word.holding() {
            Holding::Leased { slot: of, steered: true } if of == slot => steered.push(at as u16),
            Holding::Leased { slot: of, steered: false } if of == slot => reserved.push(at as u16),
            _ => {}
        });
        (steered, reserved)
    }

    /// Each word at the places `within` that somebody has, in order.
    pub(super) fn each_word(&self, within: Range<usize>, mut found: impl FnMut(usize, Word)) {
        /// Words that are looked at together: nobody has most of them.
        const TOGETHER: usize = 32;
        let words = &self.ports.all()[within.clone()];
        for (from, some) in within.step_by(TOGETHER).zip(words.chunks(TOGETHER)) {
            if some.iter().fold(0, |any, word| any | word.load(Ordering::Relaxed)) == 0 {
                continue;
            }
            for (at, word) in (from..).zip(some) {
                let word = Word(word.load(Ordering::Acquire));
                if word.holding() != Holding::Free {
                    found(at, word);
                }
            }
        }
    }

    /// Changes the word at a place to what `new` makes of it, at one moment, and returns what it was; `None`: it stays.
    pub(super) fn change(&self, at: usize, new: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let word = &self.ports.all()[at];
        let done = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| new(Word(word)).map(|word| word.0));
        done.ok().map(Word)
    }

    fn exchange(&self, ports: &PortSet, chosen: impl Fn(Word) -> bool, new: Word) {
        for at in ports.iter().flat_map(both) {
            self.change(at, |word| chosen(word).then(|| word.replaced_by(new)));
        }
    }

    fn word(&self, at: usize) -> Word {
        Word(self.ports.all()[at].load(Ordering::Acquire))
    }

    /// Enters the host's end of a slot's pair. The kernel looks the device up in the calling thread's network namespace,
    /// and takes the entry out when the device goes.
    pub fn set_device(&self, slot: u16, ifindex: u32) -> Result<()> {
        // struct bpf_devmap_val: the device, and no program
        let mut value = [0u8; DEVICE];
        value[..4].copy_from_slice(&ifindex.to_ne_bytes());
        sys::update(self.devices.as_fd(), &key(slot), &value).map_err(failed("enter the device of slot", slot))
    }

    /// Forgets the device of a slot; success when there is none.
    pub fn clear_device(&self, slot: u16) -> Result<()> {
        match sys::delete(self.devices.as_fd(), &key(slot)) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(failed("forget the device of slot", slot)(e)),
            _ => Ok(()),
        }
    }

    /// Interface index of the host's end of a slot's pair, as long as that exists.
    pub fn device(&self, slot: u16) -> Result<Option<u32>> {
        let mut value = [0u8; DEVICE];
        match sys::lookup(self.devices.as_fd(), &key(slot), &mut value) {
            Ok(()) => {
                let ifindex = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
                Ok(Some(ifindex).filter(|ifindex| *ifindex != 0))
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(failed("look up the device of slot", slot)(e)),
        }
    }

    /// Fills in a slot.
    pub fn set_slot(&self, slot: u16, entry: SlotEntry) -> Result<()> {
        sys::update(self.slots.as_fd(), &key(slot), &entry.bytes()).map_err(failed("write slot", slot))
    }

    /// Tells the programs through which device limited containers send; the slot of the host stands for it, so that
    /// nobody who writes [`HostFacts`] from older knowledge takes it back.
    pub fn set_shaper(&self, ifindex: u32) -> Result<()> {
        self.set_slot(0, SlotEntry { ifindex, ..SlotEntry::default() })
    }

    /// Changes what the programs do with a slot that is in service.
    pub fn set_flags(&self, slot: u16, flags: u32) -> Result<()> {
        let entry = self.slot(slot)?;
        if entry.flags == flags { Ok(()) } else { self.set_slot(slot, SlotEntry { flags, ..entry }) }
    }

    /// Takes a slot out of service: its device is inert from this moment.
    pub fn clear_slot(&self, slot: u16) -> Result<()> {
        self.set_slot(slot, SlotEntry::default())
    }

    /// A slot as it is.
    pub fn slot(&self, slot: u16) -> Result<SlotEntry> {
        let mut value = [0; SlotEntry::BYTES];
        sys::lookup(self.slots.as_fd(), &key(slot), &mut value).map_err(failed("read slot", slot))?;
        Ok(SlotEntry::of(&value))
    }

    /// What was counted for a slot.
    pub fn counters(&self, slot: u16) -> Result<Counters> {
        let mut value = vec![0u8; self.cpus * size_of::<Counters>()];
        sys::lookup(self.counters.as_fd(), &key(slot), &mut value).map_err(failed("read counters of slot", slot))?;
        let mut sum = [0u64; COUNTER_WORDS];
        for (i, word) in value.chunks_exact(8).enumerate() {
            let word = u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            sum[i % COUNTER_WORDS] = sum[i % COUNTER_WORDS].wrapping_add(word);
        }
        let mut drops = [0; REASONS.len()];
        drops.copy_from_slice(&sum[4..]);
        Ok(Counters { rx_packets: sum[0], rx_bytes: sum[1], tx_packets: sum[2], tx_bytes: sum[3], drops })
    }

    /// Sets the counters of a slot to zero, for its next tenant.
    pub fn reset_counters(&self, slot: u16) -> Result<()> {
        let zero = vec![0u8; self.cpus * size_of::<Counters>()];
        sys::update(self.counters.as_fd(), &key(slot), &zero).map_err(failed("reset counters of slot", slot))
    }

    /// Do the programs know the host as it is?
    pub fn has_host(&self, facts: &HostFacts, addresses: &Addresses) -> Result<bool> {
        let mut now = [0u8; size_of::<HostFacts>()];
        if sys::lookup(self.host.as_fd(), &0u32.to_ne_bytes(), &mut now).is_err() || now != facts.bytes() {
            return Ok(false);
        }
        check_number(addresses)?;
        let known = self.known_addresses()?;
        Ok(known.len() == addresses.len() && known.iter().all(|(ip, value)| is_known_as(addresses, ip, *value)))
    }

    /// Tells the programs what the host looks like. Writes only what differs.
    pub fn set_host(&self, facts: &HostFacts, addresses: &Addresses) -> Result<()> {
        let fail = |what: &'static str| {
            move |e: io::Error| Error::Bpf { doing: format!("write the host's {what}"), why: e.to_string() }
        };
        check_number(addresses)?;
        // Room first. Addresses before the facts: while they are being added the old facts still say "look them up".
        let known = self.known_addresses()?;
        let crowded = known.len() + addresses.len() > MAX_ADDRESSES;
        let forget = || {
            for ip in known.keys().filter(|ip| !addresses.contains_key(*ip)) {
                let _ = sys::delete(self.addresses.as_fd(), &mapped(*ip));
            }
        };
        if crowded {
            forget();
        }
        for (ip, holder) in addresses {
            let value = holder.bytes();
            if known.get(ip) != Some(&value) {
                sys::update(self.addresses.as_fd(), &mapped(*ip), &value).map_err(fail("addresses"))?;
            }
        }
        let value = facts.bytes();
        let mut now = [0u8; size_of::<HostFacts>()];
        let zero = 0u32.to_ne_bytes();
        if sys::lookup(self.host.as_fd(), &zero, &mut now).is_err() || now != value {
            sys::update(self.host.as_fd(), &zero, &value).map_err(fail("facts"))?;
        }
        forget();
        Ok(())
    }

    /// The host as the programs know it.
    pub fn host(&self) -> Result<HostFacts> {
        let mut value = [0u8; size_of::<HostFacts>()];
        let fail = |e: io::Error| Error::Bpf { doing: "read the host's facts".into(), why: e.to_string() };
        sys::lookup(self.host.as_fd(), &0u32.to_ne_bytes(), &mut value).map_err(fail)?;
        Ok(HostFacts::of_bytes(&value))
    }

    /// The host's addresses as the programs know them.
    pub fn addresses(&self) -> Result<Addresses> {
        Ok(self.known_addresses()?.into_iter().filter_map(|(ip, value)| Some((ip, Holder::of(value)?))).collect())
    }

    fn known_addresses(&self) -> Result<BTreeMap<IpAddr, [u8; Holder::BYTES]>> {
        let fail = |e: io::Error| Error::Bpf { doing: "read the host's addresses".into(), why: e.to_string() };
        let known: Vec<([u8; 16], [u8; Holder::BYTES])> = sys::entries(self.addresses.as_fd()).map_err(fail)?;
        Ok(known.into_iter().map(|(ip, value)| (Ipv6Addr::from(ip).to_canonical(), value)).collect())
    }
}

fn is_known_as(addresses: &Addresses, ip: &IpAddr, value: [u8; Holder::BYTES]) -> bool {
    addresses.get(ip).is_some_and(|holder| holder.bytes() == value)
}

fn check_number(addresses: &Addresses) -> Result<()> {
    let number = addresses.len();
    if number <= MAX_ADDRESSES {
        return Ok(());
    }
    Err(Error::unsupported(
        format!("the host has {number} addresses, more than the {MAX_ADDRESSES} that the data path can know"),
        "take some away, or route their network to the host as one",
    ))
}

/// The places of a port's words, of TCP and of UDP.
fn both(port: u16) -> [usize; 2] {
    [port.into(), NUMBERS + usize::from(port)]
}

/// The places of `within` in the half that begins at `half`.
fn range_of(within: PortRange, half: usize) -> Range<usize> {
    half + usize::from(within.begin())..half + usize::from(within.end()) + 1
}

/// The container that has a port; `None` where nobody has it, or the host.
fn owner_of(word: Word, now: u16) -> Option<Owner> {
    match word.holding() {
        Holding::Leased { slot, steered } => Some(Owner { slot, steered }),
        Holding::Claimed { slot: HOST, .. } | Holding::Free => None,
        Holding::Claimed { .. } if word.past_for(now).is_some() => None,
        Holding::Claimed { slot, .. } => Some(Owner { slot, steered: true }),
    }
}

/// The container other than `slot` that has a port.
fn other(word: Word, slot: u16, now: u16) -> Option<u16> {
    owner_of(word, now).map(|owner| owner.slot).filter(|of| *of != slot)
}

/// IPv4 as ::ffff:a.b.c.d.
fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}

fn key(slot: u16) -> [u8; 4] {
    u32::from(slot).to_ne_bytes()
}

fn failed(doing: &'static str, slot: u16) -> impl Fn(io::Error) -> Error {
    move |e| Error::Bpf { doing: format!("{doing} {slot}"), why: e.to_string() }
}
