//! Links: the veth pair of a container, its device settings, and reading what a link is.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{DefaultNla, NLM_F_REQUEST, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::stats::{StatsFilterMask, StatsMessage};

use super::{Netlink, Netns, Request};
use crate::error::Result;

/// A six-byte Ethernet address.
pub type Mac = [u8; 6];

/// The index of lo in every namespace (include/net/flow.h, LOOPBACK_IFINDEX).
pub const LO: u32 = 1;

/// Length of struct ifinfomsg.
const HEADER: usize = 16;

// include/uapi/linux/if_link.h, netlink.h
const AF_SPEC: u16 = 26;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// How the names of all our devices on the host begin.
pub(super) const OURS: &str = "portslice";

/// The Ethernet address of a device of ours on the host: locally administered, then 24 bits of the installation's
/// `instance`, then the slot. No device of the host carries the same one. In particular it is not the uplink's: network
/// managers match devices by MAC address and would give ours the uplink's configuration.
pub fn own_mac(instance: u32, slot: u16) -> Mac {
    let [_, a, b, c] = instance.to_be_bytes();
    let [high, low] = slot.to_be_bytes();
    [LOCALLY_ADMINISTERED, a, b, c, high, low]
}

/// As people write it: `02:00:5e:10:00:01`.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Can a container's device be called so? The kernel's rules (`dev_valid_name`), and not as its loopback device is.
pub fn is_name_of_device(text: &str) -> bool {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    (1..=15).contains(&text.len()) && ![".", "..", "lo"].contains(&text) && !text.chars().any(odd)
}

/// First byte of an Ethernet address that no vendor gave out.
const LOCALLY_ADMINISTERED: u8 = 2;

/// Longest alias, in bytes: IFALIASZ less the NUL (include/uapi/linux/if.h); container ids are ASCII.
const ALIAS: usize = 254;

/// What a link is.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Name in its namespace.
    pub name: String,
    /// Ethernet address; `None` for devices without one.
    pub mac: Option<Mac>,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Most bytes of a packet that TCP hands to it; see [`segment_at`].
    pub segment: u32,
    /// Administratively up.
    pub up: bool,
    /// Does it take in what is sent to any group?
    pub allmulti: bool,
    /// Is it an Ethernet device, not lo (which has an all-zero Ethernet address)?
    pub ethernet: bool,
    /// Have its packets no header of the link before them: a tunnel, a VPN, a modem?
    pub bare: bool,
    /// Is it lo?
    pub loopback: bool,
    /// Its own `rp_filter`, by the kernel's number; see [`Sources`].
    pub rp_filter: u32,
    /// Index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth pair (IFLA_LINK), in the other end's namespace.
    pub peer: Option<u32>,
    /// Id that the namespace of the other end has in this one (IFLA_LINK_NETNSID); below 0 when the kernel gives none,
    /// because that namespace is going away. `None` when the other end is in this namespace, or there is none.
    pub netns: Option<i32>,
}

impl Link {
    /// Is this a device that we made on the host? Such a device is never an uplink, whatever addresses and routes
    /// somebody gave it.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(OURS) && self.mac.is_some_and(|mac| mac[0] == LOCALLY_ADMINISTERED)
    }
}

/// A veth pair to be made: one end here, one in the container.
#[derive(Clone, Debug)]
pub struct Pair<'a> {
    /// The host's end.
    pub name: &'a str,
    /// Shown by `ip link` beside the host's end: whose it is.
    pub alias: &'a str,
    /// The container's end.
    pub inner_name: &'a str,
    /// Ethernet address of the host's end.
    pub mac: Mac,
    /// Ethernet address of the container's end.
    pub inner_mac: Mac,
    /// Bytes of an IP packet, both ends.
    pub mtu: u32,
}

impl Pair<'_> {
    /// The request that makes the pair, the inner end born in `container`: creating it here and moving it would cost
    /// an rcu_barrier under the RTNL lock (15 ms). One queue each spares another grace period. The address is part of
    /// the request so that udev leaves it alone (MACAddressPolicy=persistent skips NET_ADDR_SET).
    pub fn create(&self, container: &Netns) -> Request {
        let mut inner = LinkMessage::default();
        inner.attributes = vec![
            LinkAttribute::IfName(self.inner_name.into()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Address(self.inner_mac.to_vec()),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::NetNsFd(container.as_fd().as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(self.name.into()),
            LinkAttribute::IfAlias(self.alias.chars().take(ALIAS).collect()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        Request::create(format!("create link {}", self.name), RouteNetlinkMessage::NewLink(message))
    }
}

/// Sets what `ip link` shows beside a link. The kernel ignores an alias in the message that makes a pair.
pub fn set_alias(index: u32, name: &str, alias: &str) -> Request {
    let attributes = vec![LinkAttribute::IfAlias(alias.chars().take(ALIAS).collect())];
    change(format!("name the owner of link {name}"), index, LinkFlags::empty(), LinkFlags::empty(), attributes)
}

/// Gives a link another Ethernet address.
pub fn set_mac(index: u32, name: &str, mac: Mac) -> Request {
    let attributes = vec![LinkAttribute::Address(mac.to_vec())];
    change(format!("set the MAC address of link {name}"), index, LinkFlags::empty(), LinkFlags::empty(), attributes)
}

/// Brings a link up.
pub fn up(index: u32, name: &str) -> Request {
    change(format!("bring up link {name}"), index, LinkFlags::Up, LinkFlags::Up, vec![])
}

/// Lets a link take in what is sent to any group, or no longer.
pub fn take_all_groups(index: u32, name: &str, on: bool) -> Request {
    let flags = if on { LinkFlags::Allmulti } else { LinkFlags::empty() };
    change(format!("change the flag ALLMULTI of link {name}"), index, flags, LinkFlags::Allmulti, vec![])
}

/// Brings a link up without ARP and neighbour discovery: the other end knows where everything goes.
pub fn up_without_arp(index: u32, name: &str) -> Request {
    let flags = LinkFlags::Up | LinkFlags::Noarp;
    change(format!("bring up link {name}"), index, flags, flags, vec![])
}

/// Keeps IPv6 from giving the link an address of its own when it comes up.
pub fn no_generated_address(index: u32, name: &str) -> Request {
    let spec = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    change(
        format!("turn off IPv6 autoconfiguration of {name}"),
        index,
        LinkFlags::empty(),
        LinkFlags::empty(),
        vec![LinkAttribute::AfSpecUnspec(vec![spec])],
    )
}

/// How strictly the sources of what a link receives are looked at (`rp_filter`; Documentation/networking/ip-sysctl.rst, RFC 3704).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sources {
    /// Not at all: what spares a route lookup for every packet.
    #[default]
    Any = 0,
    /// Whether the best route to them leads out of that link.
    Strict = 1,
    /// Whether anything leads back to them: what lets a link that takes 127.0.0.0/8 work where `all` is strict.
    Reachable = 2,
}

impl Sources {
    /// Of a link: the larger one of its own value and that of `all` counts (IN_DEV_RPFILTER, include/linux/inetdevice.h).
    pub fn of(own: u32, all: u32) -> Self {
        match own.max(all) {
            0 => Sources::Any,
            1 => Sources::Strict,
            _ => Sources::Reachable,
        }
    }
}

/// The value for all links of the socket's namespace (`net.ipv4.conf.all.rp_filter`). A tenth of the time that the setting takes
/// under /proc/sys. `None` where the kernel does not say.
pub fn sources_of_all(netlink: &mut Netlink) -> Result<Option<u32>> {
    // include/uapi/linux/rtnetlink.h and netconf.h; every int of struct netconf's attributes is signed, in host order
    const RTM_GETNETCONF: u16 = 82;
    const NETCONFA_IFINDEX: u16 = 1;
    const NETCONFA_RP_FILTER: u16 = 3;
    const NETCONFA_IFINDEX_ALL: i32 = -1;
    /// netlink header, netconfmsg (the family, padded), one attribute
    const LENGTH: u32 = 16 + 4 + 8;
    let mut request = Vec::with_capacity(LENGTH as usize);
    request.extend(LENGTH.to_ne_bytes());
    request.extend(RTM_GETNETCONF.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([libc::AF_INET as u8, 0, 0, 0]);
    request.extend(8u16.to_ne_bytes());
    request.extend(NETCONFA_IFINDEX.to_ne_bytes());
    request.extend(NETCONFA_IFINDEX_ALL.to_ne_bytes());
    let answer = netlink.get_encoded("read how sources are looked at", &mut request)?.unwrap_or_default();
    let attributes = NlasIterator::new(answer.get(4..).unwrap_or_default());
    let value = attributes.flatten().find(|nla| nla.kind() == NETCONFA_RP_FILTER).map(|nla| word(nla.value()));
    Ok(value)
}

/// Lets a link take packets that come from and go to local addresses, 127.0.0.0/8 among them.
pub fn accept_local(index: u32, name: &str, sources: Sources) -> Request {
    configure(index, name, &[(ACCEPT_LOCAL, 1), (ROUTE_LOCALNET, 1), (RP_FILTER, sources as u32)])
}

/// Lets lo take what another namespace sent to 127.0.0.0/8. `off`: is `accept_local` to be turned on, and `route_localnet`?
pub fn lo_takes_local(off: [bool; 2]) -> Request {
    let off: Vec<_> = [(ACCEPT_LOCAL, 1), (ROUTE_LOCALNET, 1)]
        .into_iter()
        .zip(off)
        .filter(|(_, off)| *off)
        .map(|(on, _)| on)
        .collect();
    configure(LO, "lo", &off)
}

// include/uapi/linux/ip.h, IPV4_DEVCONF_
const RP_FILTER: u16 = 8;
const ACCEPT_LOCAL: u16 = 23;
const ROUTE_LOCALNET: u16 = 26;
// include/uapi/linux/if_link.h
const IFLA_INET_CONF: u16 = 1;

/// Gives a link IPv4 settings.
fn configure(index: u32, name: &str, settings: &[(u16, u32)]) -> Request {
    const NLA_F_NESTED: u16 = 1 << 15;
    let mut attributes = Vec::new();
    for (kind, value) in settings {
        attributes.extend_from_slice(&8u16.to_ne_bytes());
        attributes.extend_from_slice(&kind.to_ne_bytes());
        attributes.extend_from_slice(&value.to_ne_bytes());
    }
    // `AfSpecInet::DevConfRequest` leaves out what is to be 0
    let conf = DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, attributes);
    let spec = AfSpecUnspec::Inet(vec![AfSpecInet::Other(conf)]);
    change(
        format!("configure link {name}"),
        index,
        LinkFlags::empty(),
        LinkFlags::empty(),
        vec![LinkAttribute::AfSpecUnspec(vec![spec])],
    )
}

/// How large a packet may be that TCP hands to the link to be cut up behind it, in bytes. Connections take it over when
/// they begin.
pub fn segment_at(index: u32, name: &str, bytes: u32) -> Request {
    let attributes = vec![LinkAttribute::GsoMaxSize(bytes)];
    change(format!("limit the size of packets of {name}"), index, LinkFlags::empty(), LinkFlags::empty(), attributes)
}

/// Removes a link (and the other end of its pair). Waits for an RCU grace period: some 30 ms.
pub fn delete(index: u32, name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request::set(format!("delete link {name}"), RouteNetlinkMessage::DelLink(message))
}

/// The link called `name`, if there is one.
pub fn find(netlink: &mut Netlink, name: &str) -> Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    let answer = netlink.get_raw(&format!("look up link {name}"), RouteNetlinkMessage::GetLink(message))?;
    Ok(answer.as_deref().and_then(decode))
}

/// The link with index `index`, if there is one.
pub fn at(netlink: &mut Netlink, index: u32) -> Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let answer = netlink.get_raw(&format!("look up link {index}"), RouteNetlinkMessage::GetLink(message))?;
    Ok(answer.as_deref().and_then(decode))
}

/// Does the namespace of the other end live? Not when it is being taken apart, which takes the kernel a while: both
/// ends are still there then.
///
/// The kernel finds no namespace whose last reference is gone (net/core/net_namespace.c, get_net_ns_by_id). A reference
/// is a process, a file or mount of it, or a socket, a TCP connection with unsent data that nobody has open among them.
pub fn namespace_lives(netlink: &mut Netlink, link: &Link) -> Result<bool> {
    let (Some(peer), Some(netns)) = (link.peer, link.netns) else {
        // the other end is here, where the caller is
        return Ok(link.peer.is_some_and(|peer| peer != 0));
    };
    if netns < 0 {
        return Ok(false);
    }
    let mut message = LinkMessage::default();
    message.header.index = peer;
    message.attributes = vec![LinkAttribute::IfNetnsId(netns)];
    let doing = format!("look up the other end of link {}", link.name);
    // EINVAL, for an id that stands for no namespace, is no answer, too.
    Ok(netlink.get_raw(&doing, RouteNetlinkMessage::GetLink(message))?.is_some())
}

/// Errors and drops that a device counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets it received with an error.
    pub rx_errors: u64,
    /// Packets it could not send.
    pub tx_errors: u64,
    /// Packets it received and nobody took.
    pub rx_dropped: u64,
    /// Packets it was to send and dropped.
    pub tx_dropped: u64,
}

/// The counters of the link with index `index`, if there is one; a fraction of what looking up the link costs.
pub fn counters(netlink: &mut Netlink, index: u32) -> Result<Option<Counters>> {
    // include/uapi/linux/if_link.h: IFLA_STATS_LINK_64, behind struct if_stats_msg.
    const HEADER: usize = 12;
    const LINK_64: u16 = 1;
    let mut message = StatsMessage::default();
    message.header.ifindex = index;
    message.header.filter_mask = StatsFilterMask::Link64;
    let doing = format!("read the counters of link {index}");
    let Some(answer) = netlink.get_raw(&doing, RouteNetlinkMessage::GetStats(message))? else { return Ok(None) };
    let attributes = NlasIterator::new(answer.get(HEADER..).unwrap_or_default());
    Ok(attributes.flatten().find(|nla| nla.kind() == LINK_64).map(|nla| {
        // struct rtnl_link_stats64
        let count =
            |at: usize| nla.value().get(at..at + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap_or_default()));
        Counters { rx_errors: count(32), tx_errors: count(40), rx_dropped: count(48), tx_dropped: count(56) }
    }))
}

/// All links of the namespace.
pub fn all(netlink: &mut Netlink) -> Result<Vec<Link>> {
    let mut found = Vec::new();
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink.dump_unparsed("list links", request, |body| found.extend(decode(body)))?;
    Ok(found)
}

/// The same, and what lo's IPv4 settings `accept_local` and `route_localnet` are.
pub fn all_and_lo(netlink: &mut Netlink) -> Result<(Vec<Link>, [bool; 2])> {
    let (mut found, mut lo) = (Vec::new(), None);
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink.dump_unparsed("list links", request, |body| {
        let link = decode(body);
        if link.as_ref().is_some_and(|link| link.index == LO) {
            lo = takes_local(body);
        }
        found.extend(link);
    })?;
    Ok((found, lo.unwrap_or_default()))
}

fn change(doing: String, index: u32, flags: LinkFlags, mask: LinkFlags, attributes: Vec<LinkAttribute>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = flags;
    message.header.change_mask = mask;
    message.attributes = attributes;
    Request::set(doing, RouteNetlinkMessage::SetLink(message))
}

/// From struct ifinfomsg and its attributes. The crate's parser knows two hundred kinds of links, and would be a tenth of
/// every hook.
fn decode(body: &[u8]) -> Option<Link> {
    // include/uapi/linux/if_link.h, if_arp.h, if.h
    const ADDRESS: u16 = 1;
    const NAME: u16 = 3;
    const MTU: u16 = 4;
    const LINK: u16 = 5;
    const MASTER: u16 = 10;
    const NETNS: u16 = 37;
    const GSO_MAX_SIZE: u16 = 41;
    const ETHERNET: u16 = 1;
    const LOOPBACK: u16 = 772;
    // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE
    const BARE: [u16; 8] = [512, 519, 768, 769, 776, 778, 823, 0xfffe];
    const UP: u32 = 1;
    const ALLMULTI: u32 = 0x200;
    let header = body.get(..HEADER)?;
    let kind = u16::from_ne_bytes([header[2], header[3]]);
    let mut link = Link {
        index: word(&header[4..]),
        name: String::new(),
        mac: None,
        mtu: 0,
        segment: 0,
        up: word(&header[8..]) & UP != 0,
        allmulti: word(&header[8..]) & ALLMULTI != 0,
        ethernet: kind == ETHERNET,
        bare: BARE.contains(&kind),
        loopback: kind == LOOPBACK,
        rp_filter: 0,
        master: None,
        peer: None,
        netns: None,
    };
    for nla in NlasIterator::new(&body[HEADER..]).flatten() {
        let value = nla.value();
        match nla.kind() {
            NAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            ADDRESS => link.mac = value.try_into().ok(),
            MTU => link.mtu = word(value),
            GSO_MAX_SIZE => link.segment = word(value),
            LINK => link.peer = Some(word(value)),
            MASTER => link.master = Some(word(value)).filter(|master| *master != 0),
            NETNS => link.netns = Some(word(value) as i32),
            AF_SPEC => link.rp_filter = settings(value).map_or(0, |settings| setting(settings, RP_FILTER)),
            _ => {}
        }
    }
    Some(link)
}

/// What lo takes.
fn takes_local(link: &[u8]) -> Option<[bool; 2]> {
    let settings = settings(find_in(link.get(HEADER..)?, AF_SPEC)?)?;
    Some([ACCEPT_LOCAL, ROUTE_LOCALNET].map(|number| setting(settings, number) != 0))
}

/// The IPv4 settings among those that a link has for each family: numbers, one after the other (net/ipv4/devinet.c,
/// inet_fill_link_af).
fn settings(families: &[u8]) -> Option<&[u8]> {
    find_in(find_in(families, libc::AF_INET as u16)?, IFLA_INET_CONF)
}

fn setting(settings: &[u8], number: u16) -> u32 {
    settings.get(4 * (usize::from(number) - 1)..).map_or(0, word)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The value of an attribute among others.
fn find_in(mut within: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let header = within.first_chunk::<4>()?;
        let (length, its) = (u16::from_ne_bytes([header[0], header[1]]), u16::from_ne_bytes([header[2], header[3]]));
        let value = within.get(4..usize::from(length))?;
        if its & NLA_TYPE_MASK == kind {
            return Some(value);
        }
        within = within.get(usize::from(length).next_multiple_of(4)..)?;
    }
}
