//! bind() that is judged: the programs on the host's cgroup, and the namespace of a slice that they know.

use std::os::fd::AsFd;
use std::path::Path;

use super::{HostSite, Site, claims, keep, naming};
use crate::config::{Config, SocketRules};
use crate::error::{Error, Result};
use crate::host::record::Sockets;
use crate::host::{HostRecord, cgroup2};
use crate::net::Netns;
use crate::net::netns::NetnsId;
use crate::ports::PortSet;
use crate::steer::namespaces::HOST;
use crate::steer::{Maps, Namespaces, Offer, program};

/// Is bind() to be judged in the namespace `here`? Not as a matter of course where that is one of several on a machine: the
/// programs would see every process' sockets, also of those that have nothing to do with it.
pub fn wanted(config: &Config, here: NetnsId) -> bool {
    match config.socket_rules {
        SocketRules::Auto => config.socket_cgroup.is_some() || keep::concern(here),
        SocketRules::Require => true,
        SocketRules::Off => false,
    }
}

/// Loads the programs and attaches them. A host whose kernel cannot do without them if it may.
pub fn attach(site: &mut HostSite<'_>, cgroup: Option<&Path>) -> Result<()> {
    // A run that is killed from here on leaves something to undo.
    let before = site.record.sockets.get_or_insert_default().clone();
    site.save()?;
    let made = match load(site, cgroup) {
        Ok(id) => Sockets { id, missing: None, ..before },
        Err(e) if site.config.socket_rules != SocketRules::Auto || matches!(e, Error::Invalid { .. }) => return Err(e),
        Err(e) => {
            log::warn!("bind() is not judged: {e}");
            detach(site)?;
            Sockets { id: 0, missing: Some(e.to_string()), ..before }
        }
    };
    let cgroup = cgroup.map(Path::to_path_buf);
    site.record.sockets = Some(Sockets { version: program::VERSION.into(), cgroup, ..made });
    site.save()
}

/// Has the next [`attach`] try what failed before: whoever asks for that may have seen to what was missing.
pub fn try_again(record: &mut HostRecord) {
    if let Some(sockets) = record.sockets.as_mut().filter(|sockets| sockets.missing.is_some()) {
        sockets.version.clear();
    }
}

/// Takes them off, and forgets whose namespaces are and what sockets hold: nobody would tell when that is free.
pub fn detach(site: &mut HostSite<'_>) -> Result<()> {
    let record = site.record.clone();
    site.programs.remove_sockets(&|theirs| record.is_mine(theirs))?;
    forget_claims(site)?;
    site.record.sockets = None;
    Ok(())
}

/// Are they attached as they were left, or is it known why they are not?
pub fn are_there(site: &HostSite<'_>, version: &str, cgroup: Option<&Path>) -> Result<bool> {
    let Some(sockets) = &site.record.sockets else { return Ok(false) };
    if sockets.version != version || sockets.cgroup.as_deref() != cgroup {
        return Ok(false);
    }
    if sockets.missing.is_some() {
        return Ok(site.config.socket_rules == SocketRules::Auto);
    }
    let namespaces = Namespaces::open(site.directory())?;
    let known = namespaces.map_or(Ok(false), |namespaces| namespaces.has(HOST))?;
    Ok(known && site.programs.sockets_are_attached(sockets.id)? && naming::is_there(site, sockets.id)?)
}

/// Lets the programs know the namespace of a slice.
pub fn enter(site: &mut Site<'_>, slot: u16) -> Result<()> {
    let Some(namespaces) = &site.host.maps.namespaces else { return Ok(()) };
    let (cookie, epoch) = (site.container()?.cookie()?, site.lease.epoch);
    namespaces.enter(slot, cookie, epoch)?;
    claims::take_up(site, slot)
}

/// Lets a slice claim ports. What sits on them already, where bind() is judged, is looked after; else that comes with [`enter`].
pub fn offer(site: &mut Site<'_>, slot: u16, ports: &PortSet, limit: u32) -> Result<()> {
    let maps = &site.host.maps;
    maps.offer(slot, ports, limit)?;
    match &maps.namespaces {
        Some(namespaces) if namespaces.has(slot)? => claims::take_up(site, slot),
        _ => Ok(()),
    }
}

/// Lets them forget it. A slot of another epoch is another's.
pub fn leave(site: &mut Site<'_>, slot: u16) -> Result<()> {
    let Some(namespaces) = &site.host.maps.namespaces else { return Ok(()) };
    let entry = site.host.maps.slot(slot)?;
    if entry.ifindex != 0 && entry.epoch != site.lease.epoch { Ok(()) } else { namespaces.leave(slot) }
}

/// What differs from the plan.
pub fn look(site: &Site<'_>, slot: u16) -> Result<Vec<String>> {
    match &site.host.maps.namespaces {
        Some(namespaces) if !namespaces.has(slot)? => Ok(vec![format!("bind() in slot {slot} is not judged")]),
        _ => Ok(Vec::new()),
    }
}

/// The same of what the slice may claim.
pub fn look_at_offer(site: &Site<'_>, slot: u16, ports: &PortSet, limit: u32) -> Result<Vec<String>> {
    let maps = &site.host.maps;
    let wanted = Offer { ports: ports.clone(), limit };
    let differs = maps.namespaces.is_some() && maps.offered(slot)?.as_ref() != Some(&wanted);
    Ok(if differs { vec![format!("open ports {ports} cannot be claimed as granted")] } else { Vec::new() })
}

fn forget_claims(site: &HostSite<'_>) -> Result<()> {
    if site.directory().join("ports").exists() {
        Maps::open(site.directory())?.forget_claims();
    }
    Ok(())
}

/// Loads and attaches them, and returns the id of the cgroup.
fn load(site: &HostSite<'_>, cgroup: Option<&Path>) -> Result<u64> {
    let cgroup = cgroup2::open(cgroup)?;
    let record = &site.record;
    site.programs.check(&|theirs| record.is_mine(theirs))?;
    if !record.ready {
        // An undo that was killed left them, and nobody needs what they hold.
        site.programs.forget_socket_maps()?;
        forget_claims(site)?;
    }
    site.programs.load_sockets()?;
    // The host's sockets are judged from the first moment on, containers' when their namespaces are entered.
    if let Some(namespaces) = Namespaces::open(site.directory())? {
        namespaces.enter(HOST, Netns::current()?.cookie()?, 0)?;
    }
    site.programs.attach_sockets(cgroup.directory.as_fd(), cgroup.id)?;
    naming::restore(site, &cgroup)?;
    claims::seed(site)?;
    Ok(cgroup.id)
}
