//! What became of a slice, asked of the kernel.

use crate::error::Result;
use crate::lease::{Desk, Lease, Ledger, Stage};
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
        _ => Ok(State::Dead),
    }
}
