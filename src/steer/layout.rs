//! What the programs and user space share: the values of the maps, as `bpf/maps.h` lays them out.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::format::{Known, RAISED};
use crate::net::link::Mac;

/// Largest number of containers on a host, plus one: slot 0 is the host (`MAX_SLOTS`).
pub const MAX_SLOTS: u16 = 4096;

/// Most addresses of a host, of all its devices together (`MAX_ADDRESSES`).
pub const MAX_ADDRESSES: usize = 16_384;

/// What an address is to the host: the values of the map `addresses` (`struct whose`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Of the host and of every container.
    Containers,
    /// Of the host alone: containers can carry only so many, or are to carry only some.
    Host,
    /// Nobody's: it is for all on a network of the host, the uplink's first one not counted, so no packet comes from there.
    Many {
        /// Index of the device that the network is on; 0 for none that packets leave by.
        device: u32,
        /// Bytes of an IP packet that it takes.
        mtu: u32,
    },
}

impl Holder {
    /// Bytes of a value.
    pub(super) const BYTES: usize = 12;

    /// `None` for a value of programs to come.
    pub(super) fn of(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        match word(0) {
            1 => Some(Holder::Containers),
            2 => Some(Holder::Host),
            4 => Some(Holder::Many { device: word(4), mtu: word(8) }),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let words: [u32; 3] = match self {
            Holder::Containers => [1, 0, 0],
            Holder::Host => [2, 0, 0],
            Holder::Many { device, mtu } => [4, device, mtu],
        };
        let mut bytes = [0; Self::BYTES];
        bytes.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
        bytes
    }
}

/// All the addresses that the programs know of.
pub type Addresses = BTreeMap<IpAddr, Holder>;

/// Raised when a map's layout changes: programs of two layouts cannot share maps. A value may only grow at its end, and zero
/// there has to mean what was before: [`super::convert`] copies what stands in the older maps, and knows the one map whose words
/// mean something else by now, `ports` (until layout 7).
pub const LAYOUT: u32 = 10 + RAISED;

/// The layouts whose maps this version takes over.
pub const LAYOUTS: Known = Known { oldest: 3, newest: LAYOUT };

/// Why the data path dropped a packet of a container, in the order of `enum reason`.
pub const REASONS: [&str; 12 + RAISED as usize] = [
    "source_address",
    "source_port",
    "source_mac",
    "protocol",
    "neighbor",
    "icmp",
    "echo",
    "fragment",
    "malformed",
    "host_loopback",
    "oversize",
    "unreachable",
    #[cfg(raised)]
    "raised",
];

/// `struct host`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Interface index of the uplink.
    pub uplink: u32,
    /// `HOST_*`.
    pub flags: u32,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Of the uplink and of every container.
    pub mac: Mac,
    /// Unused.
    pub pad: u16,
    /// IPv4 primary address, on-link network, its mask and the gateway, in network byte order; 0 for none.
    pub v4: [[u8; 4]; 4],
    /// The broadcast address of the uplink's network; 0 for none.
    pub v4_broadcast: [u8; 4],
    /// The same for IPv6.
    pub v6: [[u8; 16]; 4],
    /// Interface index of the device that the host's routes are asked from; 0 where they all lead out of the uplink.
    pub fib: u32,
    /// Unused.
    pub pad2: u32,
    /// Networks for which they are asked although the gateway is known, each with its mask.
    pub v4_beside: [[[u8; 4]; 2]; BESIDE_V4],
    /// The same for IPv6.
    pub v6_beside: [[[u8; 16]; 2]; BESIDE_V6],
    /// The uplink's own address on its link; all zeros for none.
    pub v6_link: [u8; 16],
}

/// How many of `v4_beside` there are (`BESIDE_V4`).
pub const BESIDE_V4: usize = 8;

/// How many of `v6_beside` there are (`BESIDE_V6`).
pub const BESIDE_V6: usize = 4;

impl HostFacts {
    /// redirect_peer may be used for packets from lo.
    pub const PEER_FROM_LO: u32 = 1;
    /// `v4[0]` is the host's only IPv4 address.
    pub const ONE_V4: u32 = 2;
    /// `v6[0]` is the host's only IPv6 address.
    pub const ONE_V6: u32 = 4;
    /// `v4[1..]` describe all IPv4 routes but for `v4_beside`.
    pub const NEXTHOP_V4: u32 = 8;
    /// `v6[1..]` describe all IPv6 routes but for `v6_beside`.
    pub const NEXTHOP_V6: u32 = 16;
    /// The uplink's root qdisc gives each container a flow of its own.
    pub const FAIR: u32 = 32;
    /// `v4_beside` has something.
    pub const BESIDE_V4: u32 = 64;
    /// `v6_beside` has something.
    pub const BESIDE_V6: u32 = 128;
    /// From this bit on: how the sources of what comes in by the uplink are looked at (`net::link::Sources`).
    pub const SOURCES: u32 = 8;
}

/// `struct slot`, but for what only the programs use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotEntry {
    /// The host's end of the pair; 0 takes the slot out of service.
    pub ifindex: u32,
    /// The container's end.
    pub inner: u32,
    /// `SLOT_*`.
    pub flags: u32,
    /// Of the lease.
    pub epoch: u32,
}

impl SlotEntry {
    /// Bytes of a value. Behind what is here stands what the programs note of the slot; zeros there mean nothing was noted.
    pub(super) const BYTES: usize = 24;

    /// Deliver through the veth's egress qdisc.
    pub const THROUGH_QDISC: u32 = 1;
    /// May reach the host through 127.0.0.0/8 and ::1.
    pub const HOST_LOOPBACK: u32 = 2;
    /// What it sends waits its turn in the shaper.
    pub const SHAPED: u32 = 4;
    /// Its limits do not count what stays on the host.
    pub const SPARE_LOCAL: u32 = 8;
    /// What it sends goes to its second class.
    pub const EGRESS_SECOND: u32 = 16;
    /// What it receives goes to its second class.
    pub const INGRESS_SECOND: u32 = 32;

    pub(super) fn of(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { ifindex: word(0), inner: word(4), flags: word(8), epoch: word(12) }
    }

    pub(super) fn bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.ifindex, self.inner, self.flags, self.epoch];
        bytes.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
        bytes
    }
}

/// `struct counters` summed over all CPUs: packets and bytes as on the wire, rx = received by the container.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets delivered to the container.
    pub rx_packets: u64,
    /// Their bytes, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets of the container that went on.
    pub tx_packets: u64,
    /// Their bytes, Ethernet headers included.
    pub tx_bytes: u64,
    /// Packets of the container that were dropped, by [`REASONS`].
    pub drops: [u64; REASONS.len()],
}

const _: () = assert!(size_of::<HostFacts>() == 104 + 8 + 8 * BESIDE_V4 + 32 * BESIDE_V6 + 16);
const _: () = assert!(size_of::<Counters>() == 8 * (4 + REASONS.len()));

impl HostFacts {
    /// As the map holds them.
    pub(super) fn bytes(&self) -> [u8; size_of::<HostFacts>()] {
        let mut bytes = [0; size_of::<HostFacts>()];
        bytes[0..4].copy_from_slice(&self.uplink.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.mtu.to_ne_bytes());
        bytes[12..18].copy_from_slice(&self.mac);
        bytes[20..36].copy_from_slice(self.v4.as_flattened());
        bytes[36..40].copy_from_slice(&self.v4_broadcast);
        bytes[40..104].copy_from_slice(self.v6.as_flattened());
        bytes[104..108].copy_from_slice(&self.fib.to_ne_bytes());
        bytes[112..176].copy_from_slice(self.v4_beside.as_flattened().as_flattened());
        bytes[176..304].copy_from_slice(self.v6_beside.as_flattened().as_flattened());
        bytes[304..320].copy_from_slice(&self.v6_link);
        bytes
    }

    /// What the map holds.
    pub(super) fn of_bytes(bytes: &[u8; size_of::<HostFacts>()]) -> Self {
        let word = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        let address = |at: usize| std::array::from_fn(|i| bytes[at + i]);
        Self {
            uplink: u32::from_ne_bytes(word(0)),
            flags: u32::from_ne_bytes(word(4)),
            mtu: u32::from_ne_bytes(word(8)),
            mac: std::array::from_fn(|i| bytes[12 + i]),
            pad: 0,
            v4: std::array::from_fn(|i| word(20 + 4 * i)),
            v4_broadcast: word(36),
            v6: std::array::from_fn(|i| address(40 + 16 * i)),
            fib: u32::from_ne_bytes(word(104)),
            pad2: 0,
            v4_beside: std::array::from_fn(|i| [word(112 + 8 * i), word(116 + 8 * i)]),
            v6_beside: std::array::from_fn(|i| [address(176 + 32 * i), address(192 + 32 * i)]),
            v6_link: address(304),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_as_they_are_written() {
        let facts = HostFacts {
            uplink: 2,
            flags: HostFacts::ONE_V4,
            mtu: 1500,
            mac: [1, 2, 3, 4, 5, 6],
            pad: 0,
            v4: [[10, 0, 0, 2], [10, 0, 0, 0], [255, 0, 0, 0], [10, 0, 0, 1]],
            v4_broadcast: [10, 255, 255, 255],
            v6: [[1; 16], [2; 16], [3; 16], [4; 16]],
            fib: 3,
            pad2: 0,
            v4_beside: std::array::from_fn(|i| [[i as u8; 4], [255; 4]]),
            v6_beside: std::array::from_fn(|i| [[i as u8; 16], [255; 16]]),
            v6_link: [9; 16],
        };
        assert_eq!(HostFacts::of_bytes(&facts.bytes()), facts);
    }

    #[test]
    fn reasons_follow_the_enum() {
        let header = include_str!("bpf/maps.h");
        let names: Vec<String> = header
            .lines()
            .filter_map(|l| l.trim().strip_prefix("R_"))
            .filter(|l| cfg!(raised) || *l != "RAISED,")
            .filter_map(|l| l.strip_suffix(','))
            .map(str::to_lowercase)
            .collect();
        assert_eq!(names, REASONS);
    }
}
