//! What a container wants, with what was found out about it before the ledger is locked; and the view that a decision about
//! it takes of the host's ports.

use crate::config::Config;
use crate::error::Error;
use crate::host::process::Worker;
use crate::lease::ledger::unix_now;
use crate::lease::{CpuAsked, CpuTerms, Desk, Lease, Member};
use crate::net::diag::Holder;
use crate::plan::grant::Situation;
use crate::ports::{PortRange, PortSet};
use crate::request::{ContainerId, Request};
use crate::wire::find_cgroups;

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
        pid,
        process: pid.and_then(Worker::of),
        bundle: request.bundle.clone(),
        ports: PortSet::empty(),
        asked: CpuAsked { cpus: request.cpus, cpus_limit: request.cpus_limit, cpus_revocable: request.cpus_revocable },
        bundle_cpus: request.bundle_cpus,
        cpu: CpuTerms::default(),
        cgroups: pid.filter(|_| !request.sandbox).and_then(find_cgroups),
        sandbox: request.sandbox,
        labels: request.labels.clone(),
        created: unix_now(),
    }
}
