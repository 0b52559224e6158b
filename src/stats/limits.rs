//! What limits dropped: read from the queues in which packets wait, beside what queues that are gone had dropped.

use super::sample::Sources;
use crate::error::{Error, Result};
use crate::lease::record::{SHAPER, shaper_class};
use crate::lease::{Dropped, Lease, Placed};
use crate::net::{Netlink, Netns, link, qdisc};

/// Packets of one container that its limits dropped so far. A GSO packet counts as one.
pub fn dropped(lease: &Lease, from: &mut Sources<'_>) -> Result<Dropped> {
    let mut total = lease.dropped;
    let terms = &lease.terms;
    if terms.ingress.is_none() && terms.egress.is_none() {
        return Ok(total);
    }
    let Some(outer) = link::find(from.netlink, &lease.link())? else { return Ok(total) };
    let drops = |netlink: &mut Netlink, index, name: &str, minor| {
        qdisc::load(netlink, index, name, minor).map(|load| load.map_or(0, |load| load.drops))
    };
    if terms.ingress.is_some() {
        total.ingress += drops(from.netlink, outer.index, &outer.name, qdisc::ONLY + u16::from(terms.second.ingress))?;
    }
    total.egress += match (terms.egress, terms.egress_placed, from.shaper) {
        (Some(_), Placed::Host, Some(shaper)) => {
            drops(from.netlink, shaper, SHAPER, shaper_class(lease.slot, terms.second.egress))?
        }
        (Some(_), Placed::Inside, _) => {
            let container = Netns::reach(&lease.netns, lease.netns_id)
                .ok_or_else(|| Error::NotFound("its network namespace is gone".into()))?;
            let mut netlink = container.inside(Netlink::route)?;
            drops(&mut netlink, outer.peer.unwrap_or(0), &lease.device, qdisc::ONLY)?
        }
        _ => 0,
    };
    Ok(total)
}
