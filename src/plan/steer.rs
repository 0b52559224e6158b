//! What the data path must know of the host: addresses, next hops, what the kernel is able to.

use std::net::{IpAddr, Ipv4Addr};

use crate::host::Facts;
use crate::net::route::Route;
use crate::steer::HostFacts;

/// The facts as the programs read them. `fair`: the uplink has a flow for each container.
pub fn host_facts(facts: &Facts, fair: bool) -> HostFacts {
    let (uplink, mtu) = (facts.uplink.index, facts.uplink.mtu);
    let mut host = HostFacts { uplink, mtu, mac: facts.mac, ..HostFacts::default() };
    if fair {
        host.flags |= HostFacts::FAIR;
    }
    // commit c43272299488: before it a packet from lo keeps the host's route through redirect_peer
    if facts.kernel >= (6, 15) {
        host.flags |= HostFacts::PEER_FROM_LO;
    }
    let count = |v6: bool| facts.addresses.iter().chain(&facts.others).filter(|ip| ip.is_ipv6() == v6).count();

    if let Some(IpAddr::V4(ip)) = facts.primary(false) {
        host.v4[0] = ip.octets();
        host.v4_broadcast = broadcast(&facts.routes, ip).map_or([0; 4], |ip| ip.octets());
        if count(false) == 1 {
            host.flags |= HostFacts::ONE_V4;
        }
        if let Some(hop) = (!facts.policy).then(|| next_hop(&facts.routes, false)).flatten() {
            host.flags |= HostFacts::NEXTHOP_V4;
            host.v4[1] = v4(hop.network);
            host.v4[2] = mask(hop.prefix);
            host.v4[3] = v4(hop.gateway);
        }
    }
    if let Some(IpAddr::V6(ip)) = facts.primary(true) {
        host.v6[0] = ip.octets();
        if count(true) == 1 {
            host.flags |= HostFacts::ONE_V6;
        }
        if let Some(hop) = (!facts.policy).then(|| next_hop(&facts.routes, true)).flatten() {
            host.flags |= HostFacts::NEXTHOP_V6;
            host.v6[1] = v6(hop.network);
            host.v6[2] = mask(hop.prefix);
            host.v6[3] = v6(hop.gateway);
        }
    }
    host
}

struct NextHop {
    network: Option<IpAddr>,
    prefix: u8,
    gateway: Option<IpAddr>,
}

/// The uplink's routes as one on-link network and at most one gateway, when that is all there is to them; otherwise
/// the programs ask the kernel's route table per packet.
fn next_hop(routes: &[Route], v6: bool) -> Option<NextHop> {
    let link_local = |r: &&Route| matches!(r.destination, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80);
    let mut hop = NextHop { network: None, prefix: 0, gateway: None };
    for route in routes.iter().filter(|r| r.destination.is_ipv6() == v6 && !link_local(r)) {
        match (route.gateway, route.is_default()) {
            (Some(gateway), true) if hop.gateway.is_none() && gateway.is_ipv6() == v6 => hop.gateway = Some(gateway),
            (None, false) if hop.network.is_none() => {
                hop.network = Some(route.destination);
                hop.prefix = route.prefix;
            }
            _ => return None,
        }
    }
    // without an on-link network the mask would be empty, and every destination would look like a neighbour
    hop.network.is_some().then_some(hop)
}

/// The broadcast address of the network that `own` is in. Networks of one or two addresses have none (RFC 3021).
fn broadcast(routes: &[Route], own: Ipv4Addr) -> Option<Ipv4Addr> {
    routes.iter().filter(|r| r.gateway.is_none() && (1..=30).contains(&r.prefix)).find_map(|r| match r.destination {
        IpAddr::V4(network) => {
            let mask = u32::MAX << (32 - r.prefix);
            (own.to_bits() & mask == network.to_bits()).then(|| Ipv4Addr::from_bits(network.to_bits() | !mask))
        }
        IpAddr::V6(_) => None,
    })
}

fn v4(ip: Option<IpAddr>) -> [u8; 4] {
    match ip {
        Some(IpAddr::V4(ip)) => ip.octets(),
        _ => [0; 4],
    }
}

fn v6(ip: Option<IpAddr>) -> [u8; 16] {
    match ip {
        Some(IpAddr::V6(ip)) => ip.octets(),
        _ => [0; 16],
    }
}

/// The network mask of a prefix length, in network byte order.
fn mask<const N: usize>(prefix: u8) -> [u8; N] {
    let mut mask = [0; N];
    for (i, byte) in mask.iter_mut().enumerate() {
        let bits = usize::from(prefix).saturating_sub(8 * i).min(8);
        *byte = (0xff00_u16 >> bits) as u8;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(mask::<4>(0), [0, 0, 0, 0]);
        assert_eq!(mask::<4>(20), [255, 255, 0xf0, 0]);
        assert_eq!(mask::<4>(32), [255; 4]);
        assert_eq!(mask::<16>(65)[7..10], [0xff, 0x80, 0]);
    }

    #[test]
    fn only_a_simple_table_is_cached() {
        let route = |text: &str, prefix, gateway: Option<&str>| Route {
            destination: text.parse().unwrap(),
            prefix,
            link: 2,
            gateway: gateway.map(|g| g.parse().unwrap()),
            source: None,
            metric: 0,
            mtu: None,
        };
        let on_link = route("10.0.0.0", 24, None);
        let default = route("0.0.0.0", 0, Some("10.0.0.1"));
        let simple = [on_link.clone(), default.clone(), route("fe80::", 64, None)];
        assert_eq!(next_hop(&simple, false).unwrap().gateway, Some("10.0.0.1".parse().unwrap()));
        assert!(next_hop(&simple, true).is_none());
        assert!(next_hop(std::slice::from_ref(&default), false).is_none(), "a gateway beyond no network");
        let other = route("10.1.0.0", 16, Some("10.0.0.2"));
        assert!(next_hop(&[on_link.clone(), default.clone(), other], false).is_none());
        assert!(next_hop(&[on_link.clone(), default.clone(), default.clone()], false).is_none(), "multipath");
        assert!(next_hop(&[on_link.clone(), default, route("10.9.0.0", 24, None)], false).is_none());
        assert_eq!(next_hop(std::slice::from_ref(&on_link), false).unwrap().gateway, None);

        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(broadcast(std::slice::from_ref(&on_link), ip("10.0.0.2")), Some(ip("10.0.0.255")));
        assert_eq!(broadcast(&[on_link], ip("10.1.0.2")), None);
        assert_eq!(broadcast(&[route("10.0.0.2", 31, None)], ip("10.0.0.2")), None, "two addresses, both hosts");
        assert_eq!(broadcast(&[route("10.0.0.1", 32, None)], ip("10.0.0.2")), None, "a route to the gateway alone");
    }
}
