//! Packets as they come from a wire: honest ones, and what chance and malice make of them.

use crate::lab::frame::{self, Mac, V4};
use crate::model::ops::Random;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First of the ten ports that A and B have, and of those of the host. At the first somebody listens, the second is connected to
/// the same port of a third party, the others are closed.
pub const A: u16 = 31_010;
/// B's.
pub const B: u16 = 31_020;
/// The host's own.
pub const HOSTS: u16 = 20_000;
/// The third party, behind the gateway.
pub const THIRD: (&str, &str) = ("198.51.100.1", "2001:db8:99::1");

const TO4: [&str; 16] = [
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.2",
    "10.77.0.3",
    "10.77.0.3",
    "10.77.0.255",
    "255.255.255.255",
    "127.0.0.1",
    "224.0.0.251",
    "10.77.0.77",
];
const TO6: [&str; 10] = [
    "fd77::2",
    "fd77::2",
    "fd77::2",
    "fd77::2",
    "fd77::2",
    "fd77::2",
    "::1",
    "ff02::1",
    "fd77::77",
    "::ffff:10.77.0.2",
];
const FROM4: [&str; 17] = [
    "10.77.0.1",
    "10.77.0.9",
    "10.77.0.9",
    "10.77.0.9",
    "198.51.100.1",
    "198.51.100.1",
    "198.51.100.1",
    "198.51.100.1",
    "203.0.113.9",
    "10.77.0.2",
    "10.77.0.3",
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "10.77.0.255",
    "240.0.0.1",
];
const FROM6: [&str; 11] = [
    "fd77::1",
    "fd77::9",
    "fd77::9",
    "2001:db8:99::1",
    "2001:db8:99::1",
    "2001:db8:98::1",
    "fd77::2",
    "::1",
    "::",
    "ff02::1",
    "::ffff:10.77.0.1",
];
const AWAY4: [&str; 8] =
    ["10.77.0.9", "10.77.0.9", "198.51.100.1", "198.51.100.1", "10.77.0.2", "10.77.0.2", "10.77.0.3", "127.0.0.1"];
const AWAY6: [&str; 7] = ["fd77::9", "fd77::9", "2001:db8:99::1", "2001:db8:99::1", "fd77::2", "fd77::2", "::1"];
/// Nothing, a route to record, times without room for one, a route to take, and what no receiver knows.
const OPTIONS: [&[u8]; 5] =
    [&[1, 1, 1, 1], &[7, 7, 4, 0, 0, 0, 0, 0], &[68, 4, 5, 0], &[131, 7, 4, 10, 77, 0, 1, 0], &[0x5e, 4, 1, 2]];
const WIRE: Mac = [2; 6];

/// How a packet begins its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the wire.
    Wire,
    /// A's raw socket sends it, to this address.
    Raw(IpAddr),
    /// The socket at A's first port sends its bytes there.
    Socket(SocketAddr),
}

/// One packet.
#[derive(Clone)]
pub struct Packet {
    /// Where it comes from.
    pub start: Start,
    /// Whom its frame is for.
    pub to: Mac,
    vlan: Option<u16>,
    kind: u16,
    /// From the IP header on; of a datagram that A's socket sends, what it carries.
    pub ip: Vec<u8>,
    /// Is it a piece of an ICMP error?
    pub of_error: bool,
}

impl Packet {
    /// As it is on the wire of a host, whose MAC and its neighbour's are given.
    pub fn frame(&self, [own, peer]: [Mac; 2]) -> Vec<u8> {
        let to = if self.to == WIRE { own } else { self.to };
        let tag = self.vlan.map(|tag| [0x8100u16.to_be_bytes(), tag.to_be_bytes()].concat()).unwrap_or_default();
        [&to[..], &peer, &tag, &self.kind.to_be_bytes(), &self.ip].concat()
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} to {:02x?} vlan {:?} {:04x} ", self.start, self.to, self.vlan, self.kind)?;
        self.ip.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Makes packets.
pub struct Maker {
    random: Random,
    count: u32,
}

/// What is about one IP packet before it is written.
struct Plan {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: Vec<u8>,
    id: u32,
}

impl Maker {
    /// From a sequence of numbers.
    pub fn new(random: Random) -> Maker {
        Maker { random, count: 0 }
    }

    /// One packet, or the pieces of one.
    pub fn conversation(&mut self) -> Vec<Packet> {
        self.count += 1;
        let v6 = self.chance(45);
        let (from, to) = if v6 {
            (self.random.pick(&FROM6), self.random.pick(&TO6))
        } else {
            (self.random.pick(&FROM4), self.random.pick(&TO4))
        };
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let (protocol, payload) = self.transport(from, to);
        let plan = Plan { from, to, protocol, payload, id: self.count };
        let errors = if v6 { 1..=4 } else { 3..=12 };
        let error = matches!(plan.protocol, frame::ICMP | frame::ICMP6) && errors.contains(&plan.payload[0]);
        let mut parts = if self.chance(20) { self.pieces(&plan) } else { vec![self.ip(&plan, &plan.payload, None)] };
        if self.chance(8) {
            let at = self.random.below(parts.len() as u64) as usize;
            self.break_it(&mut parts[at]);
        }
        let mac = match self.random.below(30) {
            0 => frame::BROADCAST,
            1 => [1, 0, 0x5e, 0, 0, 0xfb],
            2 => [0x02, 9, 9, 9, 9, 9],
            _ => WIRE,
        };
        let vlan = self.chance(6).then(|| self.random.pick(&[0, 0x2000, 5]));
        let of_error = error && parts.len() > 1;
        let packet = |ip| Packet { of_error, ..self.packet(mac, vlan, frame::ethertype(to), ip) };
        parts.into_iter().map(packet).collect()
    }

    /// Is it A's turn?
    pub fn departs(&mut self) -> bool {
        self.chance(35)
    }

    /// What A sends: as its address and its ports are, to whomever.
    pub fn departure(&mut self) -> Packet {
        self.count += 1;
        let v6 = self.chance(45);
        let (from, to) =
            if v6 { ("fd77::2", self.random.pick(&AWAY6)) } else { ("10.77.0.2", self.random.pick(&AWAY4)) };
        let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let target = self.port();
        let (start, ip) = if self.chance(30) {
            let sizes = [0, 1, 600, 1472, 1473, 1452, 1453, 4000, 60_000];
            (Start::Socket(SocketAddr::new(to, target)), self.filled(&sizes))
        } else {
            let source = A + self.random.below(10) as u16;
            let (protocol, payload) = match self.random.below(4) {
                0 => (frame::TCP, self.segment((from, source), (to, target))),
                1 => {
                    let (protocol, kind) = if v6 { (frame::ICMP6, 128) } else { (frame::ICMP, 8) };
                    let id = (self.count as u16).to_be_bytes();
                    (protocol, self.message(from, to, (kind, 0), [id[0], id[1], 0, 1], &[0x2a; 56]))
                }
                _ => {
                    (frame::UDP, frame::udp((from, source), (to, target), &self.filled(&[0, 4, 700, 1452, 1472, 1473])))
                }
            };
            (Start::Raw(to), frame::ip(from, to, protocol, &payload))
        };
        Packet { start, ip, to: WIRE, vlan: None, kind: frame::ethertype(to), of_error: false }
    }

    fn packet(&mut self, to: Mac, vlan: Option<u16>, kind: u16, mut ip: Vec<u8>) -> Packet {
        ip.truncate(1500);
        let kind = if self.chance(99) { kind } else { self.random.pick(&[0x88cc, 0x0800, 0x86dd]) };
        Packet { start: Start::Wire, to, vlan, kind, ip, of_error: false }
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn port(&mut self) -> u16 {
        let first = self.random.pick(&[A, A, A, B, B, HOSTS]);
        first + self.random.pick(&[0, 0, 0, 0, 1, 2, 9, 10])
    }

    fn filled(&mut self, sizes: &[usize]) -> Vec<u8> {
        let size = self.random.pick(sizes);
        let mut bytes = self.count.to_be_bytes().repeat(size / 4 + 1);
        bytes.truncate(size);
        bytes
    }

    /// A transport header and what follows. Each has a source port of its own, so that no answer depends on what came before.
    fn transport(&mut self, from: IpAddr, to: IpAddr) -> (u8, Vec<u8>) {
        let (source, target) = (1024 + (self.count % 18_000) as u16, self.port());
        match self.random.below(20) {
            0..7 => {
                let payload = self.filled(&[0, 1, 4, 64, 700, 1400]);
                let mut datagram = frame::udp((from, source), (to, target), &payload);
                if self.chance(10) {
                    let (at, value) = self.random.pick(&[(7, 0x55), (5, 3), (5, 0x40), (4, 0x7f)]);
                    datagram[at] ^= value;
                }
                (frame::UDP, datagram)
            }
            7..12 => (frame::TCP, self.segment((from, source), (to, target))),
            12 => {
                let mut datagram = frame::udp((from, source), (to, target), &self.filled(&[8, 64]));
                datagram[4..6].copy_from_slice(&[0, 8]);
                datagram[6..8].fill(0);
                let sum = frame::transport_checksum(from, to, 136, &datagram).to_be_bytes();
                datagram[6..8].copy_from_slice(&sum);
                (136, datagram)
            }
            13 => {
                let header = [source.to_be_bytes(), target.to_be_bytes(), [0, 0], [0, 0]].concat();
                (
                    self.random.pick(&[33, 132, 47, 50, 51, 59, 4, 41, 2, 103, 254]),
                    [header, self.filled(&[8, 64])].concat(),
                )
            }
            _ => (if to.is_ipv6() { frame::ICMP6 } else { frame::ICMP }, self.icmp(from, to)),
        }
    }

    fn segment(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
        let payload = self.filled(&[0, 0, 0, 10, 600]);
        let mut segment = frame::tcp_syn(from, to, &payload);
        segment[13] = self.random.pick(&[0x02, 0x02, 0x02, 0x10, 0x12, 0x04, 0x11, 0x14, 0, 0x03, 0xc2]);
        segment[8..12].copy_from_slice(&self.random.pick(&[0, 7, u32::MAX]).to_be_bytes());
        if self.chance(30) {
            // largest segment, timestamps, a window to be scaled, selective acknowledgements
            let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7];
            segment.splice(20..20, options);
            segment[12] = 0xa0;
        }
        segment[16..18].fill(0);
        let sum = frame::transport_checksum(from.0, to.0, frame::TCP, &segment).to_be_bytes();
        segment[16..18].copy_from_slice(&sum);
        if self.chance(5) {
            segment[17] ^= 0x55;
        }
        segment
    }

    fn icmp(&mut self, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let rest = [&(self.count as u16).to_be_bytes()[..], &[0, 1]].concat().try_into().unwrap();
        let v6 = to.is_ipv6();
        let [ask, answer] = if v6 { [128, 129] } else { [8, 0] };
        match self.random.below(20) {
            0..7 => self.message(from, to, (ask, 0), rest, &vec![0x2a; [0, 8, 56, 1400][self.count as usize % 4]]),
            7 => self.message(from, to, (answer, 0), rest, &[7; 16]),
            8 => {
                let kind = self.random.pick(&[5, 15, 17, 30, 42, 100, 200, 255]);
                self.message(from, to, (kind, 0), rest, &[0; 12])
            }
            _ => {
                let kinds: &[(u8, u8)] = if v6 {
                    &[(1, 0), (1, 1), (1, 3), (1, 4), (2, 0), (3, 0), (4, 1)]
                } else {
                    &[(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)]
                };
                let kind = self.random.pick(kinds);
                // an honest one quotes what its receiver sent to a third party
                let third: IpAddr = if v6 { THIRD.1 } else { THIRD.0 }.parse().unwrap();
                let nobody: IpAddr = if v6 { "2001:db8:97::1" } else { "203.0.113.200" }.parse().unwrap();
                let port = self.random.pick(&[A + 1, A + 1, B + 1, HOSTS + 1, A, A + 3]);
                let too_big = matches!((v6, kind), (false, (3, 4)) | (true, (2, _)));
                let honest = self.chance(75);
                let (far, far_port) = match honest {
                    true => (third, port),
                    // the sizes that a host knows are its network namespace's: nobody else may be told a smaller one
                    false => (if too_big { nobody } else { from }, self.port()),
                };
                let here: IpAddr = if v6 { "fd77::2" } else { "10.77.0.2" }.parse().unwrap();
                let near = if self.chance(90) { here } else { to };
                let mut quoted = match (near, far, self.random.below(10)) {
                    (_, _, 0) => vec![0x77; 28],
                    (near, far, n) => {
                        let protocol = if n < 3 { frame::TCP } else { frame::UDP };
                        frame::ip(near, far, protocol, &frame::udp((near, port), (far, far_port), &[9; 16]))
                    }
                };
                if self.chance(10) {
                    quoted.truncate(self.random.below(quoted.len() as u64) as usize);
                }
                let size = if honest { 1500 } else { self.random.pick(&[1500u32, 1400, 1280, 600, 68, 0]) };
                self.message(from, to, kind, if too_big { size.to_be_bytes() } else { [0; 4] }, &quoted)
            }
        }
    }

    fn message(&mut self, from: IpAddr, to: IpAddr, (kind, code): (u8, u8), rest: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut message = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => frame::icmp6(from, to, kind, code, rest, body),
            _ => frame::icmp4(kind, code, rest, body),
        };
        if self.chance(4) {
            message[3] ^= 0x55;
        }
        message
    }

    /// Its pieces, in some order; one may be missing, or there twice.
    fn pieces(&mut self, plan: &Plan) -> Vec<Vec<u8>> {
        let whole = plan.payload.len();
        let unit = (whole / self.random.pick(&[2, 2, 3, 4])).max(8) & !7;
        let mut parts: Vec<Vec<u8>> = (0..whole)
            .step_by(unit)
            .map(|start| {
                let end = (start + unit).min(whole);
                self.ip(plan, &plan.payload[start..end], Some((start, end < whole)))
            })
            .collect();
        if parts.is_empty() {
            parts.push(self.ip(plan, &[], None));
        }
        let at = self.random.below(parts.len() as u64) as usize;
        match self.random.below(10) {
            0..3 => parts.reverse(),
            3 => parts.rotate_left(at),
            4 => drop(parts.remove(at)),
            5 => parts.push(parts[at].clone()),
            _ => {}
        }
        if parts.is_empty() { self.conversation().into_iter().map(|packet| packet.ip).collect() } else { parts }
    }

    fn ip(&mut self, plan: &Plan, payload: &[u8], part: Option<(usize, bool)>) -> Vec<u8> {
        match (plan.from, plan.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.v4(from, to, plan, payload, part),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.v6(from, to, plan, payload, part),
            _ => unreachable!("both ends have one family"),
        }
    }

    fn v4(
        &mut self,
        from: Ipv4Addr,
        to: Ipv4Addr,
        plan: &Plan,
        payload: &[u8],
        part: Option<(usize, bool)>,
    ) -> Vec<u8> {
        let options: &[u8] = if self.chance(10) { self.random.pick(&OPTIONS) } else { &[] };
        let (offset, more) = part.unwrap_or_default();
        let fragment = (u16::from(more) << 13) | (offset / 8) as u16;
        let ttl = self.random.pick(&[64, 64, 64, 255, 1, 0]);
        V4 { id: plan.id as u16, fragment, options, ttl, ..V4::new(from, to, plan.protocol, payload) }.bytes()
    }

    fn v6(
        &mut self,
        from: Ipv6Addr,
        to: Ipv6Addr,
        plan: &Plan,
        payload: &[u8],
        part: Option<(usize, bool)>,
    ) -> Vec<u8> {
        let (mut next, mut bytes) = (plan.protocol, payload.to_vec());
        // what stands behind a fragment header is in the first piece alone, and would move the others
        if part.is_none() && self.chance(12) {
            (next, bytes) = self.extended(next, bytes);
        }
        if let Some((offset, more)) = part.or(self.chance(3).then_some((0, false))) {
            bytes = frame::v6_fragment(next, offset as u16, more, plan.id, &bytes);
            next = 44;
        }
        if self.chance(8) {
            (next, bytes) = self.extended(next, bytes);
        }
        frame::v6(from, to, next, self.random.pick(&[64, 64, 255, 1, 0]), &bytes)
    }

    fn extended(&mut self, mut next: u8, mut bytes: Vec<u8>) -> (u8, Vec<u8>) {
        for _ in 0..self.random.pick(&[1, 1, 2, 3]) {
            // options to be skipped or refused, a route that ends here, one that does not
            let (kind, body) = self.random.pick(&[
                (60, [1, 4, 0, 0, 0, 0]),
                (60, [0x1e, 4, 0, 0, 0, 0]),
                (60, [0x9e, 4, 0, 0, 0, 0]),
                (0, [1, 4, 0, 0, 0, 0]),
                (43, [4, 0, 0, 0, 0, 0]),
                (43, [0, 1, 0, 0, 0, 0]),
            ]);
            bytes = [&[next, 0][..], &body, &bytes].concat();
            next = kind;
        }
        (next, bytes)
    }

    /// A lie, a cut, or a bit.
    fn break_it(&mut self, bytes: &mut Vec<u8>) {
        let end = bytes.len() as u64;
        match self.random.below(5) {
            0 => bytes.truncate(self.random.below(end) as usize),
            1 => bytes.resize(bytes.len() + self.random.below(64) as usize, 0x44),
            2 => {
                let at = if bytes[0] >> 4 == 6 { 4 } else { 2 };
                let lie: u16 = self.random.pick(&[0, 4, 20, 27, 28, 60, 1500, 65_535]);
                bytes[at..at + 2].copy_from_slice(&lie.to_be_bytes());
            }
            3 if bytes[0] >> 4 == 4 => bytes[10] ^= 0x55,
            _ => bytes[self.random.below(end.min(60)) as usize] ^= 1 << self.random.below(8),
        }
    }
}
