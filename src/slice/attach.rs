//! Attach: lease a slice and make it work.

use std::path::Path;

use super::prepare::{self, Host};
use super::reclaim::{self, State};
use super::wire::Wiring;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::Worker;
use crate::host::{Facts, sysctl};
use crate::lease::ledger::{Index, Locked, unix_now};
use crate::lease::{Lease, Ledger, Stage};
use crate::net::{Netlink, Netns, diag};
use crate::plan::{self, grant};
use crate::ports::PortRange;
use crate::rate::{Limit, Rate};
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
    let facts = Facts::read(&mut netlink, config.uplink.as_deref())?;
    grant::check_host(config, &facts)?;
    let host = prepare::ready(config, &mut netlink, &facts, here)?;
    let ledger = Ledger::at(&config.state_dir);

    let entry = Entry { config, request, netns: &netns, pid, facts: &facts, ledger: &ledger, host: &host };
    let lease = match entry.enter(&mut netlink)? {
        Entered::Already(lease) => return Ok(*lease),
        Entered::New(lease) => *lease,
    };
    let steps = plan::attach(&lease, &facts, sysctl::copied()?);
    let mut wiring = Wiring { netlink: &mut netlink, host: &host, container: &netns, outer: None };
    let attached = Lease { stage: Stage::Attached, ..lease };
    let wired = wiring.carry_out(&steps).and_then(|()| ledger.write(&attached));
    if let Err(e) = wired {
        if let Err(again) = ledger.lock().and_then(|mut locked| locked.release(&attached.id)) {
            log::error!("{again}, while giving back the lease of {}", attached.id);
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

enum Entered {
    Already(Box<Lease>),
    New(Box<Lease>),
}

/// Everything a decision needs; the lock is taken last and held only for the decision.
struct Entry<'a> {
    config: &'a Config,
    request: &'a Request,
    netns: &'a Netns,
    pid: Option<u32>,
    facts: &'a Facts,
    ledger: &'a Ledger,
    host: &'a Host,
}

impl Entry<'_> {
    fn enter(&self, netlink: &mut Netlink) -> Result<Entered> {
        let holders = match self.span() {
            Some(range) => diag::holders(&mut Netlink::diag()?, range)?,
            None => Vec::new(),
        };
        let used = diag::ports_of(&holders);
        let mut locked = self.ledger.lock()?;
        if let Some(known) = self.ledger.read(&self.request.id)?
            && let Some(lease) = self.meet(known, &mut locked, netlink)?
        {
            return Ok(Entered::Already(Box::new(lease)));
        }
        let decide = |index: &Index| {
            let situation =
                grant::Situation { config: self.config, index, holders: &holders, used: &used, now: unix_now() };
            grant::grant(self.request, &situation)
        };
        let mut granted = decide(&locked.index);
        // what is in the way may belong to a container whose end nobody told us of
        if matches!(granted, Err(grant::Refusal::Error(Error::Exhausted(_) | Error::PortInUse(_))))
            && reclaim::sweep(&mut locked, self.ledger, self.host, netlink)? > 0
        {
            granted = decide(&locked.index);
        }
        let grant::Grant { slot, epoch, block, ports } = granted.map_err(refuse)?;
        let lease = Lease {
            id: self.request.id.clone(),
            slot,
            block,
            ports,
            pid: self.pid,
            netns: self.netns.path.clone(),
            stage: Stage::Attaching,
            created: unix_now(),
            netns_id: self.netns.id,
            epoch,
            device: self.facts.uplink.name.clone(),
            host_loopback: self.request.host_loopback.unwrap_or(self.config.host_loopback),
            egress: limit(self.request.egress, self.config.egress_rate_limit_per_container),
            ingress: limit(self.request.ingress, self.config.ingress_rate_limit_per_container),
            labels: self.request.labels.clone(),
            worker: Worker::current(),
        };
        locked.grant(&lease)?;
        Ok(Entered::New(Box::new(lease)))
    }

    /// A lease of this id exists. The live one for this namespace is the answer; a dead one is taken back; any other
    /// is somebody else's.
    fn meet(&self, known: Lease, locked: &mut Locked<'_>, netlink: &mut Netlink) -> Result<Option<Lease>> {
        match reclaim::state(&known, self.host, netlink)? {
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
                "container {} is attached already, with other settings (block {}, ports {}): detach it first",
                known.id,
                known.block,
                if known.ports.is_empty() { "none".into() } else { known.ports.to_string() }
            ))),
            State::Live => Ok(Some(known)),
        }
    }

    fn differs(&self, known: &Lease) -> bool {
        let asked = &self.request.ports;
        let ports = !asked.set.is_subset(&known.ports) || known.ports.len() != asked.set.len() + u32::from(asked.auto);
        ports || self.request.ephemeral_ports.is_some_and(|size| size != known.block.size())
    }

    /// The ports in which a socket of the host would be in the way.
    fn span(&self) -> Option<PortRange> {
        let ports = self.config.ephemeral_ports.ports().union(&self.config.ports);
        let (first, last) = (ports.ranges().first()?, ports.ranges().last()?);
        PortRange::new(first.begin(), last.end())
    }
}

/// What was asked for, else what is configured.
fn limit(asked: Limit, configured: Rate) -> Limit {
    let rate = asked.rate.or((!configured.is_unlimited()).then_some(configured));
    Limit { rate, ..asked }
}

/// The holder of a port is looked for only now: it takes a walk through every process.
fn refuse(refusal: grant::Refusal) -> Error {
    match refusal {
        grant::Refusal::Error(e) => e,
        grant::Refusal::Socket(holder) => {
            let by = match diag::process_of(holder.inode) {
                Some(process) => format!("process {} ({})", process.pid, process.name),
                None => "a process of the host".into(),
            };
            let protocol = if holder.tcp { "TCP" } else { "UDP" };
            Error::PortInUse(format!(
                "port {} is in use by {by} of the host ({protocol}): ask for another port, or end it",
                holder.port
            ))
        }
    }
}
