//! Making what a namespace was given into what it is to have now, while programs run in it: filters, MAC address, addresses,
//! routes, settings. Only what differs from what was given last is touched, so that connections go on and what the
//! container's root altered stays. What does not live here: the first time ([`super::furnish`]).

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::Site;
use super::furnish::{NO_IPV6, ipv6};
use super::survey::canonical;
use crate::error::{Error, Result};
use crate::host::Given;
use crate::host::record::Changed;
use crate::host::sysctl::Settings;
use crate::lease::record::Found;
use crate::net::address::Address;
use crate::net::link::{LO, Mac};
use crate::net::route::{InnerRoute, Route};
use crate::net::{Netlink, Request, address, filter, link, route};
use crate::plan::slice::LO_TAKES;
use crate::plan::step::Furniture;

/// Lets the namespace follow.
pub fn mend(site: &mut Site<'_>, it: &Furniture) -> Result<()> {
    let inner = site.need_pair()?.peer.unwrap_or(0);
    let filters = [("lo", LO, "inner_lo"), (it.device.as_str(), inner, "inner_eth")];
    let programs = [site.host.programs.open("inner_lo")?, site.host.programs.open("inner_eth")?];
    let ids = [site.host.programs.id("inner_lo")?, site.host.programs.id("inner_eth")?];
    let (proc, mut found) = (site.proc, site.found.clone());
    let nothing = Furniture { mac: Mac::default(), addresses: Vec::new(), routes: Vec::new(), ..it.clone() };
    let last = it.last.as_deref().unwrap_or(&nothing);
    let container = site.container()?;
    site.found = container.inside(|| {
        let mut netlink = Netlink::route()?;
        let mut here = proc.here();
        let mut requests = Vec::new();
        for ((device, index, name), (program, id)) in filters.into_iter().zip(programs.iter().zip(ids)) {
            let there = filter::ingress(&mut netlink, index)?;
            if !there.iter().any(|filter| filter.runs(name) && filter.program == Some(id)) {
                requests.extend(replace_filter(&there, (device, index, name), program, it.slot));
            }
        }
        netlink.batch(&requests)?;
        match netlink.batch(&differences(inner, last, it)) {
            Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EACCES) => {
                ipv6(&mut netlink, &mut here, &mut found, inner, it)?;
            }
            done => done?,
        }
        settings(&mut here, &mut found, it)?;
        Ok(found)
    })?;
    Ok(())
}

/// Puts the program in the place of an earlier one, or of one that was removed. A stranger's filter at that place stays: the
/// refusal of an attach would come too late.
fn replace_filter(
    there: &[filter::Attached],
    (device, index, name): (&str, u32, &'static str),
    program: &OwnedFd,
    slot: u16,
) -> Vec<Request> {
    if there.iter().any(|filter| filter.priority == filter::PRIORITY && !filter.is_ours()) {
        log::warn!("slot {slot}: {device} of its network namespace has a filter of somebody else at preference 1");
        return Vec::new();
    }
    let qdisc = filter::add_ingress_qdisc(index, device).tolerate(&[libc::EEXIST]);
    vec![qdisc, filter::add_ingress(index, device, program.as_fd(), name, slot)]
}

/// From what the device was given last to what it is to have. What is new comes before what is old goes: connections over
/// addresses and routes that stay never miss them. An address takes the routes along that name it, so those are altered first.
fn differences(inner: u32, last: &Furniture, it: &Furniture) -> Vec<Request> {
    let unless_off = |v6: bool, request: Request| if v6 { request.tolerate(NO_IPV6_OR_THERE) } else { request };
    let mut requests = Vec::new();
    if last.mac != it.mac {
        requests.push(link::set_mac(inner, &it.device, it.mac));
    }
    for ip in it.addresses.iter().filter(|ip| !last.addresses.contains(ip)) {
        requests.push(unless_off(ip.is_ipv6(), address::add(inner, *ip).tolerate(&[libc::EEXIST])));
    }
    for new in &it.routes {
        match last.routes.iter().find(|old| old.same_place(new)) {
            None => {
                requests.push(unless_off(new.destination.is_ipv6(), route::add(inner, new).tolerate(&[libc::EEXIST])));
            }
            Some(old) if old != new => requests.push(route::alter(inner, new).tolerate(GONE)),
            Some(_) => {}
        }
    }
    let gone = last.routes.iter().filter(|old| !it.routes.iter().any(|new| new.same_place(old)));
    requests.extend(gone.map(|old| route::delete(inner, old).tolerate(GONE)));
    let gone = last.addresses.iter().filter(|ip| !it.addresses.contains(ip));
    requests.extend(gone.map(|ip| address::delete(inner, *ip).tolerate(GONE)));
    requests
}

/// What the container's device carries, where nobody knows any more what it was given. For the command line alone: it takes
/// parsers that would be a thirtieth of a hook.
pub fn carried(site: &mut Site<'_>) -> Result<Given> {
    let inner = site.need_pair()?.peer.unwrap_or(0);
    site.container()?.inside(|| {
        let mut netlink = Netlink::route()?;
        let mac = link::at(&mut netlink, inner)?.and_then(|link| link.mac).unwrap_or_default();
        let alone = |address: &Address| address.prefix == if address.ip.is_ipv6() { 128 } else { 32 };
        let addresses: Vec<IpAddr> =
            address::of_link(&mut netlink, inner)?.into_iter().filter(alone).map(|address| address.ip).collect();
        let routes = route::of_link(&mut netlink, inner)?.into_iter();
        // The kernel has a route to each IPv6 address.
        let given = routes.filter(|route| route.prefix != 128 || !addresses.contains(&route.destination));
        let inner_route = |route: Route| InnerRoute {
            destination: route.destination,
            prefix: route.prefix,
            source: route.source,
            metric: route.metric,
            mtu: route.mtu.unwrap_or(0),
            kind: route.kind,
        };
        let routes = given.map(inner_route).collect();
        Ok(Given { mac, addresses, routes, ..Given::default() })
    })
}

/// IPv6 may be off, and a run that was killed may have done it already.
const NO_IPV6_OR_THERE: &[i32] = &[NO_IPV6[0], NO_IPV6[1], NO_IPV6[2], libc::EEXIST];
/// Whoever has power over the namespace may have removed it.
const GONE: &[i32] =
    &[libc::ESRCH, libc::ENOENT, libc::EADDRNOTAVAIL, libc::ENODEV, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];

/// Writes the settings that the host has another value of now, where the container still has the old one; and for lo what an
/// attach of an earlier version left out, which made no note of it.
fn settings(here: &mut Settings<'_>, found: &mut Found, it: &Furniture) -> Result<()> {
    let Some(last) = it.last.as_deref() else { return Ok(()) };
    for (key, value) in &it.settings {
        let Some((_, old)) = last.settings.iter().find(|(known, _)| known == key) else { continue };
        let (old, now) = (canonical(old), canonical(value));
        let noted = found.settings.iter().position(|changed| changed.key == *key);
        let left_out = noted.is_none() && LO_TAKES.contains(&key.as_str());
        if old == now && !left_out {
            continue;
        }
        let Some(there) = here.read(key)?.filter(|there| *there != now && (left_out || *there == old)) else {
            continue;
        };
        if let Err(e) = here.write(key, value) {
            log::debug!("{e}");
            continue;
        }
        match noted {
            Some(at) => found.settings[at].now = now,
            None => found.settings.push(Changed { key: key.clone(), before: there, now }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::route::Kind;

    fn furniture(addresses: &[&str], routes: &[(&str, u8, u32)]) -> Furniture {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let route = |(to, prefix, mtu): &(&str, u8, u32)| InnerRoute {
            destination: ip(to),
            prefix: *prefix,
            source: None,
            metric: 0,
            mtu: *mtu,
            kind: Kind::Unicast,
        };
        Furniture {
            slot: 1,
            device: "eth0".into(),
            mac: [2, 0, 0, 0, 0, 1],
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            routes: routes.iter().map(route).collect(),
            settings: Vec::new(),
            own_ipv6: false,
            own_rp_filter: false,
            last: None,
        }
    }

    fn steps(last: Furniture, now: Furniture) -> Vec<String> {
        differences(9, &last, &now).into_iter().map(|request| request.doing).collect()
    }

    #[test]
    fn what_is_the_same_is_not_touched() {
        let now = furniture(&["10.0.0.2", "fd00::2"], &[("0.0.0.0", 0, 1500), ("fd00::", 64, 1500)]);
        assert_eq!(steps(now.clone(), now), [""; 0]);
    }

    #[test]
    fn what_is_new_comes_before_what_is_old_goes() {
        let last = furniture(&["10.0.0.2", "10.0.0.3"], &[("0.0.0.0", 0, 1500), ("10.9.0.0", 16, 1500)]);
        let now = furniture(&["10.0.0.4", "10.0.0.3"], &[("0.0.0.0", 0, 1400), ("10.8.0.0", 16, 1400)]);
        let expected = [
            "add address 10.0.0.4",
            "change route 0.0.0.0/0",
            "add route 10.8.0.0/16",
            "delete route 10.9.0.0/16",
            "delete address 10.0.0.2",
        ];
        assert_eq!(steps(last, now), expected);
    }
}
