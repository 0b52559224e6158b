//! Reads limit counters: live queues plus the drops saved from removed ones.

use super::sources::Sources;
use crate::error::Result;
use crate::lease::record::{SHAPER, shaper_class};
use crate::lease::{Dropped, Lease, Placed};
use crate::net::Netlink;
use crate::net::qdisc::{self, Load};
use crate::steer::SlotEntry;

/// The counters of a container's live queues; `None` for a direction without a limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queues {
    /// The queue of what the container sends.
    pub egress: Option<Load>,
    /// The queue of what the container receives.
    pub ingress: Option<Load>,
}

impl Queues {
    /// The packets that the container's limits dropped so far, in live and in removed queues. A GSO packet counts as one.
    pub fn dropped(&self, lease: &Lease) -> Dropped {
        let drops = |load: Option<Load>| load.map_or(0, |load| load.leaf.drops);
        let Dropped { egress, ingress } = lease.dropped;
        Dropped { egress: egress + drops(self.egress), ingress: ingress + drops(self.ingress) }
    }
}

/// Reads the live queues of one container. `ends`: the container's two devices.
pub fn queues(lease: &Lease, ends: SlotEntry, from: &Sources<'_>, netlink: &mut Netlink) -> Result<Queues> {
    let terms = &lease.terms;
    let mut queues = Queues::default();
    if terms.ingress.is_none() && terms.egress.is_none() {
        return Ok(queues);
    }
    if terms.ingress.is_some() {
        let minor = qdisc::ONLY + u16::from(terms.second.ingress);
        queues.ingress = qdisc::load(netlink, ends.ifindex, &lease.link(), minor)?;
    }
    queues.egress = match (terms.egress, terms.egress_placed, from.shaper) {
        (Some(_), Placed::Host, Some(shaper)) => {
            qdisc::load(netlink, shaper, SHAPER, shaper_class(lease.slot, terms.second.egress))?
        }
        (Some(_), Placed::Inside, _) => {
            let mut netlink = from.holders.reach(&lease.netns, lease.netns_id)?.inside(Netlink::route)?;
            qdisc::load(&mut netlink, ends.inner, &lease.device, qdisc::ONLY)?
        }
        _ => None,
    };
    Ok(queues)
}
