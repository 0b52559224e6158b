//! Putting the host back as it was before it was made ready.

use std::fs;

use super::ready::{alone, check_namespace, open};
use super::{reclaim, run};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::file;
use crate::host::HostRecord;
use crate::host::process::boot_id;
use crate::lease::lock::is_gone;
use crate::lease::{Desk, Ledger};
use crate::net::{Netlink, Netns, link};
use crate::plan::host::done;
use crate::plan::{Action, Step, Verb};
use crate::wire::HostSite;

/// Puts the host back as it was before the first attach. Refused while there are containers. `dry`: only says what would be
/// done. Returns the actions.
pub fn undo(config: &Config, dry: bool) -> Result<Vec<Action>> {
    let directory = &config.state_dir;
    if !directory.exists() {
        // What is not visible here may be there all the same.
        return alone(config, &HostRecord::default()).map(|()| Vec::new());
    }
    let ledger = Ledger::at(directory);
    let record = HostRecord::read(directory, &boot_id())?;
    check_namespace(&record, Netns::current()?.id, config)?;
    if dry {
        return Ok(Action::undo(done(config, &record)));
    }
    if !record.ready {
        alone(config, &record)?;
    } else {
        // What ended without a word is taken back first, and not under the lock.
        reclaim::gc(config)?;
    }
    ledger.create()?;
    let lock = match ledger.lock() {
        // Another undo was first.
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        lock => lock?,
    };
    let mut record = HostRecord::read(directory, &boot_id())?;
    check_namespace(&record, Netns::current()?.id, config)?;
    let mut netlink = Netlink::route()?;
    if record.ready {
        let host = open(config, &record)?;
        let desk = Desk::of(&host.maps);
        let leased: Vec<u16> = desk.leased().collect();
        if let Some(first) = leased.first() {
            let name = desk.name(*first);
            return Err(Error::Busy(format!(
                "{} containers are attached, {name} among them: detach them first (`portslice detach ID`)",
                leased.len()
            )));
        }
        remove_devices(&mut netlink, record.instance)?;
    }
    // From here on a run that is killed leaves a host that is prepared anew, or undone by the next run.
    record.ready = false;
    let mut site = HostSite::new(config, None, &ledger, record, &mut netlink);
    site.save()?;
    let actions: Vec<Action> =
        done(config, &site.record).into_iter().rev().map(|step: Step| Action { verb: Verb::Undo, step }).collect();
    for action in &actions {
        run::through(&mut site, std::slice::from_ref(action))?;
    }
    // The record goes first and the lock last: whoever waited for that lock finds a host that is not prepared.
    let path = HostRecord::path(directory);
    file::remove(&path).map_err(Error::file("remove", path))?;
    ledger.remove()?;
    drop(lock);
    // The directory may hold what others put there; then it stays.
    let _ = fs::remove_dir(directory);
    Ok(actions)
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
