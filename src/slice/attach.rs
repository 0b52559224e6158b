//! Attach: give a container its slice, or let it join the slice of the namespace it lives in.

mod decided;
mod looking;
mod namesake;
mod reserved;

use std::thread;
use std::time::{Duration, Instant};

use looking::Looking;
use namesake::Namesake;

use super::container::without_namespace;
use super::ready::{Preparer, locked_as_given, ready};
use super::refused::{InTheWay, refused};
use super::state::{State, state};
use super::turn::Turn;
use super::wanted::{self, Wanted};
use super::{Container, end, join, open, reclaim, run};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::facts::{self, Facts};
use crate::host::process::{Worker, in_the_hosts_user_namespace};
use crate::host::sysctl::Proc;
use crate::lease::lock::{self, Lock};
use crate::lease::{Asked, Desk, Lease, Ledger, Member, Stage, Terms};
use crate::net::netns::NetnsId;
use crate::net::{Netlink, Netns};
use crate::plan::grant;
use crate::plan::slice::{Surroundings, settings, slice};
use crate::plan::{Action, Verb, limits};
use crate::ports::PortSet;
use crate::request::Request;
use crate::wire::{Host, Site, Survey, intend_cpu, queue};

/// Leases and wires. Attaching what is attached already is a check that changes nothing. On failure the host is as it
/// was before. Returns the lease of the slice in which the container is a member; `None` for a container of a pod that asks
/// for nothing and whose pod has no slice.
pub fn attach(
    config: &Config,
    request: &Request,
    container: Container<'_>,
    prepare: Preparer<'_>,
) -> Result<Option<Lease>> {
    Attach::begin(config, request, container)?.carry_out(prepare)
}

/// The actions that [`attach()`] would carry out now, for the lease that it would grant.
pub fn plan(config: &Config, request: &Request, container: Container<'_>) -> Result<Vec<Action>> {
    Attach::begin(config, request, container)?.plan()
}

/// Everything that a decision needs and that is found out before the ledger is locked.
struct Attach<'a> {
    wanted: Wanted<'a>,
    ledger: Ledger,
    proc: Proc,
    /// Its namespace; `None` where that is still expected.
    netns: Option<Netns>,
    netlink: Netlink,
    facts: Facts,
    /// The bandwidth, for a slice of its own.
    terms: Terms,
    /// The slice that it joins is limited on the host.
    shaped: bool,
    /// Who works on it: this process, or whoever creates a container that is expected.
    worker: Worker,
    /// The look for sockets of the host.
    looking: Looking,
}

/// What stands in a namespace, and which slots had it when that was looked at ([`Desk::traces`]).
struct Surveyed {
    survey: Survey,
    traces: Vec<(u16, bool)>,
}

/// What a look under the lock came to.
enum Entered {
    /// It is attached as it is asked for.
    Already(Box<Lease>),
    /// It asks for nothing, and its namespace has no slice.
    Nothing,
    /// A slice of its own was granted.
    New(Box<Lease>),
    /// A slice was granted to a container that is expected.
    Reserved(Box<Lease>),
    /// It has its place in the slice of its namespace; what is left to do.
    Joined(Box<Turn>),
    /// Ports are given back first that it had before, in a namespace that others live on in.
    GivesBack(Box<Turn>),
    /// The slice is to be limited on the host, which is not made ready for that.
    Unshaped,
    /// A lease that has to be ended first: its container is gone.
    InTheWay(Box<Lease>),
    /// A change that was killed has to be taken back first.
    Torn(Box<Lease>),
    /// Somebody works on it.
    Worked(Box<Lease>),
    /// The host was set up anew meanwhile.
    Overtaken,
    /// Another slice was in the namespace when that was looked at.
    Altered,
    /// Sockets of the host have to be looked for: what was reserved for it is so no longer, or one was quicker.
    Unlooked,
    /// The pool is full, or a port is taken.
    Refused(grant::Refusal),
}

impl<'a> Attach<'a> {
    fn begin(config: &'a Config, request: &'a Request, container: Container<'_>) -> Result<Self> {
        in_the_hosts_user_namespace()?;
        let (netns, pid) = container.open()?;
        let worker = match container {
            Container::Expected(worker) => worker,
            _ => Worker::current(),
        };
        if netns.as_ref().is_some_and(|netns| Netns::here().is_ok_and(|here| here == netns.id)) {
            return Err(without_namespace(&request.id));
        }
        open::possible(config, &request.id, request.open_ports.as_ref())?;
        let ledger = Ledger::at(&config.state_dir);
        let mut known = None;
        if request.port_range.is_some() && netns.is_some() {
            known = ledger.of_member(&request.id)?;
            request.fits(known.as_ref().map(|lease| lease.block))?;
        }
        let looking = Looking::unless_reserved(config, known.as_ref());
        let mut netlink = Netlink::route()?;
        let proc = Proc::private();
        let facts = Facts::read(&mut netlink, &proc, config)?;
        grant::check_host(config, &facts)?;
        let mut member = wanted::member(request, pid);
        if netns.is_some() {
            intend_cpu(config, &mut member)?;
        }
        let asked = Asked { egress: request.egress, ingress: request.ingress, limit_local: request.limit_local };
        let known = limits::Known { tamper_proof: request.cannot_tamper, cpus: member.cpus() };
        let terms = limits::terms(config, &asked, known, &facts::machine(config, &facts.uplink.name))?;
        Ok(Attach {
            wanted: Wanted { config, request, member, holders: Vec::new(), used: PortSet::empty() },
            ledger,
            proc,
            netns,
            netlink,
            facts,
            terms,
            shaped: false,
            worker,
            looking,
        })
    }

    fn carry_out(mut self, prepare: Preparer<'_>) -> Result<Option<Lease>> {
        let start = Instant::now();
        let mut swept = false;
        loop {
            let host = self.prepared(prepare)?;
            let surveyed = self.survey(&host)?;
            self.found()?;
            let waited = start.elapsed() > lock::PATIENCE;
            match self.enter(&host, surveyed.as_ref())? {
                Entered::Already(lease) | Entered::Reserved(lease) => return Ok(Some(*lease)),
                Entered::Nothing => return Ok(None),
                Entered::New(lease) => {
                    return self.wire(*lease, &host, surveyed.map(|surveyed| surveyed.survey)).map(Some);
                }
                Entered::Joined(turn) if self.is_outrun(turn.ports(), &host).unwrap_or(true) => {
                    self.begin_anew(*turn, &host)?;
                }
                Entered::Joined(turn) => {
                    let lease = turn.carry_out(&self.ledger, &host, &self.proc)?;
                    log::info!("{}: joined the slice of {}", self.wanted.request.id, lease.id);
                    return Ok(Some(lease));
                }
                Entered::GivesBack(turn) => drop(turn.carry_out(&self.ledger, &host, &self.proc)?),
                Entered::Unshaped => self.shaped = true,
                Entered::Unlooked => self.look(),
                Entered::InTheWay(lease) => {
                    if !end::end(&self.ledger, &host, &lease)? {
                        thread::sleep(Duration::from_millis(2));
                    }
                }
                Entered::Torn(lease) => super::turn::settle(&self.ledger, &host, &lease)?,
                Entered::Worked(lease) if waited => return Err(wanted::worked(&self.wanted.request.id, &lease)),
                Entered::Worked(_) => thread::sleep(Duration::from_millis(2)),
                Entered::Overtaken if waited => {
                    return Err(Error::Busy("the host is being set up and undone at the same time: try again".into()));
                }
                Entered::Overtaken | Entered::Altered => {}
                // what is in the way may belong to a container whose end nobody told us of
                Entered::Refused(refusal) => {
                    let full = matches!(refusal, grant::Refusal::Full(_) | grant::Refusal::Leased(_));
                    if swept || !full || reclaim::sweep(&self.ledger, &host)?.ended == 0 {
                        return Err(refused(refusal, &self.in_the_way(&host)));
                    }
                    swept = true;
                }
            }
        }
    }

    fn plan(mut self) -> Result<Vec<Action>> {
        self.found()?;
        let Some(host) = super::ready::peek(self.wanted.config)? else {
            return Err(Error::unsupported(
                "the host is not prepared",
                "run `portslice setup --dry-run`, then this again",
            ));
        };
        let desk = Desk::of(&host.maps);
        let bearers = desk.bearers(&self.ledger, &self.wanted.request.id)?;
        if let Some(lease) = bearers.member {
            self.same(&lease)?;
            return Ok(Vec::new());
        }
        for slot in self.slots_here(&desk) {
            if let Some(lease) = desk.record(slot)?.filter(|lease| lease.netns_id == self.netns_id()) {
                let goal = join::goal(&self.wanted, &lease, &host).map_err(|e| refused(e, &self.in_the_way(&host)))?;
                let turn = Turn::plan(lease, goal);
                return Ok(turn.actions(&host));
            }
        }
        let (mut actions, mut back, mut id) = (Vec::new(), PortSet::empty(), self.wanted.request.id.clone());
        match self.namesake(bearers.slice, &desk, &host)? {
            Namesake::Free(free) => id = free,
            Namesake::Known(_) => {}
            Namesake::Holds(other, goal) => {
                back = other.ports.difference(&goal.leased);
                actions = Turn::plan(*other, *goal).actions(&host);
            }
        }
        let lease = self.decide(&host, id, &back).map_err(|e| refused(e, &self.in_the_way(&host)))?;
        actions.extend(self.actions(&lease, &host));
        Ok(actions)
    }

    /// The host, prepared for what it asks for.
    fn prepared(&mut self, prepare: Preparer<'_>) -> Result<Host> {
        let shaper = self.shaped || (limits::need_shaper(&self.terms) && !self.joins()?);
        let host = ready(self.wanted.config, &mut self.netlink, &mut self.facts, shaper, prepare)?;
        if self.terms.egress.is_some() || self.terms.ingress.is_some() {
            queue::leaf(&host, &self.wanted.request.id)?;
        }
        Ok(host)
    }

    /// What stands in its namespace.
    fn survey(&self, host: &Host) -> Result<Option<Surveyed>> {
        let Some(netns) = &self.netns else { return Ok(None) };
        let traces = self.traces(&Desk::of(&host.maps));
        let survey = Survey::of(netns, &self.proc, &host.given.copied, &self.wanted.request.own_settings)?;
        Ok(Some(Surveyed { survey, traces }))
    }

    /// Its namespace; nobody's while it is expected.
    fn netns_id(&self) -> NetnsId {
        self.netns.as_ref().map(|netns| netns.id).unwrap_or_default()
    }

    /// Which slots have, or had, its namespace ([`Desk::traces`]).
    fn traces(&self, desk: &Desk<'_>) -> Vec<(u16, bool)> {
        self.netns.as_ref().map_or_else(Vec::new, |netns| desk.traces(netns.id.ino))
    }

    /// Leased slots whose namespace may be this one.
    fn slots_here(&self, desk: &Desk<'_>) -> Vec<u16> {
        self.netns.as_ref().map_or_else(Vec::new, |netns| desk.in_namespace(netns.id.ino))
    }

    /// Has its namespace a slice, as far as can be told without the lock? What it asks for is looked at then, and nothing is
    /// made for it before.
    fn joins(&self) -> Result<bool> {
        let host = super::ready::peek(self.wanted.config)?;
        Ok(host.is_some_and(|host| !self.slots_here(&Desk::of(&host.maps)).is_empty()))
    }

    /// The decision, under the lock.
    fn enter(&self, host: &Host, surveyed: Option<&Surveyed>) -> Result<Entered> {
        let Some(lock) = locked_as_given(&self.ledger, host)? else { return Ok(Entered::Overtaken) };
        let desk = Desk::of(&host.maps);
        let bearers = desk.bearers(&self.ledger, &self.wanted.request.id)?;
        if self.is_unlooked(bearers.member.as_ref()) {
            return Ok(Entered::Unlooked);
        }
        if let Some(known) = bearers.member {
            return self.meet(known, &lock, host, surveyed);
        }
        let traces = self.traces(&desk);
        for slot in traces.iter().filter(|(_, leased)| *leased).map(|(slot, _)| *slot) {
            let Some(lease) = desk.record(slot)?.filter(|lease| lease.netns_id == self.netns_id()) else { continue };
            // A member that nothing but its slice's lease tells of: its link is lost.
            if lease.member(&self.wanted.request.id).is_some() {
                return self.meet(lease, &lock, host, surveyed);
            }
            return match state(&lease, &self.ledger, host)? {
                // A writer that was killed may have left the kernel a copy of what never came about.
                State::Live => self.join(desk.lease(&self.ledger, &lease.id)?.unwrap_or(lease), &lock, host),
                State::Torn => Ok(Entered::Torn(Box::new(lease))),
                State::Worked => Ok(Entered::Worked(Box::new(lease))),
                State::Dead => Ok(Entered::InTheWay(Box::new(lease))),
            };
        }
        let connected = surveyed.is_some_and(|surveyed| !surveyed.survey.is_bare());
        if self.wanted.request.only_joins || (self.wanted.request.only_bare && connected) {
            return Ok(Entered::Nothing);
        }
        let id = match self.namesake(bearers.slice, &desk, host)? {
            Namesake::Free(id) => id,
            Namesake::Known(other) => return self.meet(*other, &lock, host, surveyed),
            Namesake::Holds(other, goal) => {
                let turn = Turn::begin(*other, *goal, &self.ledger, host, &lock)?;
                return Ok(Entered::GivesBack(Box::new(turn)));
            }
        };
        // The slice that it was to join ended meanwhile.
        if limits::need_shaper(&self.terms) && host.shaper.is_none() {
            return Ok(Entered::Unshaped);
        }
        if is_altered(&traces, surveyed) {
            return Ok(Entered::Altered);
        }
        match self.decide(host, id, &PortSet::empty()) {
            Ok(lease) => self.take(lease, host, surveyed),
            Err(refusal) => Ok(Entered::Refused(refusal)),
        }
    }

    /// Notes in a lease what stands in its namespace, and refuses one that is not as its bundle says.
    fn survey_into(&self, lease: &mut Lease, host: &Host, surveyed: Option<&Surveyed>) -> Result<()> {
        let Some(Surveyed { survey, .. }) = surveyed else { return Ok(()) };
        self.wanted.request.fits(Some(lease.block))?;
        let wanted = settings(lease.block, &host.given.copied, &self.wanted.request.own_settings);
        survey.alone(&lease.device)?;
        survey.connects(lease.block, self.wanted.request.reserved_ports.as_ref())?;
        lease.found = survey.found(&wanted);
        lease.given = host.given.generation;
        Ok(())
    }

    /// Writes down a lease whose ports are its own already.
    fn record(&self, lease: Lease, host: &Host) -> Result<Entered> {
        run::fault();
        if let Err(e) = self.ledger.write(&lease, &host.maps.book) {
            let _ = self.ledger.erase(&lease, &host.maps.book);
            Desk::of(&host.maps).cancel(&lease);
            return Err(e);
        }
        let lease = Box::new(lease);
        Ok(if lease.stage == Stage::Reserved { Entered::Reserved(lease) } else { Entered::New(lease) })
    }

    fn join(&self, lease: Lease, lock: &Lock, host: &Host) -> Result<Entered> {
        wanted::permitted(self.wanted.config, self.wanted.request)?;
        match join::goal(&self.wanted, &lease, host) {
            Ok(goal) if limits::need_shaper(&goal.terms) && host.shaper.is_none() => Ok(Entered::Unshaped),
            Ok(goal) => Ok(Entered::Joined(Box::new(Turn::begin(lease, goal, &self.ledger, host, lock)?))),
            Err(grant::Refusal::Error(e)) => Err(e),
            Err(refusal) => Ok(Entered::Refused(refusal)),
        }
    }

    /// A lease of this id exists. The live one for this namespace is the answer; a dead one is taken back; any other is
    /// somebody else's.
    fn meet(&self, known: Lease, lock: &Lock, host: &Host, surveyed: Option<&Surveyed>) -> Result<Entered> {
        if known.stage == Stage::Reserved {
            return self.take_up(known, host, surveyed);
        }
        match state(&known, &self.ledger, host)? {
            State::Dead => Ok(Entered::InTheWay(Box::new(known))),
            State::Torn => Ok(Entered::Torn(Box::new(known))),
            State::Worked => Ok(Entered::Worked(Box::new(known))),
            State::Live if known.netns_id != self.netns_id() => Err(Error::Busy(format!(
                "container {} is attached already, to the network namespace {}: choose another id, or detach it",
                self.wanted.request.id,
                known.netns.display()
            ))),
            State::Live if self.wanted.brings_its_process(&known) => self.join(known, lock, host),
            State::Live => self.same(&known).map(|()| Entered::Already(Box::new(known))),
        }
    }

    fn same(&self, known: &Lease) -> Result<()> {
        let Some(member) = known.member(&self.wanted.request.id) else { return Ok(()) };
        if !self.wanted.differs(known, member, &self.terms.asked) {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "container {} is attached already, with other settings (block {}, ports {}): change it with `portslice set`, \
             or detach it first",
            self.wanted.request.id,
            known.block,
            if member.ports.is_empty() { "none".into() } else { member.port_names.beside(&member.ports) }
        )))
    }

    fn in_the_way<'s>(&'s self, host: &'s Host) -> InTheWay<'s> {
        InTheWay { config: self.wanted.config, desk: Desk::of(&host.maps), used: &self.wanted.used }
    }

    fn actions(&self, lease: &Lease, host: &Host) -> Vec<Action> {
        let around = Surroundings {
            given: &host.given,
            instance: host.instance,
            leaf: host.leaf.unwrap_or_default(),
            own: &self.wanted.request.own_settings,
            sockets: host.maps.namespaces.is_some(),
        };
        Action::each(Verb::Perform, slice(lease, &around))
    }

    /// Makes a granted lease work, or gives it back.
    fn wire(mut self, lease: Lease, host: &Host, survey: Option<Survey>) -> Result<Lease> {
        let actions = self.actions(&lease, host);
        let mut site = Site::of(&lease, host, &self.proc, &mut self.netlink).making();
        (site.fresh, site.container) = (true, self.netns);
        site.inner = survey.map(|survey| survey.netlink);
        let mut done = run::forward(&mut site, &actions);
        let mut attached = Lease { stage: Stage::Attached, found: site.found.clone(), ..lease.clone() };
        attached.members.iter_mut().for_each(Member::trim);
        if done.is_ok() {
            run::fault();
            // Under the lock: a rebuild that read the lease before would write that back, and a live container would be
            // taken for one whose attach was killed.
            done = self.ledger.lock().and_then(|_lock| self.ledger.write(&attached, &host.maps.book));
            if done.is_err() {
                let back = Action::undo(actions.into_iter().map(|action| action.step).collect());
                if let Err(e) = run::through(&mut site, &back) {
                    log::error!("{e}, while undoing a failed attach");
                }
            }
        }
        if let Err(e) = done {
            if let Err(again) = give_back(&lease, &self.ledger, host) {
                log::error!("{again}, while giving back the lease of {}", lease.id);
            }
            return Err(e);
        }
        log::info!(
            "{}: attached, slot {}, block {}, ports {}",
            attached.id,
            attached.slot,
            attached.block,
            if attached.ports.is_empty() { "-".into() } else { attached.ports.to_string() }
        );
        Ok(attached)
    }
}

fn give_back(lease: &Lease, ledger: &Ledger, host: &Host) -> Result<()> {
    let _lock = ledger.lock()?;
    ledger.erase(lease, &host.maps.book)?;
    Desk::of(&host.maps).cancel(lease);
    Ok(())
}

/// Came or left a slice since its namespace was looked at? `traces`: those of now.
fn is_altered(traces: &[(u16, bool)], surveyed: Option<&Surveyed>) -> bool {
    surveyed.is_some_and(|surveyed| surveyed.traces != traces)
}
