//! Random episodes: packets of every structure, honest, hostile and broken.

use super::case::{Episode, SLOTS, Sample};
use super::{groups, places};
use crate::lab::frame;
use crate::model::ops::Random;
use portslice::steer::SlotEntry;
use portslice::steer::model::packet::{Frame, Part, Segments};
use portslice::steer::model::{Hook, KEPT};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Packets of an episode.
const LENGTH: u64 = 160;
const FLAGS: [u32; 6] = [
    SlotEntry::HOST_LOOPBACK,
    SlotEntry::THROUGH_QDISC,
    SlotEntry::SHAPED,
    SlotEntry::SPARE_LOCAL,
    SlotEntry::EGRESS_SECOND,
    SlotEntry::INGRESS_SECOND,
];
const V4: [&str; 25] = [
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.3",
    "10.88.0.2",
    "127.0.0.1",
    "127.0.0.1",
    "127.1.2.3",
    "10.77.0.1",
    "10.77.0.77",
    "198.51.100.1",
    "198.51.100.1",
    "10.77.0.255",
    "255.255.255.255",
    "224.0.0.251",
    "239.250.1.2",
    "0.0.0.0",
    "240.0.0.1",
    "10.88.0.7",
    "10.88.0.255",
    "10.66.0.1",
    "10.66.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.18.1.1",
];
const V6: [&str; 24] = [
    "fd77::2",
    "fd77::2",
    "fd77::2",
    "fd77::3",
    "fd88::2",
    "::1",
    "::1",
    "fd77::1",
    "fd77::77",
    "2001:db8:99::1",
    "2001:db8:99::1",
    "fe80::1",
    "ff02::fb",
    "ff05::1:3",
    "::",
    "::ffff:10.77.0.2",
    "::ffff:127.0.0.1",
    "::2",
    "fd88::7",
    "fd66::1",
    "fd66::1",
    "2001:db8:1::1",
    "2001:db8:2::1",
    "2001:db8:3::1",
];
const EXTENSIONS: [u8; 4] = [0, 43, 51, 60];

/// Where a datagram is, for those that go on with it.
#[derive(Clone)]
struct Begun {
    hook: Hook,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    id: u32,
    next: usize,
}

/// Makes episodes.
pub struct Generator {
    random: Random,
    begun: Vec<Begun>,
    /// Who asked whom for echoes, and under which id.
    asked: Vec<(IpAddr, u16)>,
    /// The id of the next packet, if that is to answer one of them.
    answer: Option<u16>,
    /// The message of the next packet, if that is to report groups.
    report: Option<Vec<u8>>,
    /// Percent of packets that are fragments.
    fragments: u64,
    /// Percent that are to many.
    many: u64,
    ids: u64,
}

impl Generator {
    /// Those of a seed.
    pub fn new(seed: u64) -> Generator {
        Generator {
            random: Random::new(seed),
            begun: Vec::new(),
            asked: Vec::new(),
            answer: None,
            report: None,
            fragments: 0,
            many: 0,
            ids: 0,
        }
    }

    /// The next one.
    pub fn episode(&mut self) -> Episode {
        self.begun.clear();
        self.asked.clear();
        self.fragments = self.random.pick(&[0, 10, 30, 80]);
        self.many = self.random.pick(&[5, 20, 80]);
        self.ids = self.random.pick(&[3, 40]);
        let flags = std::array::from_fn(|_| FLAGS.iter().filter(|_| self.chance(40)).sum());
        let place = self.random.below(places::PLACES as u64) as usize;
        let samples = (0..LENGTH).map(|_| self.sample()).collect();
        Episode { place, flags, samples }
    }

    fn sample(&mut self) -> Sample {
        let hook = self.hook();
        let strange = self.chance(if hook == Hook::Wire { 15 } else { 2 });
        let v6 = self.chance(50);
        let (from, to) = self.way(hook, v6);
        let packet = self.packet(hook, from, to, 0);
        let kind =
            if self.chance(98) { frame::ethertype(to) } else { self.random.pick(&[0x0806, 0x8100, 0x88cc, 0x100]) };
        let own = match hook {
            Hook::Container(_) | Hook::Shaper => [0x02, 0, 0, 0, 0, 1],
            Hook::Wire if strange => places::BESIDE,
            _ => places::MAC,
        };
        let target = if hook == Hook::Wire && (to.is_multicast() || self.is_broadcast(to)) && self.chance(85) {
            groups::mac(to)
        } else if self.chance(92) {
            own
        } else {
            self.random.pick(&[[0xff; 6], [0; 6], [0x02, 9, 9, 9, 9, 9], [1, 0, 0x5e, 0, 0, 1]])
        };
        let source = if self.chance(85) { places::MAC } else { self.random.pick(&[[0; 6], [0x02, 8, 8, 8, 8, 8]]) };
        let mut bytes = frame::ethernet(target, source, kind, &packet);
        let broken = self.chance(30);
        if broken {
            self.break_it(&mut bytes);
        }
        bytes.truncate(3000);
        let whole =
            Frame { bytes: &bytes, ..Frame::default() }.packet().is_some_and(|packet| packet.part == Part::Whole);
        let segments = (!broken && whole && bytes.len() > 400 && self.chance(50)).then(|| Segments {
            size: self.random.pick(&[100, 536, 1400, 1440, 1460, 1480, 1500]),
            count: self.random.pick(&[0, 0, 2, 3]),
        });
        let mark = match hook {
            Hook::Shaper => self.random.pick(&[1, 2, 3, 4, 5, 6, 0, 4096]) | self.random.pick(&[0, 0, 1, 2, 5]) << 16,
            Hook::ContainerLo(_) => self.random.pick(&[0, 0, 0, 0, 0, 0, 3, KEPT]),
            _ => self.random.pick(&[0, 0, 0, 0, 0, 0, 3, 3, 3, KEPT]),
        };
        let vlan = if self.chance(4) { Some(self.random.pick(&[0, 0x2000, 5, 0xffff])) } else { None };
        Sample { hook, bytes, vlan, mark, segments, strange }
    }

    fn hook(&mut self) -> Hook {
        let slot = self.random.pick(&SLOTS);
        match self.random.below(100) {
            0..30 => Hook::Wire,
            30..45 => Hook::HostLo,
            45..80 => Hook::Container(self.random.pick(&[1, 1, 2, 3, 4, slot])),
            80..86 => Hook::Shaper,
            86..97 => Hook::ContainerLo(slot),
            _ => Hook::ContainerDevice,
        }
    }

    fn address(&mut self, v6: bool) -> IpAddr {
        let text = if v6 { self.random.pick(&V6) } else { self.random.pick(&V4) };
        text.parse().unwrap()
    }

    /// Whom a packet is from, and for.
    fn way(&mut self, hook: Hook, v6: bool) -> (IpAddr, IpAddr) {
        let (from, to) = self.ends(hook, v6);
        if !matches!(hook, Hook::Wire | Hook::Container(_) | Hook::Shaper) {
            return (from, to);
        }
        if !self.chance(self.many) {
            return (from, to);
        }
        let from = self.speaker(hook, from, v6);
        if self.chance(60) {
            return (from, groups::many(&mut self.random, v6));
        }
        let (to, message) = groups::report(&mut self.random, v6);
        self.answer = None;
        self.report = Some(message);
        (from, to)
    }

    /// Who may speak to many.
    fn speaker(&mut self, hook: Hook, other: IpAddr, v6: bool) -> IpAddr {
        if self.chance(15) {
            return other;
        }
        let text = match (hook, v6) {
            (Hook::Wire, false) => "10.77.0.1",
            (Hook::Wire, true) => "fe80::1",
            (_, false) => "10.77.0.2",
            (_, true) => self.random.pick(&["fd77::2", "fd77::2", "fd77::2", "::", places::LINK]),
        };
        text.parse().unwrap()
    }

    /// Whom an honest packet would be from, and for.
    fn ends(&mut self, hook: Hook, v6: bool) -> (IpAddr, IpAddr) {
        let here: IpAddr = if v6 { "fd77::2" } else { "10.77.0.2" }.parse().unwrap();
        let (mut from, mut to) = (self.address(v6), self.address(v6));
        let honest = self.chance(75);
        match hook {
            Hook::Wire if honest => to = here,
            Hook::HostLo if from.is_loopback() && honest => to = from,
            Hook::Container(_) | Hook::Shaper if honest => from = if to.is_loopback() { to } else { here },
            _ => {}
        }
        let asked: Vec<_> = self.asked.iter().copied().filter(|(whom, _)| whom.is_ipv6() == v6).collect();
        if matches!(hook, Hook::Wire | Hook::HostLo) && !asked.is_empty() && self.chance(10) {
            let (whom, id) = self.random.pick(&asked);
            self.answer = Some(id);
            return (whom, if whom.is_loopback() { whom } else { here });
        }
        (from, to)
    }

    fn port(&mut self, hook: Hook) -> u16 {
        let own = match hook {
            Hook::Container(slot) | Hook::ContainerLo(slot) if self.chance(70) => slot,
            _ => self.random.pick(&SLOTS),
        };
        match self.random.below(10) {
            0..4 => 31_000 + own * 10 + self.random.below(10) as u16,
            4..7 => 32_768 + own * 16 + self.random.below(16) as u16,
            7 => self.random.pick(&[places::HOSTS, 31_905, 0, 65_535]),
            8 => self.random.pick(&places::LISTENING),
            _ => self.random.next() as u16,
        }
    }

    /// An IP packet. `depth`: how many packets quote it.
    fn packet(&mut self, hook: Hook, from: IpAddr, to: IpAddr, depth: u32) -> Vec<u8> {
        if depth == 0 && self.chance(self.fragments) {
            return self.part(hook, from, to);
        }
        let (protocol, payload) = self.transport(hook, from, to, depth);
        let part = self.random.pick(&[None, None, None, None, Some((0, false)), Some((0, true)), Some((24, false))]);
        let part = if depth > 0 { part } else { None };
        self.ip(from, to, protocol, part.map(|(offset, more)| (1, offset, more)), &payload)
    }

    /// A part of a datagram: its first, or one that goes on with what was begun.
    fn part(&mut self, hook: Hook, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let known = !self.begun.is_empty() && self.chance(65);
        if known {
            let at = self.random.below(self.begun.len() as u64) as usize;
            let mut begun = self.begun[at].clone();
            let length = self.random.pick(&[8, 16, 64, 1200]);
            let more = self.chance(60);
            if self.chance(90) && (begun.hook == hook || self.chance(30)) {
                let offset = if self.chance(90) { begun.next } else { self.random.pick(&[8, 16, 65_528]) };
                begun.next += length;
                let payload = vec![0x5a; length + usize::from(self.chance(5))];
                let bytes =
                    self.ip(begun.from, begun.to, begun.protocol, Some((begun.id, offset.min(65_528), more)), &payload);
                self.begun[at] = begun;
                return bytes;
            }
        }
        let (protocol, mut payload) = self.transport(hook, from, to, 0);
        payload.resize(self.random.pick(&[8, 24, 32, 64, 1400]), 0x33);
        let id = self.random.below(self.ids) as u32;
        self.begun.push(Begun { hook, from, to, protocol, id, next: payload.len() });
        self.ip(from, to, protocol, Some((id, 0, true)), &payload)
    }

    /// A transport header and what follows.
    fn transport(&mut self, hook: Hook, from: IpAddr, to: IpAddr, depth: u32) -> (u8, Vec<u8>) {
        if depth == 0
            && let Some(message) = self.report.take()
        {
            return (if to.is_ipv6() { 58 } else { 2 }, message);
        }
        let (source, target) = (self.port(hook), self.random.pick(&[0, 1]));
        let target = if target == 0 { self.port(hook) } else { self.port(Hook::Wire) };
        let shared = groups::shared_port(&mut self.random);
        let (source, target) = if to.is_multicast() && self.chance(60) { (shared, shared) } else { (source, target) };
        let size = self.random.pick(&[0, 0, 8, 30, 64, 1440, 1460, 1472, 1480, 2500]) as usize;
        let payload = vec![0x11; if depth > 0 { size.min(8) } else { size }];
        match if self.answer.is_some() { 13 } else { self.random.below(20) } {
            0..6 => (frame::UDP, frame::udp((from, source), (to, target), &payload)),
            6..11 => {
                let flags = self.random.pick(&[0x02, 0x12, 0x10, 0x04]);
                let words: u8 = self.random.pick(&[5, 5, 8, 15]);
                let mut header = [source.to_be_bytes(), target.to_be_bytes()].concat();
                header.extend([0, 0, 0, 1, 0, 0, 0, 0, words << 4, flags, 1, 0, 0, 0, 0, 0]);
                header.resize(usize::from(words) * 4, 1);
                (frame::TCP, [header, payload].concat())
            }
            11..13 => {
                let header = [source.to_be_bytes(), target.to_be_bytes(), [0, 0], [0, 0]].concat();
                (self.random.pick(&[33, 132, 136]), [header, payload].concat())
            }
            13..19 => (if to.is_ipv6() { 58 } else { 1 }, self.icmp(hook, from, to, depth)),
            _ => (self.random.pick(&[1, 2, 4, 41, 47, 50, 58, 59, 135, 255]), payload),
        }
    }

    fn icmp(&mut self, hook: Hook, from: IpAddr, to: IpAddr, depth: u32) -> Vec<u8> {
        let v6 = to.is_ipv6();
        let (kinds, id) = match self.answer.take() {
            Some(id) => (2, id),
            None => (self.random.below(12), self.random.below(4) as u16 + 1),
        };
        let [ask, answer] = if v6 { [128, 129] } else { [8, 0] };
        let (kind, code, rest): (u8, u8, Vec<u8>) = match kinds {
            0..2 => {
                self.asked.push((to, id));
                (ask, 0, id.to_be_bytes().to_vec())
            }
            2..4 => (answer, 0, id.to_be_bytes().to_vec()),
            4..10 => {
                let kinds: &[(u8, u8)] =
                    if v6 { &[(1, 4), (2, 0), (3, 0), (4, 1)] } else { &[(3, 3), (3, 4), (11, 0), (12, 0), (3, 1)] };
                let (kind, code) = self.random.pick(kinds);
                (kind, code, Vec::new())
            }
            _ => (self.random.next() as u8, self.random.below(5) as u8, Vec::new()),
        };
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.resize(8, 0);
        let quotes = !matches!(kind, 0 | 8 | 128 | 129);
        if quotes && depth == 0 && self.chance(95) {
            // an honest one quotes what its receiver sent to its sender
            let (quoted_from, quoted_to) =
                if self.chance(75) { (to, from) } else { (self.address(v6), self.address(v6)) };
            message.extend(self.packet(hook, quoted_from, quoted_to, 1));
        } else if self.chance(50) {
            message.extend([0x77; 16]);
        }
        message
    }

    /// Everything below the transport; `part`: id, offset, whether more follows.
    fn ip(
        &mut self,
        from: IpAddr,
        to: IpAddr,
        protocol: u8,
        part: Option<(u32, usize, bool)>,
        payload: &[u8],
    ) -> Vec<u8> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.v4(from, to, protocol, part, payload),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.v6(from, to, protocol, part, payload),
            _ => unreachable!("both ends have one family"),
        }
    }

    fn v4(
        &mut self,
        from: Ipv4Addr,
        to: Ipv4Addr,
        protocol: u8,
        part: Option<(u32, usize, bool)>,
        payload: &[u8],
    ) -> Vec<u8> {
        let options = vec![1; if self.chance(12) { self.random.pick(&[4, 8, 40]) } else { 0 }];
        let (id, offset, more) = part.unwrap_or((7, 0, false));
        let flags = u16::from(more) << 13 | self.random.pick(&[0, 0, 0x4000, 0x8000]);
        let packet = frame::V4 {
            id: id as u16,
            fragment: flags | (offset / 8) as u16,
            options: &options,
            ..frame::V4::new(from, to, protocol, payload)
        };
        packet.bytes()
    }

    fn v6(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        protocol: u8,
        part: Option<(u32, usize, bool)>,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut next = protocol;
        let mut bytes = payload.to_vec();
        let behind = self.extensions();
        for kind in behind {
            (bytes, next) = (self.extension(kind, next, bytes), kind);
        }
        let atomic = self.chance(4).then_some((9, 0, false));
        if let Some((id, offset, more)) = part.or(atomic) {
            bytes = frame::v6_fragment(next, offset as u16, more, id, &bytes);
            next = 44;
        }
        let before = self.extensions();
        for kind in before {
            (bytes, next) = (self.extension(kind, next, bytes), kind);
        }
        frame::v6(from, to, next, 64, &bytes)
    }

    fn extensions(&mut self) -> Vec<u8> {
        let count = if self.chance(15) { self.random.pick(&[1, 1, 2, 3, 5, 9]) } else { 0 };
        (0..count).map(|_| if self.chance(4) { 44 } else { self.random.pick(&EXTENSIONS) }).collect()
    }

    fn extension(&mut self, kind: u8, next: u8, behind: Vec<u8>) -> Vec<u8> {
        if kind == 44 {
            let field = self.random.pick(&[0, 1, 8]);
            return frame::v6_fragment(next, field & 8, field & 1 != 0, 3, &behind);
        }
        let units: u8 = self.random.pick(&[0, 0, 1, 2]);
        let length = if kind == 51 { (usize::from(units) + 2) * 4 } else { (usize::from(units) + 1) * 8 };
        let mut header = vec![next, units];
        header.resize(length, 0);
        [header, behind].concat()
    }

    /// A lie, a cut, or a bit.
    fn break_it(&mut self, bytes: &mut Vec<u8>) {
        let end = bytes.len() as u64;
        match self.random.below(5) {
            0 => bytes.truncate(14 + self.random.below(end - 13) as usize),
            1 => bytes.resize(bytes.len() + self.random.below(64) as usize, 0x44),
            2 if bytes.len() > 20 => {
                // IPv4's total length, or IPv6's payload length
                let at = if bytes[12] == 0x86 { 18 } else { 16 };
                let lie = self.random.pick(&[0, 4, 20, 27, 28, 60, 1500, 40_000, 65_535]);
                bytes[at..at + 2].copy_from_slice(&u16::to_be_bytes(lie));
            }
            3 if bytes.len() > 26 => bytes[24] ^= 0x55, // IPv4's checksum
            _ => {
                let at = 14 + self.random.below(end.saturating_sub(14).clamp(1, 90)) as usize;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.random.below(8);
                }
            }
        }
    }

    fn is_broadcast(&self, to: IpAddr) -> bool {
        to == IpAddr::V4(Ipv4Addr::BROADCAST) || to == IpAddr::V4(Ipv4Addr::new(10, 77, 0, 255))
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }
}
