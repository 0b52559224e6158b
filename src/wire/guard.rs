//! The checks on what leaves a container: a program on the host's end of its pair. And how large its packets may be.

use std::os::fd::AsFd;

use super::Site;
use crate::error::{Error, Result};
use crate::net::filter::Attached;
use crate::net::link::Link;
use crate::net::{Netlink, filter, link};

/// Name of the program.
pub const PROGRAM: &str = "from_container";

/// Puts the program in place, then brings the host's end up.
pub fn perform(site: &mut Site<'_>) -> Result<()> {
    let pair = site.need_pair()?;
    let (index, name) = (pair.index, pair.name.as_str());
    let program = site.host.programs.open(PROGRAM)?;
    // The host's stack never sees a packet of this device. Left on, IPv6 would give it a multicast route, and every change
    // and every listing of routes would walk past all of them.
    site.proc.here().write(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    site.netlink.batch(&[
        link::set_alias(index, name, site.lease.id.as_str()),
        filter::add_ingress_qdisc(index, name).tolerate(&[libc::EEXIST]),
        filter::add_ingress(index, name, program.as_fd(), PROGRAM, site.lease.slot),
        link::up(index, name),
    ])
}

/// Is the host's end of the pair of `slot` up, with the check in place as the program with id `program` makes it? For looking
/// at many.
pub fn stands(netlink: &mut Netlink, pair: &Link, slot: u16, program: u32) -> Result<bool> {
    let ours = |filter: &Attached| {
        filter.runs(PROGRAM) && filter.classid == u32::from(slot) && filter.program == Some(program)
    };
    Ok(pair.up && filter::first_ingress(netlink, pair.index)?.is_some_and(|filter| ours(&filter)))
}

/// What differs from the plan.
pub fn look(site: &mut Site<'_>) -> Result<Vec<String>> {
    let Some(pair) = site.pair()? else { return Ok(Vec::new()) };
    let (filters, id) = (filter::ingress(site.netlink, pair.index)?, site.host.programs.id(PROGRAM)?);
    let filter = filters.iter().find(|filter| filter.runs(PROGRAM) && filter.classid == u32::from(site.lease.slot));
    let mut lines = Vec::new();
    match filter {
        None => lines.push(format!("{} has no filter {PROGRAM}: nothing checks what leaves", pair.name)),
        Some(filter) if filter.program != Some(id) => {
            lines.push(format!("the filter of {} runs the program {PROGRAM} of another version", pair.name));
        }
        Some(_) => {}
    }
    if !pair.up {
        lines.push(format!("device {} is down", pair.name));
    }
    Ok(lines)
}

/// What differs from the plan of the largest packet of the container's end.
pub fn look_at_segment(site: &mut Site<'_>, device: &str, bytes: u32) -> Result<Vec<String>> {
    let Some(inner) = site.pair()?.and_then(|pair| pair.peer) else { return Ok(Vec::new()) };
    let container = match site.container() {
        // That is told of the namespace.
        Err(Error::NotFound(_)) => return Ok(Vec::new()),
        container => container?,
    };
    let there = container.inside(|| link::at(&mut Netlink::route()?, inner))?;
    let differs = there.filter(|there| there.segment != bytes);
    Ok(differs
        .map(|is| format!("its {device} takes packets of {} bytes instead of {bytes}", is.segment))
        .into_iter()
        .collect())
}

/// Sets the largest packet of the container's end, in bytes.
pub fn segment(site: &mut Site<'_>, device: &str, bytes: u32) -> Result<()> {
    let inner = site.need_pair()?.peer.unwrap_or(0);
    let request = link::segment_at(inner, device, bytes);
    site.container()?.inside(|| Netlink::route()?.send(request))
}
