//! What a container's namespace is given: filters on its devices, the host's addresses, routes and settings.
//!
//! A namespace may have been somebody else's before, and may live on afterwards: what stood there is noted, and put back.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use super::survey::canonical;
use super::{Others, Site};
use crate::error::{Error, Result};
use crate::host::record::Changed;
use crate::host::sysctl::Settings;
use crate::lease::record::Found;
use crate::net::link::{LO, Mac, Sources};
use crate::net::route::InnerRoute;
use crate::net::{Netlink, Netns, Request, address, filter, link, qdisc, route};
use crate::plan::slice::{EPHEMERAL, LO_TAKES};
use crate::plan::step::Furniture;

/// IPv6 may be compiled out or turned off: then it needs no configuration.
pub(super) const NO_IPV6: &[i32; 3] = &[libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::ENOENT];

/// Furnishes it.
pub fn perform(site: &mut Site<'_>, it: &Furniture) -> Result<()> {
    let inner = site.need_pair()?.peer.unwrap_or(0);
    let programs = [site.host.programs.open("inner_lo")?, site.host.programs.open("inner_eth")?];
    let (proc, mut found, surveyed) = (site.proc, site.found.clone(), site.inner.take());
    let container = site.container()?;
    let found = container.inside(|| {
        let mut netlink = surveyed.map_or_else(Netlink::route, Ok)?;
        let mut here = proc.here();
        let strict = it.own_rp_filter || link::sources_of_all(&mut netlink)?.is_none_or(|all| all != 0);
        let sources = if strict { Sources::Reachable } else { Sources::Any };
        let mut requests = devices(inner, it, &programs[1], sources);
        if found.lo_qdisc {
            not_taken(&filter::ingress(&mut netlink, LO)?)?;
        }
        requests.splice(..0, guard_lo(it.slot, &programs[0]));
        let off = |key: &str| found.settings.iter().any(|changed| changed.key == key && changed.now == "1");
        requests.push(link::lo_takes_local(LO_TAKES.map(off)));
        netlink.batch(&requests)?;
        match netlink.batch(&addresses(inner, it)) {
            // Docker turns IPv6 off in the namespaces of its containers, for devices to come as well.
            Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EACCES) => {
                ipv6(&mut netlink, &mut here, &mut found, inner, it)?;
            }
            other => other?,
        }
        // What is recorded is what has another value than it is to have.
        let told = |changed: &&Changed| LO_TAKES.contains(&changed.key.as_str());
        let wanted = |changed: &&Changed| it.settings.iter().any(|(key, _)| *key == changed.key);
        for changed in found.settings.iter().filter(|changed| wanted(changed) && !told(changed)) {
            write(&mut here, changed)?;
        }
        Ok(found)
    })?;
    site.found = found;
    Ok(())
}

/// Takes the filter off its lo and puts settings back, if the namespace lives and can be reached.
pub fn undo(site: &mut Site<'_>) -> Result<()> {
    let (found, proc) = (site.found.clone(), site.proc);
    let by_name;
    let container = if site.pair()?.is_none() {
        // Whoever removed the device may have kept the namespace. Nearly always both are gone, and one look tells.
        match Netns::open(&site.lease.netns) {
            Ok(there) if there.id == site.lease.netns_id => by_name = there,
            _ => return Ok(()),
        }
        &by_name
    } else if site.lives()? {
        match site.container() {
            // It lives, but only in the kernel: sockets that still have something to send.
            Err(Error::NotFound(_)) => return Ok(()),
            container => container?,
        }
    } else {
        return Ok(());
    };
    container.inside(|| {
        unguard_lo(&mut Netlink::route()?, found.lo_qdisc)?;
        let mut here = proc.here();
        for changed in found.settings.iter().rev() {
            if here.read(&changed.key)?.as_deref() == Some(&changed.now) {
                here.write(&changed.key, &changed.before)?;
            }
        }
        Ok(())
    })
}

/// What differs from the plan.
pub fn look(site: &mut Site<'_>, it: &Furniture) -> Result<Vec<String>> {
    let Some(pair) = site.pair()? else { return Ok(Vec::new()) };
    let (inner, proc, others) = (pair.peer.unwrap_or(0), site.proc, site.others);
    let nobody = Others::default();
    let others = others.unwrap_or(&nobody);
    let container = match site.container() {
        Err(Error::NotFound(_)) => return Ok(vec!["nobody holds its network namespace any more".to_owned()]),
        container => container?,
    };
    container.inside(|| {
        let mut netlink = Netlink::route()?;
        let mut lines = Vec::new();
        for (device, index, program) in [("lo", LO, "inner_lo"), (it.device.as_str(), inner, "inner_eth")] {
            let filters = filter::ingress(&mut netlink, index)?;
            if !filters.iter().any(|filter| filter.runs(program)) {
                lines.push(format!("its {device} has no filter {program}"));
            }
            if !link::at(&mut netlink, index)?.is_some_and(|link| link.up) {
                lines.push(format!("its {device} is down"));
            }
        }
        let planned = |mac: &Option<Mac>| *mac == Some(it.mac) || (mac.is_some() && *mac == others.mac);
        if let Some(there) = link::at(&mut netlink, inner)?.filter(|there| !planned(&there.mac)) {
            let [is, wanted] = [there.mac.unwrap_or_default(), it.mac].map(link::mac_text);
            lines.push(format!("its {} has the MAC address {is} instead of {wanted}", it.device));
        }
        lines.extend(addresses_that_differ(&address::of_link(&mut netlink, inner)?, it, &others.addresses));
        lines.extend(routes_that_differ(&route::of_link(&mut netlink, inner)?, it, &others.routes));
        let mut here = proc.here();
        for (key, value) in &it.settings {
            let there = here.read(key)?;
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            if there.as_deref().is_some_and(|there| words(there) != words(value)) {
                let there = there.unwrap_or_default();
                lines.push(format!("its net.{} is {there} instead of {value}", key.replace('/', ".")));
            }
        }
        Ok(lines)
    })
}

fn addresses_that_differ(carried: &[address::Address], it: &Furniture, others: &[IpAddr]) -> Vec<String> {
    let known = |ip: &IpAddr| it.addresses.contains(ip) || others.contains(ip);
    let lacks = it.addresses.iter().filter(|ip| !carried.iter().any(|address| address.ip == **ip));
    let more = carried.iter().filter(|address| address.global && !known(&address.ip));
    let lost = others.iter().filter(|ip| !carried.iter().any(|address| address.ip == **ip));
    lacks
        .map(|ip| format!("its {} lacks the address {ip}", it.device))
        .chain(
            more.map(|address| {
                format!("its {} has the address {}, which is none of the host's", it.device, address.ip)
            }),
        )
        .chain(lost.map(|ip| format!("it was given {ip}, which is no address of the host nor of its {}", it.device)))
        .collect()
}

fn routes_that_differ(there: &[route::Route], it: &Furniture, others: &[(IpAddr, u8)]) -> Vec<String> {
    let mut lines = Vec::new();
    let at = |route: &InnerRoute| (route.destination, route.prefix, route.metric);
    for route in &it.routes {
        match there.iter().find(|there| (there.destination, there.prefix, there.metric) == at(route)) {
            None => lines.push(format!("it lacks the route {route}")),
            Some(there) if there.kind != route.kind => {
                lines.push(format!("its route {route} is another kind of route"))
            }
            Some(there) if there.mtu.unwrap_or(0) != route.mtu => {
                let is = there.mtu.map_or_else(|| "none".into(), |mtu| mtu.to_string());
                lines.push(format!("its route {route} has MTU {is} instead of {}", route.mtu));
            }
            Some(there) if there.source != route.source => {
                let [is, wanted] = [there.source, route.source]
                    .map(|source| source.map_or_else(|| "none".into(), |source| source.to_string()));
                lines.push(format!("its route {route} has source address {is} instead of {wanted}"));
            }
            Some(_) => {}
        }
    }
    // The kernel makes routes of its own for IPv6: one for each address, and one for the link.
    let own = |there: &route::Route| match there.destination {
        IpAddr::V6(ip) => there.prefix == 128 || ip.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let known = |there: &route::Route| {
        let to = (there.destination, there.prefix);
        others.contains(&to) || it.routes.iter().any(|route| at(route) == (to.0, to.1, there.metric))
    };
    let more = there.iter().filter(|there| !known(there) && !own(there));
    lines.extend(
        more.map(|there| format!("it has the route {}/{}, which the host has not", there.destination, there.prefix)),
    );
    lines
}

/// Puts the program on lo.
fn guard_lo(slot: u16, program: &OwnedFd) -> [Request; 2] {
    let qdisc = filter::add_ingress_qdisc(LO, "lo").tolerate(&[libc::EEXIST]);
    [qdisc, filter::add_ingress(LO, "lo", program.as_fd(), "inner_lo", slot)]
}

/// Somebody else's filter at our place on lo is left alone.
fn not_taken(filters: &[filter::Attached]) -> Result<()> {
    let taken = |filter: &&filter::Attached| filter.priority == filter::PRIORITY && !filter.is_ours();
    let Some(other) = filters.iter().find(taken) else { return Ok(()) };
    Err(Error::Busy(format!(
        "lo of the container's network namespace has a filter of somebody else at preference {} ({}): remove it, or give it \
         another preference",
        filter::PRIORITY,
        other.name.as_deref().unwrap_or(&other.kind)
    )))
}

/// Takes our filter off lo, and the qdisc unless it stood there before or others have filters on it.
fn unguard_lo(netlink: &mut Netlink, stood: bool) -> Result<()> {
    let (ours, others): (Vec<_>, Vec<_>) =
        filter::ingress(netlink, LO)?.into_iter().partition(filter::Attached::is_ours);
    if !stood && others.is_empty() {
        if qdisc::has_ingress(netlink, LO)?.as_deref() == Some("ingress") {
            // EINVAL: there is no such qdisc
            return netlink.send(filter::delete_ingress_qdisc(LO, "lo").tolerate(&[libc::EINVAL, libc::ENOENT]));
        }
        return Ok(());
    }
    if ours.is_empty() {
        return Ok(());
    }
    netlink.send(filter::delete_ingress(LO, "lo").tolerate(&[libc::EINVAL, libc::ENOENT]))
}

/// The container's device, and both of them up.
fn devices(inner: u32, it: &Furniture, program: &OwnedFd, sources: Sources) -> Vec<Request> {
    let device = it.device.as_str();
    vec![
        link::no_generated_address(inner, device).tolerate(NO_IPV6),
        link::accept_local(inner, device, sources),
        filter::add_ingress_qdisc(inner, device),
        filter::add_ingress(inner, device, program.as_fd(), "inner_eth", it.slot),
        link::up(LO, "lo"),
        link::up_without_arp(inner, device),
    ]
}

/// Addresses, then routes, which name them.
fn addresses(inner: u32, it: &Furniture) -> Vec<Request> {
    let unless_off = |v6: bool, request: Request| if v6 { request.tolerate(NO_IPV6) } else { request };
    let addresses = it.addresses.iter().map(|ip| unless_off(ip.is_ipv6(), address::add(inner, *ip)));
    let routes = it.routes.iter().map(|r| unless_off(r.destination.is_ipv6(), route::add(inner, r)));
    addresses.chain(routes).collect()
}

/// Turns IPv6 on for lo and the container's device, and gives it its IPv6 addresses. Where the bundle turned it off, or the
/// kernel does not let us, it has IPv4 alone.
pub(super) fn ipv6(
    netlink: &mut Netlink,
    here: &mut Settings<'_>,
    found: &mut Found,
    inner: u32,
    it: &Furniture,
) -> Result<()> {
    let v6 = Furniture {
        addresses: it.addresses.iter().copied().filter(|ip| ip.is_ipv6()).collect(),
        routes: it.routes.iter().filter(|route| route.destination.is_ipv6()).cloned().collect(),
        ..it.clone()
    };
    let v4 = Furniture {
        addresses: it.addresses.iter().copied().filter(|ip| ip.is_ipv4()).collect(),
        routes: it.routes.iter().filter(|route| route.destination.is_ipv4()).cloned().collect(),
        ..it.clone()
    };
    let again = |requests: Vec<Request>| {
        requests.into_iter().map(|request| request.tolerate(&[libc::EEXIST])).collect::<Vec<_>>()
    };
    netlink.batch(&again(addresses(inner, &v4)))?;
    if it.own_ipv6 {
        log::info!("slot {}: its bundle turns IPv6 off, it has IPv4 alone", it.slot);
        return Ok(());
    }
    for device in ["lo", it.device.as_str()] {
        set(here, found, &format!("ipv6/conf/{device}/disable_ipv6"), "0");
    }
    netlink.batch(&[link::no_generated_address(inner, &it.device).tolerate(NO_IPV6)])?;
    if let Err(e) = netlink.batch(&again(addresses(inner, &v6))) {
        log::warn!(
            "slot {}: IPv6 is off in its network namespace and cannot be turned on, it has IPv4 alone: {e}",
            it.slot
        );
    }
    Ok(())
}

/// Writes a setting of which it is recorded what it was. One that is only for the whole machine stays as it is; but a
/// container without its range of ports cannot connect.
fn write(here: &mut Settings<'_>, changed: &Changed) -> Result<()> {
    match here.write(&changed.key, &changed.now) {
        Err(e) if changed.key == EPHEMERAL => Err(e),
        Err(e) => {
            log::debug!("{e}");
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// Writes a setting and notes what it was, where this kernel has it.
fn set(here: &mut Settings<'_>, found: &mut Found, key: &str, value: &str) {
    match here.exchange(key, value) {
        Ok(Some(before)) => {
            let now = canonical(value);
            if before != now && !found.settings.iter().any(|known| known.key == key) {
                found.settings.push(Changed { key: key.to_owned(), before, now });
            }
        }
        Ok(None) => {}
        Err(e) => log::debug!("{e}"),
    }
}
