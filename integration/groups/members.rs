//! Who hears a group: sockets that join one, what they send and hear, and what is said about it on the wire.

use crate::lab::frame::{self, Mac};
use crate::lab::ns::ifindex;
use crate::lab::tap::{self, Seen, Tap};
use crate::lab::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// How long a datagram may take that is on its way.
const SOON: Duration = Duration::from_millis(200);

/// A UDP socket at one port of every address, as `SO_REUSEADDR` lets several have.
pub struct Ear(OwnedFd);

impl Ear {
    /// It is in no group yet; what it sends to one leaves by `device`.
    pub fn at(ns: &Ns, device: &str, v6: bool, port: u16) -> Ear {
        ns.inside(|| {
            let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
            let fd = sock::socket(sock::family(any), libc::SOCK_DGRAM, 0).expect("socket");
            sock::reuse(&fd).expect("SO_REUSEADDR");
            sock::set(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, 1i32).expect("SO_BROADCAST");
            if v6 {
                sock::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, ifindex(device)).expect("MULTICAST_IF");
            } else {
                let on = request(Ipv4Addr::UNSPECIFIED, device);
                sock::set(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, on).expect("MULTICAST_IF");
            }
            sock::bind(&fd, SocketAddr::new(any, port)).expect("bind");
            sock::limit(&fd, SOON);
            Ear(fd)
        })
    }

    /// One that has joined `group`, whose report has been sent.
    pub fn joined(ns: &Ns, device: &str, group: SocketAddr) -> Ear {
        let ear = Ear::at(ns, device, group.is_ipv6(), group.port());
        ear.change(ns, device, group.ip(), true);
        ear
    }

    /// Joins or leaves a group.
    pub fn change(&self, ns: &Ns, device: &str, group: IpAddr, join: bool) {
        ns.inside(|| match group {
            IpAddr::V4(v4) => {
                let option = if join { libc::IP_ADD_MEMBERSHIP } else { libc::IP_DROP_MEMBERSHIP };
                sock::set(&self.0, libc::IPPROTO_IP, option, request(v4, device)).expect("membership");
            }
            IpAddr::V6(v6) => {
                let option = if join { libc::IPV6_ADD_MEMBERSHIP } else { libc::IPV6_DROP_MEMBERSHIP };
                let address = libc::in6_addr { s6_addr: v6.octets() };
                let interface = ifindex(device) as u32;
                let request = libc::ipv6_mreq { ipv6mr_multiaddr: address, ipv6mr_interface: interface };
                sock::set(&self.0, libc::IPPROTO_IPV6, option, request).expect("membership");
            }
        });
        std::thread::sleep(SOON);
    }

    /// Sends.
    #[track_caller]
    pub fn say(&self, to: SocketAddr, what: &[u8]) {
        sock::send_to(&self.0, what, to).unwrap_or_else(|e| panic!("send to {to}: {e}"));
    }

    /// Who said `what`, if it is heard; whatever else is heard is left out.
    pub fn hears(&self, what: &[u8]) -> Option<SocketAddr> {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = sock::recv_from(&self.0, &mut buffer) {
            if &buffer[..n] == what {
                return Some(from);
            }
        }
        None
    }
}

fn request(group: Ipv4Addr, device: &str) -> libc::ip_mreqn {
    libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(group.octets()) },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: ifindex(device),
    }
}

#[track_caller]
fn assert_nothing_dropped(c: &Container) {
    let drops = c.show()["drops"].clone();
    let all = drops.as_object().expect("drops");
    assert!(!all.is_empty() && all.values().all(|count| count.as_u64() == Some(0)), "{}: {drops}", c.id);
}

/// Packets that came to it so far.
fn received(c: &Container) -> u64 {
    let stats = c.host().portslice(["stats", c.id.as_str(), "--json"]).ok().json();
    let count = stats[0]["statistics"]["net_rx_packets"].as_u64();
    count.unwrap_or_else(|| panic!("no net_rx_packets in {stats}"))
}

fn group(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const MDNS: [&str; 2] = ["224.0.0.251:5353", "[ff02::fb]:5353"];

#[test]
fn mdns_works_between_a_neighbour_and_two_containers() {
    let (host, a, b) = Host::with_two("groups-mdns");
    for to in MDNS.map(group) {
        let own = if to.is_ipv4() { HOST4 } else { HOST6 };
        let inside = [&a, &b].map(|c| Ear::joined(&c.ns, "eth0", to));
        let (of_host, peer) = (Ear::joined(&host.ns, "eth0", to), Ear::joined(&host.peer, "wire", to));
        let question = frame::marker();
        peer.say(to, &question);
        for ear in inside.iter().chain([&of_host]) {
            assert_eq!(ear.hears(&question).map(|from| from.port()), Some(5353), "{to}: a neighbour's question");
        }
        // from the port that all of them share, as a question and an answer to all have to be
        let answer = frame::marker();
        inside[0].say(to, &answer);
        for ear in [&peer, &inside[1]] {
            let from = ear.hears(&answer).unwrap_or_else(|| panic!("{to}: A's answer is not heard"));
            assert_eq!((from.ip(), from.port()), (own, 5353), "{to}");
        }
        assert_eq!(inside[1].hears(&answer), None, "{to}: it is heard once");
        // A process of the host hears it where the kernel takes packets with the host's own address from its uplink.
        assert_eq!(of_host.hears(&answer).is_some(), to.is_ipv6(), "{to}: a process of the host");
    }
    [&a, &b].into_iter().for_each(assert_nothing_dropped);
}

#[test]
fn ssdp_finds_services_outside_and_inside() {
    let (host, a, b) = Host::with_two("groups-ssdp");
    let to = group("239.255.255.250:1900");
    let services = [Ear::joined(&host.peer, "wire", to), Ear::joined(&b.ns, "eth0", to)];
    let port = SocketAddr::new(HOST4, a.ports[0]);
    let asks = Ear::at(&a.ns, "eth0", false, port.port());
    let search = frame::marker();
    asks.say(to, &search);
    for service in &services {
        assert_eq!(service.hears(&search), Some(port));
    }
    // who is asked answers to him alone, a container from a port of its own
    let answers = [Ear::at(&host.peer, "wire", false, 1901), Ear::at(&b.ns, "eth0", false, b.ports[0])];
    for answer in &answers {
        let marker = frame::marker();
        answer.say(port, &marker);
        assert!(asks.hears(&marker).is_some());
    }
    let (control_point, search) = (Ear::at(&host.peer, "wire", false, 4000), frame::marker());
    control_point.say(to, &search);
    assert_eq!(services[1].hears(&search), Some(SocketAddr::new(PEER4, 4000)));
    let marker = frame::marker();
    answers[1].say(SocketAddr::new(PEER4, 4000), &marker);
    assert_eq!(control_point.hears(&marker), Some(SocketAddr::new(HOST4, b.ports[0])));
}

#[test]
fn only_who_has_joined_gets_copies_and_no_longer_than_he_stays() {
    let (host, a, b) = Host::with_two("groups-leave");
    for to in ["239.1.2.3:31000", "[ff15::1:2:3]:31000", "239.1.2.3:6000", "[ff15::1:2:3]:6000"].map(group) {
        let peer = Ear::at(&host.peer, "wire", to.is_ipv6(), 4000);
        // nobody yet, then A, then nobody
        let ear = Ear::at(&a.ns, "eth0", to.is_ipv6(), to.port());
        for joined in [false, true, false] {
            if joined {
                ear.change(&a.ns, "eth0", to.ip(), true);
            }
            let before = received(&a);
            let (taps, marker) = ([&a, &b].map(|c| Tap::on(&c.ns, "eth0")), frame::marker());
            peer.say(to, &marker);
            std::thread::sleep(SOON);
            let seen = taps.map(|tap| tap.count(|seen| frame::carries(&seen.bytes, &marker)));
            assert_eq!(seen, [usize::from(joined), 0], "{to}, joined: {joined}");
            assert_eq!(received(&a) - before, u64::from(joined), "{to}: copies are counted");
            if joined {
                ear.change(&a.ns, "eth0", to.ip(), false);
            }
        }
    }
}

#[test]
fn a_datagram_in_fragments_reaches_every_member_whole() {
    let (host, a, b) = Host::with_two("groups-large");
    for to in ["239.1.2.4:6001", "[ff15::1:2:4]:6001"].map(group) {
        let ears = [&a, &b].map(|c| Ear::joined(&c.ns, "eth0", to));
        let (peer, text) = (Ear::at(&host.peer, "wire", to.is_ipv6(), 4000), [7; 2000]);
        peer.say(to, &text);
        assert_eq!(ears.map(|ear| ear.hears(&text).is_some()), [true, true], "{to}");
    }
}

#[test]
fn a_broadcast_reaches_the_owner_of_its_port() {
    let (host, a, b) = Host::with_two("groups-broadcast");
    host.peer.ip("route add 255.255.255.255/32 dev wire\nroute add 224.0.0.1/32 dev wire");
    for to in ["255.255.255.255", "10.77.0.255", "224.0.0.1"].map(|text| text.parse::<IpAddr>().unwrap()) {
        let (owned, hosts) = (SocketAddr::new(to, a.ports[0]), SocketAddr::new(to, 4001));
        let at_a = Ear::at(&a.ns, "eth0", false, owned.port());
        let peer = Ear::at(&host.peer, "wire", false, 4000);
        let marker = frame::marker();
        peer.say(owned, &marker);
        assert!(at_a.hears(&marker).is_some(), "{to}: from a neighbour");
        // what has no owner is the host's alone
        let (tap, at_host, marker) = (Tap::on(&a.ns, "eth0"), Ear::at(&host.ns, "eth0", false, 4001), frame::marker());
        peer.say(hosts, &marker);
        assert!(at_host.hears(&marker).is_some(), "{to}: the host hears it");
        tap.assert_without("to a port of the host", &marker);
        // and a container's goes to the link, to the owner on this host, and to the host
        let at_b = Ear::at(&b.ns, "eth0", false, b.ports[0]);
        let (tap, markers) = (Tap::on(&host.peer, "wire"), [frame::marker(), frame::marker()]);
        at_b.say(owned, &markers[0]);
        at_b.say(hosts, &markers[1]);
        assert!(at_a.hears(&markers[0]).is_some(), "{to}: from another container");
        assert_eq!(at_host.hears(&markers[1]).is_some(), to != IpAddr::V4(Ipv4Addr::new(224, 0, 0, 1)), "{to}");
        std::thread::sleep(SOON);
        let frames = tap.end();
        let left = |marker: &[u8]| frames.iter().filter(|s| !s.outgoing && frame::carries(&s.bytes, marker)).count();
        assert_eq!(markers.map(|marker| left(&marker)), [1, 1], "{to}");
    }
}

#[test]
fn a_port_that_members_share_is_for_members_and_for_their_group() {
    let (host, a, b) = Host::with_two("groups-port");
    let to = group(MDNS[0]);
    let tap = Tap::on(&host.peer, "wire");
    let ear = Ear::at(&a.ns, "eth0", false, 5353);
    let marker = frame::marker();
    let mut refused = 0;
    let mut is_refused = |ear: &Ear, to: SocketAddr, what: &str| {
        ear.say(to, &marker);
        refused += 1;
        assert_eq!(a.drops("source_port"), refused, "{what}");
    };
    is_refused(&ear, to, "who has not joined");
    ear.change(&a.ns, "eth0", to.ip(), true);
    is_refused(&ear, SocketAddr::new(PEER4, 5353), "to one");
    is_refused(&ear, SocketAddr::new(to.ip(), 5354), "to another port");
    is_refused(&ear, group("224.0.0.252:5353"), "to another group");
    let theirs = Ear::joined(&a.ns, "eth0", SocketAddr::new(to.ip(), b.ports[0]));
    is_refused(&theirs, SocketAddr::new(to.ip(), b.ports[0]), "from a port of another container");
    let low = Ear::joined(&a.ns, "eth0", SocketAddr::new(to.ip(), 520));
    is_refused(&low, SocketAddr::new(to.ip(), 520), "from a port that needs privileges");
    tap.assert_without("from a port that is not the container's", &marker);
    let (peer, marker) = (Ear::joined(&host.peer, "wire", to), frame::marker());
    ear.say(to, &marker);
    assert_eq!(peer.hears(&marker), Some(SocketAddr::new(HOST4, 5353)), "who has joined, to his group");
}

/// The reports of `protocol` (2: IGMP, 0: MLD behind hop-by-hop options) that came to the peer and name `group`.
fn reports<'a>(frames: &'a [Seen], group: &[u8]) -> Vec<&'a [u8]> {
    let is_report = |frame: &&Seen| match (frame.bytes[12], frame.bytes[13]) {
        (8, 0) => frame.bytes[23] == 2,
        (0x86, 0xdd) => frame.bytes[20] == 0 && [131, 132, 143].contains(&frame.bytes[62]),
        _ => false,
    };
    let named = |frame: &&Seen| frame::carries(&frame.bytes[14..], group);
    frames.iter().filter(|f| !f.outgoing).filter(is_report).filter(named).map(|f| &f.bytes[..]).collect()
}

#[test]
fn reports_leave_as_the_hosts_own() {
    let host = Host::new("groups-reports");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let own: Mac = tap::mac_of(&host.ns, "eth0");
    let link = host.ns.read("ip -6 -o addr show dev eth0 scope link");
    let link: Ipv6Addr = link.split_whitespace().nth(3).and_then(|t| t.split('/').next()).unwrap().parse().unwrap();
    let (v4, v6) = (Ipv4Addr::new(239, 1, 2, 5), Ipv6Addr::new(0xff05, 0, 0, 0, 0, 1, 2, 5));
    let tap = Tap::on(&host.peer, "wire");
    let _ears =
        [(v4.into(), 6000), (v6.into(), 6000)].map(|(ip, port)| Ear::joined(&a.ns, "eth0", SocketAddr::new(ip, port)));
    let frames = tap.end();
    let seen = reports(&frames, &v4.octets());
    assert!(!seen.is_empty(), "no IGMP report");
    for report in seen {
        assert_eq!((&report[..6], &report[6..12]), (&[1, 0, 0x5e, 0, 0, 0x16][..], &own[..]));
        assert_eq!((&report[26..30], report[22]), (&[10, 77, 0, 2][..], 1), "source and TTL");
    }
    let seen = reports(&frames, &v6.octets());
    assert!(!seen.is_empty(), "no MLD report");
    for report in seen {
        assert_eq!((&report[..6], &report[6..12]), (&[0x33, 0x33, 0, 0, 0, 0x16][..], &own[..]));
        assert_eq!(report[22..38], link.octets(), "from the host's address of the link");
        let to: [u8; 16] = report[38..54].try_into().unwrap();
        let body = &report[62..];
        let mut sent = frame::icmp6(link, to.into(), body[0], body[1], body[4..8].try_into().unwrap(), &body[8..]);
        // the function fills the checksum in
        sent.truncate(body.len());
        assert_eq!(sent, body, "its checksum");
    }
    assert_nothing_dropped(&a);
    // a router's question is not for a container to ask
    let tap = Tap::on(&host.peer, "wire");
    let query = frame::icmp4(0x11, 100, [0; 4], &[2, 125, 0, 0]);
    let packet = frame::V4 {
        options: &[0x94, 4, 0, 0],
        ttl: 1,
        ..frame::V4::new(Ipv4Addr::new(10, 77, 0, 2), Ipv4Addr::new(224, 0, 0, 1), 2, &query)
    };
    tap::inject(&a.ns, "eth0", &frame::ethernet([1, 0, 0x5e, 0, 0, 1], own, frame::IPV4, &packet.bytes()));
    std::thread::sleep(SOON);
    assert_eq!(a.drops("neighbor"), 1);
    let is_query = |s: &Seen| s.bytes[12..14] == [8, 0] && s.bytes[23] == 2 && s.bytes[38] == 0x11;
    assert_eq!(tap.count(|s| !s.outgoing && is_query(s)), 0);
}

#[test]
fn members_answer_who_asks_for_reports() {
    let host = Host::new("groups-query");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let v4 = Ipv4Addr::new(239, 1, 2, 6);
    let _ear = Ear::joined(&a.ns, "eth0", SocketAddr::new(v4.into(), 6000));
    // what it says by itself is said within a second
    std::thread::sleep(Duration::from_millis(1200));
    let (wire, tap) = (tap::mac_of(&host.peer, "wire"), Tap::on(&host.peer, "wire"));
    let query = frame::icmp4(0x11, 1, [0; 4], &[2, 125, 0, 0]);
    let packet = frame::V4 {
        options: &[0x94, 4, 0, 0],
        ttl: 1,
        ..frame::V4::new(Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(224, 0, 0, 1), 2, &query)
    };
    tap::inject(&host.peer, "wire", &frame::ethernet([1, 0, 0x5e, 0, 0, 1], wire, frame::IPV4, &packet.bytes()));
    std::thread::sleep(2 * SOON);
    let frames = tap.end();
    assert_eq!(reports(&frames, &v4.octets()).len(), 1);
}

/// Has container `a` say in IGMP version 2 that it is in `group`.
fn report(a: &Container, own: Mac, group: Ipv4Addr) {
    let body = [&[0x16, 0, 0, 0][..], &group.octets()].concat();
    let sum = frame::checksum(&[&body]).to_be_bytes();
    let body = [&body[..2], &sum, &body[4..]].concat();
    let packet =
        frame::V4 { options: &[0x94, 4, 0, 0], ttl: 1, ..frame::V4::new(Ipv4Addr::new(10, 77, 0, 2), group, 2, &body) };
    let [_, b, c, d] = group.octets();
    tap::inject(&a.ns, "eth0", &frame::ethernet([1, 0, 0x5e, b & 0x7f, c, d], own, frame::IPV4, &packet.bytes()));
}

#[test]
fn one_container_takes_up_no_more_than_its_share() {
    let (host, a, b) = Host::with_two("groups-share");
    let own = tap::mac_of(&host.ns, "eth0");
    let many = (0..200).map(|i| Ipv4Addr::new(239, 9, 0, i));
    many.clone().for_each(|group| report(&a, own, group));
    let to = group("239.9.0.199:6000");
    let ear = Ear::joined(&b.ns, "eth0", to);
    let (peer, tap, marker) = (Ear::at(&host.peer, "wire", false, 4000), Tap::on(&a.ns, "eth0"), frame::marker());
    many.for_each(|group| peer.say(SocketAddr::new(group.into(), 6000), &marker));
    assert!(ear.hears(&marker).is_some(), "it leaves room for others");
    std::thread::sleep(SOON);
    // 32, of which one is that of all hosts
    assert_eq!(tap.count(|s| !s.outgoing && frame::carries(&s.bytes, &marker)), 31);
}

#[test]
fn as_many_as_64_members_get_copies_and_one_that_ends_makes_room() {
    let config = "ports = \"31000-31999\"\nephemeral_ports_per_container = 64\n";
    let host = Host::with("groups-many").config(config).build();
    let (own, to) = (tap::mac_of(&host.ns, "eth0"), Ipv4Addr::new(239, 9, 1, 1));
    let members: Vec<Container> = (0..66).map(|i| host.bare(&format!("m{i}"), &[])).collect();
    members.iter().for_each(|member| report(member, own, to));
    let peer = Ear::at(&host.peer, "wire", false, 4000);
    let copies = || members[1..].iter().map(received).sum::<u64>();
    let heard = |marker: [u8; 16]| {
        let before = copies();
        peer.say(SocketAddr::new(to.into(), 6000), &marker);
        std::thread::sleep(SOON);
        copies() - before
    };
    assert_eq!(heard(frame::marker()), 63, "the first one, which is not counted, and 63 more");
    members[0].detach();
    report(&members[65], own, to);
    assert_eq!(heard(frame::marker()), 64);
    assert_eq!(received(&members[65]), 1);
}

#[test]
fn the_uplink_takes_in_every_group_until_setup_is_undone() {
    let host = Host::with("groups-allmulti").unprepared().build();
    let is_set = || host.ns.read("ip -o link show dev eth0").contains("ALLMULTI");
    assert!(!is_set());
    host.portslice(["setup"]).ok();
    assert!(is_set());
    host.ns.ip("link set eth0 allmulticast off");
    host.portslice(["sync"]).ok();
    assert!(is_set(), "it is mended");
    host.portslice(["setup", "--undo"]).ok();
    assert!(!is_set());
    // one that somebody else set is his
    host.ns.ip("link set eth0 allmulticast on");
    host.portslice(["setup"]).ok();
    host.portslice(["setup", "--undo"]).ok();
    assert!(is_set());
    host.ns.ip("link set eth0 allmulticast off");
}
