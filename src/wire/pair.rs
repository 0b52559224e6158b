//! The pair of devices of a slice: one end on the host, the other born in the container's namespace.

use super::Site;
use crate::error::{Error, Result};
use crate::lease::record::link_name;
use crate::net::link::{self, Link, Mac, Pair};
use crate::plan::Step;
use crate::plan::slice::PAIR_MTU;

/// Makes it.
pub fn perform(site: &mut Site<'_>, step: &Step) -> Result<()> {
    let Step::Pair { slot, alias, mac, inner, inner_mac } = step else { return Ok(()) };
    let name = link_name(*slot);
    let pair = Pair { name: &name, alias, mac: *mac, inner_name: inner, inner_mac: *inner_mac, mtu: PAIR_MTU };
    let request = pair.create(site.container()?);
    let created = match site.netlink.send(request) {
        Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EEXIST) => {
            make_room(site, &pair)?;
            let request = pair.create(site.container()?);
            site.netlink.send(request)
        }
        other => other,
    };
    created?;
    site.pair = link::find(site.netlink, &name)?.filter(|link| link.mac == Some(*mac));
    site.need_pair().map(drop)
}

/// Removes it, if its namespace lives on. A namespace that nobody holds any more is being taken apart, and its device with
/// it: waiting for that, or doing it ourselves, would take some 30 ms. A namespace that only lives because of data that its
/// sockets could not send loses its device here.
pub fn undo(site: &mut Site<'_>) -> Result<()> {
    if !site.lives()? {
        return Ok(());
    }
    match site.pair.take() {
        Some(pair) => remove(site, &pair),
        None => Ok(()),
    }
}

/// What differs from the plan.
pub fn look(site: &mut Site<'_>, mac: Mac) -> Result<Vec<String>> {
    let name = site.lease.link();
    let Some(there) = link::find(site.netlink, &name)? else { return Ok(vec![format!("device {name} is gone")]) };
    if there.mac != Some(mac) {
        return Ok(vec![format!("device {name} is not the one that was made: its address is another")]);
    }
    if there.mtu != PAIR_MTU {
        return Ok(vec![format!("device {name} has MTU {} instead of {PAIR_MTU}", there.mtu)]);
    }
    Ok(Vec::new())
}

/// The slot is ours, so a device with its name and its address is a leftover: of a namespace that is still being taken apart,
/// or of a run that was killed. Any other device of that name is somebody else's.
fn make_room(site: &mut Site<'_>, pair: &Pair<'_>) -> Result<()> {
    match link::find(site.netlink, pair.name)? {
        Some(stale) if stale.mac == Some(pair.mac) => remove(site, &stale),
        Some(_) => Err(Error::Busy(format!(
            "device {} is there already and is not of this installation: rename it, or remove it",
            pair.name
        ))),
        None => Err(occupied(pair.inner_name)),
    }
}

/// The refusal of a namespace that has another network.
pub fn occupied(device: &str) -> Error {
    Error::Busy(format!(
        "the container's network namespace has a device {device} already: start it without another network (docker and \
         podman: --network none)"
    ))
}

fn remove(site: &mut Site<'_>, pair: &Link) -> Result<()> {
    site.netlink.send(link::delete(pair.index, &pair.name).tolerate(&[libc::ENODEV]))
}
