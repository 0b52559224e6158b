//! What a decision of the model looks like from outside a program, and whether a program did that.

use super::answer;
use super::case::{Episode, Sample};
use super::machine::{Machine, Outcome, PRIORITY};
use portslice::steer::model::packet::{Content, Icmp, Packet};
use portslice::steer::model::{Count, Decision, Hook, Memory, Verdict, Why, World, decide};
use portslice::steer::{Counters, HostFacts, SlotEntry};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// The mark of what inner_eth gives to lo.
const KEPT: u32 = portslice::steer::model::KEPT;
/// What is remembered ages: an episode that took longer is run again.
const SLOW: Duration = Duration::from_secs(2);

/// A packet that the two decide differently.
pub struct Difference {
    /// Its number in the episode.
    pub at: usize,
    /// What tells it from others.
    pub kind: String,
    /// What the model says, and what the program did.
    pub text: String,
}

/// Runs an episode through both.
pub fn differs(machine: &mut Machine, episode: &Episode) -> Option<Difference> {
    loop {
        let begun = Instant::now();
        let difference = once(machine, episode);
        if begun.elapsed() < SLOW {
            return difference;
        }
    }
}

fn once(machine: &mut Machine, episode: &Episode) -> Option<Difference> {
    let world = machine.begin(episode);
    let mut memory = Memory::default();
    let begun = Instant::now();
    for (at, sample) in episode.samples.iter().enumerate() {
        let device = machine.device(&world, sample);
        // Whatever reaches the shaper was read before, and its source is the container's.
        let frame = sample.frame(device);
        let looped = |packet: &Packet| packet.source.is_loopback() && packet.destination.is_loopback();
        let reports = |packet: &Packet| {
            packet.content == Content::Icmp(Icmp::Group)
                && packet.destination.is_multicast()
                && (packet.source.is_unspecified() || packet.source == link(&world))
        };
        let was_passed = |packet: Packet| world.is_carried(packet.source) || looped(&packet) || reports(&packet);
        if sample.hook == Hook::Shaper && !frame.packet().is_some_and(was_passed) {
            continue;
        }
        let decision = decide(&world, &mut memory, sample.hook, &frame, begun.elapsed());
        machine.decided.insert(std::mem::discriminant(&decision.verdict));
        let done = match machine.run(device, sample) {
            Ok(done) => done,
            Err(e) => {
                let text = format!("the kernel does not run it: {e}");
                return Some(Difference { at, kind: text.clone(), text });
            }
        };
        let wanted = wanted(&world, device, sample, &decision, &done);
        if wanted != done {
            let kind = format!("{} {:?} {}", sample.hook.program(), decision.why, done.action);
            let text = format!("{decision:?}\n  wanted {}\n  done   {}", text(&wanted), text(&done));
            return Some(Difference { at, kind, text });
        }
    }
    None
}

fn text(outcome: &Outcome) -> String {
    let Outcome { action, bytes, mark, priority, counted } = outcome;
    let macs: Vec<String> = bytes.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    let counted: Vec<String> = counted
        .iter()
        .map(|(slot, c)| {
            let drops: Vec<String> = c
                .drops
                .iter()
                .enumerate()
                .filter(|(_, n)| **n > 0)
                .map(|(at, n)| format!("{}:{n}", portslice::steer::layout::REASONS[at]))
                .collect();
            format!("{slot}: rx {}/{} tx {}/{} {}", c.rx_packets, c.rx_bytes, c.tx_packets, c.tx_bytes, drops.join(","))
        })
        .collect();
    format!(
        "action {action} macs {} length {} mark {mark:x} priority {priority:x} [{}]",
        macs.join(""),
        bytes.len(),
        counted.join("; ")
    )
}

/// What shows of a decision. `done`: for what a packet that ends is like, which nobody sees.
fn wanted(world: &World, device: u32, sample: &Sample, decision: &Decision, done: &Outcome) -> Outcome {
    let mut wanted = Outcome {
        action: REDIRECT,
        bytes: sample.bytes.clone(),
        mark: if sample.hook == Hook::Shaper { 0 } else { sample.mark },
        priority: PRIORITY,
        counted: counted(decision),
    };
    let sender = match sample.hook {
        Hook::Container(slot) => slot,
        Hook::Shaper => sample.mark as u16,
        _ => 0,
    };
    match &decision.verdict {
        Verdict::Stack => {
            wanted.action = UNSPEC;
            if decision.why == Why::HostsCopy {
                wanted.mark = 0;
            }
        }
        Verdict::Drop => {
            wanted = Outcome { action: SHOT, counted: wanted.counted, ..done.clone() };
        }
        Verdict::Copies(_) if decision.why == Why::Many => wanted.action = UNSPEC,
        Verdict::Copies(_) => {
            wanted.action = UNSPEC;
            wanted.bytes[..6].copy_from_slice(&world.host.mac);
            wanted.priority = done.priority;
        }
        Verdict::Container { slot, limited } => {
            let walks = match sample.hook {
                Hook::Wire => *limited && device != world.host.uplink,
                Hook::HostLo => *limited || world.host.flags & HostFacts::PEER_FROM_LO == 0,
                _ => *limited,
            };
            to_container(world, *slot, *limited, walks, &mut wanted);
        }
        Verdict::Host => wanted.bytes[..6].fill(0),
        Verdict::Group { device, .. } => {
            // the kernel writes that of another device
            let mac = if *device == world.host.uplink { group(&sample.bytes) } else { world.host.mac };
            wanted.bytes[..6].copy_from_slice(&mac);
            wanted.bytes[6..12].copy_from_slice(&world.host.mac);
        }
        Verdict::Shaper { to } => {
            let second = if world.has(sender, SlotEntry::EGRESS_SECOND) { 0x2000 } else { 0 };
            wanted.priority = 0x10000 + u32::from(sender) + second;
            wanted.mark = u32::from(sender) | u32::from(*to) << 16;
        }
        Verdict::Lo => {
            wanted.bytes[..6].fill(0);
            wanted.mark = KEPT;
        }
        Verdict::Answered(told) => match answer::judged(world, sample, *told, &done.bytes) {
            Ok(()) => (wanted.bytes, wanted.priority) = (done.bytes.clone(), done.priority),
            Err(why) => {
                println!("verdicts: {why}");
                wanted.bytes.clear();
            }
        },
        Verdict::World { .. } | Verdict::Out => {}
    }
    if let Some(IpAddr::V6(source)) = decision.source {
        from(source, sample, &mut wanted.bytes, &done.bytes);
    }
    if world.host.flags & HostFacts::FAIR != 0 {
        wanted.priority = flow(world, sender, &decision.verdict).unwrap_or(wanted.priority);
    }
    wanted
}

/// The address of the host on the uplink's link, by which containers report.
fn link(world: &World) -> IpAddr {
    IpAddr::from(world.host.v6_link)
}

/// Lets a message of ICMPv6 come from another address. A checksum that was right or wrong stays so (RFC 1624); zero has two forms
/// there, of which `done` has one.
fn from(source: Ipv6Addr, sample: &Sample, bytes: &mut [u8], done: &[u8]) {
    let at = sample.frame(0).packet().expect("a packet").transport + 2;
    let sum = |bytes: &[u8]| bytes.chunks(2).map(|pair| u32::from(pair[0]) * 256 + u32::from(pair[1])).sum::<u32>();
    let less = 8 * 0xffff - sum(&source.octets());
    let new = (sum(&bytes[at..at + 2]) + sum(&bytes[22..38]) + less) % 0xffff;
    bytes[22..38].copy_from_slice(&source.octets());
    bytes[at..at + 2].copy_from_slice(&(new as u16).to_be_bytes());
    if done.get(at..at + 2).is_some_and(|theirs| sum(theirs) % 0xffff == new) {
        bytes[at..at + 2].copy_from_slice(&done[at..at + 2]);
    }
}

/// The flow of a container at a root qdisc that shares the uplink fairly. Other devices have no such qdisc.
fn flow(world: &World, sender: u16, verdict: &Verdict) -> Option<u32> {
    match verdict {
        Verdict::World { device } | Verdict::Group { device, .. } if *device != world.host.uplink => Some(0),
        Verdict::World { .. } | Verdict::Group { .. } => Some(0x7073_0000 | u32::from(sender)),
        _ => None,
    }
}

/// The class of an ingress limit is the packet's priority; a packet that walks through the veth needs the container's MAC, which
/// one for the uplink has.
fn to_container(world: &World, slot: u16, limited: bool, walks: bool, wanted: &mut Outcome) {
    if walks {
        wanted.bytes[..6].copy_from_slice(&world.host.mac);
        wanted.priority = 0x10000;
    }
    if limited {
        wanted.priority = if world.has(slot, SlotEntry::INGRESS_SECOND) { 0x10002 } else { 0 };
    }
}

/// The MAC of a group of receivers (RFC 1112 6.4, RFC 2464 7), or everybody's.
fn group(frame: &[u8]) -> [u8; 6] {
    if frame[12..14] == [0x86, 0xdd] {
        return [0x33, 0x33, frame[50], frame[51], frame[52], frame[53]];
    }
    match frame[30..34] {
        [first, second, third, fourth] if first & 0xf0 == 0xe0 => [0x01, 0x00, 0x5e, second & 0x7f, third, fourth],
        _ => [0xff; 6],
    }
}

fn counted(decision: &Decision) -> BTreeMap<u16, Counters> {
    let mut counted: BTreeMap<u16, Counters> = BTreeMap::new();
    for (slot, count) in &decision.counts {
        let counters = counted.entry(*slot).or_default();
        match count {
            Count::Received(size) => {
                counters.rx_packets += size.packets;
                counters.rx_bytes += size.bytes;
            }
            Count::Sent(size) => {
                counters.tx_packets += size.packets;
                counters.tx_bytes += size.bytes;
            }
            Count::Refused(refusal) => counters.drops[*refusal as usize] += 1,
        }
    }
    counted
}
