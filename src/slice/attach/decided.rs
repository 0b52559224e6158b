//! The lease of a slice of its own, as it is granted.

use std::path::PathBuf;

use super::Attach;
use crate::error::{Error, Result};
use crate::lease::record::{FORMAT, Found};
use crate::lease::{Desk, Dropped, Lease, Member, Stage};
use crate::net::netns::NetnsId;
use crate::plan::grant;
use crate::ports::PortSet;
use crate::request::ContainerId;
use crate::slice::{open, wanted};
use crate::wire::Host;

impl Attach<'_> {
    /// A slice of its own, called `id`. `back`: ports that are given back for it.
    pub(super) fn decide(&self, host: &Host, id: ContainerId, back: &PortSet) -> Result<Lease, grant::Refusal> {
        let (config, request) = (self.wanted.config, self.wanted.request);
        wanted::permitted(config, request)?;
        let desk = &Desk::of(&host.maps);
        open::nameable(config, request, host)?;
        let open = open::offer(config, &request.id, request.open_ports.as_ref(), (host, &self.facts))?;
        let size = request.ephemeral_ports.unwrap_or(config.ephemeral_ports_per_container);
        let leased = self.wanted.leased(desk).difference(back);
        let resting = desk.resting(config.block_cooldown);
        let last = desk.last_block(&request.id, size);
        let granted = grant::grant(request, last, &self.wanted.situation(desk, &leased, &resting))?;
        let member = Member { ports: granted.ports, ..self.wanted.member.clone() };
        grant::named(std::slice::from_ref(&member), granted.block, &member.ports)?;
        let slot = desk
            .free_slot()
            .ok_or_else(|| Error::Exhausted("all slots are taken: a host carries no more containers".to_owned()))?;
        let uplink = self.facts.uplink.name.clone();
        let device = request.device().unwrap_or(&uplink).to_owned();
        Ok(self.placed(Lease {
            format: FORMAT,
            id,
            slot,
            block: granted.block,
            ports: member.ports.clone(),
            open,
            terms: self.terms.clone(),
            members: vec![member],
            before: None,
            dropped: Dropped::default(),
            netns: PathBuf::new(),
            netns_id: NetnsId::default(),
            shared: false,
            found: Found::default(),
            given: 0,
            stage: Stage::Reserved,
            created: 0,
            epoch: desk.cursor().epoch.wrapping_add(1),
            uplink: (device != uplink).then_some(uplink),
            device,
            host_loopback: request.host_loopback.unwrap_or(config.host_loopback),
            worker: self.worker,
        }))
    }
}
