//! Change: other terms for a container that runs, all of them or none.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::open;
use super::ready::{Preparer, locked, peek, ready};
use super::refused::{InTheWay, refused};
use super::state::{State, state};
use super::turn::{Turn, settle};
use super::wanted::{assignable, span, worked};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::facts::{self, Facts};
use crate::host::sysctl::Proc;
use crate::lease::lock;
use crate::lease::{Asked, CpuAsked, Desk, Lease, Ledger, Member, Offer, Placed, State as Goal};
use crate::net::Netlink;
use crate::net::diag::{self, Holder};
use crate::plan::Action;
use crate::plan::grant::{self, Situation};
use crate::plan::limits::{self, Place};
use crate::ports::{OpenPorts, PortSet};
use crate::request::{Change, ContainerId, PortsAsked};
use crate::wire::{Host, Queue, Site, intend_cpu, queue};

/// What [`change()`] came to.
pub struct Changed {
    /// The lease of the container's slice as it is now.
    pub lease: Lease,
    /// Whether anything had to be done: else it was so already.
    pub anything: bool,
}

/// Gives the container `id` other terms. Bandwidth and open ports are the slice's, ports and CPUs are the member's own.
/// `force`: also take ports with open connections. On failure everything is as it was.
pub fn change(
    config: &Config,
    id: &ContainerId,
    change: &Change,
    force: bool,
    prepare: Preparer<'_>,
) -> Result<Changed> {
    let ledger = Ledger::at(&config.state_dir);
    let start = Instant::now();
    let mut host = peek(config)?.ok_or_else(|| none(id))?;
    loop {
        let lease = Desk::of(&host.maps).of_member(&ledger, id)?.ok_or_else(|| none(id))?;
        match state(&lease, &ledger, &host)? {
            State::Live => {}
            State::Dead => return Err(none(id)),
            State::Torn => {
                settle(&ledger, &host, &lease)?;
                continue;
            }
            State::Worked if start.elapsed() > lock::PATIENCE => return Err(worked(id, &lease)),
            State::Worked => {
                sleep(Duration::from_millis(2));
                continue;
            }
        }
        // What is looked for takes its time, so it is looked for before the ledger is locked.
        let wish = Wish { config, id, change, force, host: &host, lease: &lease };
        let goal = wish.goal()?;
        if limits::need_shaper(&goal.terms) && host.shaper.is_none() {
            let mut netlink = Netlink::route()?;
            let mut facts = Facts::read(&mut netlink, &Proc::default(), config)?;
            host = ready(config, &mut netlink, &mut facts, true, prepare)?;
            continue;
        }
        if goal == lease.state() {
            return Ok(Changed { lease, anything: false });
        }
        let holders = wish.holders(&goal)?;
        let Some(locked) = locked(&ledger, &host)? else {
            return Err(Error::Busy("the host is being set up or undone: try again when that is over".into()));
        };
        // Somebody else may have changed it while this one was looked for, or taken a port.
        if Desk::of(&host.maps).of_member(&ledger, id)?.as_ref() != Some(&lease) {
            continue;
        }
        wish.granted(&goal, &holders)?;
        let turn = Turn::begin(lease.clone(), goal.clone(), &ledger, &host, &locked)?;
        drop(locked);
        if let Err(e) = wish.still_granted(&goal) {
            turn.take_back(&ledger, &host)?;
            return Err(e);
        }
        let changed = match turn.carry_out(&ledger, &host, &Proc::default()) {
            // Its end overtook the change.
            Err(_) if has_ended(id, &ledger, &host)? => return Err(none(id)),
            changed => changed?,
        };
        log::info!("{id}: changed");
        return Ok(Changed { lease: changed, anything: true });
    }
}

/// The actions that [`change()`] would carry out now.
pub fn plan(config: &Config, id: &ContainerId, change: &Change, force: bool) -> Result<Vec<Action>> {
    let host = peek(config)?.ok_or_else(|| none(id))?;
    let lease = Desk::of(&host.maps).of_member(&Ledger::at(&config.state_dir), id)?.ok_or_else(|| none(id))?;
    let wish = Wish { config, id, change, force, host: &host, lease: &lease };
    let goal = wish.goal()?;
    wish.granted(&goal, &wish.holders(&goal)?)?;
    Ok(if goal == lease.state() { Vec::new() } else { Turn::plan(lease.clone(), goal).actions(&host) })
}

fn has_ended(id: &ContainerId, ledger: &Ledger, host: &Host) -> Result<bool> {
    let lease = Desk::of(&host.maps).of_member(ledger, id)?;
    Ok(!lease.map_or(Ok(false), |lease| host.is_wired(&lease))?)
}

fn none(id: &ContainerId) -> Error {
    Error::NotFound(format!("no container {id} is attached: `portslice list` shows those that are"))
}

/// A change that somebody wants, and what it is about.
struct Wish<'a> {
    config: &'a Config,
    id: &'a ContainerId,
    change: &'a Change,
    force: bool,
    host: &'a Host,
    lease: &'a Lease,
}

impl Wish<'_> {
    /// What the slice is to be.
    fn goal(&self) -> Result<Goal> {
        let (change, now) = (self.change, self.lease);
        let mut members = now.members.clone();
        let member = members.iter_mut().find(|member| member.id == *self.id).ok_or_else(|| none(self.id))?;
        let had = member.ports.clone();
        self.member(member)?;
        let leased = now.ports.difference(&had.difference(&member.ports)).union(&member.ports);
        let others = |member: &&Member| member.id != *self.id;
        let leased = members.iter().filter(others).fold(leased, |all, member| all.union(&member.ports));
        grant::named(&members, now.block, &leased)?;
        let asked = Asked {
            egress: change.egress.applied(&now.terms.asked.egress),
            ingress: change.ingress.applied(&now.terms.asked.ingress),
            limit_local: change.limit_local.unwrap_or(now.terms.asked.limit_local),
        };
        // Its own device is a place only for a queue that stands there since it was attached.
        let inside = now.terms.egress_placed == Placed::Inside;
        let known = limits::Known { tamper_proof: inside, cpus: crate::lease::record::cpus_of(&members) };
        let mut terms = limits::terms(self.config, &asked, known, &facts::machine(self.config, now.uplink()))?;
        terms.second = now.terms.second;
        if now.terms.ingress != terms.ingress && now.terms.ingress.is_some() && self.owes(Place::Ingress)? {
            terms.second.ingress = !terms.second.ingress;
        }
        if now.terms.egress != terms.egress && limits::need_shaper(&now.terms) && self.owes(Place::Shaper)? {
            terms.second.egress = !terms.second.egress;
        }
        if terms.egress.is_some() || terms.ingress.is_some() {
            queue::leaf(self.host, &self.lease.id)?;
        }
        Ok(Goal { terms, members, leased, open: self.open()? })
    }

    /// What the slice may claim. What it has claimed and is no longer offered stays until it is closed.
    fn open(&self) -> Result<Offer> {
        let now = &self.lease.open;
        let asked = match &self.change.open_ports {
            None => return Ok(now.clone()),
            Some(None) => None,
            Some(Some(change)) => Some(OpenPorts::from(change.applied(&now.asked, "open-ports")?)),
        };
        open::possible(self.config, self.id, asked.as_ref())?;
        let facts = Facts::read(&mut Netlink::route()?, &Proc::default(), self.config)?;
        open::offer(self.config, self.id, asked.as_ref(), (self.host, &facts))
    }

    /// What the member is to be.
    fn member(&self, member: &mut Member) -> Result<()> {
        let (change, now) = (self.change, member.asked);
        member.asked = CpuAsked {
            cpus: change.cpus.unwrap_or(now.cpus),
            cpus_limit: change.cpus_limit.unwrap_or(now.cpus_limit),
            cpus_revocable: change.cpus_revocable.unwrap_or(now.cpus_revocable),
        };
        if member.asked != now {
            intend_cpu(self.config, member)?;
        }
        if let Some(ports) = &change.ports {
            let wanted = ports.applied(&member.ports, "ports")?;
            self.busy(&member.ports.difference(&wanted))?;
            let names = ports.renamed(&member.port_names)?;
            open::has_names(self.config, (self.id, &names), self.host)?;
            self.inhabited(&names.inside().difference(&member.port_names.inside()))?;
            (member.ports, member.port_names) = (wanted, names);
        }
        Ok(())
    }

    /// Refuses names that a socket inside has for a number of its own: connections to it would lead elsewhere.
    fn inhabited(&self, names: &PortSet) -> Result<()> {
        let holders = self.inside(names)?;
        let Some(first) = holders.iter().find(|holder| names.contains(holder.port)) else { return Ok(()) };
        Err(Error::Busy(format!(
            "port {} is open in container {} already, so that it cannot be the name of another one: close it first",
            first.port, self.id
        )))
    }

    /// Sockets of its namespace between these ports.
    fn inside(&self, ports: &PortSet) -> Result<Vec<Holder>> {
        let Some(range) = span(ports) else { return Ok(Vec::new()) };
        let proc = Proc::default();
        let mut netlink = Netlink::route()?;
        let mut site = Site::of(self.lease, self.host, &proc, &mut netlink);
        match site.container() {
            Err(Error::NotFound(_)) => Ok(Vec::new()),
            container => container?.inside(|| diag::holders(&mut Netlink::diag()?, range)),
        }
    }

    /// Refuses to take ports with open connections, unless forced.
    fn busy(&self, removed: &PortSet) -> Result<()> {
        if self.force {
            return Ok(());
        }
        let busy = |holder: &&Holder| holder.established && removed.contains(holder.port);
        let holders = self.inside(removed)?;
        let Some(first) = holders.iter().find(busy) else { return Ok(()) };
        let count = holders.iter().filter(|h| busy(h) && h.port == first.port).count();
        Err(Error::Busy(format!(
            "port {} of container {} has open connections ({count}): end them first, or cut them off with --force",
            first.port, self.id
        )))
    }

    /// Sockets of the host between the ports that are added.
    fn holders(&self, goal: &Goal) -> Result<Vec<Holder>> {
        match span(&goal.leased.difference(&self.lease.ports)) {
            Some(range) => diag::holders(&mut Netlink::diag()?, range),
            None => Ok(Vec::new()),
        }
    }

    /// Refuses ports that are somebody else's.
    fn granted(&self, goal: &Goal, holders: &[Holder]) -> Result<()> {
        let added = goal.leased.difference(&self.lease.ports);
        if added.is_empty() {
            return Ok(());
        }
        let used = diag::ports_of(holders);
        let desk = Desk::of(&self.host.maps);
        let taken = |span| desk.taken_by_others(span, self.lease.slot);
        let leased = span(&assignable(self.config)).map_or_else(PortSet::empty, taken);
        let resting = PortSet::empty();
        let at = Situation {
            config: self.config,
            leased: &leased,
            resting: &resting,
            block_from: 0,
            auto_from: 0,
            holders,
            used: &used,
        };
        let asked = PortsAsked { set: added, ..PortsAsked::default() };
        let way = InTheWay { config: self.config, desk, used: &used };
        grant::assigned(&asked, &at).map(drop).map_err(|refusal| refused(refusal, &way))
    }

    /// The same once the ports are the slice's: a socket of the host may have been quicker. From then on none gets them, where
    /// bind() is judged; elsewhere another look would tell no more.
    fn still_granted(&self, goal: &Goal) -> Result<()> {
        if self.host.maps.namespaces.is_none() { Ok(()) } else { self.granted(goal, &self.holders(goal)?) }
    }

    fn owes(&self, place: Place) -> Result<bool> {
        let second = self.lease.terms.second;
        let mut queue = match place {
            Place::Shaper => Queue::shaper(self.host, self.lease.slot, second.egress)?,
            _ => {
                let proc = Proc::default();
                let mut netlink = Netlink::route()?;
                let pair = Site::of(self.lease, self.host, &proc, &mut netlink).need_pair()?;
                Queue::ingress(&pair, second.ingress)?
            }
        };
        queue.owes()
    }
}
