//! A slot of the data path: which devices it leads to, and its counters.

use super::Site;
use crate::error::Result;
use crate::steer::SlotEntry;

/// Lets the data path know the container; its counters begin at zero.
pub fn perform(site: &mut Site<'_>, slot: u16, flags: u32, epoch: u32) -> Result<()> {
    let pair = site.need_pair()?;
    let entry = SlotEntry { ifindex: pair.index, inner: pair.peer.unwrap_or(0), flags, epoch };
    site.host.maps.reset_counters(slot)?;
    site.host.maps.set_device(slot, pair.index)?;
    site.host.maps.set_slot(slot, entry)
}

/// Takes it out of service: its device is inert from this moment. A slot of another epoch is another's.
pub fn undo(site: &mut Site<'_>, slot: u16) -> Result<()> {
    let entry = site.host.maps.slot(slot)?;
    if entry.ifindex != 0 && entry.epoch != site.lease.epoch {
        return Ok(());
    }
    // The pair is looked up by the table that is cleared here.
    site.pair()?;
    site.host.maps.clear_slot(slot)?;
    site.host.maps.clear_device(slot)
}

/// What differs from the plan.
pub fn look(site: &mut Site<'_>, slot: u16, flags: u32, epoch: u32) -> Result<Vec<String>> {
    let there = site.host.maps.slot(slot)?;
    let mut differences = Vec::new();
    if there.epoch != epoch || there.ifindex == 0 {
        differences.push(format!("slot {slot} of the data path is not this container's"));
    } else if there.flags != flags {
        differences.push(format!("slot {slot} of the data path has flags {:#x} instead of {flags:#x}", there.flags));
    }
    if site.host.maps.device(slot)?.is_none() {
        differences.push(format!("slot {slot} of the data path has no device"));
    }
    Ok(differences)
}
