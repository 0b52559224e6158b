//! Packets that a container sends: what it may send, and where that goes.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::address::{is_group, is_loopback};
use super::inbound::to_container;
use super::packet::{Content, Frame, Icmp, Kind, Packet, Part};
use super::size::on_the_wire;
use super::way::{self, Refused};
use super::world::World;
use super::{Count, Decision, Memory, Refusal, Size, Verdict, Why, groups};
use crate::net::link::Mac;
use crate::steer::layout::{MAX_SLOTS, SlotEntry};

/// The MAC of lo: frames that come from a container's own lo still have it.
const OF_LO: Mac = [0; 6];

/// What comes out of a container's device.
pub fn from_container(world: &World, memory: &mut Memory, slot: u16, frame: &Frame<'_>, now: Duration) -> Decision {
    // The lease is gone, or the slot has a new tenant.
    let device = world.slot(slot).ifindex;
    if device == 0 || device != frame.device {
        return Decision::of(Verdict::Drop, Why::Inert);
    }
    let packet = match admitted(world, frame) {
        Ok(packet) => packet,
        Err(refusal) => return Decision::refused(slot, refusal),
    };
    let departure = Departure { world, slot, frame, packet };
    let to = match departure.passes(memory, now) {
        Ok(to) => to,
        Err(refused) => return refused.by(world, slot),
    };
    let spared = world.is_local(packet.destination) && world.has(slot, SlotEntry::SPARE_LOCAL);
    let decision = if world.has(slot, SlotEntry::SHAPED) && !spared {
        Decision::of(Verdict::Shaper { to }, Why::Own)
    } else {
        departure.leave(memory, to)
    };
    Decision { source: departure.source(), ..decision }
}

/// What waited for its turn. Whose it is and, for what has no port, whom it is for stands in its mark; the port may have another
/// owner by now.
pub fn after_shaper(world: &World, memory: &Memory, frame: &Frame<'_>) -> Decision {
    let (slot, marked) = (frame.mark as u16, (frame.mark >> 16) as u16);
    if slot == 0 || slot >= MAX_SLOTS || world.slot(slot).ifindex == 0 {
        return Decision::of(Verdict::Drop, Why::Inert);
    }
    let Some(packet) = frame.packet() else { return Decision::refused(slot, Refusal::Malformed) };
    let to = match packet.content {
        Content::Ports { destination, .. } => world.owner(destination, packet.protocol).unwrap_or(0),
        _ => marked,
    };
    Departure { world, slot, frame, packet }.leave(memory, to)
}

/// The packet of a frame that a container may send: with its own MAC, for no VLAN, and IP.
fn admitted(world: &World, frame: &Frame<'_>) -> Result<Packet, Refusal> {
    let source = frame.source().ok_or(Refusal::Malformed)?;
    if source != world.host.mac && source != OF_LO {
        return Err(Refusal::SourceMac);
    }
    if frame.vlan.is_some() {
        return Err(Refusal::Protocol);
    }
    match frame.kind() {
        Kind::V4 | Kind::V6 => frame.packet().ok_or(Refusal::Malformed),
        Kind::Arp => Err(Refusal::Neighbor),
        Kind::Other => Err(Refusal::Protocol),
    }
}

/// A packet of a container's.
struct Departure<'a> {
    world: &'a World,
    slot: u16,
    frame: &'a Frame<'a>,
    packet: Packet,
}

impl Departure<'_> {
    /// May the container send the packet, and to which slot does it go (0: the host, or the world)? What is remembered of a packet is
    /// noted once it passed every wall: nothing follows, or answers, what did not go.
    fn passes(&self, memory: &mut Memory, now: Duration) -> Result<u16, Refused> {
        let Self { world, slot, frame, ref packet } = *self;
        let by = world.tenant(slot);
        let to = self.may_be_sent(memory, now)?;
        let local = world.is_local(packet.destination);
        let to = if local { to } else { 0 };
        if !local {
            way::by_facts(world, frame, packet)?;
        }
        if let Part::First(part) = packet.part
            && !memory.begins(by, packet, &part, to, now)
        {
            return Err(Refusal::Fragment.into());
        }
        if let Content::Icmp(Icmp::Ask(id)) = packet.content {
            memory.asked(by, packet.destination, id, now);
        }
        if groups::is_about_groups(packet) {
            memory.reports(by, &groups::reported(frame, packet).unwrap_or_default());
        }
        Ok(to)
    }

    /// Whom the packet is for (0: the host, or the world), by what it says itself.
    fn may_be_sent(&self, memory: &mut Memory, now: Duration) -> Result<u16, Refusal> {
        let Self { world, slot, frame, ref packet } = *self;
        let by = world.tenant(slot);
        let looped = is_loopback(packet.destination);
        let own = if is_loopback(packet.source) { looped } else { world.is_carried(packet.source) };
        // A stack without an address of the link reports from none.
        let own = own || (packet.source.is_unspecified() && packet.content == Content::Icmp(Icmp::Group));
        if !own {
            return Err(Refusal::SourceAddress);
        }
        let to = match (packet.part, packet.content) {
            (Part::Later(part), _) => memory.follows(by, packet, &part, now).ok_or(Refusal::Fragment)?,
            (_, Content::Ports { source, destination }) => {
                let shared = || groups::is_shared_port(world, packet) && memory.has_joined(by, packet.destination);
                if world.owner(source, packet.protocol) != Some(slot) && !shared() {
                    return Err(Refusal::SourcePort);
                }
                world.owner(destination, packet.protocol).unwrap_or(0)
            }
            _ if groups::is_about_groups(packet) => {
                groups::reported(frame, packet).map(|_| 0).ok_or(Refusal::Neighbor)?
            }
            (_, Content::Icmp(icmp)) => self.may_tell(icmp)?,
            _ => return Err(Refusal::Protocol),
        };
        if looped && to == 0 && !world.has(slot, SlotEntry::HOST_LOOPBACK) {
            return Err(Refusal::HostLoopback);
        }
        Ok(to)
    }

    /// May the container send an ICMP message, and to whom does it go? It may ask for echoes, and complain about a packet that was
    /// really sent to it: from where the complaint goes, to an address of its own and a port of its own.
    fn may_tell(&self, icmp: Icmp) -> Result<u16, Refusal> {
        let Self { world, slot, frame, ref packet } = *self;
        let too_big = match icmp {
            Icmp::Ask(_) => return Ok(0),
            Icmp::Answer(_) => return Err(Refusal::Echo),
            Icmp::Link | Icmp::Group => return Err(Refusal::Neighbor),
            Icmp::Other => return Err(Refusal::Icmp),
            Icmp::Error { too_big } => too_big,
        };
        let local = world.is_local(packet.destination);
        // Nothing that stays on this host is too big. The receiver would believe it of every way to that address.
        if too_big && local {
            return Err(Refusal::Icmp);
        }
        let quoted = packet.quoted(frame).ok_or(Refusal::Icmp)?;
        let Content::Ports { source, destination } = quoted.content else { return Err(Refusal::Icmp) };
        let to_address = if is_loopback(quoted.destination) { local } else { world.is_carried(quoted.destination) };
        let to_its_port = world.owner(destination, quoted.protocol) == Some(slot);
        if quoted.source != packet.destination || !to_address || !to_its_port {
            return Err(Refusal::Icmp);
        }
        Ok(world.owner(source, quoted.protocol).unwrap_or(0))
    }

    /// The address that it goes on from, if that is not its own: a report has to come from one of the link (RFC 3810 5.2.13), which
    /// a container does not have.
    fn source(&self) -> Option<IpAddr> {
        let of_link = Ipv6Addr::from(self.world.host.v6_link);
        let reports = self.packet.content == Content::Icmp(Icmp::Group);
        (reports && !of_link.is_unspecified()).then_some(of_link.into())
    }

    /// Where a packet goes that may leave its container.
    fn leave(&self, memory: &Memory, to: u16) -> Decision {
        let Self { world, slot, frame, ref packet } = *self;
        let size = on_the_wire(frame, packet);
        let of_uplink = is_group(world, packet.destination).then_some(world.host.uplink);
        let to_all = match way::to_all(world, frame, packet) {
            Ok(device) => device,
            Err(refused) => return refused.by(world, slot),
        };
        let mut decision = if let Some(device) = of_uplink.or(to_all) {
            let verdict = groups::leave(world, memory, packet, slot, device);
            let counts = verdict.copies().iter().map(|slot| (*slot, Count::Received(size))).collect();
            Decision { counts, ..Decision::of(verdict, Why::Own) }
        } else if !world.is_local(packet.destination) {
            match way::by_routes(world, frame, packet) {
                Ok(way) => Decision::of(way, Why::Own),
                Err(refused) => return refused.by(world, slot),
            }
        } else {
            let why = match packet.content {
                Content::Ports { destination, .. } => Why::Port(destination),
                _ => Why::Own,
            };
            let container = if to == 0 { None } else { to_container(world, to, true, frame, packet) };
            container.map_or(Decision::of(Verdict::Host, Why::Own), |decision| Decision { why, ..decision })
        };
        decision.counts.insert(0, (slot, Count::Sent(size)));
        decision
    }
}

impl Refused {
    /// It is the container in `slot` that is told, if it still runs.
    fn by(self, world: &World, slot: u16) -> Decision {
        let decision = Decision::refused(slot, self.refusal);
        let Some(told) = self.told.filter(|_| world.runs(slot)) else { return decision };
        let answer = Size { packets: 1, bytes: self.bytes as u64 };
        Decision { verdict: Verdict::Answered(told), ..decision }.counting(slot, Count::Received(answer))
    }
}

/// Walls tell nothing: their errnos are the work of programs at sockets.
impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, told: None, bytes: 0 }
    }
}
