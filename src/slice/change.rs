//! Change: other terms for a container that runs, all of them or none.
//!
//! The ledger stays locked from the look at the lease to the end: two changes come one after the other, and so do a
//! change and a detach. The lease keeps the earlier terms until the change is complete; whoever finds them there knows
//! that it was killed on the way, and goes back first.

use std::io;

use super::limit::{self, Queue};
use super::prepare::{self, Host, Wanted};
use super::processor;
use super::reclaim::{self, State};
use super::refused::refused;
use super::wire::device_of;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::facts::{self, Facts};
use crate::host::sysctl::Proc;
use crate::lease::index::Index;
use crate::lease::ledger::{Locked, unix_now};
use crate::lease::{Asked, Lease, Ledger, Placed, Terms};
use crate::net::diag::{self, Holder};
use crate::net::link::{self, Link};
use crate::net::{Holders, Netlink, Netns};
use crate::plan::limits::{self, Place};
use crate::plan::{self, grant};
use crate::ports::{PortRange, PortSet};
use crate::request::ContainerId;
use crate::request::{Change, PortsAsked};

/// Gives the container `id` other terms and returns its lease. `force`: also take ports with open connections.
/// On failure everything is as it was.
pub fn change(config: &Config, id: &ContainerId, change: &Change, force: bool) -> Result<Lease> {
    let none = || Error::NotFound(format!("no container {id} is attached: `portslice list` shows those that are"));
    let ledger = Ledger::at(&config.state_dir);
    let mut host = prepare::peek(config)?.ok_or_else(none)?;
    let mut netlink = Netlink::route()?;
    // the shaper, when it is the first time that one is needed, has to be made before the ledger is locked
    for _ in 0..3 {
        let mut locked = match ledger.lock() {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Err(none()),
            locked => locked?,
        };
        if !host.is_current(config)? {
            return Err(Error::Busy("the host is being set up or undone: try again when that is over".into()));
        }
        let lease = ledger.read(id)?.ok_or_else(none)?;
        let outer = match reclaim::state(&lease, &ledger, &host, &mut netlink)? {
            State::Live => device_of(&mut netlink, lease.slot)?.ok_or_else(none)?,
            State::Dead => return Err(none()),
            State::Worked => {
                return Err(Error::Busy(format!(
                    "container {id} is being attached or detached by process {}: try again",
                    lease.worker.pid
                )));
            }
        };
        // another change made the shaper since the host was opened, and led this container there
        if host.shaper.is_none()
            && [Some(&lease.terms), lease.before.as_deref()].into_iter().flatten().any(limits::need_shaper)
        {
            drop(locked);
            host = prepare::peek(config)?.ok_or_else(none)?;
            continue;
        }
        let mut site = Site { config, host: &host, lease, outer };
        site.go_back(&mut locked)?;
        let terms = site.decide(change, &locked.index, force)?;
        if limits::need_shaper(&terms) && host.shaper.is_none() {
            drop(locked);
            let facts = Facts::read(&mut netlink, &Proc::default(), config.uplink.as_deref())?;
            let wanted = Wanted { shaper: true, anew: false };
            host = prepare::ready(config, &mut netlink, &facts, Netns::current()?.id, wanted)?;
            continue;
        }
        if terms != site.lease.terms {
            site.turn(terms, &mut locked)?;
            log::info!("{id}: changed");
        }
        return Ok(site.lease);
    }
    Err(Error::Busy("the host is being set up and undone at the same time: try again when that is over".into()))
}

/// Finishes what a change that was killed left behind, if it did. Done under the ledger's lock.
pub fn settle(config: &Config, host: &Host, lease: &Lease, outer: Link, locked: &mut Locked<'_>) -> Result<Lease> {
    let mut site = Site { config, host, lease: lease.clone(), outer };
    site.go_back(locked)?;
    Ok(site.lease)
}

/// A container and all that its terms show in.
struct Site<'a> {
    config: &'a Config,
    host: &'a Host,
    lease: Lease,
    /// The host's end of its pair.
    outer: Link,
}

impl Site<'_> {
    /// Back to the terms before a change that was killed on the way.
    fn go_back(&mut self, locked: &mut Locked<'_>) -> Result<()> {
        let Some(before) = self.lease.before.clone() else { return Ok(()) };
        log::warn!("{}: a change was interrupted, going back to what was before", self.lease.id);
        self.back(*before, locked)
    }

    /// To earlier terms, from whatever was reached of those in the lease.
    fn back(&mut self, earlier: Terms, locked: &mut Locked<'_>) -> Result<()> {
        let half_done = std::mem::replace(&mut self.lease.terms, earlier.clone());
        processor::reconsider(self.config, &mut self.lease)?;
        self.apply(&half_done, &earlier, true)?;
        self.lease.before = None;
        locked.change(&self.lease)
    }

    /// From the terms as they are to `terms`, or nowhere.
    fn turn(&mut self, terms: Terms, locked: &mut Locked<'_>) -> Result<()> {
        let old = std::mem::replace(&mut self.lease.terms, terms.clone());
        self.lease.before = Some(Box::new(old.clone()));
        if old.asked.cpu() != terms.asked.cpu() {
            processor::intend(self.config, &mut self.lease)?;
        }
        locked.change(&self.lease)?;
        let done = self.apply(&old, &terms, false).and_then(|()| {
            self.lease.before = None;
            locked.change(&self.lease)
        });
        done.inspect_err(|_| {
            if let Err(again) = self.back(old, locked) {
                log::error!("{again}, while going back to what was before");
            }
        })
    }

    fn decide(&self, change: &Change, index: &Index, force: bool) -> Result<Terms> {
        let now = &self.lease.terms;
        let asked = Asked {
            cpus: change.cpus.unwrap_or(now.asked.cpus),
            cpus_limit: change.cpus_limit.unwrap_or(now.asked.cpus_limit),
            cpus_revocable: change.cpus_revocable.unwrap_or(now.asked.cpus_revocable),
            egress: change.egress.applied(&now.asked.egress),
            ingress: change.ingress.applied(&now.asked.ingress),
            limit_local: change.limit_local.unwrap_or(now.asked.limit_local),
        };
        let ports = match &change.ports {
            Some(change) => self.ports(change.applied(&now.ports)?, index, force)?,
            None => now.ports.clone(),
        };
        let machine = facts::machine(self.config, &self.lease.device);
        // its own device is a place only for a queue that stands there since it was attached
        let inside = now.egress_placed == Placed::Inside;
        let known = limits::Known { tamper_proof: inside, bundle_cpus: self.lease.bundle_cpus };
        let mut terms = limits::terms(self.config, ports, &asked, known, &machine)?;
        terms.second = now.second;
        if now.ingress != terms.ingress && now.ingress.is_some() && self.queue(Place::Ingress, now)?.owes()? {
            terms.second.ingress = !now.second.ingress;
        }
        if now.egress != terms.egress && limits::need_shaper(now) && self.queue(Place::Shaper, now)?.owes()? {
            terms.second.egress = !now.second.egress;
        }
        if terms.egress.is_some() || terms.ingress.is_some() {
            limit::leaf(self.host, &self.lease.id)?;
        }
        Ok(terms)
    }

    /// Checks a new set of ports and returns it.
    fn ports(&self, wanted: PortSet, index: &Index, force: bool) -> Result<PortSet> {
        let now = &self.lease.terms.ports;
        let (added, removed) = (wanted.difference(now), now.difference(&wanted));
        if let Some(range) = span(&added) {
            let holders = diag::holders(&mut Netlink::diag()?, range)?;
            let used = diag::ports_of(&holders);
            let situation =
                grant::Situation { config: self.config, index, holders: &holders, used: &used, now: unix_now() };
            let asked = PortsAsked { set: added, auto: 0 };
            grant::assigned(&asked, &situation, &index.taken()).map_err(refused)?;
        }
        if let (Some(range), false) = (span(&removed), force) {
            let busy = |holder: &&Holder| holder.established && removed.contains(holder.port);
            let holders = match self.container() {
                Err(Error::NotFound(_)) => Vec::new(),
                container => container?.inside(|| diag::holders(&mut Netlink::diag()?, range))?,
            };
            if let Some(first) = holders.iter().find(busy) {
                let count = holders.iter().filter(|h| busy(h) && h.port == first.port).count();
                return Err(Error::Busy(format!(
                    "port {} of container {} has open connections ({count}): end them first, or cut them off with \
                     --force",
                    first.port, self.lease.id
                )));
            }
        }
        Ok(wanted)
    }

    /// Makes `new` true where `old` was. `doubtful`: nobody knows how much of either is.
    ///
    /// What is new is in place before packets are led to it, and what goes lets through what waits in it, and is
    /// removed when packets no longer come.
    fn apply(&mut self, old: &Terms, new: &Terms, doubtful: bool) -> Result<()> {
        let leaf = self.host.leaf.unwrap_or_default();
        let (had, has) = (limits::queues(old, leaf), limits::queues(new, leaf));
        // a queue is where it stands, and which of two classes it is
        let stands = |place: Place, terms: &Terms| {
            let second = if place == Place::Ingress { terms.second.ingress } else { terms.second.egress };
            (place, second)
        };
        let new_at: Vec<_> = has.iter().map(|(place, _)| stands(*place, new)).collect();
        let going: Vec<_> = had.iter().filter(|(place, _)| !new_at.contains(&stands(*place, old))).collect();
        for (place, throttle) in &has {
            let there = had.iter().any(|(was, _)| stands(*was, old) == stands(*place, new));
            if doubtful || !there || !had.contains(&(*place, *throttle)) {
                let mut queue = self.queue(*place, new)?;
                if !there && *place != Place::Inside {
                    queue.clear()?;
                }
                queue.set(throttle)?;
            }
        }
        for (place, throttle) in &going {
            match self.queue(*place, old)?.open(&throttle.shape) {
                Err(e) if !doubtful => return Err(e),
                _ => {}
            }
        }
        self.host.maps.set_flags(self.lease.slot, plan::slot_flags(self.lease.host_loopback, new))?;
        self.host.maps.withdraw(&old.ports.difference(&new.ports), self.lease.slot);
        self.host.maps.publish(&new.ports, self.lease.slot);
        if doubtful || old.asked.cpu() != new.asked.cpu() {
            processor::apply(&mut self.lease)?;
        }
        if doubtful || limits::largest_packet(old) != limits::largest_packet(new) {
            let (inner, device) = (self.outer.peer.unwrap_or(0), &self.lease.device);
            let request = link::segment_at(inner, device, limits::largest_packet(new));
            self.container()?.inside(|| Netlink::route()?.send(request))?;
        }
        for (place, _) in going {
            let mut queue = self.queue(*place, old)?;
            let dropped = queue.dropped()?;
            self.account(*place, dropped);
            // taking the queue off the container's own device would lose packets; open, it costs next to nothing. One
            // of two classes stays until its packets are gone: the device is still shaped.
            let other_class = has.iter().any(|(stays, _)| stays == place);
            if *place != Place::Inside && !other_class {
                queue.remove()?;
            }
        }
        Ok(())
    }

    fn queue(&self, place: Place, terms: &Terms) -> Result<Queue> {
        match place {
            Place::Ingress => Queue::ingress(&self.outer, terms.second.ingress),
            Place::Shaper => Queue::shaper(self.host, self.lease.slot, terms.second.egress),
            Place::Inside => Queue::inside(&self.container()?, &self.outer, &self.lease.device),
        }
    }

    fn container(&self) -> Result<Netns> {
        Holders::default().reach(&self.lease.netns, self.lease.netns_id)
    }

    fn account(&mut self, place: Place, dropped: u64) {
        let total =
            if place == Place::Ingress { &mut self.lease.dropped.ingress } else { &mut self.lease.dropped.egress };
        *total += dropped;
    }
}

fn span(ports: &PortSet) -> Option<PortRange> {
    let (first, last) = (ports.ranges().first()?, ports.ranges().last()?);
    PortRange::new(first.begin(), last.end())
}
