//! A turn: a live slice from what it is to what it is to be, all of it or nothing. A join, a leave and a change are turns.
//!
//! The lease says what the turn set out from until it is complete; whoever finds that, and the worker gone, goes back.

use super::ready::locked;
use super::run;
use crate::error::{Error, Result};
use crate::host::process::Worker;
use crate::host::sysctl::Proc;
use crate::lease::lock::Lock;
use crate::lease::{Desk, Dropped, Lease, Ledger, Member, Stage, State};
use crate::net::Netlink;
use crate::plan::{Action, change};
use crate::ports::PortSet;
use crate::request::ContainerId;
use crate::wire::{Host, Site, claims};

/// A turn that is recorded and not carried out yet.
pub struct Turn {
    /// The lease, with what it is to be, and what it was.
    lease: Lease,
    /// The ports that are leased to the slice when it is complete.
    leased: PortSet,
}

impl Turn {
    /// A turn that is only planned.
    pub fn plan(lease: Lease, goal: State) -> Self {
        let before = lease.state();
        let ports = lease.ports.union(&goal.leased);
        let lease = Lease {
            before: Some(Box::new(before)),
            terms: goal.terms,
            members: goal.members,
            open: goal.open,
            ports,
            ..lease
        };
        Turn { lease, leased: goal.leased }
    }

    /// Records a turn, under the lock: its ports are leased from now on, and nobody else works on the slice.
    pub fn begin(lease: Lease, goal: State, ledger: &Ledger, host: &Host, _lock: &Lock) -> Result<Self> {
        let known = lease.clone();
        let mut turn = Turn::plan(lease, goal);
        turn.lease.stage = Stage::Changing;
        turn.lease.worker = Worker::current();
        let more = turn.lease.ports.difference(&known.ports);
        // The record first: a port that was reserved and that no record tells of would stay so for ever.
        if let Err(e) = ledger.write(&turn.lease, &host.maps.book) {
            if let Err(again) = ledger.write(&known, &host.maps.book) {
                log::error!("{again}, while going back to what was before");
            }
            return Err(e);
        }
        run::fault();
        if let Err(e) = Desk::of(&host.maps).reserve(&more, turn.lease.slot) {
            ledger.write(&known, &host.maps.book)?;
            return Err(e);
        }
        Ok(turn)
    }

    /// The ports of the slice from now on.
    pub fn ports(&self) -> &PortSet {
        &self.lease.ports
    }

    /// Takes it back: everything is as it was.
    pub fn take_back(self, ledger: &Ledger, host: &Host) -> Result<()> {
        back(ledger, host, self.lease, Dropped::default())
    }

    /// What is to be done.
    pub fn actions(&self, host: &Host) -> Vec<Action> {
        let before = self.lease.before.as_deref().cloned().unwrap_or_else(|| self.lease.state());
        change(&self.lease, &before, &self.lease.state(), host.leaf.unwrap_or_default(), false)
    }

    /// Carries it out; on failure everything is as it was. Returns the lease as it is then.
    pub fn carry_out(self, ledger: &Ledger, host: &Host, proc: &Proc) -> Result<Lease> {
        let actions = self.actions(host);
        let mut netlink = Netlink::route()?;
        let mut site = Site::of(&self.lease, host, proc, &mut netlink).towards(&self.lease.state());
        let done = act(&mut site, &actions);
        let dropped = site.dropped;
        run::fault();
        match done.and_then(|()| complete(self.lease.clone(), dropped, &self.leased, ledger, host)) {
            Ok(lease) => Ok(lease),
            Err(e) => {
                if let Err(again) = back(ledger, host, self.lease, dropped) {
                    log::error!("{again}, while going back to what was before");
                }
                Err(e)
            }
        }
    }
}

/// Goes back to what was before a turn that was killed.
pub fn settle(ledger: &Ledger, host: &Host, lease: &Lease) -> Result<()> {
    let lease = {
        let Some(_lock) = locked(ledger, host)? else { return Ok(()) };
        let found = Desk::of(&host.maps).lease(ledger, &lease.id)?;
        let Some(mut now) = found.filter(|now| now.epoch == lease.epoch) else { return Ok(()) };
        if now.stage != Stage::Changing || now.worker.is_alive() {
            return Ok(());
        }
        now.worker = Worker::current();
        ledger.write(&now, &host.maps.book)?;
        now
    };
    log::warn!("{}: a change was interrupted, going back to what was before", lease.id);
    back(ledger, host, lease, Dropped::default())
}

/// Does all of it, and stops at the first failure: the way back is another plan, not this one undone.
fn act(site: &mut Site<'_>, actions: &[Action]) -> Result<()> {
    actions.iter().try_for_each(|action| run::through(site, std::slice::from_ref(action)))
}

/// The new state is the state. Ports that it gave back and may claim are its own as far as sockets of it sit there: nobody
/// waits for the look at them.
fn complete(lease: Lease, dropped: Dropped, leased: &PortSet, ledger: &Ledger, host: &Host) -> Result<Lease> {
    let lease = conclude(lease, dropped, leased, ledger, host)?;
    if !lease.open.is_none()
        && let Err(e) = claims::look_at(&host.maps, &lease)
    {
        log::warn!("{}: {e}", lease.id);
    }
    Ok(lease)
}

/// Writes it down, and gives back what is no more leased.
fn conclude(mut lease: Lease, dropped: Dropped, leased: &PortSet, ledger: &Ledger, host: &Host) -> Result<Lease> {
    let before = lease.before.take();
    lease.stage = Stage::Attached;
    lease.dropped.egress += dropped.egress;
    lease.dropped.ingress += dropped.ingress;
    lease.members.iter_mut().for_each(Member::trim);
    let less = lease.ports.difference(leased);
    let _lock = ledger.lock()?;
    // Ports are given back only when the turn is complete, and are the slice's until the record says that they are not. Whoever
    // finds a run that was killed in between goes on to what the slice is to be.
    if !less.is_empty() {
        let goal = Box::new(State { leased: leased.clone(), ..lease.state() });
        ledger.write(&Lease { stage: Stage::Changing, before: Some(goal), ..lease.clone() }, &host.maps.book)?;
        run::fault();
        host.maps.withdraw_to_claims(&less.intersection(&lease.open.asked), lease.slot);
        host.maps.withdraw(&less, lease.slot);
        run::fault();
        lease.ports = leased.clone();
    }
    ledger.write(&lease, &host.maps.book).inspect_err(|_| {
        if let Err(e) = Desk::of(&host.maps).reserve(&less, lease.slot) {
            log::error!("{}: {e}", lease.id);
        }
    })?;
    run::fault();
    let gone: Vec<ContainerId> = before
        .iter()
        .flat_map(|before| &before.members)
        .filter(|member| lease.member(&member.id).is_none() && member.id != lease.id)
        .map(|member| member.id.clone())
        .collect();
    gone.iter().try_for_each(|id| ledger.unlink(id))?;
    Ok(lease)
}

/// From whatever was reached to what was before. What cannot be taken back is told and keeps nothing else from going back.
fn back(ledger: &Ledger, host: &Host, lease: Lease, dropped: Dropped) -> Result<()> {
    let Some(before) = lease.before.as_deref().cloned() else {
        return Err(Error::Failed(format!("the lease of {} does not say what was before its change", lease.id)));
    };
    let actions = change(&lease, &lease.state(), &before, host.leaf.unwrap_or_default(), true);
    let proc = Proc::private();
    let mut netlink = Netlink::route()?;
    let mut site = Site::of(&lease, host, &proc, &mut netlink).towards(&before);
    site.doubtful = true;
    let done = run::through(&mut site, &actions);
    let dropped =
        Dropped { egress: dropped.egress + site.dropped.egress, ingress: dropped.ingress + site.dropped.ingress };
    let leased = before.leased.clone();
    // The members that the turn would have brought are gone again.
    let reached = Box::new(lease.state());
    let lease =
        Lease { terms: before.terms, members: before.members, open: before.open, before: Some(reached), ..lease };
    complete(lease, dropped, &leased, ledger, host)?;
    done
}
