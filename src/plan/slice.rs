//! What a slice is made of: from its lease and the host's facts to the steps, in the order in which they are performed.

use std::net::IpAddr;

use super::limits;
use super::step::{CpuStep, Furniture, InnerRoute, Step};
use crate::host::Facts;
use crate::host::sysctl::Setting;
use crate::lease::{Lease, Member, State, Terms};
use crate::net::link::{Mac, own_mac};
use crate::net::qdisc::Leaf;
use crate::ports::{Block, PortSet};
use crate::steer::SlotEntry;

/// MTU of both ends of a pair: the largest packet IPv4 can express, so that what programs send over loopback (lo has
/// 65536) passes between containers and host. Routes carry the uplink's MTU for everything that leaves the host.
pub const PAIR_MTU: u32 = 65535;

/// What a plan needs to know besides the lease.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The host as it is now.
    pub facts: &'a Facts,
    /// Which installation this is; see [`own_mac`].
    pub instance: u32,
    /// What packets wait in behind a limit.
    pub leaf: Leaf,
    /// Settings of the host that containers share.
    pub copied: &'a [Setting],
    /// Settings that the container brings along.
    pub own: &'a [String],
}

/// The steps of a whole slice. Queues come before their device is up: giving a live one another root qdisc waits for an RCU
/// grace period.
pub fn slice(lease: &Lease, around: &Surroundings<'_>) -> Vec<Step> {
    let facts = around.facts;
    let mut steps = vec![pair(lease, around.instance, facts.mac)];
    steps.extend(queues(lease.slot, &lease.terms, around.leaf));
    steps.extend([
        Step::Guard { slot: lease.slot },
        Step::Furnish(Box::new(Furniture {
            slot: lease.slot,
            device: lease.device.clone(),
            addresses: facts.addresses.clone(),
            routes: inner_routes(facts),
            settings: settings(lease.block, around.copied, around.own),
            own_ipv6: around.own.iter().any(|key| key.ends_with("disable_ipv6")),
        })),
    ]);
    steps.extend(
        terms(lease, &lease.state(), around.leaf).into_iter().filter(|step| !matches!(step, Step::Queue { .. })),
    );
    steps
}

/// The steps of a slice as far as they can be told from the lease alone: for the way back.
pub fn known(lease: &Lease, instance: u32, leaf: Leaf) -> Vec<Step> {
    let mut steps = vec![pair(lease, instance, Mac::default())];
    steps.extend(queues(lease.slot, &lease.terms, leaf));
    steps.extend([
        Step::Guard { slot: lease.slot },
        Step::Furnish(Box::new(Furniture {
            slot: lease.slot,
            device: lease.device.clone(),
            addresses: Vec::new(),
            routes: Vec::new(),
            settings: Vec::new(),
            own_ipv6: false,
        })),
    ]);
    let mut rest = terms(lease, &lease.state(), leaf);
    rest.retain(|step| !matches!(step, Step::Queue { .. }));
    // A change that was killed may have reached what it came from, or what it went to.
    if let Some(before) = &lease.before {
        for step in cpu(&before.members) {
            if !rest.iter().any(|other| other.same_place(&step)) {
                rest.push(step);
            }
        }
    }
    for step in &mut rest {
        if let Step::Steer { ports, .. } = step {
            *ports = lease.all_ports();
        }
    }
    rest.sort_by_key(|step| matches!(step, Step::Steer { .. }));
    steps.extend(rest);
    steps
}

/// The steps that a change may alter, for the bandwidth and the members in `state`.
pub fn terms(lease: &Lease, state: &State, leaf: Leaf) -> Vec<Step> {
    let slot = lease.slot;
    let mut steps = queues(slot, &state.terms, leaf);
    let bytes = limits::largest_packet(&state.terms);
    if bytes < limits::LARGEST_PACKET {
        steps.push(Step::Segment { slot, device: lease.device.clone(), bytes });
    }
    steps.push(Step::Slot { slot, flags: slot_flags(lease.host_loopback, &state.terms), epoch: lease.epoch });
    steps.extend(cpu(&state.members));
    steps.push(Step::Steer { slot, ports: steered(lease, state) });
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

/// The ports that lead to the container: its block, and what its members listen on.
pub fn steered(lease: &Lease, state: &State) -> PortSet {
    state.ports().union(&lease.block.range().into())
}

fn pair(lease: &Lease, instance: u32, inner_mac: Mac) -> Step {
    Step::Pair {
        slot: lease.slot,
        alias: lease.id.to_string(),
        mac: own_mac(instance, lease.slot),
        inner: lease.device.clone(),
        inner_mac,
    }
}

fn queues(slot: u16, terms: &Terms, leaf: Leaf) -> Vec<Step> {
    let step = |(place, throttle)| {
        let second = if place == limits::Place::Ingress { terms.second.ingress } else { terms.second.egress };
        Step::Queue { slot, place, second, throttle }
    };
    limits::queues(terms, leaf).into_iter().map(step).collect()
}

fn cpu(members: &[Member]) -> Vec<Step> {
    let touched = |member: &&Member| !member.cpu.is_untouched();
    let step = |member: &Member| {
        Step::Cpu(Box::new(CpuStep {
            member: member.id.clone(),
            cgroups: member.cgroups.clone(),
            terms: member.cpu.clone(),
        }))
    };
    members.iter().filter(touched).map(step).collect()
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

/// The setting that holds a namespace's ephemeral ports.
pub const EPHEMERAL: &str = "ipv4/ip_local_port_range";

/// Settings of the container's namespace.
pub fn settings(block: Block, copied: &[Setting], own: &[String]) -> Vec<Setting> {
    let range = (EPHEMERAL.to_owned(), format!("{} {}", block.begin(), block.end()));
    [range].into_iter().chain(common(copied, own)).collect()
}

/// Those of [`settings`] that are the same whatever the block is. A small block lives from quick reuse: without
/// `tcp_tw_reuse` each closed connection holds its port for 60 s against the same destination; the delay (Linux 6.12) is in
/// milliseconds.
pub fn common(copied: &[Setting], own: &[String]) -> Vec<Setting> {
    let reuse = ["ipv4/tcp_tw_reuse", "ipv4/tcp_tw_reuse_delay"].map(|key| (key.to_owned(), "1".to_owned()));
    reuse.into_iter().chain(copied.iter().cloned()).filter(|(key, _)| !own.contains(key)).collect()
}
