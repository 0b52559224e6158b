//! What the data path has to decide, said in Rust: whose a packet is, where it goes, why, and what is counted.
//!
//! It follows from the conversation (both addresses, both ports, where it came in) and from what the maps say of the host, never
//! from how the programs in `bpf/` find it out: those take short cuts, and this is what they are compared with. [`packet`] reads
//! a frame, [`memory`] is what is remembered between two, [`world`] what the maps say; `inbound`, `outbound` and `inside` decide,
//! one file for each side of a container, `groups` who gets what is for many, and `way` by which way a packet leaves the host. What does not live here: words for people ([`crate::explain`]).

mod address;
mod groups;
mod inbound;
mod inside;
pub mod memory;
mod outbound;
pub mod packet;
mod size;
mod way;
pub mod world;

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use super::layout::REASONS;
pub use address::{is_for_all, is_group};
pub use inside::KEPT;
pub use memory::Memory;
use memory::Tenant;
use packet::Frame;
pub use world::World;

/// Where a program looks at a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A device of the host whose frames are Ethernet's, on its way in: the uplink, or one beside it.
    Wire,
    /// A device whose packets have no such header, on its way in. One is put before them that a container can read.
    Tunnel,
    /// The host's lo.
    HostLo,
    /// The host's end of a container's pair: what the container in this slot sends.
    Container(u16),
    /// Behind the shaper, for packets that waited for their container's turn.
    Shaper,
    /// The lo of the container in this slot.
    ContainerLo(u16),
    /// The container's own device, on its way in.
    ContainerDevice,
}

impl Hook {
    /// The program that sits there.
    pub fn program(self) -> &'static str {
        match self {
            Hook::Wire => "from_wire",
            Hook::Tunnel => "from_tunnel",
            Hook::HostLo => "from_lo",
            Hook::Container(_) => "from_container",
            Hook::Shaper => "after_shaper",
            Hook::ContainerLo(_) => "inner_lo",
            Hook::ContainerDevice => "inner_eth",
        }
    }
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the stack of the namespace that it is in.
    Stack,
    /// A copy to each of these containers, and on to the stack.
    Copies(Vec<u16>),
    /// Nowhere.
    Drop,
    /// To a container.
    Container {
        /// Its slot.
        slot: u16,
        /// Does it wait behind the container's ingress limit?
        limited: bool,
    },
    /// To a process of the host, by its lo.
    Host,
    /// Out of a device, to the next hop that the host's routes tell.
    World {
        /// Its index.
        device: u32,
    },
    /// Nowhere, and the sender is told, by an ICMP error from the host's own address.
    Answered(Told),
    /// Out of a device to a group of receivers, or to all, those on this host among them.
    Group {
        /// Its index.
        device: u32,
        /// The containers that get a copy.
        copies: Vec<u16>,
        /// Do processes of the host get one?
        host: bool,
    },
    /// To the shaper, where it waits for its container's turn. `to`: the slot it is for, 0 for the host or the world.
    Shaper {
        /// Its slot.
        to: u16,
    },
    /// Out of the container's lo, to the host's side.
    Out,
    /// To the container's lo.
    Lo,
}

impl Verdict {
    /// The containers that get a copy.
    pub fn copies(&self) -> &[u16] {
        match self {
            Verdict::Copies(slots) | Verdict::Group { copies: slots, .. } => slots,
            _ => &[],
        }
    }
}

/// What the sender of a packet is told that does not leave the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// No route leads there.
    NoRoute,
    /// A route says that it cannot be reached.
    Unreachable,
    /// A route says that it is forbidden.
    Prohibited,
    /// Packets that way have at most so many bytes.
    TooBig(u32),
}

/// Why it goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is no IP packet.
    NotIp,
    /// It is cut short, or contradicts itself.
    Malformed,
    /// It is for an address that containers do not have.
    Elsewhere,
    /// Its frame is for another MAC, or for a VLAN.
    OtherFrame,
    /// No container has the port, or what stands for it.
    Nobodys,
    /// The port is this one's.
    Port(u16),
    /// The first fragment of its datagram went there.
    FirstFragment,
    /// It is an error about a packet that this one sent.
    Quoted,
    /// They asked for this echo.
    Asked,
    /// It is for a group that they are in, or for everybody, and its port is theirs.
    Many,
    /// It is what a container sent to many: the host's copy.
    HostsCopy,
    /// Nobody asked for this echo.
    NobodyAsked,
    /// Its container has no device any more.
    Ended,
    /// No packet from the wire may come from its source.
    Martian,
    /// Nor may one with its source come by that device: no route leads back so (`rp_filter`).
    NoWayBack,
    /// The slot is no container's, or the device is not the slot's.
    Inert,
    /// The container may send it.
    Own,
    /// A wall: [`Why::refusal`].
    Refused(Refusal),
    /// A socket in the container waits for it.
    Listened,
    /// It is for the container alone.
    Inner,
    /// It is for loopback, which only lo may carry.
    Loopback,
}

/// Why a container may not send a packet, in the order of [`REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The source is no address of the container's.
    SourceAddress,
    /// The source port is not the container's.
    SourcePort,
    /// The source MAC is not the container's.
    SourceMac,
    /// A protocol that has neither ports nor echoes, or a VLAN tag.
    Protocol,
    /// What neighbours on a link tell each other: the host speaks for the container.
    Neighbor,
    /// An ICMP message that is no error about a packet it got.
    Icmp,
    /// An echo reply: the host answers for the container.
    Echo,
    /// A part of a datagram whose first one did not go, or too much is unfinished.
    Fragment,
    /// Cut short, or it contradicts itself.
    Malformed,
    /// The host's loopback, which this container may not reach.
    HostLoopback,
    /// Larger than the way takes.
    Oversize,
    /// No route leads there, or one that refuses.
    Unreachable,
}

impl Refusal {
    /// As counters are named.
    pub fn name(self) -> &'static str {
        REASONS[self as usize]
    }
}

/// What is counted of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// The container received it.
    Received(Size),
    /// The container sent it.
    Sent(Size),
    /// It was refused.
    Refused(Refusal),
}

/// What a packet is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Packets: the segments of a large one.
    pub packets: u64,
    /// Bytes, with Ethernet headers; each segment has its own headers.
    pub bytes: u64,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it goes.
    pub verdict: Verdict,
    /// Why.
    pub why: Why,
    /// What is counted, by slot.
    pub counts: Vec<(u16, Count)>,
    /// The address that it goes on from, where that is another one.
    pub source: Option<IpAddr>,
}

impl Decision {
    fn of(verdict: Verdict, why: Why) -> Self {
        Self { verdict, why, counts: Vec::new(), source: None }
    }

    fn counting(mut self, slot: u16, count: Count) -> Self {
        self.counts.push((slot, count));
        self
    }

    fn refused(slot: u16, refusal: Refusal) -> Self {
        Self::of(Verdict::Drop, Why::Refused(refusal)).counting(slot, Count::Refused(refusal))
    }
}

/// What becomes of a packet at a hook.
pub fn decide(world: &World, memory: &mut Memory, hook: Hook, frame: &Frame<'_>, now: Duration) -> Decision {
    match hook {
        Hook::Wire => inbound::from_wire(world, memory, frame, now),
        Hook::Tunnel => inbound::from_tunnel(world, memory, frame, now),
        Hook::HostLo => inbound::from_lo(world, memory, frame, now),
        Hook::Container(slot) => outbound::from_container(world, memory, slot, frame, now),
        Hook::Shaper => outbound::after_shaper(world, memory, frame),
        Hook::ContainerLo(slot) => inside::from_lo(world, memory, slot, frame, now),
        Hook::ContainerDevice => inside::from_device(frame),
    }
}
