//! What is remembered between packets: where a datagram's first part went, who asked for echoes, and who joined which group.
//!
//! The programs remember the same in tables of a fixed size, where a flood pushes out its own; this memory forgets by age
//! alone. Times are those of any clock that only goes forward.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::World;
use super::groups::Change;
use super::packet::{Fragment, Packet};

/// How long an echo may take to be answered. ping waits 10 s.
const ANSWERED: Duration = Duration::from_millis(10_700);
/// How long a first fragment tells where later ones go: a sender sends all of a datagram at once.
const FOLLOWED: Duration = Duration::from_secs(5);
/// How long a receiver waits for the rest of a datagram: the longer of Linux's two defaults (`IP6_FRAG_TIMEOUT`).
const HELD: Duration = Duration::from_secs(60);
/// Datagrams that a container may have unfinished.
pub const UNFINISHED: usize = 16;
/// Their bytes: so much of a receiver's memory is in its hands.
pub const UNFINISHED_BYTES: usize = 131_072;
/// Bytes of the largest datagram.
const DATAGRAM: usize = 65_535;
/// Bytes of the largest later fragment that is kept: what a jumbo frame holds.
const LARGEST_HELD: usize = 9216;
/// First fragments that a container's lo remembers. Nobody is harmed by those: what leaves lo is looked at once more.
const LEFT_LO: usize = 8;

/// Groups that a container may have joined, that of all hosts among them.
const JOINS: usize = 32;

/// A container, for as long as its lease lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its slot.
    pub slot: u16,
    /// Of the lease: the slot's next tenant has another.
    pub epoch: u32,
}

/// Whom a packet from outside is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// The host.
    Host,
    /// A container.
    Container(Tenant),
    /// All who asked this address under this id.
    Askers(IpAddr, u16),
}

/// What tells a datagram on its way in from all others: how it came (by lo?), addresses, id, protocol.
type Datagram = (bool, IpAddr, IpAddr, u32, Option<u8>);

/// What is remembered.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    asked: Vec<Asked>,
    arriving: BTreeMap<Datagram, (Receiver, Duration)>,
    /// Later fragments whose first one has not come, and bytes of their IP packets.
    held: Vec<(Datagram, usize, Duration)>,
    sending: BTreeMap<u16, Vec<Sending>>,
    left: BTreeMap<u16, VecDeque<Sending>>,
    joined: BTreeMap<u16, (u32, BTreeSet<IpAddr>)>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    by: Tenant,
    whom: IpAddr,
    id: u16,
    at: Duration,
}

/// A datagram that a container has begun to send.
#[derive(Clone, Copy, Debug)]
struct Sending {
    epoch: u32,
    destination: IpAddr,
    id: u32,
    protocol: Option<u8>,
    /// The slot it goes to; 0: the host or the world.
    to: u16,
    begun: Duration,
    /// Bytes that went so far, without a gap.
    sent: usize,
    /// Will its receiver take all that went so far?
    certain: bool,
    /// Was it begun anew? Then nothing follows this beginning, but its receiver waits.
    left: bool,
}

impl Sending {
    fn new(epoch: u32, packet: &Packet, part: &Fragment, to: u16, now: Duration) -> Self {
        let (certain, sent) = (part.certain && part.more, part.length);
        let (id, protocol) = (part.id, part.protocol);
        Self { epoch, destination: packet.destination, id, protocol, to, begun: now, sent, certain, left: false }
    }

    fn is_of(&self, packet: &Packet, part: &Fragment) -> bool {
        !self.left && (self.destination, self.id, self.protocol) == (packet.destination, part.id, part.protocol)
    }
}

impl Memory {
    /// That of a host whose containers have joined groups before.
    pub fn of(world: &World) -> Self {
        let mut memory = Self::default();
        for (slot, group) in &world.joined {
            memory.reports(world.tenant(*slot), &[(*group, true)]);
        }
        memory
    }

    /// A container reports groups that it joined or left. That holds until it reports otherwise, or ends: there may be nobody on
    /// the link who asks again. What it joins beyond its share is not noted.
    pub fn reports(&mut self, by: Tenant, changes: &[Change]) {
        let (epoch, groups) = self.joined.entry(by.slot).or_default();
        if *epoch != by.epoch {
            (*epoch, *groups) = (by.epoch, BTreeSet::new());
        }
        for (group, joins) in changes {
            if !joins {
                groups.remove(group);
            } else if groups.len() < JOINS {
                groups.insert(*group);
            }
        }
    }

    /// Has a container joined a group?
    pub fn has_joined(&self, by: Tenant, group: IpAddr) -> bool {
        self.joined.get(&by.slot).is_some_and(|(epoch, groups)| *epoch == by.epoch && groups.contains(&group))
    }

    /// A container asked for an echo.
    pub fn asked(&mut self, by: Tenant, whom: IpAddr, id: u16, now: Duration) {
        self.asked.retain(|old| now - old.at < ANSWERED && (old.by.slot, old.whom, old.id) != (by.slot, whom, id));
        self.asked.push(Asked { by, whom, id, at: now });
    }

    /// The containers that asked `whom` under `id`, by slot.
    pub fn askers(&self, whom: IpAddr, id: u16, now: Duration) -> Vec<Tenant> {
        let fits = |asked: &&Asked| (asked.whom, asked.id) == (whom, id) && now - asked.at < ANSWERED;
        let mut askers: Vec<Tenant> = self.asked.iter().filter(fits).map(|asked| asked.by).collect();
        askers.sort_by_key(|tenant| tenant.slot);
        askers
    }

    /// A first fragment came for somebody: later ones follow it, and no longer an older one's.
    pub fn came(&mut self, by_lo: bool, packet: &Packet, part: &Fragment, to: Receiver, now: Duration) {
        self.arriving.insert(datagram(by_lo, packet, part), (to, now));
    }

    /// Whom a later fragment is for.
    pub fn owner(&self, by_lo: bool, packet: &Packet, part: &Fragment, now: Duration) -> Receiver {
        match self.arriving.get(&datagram(by_lo, packet, part)) {
            Some((to, at)) if now - *at < FOLLOWED => *to,
            _ => Receiver::Host,
        }
    }

    /// A later fragment came by a wire before its first one, in an IP packet of so many bytes: a copy is kept for that.
    pub fn hold(&mut self, packet: &Packet, part: &Fragment, bytes: usize, now: Duration) {
        if bytes <= LARGEST_HELD {
            self.held.push((datagram(false, packet, part), bytes, now));
        }
    }

    /// What was kept for a first fragment, which comes by a wire now: bytes of each.
    pub fn bring(&mut self, packet: &Packet, part: &Fragment, now: Duration) -> Vec<usize> {
        let of = datagram(false, packet, part);
        let (brought, rest) = self.held.drain(..).partition(|(whose, _, _)| *whose == of);
        self.held = rest;
        let brought: Vec<_> = brought;
        brought.into_iter().filter(|(_, _, at)| now - *at < FOLLOWED).map(|(_, bytes, _)| bytes).collect()
    }

    /// A container begins to send a datagram to `to`. `false`: too much of what it began is unfinished.
    pub fn begins(&mut self, by: Tenant, packet: &Packet, part: &Fragment, to: u16, now: Duration) -> bool {
        let open = self.open(by, now);
        let bytes: usize = open.iter().map(|sending| sending.sent).sum();
        if open.len() >= UNFINISHED || bytes + part.length > UNFINISHED_BYTES {
            return false;
        }
        if let Some(older) = open.iter_mut().find(|sending| sending.is_of(packet, part)) {
            older.left = true;
        }
        open.push(Sending::new(by.epoch, packet, part, to, now));
        true
    }

    /// Where a later fragment that a container sends goes, which is where the first one went. `None` where none went, or this
    /// is not the next part, or too much would be unfinished.
    pub fn follows(&mut self, by: Tenant, packet: &Packet, part: &Fragment, now: Duration) -> Option<u16> {
        let open = self.open(by, now);
        let bytes: usize = open.iter().map(|sending| sending.sent).sum();
        let at = open.iter().position(|sending| sending.is_of(packet, part))?;
        let sending = &mut open[at];
        let next = now - sending.begun < FOLLOWED && part.offset == sending.sent;
        if !next || bytes + part.length > UNFINISHED_BYTES || part.offset + part.length > DATAGRAM {
            return None;
        }
        sending.sent += part.length;
        sending.certain &= part.certain;
        let to = sending.to;
        // What its receiver has in full waits for nothing; what it may have refused a part of, waits.
        if !part.more && sending.certain {
            open.remove(at);
        }
        Some(to)
    }

    /// What receivers still wait for the rest of.
    fn open(&mut self, by: Tenant, now: Duration) -> &mut Vec<Sending> {
        let open = self.sending.entry(by.slot).or_default();
        open.retain(|sending| sending.epoch == by.epoch && now - sending.begun < HELD);
        open
    }

    /// A first fragment leaves a container's lo.
    pub fn left_lo(&mut self, by: Tenant, packet: &Packet, part: &Fragment, now: Duration) {
        let left = self.left.entry(by.slot).or_default();
        left.push_back(Sending::new(by.epoch, packet, part, 0, now));
        if left.len() > LEFT_LO {
            left.pop_front();
        }
    }

    /// Did the first fragment of a later one leave it?
    pub fn leaves_lo(&self, by: Tenant, packet: &Packet, part: &Fragment, now: Duration) -> bool {
        let fits = |old: &Sending| old.epoch == by.epoch && old.is_of(packet, part) && now - old.begun < FOLLOWED;
        self.left.get(&by.slot).is_some_and(|left| left.iter().any(fits))
    }
}

fn datagram(by_lo: bool, packet: &Packet, part: &Fragment) -> Datagram {
    (by_lo, packet.source, packet.destination, part.id, part.protocol)
}
