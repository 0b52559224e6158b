//! What the maps say: who has which port, what leads where, and what the host is like.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Tenant;
use super::packet::UDP;
use crate::error::Result;
use crate::net::link::{Mac, Sources};
use crate::net::route::{Kind, is_in};
use crate::steer::layout::{Addresses, Holder, HostFacts, SlotEntry};
use crate::steer::maps::Maps;

/// A port: of UDP, or of TCP and everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Is it UDP's?
    pub udp: bool,
}

/// What the host's routes say of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Its first address, and the length of its prefix.
    pub network: (IpAddr, u8),
    /// What becomes of a packet.
    pub kind: Kind,
    /// The device it leaves by.
    pub device: u32,
    /// Bytes of the largest packet that goes that way.
    pub mtu: u32,
}

/// What the maps say at one moment, and what the kernel says of ways that stand in no map.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The host, the usual way out of it among it.
    pub host: HostFacts,
    /// The host's routes, for what the programs ask the kernel.
    pub paths: Vec<Path>,
    /// Ethernet addresses of the host's devices beside the uplink.
    pub beside: BTreeMap<u32, Mac>,
    /// Which sources the host takes packets from on these.
    pub sources: BTreeMap<u32, Sources>,
    /// Slots by the port that is steered to them.
    pub ports: BTreeMap<Port, u16>,
    /// UDP ports that somebody has without that anything is steered there.
    pub kept: BTreeSet<u16>,
    /// UDP ports that are steered to somebody who shares them.
    pub shared: BTreeSet<u16>,
    /// Slots in service.
    pub slots: BTreeMap<u16, SlotEntry>,
    /// The devices of slots, as long as they exist.
    pub devices: BTreeMap<u16, u32>,
    /// Addresses of the host, and those for all on its networks.
    pub addresses: Addresses,
    /// Ports by protocol that sockets inside wait at for anybody, by slot.
    pub listening: BTreeSet<(u16, u8, u16)>,
    /// Groups that containers have joined before the first packet, by slot.
    pub joined: BTreeSet<(u16, IpAddr)>,
}

impl World {
    /// What the maps say now. What sockets wait at stands in no map, and what is joined in one of the programs' own.
    pub fn of(maps: &Maps) -> Result<Self> {
        let mut world = World { host: maps.host()?, addresses: maps.addresses()?, ..World::default() };
        for number in 0..=u16::MAX {
            for udp in [false, true] {
                world.ports.extend(maps.steered(number, udp).map(|slot| (Port { number, udp }, slot)));
            }
            match (maps.steered(number, true), maps.is_shared(number)) {
                (None, false) => drop(world.kept.insert(number)),
                (Some(_), true) => drop(world.shared.insert(number)),
                _ => {}
            }
        }
        for slot in world.ports.values().copied().collect::<BTreeSet<_>>() {
            world.slots.insert(slot, maps.slot(slot)?);
            world.devices.extend(maps.device(slot)?.map(|device| (slot, device)));
        }
        Ok(world)
    }

    /// The most special route to an address.
    pub fn path(&self, to: IpAddr) -> Option<&Path> {
        self.paths.iter().filter(|path| is_in(to, path.network)).max_by_key(|path| path.network.1)
    }

    /// The Ethernet address of a device of the host.
    pub fn mac(&self, device: u32) -> Option<Mac> {
        if device == self.host.uplink { Some(self.host.mac) } else { self.beside.get(&device).copied() }
    }

    /// Which sources the host takes packets from that come in by a device.
    pub fn sources(&self, device: u32) -> Sources {
        if device == self.host.uplink {
            return Sources::of(self.host.flags >> HostFacts::SOURCES & 3, 0);
        }
        self.sources.get(&device).copied().unwrap_or_default()
    }

    /// The slot that has the port `number` of a protocol.
    pub fn owner(&self, number: u16, protocol: u8) -> Option<u16> {
        self.ports.get(&Port { number, udp: protocol == UDP }).copied()
    }

    /// Makes a slot the owner of a port of both protocols.
    pub fn steer(&mut self, number: u16, slot: u16) {
        self.ports.extend([false, true].map(|udp| (Port { number, udp }, slot)));
    }

    /// A slot's entry; all zeros where nobody is.
    pub fn slot(&self, slot: u16) -> SlotEntry {
        self.slots.get(&slot).copied().unwrap_or_default()
    }

    /// The tenant of a slot.
    pub fn tenant(&self, slot: u16) -> Tenant {
        Tenant { slot, epoch: self.slot(slot).epoch }
    }

    /// Is its device there? A container that ended may still have its lease: what comes for it is the host's to refuse.
    pub fn runs(&self, slot: u16) -> bool {
        let entry = self.slot(slot);
        entry.ifindex != 0 && self.devices.get(&slot) == Some(&entry.ifindex)
    }

    /// Has a slot a flag of [`SlotEntry`]?
    pub fn has(&self, slot: u16, flag: u32) -> bool {
        self.slot(slot).flags & flag != 0
    }

    /// Is it an address that containers carry?
    pub fn is_carried(&self, ip: IpAddr) -> bool {
        self.addresses.get(&ip) == Some(&Holder::Containers)
    }

    /// Does what is sent there stay on this host?
    pub fn is_local(&self, ip: IpAddr) -> bool {
        let is_own = |holder| matches!(holder, Some(Holder::Containers | Holder::Host));
        super::address::is_loopback(ip) || is_own(self.addresses.get(&ip).copied())
    }
}
