//! What containers are given of the host, as a value that can be kept and compared: the host's record has the present one,
//! and those that some slice still carries. Pure; the facts are read in [`super::facts`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::Facts;
use super::beside::MANY_ROUTES;
use super::sysctl::Setting;
use crate::net::link::Mac;
use crate::net::route::{InnerRoute, Kind, Route};

/// What every container of this host is given alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Which one this is, counted from 1. A lease names the one that its slice carries.
    pub generation: u32,
    /// `steer::program::VERSION` of the programs on its devices.
    pub version: String,
    /// Ethernet address of the container's device: the uplink's.
    pub mac: Mac,
    /// Addresses of the container's device: the host's.
    pub addresses: Vec<IpAddr>,
    /// What programs see in `ip route`.
    pub routes: Vec<InnerRoute>,
    /// Settings that the operator tuned on the host.
    pub copied: Vec<Setting>,
}

impl Given {
    /// What the facts come to, with the settings and the version of the programs that are not facts. It has no number yet.
    pub fn of(facts: &Facts, copied: &[Setting], version: &str) -> Self {
        Self {
            generation: 0,
            version: version.to_owned(),
            mac: facts.mac,
            addresses: facts.addresses.clone(),
            routes: inner_routes(facts),
            copied: copied.to_vec(),
        }
    }

    /// Does a container that was given this need nothing else?
    pub fn same(&self, other: &Self) -> bool {
        let number = |given: &Self| Self { generation: 0, ..given.clone() };
        number(self) == number(other)
    }
}

/// The host's routes with the gateways and devices left out. A host with very many (a routing daemon's full table) is
/// represented by its default routes.
///
/// Where rules choose among tables, what stands in the main one does not say all: a last route lets whatever that refuses out to
/// the data path, which asks the rules.
fn inner_routes(facts: &Facts) -> Vec<InnerRoute> {
    let many = facts.routes.len() > MANY_ROUTES;
    let mut routes: Vec<InnerRoute> = Vec::new();
    let wanted = |route: &&Route| route.is_default() || !many;
    for route in facts.routes.iter().filter(wanted) {
        let Some(inner) = inner_route(facts, route) else { continue };
        // several next hops of one route are one route out of one device
        if !routes.iter().any(|known| known.same_place(&inner)) {
            routes.push(inner);
        }
    }
    routes.extend(broadcast_route(facts));
    routes.extend(other_broadcasts(facts));
    if facts.policy {
        routes.extend([false, true].into_iter().filter_map(|v6| last_route(facts, v6)));
    }
    routes
}

fn inner_route(facts: &Facts, route: &Route) -> Option<InnerRoute> {
    let v6 = route.destination.is_ipv6();
    let source = facts.source(route.link, v6)?;
    let refuses = route.kind.refuses();
    let mtu = facts.mtu(route.link);
    let own =
        (route.source.filter(|s| facts.addresses.contains(s)).unwrap_or(source), route.mtu.unwrap_or(mtu).min(mtu));
    let (source, mtu) = facts.usual(v6).filter(|_| route.is_default()).unwrap_or(own);
    Some(InnerRoute {
        destination: route.destination,
        prefix: route.prefix,
        source: (!refuses).then_some(source),
        metric: route.metric,
        mtu: if refuses { 0 } else { mtu },
        kind: route.kind,
    })
}

/// Without it what is for everybody on the link would be nobody's inside.
fn broadcast_route(facts: &Facts) -> Option<InnerRoute> {
    let Some(IpAddr::V4(own)) = facts.primary(false) else { return None };
    let destination = facts.broadcast()?;
    let (source, mtu) = (Some(own.into()), facts.uplink.mtu);
    Some(InnerRoute { destination: destination.into(), prefix: 32, source, metric: 0, mtu, kind: Kind::Broadcast })
}

/// The same for other networks of the host; of very many, for the first ones.
fn other_broadcasts(facts: &Facts) -> impl Iterator<Item = InnerRoute> {
    // before Linux 5.14 the first address of a network is one as well
    let first = |ip: Ipv4Addr| facts.routes.iter().any(|route| route.destination == ip && route.gateway.is_none());
    facts.broadcasts.iter().filter(move |to| !first(to.ip)).take(MANY_ROUTES).filter_map(|to| {
        let source = to.source.filter(|ip| facts.addresses.contains(ip)).or_else(|| facts.source(to.link, false))?;
        let (destination, mtu) = (to.ip.into(), facts.mtu(to.link));
        Some(InnerRoute { destination, prefix: 32, source: Some(source), metric: 0, mtu, kind: Kind::Broadcast })
    })
}

fn last_route(facts: &Facts, v6: bool) -> Option<InnerRoute> {
    let destination = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let source = facts.usual(v6).map(|(source, _)| source).or_else(|| facts.primary(v6))?;
    let out = facts.beside.iter().map(|device| &device.link).filter(|link| !link.loopback);
    let mtu = out.map(|link| link.mtu).fold(facts.uplink.mtu, u32::max);
    Some(InnerRoute { destination, prefix: 0, source: Some(source), metric: u32::MAX - 1, mtu, kind: Kind::Unicast })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::facts::sample;
    use crate::net::route::Broadcast;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(to: &str, prefix: u8, link: u32) -> Route {
        let destination = ip(to);
        Route { kind: Kind::Unicast, destination, prefix, link, gateway: None, source: None, metric: 0, mtu: None }
    }

    fn said(facts: &Facts) -> Vec<String> {
        let say = |route: &InnerRoute| {
            let source = route.source.map_or_else(|| "-".to_owned(), |source| source.to_string());
            format!("{:?} {route} {source} {} {}", route.kind, route.mtu, route.metric)
        };
        inner_routes(facts).iter().map(say).collect()
    }

    #[test]
    fn every_device_has_its_source_and_its_mtu() {
        let through = Route { gateway: Some(ip("10.0.0.1")), mtu: Some(1400), ..route("0.0.0.0", 0, 2) };
        let refuses = Route { kind: Kind::Prohibit, metric: 7, ..route("192.0.2.0", 24, 0) };
        let facts = sample(vec![through.clone(), through, route("10.1.0.0", 24, 3), route("fd01::", 64, 3), refuses]);
        let expected = [
            "Unicast 0.0.0.0/0 10.0.0.2 1400 0",
            "Unicast 10.1.0.0/24 10.1.0.2 9000 0",
            "Unicast fd01::/64 fd00::2 9000 0",
            "Prohibit 192.0.2.0/24 - 0 7",
        ];
        assert_eq!(said(&facts), expected);
    }

    #[test]
    fn what_is_for_all_on_a_network_is_so_inside() {
        let to = |text: &str, link, source| Broadcast { ip: text.parse().unwrap(), link, source };
        let broadcasts = vec![to("10.1.0.255", 3, Some(ip("10.1.0.2"))), to("10.2.0.255", 2, Some(ip("10.2.0.2")))];
        let facts = Facts { broadcasts, ..sample(vec![route("10.0.0.0", 24, 2)]) };
        let expected = [
            "Unicast 10.0.0.0/24 10.0.0.2 1500 0",
            "Broadcast 10.0.0.255/32 10.0.0.2 1500 0",
            "Broadcast 10.1.0.255/32 10.1.0.2 9000 0",
            "Broadcast 10.2.0.255/32 10.0.0.2 1500 0",
        ];
        assert_eq!(said(&facts), expected);
    }

    #[test]
    fn where_rules_choose_nothing_is_refused_inside() {
        let facts = Facts { policy: true, ..sample(vec![route("10.0.0.0", 24, 2)]) };
        let expected = [
            "Unicast 10.0.0.0/24 10.0.0.2 1500 0",
            "Broadcast 10.0.0.255/32 10.0.0.2 1500 0",
            "Unicast 0.0.0.0/0 10.0.0.2 9000 4294967294",
            "Unicast ::/0 fd00::2 9000 4294967294",
        ];
        assert_eq!(said(&facts), expected);
    }

    #[test]
    fn where_rules_lead_everything_elsewhere_its_address_is_the_usual_one() {
        let by_uplink = Route { gateway: Some(ip("10.0.0.1")), ..route("0.0.0.0", 0, 2) };
        let usual = Route { source: Some(ip("10.1.0.2")), mtu: Some(1420), ..route("192.0.2.1", 32, 3) };
        let routes = vec![by_uplink, route("10.0.0.0", 24, 2)];
        let facts = Facts { policy: true, usual: vec![usual.clone()], ..sample(routes.clone()) };
        let expected = [
            "Unicast 0.0.0.0/0 10.1.0.2 1420 0",
            "Unicast 10.0.0.0/24 10.0.0.2 1500 0",
            "Broadcast 10.0.0.255/32 10.0.0.2 1500 0",
            "Unicast 0.0.0.0/0 10.1.0.2 9000 4294967294",
            "Unicast ::/0 fd00::2 9000 4294967294",
        ];
        assert_eq!(said(&facts), expected);
        let not_carried = Route { source: Some(ip("10.9.0.2")), ..usual };
        let facts = Facts { usual: vec![not_carried], ..facts };
        assert_eq!(said(&facts)[0], "Unicast 0.0.0.0/0 10.0.0.2 1500 0");
    }

    #[test]
    fn of_very_many_routes_the_default_ones_count() {
        let networks = (0..100).map(|i| route(&format!("10.{i}.0.0"), 16, 2));
        let facts = sample(networks.chain([route("0.0.0.0", 0, 2)]).collect());
        let expected = ["Unicast 0.0.0.0/0 10.0.0.2 1500 0", "Broadcast 10.0.255.255/32 10.0.0.2 1500 0"];
        assert_eq!(said(&facts), expected);
    }
}
