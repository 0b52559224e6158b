//! Kinds of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::World;
use crate::steer::layout::Holder;

/// Does it lead back to whoever uses it?
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.is_loopback()
}

/// Is it an IPv4 address in the form of IPv6 (RFC 4291 2.5.5.2)?
pub fn is_written_as_ipv6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Does it name many receivers?
pub fn is_group(world: &World, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_multicast() || is_broadcast(world, ip),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

/// May no packet from the wire come from here? Loopback and the host's own addresses are spoken by nobody outside, and an
/// answer to what names no single sender would go to many, or nowhere.
pub fn is_martian(world: &World, ip: IpAddr) -> bool {
    let nobody = match ip {
        IpAddr::V4(v4) => v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    nobody || is_loopback(ip) || is_written_as_ipv6(ip) || is_group(world, ip) || world.addresses.contains_key(&ip)
}

/// Is it on a link, whatever the routes to other places are?
pub fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if Ipv6Addr::segments(&v6)[0] & 0xffc0 == 0xfe80)
}

/// Is it for everybody on one of the host's networks?
pub fn is_for_all(world: &World, ip: IpAddr) -> bool {
    is_broadcast(world, ip) || matches!(world.addresses.get(&ip), Some(Holder::Many { .. }))
}

/// Is it for everybody on the uplink's network?
pub fn is_broadcast(world: &World, ip: IpAddr) -> bool {
    let of_network = Ipv4Addr::from(world.host.v4_broadcast);
    ip == Ipv4Addr::BROADCAST || (ip == of_network && !of_network.is_unspecified())
}
