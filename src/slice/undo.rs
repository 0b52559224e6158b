//! Putting the host back as it was before it was made ready.

use std::fs;

use super::ready::{alone, check_namespace, open};
use super::state::{State, state};
use super::{files, reclaim, run};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::file;
use crate::host::HostRecord;
use crate::host::process::boot_id;
use crate::lease::lock::is_gone;
use crate::lease::{Desk, Ledger};
use crate::net::netns::NetnsId;
use crate::net::{Netlink, Netns, link};
use crate::plan::Action;
use crate::plan::host::{bpf_directory, done};
use crate::ports::PortSet;
use crate::steer::Programs;
use crate::wire::{HostSite, keep, reserve};

/// What was put back, or would be.
#[derive(Default)]
pub struct Undone {
    /// What was taken back of containers that ended without a word, one line each.
    pub reclaimed: Vec<String>,
    /// What there was to undo, in order.
    pub actions: Vec<Action>,
}

/// Puts the host back as it was before the first attach. Refused while there are containers. `dry`: only says what would be
/// done.
pub fn undo(config: &Config, dry: bool) -> Result<Undone> {
    let directory = &config.state_dir;
    let here = Netns::here()?;
    if !directory.exists() && !files::left(here) {
        // What is not visible here may be there all the same.
        return alone(config, &HostRecord::default()).map(|()| Undone::default());
    }
    let ledger = Ledger::at(directory);
    let record = HostRecord::read(directory, boot_id())?;
    check_namespace(&record, here, config)?;
    let mut netlink = Netlink::route()?;
    if dry {
        let mut actions = if record.ready { reclaim::plan(config)? } else { Vec::new() };
        if record.ready {
            unused_but_for_the_ended(config, &record, &ledger)?;
        }
        let mut site = HostSite::new(config, None, &ledger, record, &mut netlink);
        actions.extend(there(&mut site, here)?.1);
        return Ok(Undone { reclaimed: Vec::new(), actions });
    }
    let reclaimed = if record.ready {
        // What ended without a word is taken back first, and not under the lock.
        reclaim::gc(config)?.lines
    } else {
        alone(config, &record)?;
        Vec::new()
    };
    ledger.create()?;
    let lock = match ledger.lock() {
        // Another undo was first.
        Err(e) if is_gone(&e) => return Ok(Undone { reclaimed, actions: Vec::new() }),
        lock => lock?,
    };
    let mut record = HostRecord::read(directory, boot_id())?;
    check_namespace(&record, here, config)?;
    if record.ready {
        unused(config, &record)?;
        pins_are_ours(config, &record)?;
        remove_devices(&mut netlink, record.instance)?;
    }
    // From here on a run that is killed leaves a host that is prepared anew, or undone by the next run.
    record.ready = false;
    let mut site = HostSite::new(config, None, &ledger, record, &mut netlink);
    let (all, actions) = there(&mut site, here)?;
    site.save()?;
    for action in &all {
        run::through(&mut site, std::slice::from_ref(action))?;
    }
    // The record goes first and the lock last: whoever waited for that lock finds a host that is not prepared.
    let path = HostRecord::path(directory);
    file::remove(&path).map_err(Error::file("remove", path))?;
    ledger.remove()?;
    drop(lock);
    // The directory may hold what others put there; then it stays.
    let _ = fs::remove_dir(directory);
    Ok(Undone { reclaimed, actions })
}

/// Everything that may have been done, as the actions that undo it; and those of them that find something to undo.
fn there(site: &mut HostSite<'_>, here: NetnsId) -> Result<(Vec<Action>, Vec<Action>)> {
    reserve::recall(site, &PortSet::empty())?;
    let all = Action::undo(done(site.config, &site.record, keep::concern(here)));
    let mut found = Vec::new();
    for action in &all {
        if site.has(&action.step)? {
            found.push(action.clone());
        }
    }
    Ok((all, found))
}

/// Refuses to unmount what somebody else pinned on our BPF file system, and to remove a pin of theirs in the place of ours.
fn pins_are_ours(config: &Config, record: &HostRecord) -> Result<()> {
    let programs = Programs::at(&bpf_directory(&config.state_dir));
    programs.check(&|theirs| record.is_mine(theirs))?;
    match programs.strangers()?.first() {
        Some(other) if record.mounted => Err(Error::Busy(format!(
            "{} is pinned by somebody else, and would go with the file system: remove it, or pin it elsewhere",
            other.display()
        ))),
        _ => Ok(()),
    }
}

/// Refuses while there are containers.
fn unused(config: &Config, record: &HostRecord) -> Result<()> {
    let host = open(config, record)?;
    let desk = Desk::of(&host.maps);
    refuse_for(&desk.leased().map(|slot| desk.name(slot)).collect::<Vec<_>>())
}

/// The same before those that ended without a word are taken back.
fn unused_but_for_the_ended(config: &Config, record: &HostRecord, ledger: &Ledger) -> Result<()> {
    let host = open(config, record)?;
    let mut living = Vec::new();
    for lease in ledger.all()? {
        if matches!(state(&lease, ledger, &host)?, State::Live | State::Worked) {
            living.push(format!("container {}", lease.id));
        }
    }
    refuse_for(&living)
}

fn refuse_for(attached: &[String]) -> Result<()> {
    let why = match attached {
        [] => return Ok(()),
        [one] => format!("{one} is attached: detach it first (`portslice detach ID`)"),
        [first, ..] => format!(
            "{} containers are attached, {first} among them: detach them first (`portslice detach ID`)",
            attached.len()
        ),
    };
    Err(Error::Busy(why))
}

/// Removes devices of ended slices whose namespaces the kernel still keeps, for data that their sockets could not send.
fn remove_devices(netlink: &mut Netlink, instance: u32) -> Result<()> {
    for device in link::all(netlink)? {
        if reclaim::slot_of(&device, instance).is_some() && link::namespace_lives(netlink, &device)? {
            netlink.send(link::delete(device.index, &device.name).tolerate(&[libc::ENODEV]))?;
        }
    }
    Ok(())
}
