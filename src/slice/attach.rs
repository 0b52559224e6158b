//! Attach: lease a slice and make it work.

use std::io;
use std::path::Path;
use std::thread;

use super::prepare::{self, Host, Wanted};
use super::processor;
use super::reclaim::{self, State};
use super::refused::refused;
use super::wire::{Wiring, device_of};
use super::{change, limit};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::facts::{self, Facts};
use crate::host::process::Worker;
use crate::host::sysctl::Proc;
use crate::lease::index::Index;
use crate::lease::ledger::{Locked, unix_now};
use crate::lease::record::Labels;
use crate::lease::{Asked, CpuTerms, Dropped, Lease, Ledger, Stage, Terms};
use crate::net::diag::{self, Holder};
use crate::net::{Netlink, Netns};
use crate::plan::{self, grant, limits};
use crate::ports::{PortRange, PortSet};
use crate::request::Request;

/// Where the container's namespace is.
#[derive(Clone, Copy, Debug)]
pub enum Container<'a> {
    /// The namespace of a process.
    Pid(u32),
    /// A path to the namespace.
    Path(&'a Path),
}

impl Container<'_> {
    fn open(self) -> Result<(Netns, Option<u32>)> {
        match self {
            Container::Pid(pid) => Ok((Netns::of_pid(pid)?, Some(pid))),
            Container::Path(path) => Ok((Netns::open(path)?, None)),
        }
    }
}

/// Leases and wires. Attaching what is attached already is a check that changes nothing. On failure the host is as it
/// was before.
pub fn attach(config: &Config, request: &Request, container: Container<'_>) -> Result<Lease> {
    let (netns, pid) = container.open()?;
    let here = Netns::current()?.id;
    if netns.id == here {
        return Err(Error::unsupported(
            format!("container {} has no network namespace of its own", request.id),
            "give it one (linux.namespaces in the bundle; docker and podman: --network none), or leave portslice out",
        ));
    }
    let mut netlink = Netlink::route()?;
    let proc = Proc::private();
    // looking through all sockets of the host takes half a millisecond, which the other processor has
    let looking = thread::spawn({
        let span = span(config);
        move || span.map_or(Ok(Vec::new()), |range| diag::holders(&mut Netlink::diag()?, range))
    });
    let facts = Facts::read(&mut netlink, &proc, config.uplink.as_deref())?;
    grant::check_host(config, &facts)?;
    let ledger = Ledger::at(&config.state_dir);
    let asked = Asked {
        cpus: request.cpus,
        cpus_limit: request.cpus_limit,
        cpus_revocable: request.cpus_revocable,
        egress: request.egress,
        ingress: request.ingress,
        limit_local: request.limit_local,
    };
    let known = limits::Known { tamper_proof: request.cannot_tamper, bundle_cpus: request.bundle_cpus };
    let machine = facts::machine(config, &facts.uplink.name);
    let limits = limits::terms(config, PortSet::empty(), &asked, known, &machine)?;
    let wanted = Wanted { shaper: limits::need_shaper(&limits), anew: false };
    let mut host = prepare::ready(config, &mut netlink, &facts, here, wanted)?;
    if limits.egress.is_some() || limits.ingress.is_some() {
        limit::leaf(&host, &request.id)?;
    }
    let holders = looking.join().unwrap_or_else(|_| Err(Error::Failed("looking for sockets failed".into())))?;
    // `setup --undo` may come between making ready and leasing; then the host is made ready once more
    for _ in 0..3 {
        let entry = Entry {
            config,
            request,
            netns: &netns,
            pid,
            facts: &facts,
            limits: &limits,
            holders: &holders,
            ledger: &ledger,
            host: &host,
        };
        match entry.enter(&mut netlink)? {
            Entered::Already(lease) => return Ok(*lease),
            Entered::New(lease) => return finish(*lease, &entry, &proc, &mut netlink),
            Entered::Overtaken => host = prepare::ready(config, &mut netlink, &facts, here, wanted)?,
        }
    }
    Err(Error::Busy("the host is being set up and undone at the same time: try again when that is over".into()))
}

/// Makes a granted lease work, or gives it back.
fn finish(lease: Lease, entry: &Entry<'_>, proc: &Proc, netlink: &mut Netlink) -> Result<Lease> {
    let mut attached = Lease { stage: Stage::Attached, ..lease };
    if let Err(e) = wire(&mut attached, entry, proc, netlink) {
        if let Err(again) = entry.ledger.lock().and_then(|mut locked| locked.cancel(&attached.id)) {
            log::error!("{again}, while giving back the lease of {}", attached.id);
        }
        return Err(e);
    }
    log::info!(
        "{}: attached, slot {}, block {}, ports {}",
        attached.id,
        attached.slot,
        attached.block,
        if attached.terms.ports.is_empty() { "-".into() } else { attached.terms.ports.to_string() }
    );
    Ok(attached)
}

/// Makes the lease work and records that it does; undoes everything when it cannot.
fn wire(lease: &mut Lease, entry: &Entry<'_>, proc: &Proc, netlink: &mut Netlink) -> Result<()> {
    let leaf = entry.host.leaf.unwrap_or_default();
    let steps =
        plan::attach(lease, entry.facts, entry.host.instance, leaf, &entry.host.copied, &entry.request.own_settings);
    let container = entry.netns;
    let device = lease.device.clone();
    let mut wiring = Wiring { netlink, host: entry.host, container, inner_name: &device, proc, outer: None };
    wiring.carry_out(&steps)?;
    let done = processor::apply(lease).and_then(|()| entry.ledger.write(lease));
    done.inspect_err(|_| {
        if let Err(again) = processor::restore(lease, true) {
            log::error!("{again}, while undoing a failed attach");
        }
        wiring.undo_all(&steps);
    })
}

enum Entered {
    Already(Box<Lease>),
    New(Box<Lease>),
    Overtaken,
}

/// Everything a decision needs; the lock is taken last and held only for the decision.
struct Entry<'a> {
    config: &'a Config,
    request: &'a Request,
    netns: &'a Netns,
    pid: Option<u32>,
    facts: &'a Facts,
    /// Terms without ports.
    limits: &'a Terms,
    holders: &'a [Holder],
    ledger: &'a Ledger,
    host: &'a Host,
}

impl Entry<'_> {
    fn enter(&self, netlink: &mut Netlink) -> Result<Entered> {
        let used = diag::ports_of(self.holders);
        let mut locked = match self.ledger.lock() {
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Entered::Overtaken);
            }
            locked => locked?,
        };
        if !self.host.is_current(self.config)? {
            return Ok(Entered::Overtaken);
        }
        if let Some(known) = self.ledger.read(&self.request.id)?
            && let Some(lease) = self.meet(known, &mut locked, netlink)?
        {
            return Ok(Entered::Already(Box::new(lease)));
        }
        let decide = |index: &Index| {
            let situation =
                grant::Situation { config: self.config, index, holders: self.holders, used: &used, now: unix_now() };
            grant::grant(self.request, &situation)
        };
        let mut granted = decide(&locked.index);
        // what is in the way may belong to a container whose end nobody told us of
        if matches!(granted, Err(grant::Refusal::Error(Error::Exhausted(_) | Error::PortInUse(_))))
            && reclaim::sweep(self.config, &mut locked, self.ledger, self.host, netlink)? > 0
        {
            granted = decide(&locked.index);
        }
        let grant::Grant { slot, epoch, block, ports } = granted.map_err(refused)?;
        let mut lease = Lease {
            id: self.request.id.clone(),
            slot,
            block,
            terms: Terms { ports, ..self.limits.clone() },
            before: None,
            dropped: Dropped::default(),
            bundle_cpus: self.request.bundle_cpus,
            cpu: CpuTerms::default(),
            cgroups: self.pid.filter(|_| !self.request.sandbox).and_then(processor::find),
            pid: self.pid,
            netns: self.netns.path.clone(),
            stage: Stage::Attaching,
            created: unix_now(),
            netns_id: self.netns.id,
            epoch,
            device: self.facts.uplink.name.clone(),
            host_loopback: self.request.host_loopback.unwrap_or(self.config.host_loopback),
            labels: self.request.labels.clone(),
            worker: Worker::current(),
        };
        processor::intend(self.config, &mut lease)?;
        locked.grant(&lease)?;
        Ok(Entered::New(Box::new(lease)))
    }

    /// A lease of this id exists. The live one for this namespace is the answer; a dead one is taken back; any other
    /// is somebody else's.
    fn meet(&self, known: Lease, locked: &mut Locked<'_>, netlink: &mut Netlink) -> Result<Option<Lease>> {
        let known = match (&known.before, device_of(netlink, known.slot)?) {
            (Some(_), Some(outer)) => change::settle(self.config, self.host, &known, outer, locked)?,
            _ => known,
        };
        match reclaim::state(&known, self.ledger, self.host, netlink)? {
            State::Dead => {
                reclaim::take_back(locked, &known, self.host, netlink)?;
                Ok(None)
            }
            State::Worked => Err(Error::Busy(format!(
                "container {} is being attached or detached by process {}: try again",
                known.id, known.worker.pid
            ))),
            State::Live if known.netns_id != self.netns.id => Err(Error::Busy(format!(
                "container {} is attached already, to the network namespace {}: choose another id, or detach it",
                known.id,
                known.netns.display()
            ))),
            State::Live if self.differs(&known) => Err(Error::Busy(format!(
                "container {} is attached already, with other settings (block {}, ports {}): change it with `portslice set`, or detach it \
                 first",
                known.id,
                known.block,
                if known.terms.ports.is_empty() { "none".into() } else { known.terms.ports.to_string() }
            ))),
            State::Live => Ok(Some(known)),
        }
    }

    fn differs(&self, known: &Lease) -> bool {
        let asked = &self.request.ports;
        let have = &known.terms.ports;
        let ports = !asked.set.is_subset(have) || have.len() != asked.set.len() + u32::from(asked.auto);
        let labels = &self.request.labels;
        ports
            || self.request.ephemeral_ports.is_some_and(|size| size != known.block.size())
            || self.request.host_loopback.is_some_and(|wanted| wanted != known.host_loopback)
            || self.limits.asked != known.terms.asked
            || (*labels != Labels::default() && *labels != known.labels)
    }
}

/// The ports in which a socket of the host would be in the way.
fn span(config: &Config) -> Option<PortRange> {
    let ports = config.ephemeral_ports.ports().union(&config.ports);
    let (first, last) = (ports.ranges().first()?, ports.ranges().last()?);
    PortRange::new(first.begin(), last.end())
}
