//! Carrying out the steps of a plan, and their inverses.

use std::os::fd::AsFd;
use std::path::Path;

use super::limit::{self, Queue};
use super::prepare::Host;
use crate::error::{Error, Result};
use crate::host::sysctl::Proc;
use crate::lease::record::link_name;
use crate::net::link::{self, Link, Pair};
use crate::net::netns::NetnsId;
use crate::net::{Holders, Netlink, Netns, address, filter, route};
use crate::plan::limits::{LARGEST_PACKET, Place};
use crate::plan::{PAIR_MTU, Step};
use crate::steer::SlotEntry;

/// IPv6 may be compiled out or turned off: then it needs no configuration.
const NO_IPV6: &[i32] = &[libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::ENOENT];

const LO: u32 = 1;

/// What steps are carried out on.
pub struct Wiring<'a> {
    /// A socket in the host's namespace.
    pub netlink: &'a mut Netlink,
    /// The data path.
    pub host: &'a Host,
    /// The container's namespace.
    pub container: &'a Netns,
    /// Name of its device.
    pub inner_name: &'a str,
    /// Where settings are written.
    pub proc: &'a Proc,
    /// The host's end, once it is made.
    pub outer: Option<Link>,
}

impl Wiring<'_> {
    /// Carries out all steps. When one fails, those before it are undone and the host is as it was.
    pub fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        for (done, step) in steps.iter().enumerate() {
            if let Err(e) = self.perform(step) {
                // the failing step may have done a part of its work: its inverse tolerates what is not there
                self.undo_all(&steps[..=done]);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Undoes all steps, last one first; what cannot be undone is logged.
    pub fn undo_all(&mut self, steps: &[Step]) {
        for step in steps.iter().rev() {
            if let Err(e) = self.undo(step) {
                log::error!("{e}, while undoing a failed attach");
            }
        }
    }

    fn perform(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::CreatePair { name, alias, inner, mac, inner_mac } => {
                let pair = Pair { name, alias, inner_name: inner, mac: *mac, inner_mac: *inner_mac, mtu: PAIR_MTU };
                self.create_pair(&pair)
            }
            Step::Throttle { slot, place, throttle } => {
                let mut queue = match place {
                    Place::Ingress => Queue::ingress(self.outer()?, false)?,
                    Place::Inside => Queue::inside(self.container, self.outer()?, self.inner_name)?,
                    Place::Shaper => {
                        // one that a killed run left has its drops, and its debts
                        limit::forget(self.host, self.netlink, *slot)?;
                        Queue::shaper(self.host, *slot, false)?
                    }
                };
                queue.set(throttle)
            }
            Step::Guard { slot } => self.guard(*slot),
            Step::Furnish { slot, device, addresses, routes, largest_packet, sysctls } => {
                let inner = self.outer()?.peer.unwrap_or(0);
                let programs = [self.host.programs.open("inner_lo")?, self.host.programs.open("inner_eth")?];
                self.container.inside(|| {
                    let mut requests = vec![
                        link::no_generated_address(inner, device).tolerate(NO_IPV6),
                        link::accept_local(inner, device),
                        filter::add_ingress_qdisc(LO, "lo").tolerate(&[libc::EEXIST]),
                        filter::add_ingress(LO, "lo", programs[0].as_fd(), "inner_lo", *slot),
                        filter::add_ingress_qdisc(inner, device),
                        filter::add_ingress(inner, device, programs[1].as_fd(), "inner_eth", *slot),
                        link::up(LO, "lo"),
                        link::up_without_arp(inner, device),
                    ];
                    if *largest_packet < LARGEST_PACKET {
                        requests.push(link::segment_at(inner, device, *largest_packet));
                    }
                    for ip in addresses {
                        let add = address::add(inner, *ip);
                        requests.push(if ip.is_ipv6() { add.tolerate(NO_IPV6) } else { add });
                    }
                    for r in routes {
                        let add = route::add(inner, r.destination, r.prefix, r.source, r.metric, r.mtu);
                        requests.push(if r.destination.is_ipv6() { add.tolerate(NO_IPV6) } else { add });
                    }
                    Netlink::route()?.batch(&requests)?;
                    let mut here = self.proc.here();
                    for (key, value) in sysctls {
                        // what this kernel has not, or only for the whole machine, stays as it is
                        match here.write(key, value) {
                            Ok(_) => {}
                            Err(e) if key.ends_with("ip_local_port_range") => return Err(e),
                            Err(e) => log::debug!("{e}"),
                        }
                    }
                    Ok(())
                })
            }
            Step::Occupy { slot, flags, epoch } => {
                let outer = self.outer()?;
                let entry =
                    SlotEntry { ifindex: outer.index, inner: outer.peer.unwrap_or(0), flags: *flags, epoch: *epoch };
                self.host.maps.reset_counters(*slot)?;
                self.host.maps.set_slot(*slot, entry)
            }
            Step::Publish { slot, ports } => {
                self.host.maps.publish(ports, *slot);
                Ok(())
            }
        }
    }

    fn undo(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Publish { slot, ports } => {
                self.host.maps.withdraw(ports, *slot);
                Ok(())
            }
            Step::Occupy { slot, .. } => self.host.maps.clear_slot(*slot),
            Step::Furnish { .. } => unfurnish(self.container),
            Step::Throttle { slot, place: Place::Shaper, .. } => limit::forget(self.host, self.netlink, *slot),
            Step::Throttle { .. } | Step::Guard { .. } => Ok(()),
            Step::CreatePair { name, .. } => match self.outer.take() {
                Some(outer) => self.netlink.send(link::delete(outer.index, name).tolerate(&[libc::ENODEV])),
                None => Ok(()),
            },
        }
    }

    fn create_pair(&mut self, pair: &Pair<'_>) -> Result<()> {
        let created = match self.netlink.send(pair.create(self.container)) {
            Err(Error::Netlink { errno, .. }) if errno.raw_os_error() == Some(libc::EEXIST) => {
                self.make_room(pair)?;
                self.netlink.send(pair.create(self.container))
            }
            other => other,
        };
        created?;
        self.outer = link::find(self.netlink, pair.name)?;
        self.outer().map(drop)
    }

    /// The slot is ours, so a device of its name is a leftover: of a namespace that is still being taken apart, or of
    /// a run that was killed. Otherwise the name is taken on the container's side.
    fn make_room(&mut self, pair: &Pair<'_>) -> Result<()> {
        match link::find(self.netlink, pair.name)? {
            Some(stale) => self.netlink.send(link::delete(stale.index, pair.name).tolerate(&[libc::ENODEV])),
            None => Err(Error::Busy(format!(
                "the container's network namespace has a device {} already: start it without another network \
                 (docker and podman: --network none)",
                pair.inner_name
            ))),
        }
    }

    fn guard(&mut self, slot: u16) -> Result<()> {
        let (index, name) = {
            let outer = self.outer()?;
            (outer.index, outer.name.clone())
        };
        let program = self.host.programs.open("from_container")?;
        // the host's stack never sees a packet of this device; left on, IPv6 would give it a multicast route, and every
        // change and every listing of routes would walk past all of them
        self.proc.here().write(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        self.netlink.batch(&[
            filter::add_ingress_qdisc(index, &name),
            filter::add_ingress(index, &name, program.as_fd(), "from_container", slot),
            link::up(index, &name),
        ])
    }

    fn outer(&self) -> Result<&Link> {
        self.outer.as_ref().ok_or_else(|| Error::Failed("the container's device vanished while it was made".into()))
    }
}

/// Removes the device of `slot`, if it is still there and its namespace lives on, and takes the filters off that
/// namespace's lo. A namespace that nobody holds any more is being taken apart, and its device with it: waiting for
/// that, or doing it ourselves, would cost some 30 ms.
///
/// Without the device nothing is touched: inode numbers of namespaces are given out again, and the next container may
/// have this one. The device goes last for the same reason: a run that is killed before has left it there.
pub fn dismantle(netlink: &mut Netlink, slot: u16, path: &Path, id: NetnsId) -> Result<()> {
    let Some(device) = device_of(netlink, slot)? else { return Ok(()) };
    let container = match Holders::default().reach(path, id) {
        Err(Error::NotFound(_)) => return Ok(()),
        container => container?,
    };
    unfurnish(&container)?;
    netlink.send(link::delete(device.index, &device.name).tolerate(&[libc::ENODEV]))
}

/// Takes the filters off a container's lo.
fn unfurnish(container: &Netns) -> Result<()> {
    container.inside(|| {
        // EINVAL: there is no such qdisc
        Netlink::route()?.send(filter::delete_ingress_qdisc(LO, "lo").tolerate(&[libc::EINVAL, libc::ENOENT]))
    })
}

/// Is the device of `slot` there, as the one that the lease's container was given?
pub fn device_of(netlink: &mut Netlink, slot: u16) -> Result<Option<Link>> {
    link::find(netlink, &link_name(slot))
}
