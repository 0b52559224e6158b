//! Addresses: reading the host's, giving them to a container.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, Request};
use crate::error::{Error, Result};

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link that carries it.
    pub link: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the prefix that is on the link, 32 or 128 when only itself is.
    pub prefix: u8,
    /// May it be used beyond its link?
    pub global: bool,
    /// Is it short-lived (IPv6 privacy extension), deprecated, or not (yet) usable?
    pub passing: bool,
}

impl Address {
    /// Is it one of IPv6 that every device has for what it tells its neighbours?
    pub fn is_of_link(&self) -> bool {
        matches!(self.ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) && !self.passing
    }

    /// May connections rely on it, to whatever place?
    pub fn is_lasting(&self) -> bool {
        self.global && !self.passing
    }
}

/// The addresses of a link, in the kernel's order: the primary one comes first.
pub fn of_link(netlink: &mut Netlink, link: u32) -> Result<Vec<Address>> {
    // a kernel that does not filter answers with every address there is
    Ok(dump(netlink, link)?.into_iter().filter(|a| a.link == link).collect())
}

/// The addresses of all links, each link's in the kernel's order.
pub fn all(netlink: &mut Netlink) -> Result<Vec<Address>> {
    dump(netlink, 0)
}

/// `link`: the only one to be asked, 0 for all.
fn dump(netlink: &mut Netlink, link: u32) -> Result<Vec<Address>> {
    let mut addresses = Vec::new();
    // one family at a time: asking for all of them at once waits for the RTNL lock
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.header.index = link;
        match netlink.dump::<AddressMessage>("list addresses", RouteNetlinkMessage::GetAddress(message)) {
            Ok(answers) => addresses.extend(answers.into_iter().filter_map(decode)),
            // a link without IPv6
            Err(Error::Netlink { errno, .. })
                if family == AddressFamily::Inet6
                    && matches!(errno.raw_os_error(), Some(libc::ENODEV | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(addresses)
}

/// Gives `ip` alone (/32, /128) to a link. No duplicate address detection: it *is* somebody else's, the host's.
pub fn add(link: u32, ip: IpAddr) -> Request {
    Request::create(format!("add address {ip}"), RouteNetlinkMessage::NewAddress(message(link, ip)))
}

/// Takes `ip`, as [`add`] gave it, from a link.
pub fn delete(link: u32, ip: IpAddr) -> Request {
    Request::set(format!("delete address {ip}"), RouteNetlinkMessage::DelAddress(message(link, ip)))
}

fn message(link: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.scope = AddressScope::Universe;
    (message.header.family, message.header.prefix_len) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes = vec![
        AddressAttribute::Local(ip),
        AddressAttribute::Address(ip),
        AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute | AddressFlags::Permanent),
    ];
    message
}

fn decode(message: AddressMessage) -> Option<Address> {
    let (mut local, mut address, mut flags) =
        (None, None, AddressFlags::from_bits_retain(message.header.flags.bits().into()));
    for attribute in message.attributes {
        match attribute {
            // on a point-to-point link Address is the other side; IPv6 sets Local only then
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => address = Some(ip),
            AddressAttribute::Flags(f) => flags = f,
            _ => {}
        }
    }
    let unusable =
        AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated | AddressFlags::Optimistic;
    let ip = local.or(address)?;
    // IFA_F_TEMPORARY and IFA_F_SECONDARY share a bit: it means temporary for IPv6 only
    let temporary = ip.is_ipv6() && flags.contains(AddressFlags::Secondary);
    Some(Address {
        link: message.header.index,
        ip,
        prefix: message.header.prefix_len,
        global: matches!(message.header.scope, AddressScope::Universe | AddressScope::Site),
        passing: temporary || flags.intersects(unusable),
    })
}
