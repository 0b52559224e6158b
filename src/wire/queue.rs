//! One queue that holds a direction to its limit: making, changing and removing it without losing what waits in it.
//!
//! What does not live here: which limit ([`crate::plan::limits`]) and in which order with everything else.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Host, shaper};
use crate::error::{Error, Result};
use crate::net::link::Link;
use crate::net::qdisc::{self, Leaf, ONLY, Throttle};
use crate::net::{Netlink, Netns};
use crate::plan::limits::Place;
use crate::rate::{Rate, Shape};

/// A class more than this in debt cannot adopt a new rate promptly; its traffic moves to a second class.
const PATIENCE: Duration = Duration::from_millis(50);

/// There is no such device, qdisc or class: it is gone, as it should be.
const GONE: &[i32] = &[libc::ENODEV, libc::ENOENT, libc::EINVAL];

/// A class of an HTB, and a socket in its namespace.
pub struct Queue {
    netlink: Netlink,
    link: u32,
    name: String,
    minor: u16,
    /// The HTB is for this class alone, and comes and goes with it.
    alone: bool,
}

impl Queue {
    /// Of what goes to a container, on the host's end of its pair.
    pub fn ingress(outer: &Link, second: bool) -> Result<Self> {
        let netlink = Netlink::route()?;
        let minor = if second { ONLY + 1 } else { ONLY };
        Ok(Queue { netlink, link: outer.index, name: outer.name.clone(), minor, alone: true })
    }

    /// Of what a container sends, on its own end of the pair.
    pub fn inside(container: &Netns, outer: &Link, inner: &str) -> Result<Self> {
        // the socket stays in the namespace it was opened in
        let netlink = container.inside(Netlink::route)?;
        Ok(Queue { netlink, link: outer.peer.unwrap_or(0), name: inner.to_owned(), minor: ONLY, alone: true })
    }

    /// Of what the container of slot `slot` sends, on the host.
    pub fn shaper(host: &Host, slot: u16, second: bool) -> Result<Self> {
        let link = host.shaper.ok_or_else(|| {
            Error::Failed(format!("{} is gone: run `portslice setup`, which makes it anew", shaper::NAME))
        })?;
        let minor = shaper::class(slot, second);
        Ok(Queue { netlink: Netlink::route()?, link, name: shaper::NAME.to_owned(), minor, alone: false })
    }

    /// Would another rate have to wait? A packet of 64 KB at 64 kbit/s is a debt of 8 s, which HTB collects at whatever
    /// rate.
    pub fn owes(&mut self) -> Result<bool> {
        let load = qdisc::load(&mut self.netlink, self.link, &self.name, self.minor)?;
        Ok(load.is_some_and(|load| Duration::from_nanos(load.debt) > PATIENCE))
    }

    /// What differs from the plan.
    pub fn look(&mut self, place: Place, shape: &Shape) -> Result<Vec<String>> {
        let (rate, ceil) = (shape.rate.bytes_per_second(), shape.ceil.bytes_per_second());
        Ok(match qdisc::load(&mut self.netlink, self.link, &self.name, self.minor)? {
            None => vec![format!("the {place} queue ({}) is gone", shape.rate)],
            Some(load) if load.rates != (rate, ceil) => {
                let is = Rate::from_bits_per_second(load.rates.0.saturating_mul(8));
                vec![format!("the {place} queue ({}) holds to {is}", shape.rate)]
            }
            Some(_) => Vec::new(),
        })
    }

    /// Makes the queue, or changes it to `throttle` when it is there; what waits in it stays. A queue that gets shorter
    /// keeps room for what senders have under way already: they are made to wait by what waits here.
    pub fn set(&mut self, throttle: &Throttle) -> Result<()> {
        const UNDER_WAY: u64 = 256 << 10;
        let waits =
            qdisc::load(&mut self.netlink, self.link, &self.name, self.minor)?.map_or(0, |load| load.leaf.backlog);
        let room = if waits == 0 { 0 } else { u32::try_from(waits + UNDER_WAY).unwrap_or(u32::MAX) };
        let throttle = &Throttle { room: throttle.room.max(room), ..*throttle };
        let mut requests = Vec::new();
        if self.alone {
            requests.push(qdisc::add_htb(self.link, &self.name, ONLY).tolerate(&[libc::EEXIST]));
        }
        requests.push(qdisc::class(self.link, &self.name, self.minor, &throttle.shape));
        requests.push(qdisc::leaf(self.link, &self.name, self.minor, throttle));
        self.netlink.batch(&requests)
    }

    /// Removes the class as it may have been left: its counters, and its debts.
    pub fn clear(&mut self) -> Result<()> {
        self.netlink.send(qdisc::delete_class(self.link, &self.name, self.minor).tolerate(GONE))
    }

    /// Lets everything through at once. The queue stays, and what waits in it goes on its way.
    pub fn open(&mut self, shape: &Shape) -> Result<()> {
        let class = qdisc::class(self.link, &self.name, self.minor, &qdisc::wide_open(shape));
        self.netlink.send(class)
    }

    /// Packets that were dropped instead of queued.
    pub fn dropped(&mut self) -> Result<u64> {
        Ok(qdisc::load(&mut self.netlink, self.link, &self.name, self.minor)?.map_or(0, |load| load.leaf.drops))
    }

    /// Removes the queue, into which nobody sends any more, once nothing waits in it. What still waits for its class to
    /// pay its debts keeps it: it goes with its container.
    pub fn remove(&mut self) -> Result<()> {
        let start = Instant::now();
        while let Some(load) = qdisc::load(&mut self.netlink, self.link, &self.name, self.minor)?
            && load.leaf.backlog > 0
        {
            if start.elapsed() > PATIENCE {
                return Ok(());
            }
            sleep(Duration::from_millis(1));
        }
        let request = if self.alone {
            qdisc::delete_root(self.link, &self.name)
        } else {
            qdisc::delete_class(self.link, &self.name, self.minor)
        };
        self.netlink.send(request.tolerate(GONE))
    }
}

/// Takes the classes of `slot` off the shaper, if they are there, with whatever waits in them: its container is gone.
pub fn forget(host: &Host, netlink: &mut Netlink, slot: u16) -> Result<()> {
    let Some(link) = host.shaper else { return Ok(()) };
    let delete = |second| qdisc::delete_class(link, shaper::NAME, shaper::class(slot, second)).tolerate(GONE);
    netlink.batch(&[false, true].map(delete))
}

/// What packets of this host wait in; a refusal where the kernel has no HTB.
pub fn leaf(host: &Host, id: &impl std::fmt::Display) -> Result<Leaf> {
    host.leaf.ok_or_else(|| {
        Error::unsupported(
            format!("container {id} is to have a bandwidth limit, and this kernel lacks the HTB qdisc"),
            "modprobe sch_htb, then `portslice setup`; or leave limits out of its annotations and the configuration",
        )
    })
}
