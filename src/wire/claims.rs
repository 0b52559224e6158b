//! Ports of sockets that the programs did not see begin: of the host before it was prepared, of anybody while the programs were
//! not attached, of a container before it was one or on a port that was leased to it. They are claimed for whoever has them, and
//! freed by a look at the sockets, as are those that rest for connections in TIME_WAIT longer than there are any.

use super::{HostSite, Site};
use crate::error::{Error, Result};
use crate::lease::{Desk, Lease, Stage};
use crate::net::diag::{Held, held};
use crate::net::{Holders, Netlink};
use crate::ports::{PortRange, PortSet};
use crate::steer::namespaces::HOST;
use crate::steer::{Maps, Offer};

/// Claims what sockets hold that are there already: the host's, and those of slices that may claim ports. To be called when the
/// programs are attached: a socket that is bound meanwhile is claimed by both, which is once.
pub fn seed(site: &HostSite<'_>) -> Result<()> {
    let maps = Maps::open(site.directory())?;
    let here = held(&mut Netlink::diag()?)?;
    maps.look_after(HOST, &here.tcp, &here.udp);
    let holders = Holders::default();
    for lease in site.ledger.all()?.iter().filter(|lease| !lease.open.is_none() && lease.stage != Stage::Reserved) {
        match held_by(lease, &holders) {
            Ok(inside) => {
                let offer = Offer { ports: lease.open.ports.clone(), limit: lease.open.limit.into() };
                take(&maps, lease.slot, &offer, &inside);
            }
            Err(Error::NotFound(_)) => {}
            Err(e) => log::warn!("{}: {e}", lease.id),
        }
    }
    Ok(())
}

/// The same for one slice whose namespace the programs know: what its sockets hold already of what it is offered.
pub fn take_up(site: &mut Site<'_>, slot: u16) -> Result<()> {
    let Some(offer) = site.host.maps.offered(slot)? else { return Ok(()) };
    match site.container().and_then(|namespace| namespace.inside(|| held(&mut Netlink::diag()?))) {
        Ok(inside) => take(&site.host.maps, slot, &offer, &inside),
        // A kernel that cannot list sockets: that is no reason to start no container.
        Err(e) => log::warn!("{}: sockets that are there already are not noticed: {e}", site.lease.id),
    }
    Ok(())
}

/// Frees the ports among those that a slice has and that no socket of it holds.
pub fn look_at(maps: &Maps, lease: &Lease) -> Result<()> {
    let Some(uncounted) = maps.uncounted().remove(&lease.slot) else { return Ok(()) };
    let held = held_by(lease, &Holders::default())?;
    maps.free_unheld(lease.slot, &uncounted, (&held.tcp, &held.udp));
    Ok(())
}

/// Frees the ports among those that no socket holds any more, and has what nobody holds lead to nobody.
pub fn look(maps: &Maps) -> Result<()> {
    maps.forget_past();
    let (desk, holders) = (Desk::of(maps), Holders::default());
    for (slot, uncounted) in maps.uncounted() {
        let held = if slot == HOST {
            held(&mut Netlink::diag()?)?
        } else {
            let Some(lease) = desk.record(slot)? else { continue };
            match held_by(&lease, &holders) {
                Ok(held) => held,
                Err(e) => {
                    log::debug!("{}: {e}", lease.id);
                    continue;
                }
            }
        };
        maps.free_unheld(slot, &uncounted, (&held.tcp, &held.udp));
    }
    Ok(())
}

/// What lo alone has is the namespace's own, and no socket has more than it was offered, nor all of them more than they may.
fn take(maps: &Maps, slot: u16, offer: &Offer, inside: &Held) {
    let has = maps.claims(slot);
    let mut room = offer.limit.saturating_sub(has.tcp.len() + has.udp.len() + has.resting.len());
    let mut within = |there: &PortSet, has: &PortSet| {
        let there = there.difference(&inside.looped).intersection(&offer.ports);
        let (its, new) = (there.intersection(has), there.difference(has));
        if new.len() > room {
            log::warn!(
                "slot {slot}: its sockets sit on more open ports than it may have: {} of {new}",
                new.len() - room
            );
        }
        let first = new.iter().take(room as usize).filter_map(|port| PortRange::new(port, port));
        let first = PortSet::from_iter(first);
        room -= first.len();
        its.union(&first)
    };
    let (tcp, udp) = (within(&inside.tcp, &has.tcp.union(&has.resting)), within(&inside.udp, &has.udp));
    maps.look_after(slot, &tcp, &udp);
}

fn held_by(lease: &Lease, holders: &Holders) -> Result<Held> {
    holders.reach(&lease.netns, lease.netns_id)?.inside(|| held(&mut Netlink::diag()?))
}
