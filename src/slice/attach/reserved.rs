//! A lease that was reserved before its container existed, and the hook, or another creator, that takes it up.

use super::{Attach, Entered, Surveyed, is_altered};
use crate::error::Result;
use crate::lease::ledger::unix_now;
use crate::lease::{Desk, Lease, Member, Stage};
use crate::plan::limits;
use crate::slice::state::same_bundle;
use crate::wire::Host;

impl Attach<'_> {
    /// A lease of this id was reserved: for this container, by whoever edited its bundle, or for another one that is being
    /// created elsewhere.
    pub(super) fn take_up(&self, known: Lease, host: &Host, surveyed: Option<&Surveyed>) -> Result<Entered> {
        let request = self.wanted.request;
        let Some(member) = known.members.first().filter(|member| same_bundle(member, request.bundle.as_deref())) else {
            let worked = known.worker.is_alive();
            return Ok(if worked { Entered::Worked(Box::new(known)) } else { Entered::InTheWay(Box::new(known)) });
        };
        if self.wanted.differs(&known, member, &self.terms.asked) {
            return Ok(Entered::InTheWay(Box::new(known)));
        }
        if limits::need_shaper(&self.terms) && host.shaper.is_none() {
            return Ok(Entered::Unshaped);
        }
        if is_altered(&self.traces(&Desk::of(&host.maps)), surveyed) {
            return Ok(Entered::Altered);
        }
        let member = Member { ports: member.ports.clone(), ..self.wanted.member.clone() };
        let mut lease = Lease { terms: self.terms.clone(), members: vec![member], ..self.placed(known) };
        self.survey_into(&mut lease, host, surveyed)?;
        Desk::of(&host.maps).stamp(&lease);
        self.record(lease, host)
    }

    /// A lease for this container in its namespace, by this process.
    pub(super) fn placed(&self, lease: Lease) -> Lease {
        let netns = self.netns.as_ref();
        Lease {
            netns: netns.map(|netns| netns.path.clone()).unwrap_or_default(),
            netns_id: self.netns_id(),
            shared: self.wanted.request.joins_namespace,
            stage: if netns.is_some() { Stage::Attaching } else { Stage::Reserved },
            created: unix_now(),
            worker: self.worker,
            ..lease
        }
    }
}
