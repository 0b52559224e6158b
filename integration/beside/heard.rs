//! One of the two hosts: packets are put on its wire, and all that comes of them is written down as text.

use super::packets::{A, B, HOSTS, Packet, Start, THIRD};
use crate::lab::{Host, Ns, frame, probe, sock, tap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// So long nothing more has to come.
const QUIET: Duration = Duration::from_millis(8);
/// Settings that would answer some packets and not others, by what came before.
const SETTINGS: [(&str, &str); 8] = [
    ("ipv4.icmp_ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec", "1000000"),
    ("ipv4/icmp_msgs_burst", "1000000"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4.tcp_invalid_ratelimit", "0"),
    ("ipv4.tcp_synack_retries", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv6/conf/eth0/accept_redirects", "0"),
];

/// A host and who listens there.
pub struct Side<'a> {
    /// Settings as they were.
    before: Vec<(&'a Ns, &'static str, String)>,
    /// A's, of IPv4 and IPv6.
    raw: [OwnedFd; 2],
    wire: OwnedFd,
    own: [frame::Mac; 2],
    sockets: Vec<(String, OwnedFd)>,
    /// They only have to be there.
    _listeners: Vec<OwnedFd>,
}

impl<'a> Side<'a> {
    /// `places`: where the programs of A, B and the host are.
    pub fn new(host: &'a Host, places: [&'a Ns; 3]) -> Side<'a> {
        let peer = tap::mac_of(&host.peer, "wire");
        // it answers nothing itself, and its neighbour knows it
        host.peer.ip("addr flush dev wire\nneigh flush dev wire");
        host.peer.set_sysctl("ipv6/conf/wire/disable_ipv6", "1");
        let mac = peer.map(|byte| format!("{byte:02x}")).join(":");
        for address in ["10.77.0.1", "10.77.0.9", "fd77::1", "fd77::9"] {
            host.ns.ip(&format!("neigh replace {address} lladdr {mac} nud permanent dev eth0"));
        }
        let mut before = Vec::new();
        for ns in places {
            for (key, value) in SETTINGS {
                before.push((ns, key, ns.sysctl(key)));
                ns.set_sysctl(key, value);
            }
        }
        let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
        for (name, ns, first) in [("A", places[0], A), ("B", places[1], B), ("H", places[2], HOSTS)] {
            for any in ["0.0.0.0", "::"].map(|text| text.parse::<IpAddr>().unwrap()) {
                let third = if any.is_ipv4() { THIRD.0 } else { THIRD.1 }.parse().unwrap();
                for (proto, port, to) in [
                    (probe::Proto::Udp, first, None),
                    (probe::Proto::Udp, first + 1, Some(SocketAddr::new(third, first + 1))),
                    (probe::Proto::UdpLite, first, None),
                    (probe::Proto::Tcp, first, None),
                ] {
                    if !proto.available(any) {
                        continue;
                    }
                    let fd = ns.inside(|| bound(proto, SocketAddr::new(any, port), to));
                    if proto == probe::Proto::Tcp {
                        listeners.push(fd);
                    } else {
                        sockets.push((named(name, proto, port, any), fd));
                    }
                }
            }
        }
        let wire = host.peer.inside(|| tap::packet_socket("wire", tap::ALL));
        sock::set(&wire, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16i32 << 20).expect("SO_RCVBUFFORCE");
        let raw = ["0.0.0.0", "::"].map(|of| places[0].inside(|| raw(of)));
        Side { before, raw, wire, own: [tap::mac_of(&host.ns, "eth0"), peer], sockets, _listeners: listeners }
    }

    /// What comes of packets, in the order of the alphabet; of none: what else came of earlier ones.
    pub fn hears(&mut self, packets: &[Packet]) -> Vec<String> {
        let mut all = Vec::new();
        if !packets.is_empty() {
            self.collect(&mut Vec::new());
        }
        for packet in packets {
            if let Err(e) = self.start(packet) {
                all.push(format!("A cannot send it: {e}"));
            }
            self.collect(&mut all);
        }
        let mut last = Instant::now();
        while last.elapsed() < QUIET {
            let before = all.len();
            self.collect(&mut all);
            if all.len() > before {
                last = Instant::now();
            }
        }
        all.sort();
        all
    }

    fn start(&self, packet: &Packet) -> io::Result<()> {
        let family = |to: IpAddr| usize::from(to.is_ipv6());
        match packet.start {
            Start::Wire => {
                let frame = packet.frame(self.own);
                sock::send(&self.wire, &frame).unwrap_or_else(|e| panic!("{packet}: {e}"));
            }
            Start::Raw(to) => {
                sock::send_to(&self.raw[family(to)], &packet.ip, SocketAddr::new(to, 0))?;
            }
            Start::Socket(to) => {
                let (_, own) = self.sockets.iter().find(|(name, _)| *name == first(to.ip())).expect("A's first");
                sock::send_to(own, &packet.ip, to)?;
            }
        }
        Ok(())
    }

    fn collect(&self, all: &mut Vec<String>) {
        while let Some(seen) = tap::receive(&self.wire, libc::MSG_DONTWAIT) {
            if !seen.outgoing {
                all.extend(words(seen.bytes, self.own));
            }
        }
        let mut buffer = vec![0; 70_000];
        for (who, fd) in &self.sockets {
            loop {
                match sock::recv_from(fd, &mut buffer) {
                    Ok((length, from)) => all.push(format!("{who} got {} from {from}", hex(&buffer[..length]))),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => all.push(format!("{who} is told {e}")),
                }
            }
        }
    }
}

impl Drop for Side<'_> {
    fn drop(&mut self) {
        self.before.iter().rev().for_each(|(ns, key, value)| ns.set_sysctl(key, value));
    }
}

/// What is in `a` more often than in `b`, both in order.
pub fn without(a: &[String], b: &[String]) -> Vec<String> {
    let mut rest = b.to_vec();
    let mut more = Vec::new();
    for text in a {
        match rest.iter().position(|other| other == text) {
            Some(at) => drop(rest.swap_remove(at)),
            None => more.push(text.clone()),
        }
    }
    more
}

fn named(whose: &str, proto: probe::Proto, port: u16, family: IpAddr) -> String {
    format!("{whose} {proto:?} {port} {}", if family.is_ipv4() { 4 } else { 6 })
}

/// The name of the socket by which A sends.
fn first(family: IpAddr) -> String {
    named("A", probe::Proto::Udp, A, family)
}

/// A socket that sends whole packets, headers included.
fn raw(of: &str) -> OwnedFd {
    let fd = sock::socket(sock::family(of.parse().unwrap()), libc::SOCK_RAW, libc::IPPROTO_RAW).expect("raw socket");
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    fd
}

fn bound(proto: probe::Proto, at: SocketAddr, to: Option<SocketAddr>) -> OwnedFd {
    let fd = probe::open(proto, at.ip()).expect("socket");
    sock::bind(&fd, at).unwrap_or_else(|e| panic!("bind to {at}: {e}"));
    if proto == probe::Proto::Tcp {
        sock::listen(&fd).expect("listen");
    }
    to.iter().for_each(|to| sock::connect(&fd, *to).expect("connect"));
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    fd
}

/// A frame without what chance or a clock puts into it; none for what neighbours say to each other.
fn words(mut bytes: Vec<u8>, [own, peer]: [frame::Mac; 2]) -> Option<String> {
    let honest = bytes[..6] == peer && bytes[6..12] == own;
    let frame = if honest { "wire" } else { "a frame of others" };
    let kind = u16::from_be_bytes([bytes[12], bytes[13]]);
    let (protocol, l4) = match kind {
        frame::IPV4 => {
            bytes[18..20].fill(0); // id
            bytes[24..26].fill(0); // checksum
            let first = u16::from_be_bytes([bytes[20], bytes[21]]) & 0x1fff == 0;
            (first.then_some(bytes[23]), 14 + usize::from(bytes[14] & 15) * 4)
        }
        frame::IPV6 => {
            bytes[15] &= 0xf0; // flow label
            bytes[16..18].fill(0);
            if bytes[20] == 44 {
                bytes[58..62].fill(0); // fragment's id
                let first = u16::from_be_bytes([bytes[56], bytes[57]]) & 0xfff8 == 0;
                (first.then_some(bytes[54]), 62)
            } else if bytes[20] == 0 {
                return None; // a report to multicast routers
            } else {
                (Some(bytes[20]), 54)
            }
        }
        _ => return None,
    };
    match protocol {
        Some(frame::TCP) => {
            let syn = bytes[l4 + 13] & 2 != 0;
            if syn {
                bytes[l4 + 4..l4 + 8].fill(0); // its own first number
            }
            bytes[l4 + 16..l4 + 18].fill(0);
            forget_time(&mut bytes[l4..]);
        }
        // written by the device, or not
        Some(frame::UDP) => bytes[l4 + 6..l4 + 8].fill(0),
        Some(frame::ICMP6) if (130..=143).contains(&bytes[l4]) => return None,
        // that the rest of a datagram never came is told half a minute later
        Some(frame::ICMP6) if bytes[l4..l4 + 2] == [3, 1] => return None,
        Some(frame::ICMP) if bytes[l4..l4 + 2] == [11, 1] => return None,
        Some(2) => return None,
        _ => {}
    }
    Some(format!("{frame} {kind:04x} {}", hex(&bytes[14..])))
}

/// Clears the sender's time in the options of a TCP segment.
fn forget_time(segment: &mut [u8]) {
    let (mut at, end) = (20, (usize::from(segment[12] >> 4) * 4).min(segment.len()));
    while at + 1 < end {
        match segment[at] {
            0 => return,
            1 => at += 1,
            8 => return segment[at + 2..at + 6].fill(0),
            _ => at += usize::from(segment[at + 1]).max(2),
        }
    }
}

/// The first bytes, and what tells the rest apart.
fn hex(bytes: &[u8]) -> String {
    let (head, rest) = bytes.split_at(bytes.len().min(96));
    let head: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut hasher = DefaultHasher::new();
    rest.hash(&mut hasher);
    if rest.is_empty() { head } else { format!("{head}+{} {:016x}", rest.len(), hasher.finish()) }
}
