//! Packets for the host's addresses: from the wire, and from processes of the host by its lo.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::address::{is_for_all, is_group, is_loopback, is_martian};
use super::memory::{Receiver, Tenant};
use super::packet::{Content, ETHERNET, Frame, Icmp, Kind, Packet, Part};
use super::size::on_the_wire;
use super::way::strays;
use super::world::World;
use super::{Count, Decision, KEPT, Memory, Size, Verdict, Why, groups};
use crate::net::link::Mac;
use crate::steer::layout::SlotEntry;

/// Bytes of an IPv4 header with all options.
const LONGEST_V4: usize = 60;

/// The MAC of all on a link.
const EVERYBODYS: Mac = [0xff; 6];

/// Whatever is not a container's goes on to the host's stack. A host takes a packet for any of its addresses by any of its devices.
pub fn from_wire(world: &World, memory: &mut Memory, frame: &Frame<'_>, now: Duration) -> Decision {
    let ours = frame.destination() == world.mac(frame.device) && frame.is_of_the_link();
    from_outside(world, memory, frame, now, Way::Wire { ours })
}

/// The same where frames say nothing of whom they are for.
pub fn from_tunnel(world: &World, memory: &mut Memory, frame: &Frame<'_>, now: Duration) -> Decision {
    from_outside(world, memory, frame, now, Way::Tunnel)
}

fn from_outside(world: &World, memory: &mut Memory, frame: &Frame<'_>, now: Duration, way: Way) -> Decision {
    let packet = match readable(frame, Frame::packet_of_anybody) {
        Ok(packet) => packet,
        Err(why) => return Decision::of(Verdict::Stack, why),
    };
    if !world.is_carried(packet.destination) {
        // Some bridges and access points send what is for many to each receiver by his own MAC.
        let taken = way == (Way::Wire { ours: true }) || (way == (Way::Wire { ours: false }) && frame.is_to_many());
        let by_uplink = frame.device == world.host.uplink;
        // A container has the uplink's MAC, and is in groups there.
        let for_all = is_for_all(world, packet.destination) && (by_uplink || frame.destination() == Some(EVERYBODYS));
        return if taken && (for_all || by_uplink && is_group(world, packet.destination)) {
            to_many(world, memory, frame, &packet)
        } else {
            Decision::of(Verdict::Stack, Why::Elsewhere)
        };
    }
    if way == (Way::Wire { ours: false }) {
        return Decision::of(Verdict::Stack, Why::OtherFrame);
    }
    let arrival = Arrival { world, frame, packet, way, now };
    let (receiver, why) = arrival.receiver(memory);
    let martian = is_martian(world, packet.source);
    if martian || strays(world, frame.device, packet.source) {
        // The host's stack drops it; for a container's port no stack is asked.
        let of_container = matches!(receiver, Receiver::Container(_));
        let why = if martian { Why::Martian } else { Why::NoWayBack };
        return Decision::of(if of_container { Verdict::Drop } else { Verdict::Stack }, why);
    }
    arrival.deliver(memory, receiver, why)
}

/// By the uplink, whose groups containers are in. The host's stack gets it in any case.
fn to_many(world: &World, memory: &Memory, frame: &Frame<'_>, packet: &Packet) -> Decision {
    // Of IPv6 alone copies for the host come this way.
    if packet.is_v6() && frame.mark == KEPT {
        return Decision::of(Verdict::Stack, Why::HostsCopy);
    }
    // Who has no address yet speaks to everybody from 0.0.0.0.
    let nobody = packet.source == Ipv4Addr::UNSPECIFIED;
    let refused = is_martian(world, packet.source) || strays(world, frame.device, packet.source);
    let slots = if refused && !nobody { Vec::new() } else { groups::receivers(world, memory, packet, None) };
    if slots.is_empty() {
        return Decision::of(Verdict::Stack, Why::Elsewhere);
    }
    copies(slots, Why::Many, frame, packet)
}

/// A copy to each of these, and to the host.
fn copies(slots: Vec<u16>, why: Why, frame: &Frame<'_>, packet: &Packet) -> Decision {
    let size = on_the_wire(frame, packet);
    let counts = slots.iter().map(|slot| (*slot, Count::Received(size))).collect();
    Decision { counts, ..Decision::of(Verdict::Copies(slots), why) }
}

/// The same for what processes of the host send to the host.
pub fn from_lo(world: &World, memory: &mut Memory, frame: &Frame<'_>, now: Duration) -> Decision {
    let packet = match readable(frame, Frame::packet) {
        Ok(packet) => packet,
        Err(why) => return Decision::of(Verdict::Stack, why),
    };
    if !world.is_local(packet.destination) {
        return Decision::of(Verdict::Stack, Why::Elsewhere);
    }
    let arrival = Arrival { world, frame, packet, way: Way::HostLo, now };
    let (receiver, why) = arrival.receiver(memory);
    arrival.deliver(memory, receiver, why)
}

fn readable<'f>(frame: &Frame<'f>, read: fn(&Frame<'f>) -> Option<Packet>) -> Result<Packet, Why> {
    match frame.kind() {
        Kind::V4 | Kind::V6 => read(frame).ok_or(Why::Malformed),
        Kind::Arp | Kind::Other => Err(Why::NotIp),
    }
}

/// Into a container, if it runs. `locally`: from this host.
pub fn to_container(world: &World, slot: u16, locally: bool, frame: &Frame<'_>, packet: &Packet) -> Option<Decision> {
    let spared = locally && world.has(slot, SlotEntry::SPARE_LOCAL);
    let limited = world.has(slot, SlotEntry::THROUGH_QDISC) && !spared;
    world.runs(slot).then(|| {
        Decision::of(Verdict::Container { slot, limited }, Why::Own)
            .counting(slot, Count::Received(on_the_wire(frame, packet)))
    })
}

/// A packet for an address of the host.
struct Arrival<'a> {
    world: &'a World,
    frame: &'a Frame<'a>,
    packet: Packet,
    way: Way,
    now: Duration,
}

/// How a packet for the host's addresses comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By a device whose frames say whom they are for: is it this host?
    Wire { ours: bool },
    /// By one whose frames do not.
    Tunnel,
    /// From the host itself.
    HostLo,
}

impl Arrival<'_> {
    fn by_lo(&self) -> bool {
        self.way == Way::HostLo
    }

    /// Whose it is: the port's owner's; an ICMP error is of whoever sent what it quotes, an echo reply of all who asked, a later
    /// fragment of whoever has the first.
    fn receiver(&self, memory: &Memory) -> (Receiver, Why) {
        let packet = &self.packet;
        match (packet.part, packet.content) {
            (Part::Later(part), _) => {
                (self.still(memory.owner(self.by_lo(), packet, &part, self.now)), Why::FirstFragment)
            }
            // a container's error about such a packet would quote no port
            (_, Content::Ports { .. }) if packet.ports_are_behind_its_end => (Receiver::Host, Why::Nobodys),
            (_, Content::Ports { destination, .. }) => {
                (self.owner(destination, packet.protocol), Why::Port(destination))
            }
            (_, Content::Icmp(Icmp::Answer(id))) => (Receiver::Askers(packet.source, id), Why::Asked),
            (_, Content::Icmp(Icmp::Error { .. })) => (self.sender_of_quoted(), Why::Quoted),
            _ => (Receiver::Host, Why::Nobodys),
        }
    }

    /// A slot may have got another tenant since a first fragment.
    fn still(&self, receiver: Receiver) -> Receiver {
        match receiver {
            Receiver::Container(tenant) if self.world.tenant(tenant.slot) != tenant => Receiver::Host,
            receiver => receiver,
        }
    }

    fn owner(&self, port: u16, protocol: u8) -> Receiver {
        let owner = self.world.owner(port, protocol);
        owner.map_or(Receiver::Host, |slot| Receiver::Container(self.world.tenant(slot)))
    }

    fn sender_of_quoted(&self) -> Receiver {
        let Some(quoted) = self.packet.quoted(self.frame) else { return Receiver::Host };
        if !is_loopback(quoted.source) && !self.world.is_carried(quoted.source) {
            return Receiver::Host;
        }
        match quoted.content {
            Content::Ports { source, .. } => self.owner(source, quoted.protocol),
            Content::Icmp(Icmp::Ask(id)) => Receiver::Askers(quoted.destination, id),
            _ => Receiver::Host,
        }
    }

    fn deliver(&self, memory: &mut Memory, receiver: Receiver, why: Why) -> Decision {
        let held = self.remember(memory, receiver);
        match receiver {
            Receiver::Host => Decision::of(Verdict::Stack, Why::Nobodys),
            Receiver::Container(tenant) => {
                let delivered = to_container(self.world, tenant.slot, self.by_lo(), self.frame, &self.packet);
                delivered.map_or(Decision::of(Verdict::Stack, Why::Ended), |mut decision| {
                    decision.counts.extend(held.into_iter().map(|size| (tenant.slot, Count::Received(size))));
                    Decision { why, ..decision }
                })
            }
            Receiver::Askers(whom, id) => self.to_askers(memory.askers(whom, id, self.now)),
        }
    }

    /// A first fragment tells where later ones go. Those that came by the wire before it go along: what they are as frames, which are
    /// no shorter than with the longest header of IPv4.
    fn remember(&self, memory: &mut Memory, receiver: Receiver) -> Vec<Size> {
        let by_wire = matches!(self.way, Way::Wire { .. });
        match self.packet.part {
            Part::First(part) => {
                memory.came(self.by_lo(), &self.packet, &part, receiver, self.now);
                if !by_wire || matches!(receiver, Receiver::Askers(..)) {
                    return Vec::new();
                }
                let frame = |bytes: usize| Size { packets: 1, bytes: (ETHERNET + bytes.max(LONGEST_V4)) as u64 };
                memory.bring(&self.packet, &part, self.now).into_iter().map(frame).collect()
            }
            Part::Later(part) if by_wire && memory.owner(false, &self.packet, &part, self.now) == Receiver::Host => {
                memory.hold(&self.packet, &part, self.frame.bytes.len() - ETHERNET, self.now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// As processes of one host, all who asked get the answer, and the host, which may have asked as well.
    fn to_askers(&self, askers: Vec<Tenant>) -> Decision {
        let there = |by: &Tenant| self.world.tenant(by.slot) == *by && self.world.runs(by.slot);
        let slots: Vec<u16> = askers.into_iter().filter(there).map(|by| by.slot).collect();
        if slots.is_empty() {
            return Decision::of(Verdict::Stack, Why::NobodyAsked);
        }
        copies(slots, Why::Asked, self.frame, &self.packet)
    }
}
