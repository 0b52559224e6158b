//! Routes: reading the host's, giving a container the same destinations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NlasIterator, Parseable};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::{Netlink, Request};
use crate::error::{Error, Result};

/// include/uapi/linux/rtnetlink.h: RT_TABLE_LOCAL.
const LOCAL_TABLE: u8 = 255;

/// What becomes of a packet that takes a route.
///
/// In records it is the kernel's number (RTN_* of include/uapi/linux/rtnetlink.h): names would cost each hook a kilobyte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Kind {
    /// It leaves.
    #[default]
    Unicast,
    /// It is dropped: EINVAL.
    Blackhole,
    /// Its destination is said to be unreachable: EHOSTUNREACH.
    Unreachable,
    /// Its sender is said to be forbidden it: EACCES.
    Prohibit,
    /// It is for everybody on the link.
    Broadcast,
}

impl Kind {
    fn of(kind: RouteType) -> Option<Self> {
        Some(match kind {
            RouteType::Unicast => Kind::Unicast,
            RouteType::BlackHole => Kind::Blackhole,
            RouteType::Unreachable => Kind::Unreachable,
            RouteType::Prohibit => Kind::Prohibit,
            RouteType::Broadcast => Kind::Broadcast,
            _ => return None,
        })
    }

    fn wire(self) -> RouteType {
        match self {
            Kind::Unicast => RouteType::Unicast,
            Kind::Blackhole => RouteType::BlackHole,
            Kind::Unreachable => RouteType::Unreachable,
            Kind::Prohibit => RouteType::Prohibit,
            Kind::Broadcast => RouteType::Broadcast,
        }
    }

    /// Does the route lead nowhere?
    pub fn refuses(self) -> bool {
        matches!(self, Kind::Blackhole | Kind::Unreachable | Kind::Prohibit)
    }

    /// Does the route lead to one?
    pub fn is_unicast(&self) -> bool {
        *self == Kind::Unicast
    }
}

impl TryFrom<u8> for Kind {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, &'static str> {
        Kind::of(number.into()).ok_or("not a kind of route")
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> u8 {
        kind.wire().into()
    }
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What becomes of a packet.
    pub kind: Kind,
    /// First address of the destination; unspecified with prefix 0 for the default route.
    pub destination: IpAddr,
    /// Prefix length of the destination.
    pub prefix: u8,
    /// Index of the link it leaves through.
    pub link: u32,
    /// Next hop; `None` when the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Source address a program gets that does not choose one.
    pub source: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// Largest packet, when the route says so.
    pub mtu: Option<u32>,
}

impl Route {
    fn to(destination: IpAddr) -> Self {
        let prefix = if destination.is_ipv4() { 32 } else { 128 };
        let (kind, link, gateway, source, metric, mtu) = (Kind::Unicast, 0, None, None, 0, None);
        Self { kind, destination, prefix, link, gateway, source, metric, mtu }
    }

    /// Does it catch everything?
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }
}

/// A route straight out of a device, as containers have them: the other end of the device knows the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerRoute {
    /// First address of the destination.
    pub destination: IpAddr,
    /// Prefix length of the destination.
    pub prefix: u8,
    /// Source address for programs that do not choose.
    pub source: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// Largest packet towards the destination, in bytes; 0 where it leads nowhere.
    pub mtu: u32,
    /// What becomes of a packet.
    #[serde(default, skip_serializing_if = "Kind::is_unicast")]
    pub kind: Kind,
}

impl InnerRoute {
    /// Are the two one route of the kernel's table, whatever they say about it?
    pub fn same_place(&self, other: &Self) -> bool {
        (self.destination, self.prefix, self.metric) == (other.destination, other.prefix, other.metric)
    }
}

impl fmt::Display for InnerRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.destination, self.prefix)
    }
}

/// All routes of the main table, both families: those that lead somewhere, and those that refuse.
pub fn all(netlink: &mut Netlink) -> Result<Vec<Route>> {
    let answers = dump(netlink, RouteHeader::RT_TABLE_MAIN, RouteType::Unspec)?;
    Ok(answers.into_iter().flat_map(decode).collect())
}

/// The links that are one of several next hops of an IPv4 route, of these.
pub fn shared(routes: &[Route]) -> BTreeSet<u32> {
    let mut first = BTreeMap::new();
    let mut shared = BTreeSet::new();
    for route in routes.iter().filter(|route| route.destination.is_ipv4()) {
        let link = *first.entry((route.destination, route.prefix, route.metric)).or_insert(route.link);
        if link != route.link {
            shared.extend([link, route.link]);
        }
    }
    shared
}

/// The same, of the routes of all tables.
pub fn shared_by_any(netlink: &mut Netlink) -> Result<BTreeSet<u32>> {
    let answers = dump(netlink, RouteHeader::RT_TABLE_UNSPEC, RouteType::Unspec)?;
    Ok(answers.into_iter().flat_map(|message| shared(&of_any_table(message).1)).collect())
}

/// The routes of the main table that leave through a link, and those that refuse; both families.
pub fn of_link(netlink: &mut Netlink, link: u32) -> Result<Vec<Route>> {
    Ok(all(netlink)?.into_iter().filter(|route| route.link == link || route.kind.refuses()).collect())
}

/// Is an address in a network, of which the first address and the length of its prefix are given?
pub fn is_in(ip: IpAddr, (network, prefix): (IpAddr, u8)) -> bool {
    let differs = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => (ip.to_bits() ^ network.to_bits()).leading_zeros(),
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits() ^ network.to_bits()).leading_zeros(),
        _ => return false,
    };
    differs >= prefix.into()
}

/// The broadcast address of the network of a link that `own` is in, the smallest one. Networks of one or two addresses have none
/// (RFC 3021).
pub fn broadcast(routes: &[Route], own: Ipv4Addr, link: u32) -> Option<Ipv4Addr> {
    let on_link =
        |r: &&Route| r.link == link && r.gateway.is_none() && r.kind.is_unicast() && (1..=30).contains(&r.prefix);
    let holds = |r: &Route| match r.destination {
        IpAddr::V4(network) => {
            let mask = u32::MAX << (32 - r.prefix);
            (own.to_bits() & mask == network.to_bits()).then(|| Ipv4Addr::from_bits(network.to_bits() | !mask))
        }
        IpAddr::V6(_) => None,
    };
    routes.iter().filter(on_link).filter_map(|r| Some((r.prefix, holds(r)?))).max().map(|(_, all)| all)
}

/// An address that the host takes for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The address.
    pub ip: IpAddr,
    /// Index of the link that carries it.
    pub link: u32,
}

/// The local table, which is short however many devices there are.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Every address that the host takes for its own, loopback ones included.
    pub addresses: Vec<Own>,
    /// Those of IPv4 that are for everybody on one of its networks.
    pub broadcasts: Vec<Broadcast>,
}

/// An address for everybody on a network of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// The address.
    pub ip: Ipv4Addr,
    /// Index of the link that the network is on.
    pub link: u32,
    /// The address programs get that send there and choose none.
    pub source: Option<IpAddr>,
}

/// Reads the local table.
pub fn local(netlink: &mut Netlink) -> Result<Local> {
    let mut local = Local::default();
    for message in dump(netlink, LOCAL_TABLE, RouteType::Unspec)? {
        let (kind, whole) = (message.header.kind, matches!(message.header.destination_prefix_length, 32 | 128));
        let (mut to, mut link, mut source) = (None, 0, None);
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => to = ip(destination),
                RouteAttribute::Oif(index) => link = index,
                RouteAttribute::PrefSource(own) => source = ip(own),
                _ => {}
            }
        }
        match (kind, to) {
            (RouteType::Local, Some(ip)) if whole => local.addresses.push(Own { ip, link }),
            (RouteType::Broadcast, Some(IpAddr::V4(ip))) if whole => {
                local.broadcasts.push(Broadcast { ip, link, source })
            }
            _ => {}
        }
    }
    Ok(local)
}

/// What rules may choose by besides addresses: a transport, and the ports of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// TCP or UDP: the kernel answers no question about another one (`rtm_getroute_parse_ip_proto`, net/ipv4/fib_frontend.c).
    pub protocol: u8,
    /// The source's port.
    pub source: u16,
    /// The destination's port.
    pub destination: u16,
}

impl Transport {
    /// Of what answers it.
    pub fn of_answer(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

/// What the kernel's rules and routes say of one packet, as they say it to a socket bound to `from`; `None`: no route leads there.
pub fn lookup(netlink: &mut Netlink, from: Option<IpAddr>, to: IpAddr, by: Option<Transport>) -> Result<Option<Route>> {
    let mut message = RouteMessage::default();
    let bits = if to.is_ipv4() { 32 } else { 128 };
    message.header.address_family = family_of(to);
    message.header.destination_prefix_length = bits;
    message.attributes = vec![RouteAttribute::Destination(to.into())];
    if let Some(from) = from {
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Source(from.into()));
    }
    if let Some(by) = by {
        let ports = [RouteAttribute::Sport(by.source), RouteAttribute::Dport(by.destination)];
        message.attributes.extend([RouteAttribute::IpProto(by.protocol)].into_iter().chain(ports));
    }
    let refusing = |kind| Ok(Some(Route { kind, ..Route::to(to) }));
    match netlink.get_raw(&format!("look up the route to {to}"), RouteNetlinkMessage::GetRoute(message)) {
        Ok(Some(answer)) => Ok(RouteMessage::parse(&answer).ok().and_then(|message| of_any_table(message).1.pop())),
        // EINVAL
        Ok(None) => refusing(Kind::Blackhole),
        // the others: of a kernel without the family
        Err(Error::Netlink { errno, .. })
            if matches!(errno.raw_os_error(), Some(libc::ENETUNREACH | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) =>
        {
            Ok(None)
        }
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EHOSTUNREACH) => {
            refusing(Kind::Unreachable)
        }
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EACCES) => refusing(Kind::Prohibit),
        Err(e) => Err(e),
    }
}

/// What is to be known of the host's routing rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Are there more than the kernel's own (local, main, default)? Then a route depends on more than its destination.
    pub choose: bool,
    /// The longest prefix of routes of IPv6 that one leaves out (`suppress_prefixlength`; `suppress_ifgroup` may leave out any). Whoever
    /// asks the kernel from a program is told those all the same (`fib6_rule_suppress` looks at `rt6` alone, net/ipv6/fib6_rules.c;
    /// `bpf_fib_lookup` has none).
    pub suppress_v6: Option<u32>,
}

/// Looks at them.
pub fn rules(netlink: &mut Netlink) -> Result<Rules> {
    // include/uapi/linux/fib_rules.h: struct fib_rule_hdr, and what is -1 for a rule that leaves nothing out
    const HEADER: usize = 12;
    const SUPPRESS_IFGROUP: u16 = 13;
    const SUPPRESS_PREFIXLEN: u16 = 14;
    let suppressed = |body: &[u8]| {
        let attributes = NlasIterator::new(body.get(HEADER..).unwrap_or_default()).flatten();
        let numbers = attributes.filter_map(|nla| Some((nla.kind(), u32::from_ne_bytes(nla.value().try_into().ok()?))));
        let longest = numbers.filter(|(_, number)| *number != u32::MAX).filter_map(|(kind, number)| match kind {
            SUPPRESS_PREFIXLEN => Some(number),
            SUPPRESS_IFGROUP => Some(128),
            _ => None,
        });
        longest.max()
    };
    let mut found = Rules::default();
    for (family, own) in [(AddressFamily::Inet, 3), (AddressFamily::Inet6, 2)] {
        let mut message = RuleMessage::default();
        message.header.family = family;
        let (mut rules, mut suppress) = (0, None);
        let read = netlink.dump_unparsed("list routing rules", RouteNetlinkMessage::GetRule(message), |body| {
            rules += 1;
            suppress = suppress.max(suppressed(body));
        });
        match read {
            Ok(()) => found.choose |= rules > own,
            // a kernel without rules has none of them
            Err(Error::Netlink { .. }) => {}
            Err(e) => return Err(e),
        }
        if family == AddressFamily::Inet6 {
            found.suppress_v6 = suppress;
        }
    }
    Ok(found)
}

/// A route straight out of a device: `destination/prefix dev LINK src SOURCE mtu MTU`.
pub fn add(link: u32, route: &InnerRoute) -> Request {
    Request::create(format!("add route {route}"), RouteNetlinkMessage::NewRoute(message(link, route)))
}

/// Alters the route to the same destination with the same metric; an error (ENOENT, ESRCH) when there is none.
pub fn alter(link: u32, route: &InnerRoute) -> Request {
    Request::alter(format!("change route {route}"), RouteNetlinkMessage::NewRoute(message(link, route)))
}

/// Removes the route to the same destination with the same metric.
pub fn delete(link: u32, route: &InnerRoute) -> Request {
    Request::set(format!("delete route {route}"), RouteNetlinkMessage::DelRoute(message(link, route)))
}

fn message(link: u32, route: &InnerRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.destination);
    message.header.destination_prefix_length = route.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = route.kind.wire();
    message.header.scope = RouteScope::Universe;
    if !route.kind.refuses() {
        if route.destination.is_ipv4() {
            message.header.scope = RouteScope::Link;
        }
        message.attributes =
            vec![RouteAttribute::Oif(link), RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)])];
    }
    if route.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.into()));
    }
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if route.metric > 0 {
        message.attributes.push(RouteAttribute::Priority(route.metric));
    }
    message
}

fn dump(netlink: &mut Netlink, table: u8, kind: RouteType) -> Result<Vec<RouteMessage>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = table;
        message.header.kind = kind;
        match netlink.dump::<RouteMessage>("list routes", RouteNetlinkMessage::GetRoute(message)) {
            Ok(answers) => routes.extend(answers),
            // a kernel that filters answers ENOENT when the family has no such table
            Err(Error::Netlink { errno, .. })
                if matches!(errno.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(routes)
}

fn family_of(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Of the main table, one route for each next hop.
fn decode(message: RouteMessage) -> Vec<Route> {
    let (table, routes) = of_any_table(message);
    if table == u32::from(RouteHeader::RT_TABLE_MAIN) { routes } else { Vec::new() }
}

/// The same, with the table it stands in.
fn of_any_table(message: RouteMessage) -> (u32, Vec<Route>) {
    let mut table = u32::from(message.header.table);
    let Some(kind) = Kind::of(message.header.kind) else { return (table, Vec::new()) };
    let everything = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return (table, Vec::new()),
    };
    let prefix = message.header.destination_prefix_length;
    let mut route = Route { kind, prefix, ..Route::to(everything) };
    let mut hops = Vec::new();
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.destination = ip(to).unwrap_or(route.destination),
            RouteAttribute::Gateway(via) => route.gateway = ip(via),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.gateway = Some(via.into()),
            RouteAttribute::MultiPath(several) => hops = several,
            RouteAttribute::PrefSource(from) => route.source = ip(from),
            RouteAttribute::Oif(link) => route.link = link,
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Table(t) => table = t,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|m| match m {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if hops.is_empty() {
        return (table, vec![route]);
    }
    let hop = |hop: RouteNextHop| Route {
        link: hop.interface_index,
        gateway: hop.attributes.into_iter().find_map(|a| match a {
            RouteAttribute::Gateway(via) => ip(via),
            RouteAttribute::Via(RouteVia::Inet6(via)) => Some(via.into()),
            _ => None,
        }),
        ..route.clone()
    };
    (table, hops.into_iter().map(hop).collect())
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_addresses() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let on_link = |text: &str, prefix| {
            let destination = text.parse().unwrap();
            let kind = Kind::Unicast;
            [Route { kind, destination, prefix, link: 2, gateway: None, source: None, metric: 0, mtu: None }]
        };
        assert_eq!(broadcast(&on_link("10.0.0.0", 24), ip("10.0.0.2"), 2), Some(ip("10.0.0.255")));
        assert_eq!(broadcast(&on_link("10.0.0.0", 24), ip("10.1.0.2"), 2), None);
        assert_eq!(broadcast(&on_link("10.0.0.2", 31), ip("10.0.0.2"), 2), None, "two addresses, both hosts");
        assert_eq!(broadcast(&on_link("10.0.0.1", 32), ip("10.0.0.2"), 2), None, "a route to the gateway alone");
        assert_eq!(broadcast(&on_link("10.0.0.0", 24), ip("10.0.0.2"), 3), None, "of another link");
        let nested = [on_link("10.0.0.0", 8), on_link("10.0.0.0", 24)].concat();
        assert_eq!(broadcast(&nested, ip("10.0.0.2"), 2), Some(ip("10.0.0.255")));
    }
}
