//! What the host looks like at this moment, read once per verb.

use std::fs;
use std::net::IpAddr;

use nix::sys::utsname::uname;

use super::sysctl::Proc;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::net::Netlink;
use crate::net::address::{self, Address};
use crate::net::link::{self, Link, Mac};
use crate::net::route::{self, Route};
use crate::ports::{PortRange, PortSet};
use crate::rate::{Direction, Machine, Rate};

/// Most addresses of the uplink that containers are given: each costs the kernel more the more there are, and thousands make
/// the start of a container take seconds.
pub const CARRIED: usize = 256;

/// The host as a plan needs it.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The device that carries the address containers share.
    pub uplink: Link,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its global addresses, the primary one of each family first: every container carries them. [`CARRIED`] at most.
    pub addresses: Vec<IpAddr>,
    /// How many more it has.
    pub uncarried: usize,
    /// The host's other addresses, loopback ones not counted: those of other devices, and what containers do not carry.
    pub others: Vec<IpAddr>,
    /// Unicast routes out of the uplink.
    pub routes: Vec<Route>,
    /// Do routing rules exist besides the kernel's own?
    pub policy: bool,
    /// The ports the host's own connections come from.
    pub ephemeral: PortRange,
    /// Those of them that the kernel never gives out.
    pub reserved: PortSet,
    /// Kernel version.
    pub kernel: (u32, u32),
}

impl Facts {
    /// Reads the facts. `uplink` is the configured device; without one, the device of the best default route.
    pub fn read(netlink: &mut Netlink, proc: &Proc, uplink: Option<&str>) -> Result<Self> {
        let routes = route::all(netlink)?;
        let uplink = find_uplink(netlink, uplink, &routes)?;
        let mac = match uplink.mac {
            Some(mac) if uplink.ethernet => mac,
            _ => {
                return Err(Error::unsupported(
                    format!("uplink {} is not an Ethernet device", uplink.name),
                    "name the Ethernet device that carries the host's address in the config key uplink",
                ));
            }
        };
        let usable = |a: &Address| a.global && !a.passing;
        let addresses: Vec<IpAddr> =
            address::of_link(netlink, uplink.index)?.into_iter().filter(usable).map(|a| a.ip).collect();
        if addresses.is_empty() {
            return Err(Error::unsupported(
                format!("uplink {} has no global address", uplink.name),
                "give it one, or name the device that carries the host's address in the config key uplink",
            ));
        }
        let all = addresses.len();
        let addresses = carried(addresses);
        let mut others = route::local_addresses(netlink)?;
        others.retain(|ip| !ip.is_loopback() && !addresses.contains(ip));
        let mut settings = proc.here();
        Ok(Self {
            routes: routes.into_iter().filter(|r| r.link == uplink.index).collect(),
            policy: route::has_policy(netlink)?,
            ephemeral: settings.ephemeral_range()?,
            reserved: settings.reserved_ports()?,
            kernel: kernel_version(),
            uplink,
            mac,
            uncarried: all - addresses.len(),
            addresses,
            others,
        })
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

/// What containers carry of the uplink's addresses: all of them, or as many as they can, the primary one of each family among
/// them. Which ones does not change when another is added, so that connections from them go on: the kernel lists IPv4 addresses
/// in the order in which they came, IPv6 addresses the newest first (`ipv6_link_dev_addr`, net/ipv6/addrconf.c).
fn carried(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    if addresses.len() <= CARRIED {
        return addresses;
    }
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
    let most = CARRIED.saturating_sub(v6.len()).max(CARRIED / 2);
    v4.truncate(most);
    let newer = v6.len().saturating_sub(CARRIED - v4.len());
    if newer > 0 {
        v6.drain(1..=newer);
    }
    v4.extend(v6);
    v4
}

/// The device of the best default route, IPv4 before IPv6. Routes through devices of ours do not count: a network
/// manager that takes one for its own makes such routes.
fn default_device(netlink: &mut Netlink, routes: &[Route]) -> Result<Link> {
    let mut defaults: Vec<&Route> = routes.iter().filter(|r| r.is_default()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn many(v4: u32, v6: u128) -> Vec<IpAddr> {
        let v4 = (0..v4).map(|i| IpAddr::from((0x0a00_0001 + i).to_be_bytes()));
        // the newest first
        let v6 = (0..v6).rev().map(|i| IpAddr::from((0xfd00 << 112 | i).to_be_bytes()));
        v4.chain(v6).collect()
    }

    #[test]
    fn what_containers_carry_has_an_end() {
        for (v4, v6) in [(1, 1), (0, 256), (200, 56), (128, 128)] {
            assert_eq!(carried(many(v4, v6)), many(v4, v6), "{v4} and {v6}");
        }
        for (v4, v6, of_v4) in
            [(5000, 0, 256), (0, 5000, 0), (300, 1, 255), (1, 300, 1), (200, 200, 128), (200, 100, 156)]
        {
            let given = carried(many(v4, v6));
            assert_eq!(given.len(), CARRIED, "{v4} and {v6}");
            assert_eq!(given.iter().filter(|ip| ip.is_ipv4()).count(), of_v4, "{v4} and {v6}");
            for family in [many(v4, 0), many(0, v6)] {
                assert!(
                    family.first().is_none_or(|primary| given.contains(primary)),
                    "{v4} and {v6}: a primary address"
                );
            }
        }
    }

    #[test]
    fn one_more_changes_nothing_but_the_primary_address() {
        for (before, after) in [(many(300, 1), many(301, 1)), (many(1, 300), many(1, 301))] {
            let (before, after) = (carried(before), carried(after));
            assert!(before.iter().filter(|ip| !after.contains(ip)).count() <= 1);
        }
    }
}
