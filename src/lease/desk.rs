//! The desk: what a decision needs to know, read from the kernel's own tables, and what it enters there.
//!
//! Who owns a port stands in the data path's `ports`, who has a slot in `tenants`. Both are memory that this process shares
//! with the kernel, so a decision among a thousand leases opens no file of theirs. Everything here is done under the
//! ledger's lock. What does not live here: the records themselves ([`super::ledger`]), and the choice (`plan::grant`).

use std::path::Path;
use std::time::Duration;

use super::ledger::{Ledger, decode};
use super::record::Lease;
use crate::error::{Error, Result};
use crate::ports::{Block, BlockSize, PortNames, PortRange, PortSet};
use crate::request::ContainerId;
use crate::steer::tenants::{Cursor, Tenant, TenantState, boottime, id_hash};
use crate::steer::{MAX_SLOTS, Maps};

/// The tables of one host.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    maps: &'a Maps,
}

/// Who bears an id.
pub struct Bearers {
    /// The lease of the slice in which it is a member.
    pub member: Option<Lease>,
    /// Where it is in none: the lease of the slice that is called so.
    pub slice: Option<Lease>,
}

impl<'a> Desk<'a> {
    /// Those behind `maps`.
    pub fn of(maps: &'a Maps) -> Self {
        Self { maps }
    }

    /// Ports within `span` that are leased, steered or not.
    pub fn taken(&self, span: PortRange) -> PortSet {
        self.maps.taken(span)
    }

    /// The same, but for what the slice in `slot` has itself: a run that was killed may have taken a port for it that its
    /// lease does not tell of.
    pub fn taken_by_others(&self, span: PortRange, slot: u16) -> PortSet {
        self.maps.taken_by_others(span, slot)
    }

    /// The numbers given out last.
    pub fn cursor(&self) -> Cursor {
        self.maps.tenants.cursor()
    }

    /// The slot after the one given out last that nobody has: a freed slot rests as long as possible, because its device
    /// may outlive its lease for a moment.
    pub fn free_slot(&self) -> Option<u16> {
        let last = self.cursor().last_slot.min(MAX_SLOTS - 1);
        (last + 1..MAX_SLOTS).chain(1..=last).find(|slot| !self.is_leased(*slot))
    }

    /// Where ports of the host's choice are searched first: behind those of the newest lease, as next-fit goes. Looks
    /// through all ports.
    pub fn auto_from(&self, assignable: &PortSet) -> u16 {
        let (steered, reserved) = self.maps.owned(self.cursor().last_slot);
        let newest = steered.union(&reserved).intersection(assignable);
        newest.ranges().last().map_or(0, |range| range.end().saturating_add(1))
    }

    /// The block a container had last, if it still rests.
    pub fn last_block(&self, id: &ContainerId, size: BlockSize) -> Option<Block> {
        let tenants = self.maps.tenants.of_id(id_hash(id.as_str())).map(|slot| self.maps.tenants.get(slot));
        let rests = tenants.filter(|tenant| tenant.state == TenantState::Rests);
        rests.filter_map(block_of).find(|block| block.size() == size)
    }

    /// Blocks that became free less than `cooldown` ago. The clock is the kernel's time since boot, which nobody sets.
    pub fn resting(&self, cooldown: Duration) -> PortSet {
        if cooldown.is_zero() {
            return PortSet::empty();
        }
        let now = boottime();
        let young = |tenant: &Tenant| u64::from(now.saturating_sub(tenant.stamp)) < cooldown.as_secs();
        let rests = self.maps.tenants.resting().map(|slot| self.maps.tenants.get(slot));
        PortSet::from_iter(rests.filter(young).filter_map(block_of).map(Block::range))
    }

    /// Slots that are leased, ascending.
    pub fn leased(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.maps.tenants.leased()
    }

    /// Leased slots whose namespace has the inode `ino`. Inodes are given out again: the lease says whether it is the one.
    pub fn in_namespace(&self, ino: u64) -> Vec<u16> {
        self.maps.tenants.in_namespace(ino).filter(|slot| self.is_leased(*slot)).collect()
    }

    /// The slots that had a namespace of the inode `ino`, and whether they have it: between two equal answers no slice came
    /// into that namespace or left it.
    pub fn traces(&self, ino: u64) -> Vec<(u16, bool)> {
        self.maps.tenants.in_namespace(ino).map(|slot| (slot, self.is_leased(slot))).collect()
    }

    /// The kernel's copy of the lease of a slot; `None` when there is none.
    pub fn record(&self, slot: u16) -> Result<Option<Lease>> {
        let place = format!("of slot {slot} in the kernel's book");
        self.maps.book.read(slot)?.map(|bytes| decode(&bytes, Path::new(&place))).transpose()
    }

    /// The lease of the slice `id`: its file, or the kernel's copy where the file is lost. An id whose file is lost is still
    /// taken.
    pub fn lease(&self, ledger: &Ledger, id: &ContainerId) -> Result<Option<Lease>> {
        match ledger.read(id)? {
            None => self.kept(id),
            found => Ok(found),
        }
    }

    /// The lease of the slice in which `id` is a member, in the same way.
    pub fn of_member(&self, ledger: &Ledger, id: &ContainerId) -> Result<Option<Lease>> {
        self.bearers(ledger, id).map(|bearers| bearers.member)
    }

    /// Who bears an id.
    pub fn bearers(&self, ledger: &Ledger, id: &ContainerId) -> Result<Bearers> {
        let has = |lease: &Lease| lease.member(id).is_some();
        if let Some(other) = ledger.linked(id)?.filter(|other| other != id)
            && let Some(member) = self.lease(ledger, &other)?.filter(has)
        {
            return Ok(Bearers { member: Some(member), slice: None });
        }
        let slice = self.lease(ledger, id)?;
        Ok(if slice.as_ref().is_some_and(has) {
            Bearers { member: slice, slice: None }
        } else {
            Bearers { member: None, slice }
        })
    }

    /// The kernel's copy of the lease of the slice `id`.
    fn kept(&self, id: &ContainerId) -> Result<Option<Lease>> {
        let hash = id_hash(id.as_str());
        for slot in self.maps.tenants.of_id(hash).filter(|slot| self.is_leased(*slot)) {
            let lease = self.record(slot)?.filter(|lease| lease.id == *id);
            if lease.is_some() {
                return Ok(lease);
            }
        }
        Ok(None)
    }

    /// What the lease of a slot is called, for messages.
    pub fn name(&self, slot: u16) -> String {
        match self.record(slot) {
            Ok(Some(lease)) => format!("container {}", lease.id),
            _ => format!("the container of slot {slot}"),
        }
    }

    /// Whose `port` is, for messages.
    pub fn owner(&self, port: u16) -> String {
        self.maps.owner(port).map_or_else(|| "another container".into(), |owner| self.name(owner.slot))
    }

    /// Enters a new lease: its slot, its block and its ports are nobody else's from now on, and not steered yet. Fails when a socket
    /// of another container has claimed one of the ports since they were chosen: then none of them is.
    pub fn enter(&self, lease: &Lease) -> Result<()> {
        // The numbers first: whoever is killed here has wasted an epoch, but none is given out twice.
        let cursor = Cursor { epoch: lease.epoch, last_slot: lease.slot, block: lease.block.end().wrapping_add(1) };
        self.maps.tenants.set_cursor(cursor);
        self.maps.tenants.put(lease.slot, tenant(lease, TenantState::Leased));
        self.reserve(&lease.all_ports(), lease.slot)
    }

    /// Keeps ports for the slice in `slot`, all of them or none.
    pub fn reserve(&self, ports: &PortSet, slot: u16) -> Result<()> {
        self.maps.reserve(ports, slot).map_err(|taken| {
            let (port, by) = (taken.port, self.name(taken.by));
            Error::PortInUse(format!("port {port} is in use by {by}: ask for another port, or end that container"))
        })
    }

    /// Says which of `host::Given` the slice of a lease carries.
    pub fn stamp(&self, lease: &Lease) {
        self.maps.tenants.put(lease.slot, tenant(lease, TenantState::Leased));
    }

    /// Which of `host::Given` the slice in a leased slot carries.
    pub fn given(&self, slot: u16) -> u32 {
        self.maps.tenants.get(slot).stamp
    }

    /// Takes back a lease that never came into use: nobody has talked to its ports. That it was there leaves a trace.
    pub fn cancel(&self, lease: &Lease) {
        self.free_claims(lease.slot);
        self.maps.withdraw(&lease.all_ports(), lease.slot);
        self.maps.tenants.put(lease.slot, Tenant { netns: lease.netns_id.ino, ..Tenant::default() });
    }

    /// Ends a lease; its block rests.
    pub fn release(&self, lease: &Lease) {
        self.free_claims(lease.slot);
        self.maps.withdraw(&lease.all_ports(), lease.slot);
        // Of this container only the newest block counts.
        for slot in self.maps.tenants.of_id(id_hash(lease.id.as_str())) {
            if self.maps.tenants.get(slot).state == TenantState::Rests {
                self.maps.tenants.put(slot, Tenant::default());
            }
        }
        let rests = Tenant { stamp: boottime(), ..tenant(lease, TenantState::Rests) };
        self.maps.tenants.put(lease.slot, rests);
    }

    /// Gives back a slot of which no record is left, with all ports it has.
    pub fn clear(&self, slot: u16) {
        self.free_claims(slot);
        let (steered, reserved) = self.maps.owned(slot);
        self.maps.withdraw(&steered.union(&reserved), slot);
        self.maps.tenants.put(slot, Tenant::default());
    }

    /// What sockets of an ended slice still hold leads nowhere: its slot's next tenant begins without.
    fn free_claims(&self, slot: u16) {
        // Its names would be the next tenant's.
        let unnamed = self.maps.names.as_ref().map_or(Ok(()), |names| names.set(slot, &PortNames::default()));
        if let Err(e) = unnamed {
            log::warn!("{e}");
        }
        if let Err(e) = self.maps.free_claims(slot) {
            log::warn!("{e}");
        }
    }

    fn is_leased(&self, slot: u16) -> bool {
        self.maps.tenants.get(slot).state == TenantState::Leased
    }
}

fn tenant(lease: &Lease, state: TenantState) -> Tenant {
    let block = Some((lease.block.begin(), lease.block.size().get()));
    Tenant { netns: lease.netns_id.ino, id: id_hash(lease.id.as_str()), stamp: lease.given, block, state }
}

fn block_of(tenant: Tenant) -> Option<Block> {
    let (begin, size) = tenant.block?;
    Block::new(begin, BlockSize::new(size)?)
}
