//! The look for sockets of the host that are in the way of a grant: when it is needed, and when it is waited for.

use std::thread::{self, JoinHandle};

use super::Attach;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::{Lease, Stage};
use crate::net::Netlink;
use crate::net::diag::{self, Holder};
use crate::slice::wanted::{assignable, span};

/// How far it is.
pub(super) enum Looking {
    /// Not begun. A container for which a lease is reserved needs none: its ports are its own already.
    Unneeded,
    /// Another thread does it. Looking through all sockets takes half a millisecond, which the other processor has.
    Begun(JoinHandle<Result<Vec<Holder>>>),
    /// What was found is known.
    Done,
}

impl Looking {
    /// Begins, unless the lease that is `known` of the container is one that was reserved for it.
    pub(super) fn unless_reserved(config: &Config, known: Option<&Lease>) -> Self {
        if known.is_some_and(is_reserved) { Looking::Unneeded } else { Self::begin(config) }
    }

    fn begin(config: &Config) -> Self {
        let span = span(&assignable(config));
        let look = move || span.map_or(Ok(Vec::new()), |range| diag::holders(&mut Netlink::diag()?, range));
        Looking::Begun(thread::spawn(look))
    }

    /// What is waited for, once.
    fn take(&mut self) -> Option<JoinHandle<Result<Vec<Holder>>>> {
        match std::mem::replace(self, Looking::Done) {
            Looking::Begun(looking) => Some(looking),
            still => {
                *self = still;
                None
            }
        }
    }
}

impl Attach<'_> {
    /// Is a look needed after all? `known` is its lease, under the lock: what was reserved may have been taken up or given back
    /// since nobody looked.
    pub(super) fn is_unlooked(&self, known: Option<&Lease>) -> bool {
        matches!(self.looking, Looking::Unneeded) && !known.is_some_and(is_reserved)
    }

    /// Looks after all.
    pub(super) fn look(&mut self) {
        self.looking = Looking::begin(self.wanted.config);
    }

    /// Waits for what is looked for meanwhile.
    pub(super) fn found(&mut self) -> Result<()> {
        let Some(looking) = self.looking.take() else { return Ok(()) };
        let found = looking.join().unwrap_or_else(|_| Err(Error::Failed("looking for sockets failed".into())));
        self.wanted.holders = found?;
        self.wanted.leave_out_the_callers();
        self.wanted.used = diag::ports_of(&self.wanted.holders);
        Ok(())
    }
}

fn is_reserved(lease: &Lease) -> bool {
    lease.stage == Stage::Reserved
}
