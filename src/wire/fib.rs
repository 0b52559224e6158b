//! The device that the data path asks the host's routes from.
//!
//! The kernel answers a program's question for a route only as if the packet had come in by a device that forwards
//! (`bpf_fib_lookup`, net/core/filter.c). The host's own devices need not forward, and turning that on for one of them changes the
//! host: for IPv6 it ends the default routes that routers announced. So there is a device for nothing else. It is never up, and
//! no packet ever comes in by it.
//!
//! A new device takes over from `net.ipv6.conf.default` whether it forwards, so that is set while ours is made, and devices that
//! others make at the same moment are given back what they would have had. There is no way around it: writing `forwarding` of any
//! one device ends those routes on all of them (`addrconf_fixup_forwarding`, net/ipv6/addrconf.c), netlink can set it for IPv4
//! alone (`inet6_set_link_af`), and a device that comes from a namespace with other defaults begins anew with those of the one
//! it comes to (`addrconf_notify`).

use crate::error::{Error, Result};
use crate::host::sysctl::Proc;
use crate::net::link::{self, Link, Pair, own_mac};
use crate::net::{Netlink, Netns};
use crate::plan::slice::PAIR_MTU;
use crate::steer::layout::MAX_SLOTS;

/// Its name.
const NAME: &str = "portslice-fib";
/// The other end of its pair: every kernel that has containers has pairs, and not every one has dummies.
const END: &str = "portslice-end";
/// What tells its MAC address from others of ours; the shaper has the two before.
const NOBODY: u16 = MAX_SLOTS + 2;

const V4: &str = "ipv4/conf/portslice-fib/forwarding";
const V6: &str = "ipv6/conf/portslice-fib/forwarding";
const V6_DEFAULT: &str = "ipv6/conf/default/forwarding";

/// Its index, if it is there and is of installation `instance`.
pub fn find(netlink: &mut Netlink, instance: u32) -> Result<Option<u32>> {
    let ours = |link: &Link| link.mac == Some(own_mac(instance, NOBODY));
    Ok(link::find(netlink, NAME)?.filter(ours).map(|link| link.index))
}

/// Does the kernel answer what is asked from it?
pub fn is_asked() -> Result<bool> {
    let proc = Proc::default();
    let mut here = proc.here();
    // A kernel without IPv6 has no such setting.
    Ok(here.read(V4)?.as_deref() == Some("1") && here.read(V6)?.is_none_or(|value| value == "1"))
}

/// Makes it; returns its index. One that is there is replaced.
pub fn make(netlink: &mut Netlink, instance: u32) -> Result<u32> {
    remove(netlink, instance)?;
    let pair = Pair {
        name: NAME,
        alias: "portslice: the host's routes are asked from here",
        mac: own_mac(instance, NOBODY),
        inner_name: END,
        inner_mac: own_mac(instance, NOBODY + 1),
        mtu: PAIR_MTU,
    };
    let (proc, here) = (Proc::default(), Netns::current()?);
    let before = links(netlink)?;
    let default = proc.here().read(V6_DEFAULT)?.unwrap_or_default();
    proc.here().write(V6_DEFAULT, "1")?;
    let made = netlink.send(pair.create(&here));
    let restored = if default == "1" { Ok(true) } else { proc.here().write(V6_DEFAULT, &default) };
    made?;
    restored?;
    if default != "1" {
        not_for_others(netlink, &before)?;
    }
    proc.here().write(V4, "1")?;
    let gone = || Error::Failed(format!("{NAME} vanished while it was made: try again"));
    find(netlink, instance)?.ok_or_else(gone)
}

/// Removes it, if it is there.
pub fn remove(netlink: &mut Netlink, instance: u32) -> Result<()> {
    match find(netlink, instance)? {
        Some(index) => netlink.send(link::delete(index, NAME).tolerate(&[libc::ENODEV])),
        None => Ok(()),
    }
}

/// A device that somebody made at the same moment took over what was meant for ours. It is given back what it would have had.
fn not_for_others(netlink: &mut Netlink, before: &[String]) -> Result<()> {
    let proc = Proc::default();
    for name in links(netlink)?.into_iter().filter(|name| name != NAME && !before.contains(name)) {
        proc.here().write(&format!("ipv6/conf/{name}/forwarding"), "0")?;
    }
    Ok(())
}

fn links(netlink: &mut Netlink) -> Result<Vec<String>> {
    Ok(link::all(netlink)?.into_iter().map(|link| link.name).collect())
}
