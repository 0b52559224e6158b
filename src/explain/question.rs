//! What is asked: `tcp 10.0.0.5:1234 > :31005`, and the packet that it means.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::own_address;
use crate::error::{Error, Result};
use crate::net::link::Mac;
use crate::net::route::Transport;
use crate::steer::model::World;
use crate::steer::model::packet::UDP;
use crate::steer::model::world::Port;

/// Protocols by name; the last one asks for an echo.
const PROTOCOLS: [(&str, u8); 6] =
    [("tcp", 6), ("udp", 17), ("sctp", 132), ("udplite", 136), ("dccp", 33), ("icmp", 1)];
const ICMP: u8 = 1;
/// Anybody outside, and the port he sends from (RFC 5737, RFC 3849).
const OUTSIDE: (Ipv4Addr, Ipv6Addr, u16) =
    (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 50_000);

/// A packet, as it is asked about: ends may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    protocol: u8,
    source: End,
    destination: End,
}

/// One end of a conversation; what is missing is filled in with what is usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Question {
    /// A TCP packet that anybody outside sends to a port of the host.
    pub fn of_port(port: u16) -> Self {
        Self { protocol: 6, source: End::default(), destination: End { address: None, port: Some(port) } }
    }

    /// A TCP packet to a port of anybody outside.
    pub fn to_outside(world: &World, port: u16) -> Self {
        Self::to(if has_v4(world) { OUTSIDE.0.into() } else { OUTSIDE.1.into() }, port)
    }

    /// A TCP packet to a port of the host's loopback.
    pub fn to_loopback(world: &World, port: u16) -> Self {
        Self::to(if has_v4(world) { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }, port)
    }

    fn to(address: IpAddr, port: u16) -> Self {
        Self { protocol: 6, source: End::default(), destination: End { address: Some(address), port: Some(port) } }
    }

    /// The same, from this address if it does not say from which.
    pub fn or_from(mut self, source: Option<IpAddr>) -> Self {
        self.source.address = self.source.address.or(source);
        self
    }

    /// The same with nothing left out. `from`: the slot of the container that sends it.
    pub fn complete(&self, world: &World, from: Option<u16>) -> Result<Self> {
        let Self { protocol, mut source, mut destination } = *self;
        let given = source.address.or(destination.address);
        let v6 = given.map_or(!has_v4(world), |ip| ip.is_ipv6());
        if destination.address.is_none() {
            destination.address = Some(own_address(world, v6)?);
        }
        if source.address.is_none() {
            let looped = destination.address.filter(|ip| ip.is_loopback());
            let outside = || if v6 { OUTSIDE.1.into() } else { OUTSIDE.0.into() };
            let usual = || from.map_or_else(|| Ok(outside()), |_| own_address(world, v6));
            source.address = Some(looped.map_or_else(usual, Ok)?);
        }
        if protocol != ICMP && source.port.is_none() {
            let udp = protocol == UDP;
            let own = |slot: u16| {
                let own = |(port, owner): &(&Port, &u16)| **owner == slot && port.udp == udp;
                world.ports.iter().rfind(own).map(|(port, _)| port.number)
            };
            source.port = Some(from.and_then(own).unwrap_or(OUTSIDE.2));
        }
        let complete = Self { protocol, source, destination };
        let (from, to) = complete.ends();
        if from.is_ipv4() != to.is_ipv4() {
            return Err(invalid(&complete.to_string(), "its ends are of two families"));
        }
        Ok(complete)
    }

    /// Both addresses of a complete one.
    pub fn ends(&self) -> (IpAddr, IpAddr) {
        let ip = |end: End| end.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        (ip(self.source), ip(self.destination))
    }

    /// What rules may choose its way by besides these, of a complete one.
    pub fn route_by(&self) -> Option<Transport> {
        let (source, destination) = (self.source.port?, self.destination.port?);
        matches!(self.protocol, 6 | UDP).then_some(Transport { protocol: self.protocol, source, destination })
    }

    /// The port that it is for; `None` for an echo request.
    pub(super) fn port(&self) -> Option<u16> {
        self.destination.port
    }

    /// The port that it is for and whether that is one of UDP, where sockets can claim it: of TCP and UDP.
    pub fn claimable(&self) -> Option<(u16, bool)> {
        match self.protocol {
            6 => Some((self.destination.port?, false)),
            UDP => Some((self.destination.port?, true)),
            _ => None,
        }
    }

    /// Is it for an address of the host, as far as that is said?
    pub fn is_for_the_host(&self, world: &World) -> bool {
        self.destination.address.is_none_or(|ip| ip.is_loopback() || world.is_local(ip))
    }

    /// The same to another port.
    pub fn to_port(mut self, port: u16) -> Self {
        self.destination.port = Some(port);
        self
    }

    /// The frame of a complete one: the first of a connection, or an echo request.
    pub(super) fn frame(&self, (to, from): (Mac, Mac)) -> Vec<u8> {
        let payload = self.transport();
        let mut frame = [to, from].concat();
        match self.ends() {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = (20 + payload.len()) as u16;
                frame.extend([0x08, 0x00, 0x45, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([0, 0, 0, 0, 64, self.protocol, 0, 0]);
                frame.extend([source.octets(), destination.octets()].concat());
            }
            (source, destination) => {
                let octets = |ip: IpAddr| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let next = if self.protocol == ICMP { 58 } else { self.protocol };
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend((payload.len() as u16).to_be_bytes());
                frame.extend([next, 64]);
                frame.extend([octets(source), octets(destination)].concat());
            }
        }
        frame.extend(payload);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        const TCP: u8 = 6;
        let ports = || [self.source, self.destination].map(|end| end.port.unwrap_or(0).to_be_bytes()).concat();
        match self.protocol {
            ICMP => vec![if self.ends().1.is_ipv6() { 128 } else { 8 }, 0, 0, 0, 0, 1, 0, 1],
            TCP => [ports(), vec![0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat(),
            _ => [ports(), vec![0, 8, 0, 0]].concat(),
        }
    }
}

fn has_v4(world: &World) -> bool {
    world.host.v4[0] != [0; 4]
}

impl FromStr for Question {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (name, source, destination) = match words[..] {
            [name, source, ">", destination] => (name, source, destination),
            [name, ">", destination] => (name, "", destination),
            _ => return Err(invalid(text, "write PROTOCOL [ADDRESS][:PORT] > [ADDRESS][:PORT]")),
        };
        let protocol = PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number);
        let protocol = protocol.ok_or_else(|| {
            invalid(text, &format!("{name} is none of {}", PROTOCOLS.map(|(known, _)| known).join(", ")))
        })?;
        let end = |word: &str| end(word).ok_or_else(|| invalid(text, &format!("{word} is no ADDRESS:PORT")));
        let (source, destination) = (end(source)?, end(destination)?);
        match (protocol, destination.port) {
            (ICMP, None) if source.port.is_none() => {}
            (ICMP, _) => return Err(invalid(text, "an echo request has no ports")),
            (_, None) => return Err(invalid(text, "it has to say which port it is for")),
            _ => {}
        }
        Ok(Self { protocol, source, destination })
    }
}

/// `10.0.0.5:1234`, `:1234`, `[::1]:1234`, `::1`, or nothing.
fn end(word: &str) -> Option<End> {
    if word.is_empty() || word == ":" {
        return Some(End::default());
    }
    if let Ok(address) = word.trim_start_matches('[').trim_end_matches(']').parse() {
        return Some(End { address: Some(address), port: None });
    }
    let (address, port) = word.rsplit_once(':')?;
    let address = match address {
        "" => None,
        address => Some(match address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().ok()?.into(),
            None => address.parse::<Ipv4Addr>().ok()?.into(),
        }),
    };
    Some(End { address, port: Some(port.parse().ok()?) })
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PROTOCOLS.iter().find(|(_, number)| *number == self.protocol).map_or("?", |(name, _)| name);
        write!(f, "{name} {} > {}", self.source, self.destination)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (Some(IpAddr::V6(v6)), Some(port)) => write!(f, "[{v6}]:{port}"),
            (Some(address), Some(port)) => write!(f, "{address}:{port}"),
            (Some(address), None) => write!(f, "{address}"),
            (None, Some(port)) => write!(f, ":{port}"),
            (None, None) => Ok(()),
        }
    }
}

fn invalid(text: &str, why: &str) -> Error {
    Error::invalid(format!("the packet {text:?}"), why)
}
