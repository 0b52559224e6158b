//! Watching: what rtnetlink tells of changes of links, addresses, routes, rules and filters of a network namespace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::link::OURS;
use super::socket::frame;
use crate::error::{Error, Result};

// include/uapi/linux/rtnetlink.h: enum rtnetlink_groups
const GROUPS: [u32; 10] = [
    1,  // RTNLGRP_LINK
    4,  // RTNLGRP_TC
    5,  // RTNLGRP_IPV4_IFADDR
    7,  // RTNLGRP_IPV4_ROUTE
    8,  // RTNLGRP_IPV4_RULE
    9,  // RTNLGRP_IPV6_IFADDR
    11, // RTNLGRP_IPV6_ROUTE
    19, // RTNLGRP_IPV6_RULE
    24, // RTNLGRP_IPV4_NETCONF
    32, // RTNLGRP_NEXTHOP
];

// The messages of these groups, in which what was made and what was removed alternate.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_QDISC: u16 = 36;
const NEW_CLASS: u16 = 40;
const DELETE_CLASS: u16 = 41;
const NEW_FILTER: u16 = 44;
const NEW_NETCONF: u16 = 80;
const DELETE_NETCONF: u16 = 81;

/// struct netconfmsg, padded, and attributes (include/uapi/linux/netconf.h).
const NETCONFMSG: usize = 4;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;

/// struct ifinfomsg, and the attribute that has the name.
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const BUFFER: usize = 32 * 1024;

/// A socket that hears of every change.
pub struct Watch {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Watch {
    /// Hears of everything from now on, in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let fail =
            |doing: &'static str| move |errno| Error::Netlink { doing: doing.into(), errno, text: String::new() };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(fail("open a netlink socket"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(fail("bind a netlink socket"))?;
        socket.set_non_blocking(true).map_err(fail("set up a netlink socket"))?;
        for group in GROUPS {
            match socket.add_membership(group) {
                // A kernel without this kind of object.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                joined => joined.map_err(fail("listen to changes of the host"))?,
            }
        }
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Waits until something changes, and then until `quiet` has passed without a change, `most` altogether: changes come in
    /// bursts. `false` when nothing changed for as long as `patience`.
    pub fn wait(&mut self, patience: Duration, quiet: Duration, most: Duration) -> Result<bool> {
        let until = Instant::now() + patience;
        while !self.heard()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.readable(left)?;
        }
        let first = Instant::now();
        while first.elapsed() < most && self.readable(quiet)? {
            self.heard()?;
        }
        Ok(true)
    }

    /// Reads what came. Is anything of it of interest?
    fn heard(&mut self) -> Result<bool> {
        let mut heard = false;
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(end) => {
                    let mut at = 0;
                    while let Some((kind, _, _, body, next)) = frame(&self.buffer[..end], at) {
                        at = next;
                        heard |= is_change(kind, body);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // More came than there was room for: something changed.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                Err(errno) => {
                    return Err(Error::Netlink {
                        doing: "listen to changes of the host".into(),
                        errno,
                        text: String::new(),
                    });
                }
            }
        }
    }

    /// Waits until there is something to read; `false` when the time is over.
    fn readable(&self, patience: Duration) -> Result<bool> {
        // SAFETY: the socket is open as long as self.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        let timeout = PollTimeout::try_from(patience + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(Error::Netlink {
                doing: "wait for changes of the host".into(),
                errno: e.into(),
                text: String::new(),
            }),
        }
    }
}

/// Is this more than what every attach and detach does? They make and remove pairs and filters on them; only a filter or its
/// qdisc that is removed alone is told.
fn is_change(kind: u16, body: &[u8]) -> bool {
    match kind {
        NEW_LINK | DELETE_LINK => !names_ours(body),
        NEW_QDISC | NEW_CLASS | DELETE_CLASS | NEW_FILTER | DELETE_NETCONF => false,
        NEW_NETCONF => tells_of_sources(body),
        _ => true,
    }
}

/// Did somebody change `rp_filter`? Of a device that is new the kernel tells every setting at once.
fn tells_of_sources(body: &[u8]) -> bool {
    let attributes = NlasIterator::new(body.get(NETCONFMSG..).unwrap_or_default());
    let kinds: Vec<u16> = attributes.flatten().map(|nla| nla.kind()).collect();
    kinds.contains(&NETCONFA_RP_FILTER) && !kinds.contains(&NETCONFA_FORWARDING)
}

/// Is the message about a device of ours on the host?
fn names_ours(body: &[u8]) -> bool {
    let attributes = NlasIterator::new(body.get(IFINFOMSG..).unwrap_or_default());
    attributes.flatten().any(|nla| nla.kind() == IFLA_IFNAME && nla.value().starts_with(OURS.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str) -> Vec<u8> {
        let mut body = vec![0; IFINFOMSG];
        body.extend((4 + name.len() as u16 + 1).to_ne_bytes());
        body.extend(IFLA_IFNAME.to_ne_bytes());
        body.extend(name.as_bytes());
        body.resize((body.len() + 1).next_multiple_of(4), 0);
        body
    }

    #[test]
    fn of_settings_only_how_sources_are_looked_at_is_a_change() {
        let settings = |kinds: &[u16]| {
            let of = |kind: &u16| [8u16.to_ne_bytes(), kind.to_ne_bytes(), [1, 0], [0, 0]].concat();
            [vec![2, 0, 0, 0], kinds.iter().flat_map(of).collect()].concat()
        };
        assert!(is_change(NEW_NETCONF, &settings(&[1, NETCONFA_RP_FILTER])));
        assert!(!is_change(NEW_NETCONF, &settings(&[1, NETCONFA_FORWARDING])));
        assert!(!is_change(NEW_NETCONF, &settings(&[1, NETCONFA_FORWARDING, NETCONFA_RP_FILTER])), "a new device");
        assert!(!is_change(DELETE_NETCONF, &settings(&[1])));
    }

    #[test]
    fn containers_that_come_and_go_are_no_change() {
        const NEW_ADDRESS: u16 = 20;
        const DELETE_ROUTE: u16 = 25;
        const DELETE_FILTER: u16 = 45;
        assert!(!is_change(NEW_LINK, &link("portslice7")) && !is_change(DELETE_LINK, &link("portslice7")));
        assert!(is_change(NEW_LINK, &link("eth0")) && is_change(DELETE_LINK, &link("eth0")));
        assert!(!is_change(NEW_FILTER, &[]) && is_change(DELETE_FILTER, &[]), "a filter goes with its device unsaid");
        assert!(is_change(NEW_ADDRESS, &[]) && is_change(DELETE_ROUTE, &[]));
        assert!(is_change(NEW_LINK, &[1, 2, 3]), "what cannot be read may be anything");
    }
}
