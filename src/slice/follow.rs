//! Letting slices that run follow the host: each is brought from what it was given last to what containers are given now.
//!
//! The host side of every slice is looked at; a namespace is entered only when what containers are given has changed since.
//! What does not live here: the host's own part ([`super::setup`]), and noticing that something changed (the face `follow`).

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ready::{locked, peek_recorded};
use super::state::{State, state};
use super::{open, reclaim, run};
use crate::config::Config;
use crate::error::Result;
use crate::host::process::{Worker, boot_id};
use crate::host::sysctl::Proc;
use crate::host::{Given, HostRecord};
use crate::lease::lock::is_gone;
use crate::lease::{Desk, Lease, Ledger, Offer, Stage};
use crate::net::link::{self, Link};
use crate::net::{Holders, Netlink};
use crate::plan::slice::{names, offer};
use crate::plan::{Action, Step, Verb, slice};
use crate::ports::PortSet;
use crate::request::ContainerId;
use crate::wire::{Host, HostSite, Site, carried, claims, guard};

/// A slice that was behind the host.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Its id.
    pub id: ContainerId,
    /// What was done about it, or would be.
    pub actions: Vec<Action>,
    /// Why it could not follow, one line.
    pub failed: Option<String>,
    /// Somebody works on it: it can follow a moment later.
    pub worked: bool,
}

/// Lets every slice follow. A slice that cannot is told of and keeps no other one from following; one that somebody works on is
/// waited for as long as `patience`.
///
/// # Errors
///
/// [`Error::Busy`] when somebody else does the same for more than ten seconds.
pub fn all(config: &Config, patience: Duration) -> Result<Vec<Followed>> {
    let ledger = Ledger::at(&config.state_dir);
    let _following = match ledger.following() {
        Err(e) if is_gone(&e) => return Ok(Vec::new()),
        lock => lock?,
    };
    let start = Instant::now();
    let mut followed = Vec::new();
    loop {
        let Some(host) = peek_recorded(config)? else { return Ok(followed) };
        let mut pass = Pass::new(config, &ledger, &host)?;
        let worked = pass.through()?;
        claims::look(&host.maps)?;
        followed.append(&mut pass.followed);
        forget(config, &ledger, &host)?;
        if worked.is_empty() || start.elapsed() > patience {
            followed.extend(worked.into_iter().map(|(id, worker)| Followed {
                id,
                actions: Vec::new(),
                failed: Some(format!("it is being worked on by {worker}: run `portslice sync` again")),
                worked: true,
            }));
            return Ok(followed);
        }
        sleep(Duration::from_millis(2));
    }
}

/// What [`all`] would do now, if containers were given `given`.
pub fn plan(config: &Config, given: &Given) -> Result<Vec<Followed>> {
    let ledger = Ledger::at(&config.state_dir);
    let Some(host) = peek_recorded(config)? else { return Ok(Vec::new()) };
    let mut pass = Pass::new(config, &ledger, &host)?;
    pass.given = given.clone();
    let mut followed = Vec::new();
    for lease in pass.behind()? {
        if state(&lease, &ledger, &host)? == State::Live {
            followed.push(Followed { actions: pass.actions(&lease)?, id: lease.id, failed: None, worked: false });
        }
    }
    Ok(followed)
}

/// One walk over all slices.
struct Pass<'a> {
    ledger: &'a Ledger,
    host: &'a Host,
    /// What containers are given now.
    given: Given,
    /// What they were given before, as far as somebody carries it.
    earlier: Vec<Given>,
    fresh: Vec<crate::host::sysctl::Setting>,
    /// Open ports that nobody is offered now.
    withheld: PortSet,
    proc: Proc,
    netlink: Netlink,
    holders: Holders,
    /// The host's ends of all pairs, by slot.
    pairs: HashMap<u16, Link>,
    followed: Vec<Followed>,
}

impl<'a> Pass<'a> {
    fn new(config: &Config, ledger: &'a Ledger, host: &'a Host) -> Result<Self> {
        let record = HostRecord::read(&config.state_dir, boot_id())?;
        let mut netlink = Netlink::route()?;
        let links = link::all(&mut netlink)?;
        let proc = Proc::private();
        let withheld = {
            let mut settings = proc.here();
            open::withheld(config, (settings.ephemeral_range()?, &settings.reserved_ports()?))
        };
        let slot = |link: Link| reclaim::slot_of(&link, host.instance).map(|slot| (slot, link));
        Ok(Pass {
            ledger,
            host,
            given: host.given.clone(),
            earlier: record.given,
            fresh: record.fresh,
            withheld,
            proc,
            netlink,
            holders: Holders::default(),
            pairs: links.into_iter().filter_map(slot).collect(),
            followed: Vec::new(),
        })
    }

    /// Returns the slices that somebody else works on, and who.
    fn through(&mut self) -> Result<Vec<(ContainerId, Worker)>> {
        let mut worked = Vec::new();
        for lease in self.behind()? {
            match state(&lease, self.ledger, self.host)? {
                State::Live => {}
                // It carries nothing yet, and whoever takes it up gives it what is so then.
                State::Worked if lease.stage == Stage::Reserved => continue,
                State::Worked => {
                    if lease.given != self.given.generation {
                        worked.push((lease.id, lease.worker));
                    }
                    continue;
                }
                State::Dead | State::Torn => continue,
            }
            let actions = self.actions(&lease)?;
            if actions.is_empty() {
                continue;
            }
            let failed = match self.bring(&lease, &actions) {
                Ok(true) => None,
                Ok(false) => {
                    worked.push((lease.id, lease.worker));
                    continue;
                }
                // It ended meanwhile.
                Err(_) if !self.host.is_wired(&lease)? => continue,
                Err(e) => Some(e.to_string()),
            };
            self.followed.push(Followed { id: lease.id, actions, failed, worked: false });
        }
        Ok(worked)
    }

    /// The leases of slices about which there may be something to do. Of the others nothing is read but what the kernel has
    /// of their device.
    fn behind(&mut self) -> Result<Vec<Lease>> {
        let desk = Desk::of(&self.host.maps);
        let guard_program = self.host.programs.id(guard::PROGRAM)?;
        let mut behind = Vec::new();
        for slot in desk.leased() {
            let guarded = match self.pairs.get(&slot) {
                Some(pair) => guard::stands(&mut self.netlink, pair, slot, guard_program)?,
                // It is gone, or on its way.
                None => true,
            };
            // A slice that is older than the programs at the sockets is not known to them yet.
            let judged = match &self.host.maps.namespaces {
                Some(namespaces) => namespaces.has(slot)?,
                None => true,
            };
            let told = guarded && judged && desk.given(slot) == self.given.generation;
            if told && self.host.maps.namespaces.is_none() {
                continue;
            }
            match desk.record(slot) {
                Ok(lease) => behind.extend(lease.filter(|lease| !told || self.open(lease) != lease.open)),
                Err(e) => log::warn!("{e}"),
            }
        }
        Ok(behind)
    }

    /// What it may claim of what it asked for, now.
    fn open(&self, lease: &Lease) -> Offer {
        Offer { ports: lease.open.asked.difference(&self.withheld), ..lease.open.clone() }
    }

    /// What is to be done about a slice.
    fn actions(&mut self, lease: &Lease) -> Result<Vec<Action>> {
        let (mut actions, open) = (Vec::new(), self.open(lease));
        let mut site = Site::of(lease, self.host, &self.proc, &mut self.netlink);
        site.pair = self.pairs.get(&lease.slot).cloned();
        let steps = [Step::Guard { slot: lease.slot }, Step::Binds { slot: lease.slot }];
        // where nothing translates names, giving them would fail
        let translates = self.host.sockets.is_some() && self.host.maps.names.is_some();
        let names = names(lease.slot, &lease.state()).filter(|_| translates);
        for step in steps.into_iter().chain(offer(lease.slot, &open)).chain(names) {
            let reoffered = open != lease.open && matches!(step, Step::Offer { .. });
            if reoffered || !run::differences(&mut site, std::slice::from_ref(&step)).is_empty() {
                actions.push(Action { verb: Verb::Mend, step });
            }
        }
        if open.ports.is_empty() {
            actions.extend(offer(lease.slot, &lease.open).map(|step| Action { verb: Verb::Undo, step }));
        }
        if lease.given != self.given.generation {
            let last = self.earlier.iter().find(|given| given.generation == lease.given).cloned();
            // Settings that nobody remembers are left as they are.
            let looked_up = |given: Given| Given { copied: self.given.copied.clone(), ..given };
            let last = last.or_else(|| carried(&mut site).ok().map(looked_up));
            let step = slice::follow(lease, last.as_ref(), &self.given, &self.fresh);
            actions.push(Action { verb: Verb::Mend, step });
        }
        Ok(actions)
    }

    /// Does it, and records it; `false` when somebody else works on the slice.
    fn bring(&mut self, lease: &Lease, actions: &[Action]) -> Result<bool> {
        let mut site = Site::of(lease, self.host, &self.proc, &mut self.netlink).making();
        site.pair = self.pairs.get(&lease.slot).cloned();
        let inside = |step: &Step| matches!(step, Step::Furnish(_) | Step::Binds { .. } | Step::Offer { .. });
        if actions.iter().any(|action| inside(&action.step)) {
            site.container = Some(self.holders.reach(&lease.netns, lease.netns_id)?);
        }
        run::through(&mut site, actions)?;
        let found = site.found.clone();
        run::fault();
        let Some(_lock) = locked(self.ledger, self.host)? else { return Ok(true) };
        match self.ledger.read(&lease.id)? {
            Some(now) if now.epoch == lease.epoch && now.stage == Stage::Attached => {
                // Somebody may have changed what it asks for since it was looked at.
                let open = self.open(&now);
                self.host.maps.offer(now.slot, &open.ports, open.limit.into())?;
                let now = Lease { given: self.given.generation, found, open, ..now };
                self.ledger.write(&now, &self.host.maps.book)?;
                Desk::of(&self.host.maps).stamp(&now);
                Ok(true)
            }
            // It is done all the same, and done again when the other one is through.
            Some(now) if now.epoch == lease.epoch && now.stage == Stage::Changing => Ok(false),
            // It ended meanwhile, and what it was given here nobody takes back: the slot's next tenant would have it.
            _ => {
                let maps = &self.host.maps;
                match Desk::of(maps).record(lease.slot)? {
                    Some(next) if matches!(next.stage, Stage::Attaching | Stage::Attached | Stage::Changing) => {
                        let open = self.open(&next);
                        maps.offer(next.slot, &open.ports, open.limit.into())?;
                    }
                    _ => {
                        maps.withdraw_offer(lease.slot)?;
                        maps.namespaces.as_ref().map_or(Ok(()), |namespaces| namespaces.leave(lease.slot))?;
                    }
                }
                Ok(true)
            }
        }
    }
}

/// Drops what no slice carries any more from the host's record.
fn forget(config: &Config, ledger: &Ledger, host: &Host) -> Result<()> {
    if HostRecord::read(&config.state_dir, boot_id())?.given.len() < 2 {
        return Ok(());
    }
    let Some(_lock) = locked(ledger, host)? else { return Ok(()) };
    let mut record = HostRecord::read(&config.state_dir, boot_id())?;
    let carried: Vec<u32> = ledger.all()?.iter().map(|lease| lease.given).collect();
    let newest = record.given().generation;
    record.given.retain(|given| given.generation == newest || carried.contains(&given.generation));
    let mut netlink = Netlink::route()?;
    HostSite::new(config, None, ledger, record, &mut netlink).save()
}
