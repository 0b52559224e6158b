//! Pure decisions: from a request, the ledger's index and the host's facts to a lease, and from a lease to the
//! ordered steps that make it work. Nothing here reads or writes anything.
//!
//! [`grant`] says what a container gets, [`limits`] how much it may send and receive, [`steer`] what the data path must know of the host, and this file in which
//! order things happen. Carrying steps out is [`crate::slice`]'s.

pub mod grant;
pub mod limits;
pub mod steer;

use std::net::IpAddr;

use crate::host::Facts;
use crate::host::sysctl::Setting;
use crate::lease::{Lease, Terms};
use crate::net::link::{self, Mac};
use crate::net::qdisc::{Leaf, Throttle};
use crate::plan::limits::Place;
use crate::ports::PortSet;
use crate::steer::SlotEntry;

/// MTU of both ends of a pair: the largest packet IPv4 can express, so that what programs send over loopback (lo has
/// 65536) passes between containers and host. Routes carry the uplink's MTU for everything that leaves the host.
pub const PAIR_MTU: u32 = 65535;

/// One step of an attach. Each knows its inverse, so that a plan can be undone from any point, and a lease from its
/// record alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the veth pair. Inverse: delete it.
    CreatePair {
        /// The host's end.
        name: String,
        /// Shown beside it.
        alias: String,
        /// The container's end.
        inner: String,
        /// Ethernet address of the host's end.
        mac: Mac,
        /// Ethernet address of the container's end.
        inner_mac: Mac,
    },
    /// Hold a direction to its limit. Inverse: take the class off the shaper; the rest goes with the pair.
    Throttle {
        /// Whose it is.
        slot: u16,
        /// Where.
        place: Place,
        /// To what.
        throttle: Throttle,
    },
    /// Filter what leaves the container, then bring up the host's end. Inverse: none, it goes with the pair.
    Guard {
        /// Handed to the program.
        slot: u16,
    },
    /// Configure the container's namespace. Inverse: take the filters off its lo; the rest goes with the pair.
    Furnish {
        /// Handed to the programs.
        slot: u16,
        /// The container's end.
        device: String,
        /// Addresses it carries.
        addresses: Vec<IpAddr>,
        /// What programs see in `ip route`.
        routes: Vec<InnerRoute>,
        /// The largest packet TCP may hand to the device, in bytes.
        largest_packet: u32,
        /// Settings under /proc/sys/net.
        sysctls: Vec<Setting>,
    },
    /// Let the data path know the container. Inverse: forget it.
    Occupy {
        /// Index in the maps.
        slot: u16,
        /// `SlotEntry` flags.
        flags: u32,
        /// Of the lease.
        epoch: u32,
    },
    /// Steer the ports, when everything behind them works. Inverse: stop steering them, before anything else goes.
    Publish {
        /// Whose they are.
        slot: u16,
        /// Block and assigned ports.
        ports: PortSet,
    },
}

/// A route of a container: straight out of its device, whose other end knows the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InnerRoute {
    /// Destination.
    pub destination: IpAddr,
    /// Its prefix length.
    pub prefix: u8,
    /// Source address for programs that do not choose.
    pub source: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// Largest packet towards it.
    pub mtu: u32,
}

/// The steps that make `lease` work, in order. `instance` is that of the host's record. `copied` are settings of the host that the container shall share, `own`
/// names those it brings along. Queues come before their device is up: giving a live one another root qdisc waits for an
/// RCU grace period.
pub fn attach(
    lease: &Lease,
    facts: &Facts,
    instance: u32,
    leaf: Leaf,
    copied: &[Setting],
    own: &[String],
) -> Vec<Step> {
    let slot = lease.slot;
    let mut steps = vec![Step::CreatePair {
        name: lease.link(),
        alias: lease.id.to_string(),
        inner: lease.device.clone(),
        mac: link::own_mac(instance, slot),
        // as on the host: what leaves the container carries it as source, and what comes for it as destination
        inner_mac: facts.mac,
    }];
    let queues = limits::queues(&lease.terms, leaf);
    steps.extend(queues.into_iter().map(|(place, throttle)| Step::Throttle { slot, place, throttle }));
    steps.extend([
        Step::Guard { slot },
        Step::Furnish {
            slot,
            device: lease.device.clone(),
            addresses: facts.addresses.clone(),
            routes: inner_routes(facts),
            largest_packet: limits::largest_packet(&lease.terms),
            sysctls: sysctls(lease, copied, own),
        },
        Step::Occupy { slot, flags: slot_flags(lease.host_loopback, &lease.terms), epoch: lease.epoch },
        Step::Publish { slot, ports: lease.all_ports() },
    ]);
    steps
}

/// Flags of a slot.
pub fn slot_flags(host_loopback: bool, terms: &Terms) -> u32 {
    [
        (host_loopback, SlotEntry::HOST_LOOPBACK),
        (terms.ingress.is_some(), SlotEntry::THROUGH_QDISC),
        (limits::need_shaper(terms), SlotEntry::SHAPED),
        (!terms.limit_local, SlotEntry::SPARE_LOCAL),
        (terms.second.egress, SlotEntry::EGRESS_SECOND),
        (terms.second.ingress, SlotEntry::INGRESS_SECOND),
    ]
    .into_iter()
    .filter_map(|(on, flag)| on.then_some(flag))
    .fold(0, |flags, flag| flags | flag)
}

/// The host's routes out of the uplink with the gateways left out. A host with very many (a routing daemon's full
/// table) is represented by its default routes.
fn inner_routes(facts: &Facts) -> Vec<InnerRoute> {
    const MANY: usize = 64;
    let mut routes: Vec<InnerRoute> = Vec::new();
    for route in &facts.routes {
        // fe80::/64 reaches only neighbours, and a container has no link-local address to reach them from
        let link_local = matches!(route.destination, IpAddr::V6(ip) if ip.segments()[0] & 0xffc0 == 0xfe80);
        if link_local || (facts.routes.len() > MANY && !route.is_default()) {
            continue;
        }
        let v6 = route.destination.is_ipv6();
        let Some(primary) = facts.primary(v6) else { continue };
        let inner = InnerRoute {
            destination: route.destination,
            prefix: route.prefix,
            source: Some(route.source.filter(|s| facts.addresses.contains(s)).unwrap_or(primary)),
            metric: route.metric,
            mtu: route.mtu.unwrap_or(facts.uplink.mtu).min(facts.uplink.mtu),
        };
        // several next hops of one route are one route out of one device
        let same =
            |r: &InnerRoute| (r.destination, r.prefix, r.metric) == (inner.destination, inner.prefix, inner.metric);
        if !routes.iter().any(same) {
            routes.push(inner);
        }
    }
    routes
}

/// Settings of the container's namespace. A small block lives from quick reuse: without `tcp_tw_reuse` each closed
/// connection holds its port for 60 s against the same destination; the delay (Linux 6.12) is in milliseconds.
fn sysctls(lease: &Lease, copied: &[Setting], own: &[String]) -> Vec<Setting> {
    let range = ("ipv4/ip_local_port_range".to_owned(), format!("{} {}", lease.block.begin(), lease.block.end()));
    let reuse = ["ipv4/tcp_tw_reuse", "ipv4/tcp_tw_reuse_delay"].map(|key| (key.to_owned(), "1".to_owned()));
    let shared = reuse.into_iter().chain(copied.iter().cloned()).filter(|(key, _)| !own.contains(key));
    [range].into_iter().chain(shared).collect()
}
