//! Packets inside a container: on its lo, where what is for others has to leave, and on its device.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::address::is_loopback;
use super::packet::{Content, Frame, Icmp, Kind, Packet, Part, TCP, UDP};
use super::world::World;
use super::{Decision, Memory, Verdict, Why};
use crate::steer::layout::SlotEntry;

/// The mark of what [`from_device`] gave to lo (`KEEP`).
pub const KEPT: u32 = 0x7073_6c6f;

/// What is on a container's lo is for one of the host's addresses, or loopback. It stays if it is for the container.
pub fn from_lo(world: &World, memory: &mut Memory, slot: u16, frame: &Frame<'_>, now: Duration) -> Decision {
    let stays = |why| Decision::of(Verdict::Stack, why);
    if frame.mark == KEPT {
        return stays(Why::Inner);
    }
    let packet = match frame.kind() {
        Kind::V4 | Kind::V6 => frame.packet(),
        Kind::Arp | Kind::Other => return stays(Why::NotIp),
    };
    let Some(packet) = packet else { return stays(Why::Malformed) };
    let by = world.tenant(slot);
    if let Part::Later(part) = packet.part {
        let left = memory.leaves_lo(by, &packet, &part, now);
        return if left { Decision::of(Verdict::Out, Why::FirstFragment) } else { stays(Why::Inner) };
    }
    // Whom it is for: an error is for whoever sent what it quotes.
    let (end, why) = match packet.content {
        Content::Icmp(Icmp::Error { .. }) => match packet.quoted(frame) {
            Some(quoted) => (End::sender(&quoted), Why::Quoted),
            None => return stays(Why::Malformed),
        },
        _ => (End::receiver(&packet), Why::Own),
    };
    let Some(end) = end else { return stays(Why::Inner) };
    if world.owner(end.port, end.protocol) == Some(slot) {
        return stays(Why::Port(end.port));
    }
    if end.is_listened_at(world, slot) {
        return stays(Why::Listened);
    }
    // What it may not reach of the host it does not see: its own stack refuses.
    let walled = is_loopback(end.address) && !world.has(slot, SlotEntry::HOST_LOOPBACK);
    if walled && world.owner(end.port, end.protocol).is_none() {
        return stays(Why::Inner);
    }
    if let Part::First(part) = packet.part {
        memory.left_lo(by, &packet, &part, now);
    }
    Decision::of(Verdict::Out, why)
}

/// What comes in by a container's device. The kernel takes ::1 from lo alone, and sockets that are bound to lo take nothing else.
pub fn from_device(frame: &Frame<'_>) -> Decision {
    let looped = match frame.kind() {
        Kind::V4 => frame.bytes.get(30..34).is_some_and(|ip| ip[0] == 127),
        Kind::V6 => frame.bytes.get(38..54).is_some_and(|ip| ip == Ipv6Addr::LOCALHOST.octets()),
        Kind::Arp | Kind::Other => false,
    };
    if looped { Decision::of(Verdict::Lo, Why::Loopback) } else { Decision::of(Verdict::Stack, Why::Own) }
}

/// One end of a conversation.
struct End {
    protocol: u8,
    address: IpAddr,
    port: u16,
}

impl End {
    fn receiver(packet: &Packet) -> Option<Self> {
        match packet.content {
            Content::Ports { destination: port, .. } => {
                Some(Self { protocol: packet.protocol, address: packet.destination, port })
            }
            _ => None,
        }
    }

    fn sender(packet: &Packet) -> Option<Self> {
        match packet.content {
            Content::Ports { source: port, .. } => {
                Some(Self { protocol: packet.protocol, address: packet.source, port })
            }
            _ => None,
        }
    }

    fn is_listened_at(&self, world: &World, slot: u16) -> bool {
        matches!(self.protocol, TCP | UDP) && world.listening.contains(&(slot, self.protocol, self.port))
    }
}
