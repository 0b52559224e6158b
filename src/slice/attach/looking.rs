//! The look for sockets of the host that are in the way of a grant: when it is needed, when it is waited for, and whether it
//! still holds when the ports are the lease's.

use std::sync::atomic::{Ordering, fence};
use std::thread::{self, JoinHandle};

use super::{Attach, Entered, Surveyed};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lease::{Desk, Lease, Stage};
use crate::net::Netlink;
use crate::net::diag::{self, Holder};
use crate::plan::host::bpf_directory;
use crate::ports::PortSet;
use crate::slice::run;
use crate::slice::turn::Turn;
use crate::slice::wanted::{assignable, span};
use crate::steer::Namespaces;
use crate::wire::Host;

/// How far it is.
pub(super) enum Looking {
    /// Not begun. A container for which a lease is reserved needs none: its ports are its own already.
    Unneeded,
    /// Another thread does it. Looking through all sockets takes half a millisecond, which the other processor has.
    Begun(JoinHandle<Result<Seen>>),
    /// What was found is known.
    Done {
        /// The ports in which sockets of the host were, the callers' as well.
        used: PortSet,
        /// How often the host's programs had asked for a port before ([`Namespaces::binds_of_host`]).
        binds: Option<u32>,
    },
}

/// What was seen.
pub(super) struct Seen {
    holders: Vec<Holder>,
    binds: Option<u32>,
}

impl Looking {
    /// Begins, unless the lease that is `known` of the container is one that was reserved for it.
    pub(super) fn unless_reserved(config: &Config, known: Option<&Lease>) -> Self {
        if known.is_some_and(is_reserved) { Looking::Unneeded } else { Self::begin(config) }
    }

    fn begin(config: &Config) -> Self {
        let (span, directory) = (span(&assignable(config)), bpf_directory(&config.state_dir));
        Looking::Begun(thread::spawn(move || {
            // Where they cannot be asked it is looked again later.
            let namespaces = Namespaces::open(&directory).ok().flatten();
            let binds = namespaces.and_then(|namespaces| namespaces.binds_of_host().ok().flatten());
            let holders = span.map_or(Ok(Vec::new()), |range| diag::holders(&mut Netlink::diag()?, range))?;
            Ok(Seen { holders, binds })
        }))
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
        let looking = match std::mem::replace(&mut self.looking, Looking::Unneeded) {
            Looking::Begun(looking) => looking,
            still => {
                self.looking = still;
                return Ok(());
            }
        };
        let seen = looking.join().unwrap_or_else(|_| Err(Error::Failed("looking for sockets failed".into())))?;
        self.looking = Looking::Done { used: diag::ports_of(&seen.holders), binds: seen.binds };
        self.wanted.holders = seen.holders;
        self.wanted.leave_out_the_callers();
        self.wanted.used = diag::ports_of(&self.wanted.holders);
        Ok(())
    }

    /// Makes what is granted the lease's own and writes it down, unless a socket of the host was quicker: then it is looked for
    /// anew.
    pub(super) fn take(&self, mut lease: Lease, host: &Host, surveyed: Option<&Surveyed>) -> Result<Entered> {
        self.survey_into(&mut lease, host, surveyed)?;
        run::fault();
        let desk = Desk::of(&host.maps);
        if let Err(e) = desk.enter(&lease) {
            log::info!("{}: {e}", lease.id);
            desk.cancel(&lease);
            return Ok(Entered::Unlooked);
        }
        match self.is_outrun(&lease.all_ports(), host) {
            Ok(false) => self.record(lease, host),
            outrun => {
                desk.cancel(&lease);
                outrun.map(|_| Entered::Unlooked)
            }
        }
    }

    /// Takes back a turn that was outrun, and looks anew.
    pub(super) fn begin_anew(&mut self, turn: Turn, host: &Host) -> Result<()> {
        turn.take_back(&self.ledger, host)?;
        self.look();
        Ok(())
    }

    /// Did a socket of the host take one of `ports`, which are a slice's now, after the look? From that moment on none can. Where
    /// bind() is not judged nobody keeps it from doing so at any time.
    pub(super) fn is_outrun(&self, ports: &PortSet, host: &Host) -> Result<bool> {
        let (Some(namespaces), Looking::Done { used, binds }) = (&host.maps.namespaces, &self.looking) else {
            return Ok(false);
        };
        // The ports were written to shared memory.
        fence(Ordering::SeqCst);
        if binds.is_some() && namespaces.binds_of_host()? == *binds {
            return Ok(false);
        }
        let Some(range) = span(ports) else { return Ok(false) };
        let held = diag::ports_of(&diag::holders(&mut Netlink::diag()?, range)?);
        Ok(!held.intersection(ports).is_subset(used))
    }
}

fn is_reserved(lease: &Lease) -> bool {
    lease.stage == Stage::Reserved
}
