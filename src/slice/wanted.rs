//! What a container wants, with what was found out about it before the ledger is locked; and the view that a decision about
//! it takes of the host's ports.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::process::{Worker, ancestors, is_conmon_of};
use crate::lease::ledger::unix_now;
use crate::lease::{Asked, CpuAsked, CpuTerms, Desk, Lease, Member};
use crate::net::diag::{Holder, processes_of, sockets_of};
use crate::plan::grant::Situation;
use crate::ports::{PortRange, PortSet};
use crate::request::{ContainerId, Request};
use crate::wire::{cgroups_at, find_cgroups};

/// What it wants.
pub struct Wanted<'a> {
    /// What the operator set.
    pub config: &'a Config,
    /// What it asks for.
    pub request: &'a Request,
    /// The container as a member.
    pub member: Member,
    /// Sockets of the host in the pool and in `ports`.
    pub holders: Vec<Holder>,
    /// The same as a set.
    pub used: PortSet,
}

impl Wanted<'_> {
    /// Leaves out sockets of whoever has this container made, where those hold the ports for it: of the processes that call us,
    /// and of Podman's monitor of the container, which has them where the network comes after the container, as it does with a
    /// user namespace.
    pub fn leave_out_the_callers(&mut self) {
        let (asked, id) = (&self.request.ports.set, self.request.id.as_str());
        let in_the_way = |holders: &[Holder]| -> Vec<u32> {
            holders.iter().filter(|holder| asked.contains(holder.port)).map(|holder| holder.inode).collect()
        };
        if !self.request.caller_holds_ports || in_the_way(&self.holders).is_empty() {
            return;
        }
        let leave_out = |holders: &mut Vec<Holder>, theirs: Vec<u32>| {
            holders.retain(|holder| !(asked.contains(holder.port) && theirs.contains(&holder.inode)));
        };
        leave_out(&mut self.holders, ancestors().into_iter().flat_map(sockets_of).collect());
        // who has what is left is looked for in all processes
        let left = processes_of(&in_the_way(&self.holders));
        let monitors = left.into_iter().filter(|(_, process)| is_conmon_of(process.pid, id));
        leave_out(&mut self.holders, monitors.map(|(inode, _)| inode).collect());
    }

    /// Does its runtime tell more of a container that its network attached before: which process it is?
    pub fn brings_its_process(&self, known: &Lease) -> bool {
        let networks = |member: &Member| member.attachment.is_some() && member.process.is_none();
        known.member(&self.request.id).is_some_and(networks)
            && self.request.attachment.is_none()
            && self.member.process.is_some()
            && !self.request.sandbox
    }

    /// Does it want other things than it has as `member` of the slice `known`? A runtime knows less of a container than the
    /// network that attached it: what the runtime does not ask for is no difference then. `limits`: the bandwidth it wants.
    pub fn differs(&self, known: &Lease, member: &Member, limits: &Asked) -> bool {
        let (asked, have, labels) = (&self.request.ports, &member.ports, &self.request.labels);
        let wanted = asked.set.len() + u32::from(asked.auto);
        if self.request.ephemeral_ports.is_some_and(|size| size != known.block.size())
            || self.request.open_ports.as_ref().is_some_and(|open| *open.set() != known.open.asked)
            || self.request.host_loopback.is_some_and(|wanted| wanted != known.host_loopback)
            || !asked.set.is_subset(have)
            || !asked.names.is_subset(&member.port_names)
            || (*labels != Default::default() && *labels != member.labels)
        {
            return true;
        }
        if member.attachment.is_some() && self.request.attachment.is_none() {
            let cpus = !self.request.sandbox && self.member.asked != CpuAsked::default();
            return wanted > have.len()
                || (*limits != Asked::default() && *limits != known.terms.asked)
                || (cpus && self.member.asked != member.asked);
        }
        wanted != have.len()
            || asked.names != member.port_names
            || *limits != known.terms.asked
            || self.member.asked != member.asked
            || self.request.attachment != member.attachment
    }

    /// Ports of all leases, as far as they could be granted.
    pub fn leased(&self, desk: &Desk<'_>) -> PortSet {
        span(&assignable(self.config)).map_or_else(PortSet::empty, |span| desk.taken(span))
    }

    /// The same, but for what the slice in `slot` has itself.
    pub fn leased_by_others(&self, desk: &Desk<'_>, slot: u16) -> PortSet {
        let span = span(&assignable(self.config));
        span.map_or_else(PortSet::empty, |span| desk.taken_by_others(span, slot))
    }

    /// What a decision rests on.
    pub fn situation<'s>(&'s self, desk: &Desk<'_>, leased: &'s PortSet, resting: &'s PortSet) -> Situation<'s> {
        Situation {
            config: self.config,
            leased,
            resting,
            block_from: desk.cursor().block,
            auto_from: if self.request.ports.auto == 0 { 0 } else { desk.auto_from(&self.config.ports) },
            holders: &self.holders,
            used: &self.used,
        }
    }
}

/// The refusal of a container that somebody else works on.
pub fn worked(id: &ContainerId, lease: &Lease) -> Error {
    Error::Busy(format!("container {id} is being worked on by {}: try again", lease.worker))
}

/// Refuses a container that would have more power over the host's network than it may.
pub fn permitted(config: &Config, request: &Request) -> Result<()> {
    if !(config.refuse_net_admin && request.net_admin) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "container {} would have CAP_NET_ADMIN over the host's devices as well, which refuse_net_admin forbids: start it without \
         that capability, or in a user namespace",
        request.id
    )))
}

/// The ports in which a socket of the host would be in the way.
pub fn assignable(config: &Config) -> PortSet {
    config.ephemeral_ports.ports().union(&config.ports)
}

/// From the lowest to the highest.
pub fn span(ports: &PortSet) -> Option<PortRange> {
    let (first, last) = (ports.ranges().first()?, ports.ranges().last()?);
    PortRange::new(first.begin(), last.end())
}

/// The container as a member, without CPU limits.
pub fn member(request: &Request, pid: Option<u32>) -> Member {
    Member {
        id: request.id.clone(),
        name: request.name.clone(),
        engine: request.engine.clone(),
        names: request.names.clone(),
        pid,
        process: pid.and_then(Worker::of),
        bundle: request.bundle.clone(),
        attachment: request.attachment.clone(),
        ports: PortSet::empty(),
        port_names: request.ports.names.clone(),
        asked: CpuAsked { cpus: request.cpus, cpus_limit: request.cpus_limit, cpus_revocable: request.cpus_revocable },
        bundle_cpus: request.bundle_cpus,
        cpu: CpuTerms::default(),
        cgroups: match &request.cgroup {
            Some(path) => cgroups_at(path),
            None => pid.filter(|_| !request.sandbox).and_then(find_cgroups),
        },
        sandbox: request.sandbox,
        labels: request.labels.clone(),
        created: unix_now(),
    }
}
