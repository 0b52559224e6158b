//! What the data path must know of the host: addresses, next hops, what the kernel is able to.

use std::net::IpAddr;

use crate::host::{Facts, HostRecord};
use crate::net::link::{Link, Sources};
use crate::net::route::{Route, is_in};
use crate::steer::layout::{BESIDE_V4, BESIDE_V6};
use crate::steer::{Addresses, Holder, HostFacts};

/// What of the host the programs read that is no fact but was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Made {
    /// Has the uplink a flow for each container?
    pub fair: bool,
    /// Index of the device that the host's routes are asked from; 0 for none.
    pub fib: u32,
}

impl Made {
    /// As the host's record tells.
    pub fn of(record: &HostRecord) -> Self {
        Self { fair: record.fair != 0, fib: record.fib }
    }
}

/// Do the host's routes lead elsewhere than out of the uplink, or depend on more than the destination, or are they to tell which
/// sources are let in? Then the data path needs a device to ask them from.
pub fn asks_fib(facts: &Facts) -> bool {
    facts.policy
        || facts.routes.iter().any(|route| route.kind.refuses() || route.link != facts.uplink.index)
        || sources(facts, &facts.uplink) != Sources::Any
}

/// How the sources of what comes in by a device of the host are looked at (`rp_filter`), as far as it makes a difference: IPv4 alone
/// has it, and where all routes, a default one among them, lead out of the device, or out of any, every source is one that they lead
/// back to. A device without an address takes only what leads back by itself (`no_addr` in `__fib_validate_source`). Of a route with
/// several next hops the kernel's answer names one, so devices that share routes are only asked whether anything leads back.
pub fn sources(facts: &Facts, link: &Link) -> Sources {
    let of_link = match Sources::of(link.rp_filter, facts.rp_filter) {
        Sources::Any => return Sources::Any,
        Sources::Reachable if facts.with_v4.contains(&link.index) => Sources::Reachable,
        _ if facts.shared.as_ref().is_none_or(|shared| shared.contains(&link.index)) => Sources::Reachable,
        _ => Sources::Strict,
    };
    let mut routes = facts.routes.iter().filter(|route| route.destination.is_ipv4());
    let suits = |route: &Route| !route.kind.refuses() && (of_link == Sources::Reachable || route.link == link.index);
    let every = !facts.policy && routes.clone().all(suits) && routes.any(Route::is_default);
    if facts.primary(false).is_none() || every { Sources::Any } else { of_link }
}

/// What the programs know of addresses.
pub fn host_addresses(facts: &Facts) -> Addresses {
    let held = |holder| move |ip: &IpAddr| (*ip, holder);
    let broadcasts = facts.broadcasts.iter().map(|to| {
        let out = facts.out(to.link);
        let (device, mtu) = out.map_or((0, u32::MAX), |link| (link.index, link.mtu));
        (IpAddr::V4(to.ip), Holder::Many { device, mtu })
    });
    let own = facts.others.iter().map(held(Holder::Host)).chain(facts.addresses.iter().map(held(Holder::Containers)));
    broadcasts.chain(own).collect()
}

/// The facts as the programs read them.
pub fn host_facts(facts: &Facts, made: Made) -> HostFacts {
    let (uplink, mtu) = (facts.uplink.index, facts.uplink.mtu);
    let mut host = HostFacts { uplink, mtu, mac: facts.mac, fib: made.fib, ..HostFacts::default() };
    if made.fair {
        host.flags |= HostFacts::FAIR;
    }
    host.flags |= (sources(facts, &facts.uplink) as u32) << HostFacts::SOURCES;
    // commit c43272299488: before it a packet from lo keeps the host's route through redirect_peer
    if facts.kernel >= (6, 15) {
        host.flags |= HostFacts::PEER_FROM_LO;
    }
    let hop = |v6, most| {
        let hop = (!facts.policy).then(|| next_hop(&facts.routes, uplink, v6, most)).flatten()?;
        if v6 { Some(hop) } else { hop.without(facts, most) }
    };
    let known = host_addresses(facts);
    let count = |v6: bool| known.keys().filter(|ip| ip.is_ipv6() == v6).count();
    if let Some(IpAddr::V4(ip)) = facts.primary(false) {
        host.v4[0] = ip.octets();
        host.v4_broadcast = facts.broadcast().map_or([0; 4], |ip| ip.octets());
        if count(false) == 1 {
            host.flags |= HostFacts::ONE_V4;
        }
        if let Some(hop) = hop(false, BESIDE_V4) {
            host.flags |= HostFacts::NEXTHOP_V4 | if hop.beside.is_empty() { 0 } else { HostFacts::BESIDE_V4 };
            (host.v4[1], host.v4[2], host.v4[3]) = (v4(hop.network.0), mask(hop.network.1), v4(hop.gateway));
            host.v4_beside = [[[0; 4], [0xff; 4]]; BESIDE_V4];
            for (place, (network, prefix)) in host.v4_beside.iter_mut().zip(hop.beside) {
                *place = [v4(Some(network)), mask(prefix)];
            }
        }
    }
    if let Some(IpAddr::V6(ip)) = facts.primary(true) {
        host.v6[0] = ip.octets();
        host.v6_link = v6(facts.link_local);
        if count(true) == 1 {
            host.flags |= HostFacts::ONE_V6;
        }
        if let Some(hop) = hop(true, BESIDE_V6) {
            host.flags |= HostFacts::NEXTHOP_V6 | if hop.beside.is_empty() { 0 } else { HostFacts::BESIDE_V6 };
            (host.v6[1], host.v6[2], host.v6[3]) = (v6(hop.network.0), mask(hop.network.1), v6(hop.gateway));
            host.v6_beside = [[[0; 16], [0xff; 16]]; BESIDE_V6];
            for (place, (network, prefix)) in host.v6_beside.iter_mut().zip(hop.beside) {
                *place = [v6(Some(network)), mask(prefix)];
            }
        }
    }
    host
}

/// Where everything goes that is in none of the networks `beside`: to neighbours in `network`, else to the gateway.
struct NextHop {
    network: (Option<IpAddr>, u8),
    gateway: Option<IpAddr>,
    beside: Vec<(IpAddr, u8)>,
}

impl NextHop {
    /// The same, and what is for all on a network without a route is beside as well, for it is no gateway's to pass on; `None` if
    /// that makes more than `most`.
    fn without(mut self, facts: &Facts, most: usize) -> Option<Self> {
        let network = self.network.0.map(|ip| (ip, self.network.1));
        for to in &facts.broadcasts {
            let ip = IpAddr::V4(to.ip);
            // before Linux 5.14 the first address of a network is one of them
            let near = to.link == facts.uplink.index && network.is_some_and(|network| is_in(ip, network));
            if !near && !self.beside.iter().any(|network| is_in(ip, *network)) {
                self.beside.push((ip, 32));
            }
        }
        (self.beside.len() <= most).then_some(self)
    }
}

/// The host's routes as one network on the uplink's link and at most one gateway there, and at most `most` networks beside; when
/// that is not all there is to them, the programs ask the kernel's route table for each packet.
fn next_hop(routes: &[Route], uplink: u32, v6: bool, most: usize) -> Option<NextHop> {
    let (defaults, others): (Vec<&Route>, Vec<&Route>) =
        routes.iter().filter(|r| r.destination.is_ipv6() == v6).partition(|r| r.is_default());
    let best = defaults.iter().map(|r| r.metric).min();
    let mut best = defaults.into_iter().filter(|r| Some(r.metric) == best);
    let out = |route: &Route| !route.kind.refuses() && route.link == uplink;
    let gateway = match (best.next(), best.next()) {
        (None, _) => None,
        (Some(route), None) if out(route) => Some(route.gateway.filter(|gateway| gateway.is_ipv6() == v6)?),
        _ => return None,
    };
    let on_link = others.iter().position(|route| out(route) && route.gateway.is_none());
    // without an on-link network the mask would be empty, and every destination would look like a neighbour
    let network = others.get(on_link?)?;
    let rest = others.iter().enumerate().filter(|(i, _)| Some(*i) != on_link).map(|(_, route)| route);
    let beside: Vec<(IpAddr, u8)> = rest.map(|route| (route.destination, route.prefix)).collect();
    // Nobody to ask beside the uplink: without a gateway, or with more networks than there is room for.
    if beside.len() > most || (gateway.is_none() && !beside.is_empty()) {
        return None;
    }
    Some(NextHop { network: (Some(network.destination), network.prefix), gateway, beside })
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
    use crate::host::facts::sample;
    use crate::net::route::{self, Broadcast, Kind};

    #[test]
    fn masks() {
        assert_eq!(mask::<4>(0), [0, 0, 0, 0]);
        assert_eq!(mask::<4>(20), [255, 255, 0xf0, 0]);
        assert_eq!(mask::<4>(32), [255; 4]);
        assert_eq!(mask::<16>(65)[7..10], [0xff, 0x80, 0]);
    }

    #[test]
    fn how_sources_are_looked_at_counts_where_it_makes_a_difference() {
        let (of_uplink, other) = (route("0.0.0.0", 0, 2, Some("10.0.0.1")), route("10.1.0.0", 24, 3, None));
        let refuses = Route { kind: Kind::Blackhole, link: 0, ..route("10.9.0.0", 16, 0, None) };
        let second = Route { link: 3, ..of_uplink.clone() };
        let said = |own: u32, all: u32, routes: &[&Route], policy: bool| {
            let routes: Vec<Route> = routes.iter().map(|route| (*route).clone()).collect();
            let link = |index| Link { index, rp_filter: own, ..Link::default() };
            let shared = Some(route::shared(&routes));
            let facts = Facts { uplink: link(2), rp_filter: all, policy, shared, ..sample(routes) };
            (sources(&facts, &link(2)), sources(&facts, &link(3)))
        };
        let (any, strict, reachable) = (Sources::Any, Sources::Strict, Sources::Reachable);
        assert_eq!(said(0, 0, &[&of_uplink, &other], true), (any, any));
        assert_eq!(said(1, 0, &[&of_uplink], false), (any, strict), "all leads back by the uplink");
        assert_eq!(said(0, 1, &[&of_uplink, &other], false), (strict, strict));
        assert_eq!(said(1, 2, &[&of_uplink, &other], false), (any, any), "something leads back to everybody");
        assert_eq!(said(2, 0, &[&other], false), (reachable, reachable), "without a default route");
        assert_eq!(said(2, 0, &[&of_uplink, &refuses], false), (reachable, reachable));
        assert_eq!(said(2, 1, &[&of_uplink], true), (reachable, reachable), "rules");
        assert_eq!(said(1, 1, &[&of_uplink], true), (strict, strict), "rules");
        assert_eq!(said(1, 0, &[&of_uplink, &second, &other], false), (any, any), "several next hops");
        let link = Link { index: 4, rp_filter: 2, ..Link::default() };
        assert_eq!(sources(&sample(vec![of_uplink]), &link), strict, "a device without an address");
        let facts = Facts { policy: true, shared: None, rp_filter: 1, ..sample(vec![other]) };
        assert_eq!(sources(&facts, &facts.uplink), reachable, "tables that nobody read");
    }

    fn route(text: &str, prefix: u8, link: u32, gateway: Option<&str>) -> Route {
        Route {
            kind: Kind::Unicast,
            destination: text.parse().unwrap(),
            prefix,
            link,
            gateway: gateway.map(|g| g.parse().unwrap()),
            source: None,
            metric: 0,
            mtu: None,
        }
    }

    #[test]
    fn what_is_for_all_on_a_network_without_a_route_is_no_gateways() {
        let (on_link, default) = (route("10.0.0.0", 24, 2, None), route("0.0.0.0", 0, 2, Some("10.0.0.1")));
        let beside = |broadcasts: &[(&str, u32)]| {
            let to = |(ip, link): &(&str, u32)| Broadcast { ip: ip.parse().unwrap(), link: *link, source: None };
            let broadcasts = broadcasts.iter().map(to).collect();
            let facts = Facts { broadcasts, ..sample(vec![on_link.clone(), default.clone()]) };
            let hop = next_hop(&facts.routes, 2, false, 2).and_then(|hop| hop.without(&facts, 2))?;
            Some(hop.beside.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect::<Vec<_>>().join(","))
        };
        assert_eq!(beside(&[("10.0.0.0", 2)]).unwrap(), "");
        assert_eq!(beside(&[("10.1.0.255", 3), ("10.2.0.255", 2)]).unwrap(), "10.1.0.255/32,10.2.0.255/32");
        assert_eq!(beside(&[("10.1.0.255", 3), ("10.2.0.255", 3), ("10.3.0.255", 3)]), None);
    }

    #[test]
    fn one_gateway_of_the_uplink_is_known_and_what_lies_beside_it() {
        let on_link = route("10.0.0.0", 24, 2, None);
        let default = route("0.0.0.0", 0, 2, Some("10.0.0.1"));
        let hop = |routes: &[&Route]| {
            next_hop(&routes.iter().map(|r| (*r).clone()).collect::<Vec<_>>(), 2, false, 2)
                .map(|hop| (hop.gateway, hop.beside.into_iter().map(|(ip, n)| format!("{ip}/{n}")).collect::<Vec<_>>()))
        };
        let known =
            |beside: &[&str]| Some((default.gateway, beside.iter().map(|b| (*b).to_owned()).collect::<Vec<_>>()));
        assert_eq!(hop(&[&on_link, &default]), known(&[]));
        assert_eq!(hop(&[&on_link]), Some((None, vec![])));
        assert_eq!(hop(&[&default]), None, "a gateway beyond no network");
        let others = [
            route("10.1.0.0", 16, 2, Some("10.0.0.2")),
            route("172.17.0.0", 16, 3, None),
            Route { kind: Kind::Blackhole, link: 0, ..route("10.9.0.0", 16, 0, None) },
        ];
        assert_eq!(hop(&[&on_link, &default, &others[0]]), known(&["10.1.0.0/16"]));
        assert_eq!(hop(&[&others[1], &on_link, &default, &others[2]]), known(&["172.17.0.0/16", "10.9.0.0/16"]));
        assert_eq!(hop(&[&on_link, &default, &others[0], &others[1], &others[2]]), None, "more than there is room for");
        assert_eq!(hop(&[&on_link, &others[1]]), None, "no gateway, and more than the uplink");
        assert_eq!(hop(&[&on_link, &default, &default]), None, "multipath");
        let worse = Route { metric: 100, ..route("0.0.0.0", 0, 3, Some("192.0.2.1")) };
        assert_eq!(hop(&[&on_link, &worse, &default]), known(&[]), "the best one counts");
        let worst = Route { metric: 200, ..default.clone() };
        assert_eq!(hop(&[&on_link, &worse, &worst]), None, "the best one leads elsewhere");
        let refuses = Route { kind: Kind::Prohibit, link: 0, ..route("0.0.0.0", 0, 0, None) };
        assert_eq!(hop(&[&on_link, &refuses, &worse]), None);
        assert_eq!(hop(&[&on_link, &route("0.0.0.0", 0, 2, Some("fd00::1"))]), None, "IPv4 by way of IPv6");
    }
}
