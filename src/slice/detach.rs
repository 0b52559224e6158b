//! Detach: take a slice back.

use super::prepare::{self, Host};
use super::wire::dismantle;
use super::{account, limit, processor};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::Worker;
use crate::lease::{Lease, Ledger, Stage};
use crate::net::Netlink;
use crate::request::ContainerId;

/// Ends the lease of `id` and returns it; `None` when there is none, which is success: a runtime calls poststop late,
/// twice, or for a container that never was ours.
///
/// Ports stop being steered first, so they are free at once and the device is inert. A namespace that is about to die
/// takes its device along, asynchronously; only one that lives on has it removed, which waits some 30 ms.
pub fn detach(config: &Config, id: &ContainerId) -> Result<Option<Lease>> {
    if !config.state_dir.exists() {
        return Ok(None);
    }
    let ledger = Ledger::at(&config.state_dir);
    let host = prepare::peek(config)?;
    let (mut lease, torn) = {
        let mut locked = ledger.lock()?;
        let Some(mut lease) = ledger.read(id)? else {
            locked.release(id)?;
            return Ok(None);
        };
        let worker = Worker::current();
        if lease.stage != Stage::Attached && lease.worker != worker && lease.worker.is_alive() {
            return Err(Error::Busy(format!(
                "container {id} is being attached or detached by process {}: try again",
                lease.worker.pid
            )));
        }
        let torn = lease.stage != Stage::Attached || lease.before.is_some();
        lease.stage = Stage::Detaching;
        lease.worker = worker;
        // only for whoever finds a half-done detach: a full disk must not keep ports from being freed
        if let Err(e) = ledger.write(&lease) {
            log::warn!("{e}");
        }
        (lease, torn)
    };
    // a container that is about to end takes its cgroup along
    if let Err(e) = processor::restore(&mut lease, torn) {
        log::warn!("{id}: {e}");
    }
    let last = host.map(|host| take_apart(&lease, &host)).transpose()?;
    let mut locked = ledger.lock()?;
    if let Some(line) = last {
        account::write(&ledger, &line);
    }
    locked.release(id)?;
    drop(locked);
    log::info!("{id}: detached, slot {}, block {} is free", lease.slot, lease.block);
    Ok(Some(lease))
}

/// Returns its last statistics, as a line of the journal: taken when nothing reaches it any more, and before the
/// slot and the queues go in which it is counted.
fn take_apart(lease: &Lease, host: &Host) -> Result<String> {
    host.maps.withdraw(&lease.all_ports(), lease.slot);
    let mut netlink = Netlink::route()?;
    let last = account::last(lease, host, &mut netlink);
    host.maps.clear_slot(lease.slot)?;
    limit::forget(host, &mut netlink, lease.slot)?;
    dismantle(&mut netlink, lease.slot, &lease.netns, lease.netns_id)?;
    Ok(last)
}
