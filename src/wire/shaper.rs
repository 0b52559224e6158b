//! The shaper: one pair of devices on the host through which limited containers send, out of their reach.
//!
//! ```text
//! container ─► from_container ─► portslice-limit │ HTB, a class for each container │ portslice-after ─► after_shaper
//! ```
//!
//! One for all: the uplink's own qdisc stays as it is, a packet keeps its socket on the way, so a sender waits instead
//! of losing packets, and a container that ends takes no device along, which would take 30 ms.

use std::os::fd::AsFd;

use crate::error::{Error, Result};
use crate::host::sysctl::Proc;
use crate::net::link::{self, Link, Pair, own_mac};
use crate::net::qdisc;
use crate::net::{Netlink, Netns, filter};
use crate::plan::slice::PAIR_MTU;
use crate::rate::{Limit, Rate, Shape};
use crate::steer::Programs;
use crate::steer::layout::MAX_SLOTS;

pub use crate::lease::record::{SHAPER as NAME, shaper_class as class};

/// The end where packets go on.
const AFTER: &str = "portslice-after";
/// What sends them on.
const PROGRAM: &str = "after_shaper";

/// A class without a container: a packet that names no class of one has lost its way.
const NOBODY: u16 = MAX_SLOTS;

/// Its index, if it is there and is of installation `instance`.
pub fn find(netlink: &mut Netlink, instance: u32) -> Result<Option<u32>> {
    let ours = |link: &Link| link.mac == Some(own_mac(instance, NOBODY));
    Ok(link::find(netlink, NAME)?.filter(ours).map(|link| link.index))
}

/// Makes it; returns its index. One that is there is replaced.
pub fn make(netlink: &mut Netlink, programs: &Programs, instance: u32) -> Result<u32> {
    remove(netlink, instance)?;
    let pair = Pair {
        name: NAME,
        alias: "portslice: holds containers to their egress limits",
        mac: own_mac(instance, NOBODY),
        inner_name: AFTER,
        inner_mac: own_mac(instance, NOBODY + 1),
        mtu: PAIR_MTU,
    };
    netlink.send(pair.create(&Netns::current()?))?;
    let outcome = furnish(netlink, programs);
    if outcome.is_err()
        && let Err(e) = remove(netlink, instance)
    {
        log::error!("{e}, while undoing the making of {NAME}");
    }
    outcome
}

/// Does its far end run the program as it is pinned now?
pub fn is_furnished(netlink: &mut Netlink, programs: &Programs) -> Result<bool> {
    let (Some(after), Ok(id)) = (link::find(netlink, AFTER)?, programs.id(PROGRAM)) else { return Ok(false) };
    Ok(filter::ingress(netlink, after.index)?.iter().any(|filter| filter.runs_program(id)))
}

/// Gives it the program as it is pinned now, if it is there; and the qdisc that the program hangs on, if somebody took that.
pub fn renew(netlink: &mut Netlink, programs: &Programs) -> Result<()> {
    match link::find(netlink, AFTER)? {
        Some(after) => {
            let program = programs.open(PROGRAM)?;
            netlink.batch(&[
                filter::add_ingress_qdisc(after.index, AFTER).tolerate(&[libc::EEXIST]),
                filter::add_ingress(after.index, AFTER, program.as_fd(), PROGRAM, 0),
            ])
        }
        None => Ok(()),
    }
}

/// Removes it, if it is there.
pub fn remove(netlink: &mut Netlink, instance: u32) -> Result<()> {
    match find(netlink, instance)? {
        Some(index) => netlink.send(link::delete(index, NAME).tolerate(&[libc::ENODEV])),
        None => Ok(()),
    }
}

fn furnish(netlink: &mut Netlink, programs: &Programs) -> Result<u32> {
    let gone = || Error::Failed(format!("{NAME} vanished while it was made: try again"));
    let limit = link::find(netlink, NAME)?.ok_or_else(gone)?.index;
    let after = link::find(netlink, AFTER)?.ok_or_else(gone)?.index;
    // nobody's stack shall send or receive here
    for name in [NAME, AFTER] {
        Proc::default().here().write(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    }
    let crawl = Rate::SLOWEST;
    let closed = Shape { rate: crawl, ceil: crawl, burst: Limit::SMALLEST_BURST };
    let program = programs.open(PROGRAM)?;
    netlink.batch(&[
        qdisc::add_htb(limit, NAME, NOBODY),
        qdisc::class(limit, NAME, NOBODY, &closed),
        qdisc::dead_end(limit, NAME, NOBODY),
        filter::add_ingress_qdisc(after, AFTER),
        filter::add_ingress(after, AFTER, program.as_fd(), PROGRAM, 0),
        link::up_without_arp(limit, NAME),
        link::up_without_arp(after, AFTER),
    ])?;
    Ok(limit)
}
