//! Join: a further container in a namespace that has a slice.
//!
//! The slice's block, open ports, rates and reach are fixed by its first member: a later one asks the same of them or nothing. Ports and
//! CPUs are each member's own.

use super::open;
use super::wanted::Wanted;
use crate::error::Error;
use crate::host::facts;
use crate::lease::{Desk, Lease, Member, Placed, State};
use crate::plan::grant::{self, Refusal};
use crate::plan::limits;
use crate::ports::PortSet;
use crate::rate::Limit;
use crate::request::{PortsAsked, Request};
use crate::wire::Host;

/// What the slice is to be with one member more.
pub(super) fn goal(wanted: &Wanted<'_>, lease: &Lease, host: &Host) -> Result<State, Refusal> {
    agree(wanted.request, lease)?;
    let ports = ports(wanted, lease, host)?;
    let leased = lease.ports.union(&ports);
    let mut members = lease.members.clone();
    let new = Member { ports, ..wanted.member.clone() };
    match members.iter_mut().find(|member| member.id == new.id) {
        Some(member) => *member = with_process(member, new),
        None => members.push(new),
    }
    open::nameable(wanted.config, wanted.request, host)?;
    grant::named(&members, lease.block, &leased)?;
    // A queue inside stays only where nobody in the namespace can get at it.
    let inside = lease.terms.egress_placed == Placed::Inside && wanted.request.powerless;
    let known = limits::Known { tamper_proof: inside, cpus: crate::lease::record::cpus_of(&members) };
    let machine = facts::machine(wanted.config, lease.uplink());
    let mut terms = limits::terms(wanted.config, &lease.terms.asked, known, &machine)?;
    terms.second = lease.terms.second;
    Ok(State { terms, members, leased, open: lease.open.clone() })
}

/// A member that its network attached, with what its runtime tells of it. It stays the network's to end.
fn with_process(attached: &Member, told: Member) -> Member {
    Member {
        name: attached.name.clone().or(told.name),
        engine: attached.engine.clone().or(told.engine),
        bundle: attached.bundle.clone(),
        attachment: attached.attachment.clone(),
        ports: attached.ports.union(&told.ports),
        // whoever attached it published the ports; a runtime only adds to that
        port_names: attached.port_names.union(&told.port_names).unwrap_or_else(|_| attached.port_names.clone()),
        labels: if told.labels == Default::default() { attached.labels.clone() } else { told.labels },
        created: attached.created,
        ..told
    }
}

/// What it listens on. Ports that are leased to its slice already, by another member or one that left, are its slice's.
fn ports(wanted: &Wanted<'_>, lease: &Lease, host: &Host) -> Result<PortSet, Refusal> {
    let asked = &wanted.request.ports;
    let desk = Desk::of(&host.maps);
    let leased = wanted.leased_by_others(&desk, lease.slot);
    let resting = PortSet::empty();
    let new = PortsAsked { set: asked.set.difference(&lease.ports), auto: asked.auto, ..PortsAsked::default() };
    let granted = grant::assigned(&new, &wanted.situation(&desk, &leased, &resting))?;
    Ok(granted.union(&asked.set))
}

/// Refuses a member that wants the slice to be another one.
fn agree(request: &Request, lease: &Lease) -> Result<(), Error> {
    let asked = &lease.terms.asked;
    let other = |mine: &Limit, theirs: &Limit| *mine != Limit::default() && mine != theirs;
    let what = [
        ("ephemeral-ports", request.ephemeral_ports.is_some_and(|size| size != lease.block.size())),
        ("open-ports", request.open_ports.as_ref().is_some_and(|open| *open.set() != lease.open.asked)),
        ("host-loopback", request.host_loopback.is_some_and(|wanted| wanted != lease.host_loopback)),
        ("limit-local", request.limit_local.is_some() && request.limit_local != asked.limit_local),
        ("an egress limit", other(&request.egress, &asked.egress)),
        ("an ingress limit", other(&request.ingress, &asked.ingress)),
        ("another device", request.device().is_some_and(|device| device != lease.device)),
    ];
    match what.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(Error::Busy(format!(
            "container {} asks for {what}, but its network namespace has the slice of container {} already, with other terms: \
             ask for the same, or leave it out",
            request.id, lease.id
        ))),
        None => Ok(()),
    }
}
