//! Reading a frame: the addresses, the ports or what stands for them, and which part of a datagram it is.
//!
//! What a header says about lengths decides nothing here: a packet's stack judges its own lengths and checksums, and whose a
//! packet is follows from what the frame holds. Lengths count for fragments, which a receiver has to keep, and where a stack would
//! complain of a packet of which it cut off the ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::is_written_as_ipv6;

use crate::net::link::Mac;

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
const TYPE_V4: u16 = 0x0800;
const TYPE_V6: u16 = 0x86dd;
const TYPE_ARP: u16 = 0x0806;

/// Protocol numbers.
pub const ICMP: u8 = 1;
/// The same.
pub const IGMP: u8 = 2;
/// The same.
pub const TCP: u8 = 6;
/// The same.
pub const UDP: u8 = 17;
const DCCP: u8 = 33;
/// The same.
pub const ICMP_V6: u8 = 58;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Extension headers that a packet may have. RFC 8200 4.1 knows of seven in one packet; one with more is malformed.
pub const EXTENSIONS: usize = 8;
/// Bytes that the first fragment of an IPv6 datagram must have, so that the header of every transport is in it (RFC 8200 4.5).
const FIRST_BYTES: usize = 24;
/// Bytes of the two ports that every transport with ports begins with.
const PORTS: usize = 4;

/// A frame as a program finds it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// From the Ethernet header on, without a VLAN tag.
    pub bytes: &'a [u8],
    /// The control information of the VLAN tag that the device took off.
    pub vlan: Option<u16>,
    /// The device that it came in by.
    pub device: u32,
    /// The mark.
    pub mark: u32,
    /// For one that stands for several on the wire.
    pub segments: Option<Segments>,
}

/// What a large packet is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Bytes of payload in each but the last.
    pub size: u16,
    /// How many; 0 where its sender did not say.
    pub count: u16,
}

/// What the type of a frame says it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP.
    Arp,
    /// Something else.
    Other,
}

impl Frame<'_> {
    /// The MAC it is for.
    pub fn destination(&self) -> Option<Mac> {
        array(self.bytes, 0)
    }

    /// Is it for more than one MAC? Not one of a VLAN.
    pub fn is_to_many(&self) -> bool {
        self.bytes.first().is_some_and(|first| first & 1 != 0) && self.is_of_the_link()
    }

    /// Does it belong to no VLAN? A tag of VLAN 0 is but a priority.
    pub fn is_of_the_link(&self) -> bool {
        const VLAN_ID: u16 = 0x0fff;
        self.vlan.is_none_or(|tag| tag & VLAN_ID == 0)
    }

    /// The MAC it is from.
    pub fn source(&self) -> Option<Mac> {
        array(self.bytes, 6)
    }

    /// What it holds.
    pub fn kind(&self) -> Kind {
        match array(self.bytes, 12).map(u16::from_be_bytes) {
            Some(TYPE_V4) => Kind::V4,
            Some(TYPE_V6) => Kind::V6,
            Some(TYPE_ARP) => Kind::Arp,
            _ => Kind::Other,
        }
    }

    /// The IP packet in it; `None` for one that is cut short, or contradicts itself, or is no IP packet.
    pub fn packet(&self) -> Option<Packet> {
        self.packet_of_anybody().filter(Packet::has_a_source)
    }

    /// The same, even if its source is an IPv4 address written as IPv6.
    pub fn packet_of_anybody(&self) -> Option<Packet> {
        match self.kind() {
            Kind::V4 => Packet::v4(self.bytes, ETHERNET),
            Kind::V6 => Packet::v6(self.bytes, ETHERNET),
            Kind::Arp | Kind::Other => None,
        }
    }
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The address it is from.
    pub source: IpAddr,
    /// The address it is for.
    pub destination: IpAddr,
    /// Its transport.
    pub protocol: u8,
    /// Which part of a datagram it is.
    pub part: Part,
    /// What its transport header says.
    pub content: Content,
    /// Where in the frame its transport header begins.
    pub transport: usize,
    /// Do other headers before its ports take up all that the packet says it has?
    pub ports_are_behind_its_end: bool,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first, with the transport's header.
    First(Fragment),
    /// A later one, without.
    Later(Fragment),
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// What all parts have in common.
    pub id: u32,
    /// The protocol where that tells datagrams apart as well: in IPv4. In IPv6 the first part may have headers of its own.
    pub protocol: Option<u8>,
    /// Where in the datagram it begins.
    pub offset: usize,
    /// Bytes it has of the datagram.
    pub length: usize,
    /// Do others follow?
    pub more: bool,
    /// Will its receiver take it, whatever it knows of options? Otherwise it may wait for another one in its place.
    pub certain: bool,
}

/// What a transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It has ports.
    Ports {
        /// The sender's.
        source: u16,
        /// The receiver's.
        destination: u16,
    },
    /// ICMP.
    Icmp(Icmp),
    /// Neither: another protocol, or a later fragment.
    Other,
}

/// What an ICMP message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// An echo request with its id.
    Ask(u16),
    /// An echo reply with its id.
    Answer(u16),
    /// An error about a packet, whose beginning follows.
    Error {
        /// Does it lower a path's MTU?
        too_big: bool,
    },
    /// What neighbours on a link tell each other: neighbour discovery.
    Link,
    /// Who listens to which groups, and who asks that.
    Group,
    /// Anything else.
    Other,
}

impl Packet {
    fn v4(bytes: &[u8], start: usize) -> Option<Packet> {
        let header: [u8; 20] = array(bytes, start)?;
        let words = usize::from(header[0] & 0xf);
        if header[0] >> 4 != 4 || words < 5 {
            return None;
        }
        let address = |at: usize| array::<4>(&header, at).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
        let (source, destination) = (address(12)?, address(16)?);
        let field = be16(&header, 6)?;
        let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
        let total = usize::from(be16(&header, 2)?);
        let length = total.saturating_sub(words * 4);
        let whole_and_true = words == 5 && checksum(&header) && start + total <= bytes.len() && length > 0;
        let fragment = Fragment {
            id: be16(&header, 4)?.into(),
            protocol: Some(header[9]),
            offset,
            length,
            more,
            certain: whole_and_true && (!more || length.is_multiple_of(8)),
        };
        let part = match (offset, more) {
            (0, false) => Part::Whole,
            (0, true) => Part::First(fragment),
            _ => Part::Later(fragment),
        };
        let transport = start + words * 4;
        let ports_are_behind_its_end = words > 5 && total > 0 && transport + PORTS > start + total;
        let content = Content::Other;
        Packet { source, destination, protocol: header[9], part, content, transport, ports_are_behind_its_end }
            .with_content(bytes)
    }

    fn v6(bytes: &[u8], start: usize) -> Option<Packet> {
        let header: [u8; 40] = array(bytes, start)?;
        let address = |at: usize| array::<16>(&header, at).map(Ipv6Addr::from);
        let (source, destination) = (address(8)?, address(24)?);
        // IPv4 written as IPv6 is for programs, and in no packet (RFC 4038 4.2)
        if header[0] >> 4 != 6 || destination.to_ipv4_mapped().is_some() {
            return None;
        }
        let end = start + header.len() + usize::from(be16(&header, 4)?);
        let mut packet = Packet {
            source: source.into(),
            destination: destination.into(),
            protocol: header[6],
            part: Part::Whole,
            content: Content::Other,
            transport: start + header.len(),
            ports_are_behind_its_end: false,
        };
        for passed in 0..EXTENSIONS {
            if !is_extension(packet.protocol) {
                break;
            }
            let extension: [u8; 8] = array(bytes, packet.transport)?;
            let kind = std::mem::replace(&mut packet.protocol, extension[0]);
            packet.transport += match kind {
                FRAGMENT => 8,
                AUTHENTICATION => (usize::from(extension[1]) + 2) * 4,
                _ => (usize::from(extension[1]) + 1) * 8,
            };
            if kind == FRAGMENT {
                packet.part = packet.fragment_v6(extension, end, passed == 0 && end <= bytes.len())?;
                if matches!(packet.part, Part::Later(_)) {
                    return Some(packet);
                }
            }
        }
        let (first, says) = (start + header.len(), be16(&header, 4)?);
        packet.ports_are_behind_its_end = packet.transport > first && says > 0 && packet.transport + PORTS > end;
        if is_extension(packet.protocol) { None } else { packet.with_content(bytes) }
    }

    /// Which part it is by a fragment header, behind which it now stands. `end`: where the packet ends by its own words, `sound`:
    /// which are true, and nothing stands before the fragment header.
    fn fragment_v6(&self, header: [u8; 8], end: usize, sound: bool) -> Option<Part> {
        let field = be16(&header, 2)?;
        let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
        let length = end.saturating_sub(self.transport);
        let has_header = length >= FIRST_BYTES && !is_extension(self.protocol);
        let fragment = Fragment {
            id: u32::from_be_bytes(array(&header, 4)?),
            protocol: None,
            offset,
            length,
            more,
            certain: sound && length > 0 && (!more || length.is_multiple_of(8)) && (offset > 0 || has_header),
        };
        // Of several fragment headers the last one counts. One without any further fragment is a whole packet (RFC 6946).
        Some(match (offset, more, self.part) {
            (0, false, Part::First(_)) | (0, true, _) => Part::First(fragment),
            (0, false, _) => Part::Whole,
            _ => Part::Later(fragment),
        })
    }

    fn with_content(mut self, bytes: &[u8]) -> Option<Packet> {
        if matches!(self.part, Part::Later(_)) {
            return Some(self);
        }
        let at = self.transport;
        if has_ports(self.protocol) {
            self.content = Content::Ports { source: be16(bytes, at)?, destination: be16(bytes, at + 2)? };
        } else if self.is_icmp() {
            let header: [u8; 8] = array(bytes, at)?;
            let icmp = if self.is_v6() { icmp_v6 } else { icmp_v4 };
            self.content = Content::Icmp(icmp(header[0], header[1], be16(&header, 4)?));
        }
        Some(self)
    }

    /// Is it IPv6?
    pub fn is_v6(&self) -> bool {
        self.destination.is_ipv6()
    }

    /// Is it its own family's ICMP?
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v6() { ICMP_V6 } else { ICMP }
    }

    /// Has its protocol ports? A later fragment's, too, which does not show them.
    pub fn is_of_ports(&self) -> bool {
        has_ports(self.protocol)
    }

    /// The packet that an ICMP error quotes, in the same frame. `None` for one that is cut short, or tells nobody's ports.
    pub fn quoted(&self, frame: &Frame<'_>) -> Option<Packet> {
        let at = self.transport + 8;
        let quoted = if self.is_v6() { Packet::v6(frame.bytes, at) } else { Packet::v4(frame.bytes, at) };
        quoted.filter(|quoted| quoted.has_a_source() && !matches!(quoted.part, Part::Later(_)))
    }

    fn has_a_source(&self) -> bool {
        !is_written_as_ipv6(self.source)
    }

    /// Its fragment, if it is one.
    pub fn fragment(&self) -> Option<Fragment> {
        match self.part {
            Part::Whole => None,
            Part::First(fragment) | Part::Later(fragment) => Some(fragment),
        }
    }
}

/// Has the protocol ports, as the first four bytes of its header?
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// RFC 792.
fn icmp_v4(kind: u8, code: u8, id: u16) -> Icmp {
    match (kind, code) {
        (0, _) => Icmp::Answer(id),
        (8, _) => Icmp::Ask(id),
        (3, 4) => Icmp::Error { too_big: true },
        (3 | 11 | 12, _) => Icmp::Error { too_big: false },
        _ => Icmp::Other,
    }
}

/// RFC 4443; neighbour discovery is RFC 4861, listeners are RFC 2710 and 3810.
fn icmp_v6(kind: u8, _code: u8, id: u16) -> Icmp {
    match kind {
        1 | 3 | 4 => Icmp::Error { too_big: false },
        2 => Icmp::Error { too_big: true },
        128 => Icmp::Ask(id),
        129 => Icmp::Answer(id),
        130..=132 | 143 => Icmp::Group,
        133..=137 => Icmp::Link,
        _ => Icmp::Other,
    }
}

/// Is the checksum of an IPv4 header right?
fn checksum(header: &[u8; 20]) -> bool {
    let sum = header.chunks_exact(2).fold(0, |sum, word| sum + u32::from(word[0]) * 256 + u32::from(word[1]));
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv6 packet whose headers follow each other as given, with `rest` behind.
    fn v6(next: u8, headers: &[&[u8]], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET];
        bytes[12..].copy_from_slice(&TYPE_V6.to_be_bytes());
        let behind: Vec<u8> = headers.concat().into_iter().chain(rest.iter().copied()).collect();
        bytes.extend([0x60, 0, 0, 0, (behind.len() >> 8) as u8, behind.len() as u8, next, 64]);
        bytes.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
        bytes.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        bytes.extend(behind);
        bytes
    }

    fn packet(bytes: &[u8]) -> Option<Packet> {
        Frame { bytes, ..Frame::default() }.packet()
    }

    #[test]
    fn ports_behind_extension_headers_are_found() {
        let ports = [0x04, 0xd2, 0x79, 0x18, 0, 8, 0, 0];
        let options: [&[u8]; 3] =
            [&[60, 0, 1, 4, 0, 0, 0, 0], &[51, 0, 1, 4, 0, 0, 0, 0], &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]];
        let found = packet(&v6(0, &options, &ports)).unwrap();
        assert_eq!(found.content, Content::Ports { source: 1234, destination: 31000 });
        assert_eq!(found.transport, ETHERNET + 40 + 8 + 8 + 12);
        let many = [&[60, 0, 1, 4, 0, 0, 0, 0][..]; EXTENSIONS];
        assert_eq!(packet(&v6(60, &many, &ports)), None, "more than there can be");
    }

    #[test]
    fn parts_of_datagrams_are_told_apart() {
        let part = |field: [u8; 2]| packet(&v6(44, &[&[17, 0, field[0], field[1], 0, 0, 0, 9]], &[7; 24])).unwrap();
        assert_eq!(part([0, 0]).part, Part::Whole, "an atomic fragment");
        assert!(matches!(part([0, 1]).part, Part::First(Fragment { id: 9, length: 24, certain: true, .. })));
        let later = part([0, 24]);
        assert!(matches!(later.part, Part::Later(Fragment { offset: 24, more: false, .. })));
        assert_eq!(later.content, Content::Other, "what looks like ports there is payload");
    }

    #[test]
    fn addresses_are_not_taken_in_each_others_form() {
        let mut bytes = v6(17, &[], &[0; 8]);
        bytes[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        assert_eq!(packet(&bytes), None);
    }

    #[test]
    fn ports_behind_the_end_of_their_packet_are_noticed() {
        let ports = [0x04, 0xd2, 0x79, 0x18];
        let options = [17, 0, 0x9e, 4, 0, 0, 0, 0];
        let says = |length: u8, headers: &[&[u8]]| {
            let mut bytes = v6(if headers.is_empty() { 17 } else { 60 }, headers, &ports);
            bytes[ETHERNET + 5] = length;
            packet(&bytes).unwrap().ports_are_behind_its_end
        };
        assert_eq!([12, 11, 8, 0].map(|length| says(length, &[&options])), [false, true, true, false]);
        assert!(!says(3, &[]), "nothing that a stack could complain of");
    }

    #[test]
    fn what_is_cut_short_is_no_packet() {
        let bytes = v6(17, &[&[17, 0, 0, 0, 0, 0, 0, 0]], &[1, 2, 3, 4]);
        assert!(packet(&bytes).is_some());
        assert!((0..ETHERNET + 40 + 4).all(|length| packet(&bytes[..length]).is_none()));
    }
}
