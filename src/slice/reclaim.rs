//! Reclaim: end what nobody ended. A runtime may never call poststop (crun after a failed hook, a kill -9, a reboot
//! of the daemon), so the kernel is asked what is still alive.

use std::borrow::Cow;

use super::prepare::{self, Host};
use super::wire::{device_of, dismantle};
use super::{account, change, limit, processor};
use crate::config::Config;
use crate::error::Result;
use crate::lease::ledger::Locked;
use crate::lease::{Lease, Ledger, Stage};
use crate::net::{Netlink, link};

/// What became of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its container's device is there.
    Live,
    /// A process is attaching or detaching it.
    Worked,
    /// The device, and with it the namespace, is gone; or whoever worked on it was killed.
    Dead,
}

/// Takes back every dead lease, and removes devices of ours that no lease explains. Returns the ids.
pub fn gc(config: &Config) -> Result<Vec<String>> {
    let ledger = Ledger::at(&config.state_dir);
    let Some(host) = prepare::peek(config)? else {
        return forget_all(&ledger);
    };
    let mut netlink = Netlink::route()?;
    let mut locked = ledger.lock()?;
    let before: Vec<_> = locked.index.entries.values().map(|e| e.id.clone()).collect();
    sweep(config, &mut locked, &ledger, &host, &mut netlink)?;
    ledger.remove_leftovers()?;
    for device in link::all(&mut netlink)? {
        let slot = device.name.strip_prefix("portslice").and_then(|n| n.parse::<u16>().ok());
        if slot.is_some_and(|slot| !locked.index.entries.contains_key(&slot)) {
            netlink.send(link::delete(device.index, &device.name).tolerate(&[libc::ENODEV]))?;
        }
    }
    let after: Vec<_> = locked.index.entries.values().map(|e| &e.id).collect();
    Ok(before.iter().filter(|id| !after.contains(id)).map(ToString::to_string).collect())
}

/// Takes back every dead lease; returns how many.
pub fn sweep(
    config: &Config,
    locked: &mut Locked<'_>,
    ledger: &Ledger,
    host: &Host,
    netlink: &mut Netlink,
) -> Result<usize> {
    let mut dead = 0;
    for lease in ledger.all()? {
        match state(&lease, ledger, host, netlink)? {
            State::Dead => {
                log::info!("{}: its network namespace is gone, taking back block {}", lease.id, lease.block);
                match take_back(locked, &lease, host, netlink) {
                    Ok(()) => dead += 1,
                    // the others are not to suffer
                    Err(e) => log::error!("{}: {e}, while taking it back", lease.id),
                }
            }
            State::Live if lease.before.is_some() => {
                if let Some(outer) = device_of(netlink, lease.slot)?
                    && let Err(e) = change::settle(config, host, &lease, outer, locked)
                {
                    log::error!("{}: {e}, while going back to what was before a change", lease.id);
                }
            }
            State::Live | State::Worked => {}
        }
    }
    Ok(dead)
}

/// What became of `lease`.
pub fn state(lease: &Lease, ledger: &Ledger, host: &Host, netlink: &mut Netlink) -> Result<State> {
    let mut lease = Cow::Borrowed(lease);
    if lease.stage != Stage::Attached {
        if lease.worker.is_alive() {
            return Ok(State::Worked);
        }
        // it may have finished between the reading of the lease and the look at it
        match ledger.read(&lease.id)? {
            Some(now) if now.stage == Stage::Attached => lease = Cow::Owned(now),
            _ => return Ok(State::Dead),
        }
    }
    let device = device_of(netlink, lease.slot)?;
    let known = host.maps.slot(lease.slot)?;
    let live = device.is_some_and(|d| d.index == known.ifindex && known.epoch == lease.epoch);
    Ok(if live { State::Live } else { State::Dead })
}

/// Ends a dead lease: its ports first, its device if a killed run left one, then its record.
pub fn take_back(locked: &mut Locked<'_>, lease: &Lease, host: &Host, netlink: &mut Netlink) -> Result<()> {
    host.maps.withdraw(&lease.all_ports(), lease.slot);
    // whoever was killed while attaching or detaching may have left a container that goes on
    let torn = lease.stage != Stage::Attached || lease.before.is_some();
    if let Err(e) = processor::restore(&mut lease.clone(), torn) {
        log::warn!("{}: {e}", lease.id);
    }
    // one that never came into use counted nothing
    let last = (lease.stage != Stage::Attaching).then(|| account::last(lease, host, netlink));
    host.maps.clear_slot(lease.slot)?;
    limit::forget(host, netlink, lease.slot)?;
    dismantle(netlink, lease.slot, &lease.netns, lease.netns_id)?;
    if let Some(line) = last {
        account::write(locked.ledger(), &line);
    }
    locked.release(&lease.id)
}

/// The host was never prepared in this boot: whatever the ledger holds died with the last one.
fn forget_all(ledger: &Ledger) -> Result<Vec<String>> {
    let leases = ledger.all()?;
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let mut locked = ledger.lock()?;
    for lease in &leases {
        locked.release(&lease.id)?;
    }
    Ok(leases.into_iter().map(|l| l.id.to_string()).collect())
}
