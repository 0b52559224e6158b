//! ICMP errors that a container is sent, read as its stack reads them: RFC 792, RFC 1191, RFC 4443.

use super::case::Sample;
use portslice::steer::model::{Told, World};
use std::net::IpAddr;

const ETHERNET: usize = 14;
/// Bytes of a packet that an error quotes, at most: with more headers than these it need not show the transport's.
const QUOTED: usize = 120;

/// Does `frame` tell `told` about the packet of a sample? Otherwise why not.
pub fn judged(world: &World, sample: &Sample, told: Told, frame: &[u8]) -> Result<(), String> {
    let packet = sample.frame(0).packet().ok_or("about no packet")?;
    let need = |right: bool, what: &str| if right { Ok(()) } else { Err(format!("the error's {what} is wrong")) };
    let v6 = packet.is_v6();
    let header = if v6 { 40 } else { 20 };
    need(frame.len() >= ETHERNET + header + 8, "length")?;
    let (ethernet, ip) = frame.split_at(ETHERNET);
    let (ip, message) = ip.split_at(header);
    need(ethernet[..6] == world.host.mac && ethernet[12..] == sample.bytes[12..14], "Ethernet header")?;
    let total = |at: usize| usize::from(u16::from_be_bytes([ip[at], ip[at + 1]]));
    let (source, destination, pseudo) = if v6 {
        let octets = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
        need(ip[0] >> 4 == 6 && total(4) == message.len() && ip[6] == 58 && ip[7] > 0, "IPv6 header")?;
        let length = (message.len() as u32).to_be_bytes();
        (octets(8), octets(24), [&ip[8..40], &length, &[0, 0, 0, 58]].concat())
    } else {
        let octets = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
        need(ip[0] == 0x45 && total(2) == ip.len() + message.len() && ip[9] == 1 && ip[8] > 0, "IPv4 header")?;
        need(ip[6] & 0x3f == 0 && ip[7] == 0 && sum(ip) == 0xffff, "fragment offset or checksum")?;
        (octets(12), octets(16), Vec::new())
    };
    let own = if v6 { IpAddr::from(world.host.v6[0]) } else { IpAddr::from(world.host.v4[0]) };
    need(source == own && destination == packet.source, "address")?;
    need(sum(&[&pseudo, message].concat()) == 0xffff, "checksum")?;
    let (kind, mtu) = kind(v6, told);
    let said = (message[..2] == kind, message[4..8] == mtu.to_be_bytes());
    need(said == (true, true), &format!("type, code or MTU ({:?}) about {packet:?}", &message[..8]))?;
    // what the packet has not is filled up with zeros
    let (quoted, about) = (&message[8..], &sample.bytes[ETHERNET..]);
    let shown = quoted.len().min(about.len());
    need(quoted.len() >= (packet.transport - ETHERNET + 8).min(QUOTED), "quoted length")?;
    need(quoted[..shown] == about[..shown] && quoted[shown..].iter().all(|byte| *byte == 0), "quoted packet")
}

/// Type and code, and what stands in the second word.
fn kind(v6: bool, told: Told) -> ([u8; 2], u32) {
    match (v6, told) {
        (false, Told::NoRoute) => ([3, 0], 0),
        (false, Told::Unreachable) => ([3, 1], 0),
        (false, Told::Prohibited) => ([3, 13], 0),
        (false, Told::TooBig(mtu)) => ([3, 4], mtu),
        (true, Told::NoRoute) => ([1, 0], 0),
        (true, Told::Unreachable) => ([1, 3], 0),
        (true, Told::Prohibited) => ([1, 1], 0),
        (true, Told::TooBig(mtu)) => ([2, 0], mtu),
    }
}

/// The ones' complement sum of big-endian words.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
