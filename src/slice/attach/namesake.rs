//! A slice that bears a container's id without having it as a member: the container made it and ended, others live on in its
//! namespace, and now it is started anew in another one. That is no reason to refuse it, as it would not be on the host.

use super::Attach;
use crate::error::Result;
use crate::lease::{Desk, Lease, State as Goal};
use crate::ports::PortSet;
use crate::request::ContainerId;
use crate::slice::state::{State, state};
use crate::wire::Host;

/// What there is under a container's id.
pub(super) enum Namesake {
    /// Nothing that is in its way: the id for its slice.
    Free(ContainerId),
    /// A lease that has to be looked at closer.
    Known(Box<Lease>),
    /// A slice that holds ports which this container asks for, and which no member of it does; what it is without them.
    Holds(Box<Lease>, Box<Goal>),
}

impl Attach<'_> {
    /// `slice`: what [`Desk::bearers`] found under its id.
    pub(super) fn namesake(&self, slice: Option<Lease>, desk: &Desk<'_>, host: &Host) -> Result<Namesake> {
        let id = &self.wanted.request.id;
        let Some(other) = slice else { return Ok(Namesake::Free(id.clone())) };
        if !matches!(state(&other, &self.ledger, host)?, State::Live) {
            return Ok(Namesake::Known(Box::new(other)));
        }
        let members = other.members.iter().fold(PortSet::empty(), |ports, member| ports.union(&member.ports));
        let left = other.ports.difference(&members).intersection(&self.wanted.request.ports.set);
        if !left.is_empty() {
            let goal = Goal { leased: other.ports.difference(&left), ..other.state() };
            return Ok(Namesake::Holds(Box::new(other), Box::new(goal)));
        }
        let numbered = (2..=u16::MAX).filter_map(|n| format!("{id}.{n}").parse::<ContainerId>().ok());
        for free in numbered {
            if desk.lease(&self.ledger, &free)?.is_none() {
                return Ok(Namesake::Free(free));
            }
        }
        // An id that leaves no room for a number.
        Ok(Namesake::Known(Box::new(other)))
    }
}
