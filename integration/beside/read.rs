//! What a packet is, for those that may have other consequences on the two hosts.

use super::packets::{Packet, Start};
use crate::lab::frame;
use std::net::IpAddr;

const FRAGMENT: u8 = 44;

impl Packet {
    /// Is it from this address?
    pub fn is_from(&self, address: &str) -> bool {
        let version = self.ip.first().map(|byte| byte >> 4);
        match address.parse().unwrap() {
            IpAddr::V4(address) => version == Some(4) && self.ip.get(12..16) == Some(&address.octets()),
            IpAddr::V6(address) => version == Some(6) && self.ip.get(8..24) == Some(&address.octets()),
        }
    }

    /// Does A's socket send to the host's second address?
    pub fn is_to_further(&self) -> bool {
        matches!(self.start, Start::Socket(to) if to.ip() == IpAddr::from([10, 77, 0, 3]))
    }

    /// Does a raw socket send more at once than the link takes?
    pub fn is_large(&self) -> bool {
        matches!(self.start, Start::Raw(_)) && self.ip.len() > 1500
    }

    /// Is its frame for more than one?
    pub fn has_many_macs(&self) -> bool {
        self.to[0] & 1 != 0
    }

    /// Is it IPv6?
    pub fn is_v6(&self) -> bool {
        self.byte(0) >> 4 == 6
    }

    /// Is it for more than one itself?
    pub fn is_to_many(&self) -> bool {
        match self.ip.get(..40) {
            Some(header) if header[0] >> 4 == 6 => header[24] == 0xff,
            _ => self.ip.get(16..20).is_some_and(|to| to[0] >> 4 == 14 || to[3] == 255),
        }
    }

    /// Has it this protocol, behind whatever headers?
    fn is_of(&self, protocol: u8) -> bool {
        self.headers().last().is_some_and(|(next, _)| *next == protocol)
    }

    /// Is it ICMP?
    pub fn is_icmp(&self) -> bool {
        self.is_of(frame::ICMP) || self.is_of(frame::ICMP6)
    }

    /// Is it TCP?
    pub fn is_tcp(&self) -> bool {
        self.is_of(frame::TCP)
    }

    /// Is it a piece of a datagram?
    pub fn is_piece(&self) -> bool {
        match self.ip.get(..8) {
            Some(header) if header[0] >> 4 == 4 => header[6] & 0x3f != 0 || header[7] != 0,
            _ => self.headers().iter().any(|(next, _)| *next == FRAGMENT),
        }
    }

    /// Is it a piece of a datagram of IPv6, with headers before that of the fragment, or of a length that it cannot have? What
    /// cannot hold the header of a fragment is one as well.
    pub fn is_faulty_piece(&self) -> bool {
        let headers = self.headers();
        let Some((_, at)) = headers.iter().find(|(next, _)| *next == FRAGMENT).filter(|_| self.is_v6()) else {
            return false;
        };
        let odd = self.byte(at + 3) & 1 != 0 && self.byte(5) & 7 != 0;
        let cut = (usize::from(self.byte(4)) << 8 | usize::from(self.byte(5))) < at - 32;
        cut || (*at > 40 || odd) && (self.byte(at + 2) > 0 || self.byte(at + 3) > 0)
    }

    /// Has it an IPv4 address where one of IPv6 should be?
    pub fn is_mapped(&self) -> bool {
        let mapped = |at: usize| self.ip.get(at..at + 12) == Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        self.ip.first().is_some_and(|byte| byte >> 4 == 6) && (mapped(8) || mapped(24))
    }

    /// Its headers behind the first, each with its protocol and where it begins, down to the transport's.
    fn headers(&self) -> Vec<(u8, usize)> {
        if !self.is_v6() {
            return vec![(self.byte(9), usize::from(self.byte(0) & 15) * 4)];
        }
        let mut headers = vec![(self.byte(6), 40)];
        while let Some((next @ (0 | 43 | 60 | FRAGMENT), at)) = headers.last().copied()
            && at < self.ip.len()
        {
            let length = if next == FRAGMENT { 8 } else { (usize::from(self.byte(at + 1)) + 1) * 8 };
            headers.push((self.byte(at), at + length));
        }
        headers
    }

    /// Zero behind its end.
    fn byte(&self, at: usize) -> u8 {
        self.ip.get(at).copied().unwrap_or(0)
    }
}
