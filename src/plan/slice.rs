//! What a slice is made of: from its lease and the host's facts to the steps, in the order in which they are performed.

use super::limits;
use super::step::{CpuStep, Furniture, Step};
use crate::host::Given;
use crate::host::sysctl::{Setting, UNPRIVILEGED};
use crate::lease::{Lease, Member, Offer, State, Terms};
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
    /// What containers are given of the host.
    pub given: &'a Given,
    /// Which installation this is; see [`own_mac`].
    pub instance: u32,
    /// What packets wait in behind a limit.
    pub leaf: Leaf,
    /// Settings that the container brings along.
    pub own: &'a [String],
    /// Is bind() judged on this host?
    pub sockets: bool,
}

/// The steps of a whole slice. Queues come before their device is up: giving a live one another root qdisc waits for an RCU
/// grace period.
pub fn slice(lease: &Lease, around: &Surroundings<'_>) -> Vec<Step> {
    let mut steps = vec![pair(lease, around.instance, around.given.mac)];
    steps.extend(queues(lease.slot, &lease.terms, around.leaf));
    steps.extend([
        Step::Guard { slot: lease.slot },
        Step::Furnish(Box::new(furniture(lease, around.given, around.own))),
    ]);
    let rest = terms(lease, &lease.state(), around.leaf).into_iter();
    let (steer, rest): (Vec<_>, Vec<_>) =
        rest.filter(|step| !matches!(step, Step::Queue { .. })).partition(|step| matches!(step, Step::Steer { .. }));
    steps.extend(rest);
    if around.sockets {
        steps.push(Step::Binds { slot: lease.slot });
    }
    steps.extend(steer);
    steps
}

/// The steps of a slice as far as they can be told from the lease alone: for the way back.
pub fn known(lease: &Lease, instance: u32, leaf: Leaf) -> Vec<Step> {
    let mut steps = vec![pair(lease, instance, Mac::default())];
    steps.extend(queues(lease.slot, &lease.terms, leaf));
    steps.extend([Step::Guard { slot: lease.slot }, Step::Furnish(Box::new(furniture(lease, &Given::default(), &[])))]);
    let mut rest = terms(lease, &lease.state(), leaf);
    rest.retain(|step| !matches!(step, Step::Queue { .. }));
    // A change that was killed may have reached what it came from, or what it went to.
    if let Some(before) = &lease.before {
        let reached = offer(lease.slot, &before.open).into_iter().chain(names(lease.slot, before));
        for step in cpu(&before.members).into_iter().chain(reached) {
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
    rest.push(Step::Binds { slot: lease.slot });
    rest.sort_by_key(|step| matches!(step, Step::Steer { .. }));
    steps.extend(rest);
    steps
}

/// The step that makes what a slice carries of the host into what it is to carry. `last`: what it was given; `None` when
/// nobody knows any more. `fresh`: settings as namespaces have them that were given nothing.
pub fn follow(lease: &Lease, last: Option<&Given>, given: &Given, fresh: &[Setting]) -> Step {
    let whole = |given: &Given| {
        let others = fresh.iter().filter(|(key, _)| !given.copied.iter().any(|(copied, _)| copied == key));
        let copied = given.copied.iter().chain(others).cloned().collect();
        furniture(lease, &Given { copied, ..given.clone() }, &[])
    };
    Step::Furnish(Box::new(Furniture { last: last.map(|last| Box::new(whole(last))), ..whole(given) }))
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
    steps.extend(offer(lease.slot, &state.open));
    steps.extend(names(lease.slot, state));
    steps.push(Step::Steer { slot, ports: steered(lease, state) });
    steps
}

/// What the slice may claim, if anything.
pub fn offer(slot: u16, open: &Offer) -> Option<Step> {
    let step = Step::Offer { slot, ports: open.ports.clone(), limit: open.limit };
    (!open.ports.is_empty()).then_some(step)
}

/// The names of the slice's ports, if it has any.
pub fn names(slot: u16, state: &State) -> Option<Step> {
    let names = state.port_names();
    (!names.is_empty()).then_some(Step::Names { slot, names })
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

/// What a slice's namespace is given. `own`: settings that the container brings along.
fn furniture(lease: &Lease, given: &Given, own: &[String]) -> Furniture {
    Furniture {
        slot: lease.slot,
        device: lease.device.clone(),
        mac: given.mac,
        addresses: given.addresses.clone(),
        routes: given.routes.clone(),
        settings: settings(lease.block, &given.copied, own),
        own_ipv6: lease.found.own_ipv6,
        own_rp_filter: own.iter().any(|key| key.ends_with("rp_filter")),
        last: None,
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

/// The setting that holds a namespace's ephemeral ports.
pub const EPHEMERAL: &str = "ipv4/ip_local_port_range";

/// Settings of the container's namespace.
pub fn settings(block: Block, copied: &[Setting], own: &[String]) -> Vec<Setting> {
    let range = (EPHEMERAL.to_owned(), format!("{} {}", block.begin(), block.end()));
    let mut all: Vec<Setting> = [range].into_iter().chain(common(copied, own)).collect();
    // A namespace cannot have ephemeral ports below that one (net/ipv4/sysctl_net_ipv4.c, ipv4_privileged_ports).
    for (_, first) in all.iter_mut().filter(|(key, _)| key == UNPRIVILEGED) {
        if first.parse::<u16>().is_ok_and(|first| first > block.begin()) {
            *first = block.begin().to_string();
        }
    }
    all
}

/// Those of [`settings`] that are the same whatever the block is. A small block lives from quick reuse: without
/// `tcp_tw_reuse` each closed connection holds its port for 60 s against the same destination; the delay (Linux 6.12) is in
/// milliseconds. What the host or another container sends to 127.0.0.0/8 arrives on lo: [`LO_TAKES`].
pub fn common(copied: &[Setting], own: &[String]) -> Vec<Setting> {
    let [local, localnet] = LO_TAKES;
    let on = ["ipv4/tcp_tw_reuse", "ipv4/tcp_tw_reuse_delay", local, localnet];
    let mut all: Vec<Setting> = on.iter().map(|key| ((*key).to_owned(), "1".to_owned())).collect();
    all.extend_from_slice(copied);
    all.retain(|(key, _)| !own.contains(key));
    all
}

/// Lets lo take packets that come from and go to local addresses, 127.0.0.0/8 among them, although another namespace sent them.
pub const LO_TAKES: [&str; 2] = ["ipv4/conf/lo/accept_local", "ipv4/conf/lo/route_localnet"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::BlockSize;

    #[test]
    fn a_container_may_always_have_its_block_for_ephemeral_ports() {
        let block = Block::new(32768, BlockSize::new(1024).unwrap()).unwrap();
        for (host, inside) in [("0", "0"), ("1024", "1024"), ("32768", "32768"), ("32769", "32768"), ("65535", "32768")]
        {
            let copied = [(UNPRIVILEGED.to_owned(), host.to_owned())];
            let all = settings(block, &copied, &[]);
            assert_eq!(all[0], (EPHEMERAL.to_owned(), "32768 33791".to_owned()));
            assert_eq!(all.last(), Some(&(UNPRIVILEGED.to_owned(), inside.to_owned())), "{host}");
            assert!(!settings(block, &copied, &[UNPRIVILEGED.to_owned()]).iter().any(|(key, _)| key == UNPRIVILEGED));
        }
    }
}
