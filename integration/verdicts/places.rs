//! The hosts that packets meet: addresses, routes, ports. What a case says of a host by number stands here.

use portslice::net::link::{Mac, Sources};
use portslice::net::route::Kind;
use portslice::ports::PortSet;
use portslice::steer::Holder;
use portslice::steer::HostFacts;
use portslice::steer::model::World;
use portslice::steer::model::world::Path;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Of the uplink and of all containers.
pub const MAC: Mac = [0x02, 0x11, 0x22, 0x33, 0x44, 0x55];
/// Of the device beside the uplink.
pub const BESIDE: Mac = [0x02, 0x66, 0x22, 0x33, 0x44, 0x66];
/// Ports that are kept for somebody, but not steered.
pub const RESERVED: &str = "31900-31909";
/// The uplink's address on its link.
pub const LINK: &str = "fe80::2";
/// Ports that sockets in the container wait at, of nobody's.
pub const LISTENING: [u16; 2] = [40_123, 8_080];
/// A port that only the host could have.
pub const HOSTS: u16 = 20_000;
/// Index of the shaper's device.
pub const SHAPER: u32 = 9_999;

/// How many there are.
pub const PLACES: usize = 11;
/// Those where the kernel is asked for routes.
pub const ASKED: [usize; 2] = [7, 8];
/// What the device takes that is beside the uplink, and what a tunnel does.
pub const MTUS: [u32; 3] = [1500, 1500, 1400];

/// The host's devices, by index.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The uplink, one beside it, and one that takes smaller packets.
    pub out: [u32; 3],
    /// From which each place's routes are asked.
    pub fib: BTreeMap<usize, u32>,
}

/// A route: where to, what becomes of a packet, and the one of [`Devices::out`] it leaves by.
type Route = (&'static str, u8, Kind, usize);
const ROUTES: [Route; 13] = [
    ("10.77.0.0", 24, Kind::Unicast, 0),
    ("10.88.0.0", 24, Kind::Unicast, 1),
    ("10.88.0.255", 32, Kind::Broadcast, 1),
    ("10.66.0.0", 16, Kind::Unicast, 2),
    ("192.0.2.0", 24, Kind::Blackhole, 0),
    ("198.18.0.0", 24, Kind::Unreachable, 0),
    ("198.18.1.0", 24, Kind::Prohibit, 0),
    ("fd77::", 64, Kind::Unicast, 0),
    ("fd88::", 64, Kind::Unicast, 1),
    ("fd66::", 48, Kind::Unicast, 2),
    ("2001:db8:1::", 48, Kind::Blackhole, 0),
    ("2001:db8:2::", 48, Kind::Unreachable, 0),
    ("2001:db8:3::", 48, Kind::Prohibit, 0),
];
const DEFAULTS: [Route; 2] = [("0.0.0.0", 0, Kind::Unicast, 0), ("::", 0, Kind::Unicast, 0)];

/// The routes of a place. The one where nothing is known in advance has no default route; in the other one there are as many
/// networks beside as the facts have room for.
pub fn routes(place: usize) -> Vec<Route> {
    match place {
        7 => ROUTES.into_iter().filter(|route| route.0 != "2001:db8:1::").chain(DEFAULTS).collect(),
        8 => ROUTES.to_vec(),
        _ => Vec::new(),
    }
}

/// The place that one is like but for how it looks at sources.
fn like(place: usize) -> usize {
    if place > 8 { place - 2 } else { place }
}

/// The ports of a slot.
pub fn ports(slot: u16) -> PortSet {
    let (assigned, block) = (31_000 + slot * 10, 32_768 + slot * 16);
    format!("{assigned}-{},{block}-{}", assigned + 9, block + 15).parse().unwrap()
}

/// Has a slot a device? One container ended, and one lost its slot, and both have their ports.
pub fn runs(slot: u16) -> bool {
    slot <= 4
}

/// What the entry of such a slot names.
pub fn gone(slot: u16) -> u32 {
    if slot == 5 { 7_777 } else { 0 }
}

/// Writes a MAC address.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A host, by number: with one address of each family and a gateway; with several, and such on other devices; without a gateway;
/// with routes that only the kernel knows; one that shares its uplink fairly, on a kernel that lets packets from lo in by the
/// container's end; with one family each; with other devices, networks beside the gateway's and addresses of each device; the
/// same where the kernel is asked for everything; these two once more, with devices that look where sources lead back to.
pub fn world(number: usize, devices: &Devices) -> World {
    let place = like(number);
    let (v4, v6) = (place != 6, place != 5);
    let uplink = devices.out[0];
    let mut world =
        World { host: HostFacts { uplink, mtu: 1500, mac: MAC, ..HostFacts::default() }, ..World::default() };
    world.beside.insert(devices.out[1], BESIDE);
    world.paths = routes(place)
        .into_iter()
        .map(|(network, prefix, kind, out)| Path {
            network: (network.parse().unwrap(), prefix),
            kind,
            device: devices.out[out],
            mtu: MTUS[out],
        })
        .collect();
    let has = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
    world.addresses = addresses(place, devices).into_iter().filter(|(ip, _)| has(ip)).collect();
    let host = &mut world.host;
    host.fib = devices.fib.get(&place).copied().unwrap_or(0);
    let gateway = place != 2;
    if v4 {
        host.v4[0] = [10, 77, 0, 2];
        host.v4_broadcast = [10, 77, 0, 255];
    }
    if v6 {
        host.v6[0] = octets("fd77::2");
    }
    if !matches!(place, 3 | 8) {
        if v4 {
            host.flags |= HostFacts::NEXTHOP_V4;
            host.v4[1] = [10, 77, 0, 0];
            host.v4[2] = [255, 255, 255, 0];
            host.v4[3] = if gateway { [10, 77, 0, 1] } else { [0; 4] };
        }
        if v6 {
            host.flags |= HostFacts::NEXTHOP_V6;
            host.v6[1] = octets("fd77::");
            host.v6[2] = octets("ffff:ffff:ffff:ffff::");
            host.v6[3] = if gateway { octets("fd77::1") } else { [0; 16] };
        }
    }
    if place == 7 {
        beside(host);
    }
    if !matches!(place, 1 | 4 | 7 | 8) {
        host.flags |= (HostFacts::ONE_V4 * u32::from(v4)) | (HostFacts::ONE_V6 * u32::from(v6));
    }
    if matches!(place, 4 | 8) {
        host.flags |= HostFacts::FAIR | HostFacts::PEER_FROM_LO;
    }
    let (of_uplink, of_other) = match number {
        9 => (Sources::Strict, Sources::Strict),
        10 => (Sources::Reachable, Sources::Strict),
        _ => (Sources::Any, Sources::Any),
    };
    host.flags |= (of_uplink as u32) << HostFacts::SOURCES;
    world.sources.insert(devices.out[1], of_other);
    // one place has no address of the link
    if v6 && place != 2 {
        host.v6_link = octets(LINK);
    }
    world.kept = RESERVED.parse::<PortSet>().unwrap().iter().collect();
    for slot in super::case::SLOTS {
        ports(slot).iter().for_each(|port| world.steer(port, slot));
        world.listening.extend(LISTENING.iter().flat_map(|port| [(slot, 6, *port), (slot, 17, *port)]));
    }
    world
}

/// For all on a network that is not the uplink's.
const NETWORKS: [&str; 1] = ["10.88.0.255"];

/// Everybody's network is on another device than a route to everybody there: what the programs know counts.
fn addresses(place: usize, devices: &Devices) -> Vec<(IpAddr, Holder)> {
    let mut addresses = vec![("10.77.0.2", Holder::Containers), ("fd77::2", Holder::Containers)];
    let (of_all, of_host) = match place {
        1 | 4 => (["10.77.0.3", "fd77::3"], ["10.88.0.2", "fd88::2"]),
        7 | 8 => (["10.88.0.2", "fd88::2"], ["10.77.0.3", "fd77::3"]),
        _ => return parsed(addresses),
    };
    addresses.extend(of_all.map(|ip| (ip, Holder::Containers)));
    addresses.extend(of_host.map(|ip| (ip, Holder::Host)));
    addresses.extend(NETWORKS.map(|ip| (ip, Holder::Many { device: devices.out[2], mtu: MTUS[2] })));
    parsed(addresses)
}

fn parsed(addresses: Vec<(&str, Holder)>) -> Vec<(IpAddr, Holder)> {
    addresses.into_iter().map(|(ip, holder)| (ip.parse().unwrap(), holder)).collect()
}

/// The networks for which the kernel is asked although the gateway is known. Places without one are of an address that nobody has.
fn beside(host: &mut HostFacts) {
    host.flags |= HostFacts::BESIDE_V4 | HostFacts::BESIDE_V6;
    host.v4_beside.fill([[0; 4], [0xff; 4]]);
    host.v6_beside.fill([[0; 16], [0xff; 16]]);
    let others = routes(7)
        .into_iter()
        .filter(|(network, prefix, ..)| (1..128).contains(prefix) && *prefix != 32 && !network.contains("77"));
    let (mut v4, mut v6) = (host.v4_beside.iter_mut(), host.v6_beside.iter_mut());
    for (network, prefix, ..) in others {
        match network.parse().unwrap() {
            IpAddr::V4(ip) => *v4.next().unwrap() = [ip.octets(), (u32::MAX << (32 - prefix)).to_be_bytes()],
            IpAddr::V6(ip) => *v6.next().unwrap() = [ip.octets(), (u128::MAX << (128 - prefix)).to_be_bytes()],
        }
    }
}

fn octets(ip: &str) -> [u8; 16] {
    ip.parse::<std::net::Ipv6Addr>().unwrap().octets()
}
