//! The host's devices beside the uplink: whatever else its packets leave or come in by. A second network card, a bridge of
//! containers, a VPN.
//!
//! A start of a container asks only for those that an address or a route names, of which a host with one network card has none.
//! [`inbound`] asks for all there are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::error::Result;
use crate::net::link::{self, Link};
use crate::net::route::{Own, Route};
use crate::net::{Netlink, address};

/// Hosts with more routes than this (a routing daemon's full table, a bridge port for each of many containers) are
/// represented by their default routes.
pub const MANY_ROUTES: usize = 64;

/// A device of the host that is not the uplink.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The device; lo, too, where it carries an address that others can reach.
    pub link: Link,
    /// Its global addresses, the primary one of each family first.
    pub addresses: Vec<IpAddr>,
}

/// The devices beside the uplink that carry one of the host's addresses, or that a route leaves by. Devices of ours are none of
/// them, whatever addresses and routes somebody gave them.
pub fn read(netlink: &mut Netlink, uplink: &Link, local: &[Own], routes: &[Route]) -> Result<Vec<Beside>> {
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    let carrying: BTreeSet<u32> =
        local.iter().filter(|l| l.link != uplink.index && reachable(&l.ip)).map(|l| l.link).collect();
    let leaving = routes.iter().filter(|r| !r.kind.refuses() && r.link != uplink.index && counts(r, routes.len()));
    let named: BTreeSet<u32> = carrying.iter().copied().chain(leaving.map(|r| r.link)).collect();
    let addresses = if carrying.is_empty() { Vec::new() } else { address::all(netlink)? };
    let mut found = Vec::new();
    for index in named.into_iter().filter(|index| *index != 0) {
        let Some(link) = link::at(netlink, index)?.filter(|link| !link.is_ours()) else { continue };
        let own = addresses.iter().filter(|a| a.link == index && a.is_lasting() && reachable(&a.ip));
        // one of a device that is down is not the host's now
        let own = own.filter(|a| local.iter().any(|l| l.ip == a.ip)).map(|a| a.ip);
        found.push(Beside { addresses: own.collect(), link });
    }
    Ok(found)
}

/// The routes that lead to one, out of the uplink and the devices beside it, and those that refuse.
pub fn passable(routes: Vec<Route>, uplink: &Link, beside: &[Beside]) -> Vec<Route> {
    let known = |link: u32| link == uplink.index || beside.iter().any(|device| device.link.index == link);
    routes
        .into_iter()
        .filter(|r| is_from_afar(r) && (r.kind.refuses() || (r.kind.is_unicast() && known(r.link))))
        .collect()
}

/// Does a route count, of so many?
fn counts(route: &Route, of: usize) -> bool {
    is_from_afar(route) && (of <= MANY_ROUTES || route.is_default())
}

/// Containers have no link-local address to reach the neighbours of a link from, and loopback is their own.
fn is_from_afar(route: &Route) -> bool {
    !matches!(route.destination, IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_loopback())
}

/// The devices beside the uplink by which a packet for one of the host's addresses may come in: all that are up, but for lo,
/// ours, and ports of a bridge or a bond, which hand what comes to that. Of those, the ones whose packets the data path can read.
pub fn inbound(netlink: &mut Netlink, uplink: &Link) -> Result<Vec<Link>> {
    let all = link::all(netlink)?;
    let comes_in = |link: &Link| link.up && (link.ethernet || link.bare) && !link.is_ours() && link.master.is_none();
    Ok(all.into_iter().filter(|link| link.index != uplink.index && comes_in(link)).collect())
}
