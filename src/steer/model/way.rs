//! Which way a packet leaves the host, or why it does not.
//!
//! The host's routes decide. Where they are one gateway of the uplink, with a few networks beside, the facts say the same without
//! that they are asked; what the facts refuse does not even wait for its container's turn.

use std::net::IpAddr;

use super::address::{is_group, is_link_local};
use super::packet::{Content, ETHERNET, Frame, Icmp, Packet, Part};
use super::size::largest;
use super::world::World;
use super::{Refusal, Told, Verdict};
use crate::net::link::Sources;
use crate::net::route::Kind;
use crate::steer::layout::{Holder, HostFacts};

/// Why a packet does not leave, and what its sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// As it is counted.
    pub refusal: Refusal,
    /// `None`: nothing.
    pub told: Option<Told>,
    /// Bytes of the frame that tells it.
    pub bytes: usize,
}

/// What the facts say of a packet that is to leave, before it waits its turn.
pub fn by_facts(world: &World, frame: &Frame<'_>, packet: &Packet) -> Result<(), Refused> {
    let (host, ip) = (&world.host, packet.destination);
    if host.fib != 0 && !is_certain(world, ip) {
        return Ok(());
    }
    // No gateway, and not a neighbour: nobody to hand it to.
    if is_known(world, ip) && is_beyond(world, ip) && !has_gateway(world, ip) {
        return Err(refused(world, packet, Refusal::Unreachable, Told::NoRoute));
    }
    fits(world, frame, packet, host.mtu)
}

/// The device by which a packet leaves that is for all on another network of the host than the uplink's first one; `None` for what is
/// for nobody like that, or what the routes lead elsewhere. Nobody is told what becomes of such a packet (RFC 1122 3.2.2).
pub fn to_all(world: &World, frame: &Frame<'_>, packet: &Packet) -> Result<Option<u32>, Refused> {
    let ip = packet.destination;
    let Some(Holder::Many { device, mtu }) = world.addresses.get(&ip) else { return Ok(None) };
    let elsewhere = |world: &World| world.path(ip).is_some_and(|path| path.kind != Kind::Broadcast);
    if is_certain(world, ip) || (world.host.fib != 0 && elsewhere(world)) {
        return Ok(None);
    }
    if largest(frame, packet) > *mtu as usize {
        return Err(Refusal::Oversize.into());
    }
    if *device == 0 { Err(Refusal::Unreachable.into()) } else { Ok(Some(*device)) }
}

/// Where a packet leaves, or whether the routes refuse it, which are asked now if the facts say nothing.
pub fn by_routes(world: &World, frame: &Frame<'_>, packet: &Packet) -> Result<Verdict, Refused> {
    let ip = packet.destination;
    if world.host.fib == 0 || is_certain(world, ip) {
        return Ok(Verdict::World { device: world.host.uplink });
    }
    let unreachable = |told| Err(refused(world, packet, Refusal::Unreachable, told));
    let Some(path) = world.path(ip) else { return unreachable(Told::NoRoute) };
    match path.kind {
        // To all on a network that nobody told of yet.
        Kind::Broadcast => unreachable(Told::NoRoute),
        Kind::Unicast => fits(world, frame, packet, path.mtu).map(|()| Verdict::World { device: path.device }),
        Kind::Blackhole => Err(Refusal::Unreachable.into()),
        Kind::Unreachable => unreachable(Told::Unreachable),
        Kind::Prohibit => unreachable(Told::Prohibited),
    }
}

/// Does the host refuse a source for the device that its packet came in by (`rp_filter`, RFC 3704 2.2 and 2.3)?
pub fn strays(world: &World, device: u32, source: IpAddr) -> bool {
    let sources = world.sources(device);
    // Without a device to ask from, the kernel has no answer.
    if source.is_ipv6() || sources == Sources::Any || world.host.fib == 0 {
        return false;
    }
    let certain = is_known(world, source) && (has_gateway(world, source) || !is_beyond(world, source));
    if device == world.host.uplink && certain {
        return false;
    }
    let back = world.path(source).filter(|path| path.kind.is_unicast());
    back.is_none_or(|path| sources == Sources::Strict && path.device != device)
}

/// Is what a way takes as large as the packet, or each segment of it?
fn fits(world: &World, frame: &Frame<'_>, packet: &Packet, mtu: u32) -> Result<(), Refused> {
    if largest(frame, packet) <= mtu as usize {
        return Ok(());
    }
    Err(refused(world, packet, Refusal::Oversize, Told::TooBig(mtu)))
}

/// Nobody is told of what becomes of an error, of a part of a datagram, or of what went to many (RFC 1122 3.2.2, RFC 4443 2.4).
fn refused(world: &World, packet: &Packet, refusal: Refusal, told: Told) -> Refused {
    let error = matches!(packet.content, Content::Icmp(Icmp::Error { .. }));
    let mute = error || matches!(packet.part, Part::Later(_)) || is_group(world, packet.destination);
    Refused { refusal, told: (!mute).then_some(told), bytes: answer_bytes(packet) }
}

/// The headers of an ICMP error, and as much of the packet as its sender knows it by: its own header and TCP's, or twice that
/// where it has options or extensions.
fn answer_bytes(packet: &Packet) -> usize {
    const ICMP: usize = 8;
    let (ip, quoted) = if packet.is_v6() { (40, 60) } else { (20, 40) };
    let more = if packet.transport > ETHERNET + ip { 2 } else { 1 };
    ETHERNET + ip + ICMP + quoted * more
}

/// Does it leave by the uplink, whatever the routes are?
fn is_certain(world: &World, ip: IpAddr) -> bool {
    is_group(world, ip) || is_link_local(ip) || is_known(world, ip)
}

/// Do the facts tell the way there? Then it is a neighbour of the uplink's, or the gateway's to pass on.
fn is_known(world: &World, ip: IpAddr) -> bool {
    let host = &world.host;
    let (known, some) = match ip {
        IpAddr::V4(_) => (HostFacts::NEXTHOP_V4, HostFacts::BESIDE_V4),
        IpAddr::V6(_) => (HostFacts::NEXTHOP_V6, HostFacts::BESIDE_V6),
    };
    let beside = match ip {
        IpAddr::V4(v4) => {
            host.v4_beside.map(|entry| entry.map(u32::from_be_bytes)).iter().any(|net| v4.to_bits() & net[1] == net[0])
        }
        IpAddr::V6(v6) => {
            host.v6_beside.map(|entry| entry.map(u128::from_be_bytes)).iter().any(|net| v6.to_bits() & net[1] == net[0])
        }
    };
    host.flags & known != 0 && !(host.flags & some != 0 && beside)
}

/// Is it not on the uplink's network, nor on its link?
fn is_beyond(world: &World, ip: IpAddr) -> bool {
    let neighbour = match ip {
        IpAddr::V4(v4) => {
            let [_, network, mask, _] = world.host.v4.map(u32::from_be_bytes);
            v4.to_bits() & mask == network & mask
        }
        IpAddr::V6(v6) => {
            let [_, network, mask, _] = world.host.v6.map(u128::from_be_bytes);
            v6.to_bits() & mask == network & mask
        }
    };
    !neighbour && !is_link_local(ip) && !is_group(world, ip)
}

fn has_gateway(world: &World, ip: IpAddr) -> bool {
    if ip.is_ipv4() { world.host.v4[3] != [0; 4] } else { world.host.v6[3] != [0; 16] }
}
