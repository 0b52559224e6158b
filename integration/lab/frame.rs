//! Frames and packets byte by byte: the honest ones and the hostile ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

/// A MAC address.
pub type Mac = [u8; 6];
/// Everybody.
pub const BROADCAST: Mac = [0xff; 6];
/// ICMP's protocol number, IPv4.
pub const ICMP: u8 = 1;
/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// ICMP's protocol number, IPv6.
pub const ICMP6: u8 = 58;
/// EtherTypes.
pub const IPV4: u16 = 0x0800;
/// ARP.
pub const ARP: u16 = 0x0806;
/// IPv6.
pub const IPV6: u16 = 0x86dd;

/// Sixteen bytes that occur nowhere else: how a capture knows the frame it waits for.
pub fn marker() -> [u8; 16] {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut marker = *b"\xa5\x5aportslice..\x00\x00\x00";
    marker[11..13].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
    marker[13..16].copy_from_slice(&n.to_be_bytes()[5..]);
    marker
}

/// Whether a frame carries a marker.
pub fn carries(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|w| w == marker)
}

/// The Internet checksum over several parts (each of even length but the last).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet frame.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet in all its parts, so that a test can bend any of them.
#[derive(Clone)]
pub struct V4<'a> {
    /// Source.
    pub from: Ipv4Addr,
    /// Destination.
    pub to: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, as in the header (0x2000 = more fragments, 0x4000 = do not fragment).
    pub fragment: u16,
    /// Options, a multiple of four bytes.
    pub options: &'a [u8],
    /// Time to live.
    pub ttl: u8,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> V4<'a> {
    /// An ordinary packet.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &'a [u8]) -> V4<'a> {
        V4 { from, to, protocol, id: 0x4242, fragment: 0, options: &[], ttl: 64, payload }
    }

    /// Its bytes, checksum included.
    pub fn bytes(&self) -> Vec<u8> {
        let words = 5 + self.options.len() / 4;
        let length = (words * 4 + self.payload.len()) as u16;
        let mut header = vec![0x40 | words as u8, 0];
        header.extend(length.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.from.octets());
        header.extend(self.to.octets());
        header.extend(self.options);
        let sum = checksum(&[&header]).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
        header.extend(self.payload);
        header
    }
}

/// An IPv6 packet; `next` is the payload's protocol.
pub fn v6(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hops]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// A datagram of UDP as IP packets: fragments that begin at these offsets.
pub fn udp_fragments(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    id: u16,
    (payload, starts): (&[u8], &[usize]),
) -> Vec<Vec<u8>> {
    let datagram = udp(from, to, payload);
    let ends = starts.iter().skip(1).copied().chain([datagram.len()]);
    let packet = |(start, end): (usize, usize)| {
        let (part, more) = (&datagram[start..end], end < datagram.len());
        match (from.0, to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let fragment = (u16::from(more) << 13) | (start as u16 / 8);
                V4 { id, fragment, ..V4::new(from, to, UDP, part) }.bytes()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                v6(from, to, 44, 64, &v6_fragment(UDP, start as u16, more, u32::from(id), part))
            }
            _ => unreachable!(),
        }
    };
    starts.iter().copied().zip(ends).map(packet).collect()
}

/// A fragment header of IPv6 in front of a payload. `offset` in bytes.
pub fn v6_fragment(next: u8, offset: u16, more: bool, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![next, 0];
    out.extend(((offset & !7) | u16::from(more)).to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(payload);
    out
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(f), IpAddr::V4(t)) => {
            [&f.octets()[..], &t.octets(), &[0, protocol], &(length as u16).to_be_bytes()].concat()
        }
        (IpAddr::V6(f), IpAddr::V6(t)) => {
            [&f.octets()[..], &t.octets(), &(length as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
        }
        _ => panic!("mixed families {from} {to}"),
    }
}

/// The checksum of a transport's header and payload, which are given with zeros in its place.
pub fn transport_checksum(from: IpAddr, to: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    checksum(&[&pseudo(from, to, protocol, bytes.len()), bytes])
}

/// A UDP datagram with its checksum.
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len();
    let mut out = [from.1.to_be_bytes(), to.1.to_be_bytes(), (length as u16).to_be_bytes(), [0, 0]].concat();
    out.extend(payload);
    let sum = transport_checksum(from.0, to.0, UDP, &out).to_be_bytes();
    out[6..8].copy_from_slice(&sum);
    out
}

/// A TCP segment (SYN) with a payload, which is odd but legal, so that it can carry a marker.
pub fn tcp_syn(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut out = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    out.extend(0x01020304u32.to_be_bytes());
    out.extend(0u32.to_be_bytes());
    out.extend([0x50, 0x02, 0x20, 0x00, 0, 0, 0, 0]);
    out.extend(payload);
    let sum = transport_checksum(from.0, to.0, TCP, &out).to_be_bytes();
    out[16..18].copy_from_slice(&sum);
    out
}

/// A whole IP packet carrying a UDP datagram, either family.
pub fn udp_packet(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    ip(from.0, to.0, UDP, &udp(from, to, payload))
}

/// A whole IP packet, either family.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(f), IpAddr::V4(t)) => V4::new(f, t, protocol, payload).bytes(),
        (IpAddr::V6(f), IpAddr::V6(t)) => v6(f, t, protocol, 64, payload),
        _ => panic!("mixed families {from} {to}"),
    }
}

/// The EtherType of a family.
pub fn ethertype(of: IpAddr) -> u16 {
    if of.is_ipv4() { IPV4 } else { IPV6 }
}

/// An ICMP message with its checksum: type, code, the four bytes after the checksum, body.
pub fn icmp4(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(rest);
    out.extend(body);
    let sum = checksum(&[&out]).to_be_bytes();
    out[2..4].copy_from_slice(&sum);
    out
}

/// The same for ICMPv6, whose checksum covers the addresses.
pub fn icmp6(from: Ipv6Addr, to: Ipv6Addr, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, code, 0, 0];
    out.extend(rest);
    out.extend(body);
    let sum = transport_checksum(from.into(), to.into(), ICMP6, &out).to_be_bytes();
    out[2..4].copy_from_slice(&sum);
    out
}

/// An ARP packet (`operation` 1 asks, 2 answers), padded with a marker.
pub fn arp(operation: u16, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), padding: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4];
    out.extend(operation.to_be_bytes());
    out.extend(from.0);
    out.extend(from.1.octets());
    out.extend(to.0);
    out.extend(to.1.octets());
    out.extend(padding);
    out
}

/// An unsolicited neighbour advertisement for `target` claiming to live at `mac`, as a whole IPv6 packet to all nodes.
pub fn neighbour_advertisement(from: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let body = [&target.octets()[..], &[2, 1], &mac].concat();
    v6(from, all_nodes, ICMP6, 255, &icmp6(from, all_nodes, 136, 0, [0x20, 0, 0, 0], &body))
}
