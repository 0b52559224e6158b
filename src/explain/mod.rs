//! Which way a packet takes, told in words: which program looks at it on which device, whose it is and why, what is counted.
//!
//! The answer is that of [`crate::steer::model`], run over what the maps say now. Nothing is sent. [`question`] reads what is asked
//! and makes the packet; the words stand in `words`. What does not live here: reading leases and maps of a host ([`crate::face`]).

pub mod question;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use self::question::Question;
use crate::error::{Error, Result};
use crate::net::link::Mac;
use crate::steer::model::packet::Frame;
use crate::steer::model::{Count, Decision, Hook, Memory, Verdict, World, decide, is_for_all, is_group};

/// For whom frames are that are for more than one; that of each group is like it in what decides.
const TO_MANY: Mac = [0xff; 6];

/// What slots and devices are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The host's devices by index.
    pub host: BTreeMap<u32, String>,
    /// Those whose packets have no header of the link before them.
    pub bare: BTreeSet<u32>,
    /// Containers by their slot.
    pub leases: BTreeMap<u16, String>,
    /// Ports that are not leased but claimed by sockets, and whether of UDP.
    pub claims: BTreeSet<(u16, bool)>,
    /// The device of each.
    pub devices: BTreeMap<u16, String>,
}

/// The way of one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The packet.
    pub packet: String,
    /// Who sends it.
    pub from: String,
    /// The programs that look at it, in this order. None where the host's own stack sends it out.
    pub steps: Vec<Step>,
}

/// What one program does with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The program.
    pub program: &'static str,
    /// The device it looks at.
    pub device: String,
    /// `stack`, `drop`, `answered`, `container`, `host`, `world`, `group`, `shaper`, `out`.
    pub verdict: &'static str,
    /// The container it goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// What happens and why, for people.
    pub text: String,
    /// What is counted.
    pub counters: Vec<Counter>,
}

/// One counter, and what is added to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// Whose.
    pub lease: String,
    /// As the statistics call it: `net_rx_packets`, or a reason of `net_dropped_reasons`.
    pub name: String,
    /// How much more.
    pub more: u64,
}

/// The way of the packet that is asked about. `from`: the slot of the container that sends it; otherwise its source tells whether
/// it comes from the wire, by the device that leads back there, or from a process of the host.
pub fn explain(world: &World, names: &Names, question: &Question, from: Option<u16>) -> Result<Explained> {
    let question = question.complete(world, from)?;
    let (source, destination) = question.ends();
    let local = world.is_local(destination);
    let back = world.path(source).filter(|path| !path.kind.refuses()).map(|path| path.device);
    let came_by = back.unwrap_or(world.host.uplink);
    let (sender, hook) = match from {
        // What is for an address that it carries itself begins on its own lo.
        Some(slot) if destination.is_loopback() || world.is_carried(destination) => {
            (names.lease(slot), Some(Hook::ContainerLo(slot)))
        }
        Some(slot) => (names.lease(slot), Some(Hook::Container(slot))),
        None if world.is_local(source) => ("a process of the host".into(), local.then_some(Hook::HostLo)),
        None => ("the wire".into(), Some(if names.bare.contains(&came_by) { Hook::Tunnel } else { Hook::Wire })),
    };
    let mut explained = Explained { packet: question.to_string(), from: sender, steps: Vec::new() };
    let (mut hook, mut mark) = (hook, 0);
    let mut memory = Memory::of(world);
    while let Some(at) = hook {
        let macs = match at {
            Hook::Wire if is_group(world, destination) || is_for_all(world, destination) => {
                (TO_MANY, [2, 0, 0, 0, 0, 1])
            }
            Hook::Wire => (world.mac(came_by).unwrap_or_default(), [2, 0, 0, 0, 0, 1]),
            Hook::Container(_) if explained.steps.is_empty() => ([2, 0, 0, 0, 0, 1], world.host.mac),
            _ => Default::default(),
        };
        let bytes = question.frame(macs);
        let device = from.map_or(came_by, |slot| world.slot(slot).ifindex);
        let frame = Frame { bytes: &bytes, device, mark, ..Frame::default() };
        let decision = decide(world, &mut memory, at, &frame, Duration::ZERO);
        explained.steps.push(names.step((at, device), &decision, &question));
        (hook, mark) = next(at, &decision, from.unwrap_or(0));
    }
    Ok(explained)
}

/// The next program that looks at a packet, and the mark that it has by then.
fn next(at: Hook, decision: &Decision, from: u16) -> (Option<Hook>, u32) {
    match (at, &decision.verdict) {
        (Hook::ContainerLo(slot), Verdict::Out) => (Some(Hook::Container(slot)), 0),
        (Hook::Container(_), Verdict::Shaper { to }) => (Some(Hook::Shaper), u32::from(from) | u32::from(*to) << 16),
        _ => (None, 0),
    }
}

/// An address of the host of a family, the uplink's first one.
fn own_address(world: &World, v6: bool) -> Result<IpAddr> {
    let ip = if v6 { IpAddr::from(world.host.v6[0]) } else { IpAddr::from(world.host.v4[0]) };
    let family = if v6 { "IPv6" } else { "IPv4" };
    let missing = || Error::Failed(format!("the host has no {family} address, so no packet of that family is steered"));
    Some(ip).filter(|ip| !ip.is_unspecified()).ok_or_else(missing)
}

impl Names {
    fn lease(&self, slot: u16) -> String {
        self.leases.get(&slot).cloned().unwrap_or_else(|| format!("slot {slot} (no lease)"))
    }

    fn leases(&self, slots: &[u16]) -> String {
        slots.iter().map(|slot| self.lease(*slot)).collect::<Vec<_>>().join(", ")
    }

    fn host(&self, device: u32) -> String {
        self.host.get(&device).cloned().unwrap_or_else(|| format!("device {device}"))
    }

    fn device(&self, hook: Hook, device: u32) -> String {
        let of = |slot: &u16| self.devices.get(slot).cloned().unwrap_or_else(|| format!("the device of slot {slot}"));
        match hook {
            Hook::Wire | Hook::Tunnel => self.host(device),
            Hook::HostLo => "lo".into(),
            Hook::Container(slot) => of(&slot),
            Hook::Shaper => "the far end of portslice-limit".into(),
            Hook::ContainerLo(slot) => format!("lo of {}", self.lease(slot)),
            Hook::ContainerDevice => "the container's device".into(),
        }
    }

    fn step(&self, (hook, device): (Hook, u32), decision: &Decision, question: &Question) -> Step {
        let lease = match decision.verdict {
            Verdict::Container { slot, .. } => Some(self.lease(slot)),
            _ => None,
        };
        let counters = decision.counts.iter().flat_map(|(slot, count)| self.counters(*slot, count)).collect();
        let text = words::told(self, hook, decision, question);
        let verdict = words::verdict(&decision.verdict);
        Step { program: hook.program(), device: self.device(hook, device), verdict, lease, text, counters }
    }

    fn counters(&self, slot: u16, count: &Count) -> Vec<Counter> {
        let counter = |name: &str, more| Counter { lease: self.lease(slot), name: name.to_owned(), more };
        match count {
            Count::Received(size) => {
                vec![counter("net_rx_packets", size.packets), counter("net_rx_bytes", size.bytes)]
            }
            Count::Sent(size) => vec![counter("net_tx_packets", size.packets), counter("net_tx_bytes", size.bytes)],
            Count::Refused(refusal) => vec![counter(&format!("net_dropped_reasons.{}", refusal.name()), 1)],
        }
    }
}
