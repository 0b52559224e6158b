//! A slice's place on the host: sockets, maps, its pair of devices and its namespace, found once and proved to be its own.

use std::net::IpAddr;

use super::{Carry, cpu, furnish, guard, naming, pair, queue, refurnish, slot, sockets, steer};
use crate::error::{Error, Result};
use crate::host::Given;
use crate::host::facts::online_cpus;
use crate::host::record::Sockets;
use crate::host::sysctl::Proc;
use crate::lease::record::{Dropped, Found, link_name};
use crate::lease::{Lease, Placed, State};
use crate::net::link::{self, Link, Mac, own_mac};
use crate::net::qdisc::Leaf;
use crate::net::{Holders, Netlink, Netns};
use crate::plan::limits::{self, Place};
use crate::plan::{Action, Step, Verb};
use crate::stats::inhabitants::Inhabitants;
use crate::stats::{Groups, Sources};
use crate::steer::{Maps, Programs};

/// A host that is ready.
pub struct Host {
    /// The data path's maps.
    pub maps: Maps,
    /// The data path's programs.
    pub programs: Programs,
    /// Which installation this is.
    pub instance: u32,
    /// What containers are given of the host.
    pub given: Given,
    /// What packets wait in behind a limit; `None`: this kernel has no limits.
    pub leaf: Option<Leaf>,
    /// The device whose classes shape what containers send, if there was need for one.
    pub shaper: Option<u32>,
    /// Which preparation of the host this is.
    pub generation: u64,
    /// The programs at the sockets, as they were attached.
    pub sockets: Option<Sockets>,
}

impl Host {
    /// Where this host's containers are counted.
    pub fn sources(&self, groups: Groups) -> Sources<'_> {
        Sources {
            maps: &self.maps,
            shaper: self.shaper,
            cpus: online_cpus(),
            groups,
            holders: Holders::default(),
            inhabitants: Inhabitants::default(),
        }
    }

    /// Is the device of this lease there? Asked of the kernel's own table, from which a device vanishes with its end.
    pub fn is_wired(&self, lease: &Lease) -> Result<bool> {
        let entry = self.maps.slot(lease.slot)?;
        Ok(entry.epoch == lease.epoch && entry.ifindex != 0 && self.maps.device(lease.slot)? == Some(entry.ifindex))
    }
}

/// Where the steps of one slice are carried out.
pub struct Site<'a> {
    /// A socket in the host's namespace.
    pub netlink: &'a mut Netlink,
    /// The host.
    pub host: &'a Host,
    /// Where settings are written.
    pub proc: &'a Proc,
    /// The slice.
    pub lease: &'a Lease,
    /// The container's namespace, once it is known.
    pub container: Option<Netns>,
    /// A socket in it, where one is open.
    pub inner: Option<Netlink>,
    /// The host's end of the pair, once it is known.
    pub pair: Option<Link>,
    /// What stood in the namespace before.
    pub found: Found,
    /// What queues dropped that were removed.
    pub dropped: Dropped,
    /// Places where a queue stays when one of its classes goes.
    pub staying: Vec<Place>,
    /// The slice is new: nothing is there yet.
    pub fresh: bool,
    /// A run that was killed may have done any part of the work.
    pub doubtful: bool,
    /// What others made of the container's network behind us.
    pub others: Option<&'a Others>,
    /// See [`Self::making`].
    pub make: Option<Make>,
}

/// Carries out an action that makes, or mends, a part.
pub type Make = fn(&mut Site<'_>, &Action) -> Result<()>;

/// What plugins behind ours in a list made of the container's network, as the result of the whole list tells it: that is no
/// damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// The address of the container's device.
    pub mac: Option<Mac>,
    /// Addresses on it, besides the host's.
    pub addresses: Vec<IpAddr>,
    /// Destinations of routes, with the lengths of their prefixes.
    pub routes: Vec<(IpAddr, u8)>,
}

impl<'a> Site<'a> {
    /// The place of a slice that is there, or may be.
    pub fn of(lease: &'a Lease, host: &'a Host, proc: &'a Proc, netlink: &'a mut Netlink) -> Self {
        Site {
            netlink,
            host,
            proc,
            lease,
            container: None,
            inner: None,
            pair: None,
            found: lease.found.clone(),
            dropped: Dropped::default(),
            staying: Vec::new(),
            fresh: false,
            doubtful: false,
            others: None,
            make: None,
        }
    }

    /// The same for whoever makes a slice or mends one. Programs that only change and end slices do without, and do not carry
    /// what it takes.
    pub fn making(self) -> Self {
        Site { make: Some(make), ..self }
    }

    /// The same for a change to `goal`.
    pub fn towards(self, goal: &State) -> Self {
        let egress = match goal.terms.egress_placed {
            Placed::Host => Place::Shaper,
            Placed::Inside => Place::Inside,
        };
        let places = [(Place::Ingress, goal.terms.ingress), (egress, goal.terms.egress)];
        Site {
            staying: places.into_iter().filter(|(_, shape)| shape.is_some()).map(|(place, _)| place).collect(),
            ..self
        }
    }

    /// The host's end of the pair, if it is there and is this slice's: the name says where to look, the address whose it
    /// is, and the data path's table, once the slice is in it, which device of that slot.
    pub fn pair(&mut self) -> Result<Option<Link>> {
        if self.pair.is_none() {
            let (slot, mac) = (self.lease.slot, own_mac(self.host.instance, self.lease.slot));
            let entry = self.host.maps.slot(slot)?;
            let own = |link: &Link| {
                link.mac == Some(mac)
                    && (entry.ifindex == 0 || (entry.epoch, entry.ifindex) == (self.lease.epoch, link.index))
            };
            self.pair = link::find(self.netlink, &link_name(slot))?.filter(own);
        }
        Ok(self.pair.clone())
    }

    /// The same, which has to be there.
    pub fn need_pair(&mut self) -> Result<Link> {
        let gone =
            || Error::NotFound(format!("the device {} of container {} is gone", self.lease.link(), self.lease.id));
        self.pair()?.ok_or_else(gone)
    }

    /// Does the namespace live, and with it the container's end of the pair? One that is being taken apart takes its
    /// device along by itself.
    pub fn lives(&mut self) -> Result<bool> {
        match self.pair()? {
            Some(pair) => link::namespace_lives(self.netlink, &pair),
            None => Ok(false),
        }
    }

    /// The container's namespace. [`Error::NotFound`] when nobody holds it.
    pub fn container(&mut self) -> Result<&Netns> {
        if self.container.is_none() {
            self.container = Some(Holders::default().reach(&self.lease.netns, self.lease.netns_id)?);
        }
        self.container.as_ref().ok_or_else(|| Error::Failed("a namespace that was just opened is not there".into()))
    }

    /// The classes of this slice on the shaper, and what else is not removed with its pair.
    fn queue(&mut self, place: Place, second: bool) -> Result<queue::Queue> {
        match place {
            Place::Ingress => queue::Queue::ingress(&self.need_pair()?, second),
            Place::Shaper => queue::Queue::shaper(self.host, self.lease.slot, second),
            Place::Inside => {
                let (pair, device) = (self.need_pair()?, self.lease.device.clone());
                queue::Queue::inside(self.container()?, &pair, &device)
            }
        }
    }

    fn act_on_queue(&mut self, verb: Verb, step: &Step) -> Result<()> {
        let Step::Queue { place, second, throttle, .. } = step else { return Ok(()) };
        match verb {
            Verb::Perform => {
                if self.fresh && *place == Place::Shaper {
                    // One that a killed run left has its drops, and its debts.
                    queue::forget(self.host, self.netlink, self.lease.slot)?;
                }
                let mut queue = self.queue(*place, *second)?;
                if !self.fresh && *place != Place::Inside {
                    queue.clear()?;
                }
                queue.set(throttle)
            }
            Verb::Mend => self.queue(*place, *second)?.set(throttle),
            Verb::Relax => match self.queue(*place, *second).and_then(|mut queue| queue.open(&throttle.shape)) {
                Err(e) if !self.doubtful => Err(e),
                _ => Ok(()),
            },
            Verb::Undo => self.remove_queue(*place, *second),
        }
    }

    /// Removes a queue into which nobody sends any more. At the end of a slice only its classes on the shaper are: the rest
    /// goes with the pair.
    fn remove_queue(&mut self, place: Place, second: bool) -> Result<()> {
        if self.lease.stage != crate::lease::Stage::Changing {
            return if place == Place::Shaper {
                queue::forget(self.host, self.netlink, self.lease.slot)
            } else {
                Ok(())
            };
        }
        let mut queue = self.queue(place, second)?;
        let dropped = queue.dropped()?;
        let total = if place == Place::Ingress { &mut self.dropped.ingress } else { &mut self.dropped.egress };
        *total += dropped;
        // Taking the queue off the container's own device would lose packets; open, it costs next to nothing. One of two
        // classes stays until its packets are gone: the device is still shaped.
        if place != Place::Inside && !self.staying.contains(&place) { queue.remove() } else { Ok(()) }
    }
}

fn make(site: &mut Site<'_>, Action { verb, step }: &Action) -> Result<()> {
    match (verb, step) {
        (_, Step::Pair { .. }) => pair::perform(site, step),
        (_, Step::Guard { .. }) => guard::perform(site),
        (Verb::Mend, Step::Furnish(furniture)) => refurnish::mend(site, furniture),
        (_, Step::Furnish(furniture)) => furnish::perform(site, furniture),
        (_, Step::Binds { slot }) => sockets::enter(site, *slot),
        _ => Err(no_part(step)),
    }
}

fn no_part(step: &Step) -> Error {
    Error::Failed(format!("{step} is no part of a slice that could be made here"))
}

impl Carry for Site<'_> {
    fn act(&mut self, action: &Action) -> Result<()> {
        let Action { verb, step } = action;
        match (verb, step) {
            (Verb::Undo, Step::Pair { .. }) => pair::undo(self),
            (_, Step::Queue { .. }) => self.act_on_queue(*verb, step),
            // It goes with the pair.
            (Verb::Undo, Step::Guard { .. }) => Ok(()),
            (Verb::Undo, Step::Furnish(_)) => furnish::undo(self),
            (Verb::Undo, Step::Segment { device, .. }) => {
                if self.lease.stage == crate::lease::Stage::Changing {
                    return guard::segment(self, device, limits::LARGEST_PACKET);
                }
                Ok(())
            }
            (_, Step::Segment { device, bytes, .. }) => guard::segment(self, device, *bytes),
            (Verb::Undo, Step::Slot { slot, .. }) => slot::undo(self, *slot),
            (Verb::Perform, Step::Slot { slot, flags, epoch }) => slot::perform(self, *slot, *flags, *epoch),
            (_, Step::Slot { slot, flags, .. }) => self.host.maps.set_flags(*slot, *flags),
            (Verb::Undo, Step::Binds { slot }) => sockets::leave(self, *slot),
            (Verb::Undo, Step::Offer { slot, .. }) => self.host.maps.withdraw_offer(*slot),
            (_, Step::Offer { slot, ports, limit }) => sockets::offer(self, *slot, ports, (*limit).into()),
            (Verb::Undo, Step::Names { slot, .. }) => naming::undo(self, *slot),
            (_, Step::Names { slot, names }) => naming::perform(self, *slot, names),
            (Verb::Undo, Step::Cpu(it)) => cpu::undo(it, self.doubtful),
            (_, Step::Cpu(it)) => cpu::perform(it),
            (Verb::Undo, Step::Steer { slot, ports }) => steer::undo(self, *slot, ports),
            (_, Step::Steer { slot, ports }) => steer::perform(self, *slot, ports),
            _ => match self.make {
                Some(make) => make(self, action),
                None => Err(no_part(step)),
            },
        }
    }

    fn look(&mut self, step: &Step) -> Result<Vec<String>> {
        match step {
            Step::Pair { mac, .. } => pair::look(self, *mac),
            Step::Queue { place, second, throttle, .. } => self.queue(*place, *second)?.look(*place, &throttle.shape),
            Step::Guard { .. } => guard::look(self),
            Step::Furnish(furniture) => furnish::look(self, furniture),
            Step::Segment { device, bytes, .. } => guard::look_at_segment(self, device, *bytes),
            Step::Slot { slot, flags, epoch } => slot::look(self, *slot, *flags, *epoch),
            Step::Binds { slot } => sockets::look(self, *slot),
            Step::Offer { slot, ports, limit } => sockets::look_at_offer(self, *slot, ports, (*limit).into()),
            Step::Names { slot, names } => naming::look(self, *slot, names),
            Step::Cpu(it) => cpu::look(it),
            Step::Steer { slot, ports } => Ok(steer::look(self, *slot, ports)),
            _ => Ok(Vec::new()),
        }
    }
}
