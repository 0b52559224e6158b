//! Ports of sockets that the programs did not see begin: of the host before it was prepared, and of anybody while the programs were
//! not attached. They are claimed for whoever has them, and freed by a look at the sockets.

use super::HostSite;
use crate::error::{Error, Result};
use crate::lease::{Desk, Lease, Stage};
use crate::net::diag::{Held, held};
use crate::net::{Holders, Netlink};
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
            // What lo alone has is the namespace's own, and no socket there has more than it was offered.
            Ok(inside) => {
                let open = &lease.open.ports;
                let [tcp, udp] =
                    [&inside.tcp, &inside.udp].map(|all| all.difference(&inside.looped).intersection(open));
                maps.look_after(lease.slot, &tcp, &udp);
            }
            Err(Error::NotFound(_)) => {}
            Err(e) => log::warn!("{}: {e}", lease.id),
        }
    }
    Ok(())
}

/// Frees the ports among those that no socket holds any more.
pub fn look(maps: &Maps) -> Result<()> {
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

fn held_by(lease: &Lease, holders: &Holders) -> Result<Held> {
    holders.reach(&lease.netns, lease.netns_id)?.inside(|| held(&mut Netlink::diag()?))
}
