//! What became of a slice, asked of the kernel.

use std::path::Path;

use super::ready::peek;
use crate::config::Config;
use crate::error::Result;
use crate::lease::{Desk, Lease, Ledger, Member, Stage};
use crate::net::netns::NetnsId;
use crate::wire::Host;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its device is there.
    Live,
    /// Its device is there, and a change of it was killed on the way.
    Torn,
    /// A process works on it.
    Worked,
    /// The device, and with it the namespace, is gone; or whoever attached or detached it was killed.
    Dead,
}

/// What became of `lease`.
pub fn state(lease: &Lease, ledger: &Ledger, host: &Host) -> Result<State> {
    if lease.stage == Stage::Attached {
        return Ok(if host.is_wired(lease)? { State::Live } else { State::Dead });
    }
    if lease.worker.is_alive() {
        return Ok(State::Worked);
    }
    // The worker may have finished between the reading of the lease and the look at the worker.
    match Desk::of(&host.maps).lease(ledger, &lease.id)? {
        Some(now) if now.stage == Stage::Attached && now.epoch == lease.epoch => state(&now, ledger, host),
        Some(now) if now.stage == Stage::Changing && now.epoch == lease.epoch && host.is_wired(&now)? => {
            Ok(State::Torn)
        }
        // What was reserved was taken up.
        Some(now) if now.epoch == lease.epoch && now.worker != lease.worker => state(&now, ledger, host),
        _ => Ok(State::Dead),
    }
}

/// The slice of a namespace that exists already; `None` where it has none, or the host none at all.
pub fn in_namespace(config: &Config, netns: NetnsId) -> Result<Option<Lease>> {
    let Some(host) = peek(config)? else { return Ok(None) };
    let desk = Desk::of(&host.maps);
    for slot in desk.in_namespace(netns.ino) {
        let lease = desk.record(slot)?.filter(|lease| lease.netns_id == netns);
        if lease.is_some() {
            return Ok(lease);
        }
    }
    Ok(None)
}

/// Is `bundle` that of a member for which a slice is reserved? Engines reach theirs by links (/var/run), and runtimes resolve them.
pub fn same_bundle(member: &Member, bundle: Option<&Path>) -> bool {
    match (member.bundle.as_deref(), bundle) {
        (Some(one), Some(other)) => {
            one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
        }
        // Reserved by somebody who was told the id alone.
        (None, _) => true,
        (Some(_), None) => false,
    }
}
