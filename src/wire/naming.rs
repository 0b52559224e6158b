//! Port names of a slice: in the map, and the programs that translate them attached while anybody has a name.
//!
//! The map is written before the programs are attached and emptied before they are detached, under a lock: whoever reads it then
//! knows which programs are needed.

use std::os::fd::AsFd;

use super::{HostSite, Site};
use crate::error::{Error, Result};
use crate::host::cgroup2::{self, Cgroup};
use crate::lease::Stage;
use crate::ports::PortNames;
use crate::steer::Naming;

/// Gives the slice in `slot` its names, and no others.
pub fn perform(site: &mut Site<'_>, slot: u16, names: &PortNames) -> Result<()> {
    let (Some(naming), Some(sockets)) = (&site.host.maps.names, &site.host.sockets) else {
        return Err(Error::unsupported(
            format!("ports of container {} have names, but bind() is not judged here", site.lease.id),
            "set socket_rules to \"auto\" and run `portslice setup`",
        ));
    };
    let programs = &site.host.programs;
    let deciding = programs.decide_naming()?;
    naming.set(slot, names)?;
    let needed = naming.needed()?;
    if programs.naming_is_attached(sockets.id, needed)? {
        return Ok(());
    }
    let cgroup = cgroup2::open(sockets.cgroup.as_deref())?;
    programs.attach_naming((cgroup.directory.as_fd(), cgroup.id), needed, &deciding)
}

/// Takes them back. A slot of another epoch is another's.
pub fn undo(site: &mut Site<'_>, slot: u16) -> Result<()> {
    let (Some(naming), Some(_)) = (&site.host.maps.names, &site.host.sockets) else { return Ok(()) };
    let entry = site.host.maps.slot(slot)?;
    if entry.ifindex != 0 && entry.epoch != site.lease.epoch {
        return Ok(());
    }
    perform_none(site, naming, slot)
}

fn perform_none(site: &Site<'_>, naming: &Naming, slot: u16) -> Result<()> {
    let programs = &site.host.programs;
    let deciding = programs.decide_naming()?;
    naming.set(slot, &PortNames::default())?;
    programs.detach_unneeded(naming.needed()?, &deciding)
}

/// What differs from the plan.
pub fn look(site: &Site<'_>, slot: u16, names: &PortNames) -> Result<Vec<String>> {
    let there = match (&site.host.maps.names, &site.host.sockets) {
        (Some(naming), Some(_)) => naming.has(slot, names)?,
        _ => false,
    };
    Ok(if there { Vec::new() } else { vec![format!("port names {names} mean nothing inside")] })
}

/// Are the programs loaded, and attached as the leases need them?
pub(super) fn is_there(site: &HostSite<'_>, id: u64) -> Result<bool> {
    let Some(naming) = Naming::open(site.directory())? else { return Ok(false) };
    let programs = &site.programs;
    Ok(programs.naming_is_loaded()?
        && naming.has_all(&wanted(site)?)?
        && programs.naming_is_attached(id, naming.needed()?)?)
}

/// Gives every slice its names anew, and attaches what is needed for them: programs of another version take the place of those that
/// are attached.
pub(super) fn restore(site: &HostSite<'_>, cgroup: &Cgroup) -> Result<()> {
    let Some(naming) = Naming::open(site.directory())? else { return Ok(()) };
    let deciding = site.programs.decide_naming()?;
    for (slot, names) in wanted(site)? {
        naming.set(slot, &names)?;
    }
    site.programs.attach_naming((cgroup.directory.as_fd(), cgroup.id), naming.needed()?, &deciding)
}

/// The names of all slices that are wired.
fn wanted(site: &HostSite<'_>) -> Result<Vec<(u16, PortNames)>> {
    let leases = site.ledger.all()?.into_iter();
    let wired = leases.filter(|lease| matches!(lease.stage, Stage::Attached | Stage::Changing));
    let named = wired.map(|lease| (lease.slot, lease.state().port_names()));
    Ok(named.filter(|(_, names)| !names.is_empty()).collect())
}
