//! Packets to many: what a container says about groups that it is in, and which containers get copies.
//!
//! A container's stack reports on its link when the first of its sockets joins a group, and when the last one leaves. What is for
//! a group is for all who joined; what is for everybody is for the owner of its port, which is one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::is_for_all;
use super::packet::{Content, Frame, IGMP, Icmp, Packet, Part};
use super::world::World;
use super::{Memory, Verdict};

/// Everybody on the link, all its routers, and who listens to reports of groups (IGMP version 3, MLD version 2).
const ALL_HOSTS: [IpAddr; 2] = [link_v4(1), link_v6(1)];
const ROUTERS: [IpAddr; 2] = [link_v4(2), link_v6(2)];
const LISTENERS: [IpAddr; 2] = [link_v4(22), link_v6(0x16)];
/// Records of one report that are looked at: stacks tell of changes, which are few.
const RECORDS: usize = 32;

/// A group, and whether it is joined or left.
pub type Change = (IpAddr, bool);

/// Is it about who is in which group?
pub fn is_about_groups(packet: &Packet) -> bool {
    match packet.content {
        Content::Icmp(icmp) => icmp == Icmp::Group,
        _ => packet.protocol == IGMP && !packet.is_v6(),
    }
}

/// The changes that a report tells of. `None` for one that is not for those who are to hear it, and for what is no report: a
/// question is a router's to ask (RFC 2236, RFC 3376, RFC 2710, RFC 3810).
pub fn reported(frame: &Frame<'_>, packet: &Packet) -> Option<Vec<Change>> {
    let (v6, to) = (packet.is_v6(), packet.destination);
    let message = frame.bytes.get(packet.transport..).filter(|message| message.len() >= 8)?;
    if packet.part != Part::Whole {
        return None;
    }
    let named = || address(message, if v6 { 8 } else { 4 }, v6);
    let changes = match (v6, message[0]) {
        (false, 0x12 | 0x16) | (true, 131) => {
            named().filter(|group| *group == to && to.is_multicast()).map(|group| vec![(group, true)])
        }
        (false, 0x17) | (true, 132) => {
            named().filter(|_| to == ROUTERS[usize::from(v6)]).map(|group| vec![(group, false)])
        }
        (false, 0x22) | (true, 143) => (to == LISTENERS[usize::from(v6)]).then(|| records(message, v6)),
        _ => None,
    }?;
    // Who asks for reports asks all hosts, so whoever is in a group listens there.
    let joinable = changes.into_iter().filter(|(group, _)| is_joinable(*group));
    Some([(ALL_HOSTS[usize::from(v6)], true)].into_iter().chain(joinable).collect())
}

/// What the records of a report say. Who wants some sources only gets all: his own stack tells them apart. Who blocks one may want
/// the others.
fn records(message: &[u8], v6: bool) -> Vec<Change> {
    let (mut changes, mut at) = (Vec::new(), 8);
    let length = if v6 { 16 } else { 4 };
    for _ in 0..RECORDS.min(usize::from(be16(message, 6))) {
        let (Some(&[kind, words, ..]), Some(group)) = (message.get(at..at + 4), address(message, at + 4, v6)) else {
            break;
        };
        let sources = usize::from(be16(message, at + 2));
        match (kind, sources > 0) {
            (2 | 4, _) | (1 | 3 | 5, true) => changes.push((group, true)),
            (1 | 3, false) => changes.push((group, false)),
            _ => {}
        }
        at += 4 + length + sources * length + usize::from(words) * 4;
    }
    changes
}

/// Are copies made for those who joined it? Everybody is in the group of all hosts; some never leave a host; and by others
/// neighbours ask for the host's own addresses (RFC 4291 2.7.1).
pub fn is_joinable(group: IpAddr) -> bool {
    let own = match group {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.octets()[1] & 0xf == 1 || v6.to_bits() >> 24 == link_bits(0x1_ff00_0000) >> 24,
    };
    group.is_multicast() && !own && !ALL_HOSTS.contains(&group)
}

/// The containers that get a copy of a packet to many. `from`: the slot of the one that sent it.
pub fn receivers(world: &World, memory: &Memory, packet: &Packet, from: Option<u16>) -> Vec<u16> {
    let to = packet.destination;
    let receivers: Vec<u16> = if packet.is_of_ports() && (ALL_HOSTS.contains(&to) || is_for_all(world, to)) {
        match packet.content {
            Content::Ports { destination, .. } => world.owner(destination, packet.protocol).into_iter().collect(),
            // which port a later fragment is for is not known
            _ => Vec::new(),
        }
    } else if packet.is_of_ports() || (from.is_none() && is_about_groups(packet)) {
        let there = |slot: &u16| memory.has_joined(world.tenant(*slot), to);
        world.slots.keys().copied().filter(there).collect()
    } else {
        Vec::new()
    };
    receivers.into_iter().filter(|slot| Some(*slot) != from && world.runs(*slot)).collect()
}

/// Where a container's packet to many goes. The host's own processes hear it where its stack takes its own address from outside.
pub fn leave(world: &World, memory: &Memory, packet: &Packet, from: u16, device: u32) -> Verdict {
    let host = packet.is_of_ports() && (packet.is_v6() || is_for_all(world, packet.destination));
    Verdict::Group { device, copies: receivers(world, memory, packet, Some(from)), host }
}

/// May what members of a group send to it have a port that is none of theirs? All of them talk from the port that they listen at,
/// as processes of one host may share it. It has to be nobody's alone, and one that takes no privileges.
pub fn is_shared_port(world: &World, packet: &Packet) -> bool {
    const SHARED: u16 = 1024;
    let Content::Ports { source, destination } = packet.content else { return false };
    packet.protocol == super::packet::UDP
        && source == destination
        && source >= SHARED
        && (world.owner(source, packet.protocol).is_none() || world.shared.contains(&source))
        && !world.kept.contains(&source)
        && is_joinable(packet.destination)
}

const fn link_v4(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(224, 0, 0, last))
}

const fn link_v6(last: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(link_bits(last)))
}

const fn link_bits(last: u128) -> u128 {
    0xff02 << 112 | last
}

fn address(bytes: &[u8], at: usize, v6: bool) -> Option<IpAddr> {
    if v6 {
        return bytes.get(at..at + 16).and_then(|octets| <[u8; 16]>::try_from(octets).ok()).map(IpAddr::from);
    }
    bytes.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok()).map(IpAddr::from)
}

/// Zero behind the end.
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}
