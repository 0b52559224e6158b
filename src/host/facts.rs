//! What the host looks like at this moment, read once per verb.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::utsname::uname;

use super::beside::{self, Beside};
use super::carried;
use super::sysctl::Proc;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::net::address;
use crate::net::link::{self, Link, Mac};
use crate::net::route::{self, Broadcast, Route};
use crate::ports::{PortRange, PortSet};
use crate::rate::{Direction, Machine, Rate};

/// Ethernet address of containers' devices where the uplink has none, such as a tunnel or a modem. It stays on this host.
const NO_ONES_MAC: Mac = [2, 0, 0, 0, 0, 1];

/// The host as a plan needs it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The device that carries the address containers share, and that leads to the world.
    pub uplink: Link,
    /// Its Ethernet address, which containers' devices have as well.
    pub mac: Mac,
    /// The host's global addresses, the uplink's primary one of each family first: every container carries them.
    /// [`carried::MOST`] at most.
    pub addresses: Vec<IpAddr>,
    /// How many more it has.
    pub uncarried: usize,
    /// The uplink's own IPv6 address on its link, which only what neighbours tell each other comes from.
    pub link_local: Option<IpAddr>,
    /// The addresses that the host takes for its own and containers do not carry, loopback ones not counted.
    pub others: Vec<IpAddr>,
    /// The addresses for all on its networks, the first one of the uplink not counted ([`Facts::broadcast`]).
    pub broadcasts: Vec<Broadcast>,
    /// The host's other devices that containers' packets may leave or come in by, as far as addresses and routes name them.
    pub beside: Vec<Beside>,
    /// Routes of the main table: those out of the uplink and of devices beside it, and those that refuse.
    pub routes: Vec<Route>,
    /// Does a way depend on more than its destination and `routes`: are there routing rules besides the kernel's own, or more
    /// routes than are looked at ([`beside::MANY_ROUTES`])?
    pub policy: bool,
    /// The links that are one of several next hops of an IPv4 route; `None` where that is not known.
    pub shared: Option<BTreeSet<u32>>,
    /// The links that have an IPv4 address.
    pub with_v4: BTreeSet<u32>,
    /// Does a rule of IPv6 leave out routes that the data path is told all the same ([`route::Rules`])?
    pub suppress_v6: bool,
    /// Where rules choose: the way to the world at large, of each family, of a packet whose source is not chosen yet.
    pub usual: Vec<Route>,
    /// How sources are looked at on all its devices, by the kernel's number (`net.ipv4.conf.all.rp_filter`).
    pub rp_filter: u32,
    /// The ports the host's own connections come from.
    pub ephemeral: PortRange,
    /// Those of them that the kernel never gives out.
    pub reserved: PortSet,
    /// Kernel version.
    pub kernel: (u32, u32),
}

impl Facts {
    /// Reads the facts. The uplink is the configured device; without one, the device of the best default route.
    pub fn read(netlink: &mut Netlink, proc: &Proc, config: &Config) -> Result<Self> {
        let routes = route::all(netlink)?;
        let uplink = find_uplink(netlink, config.uplink.as_deref(), &routes)?;
        if !uplink.ethernet && !uplink.bare {
            return Err(Error::unsupported(
                format!("uplink {} is neither an Ethernet device nor a tunnel", uplink.name),
                "name the device that carries the host's address in the config key uplink",
            ));
        }
        let mac = uplink.mac.filter(|_| uplink.ethernet).unwrap_or(NO_ONES_MAC);
        let of_uplink = address::of_link(netlink, uplink.index)?;
        let own: Vec<IpAddr> = of_uplink.iter().filter(|a| a.is_lasting()).map(|a| a.ip).collect();
        if own.is_empty() {
            return Err(Error::unsupported(
                format!("uplink {} has no global address", uplink.name),
                "give it one, or name the device that carries the host's address in the config key uplink",
            ));
        }
        let route::Local { addresses: local, mut broadcasts } = route::local(netlink)?;
        let beside = beside::read(netlink, &uplink, &local, &routes)?;
        let candidates = carried::candidates(own, &beside, &config.addresses);
        let all = candidates.count();
        let addresses = candidates.carried();
        if addresses.is_empty() {
            return Err(Error::unsupported(
                format!("this host has none of the addresses {} that containers are to carry", config.addresses),
                "correct the config key addresses",
            ));
        }
        let with_v4 = local.iter().filter(|own| own.ip.is_ipv4()).map(|own| own.link).collect();
        let mut others: Vec<IpAddr> = local.into_iter().map(|local| local.ip).collect();
        let known: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        others.retain(|ip| !ip.is_loopback() && !known.contains(ip));
        let rules = route::rules(netlink)?;
        let (many, choose) = (routes.len() > beside::MANY_ROUTES, rules.choose);
        let rp_filter = link::sources_of_all(netlink)?.unwrap_or(0);
        let shared = match (choose, many) {
            (false, _) => Some(route::shared(&routes)),
            (true, false) => Some(route::shared_by_any(netlink)?),
            (true, true) => None,
        };
        let is_suppressed = |longest: u32| {
            routes.iter().any(|r| r.destination.is_ipv6() && r.kind.is_unicast() && u32::from(r.prefix) <= longest)
        };
        let suppress_v6 = addresses.iter().any(IpAddr::is_ipv6) && rules.suppress_v6.is_some_and(is_suppressed);
        let usual = if choose { usual_ways(netlink)? } else { Vec::new() };
        let mut settings = proc.here();
        let mut facts = Self {
            broadcasts: Vec::new(),
            routes: beside::passable(routes, &uplink, &beside),
            uncarried: all.saturating_sub(addresses.len()),
            beside,
            policy: many || choose,
            shared,
            with_v4,
            rp_filter,
            suppress_v6,
            usual,
            ephemeral: settings.ephemeral_range()?,
            reserved: settings.reserved_ports()?,
            kernel: kernel_version(),
            uplink,
            mac,
            addresses,
            link_local: of_uplink.iter().find(|a| a.is_of_link()).map(|a| a.ip),
            others,
        };
        let of_uplink = facts.broadcast();
        // Where two links have networks with the same one, the kernel takes the first.
        let mut seen = BTreeSet::new();
        broadcasts.retain(|to| !to.ip.is_loopback() && Some(to.ip) != of_uplink && seen.insert(to.ip));
        facts.broadcasts = broadcasts;
        Ok(facts)
    }

    /// The address for all on the uplink's network.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        let Some(IpAddr::V4(own)) = self.primary(false) else { return None };
        route::broadcast(&self.routes, own, self.uplink.index)
    }

    /// The address programs get that choose none and send out of `link`; `None` when containers carry none of its family.
    pub fn source(&self, link: u32, v6: bool) -> Option<IpAddr> {
        let there = self.beside.iter().find(|device| device.link.index == link);
        let own = there.and_then(|device| device.addresses.iter().find(|ip| ip.is_ipv6() == v6));
        own.copied().filter(|ip| self.addresses.contains(ip)).or_else(|| self.primary(v6))
    }

    /// The uplink or a device beside it, if packets leave the host by it.
    pub fn out(&self, link: u32) -> Option<&Link> {
        let beside = self.beside.iter().map(|device| &device.link);
        std::iter::once(&self.uplink).chain(beside).find(|out| out.index == link && !out.loopback)
    }

    /// MTU of the uplink or a device beside it.
    pub fn mtu(&self, link: u32) -> u32 {
        let there = self.beside.iter().find(|device| device.link.index == link);
        there.map_or(self.uplink.mtu, |device| device.link.mtu)
    }

    /// The address that programs get who choose none and send to the world at large, and the largest packet that goes there. Rules may
    /// lead all of it elsewhere than the main table says, as a VPN's do that takes everything.
    pub fn usual(&self, v6: bool) -> Option<(IpAddr, u32)> {
        // what the data path is told instead leads out as the main table says
        let heeded = !(v6 && self.suppress_v6);
        let way = self.usual.iter().find(|way| heeded && way.destination.is_ipv6() == v6)?;
        let source = way.source.filter(|ip| self.addresses.contains(ip))?;
        let mtu = self.mtu(way.link);
        Some((source, way.mtu.unwrap_or(mtu).min(mtu)))
    }

    /// The address programs get that do not choose one, if the host has the family.
    pub fn primary(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| ip.is_ipv6() == v6)
    }
}

/// What the host has to offer to limits that scale with it. The uplink's speed is looked for only when it counts.
///
/// The kernel gives it in units of 10^6 bit/s (Documentation/ABI/testing/sysfs-class-net): -1, or no answer at all,
/// for a device that does not know.
pub fn machine(config: &Config, uplink: &str) -> Machine {
    let needed = [Direction::Egress, Direction::Ingress].iter().any(|d| config.policy(*d).needs_link());
    if !needed {
        return Machine::default();
    }
    let told = || {
        let text = fs::read_to_string(format!("/sys/class/net/{uplink}/speed")).ok()?;
        let megabits = text.trim().parse::<u32>().ok().filter(|speed| *speed != 0 && *speed != u32::MAX)?;
        Some(Rate::from_bits_per_second(u64::from(megabits) * 1_000_000))
    };
    let link = if config.link_speed.is_unlimited() { told() } else { Some(config.link_speed) };
    Machine { link, cpus: if config.cpus == 0 { online_cpus() } else { config.cpus } }
}

/// CPUs that run, whatever this process may use of them; 0 when the kernel does not say.
pub fn online_cpus() -> u32 {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<u32>().ok()? - first.parse::<u32>().ok()? + 1)
    };
    text.trim().split(',').filter_map(count).sum()
}

/// Major and minor number of the running kernel; (0, 0) when it does not say.
pub fn kernel_version() -> (u32, u32) {
    let release = uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The device of the best default route, IPv4 before IPv6. Routes through devices of ours do not count: a network
/// manager that takes one for its own makes such routes.
fn default_device(netlink: &mut Netlink, routes: &[Route]) -> Result<Link> {
    let mut defaults: Vec<&Route> = routes.iter().filter(|r| r.is_default() && !r.kind.refuses()).collect();
    defaults.sort_by_key(|r| (r.destination.is_ipv6(), r.metric));
    for route in defaults {
        let link = link::at(netlink, route.link)?;
        let link = link
            .ok_or_else(|| Error::Failed(format!("the default route's device {} vanished: try again", route.link)))?;
        if !link.is_ours() {
            return Ok(link);
        }
    }
    Err(Error::unsupported(
        "the host has no default route that would tell its uplink",
        "name the device that carries the host's address in the config key uplink",
    ))
}

/// Who is asked about is nobody in particular, as nobody has such an address (RFC 5737, RFC 3849).
fn usual_ways(netlink: &mut Netlink) -> Result<Vec<Route>> {
    const SOMEBODY: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
    let mut ways = Vec::new();
    for whom in SOMEBODY {
        ways.extend(route::lookup(netlink, None, whom, None)?.filter(|route| !route.kind.refuses()));
    }
    Ok(ways)
}

fn find_uplink(netlink: &mut Netlink, configured: Option<&str>, routes: &[Route]) -> Result<Link> {
    let found = match configured {
        Some(name) => {
            let correct = "correct the config key uplink, or leave it out to take the device of the default route";
            let link = link::find(netlink, name)?.ok_or_else(|| {
                Error::unsupported(format!("there is no device {name}, which the config names as uplink"), correct)
            })?;
            if link.is_ours() {
                return Err(Error::unsupported(
                    format!("{name}, which the config names as uplink, is a device that portslice made"),
                    correct,
                ));
            }
            link
        }
        None => default_device(netlink, routes)?,
    };
    if !found.up {
        return Err(Error::unsupported(format!("uplink {} is down", found.name), "bring it up first"));
    }
    Ok(found)
}

/// A host for tests of what follows from facts: eth0 with an address of each family, and beside it eth1 with another one and lo.
#[cfg(test)]
pub(crate) fn sample(routes: Vec<Route>) -> Facts {
    let ip = |text: &str| text.parse().unwrap();
    let link = |index, mtu| Link { index, mtu, ..Link::default() };
    let lo = Link { loopback: true, ..link(1, 65_536) };
    Facts {
        uplink: link(2, 1500),
        mac: Mac::default(),
        addresses: vec![ip("10.0.0.2"), ip("fd00::2"), ip("10.1.0.2")],
        uncarried: 0,
        link_local: None,
        broadcasts: Vec::new(),
        others: Vec::new(),
        beside: vec![
            Beside { link: link(3, 9000), addresses: vec![ip("10.1.0.2")] },
            Beside { link: lo, addresses: Vec::new() },
        ],
        routes,
        policy: false,
        shared: Some(BTreeSet::new()),
        with_v4: [2, 3].into(),
        suppress_v6: false,
        usual: Vec::new(),
        rp_filter: 0,
        ephemeral: PortRange::new(32_768, 60_999).unwrap(),
        reserved: PortSet::empty(),
        kernel: (6, 1),
    }
}
