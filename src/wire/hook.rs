//! Hooking a program to a device of the host: through tcx, or where the kernel has none (before 6.6) as a filter of clsact.
//!
//! The place of our filter may be somebody else's. It is ours when its program is bound to a book of this installation; the name
//! that it bears proves nothing.

use std::os::fd::AsFd;

use super::HostSite;
use crate::error::{Error, Result};
use crate::host::HostRecord;
use crate::net::filter::{self, Attached};
use crate::net::link::{self, Link, Sources};
use crate::plan::step::entry;
use crate::steer::find;

/// The program for what the host sends to itself. The others that are hooked are for what comes in by the uplink.
const FROM_LO: &str = "from_lo";

/// Hooks a program to a device. A program that stands there, of ours, is replaced at one moment.
pub fn perform(site: &mut HostSite<'_>, program: &'static str, index: u32, device: &str) -> Result<()> {
    if program != FROM_LO {
        let (before, frameless) = (site.record.uplink, program != entry(true));
        if site.record.ready && before != index {
            undo(site, entry(!site.record.frameless), before)?;
        }
        (site.record.uplink, site.record.frameless) = (index, frameless);
        site.save()?;
    }
    let record = site.record.clone();
    site.programs.check(&|theirs| record.is_mine(theirs))?;
    site.record.tcx = site.programs.attach_tcx(program, index, device)?;
    if site.record.tcx { Ok(()) } else { put(site, program, (index, device), 0) }
}

/// Is it hooked there, as it is pinned?
pub fn is_there(site: &mut HostSite<'_>, program: &str, index: u32) -> Result<bool> {
    if !site.record.ready || (program != FROM_LO && site.record.uplink != index) {
        return Ok(false);
    }
    if site.record.tcx {
        return Ok(site.programs.is_hooked(program, index));
    }
    runs(site, program, index, 0)
}

/// Puts the program for a device beside the uplink there: always as a filter, since attaching through tcx takes 20 ms a device.
/// How it looks at sources is its filter's class id.
pub fn put_side(site: &mut HostSite<'_>, index: u32, device: &str, ethernet: bool, sources: Sources) -> Result<()> {
    if !site.record.sides.contains(&index) {
        site.record.sides.push(index);
        site.save()?;
    }
    put(site, entry(ethernet), (index, device), sources as u16)
}

/// Is it there, as it is pinned?
pub fn has_side(site: &mut HostSite<'_>, index: u32, ethernet: bool, sources: Sources) -> Result<bool> {
    let known = site.record.ready && site.record.sides.contains(&index);
    Ok(known && runs(site, entry(ethernet), index, sources as u32)?)
}

/// Takes it off.
pub fn remove_side(site: &mut HostSite<'_>, index: u32) -> Result<()> {
    if let Some(device) = link::at(site.netlink, index)? {
        take_off(site, &device)?;
    }
    site.record.clsact.retain(|known| *known != index);
    site.record.sides.retain(|known| *known != index);
    Ok(())
}

/// Takes it off, and clsact with it if that was ours and nobody else has a filter there.
pub fn undo(site: &mut HostSite<'_>, program: &str, index: u32) -> Result<()> {
    let record = site.record.clone();
    site.programs.detach_tcx(program, &|theirs| record.is_mine(theirs))?;
    if index == 0 {
        return Ok(());
    }
    // A device that is gone took its filters along.
    if let Some(device) = link::at(site.netlink, index)? {
        take_off(site, &device)?;
    }
    site.record.clsact.retain(|known| *known != index);
    Ok(())
}

/// Refuses a filter of somebody else at the place that ours is to have on `device`. Returns whether ours, of any version, stands
/// there.
pub fn not_taken(filters: &[Attached], device: &str, record: &HostRecord) -> Result<bool> {
    let Some(there) = filters.iter().find(|filter| filter.priority == filter::PRIORITY) else { return Ok(false) };
    if is_at_our_place(there) && is_ours(there, record)? {
        return Ok(true);
    }
    let name = there.name.as_deref().unwrap_or(&there.kind);
    Err(Error::Busy(format!(
        "{device} has a filter of somebody else at preference {} ({name}): remove it, or give it another preference",
        filter::PRIORITY
    )))
}

fn runs(site: &mut HostSite<'_>, program: &str, index: u32, class: u32) -> Result<bool> {
    let Ok(id) = site.programs.id(program) else { return Ok(false) };
    let is_it = |filter: &Attached| is_at_our_place(filter) && filter.runs_program(id) && filter.classid == class;
    Ok(filter::ingress(site.netlink, index)?.iter().any(is_it))
}

fn put(site: &mut HostSite<'_>, program: &str, (index, device): (u32, &str), class: u16) -> Result<()> {
    match site.netlink.send(filter::add_clsact(index, device)) {
        Ok(()) => {
            site.record.clsact.push(index);
            site.save()?;
        }
        // Another program's clsact: share it, and leave it behind.
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(e),
    }
    let opened = site.programs.open(program)?;
    let stands = not_taken(&filter::ingress(site.netlink, index)?, device, &site.record)?;
    let request = filter::add_ingress(index, device, opened.as_fd(), program, class);
    site.netlink.send(if stands { request } else { request.exclusive() })
}

fn take_off(site: &mut HostSite<'_>, device: &Link) -> Result<()> {
    let (index, name) = (device.index, device.name.as_str());
    let gone = &[libc::ENOENT, libc::EINVAL];
    let there = filter::ingress(site.netlink, index)?.into_iter().find(is_at_our_place);
    if let Some(there) = there
        && is_ours(&there, &site.record)?
    {
        site.netlink.send(filter::delete_ingress(index, name).tolerate(gone))?;
    }
    let alone = filter::ingress(site.netlink, index)?.is_empty() && filter::egress(site.netlink, index)?.is_empty();
    if site.record.clsact.contains(&index) && alone {
        site.netlink.send(filter::delete_clsact(index, name).tolerate(gone))?;
    }
    Ok(())
}

fn is_at_our_place(filter: &Attached) -> bool {
    filter.priority == filter::PRIORITY && filter.handle == filter::HANDLE_OF_OURS && filter.kind == "bpf"
}

fn is_ours(filter: &Attached, record: &HostRecord) -> Result<bool> {
    filter.program.map_or(Ok(false), |program| find::is_ours(program, &|theirs| record.is_mine(theirs)))
}
