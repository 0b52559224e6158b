//! Queueing: HTB on a device, a class of it with its limit, the leaf in which packets wait, and what they counted.
//!
//! Builders return a [`Request`] like those of the other modules. What does not live here: which device gets which
//! limit ([`crate::plan`]), and the qdiscs that only carry filters ([`super::filter`]).

use netlink_packet_core::{DefaultNla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};
use serde::{Deserialize, Serialize};

use super::{Netlink, Request};
use crate::error::Result;
use crate::rate::{Rate, Shape};

/// Class 1 of a device whose every packet it takes.
pub const ONLY: u16 = 1;

/// What packets wait in, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaf {
    /// A queue for each flow, each kept short: one flow does not delay another.
    FqCodel,
    /// One queue, bounded by bytes. Every kernel has it.
    #[default]
    Bfifo,
}

impl Leaf {
    /// As tc calls it.
    pub fn name(self) -> &'static str {
        match self {
            Leaf::FqCodel => "fq_codel",
            Leaf::Bfifo => "bfifo",
        }
    }
}

/// A limit in one direction: its numbers and what waits behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// The numbers.
    pub shape: Shape,
    /// Where packets wait.
    pub leaf: Leaf,
    /// Bytes that a queue without flows always takes.
    pub room: u32,
}

/// A class and its leaf: what they did so far, and how they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Of the class, which holds to the rate.
    pub class: Counts,
    /// Of its leaf, in which packets wait and are dropped.
    pub leaf: Counts,
    /// What the class always gets, and what a burst may reach, in bytes a second.
    pub rates: (u64, u64),
    /// For how long the class has used up its rate already, in nanoseconds.
    pub debt: u64,
}

/// What a qdisc or class counted (`struct gnet_stats_basic`, `gnet_stats_queue`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that went on.
    pub bytes: u64,
    /// Packets that went on, a GSO packet as its segments.
    pub packets: u64,
    /// Packets that wait.
    pub qlen: u64,
    /// Bytes that wait.
    pub backlog: u64,
    /// Packets that were dropped, a GSO packet as one.
    pub drops: u64,
    /// Packets that the device gave back.
    pub requeues: u64,
    /// Times that the rate was reached.
    pub overlimits: u64,
}

/// The root qdisc of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// As tc calls it.
    pub kind: String,
    /// Its handle; 0 for what the kernel gives by itself.
    pub major: u16,
}

/// Handle of the root qdisc with a flow for each container; `bpf/maps.h` has it too.
pub const FAIR: u16 = 0x7073;
/// A flow for each slot, one for the host, and as the kernel wants it.
const FAIR_FLOWS: u32 = 8192;

/// include/uapi/linux/pkt_sched.h
const TC_H_ROOT: TcHandle = TcHandle { major: 0xffff, minor: 0xffff };
/// TC_H_CLSACT is the same.
const TC_H_INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
/// Ours; `1:` in the output of tc.
const HTB: u16 = 1;
/// Leaf of class n is `(LEAVES + n):`.
const LEAVES: u16 = 0x1000;

/// struct tcmsg, before the attributes.
const TCMSG: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_STATS_APP: u16 = 4;
const TCA_STATS_PKT64: u16 = 8;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_FQ_CODEL_TARGET: u16 = 1;
const TCA_FQ_CODEL_INTERVAL: u16 = 3;
const TCA_FQ_CODEL_FLOWS: u16 = 5;

/// include/net/pkt_sched.h: PSCHED_SHIFT 6, one tick is 64 ns, on every kernel since 2.6.31.
const TICK: u128 = 64;
const SECOND: u128 = 1_000_000_000;
/// A full Ethernet frame without its checksum.
const FRAME: u64 = 1514;
/// Bytes a class may send before its sibling's turn; without siblings that borrow it changes nothing, but the kernel
/// logs a complaint about the one it computes itself (sch_htb.c, htb_change_class).
const QUANTUM: u32 = 60_000;

/// HTB as the root qdisc of a device. Packets that name no class go to class `default`.
pub fn add_htb(link: u32, name: &str, default: u16) -> Request {
    // struct tc_htb_glob { version, rate2quantum, defcls, debug, direct_pkts }
    let init = words(&[3, 10, u32::from(default), 0, 0]);
    let mut message = object(link, TcHandle { major: HTB, minor: 0 }, TC_H_ROOT, "htb");
    message.attributes.push(TcAttribute::Options(vec![nla(TCA_HTB_INIT, init)]));
    Request::create(format!("add htb to {name}"), RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// Removes the root qdisc with its classes, leaves and whatever waits in them.
pub fn delete_root(link: u32, name: &str) -> Request {
    let message = object(link, TcHandle { major: 0, minor: 0 }, TC_H_ROOT, "htb");
    Request::set(format!("delete htb from {name}"), RouteNetlinkMessage::DelQueueDiscipline(message))
}

/// Makes class `1:minor` or changes it; what waits in it stays.
pub fn class(link: u32, name: &str, minor: u16, shape: &Shape) -> Request {
    let mut message = object(link, TcHandle { major: HTB, minor }, TcHandle { major: HTB, minor: 0 }, "htb");
    message.attributes.push(TcAttribute::Options(class_options(shape)));
    Request::replace(format!("limit class {minor} of {name}"), RouteNetlinkMessage::NewTrafficClass(message))
}

/// Removes class `1:minor` with its leaf.
pub fn delete_class(link: u32, name: &str, minor: u16) -> Request {
    let message = object(link, TcHandle { major: HTB, minor }, TcHandle { major: 0, minor: 0 }, "htb");
    Request::set(format!("delete class {minor} of {name}"), RouteNetlinkMessage::DelTrafficClass(message))
}

/// Gives class `1:minor` its leaf or changes that; what waits in it stays.
pub fn leaf(link: u32, name: &str, minor: u16, throttle: &Throttle) -> Request {
    let handle = TcHandle { major: LEAVES + minor, minor: 0 };
    let parent = TcHandle { major: HTB, minor };
    let options = match throttle.leaf {
        Leaf::FqCodel => TcAttribute::Options(codel_options(&throttle.shape)),
        // struct tc_fifo_qopt { limit }, not nested
        Leaf::Bfifo => raw(TCA_OPTIONS, words(&[fifo_limit(throttle)])),
    };
    let mut message = object(link, handle, parent, throttle.leaf.name());
    message.attributes.push(options);
    Request::replace(format!("queue class {minor} of {name}"), RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// Gives class `1:minor` a leaf that takes nothing: whoever names no class of a container gets no further.
pub fn dead_end(link: u32, name: &str, minor: u16) -> Request {
    let handle = TcHandle { major: LEAVES + minor, minor: 0 };
    let mut message = object(link, handle, TcHandle { major: HTB, minor }, "bfifo");
    message.attributes.push(raw(TCA_OPTIONS, words(&[1])));
    Request::replace(format!("close class {minor} of {name}"), RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// How class `1:minor` of a device stands; `None` when there is no such class.
pub fn load(netlink: &mut Netlink, link: u32, name: &str, minor: u16) -> Result<Option<Load>> {
    let none = TcHandle { major: 0, minor: 0 };
    let doing = format!("read class {minor} of {name}");
    let class = object(link, TcHandle { major: HTB, minor }, none, "");
    let Some(class) = netlink.get_raw(&doing, RouteNetlinkMessage::GetTrafficClass(class))? else { return Ok(None) };
    // a class does not count what its leaf drops later (fq_codel), so the leaf is asked
    let leaf = object(link, TcHandle { major: LEAVES + minor, minor: 0 }, TcHandle { major: HTB, minor }, "");
    let leaf = netlink.get_raw(&doing, RouteNetlinkMessage::GetQueueDiscipline(leaf))?.unwrap_or_default();
    Ok(Some(load_of(&class, &leaf)))
}

/// fq_codel as the root qdisc of a device, with a flow for each container and one for the host.
pub fn add_fair(link: u32, name: &str) -> Request {
    let mut message = object(link, TcHandle { major: FAIR, minor: 0 }, TC_H_ROOT, "fq_codel");
    message.attributes.push(TcAttribute::Options(vec![nla(TCA_FQ_CODEL_FLOWS, words(&[FAIR_FLOWS]))]));
    Request::replace(
        format!("make fq_codel the root qdisc of {name}"),
        RouteNetlinkMessage::NewQueueDiscipline(message),
    )
}

/// Removes it; the kernel's default comes back.
pub fn delete_fair(link: u32, name: &str) -> Request {
    let message = object(link, TcHandle { major: FAIR, minor: 0 }, TC_H_ROOT, "fq_codel");
    Request::set(format!("delete fq_codel from {name}"), RouteNetlinkMessage::DelQueueDiscipline(message))
}

/// A device's root qdisc; `None` for noqueue, which is not told.
pub fn root(netlink: &mut Netlink, link: u32, name: &str) -> Result<Option<Root>> {
    let message = object(link, TcHandle { major: 0, minor: 0 }, TC_H_ROOT, "");
    let doing = format!("read the root qdisc of {name}");
    let Some(answer) = netlink.get_raw(&doing, RouteNetlinkMessage::GetQueueDiscipline(message))? else {
        return Ok(None);
    };
    let handle = answer.get(8..12).map_or(0, |h| u32::from_ne_bytes([h[0], h[1], h[2], h[3]]));
    let kind = attribute(answer.get(TCMSG..).unwrap_or_default(), TCA_KIND);
    let kind = kind.map(|kind| String::from_utf8_lossy(&kind).trim_end_matches('\0').to_owned());
    Ok(kind.map(|kind| Root { kind, major: (handle >> 16) as u16 }))
}

/// The kind of the qdisc that carries a link's ingress filters, `ingress` or `clsact`; `None` when there is none.
pub fn has_ingress(netlink: &mut Netlink, link: u32) -> Result<Option<String>> {
    // the handle is said as well: without it, a link whose clsact was removed answers with silence
    let message = object(link, TcHandle { major: 0xffff, minor: 0 }, TC_H_INGRESS, "");
    let doing = format!("read the ingress qdisc of link {link}");
    let Some(answer) = netlink.get_raw(&doing, RouteNetlinkMessage::GetQueueDiscipline(message))? else {
        return Ok(None);
    };
    let kind = attribute(answer.get(TCMSG..).unwrap_or_default(), TCA_KIND);
    Ok(kind.map(|kind| String::from_utf8_lossy(&kind).trim_end_matches('\0').to_owned()))
}

/// Fast enough that nothing waits: what a class is set to before it goes, so that it goes empty.
pub fn wide_open(shape: &Shape) -> Shape {
    let rate = Rate::from_bits_per_second(1_000_000_000_000);
    Shape { rate, ceil: rate, ..*shape }
}

fn object(link: u32, handle: TcHandle, parent: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = link as i32;
    message.header.handle = handle;
    message.header.parent = parent;
    if !kind.is_empty() {
        message.attributes.push(TcAttribute::Kind(kind.into()));
    }
    message
}

/// struct tc_htb_opt { rate, ceil, buffer, cbuffer, quantum, level, prio }, and the rates in 64 bits: what does not
/// fit the 32 of the struct is taken from there.
fn class_options(shape: &Shape) -> Vec<TcOption> {
    let (rate, ceil) = (shape.rate.bytes_per_second(), shape.ceil.bytes_per_second());
    let peak = if ceil == rate { shape.burst.bytes() } else { (ceil / 100).max(2 * FRAME) };
    let mut parms = ratespec(rate);
    parms.extend(ratespec(ceil));
    parms.extend(words(&[ticks(shape.burst.bytes(), rate), ticks(peak, ceil), QUANTUM, 0, 0]));
    vec![
        nla(TCA_HTB_RATE64, rate.to_ne_bytes().into()),
        nla(TCA_HTB_CEIL64, ceil.to_ne_bytes().into()),
        nla(TCA_HTB_PARMS, parms),
    ]
}

/// struct tc_ratespec { cell_log, linklayer, overhead, cell_align, mpu, rate }. With the link layer said, the kernel
/// computes times itself instead of looking for a rate table.
fn ratespec(bytes_per_second: u64) -> Vec<u8> {
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    let mut spec = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    spec.extend(u32::try_from(bytes_per_second).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

/// How long `bytes` take at a rate, in the kernel's unit.
fn ticks(bytes: u64, bytes_per_second: u64) -> u32 {
    let time = u128::from(bytes) * SECOND / u128::from(bytes_per_second.max(1));
    u32::try_from(time.div_ceil(TICK)).unwrap_or(u32::MAX)
}

/// The kernel's defaults hold a packet for 5 ms over 100 ms. A rate at which a single packet takes longer would be
/// all drops, so the target grows with the time of a packet, and the interval with it.
fn codel_options(shape: &Shape) -> Vec<TcOption> {
    let packet = 1_000_000 * 3 * FRAME / 2 / shape.rate.bytes_per_second().max(1);
    let target = packet.clamp(5_000, 60_000_000) as u32;
    let interval = 100_000 + target - 5_000;
    vec![
        nla(TCA_FQ_CODEL_TARGET, target.to_ne_bytes().into()),
        nla(TCA_FQ_CODEL_INTERVAL, interval.to_ne_bytes().into()),
    ]
}

/// Twenty milliseconds' worth: longer only adds delay, shorter starves a flow whose acknowledgements take as long.
fn fifo_limit(throttle: &Throttle) -> u32 {
    let delay = throttle.shape.rate.bytes_per_second() / 50;
    u32::try_from(delay).unwrap_or(u32::MAX).max(throttle.room)
}

/// From two answers, each a struct tcmsg and attributes. The crate's own parser takes the options of every qdisc for
/// nested attributes and refuses bfifo's.
fn load_of(class: &[u8], leaf: &[u8]) -> Load {
    // struct tc_htb_xstats { lends, borrows, giants, tokens, ctokens }; tokens are ticks, below zero when in debt
    let own = statistics(class, TCA_STATS_APP);
    let debt = |at| u64::from((word(&own, at) as i32).min(0).unsigned_abs()) * TICK as u64;
    Load { class: counts(class), leaf: counts(leaf), rates: rates(class), debt: debt(12).max(debt(16)) }
}

/// The rate and the ceil in an answer: see [`class_options`]. The kernel writes 64 bits where 32 are too few.
fn rates(class: &[u8]) -> (u64, u64) {
    let options = attribute(class.get(TCMSG..).unwrap_or_default(), TCA_OPTIONS).unwrap_or_default();
    let parms = attribute(&options, TCA_HTB_PARMS).unwrap_or_default();
    let rate = |kind, at| match attribute(&options, kind) {
        Some(wide) => u64::from(word(&wide, 0)) | u64::from(word(&wide, 4)) << 32,
        None => word(&parms, at).into(),
    };
    (rate(TCA_HTB_RATE64, 8), rate(TCA_HTB_CEIL64, 20))
}

fn counts(answer: &[u8]) -> Counts {
    // struct gnet_stats_basic { u64 bytes; u32 packets }; the packets once more where 32 bits are too few
    let basic = statistics(answer, TCA_STATS_BASIC);
    let long = |bytes: &[u8]| u64::from(word(bytes, 0)) | u64::from(word(bytes, 4)) << 32;
    let wide = statistics(answer, TCA_STATS_PKT64);
    // struct gnet_stats_queue { qlen, backlog, drops, requeues, overlimits }
    let queue = statistics(answer, TCA_STATS_QUEUE);
    let part = |at| u64::from(word(&queue, at));
    Counts {
        bytes: long(&basic),
        packets: if wide.is_empty() { word(&basic, 8).into() } else { long(&wide) },
        qlen: part(0),
        backlog: part(4),
        drops: part(8),
        requeues: part(12),
        overlimits: part(16),
    }
}

/// One part of the statistics in an answer; empty when it is not there.
fn statistics(answer: &[u8], kind: u16) -> Vec<u8> {
    attribute(answer.get(TCMSG..).unwrap_or_default(), TCA_STATS2)
        .and_then(|all| attribute(&all, kind))
        .unwrap_or_default()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]))
}

fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(attributes).flatten().find(|nla| nla.kind() == kind).map(|nla| nla.value().to_vec())
}

fn nla(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

fn raw(kind: u16, value: Vec<u8>) -> TcAttribute {
    TcAttribute::Other(DefaultNla::new(kind, value))
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(rate: u64, ceil: u64, burst: u64) -> Shape {
        let rate_of = |bits| Rate::from_bits_per_second(bits);
        Shape { rate: rate_of(rate), ceil: rate_of(ceil), burst: crate::rate::Size::from_bytes(burst) }
    }

    fn value(options: &[TcOption], kind: u16) -> Vec<u8> {
        use netlink_packet_core::Nla;
        let found = options.iter().find(|option| option.kind() == kind).unwrap();
        let mut bytes = vec![0; found.value_len()];
        found.emit_value(&mut bytes);
        bytes
    }

    /// `strace -xx -e trace=sendmsg tc class add dev aa0 parent 1: classid 1:1 htb rate 10mbit burst 15000b cburst 15000b
    /// quantum 60000` (iproute2 6.1): TCA_HTB_PARMS. Its cell_log (3) and cell_align (-1) belong to the rate tables
    /// that follow there, which the kernel does not need once the link layer is said.
    #[test]
    fn a_class_as_tc_writes_it() {
        let mut captured =
            *b"\x03\x01\x00\x00\xff\xff\x00\x00\xd0\x12\x13\x00\x03\x01\x00\x00\xff\xff\x00\x00\xd0\x12\x13\x00\
            \x6c\xdc\x02\x00\x6c\xdc\x02\x00\x60\xea\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        for spec in [0, 12] {
            (captured[spec], captured[spec + 4], captured[spec + 5]) = (0, 0, 0);
        }
        assert_eq!(value(&class_options(&shape(10_000_000, 10_000_000, 15_000)), TCA_HTB_PARMS), captured);
    }

    #[test]
    fn rates_beyond_32_bits_stand_in_their_own_attribute() {
        let options = class_options(&shape(90_000_000_000, 100_000_000_000, 112_500_000));
        assert_eq!(value(&options, TCA_HTB_RATE64), 11_250_000_000u64.to_ne_bytes());
        assert_eq!(value(&options, TCA_HTB_CEIL64), 12_500_000_000u64.to_ne_bytes());
        assert_eq!(value(&options, TCA_HTB_PARMS)[8..12], u32::MAX.to_ne_bytes());
    }

    #[test]
    fn a_slow_class_gives_a_packet_its_time() {
        let target = |bits| {
            let bytes = value(&codel_options(&shape(bits, bits, 3028)), TCA_FQ_CODEL_TARGET);
            u32::from_ne_bytes(bytes.try_into().unwrap())
        };
        assert_eq!(target(1_000_000_000), 5_000);
        assert_eq!(target(1_000_000), 18_168);
        let throttle = |bits| Throttle { shape: shape(bits, bits, 3028), leaf: Leaf::Bfifo, room: 100_000 };
        assert_eq!(fifo_limit(&throttle(1_000_000)), 100_000);
        assert_eq!(fifo_limit(&throttle(1_000_000_000)), 2_500_000);
    }
}
