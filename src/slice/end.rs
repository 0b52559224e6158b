//! The end of a slice: its plan undone. Detach, reclaim and a later attach all end slices here.

use super::ready::locked;
use super::{account, run};
use crate::error::Result;
use crate::host::process::Worker;
use crate::host::sysctl::Proc;
use crate::lease::{Desk, Lease, Ledger, Stage};
use crate::net::Netlink;
use crate::plan::slice::known;
use crate::plan::{Action, Step};
use crate::wire::{Host, Site};

/// What is to be undone for `lease` to end.
pub fn actions(lease: &Lease, host: &Host) -> Vec<Action> {
    let mut steps = known(lease, host.instance, host.leaf.unwrap_or_default());
    if host.maps.namespaces.is_none() {
        steps.retain(|step| !matches!(step, Step::Binds { .. }));
    }
    Action::undo(steps)
}

/// Ends a slice that nobody works on; `false` when somebody does, or did so already.
///
/// Ports stop being steered first, so they are free of packets at once and the device is inert. A namespace that is about to
/// die takes its device along, asynchronously; only one that lives on has it removed, which waits some 30 ms.
pub fn end(ledger: &Ledger, host: &Host, lease: &Lease) -> Result<bool> {
    if lease.stage == Stage::Reserved {
        return withdraw(ledger, host, lease);
    }
    let Some((lease, torn)) = take(ledger, host, lease)? else { return Ok(false) };
    let (proc, mut netlink) = (Proc::default(), Netlink::route()?);
    let mut lines = Vec::new();
    let mut site = Site::of(&lease, host, &proc, &mut netlink);
    site.doubtful = torn;
    let mut done = Ok(());
    for action in actions(&lease, host) {
        // Counted when nothing reaches it any more, and before the slot and the queues go in which it is counted. One that
        // never came into use counted nothing.
        if matches!(action.step, Step::Slot { .. }) && lease.epoch == host.maps.slot(lease.slot)?.epoch {
            lines = lease.members.iter().map(|member| account::last(&lease, member, host, site.netlink)).collect();
        }
        done = run::through(&mut site, &[action]).and(done);
    }
    done?;
    let _lock = ledger.lock()?;
    account::write(ledger, &lines);
    run::fault();
    ledger.erase(&lease, &host.maps.book)?;
    run::fault();
    Desk::of(&host.maps).release(&lease);
    log::info!("{}: detached, slot {}, block {} is free", lease.id, lease.slot, lease.block);
    Ok(true)
}

/// Takes back what was reserved and never came into use, unless somebody took it up; `false` then.
fn withdraw(ledger: &Ledger, host: &Host, lease: &Lease) -> Result<bool> {
    let Some(_lock) = locked(ledger, host)? else { return Ok(false) };
    let desk = Desk::of(&host.maps);
    let same = |now: &Lease| now.stage == Stage::Reserved && now.epoch == lease.epoch && now.worker == lease.worker;
    let Some(now) = desk.lease(ledger, &lease.id)?.filter(same) else { return Ok(false) };
    ledger.erase(&now, &host.maps.book)?;
    run::fault();
    desk.cancel(&now);
    log::info!("{}: not created, block {} is free", now.id, now.block);
    Ok(true)
}

/// Takes the lease over, under the lock: from now on this process ends it. Returns it with whether a killed run may have
/// left anything half done.
fn take(ledger: &Ledger, host: &Host, lease: &Lease) -> Result<Option<(Lease, bool)>> {
    let Some(_lock) = locked(ledger, host)? else { return Ok(None) };
    let now = match ledger.read(&lease.id) {
        Ok(now) => now,
        // Its file is damaged; the kernel has it as well.
        Err(e) => Desk::of(&host.maps).record(lease.slot)?.ok_or(e).map(Some)?,
    };
    // One whose file is lost is known from the kernel alone.
    let mut now = match now.or(Desk::of(&host.maps).record(lease.slot)?) {
        Some(now) if now.epoch == lease.epoch && now.slot == lease.slot => now,
        _ => return Ok(None),
    };
    let worker = Worker::current();
    let ids = |lease: &Lease| lease.members.iter().map(|member| member.id.clone()).collect::<Vec<_>>();
    if now.stage == Stage::Attached && lease.stage == Stage::Attached && ids(&now) != ids(lease) {
        // Somebody joined or left since it was decided that the slice ends.
        return Ok(None);
    }
    if now.stage != Stage::Attached && now.worker != worker && now.worker.is_alive() {
        return Ok(None);
    }
    let torn = now.stage != Stage::Attached || now.before.is_some();
    (now.stage, now.worker) = (Stage::Detaching, worker);
    // Only for whoever finds a half-done end: a full disk must not keep ports from being freed.
    if let Err(e) = ledger.write(&now, &host.maps.book) {
        log::warn!("{e}");
    }
    Ok(Some((now, torn)))
}
