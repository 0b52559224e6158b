//! Ports of sockets that the programs did not see begin: of the host before it was prepared, of anybody while the programs were
//! not attached, of a container before it was one or on a port that was leased to it. They are claimed for whoever has them, and
//! freed by a look at the sockets.

use super::{HostSite, Site};
use crate::error::{Error, Result};
use crate::lease::{Desk, Lease, Stage};
use crate::net::diag::{Held, held};
use crate::net::{Holders, Netlink};
use crate::ports::PortSet;
use crate::steer::Maps;
use crate::steer::namespaces::HOST;

/// Claims what sockets hold that are there already: the host's, and those of slices that may claim ports. To be called when the
/// programs are attached: a socket that is bound meanwhile is claimed by both, which is once.
pub fn seed(site: &HostSite<'_>) -> Result<()> {
    let maps = Maps::open(site.directory())?;
    let here = held(&mut Netlink::diag()?)?;
    maps.look_after(HOST, &here.tcp, &here.udp);
    let holders = Holders::default();
    for lease in site.ledger.all()?.iter().filter(|lease| !lease.open.is_none() && lease.stage != Stage::Reserved) {
        match held_by(lease, &holders) {
            Ok(inside) => take(&maps, lease.slot, &lease.open.ports, &inside),
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
        Ok(inside) => take(&site.host.maps, slot, &offer.ports, &inside),
        // A kernel that cannot list sockets: that is no reason to start no container.
        Err(e) => log::warn!("{}: sockets that are there already are not noticed: {e}", site.lease.id),
    }
    Ok(())
}

/// Frees the ports among those that a slice has and that no socket of it holds.
pub fn look_at(maps: &Maps, lease: &Lease) -> Result<()> {
    maps.free_unheld(lease.slot, || held_by(lease, &Holders::default()).map(|held| (held.tcp, held.udp)))
}

/// Frees the ports among those that no socket holds any more, and has what nobody holds lead to nobody.
pub fn look(maps: &Maps) -> Result<()> {
    maps.forget_past();
    maps.free_unheld(HOST, || held(&mut Netlink::diag()?).map(|held| (held.tcp, held.udp)))?;
    let (desk, holders) = (Desk::of(maps), Holders::default());
    for slot in desk.leased().filter(|slot| maps.is_looked_after(*slot)) {
        let Some(lease) = desk.record(slot)? else { continue };
        let done = maps.free_unheld(slot, || held_by(&lease, &holders).map(|held| (held.tcp, held.udp)));
        if let Err(e) = done {
            log::debug!("{}: {e}", lease.id);
        }
    }
    Ok(())
}

/// What lo alone has is the namespace's own, and no socket has more than it was `offered`.
fn take(maps: &Maps, slot: u16, offered: &PortSet, inside: &Held) {
    let [tcp, udp] = [&inside.tcp, &inside.udp].map(|all| all.difference(&inside.looped).intersection(offered));
    maps.look_after(slot, &tcp, &udp);
}

fn held_by(lease: &Lease, holders: &Holders) -> Result<Held> {
    holders.reach(&lease.netns, lease.netns_id)?.inside(|| held(&mut Netlink::diag()?))
}
