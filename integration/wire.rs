//! Promise: from the wire a container gets nothing that the host's own stack would drop. Whoever is on the same network
//! cannot speak to it as the host, as its neighbour container or as loopback, nor with frames for somebody else.

use crate::lab::frame::{self, Mac};
use crate::lab::icmp::{self, Icmp};
use crate::lab::probe::{BOTH, assert_reaches};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a frame and its answer take at most.
const SETTLED: Duration = Duration::from_millis(100);
const SENDERS_PORT: u16 = 9_000;

/// Two containers with echo services on all their addresses.
struct Scene {
    host: Host,
    a: Container,
    b: Container,
    echoes: Vec<Echo>,
    host_mac: Mac,
    peer_mac: Mac,
}

fn scene(host: Host) -> Scene {
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let mut echoes = Vec::new();
    for container in [&a, &b] {
        for address in [HOST4, HOST6] {
            for proto in BOTH {
                let at = SocketAddr::new(probe::any(address), container.ports[0]);
                echoes.push(Echo::start(&container.ns, proto, at));
            }
        }
    }
    let (host_mac, peer_mac) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    Scene { host, a, b, echoes, host_mac, peer_mac }
}

impl Scene {
    fn served(&self) -> u64 {
        self.echoes.iter().map(Echo::served).sum()
    }

    /// Puts packets on the wire and says which of them were seen at A or B, or were answered to P.
    fn problems(&self, to: Mac, packets: Vec<(String, IpAddr, Vec<u8>, [u8; 16])>) -> Vec<String> {
        self.problems_by((&self.host.peer, self.peer_mac), to, packets)
    }

    /// The same by another card, at whose other end is `neighbour`, by its device called wire.
    fn problems_by(
        &self,
        (neighbour, mac): (&Ns, Mac),
        to: Mac,
        packets: Vec<(String, IpAddr, Vec<u8>, [u8; 16])>,
    ) -> Vec<String> {
        let before = self.served();
        let inside = [("A", Tap::on(&self.a.ns, "eth0")), ("B", Tap::on(&self.b.ns, "eth0"))];
        let wire = Tap::on(neighbour, "wire");
        for (_, family, packet, _) in &packets {
            let frame = frame::ethernet(to, mac, frame::ethertype(*family), packet);
            tap::inject(neighbour, "wire", &frame);
        }
        std::thread::sleep(SETTLED);
        let mut problems = Vec::new();
        for (who, tap) in inside {
            let seen = tap.end();
            for (what, _, _, marker) in &packets {
                if seen.iter().any(|s| frame::carries(&s.bytes, marker)) {
                    problems.push(format!("{what} reached {who}"));
                }
            }
        }
        for answer in wire.end().iter().filter(|s| !s.outgoing && speaks(&s.bytes)) {
            problems.push(format!("an answer: {:02x?}", &answer.bytes[..answer.bytes.len().min(64)]));
        }
        if self.served() != before {
            problems.push(format!("{} more served", self.served() - before));
        }
        problems
    }

    /// A UDP datagram and a connection request to A's port.
    fn to_a(&self, what: &str, from: (IpAddr, u16), to: IpAddr) -> Vec<(String, IpAddr, Vec<u8>, [u8; 16])> {
        let (first, second, to) = (frame::marker(), frame::marker(), (to, self.a.ports[0]));
        let segment = frame::tcp_syn(from, to, &second);
        vec![
            (format!("UDP {what}"), to.0, frame::udp_packet(from, to, &first), first),
            (format!("TCP {what}"), to.0, frame::ip(from.0, to.0, frame::TCP, &segment), second),
        ]
    }
}

/// Is it UDP, TCP or an ICMP error? Neighbour discovery goes on all the time.
fn speaks(frame: &[u8]) -> bool {
    match u16::from_be_bytes([frame[12], frame[13]]) {
        frame::IPV4 => true,
        // what a stack says of itself: reports of multicast groups, neighbour discovery
        frame::IPV6 => frame[0] != 0x33 && (frame[20] != frame::ICMP6 || frame[54] < 128),
        _ => false,
    }
}

/// Sources that no packet from the wire can have.
fn impossible(second: bool) -> Vec<(IpAddr, IpAddr)> {
    let own = ["10.77.0.2", "127.0.0.1", "127.9.9.9", "0.0.0.0", "255.255.255.255", "224.0.0.5", "10.77.0.255"];
    let own6 = ["fd77::2", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.77.0.2", "::ffff:10.77.0.1", "ff02::5"];
    let more: &[&str] = if second { &["10.77.0.3", "fd77::3", "172.31.9.1", "fd79::1"] } else { &[] };
    own.iter()
        .chain(&own6)
        .chain(more)
        .map(|text| text.parse().unwrap())
        .map(|from: IpAddr| (from, if from.is_ipv4() { HOST4 } else { HOST6 }))
        .collect()
}

fn nothing_arrives_from(scene: &Scene, second: bool) {
    let mut packets = Vec::new();
    for (from, to) in impossible(second) {
        for port in [SENDERS_PORT, scene.b.ports[0]] {
            packets.extend(scene.to_a(&format!("from {from} port {port}"), (from, port), to));
        }
    }
    let problems = scene.problems(scene.host_mac, packets);
    assert!(problems.is_empty(), "from the wire:\n  {}", problems.join("\n  "));
    // with several addresses a wildcard UDP server may answer from another one, under host networking too
    for (address, proto) in [HOST4, HOST6].into_iter().flat_map(|a| BOTH.map(|p| (a, p))) {
        if proto == Proto::Tcp || !second {
            assert_reaches("P->A", &scene.host.peer, proto, SocketAddr::new(address, scene.a.ports[0]));
        }
    }
}

#[test]
fn a_source_that_no_packet_can_have_reaches_no_container() {
    nothing_arrives_from(&scene(Host::new("wire-source")), false);
}

#[test]
fn no_address_of_the_host_reaches_a_container_as_a_source() {
    let host = Host::with("wire-own").secondary("10.77.0.3/24").secondary("fd77::3/64").unprepared().build();
    host.ns.ip("link add other type veth peer name other2\naddr add 172.31.9.1/24 dev other\naddr add fd79::1/64 dev other nodad\n\
        link set other up\nlink set other2 up");
    host.portslice(["setup"]).ok();
    let s = scene(host);
    nothing_arrives_from(&s, true);
    s.host.ns.ip("link del other");
}

/// Whoever is at the other end of a second card.
#[test]
fn no_address_of_the_host_reaches_a_container_as_a_source_by_another_card() {
    let host = Host::with("wire-second").unprepared().build();
    host.altered();
    let neighbour = Ns::net_only("wire-second (second)");
    for ns in [&host.ns, &neighbour] {
        ns.set_sysctl("ipv6/conf/default/accept_dad", "0");
    }
    host.ns.ip(&format!(
        "link add eth1 type veth peer name wire netns {}\n\
         addr add 172.31.9.1/24 dev eth1\naddr add fd79::1/64 dev eth1 nodad\nlink set eth1 up",
        neighbour.pid()
    ));
    neighbour.ip("addr add 172.31.9.2/24 dev wire\naddr add fd79::2/64 dev wire nodad\nlink set wire up\n\
        route add 10.77.0.0/24 via 172.31.9.1\nroute add fd77::/64 via fd79::1");
    host.ns.settle(&["eth1"]);
    neighbour.settle(&["wire"]);
    host.portslice(["setup"]).ok();
    let s = scene(host);
    let (card, mac) = (tap::mac_of(&s.host.ns, "eth1"), tap::mac_of(&neighbour, "wire"));
    let mut packets = Vec::new();
    let ours = ["172.31.9.1", "fd79::1", "172.31.9.255"].map(|text| text.parse::<IpAddr>().unwrap());
    for (from, _) in impossible(false).into_iter().chain(ours.map(|ip| (ip, ip))) {
        for to in if from.is_ipv4() { [HOST4, ours[0]] } else { [HOST6, ours[1]] } {
            packets.extend(s.to_a(&format!("from {from} to {to}"), (from, SENDERS_PORT), to));
        }
    }
    let problems = s.problems_by((&neighbour, mac), card, packets);
    assert!(problems.is_empty(), "from the second wire:\n  {}", problems.join("\n  "));
    for address in [HOST4, HOST6, ours[0], ours[1]] {
        assert_reaches("S->A", &neighbour, Proto::Tcp, SocketAddr::new(address, s.a.ports[0]));
    }
}

#[test]
fn two_echo_services_cannot_be_made_to_talk_to_each_other() {
    let s = scene(Host::new("wire-loop"));
    let mut packets = Vec::new();
    for address in [HOST4, HOST6] {
        packets.extend(s.to_a("from B's port", (address, s.b.ports[0]), address));
    }
    for loopback in [LO4, LO6] {
        let address = if loopback.is_ipv4() { HOST4 } else { HOST6 };
        packets.extend(s.to_a("from B's port on loopback", (loopback, s.b.ports[0]), address));
    }
    let problems = s.problems(s.host_mac, packets);
    assert!(problems.is_empty(), "{}", problems.join("\n  "));
    assert_eq!(s.served(), 0);
}

#[test]
fn a_frame_for_another_mac_reaches_no_container_and_is_not_answered() {
    let s = scene(Host::new("wire-mac"));
    for (whose, mac) in [
        ("somebody else's", [2, 0, 0, 0, 0, 0x99]),
        ("everybody's", frame::BROADCAST),
        ("a group's", [0x33, 0x33, 0, 0, 0, 1]),
        ("A's host end's", tap::mac_of(&s.host.ns, &s.a.device().expect("a host end"))),
    ] {
        // the old form of a host end carries the uplink's
        if mac == s.host_mac {
            continue;
        }
        let mut packets = Vec::new();
        for (peer, address) in [(PEER4, HOST4), (PEER6, HOST6)] {
            packets.extend(s.to_a(&format!("to {whose} MAC"), (peer, SENDERS_PORT), address));
        }
        let problems = s.problems(mac, packets);
        assert!(problems.is_empty(), "{}", problems.join("\n  "));
    }
}

#[test]
fn icmp_and_fragments_with_such_a_source_reach_no_container_either() {
    let s = scene(Host::new("wire-rest"));
    let own = *s.a.block.start();
    let mut packets = Vec::new();
    for from in ["10.77.0.2", "127.0.0.1"] {
        let (from4, h4, p4) = (from.parse().unwrap(), "10.77.0.2".parse().unwrap(), "10.77.0.1".parse().unwrap());
        let (marker, later) = (frame::marker(), frame::marker());
        let quoted = frame::V4::new(h4, p4, frame::UDP, &frame::udp((HOST4, own), (PEER4, 9), &marker)).bytes();
        let error = frame::icmp4(3, 3, [0; 4], &quoted);
        packets.push((
            format!("port unreachable from {from}"),
            HOST4,
            frame::V4::new(from4, h4, frame::ICMP, &error).bytes(),
            marker,
        ));
        let marker = frame::marker();
        let datagram = frame::udp((from.parse().unwrap(), SENDERS_PORT), (HOST4, s.a.ports[0]), &marker);
        let part = |fragment, payload: &[u8]| {
            frame::V4 { fragment, id: 0x1234, ..frame::V4::new(from4, h4, frame::UDP, payload) }.bytes()
        };
        packets.push((format!("a first fragment from {from}"), HOST4, part(0x2000, &datagram), marker));
        packets.push((format!("a later fragment from {from}"), HOST4, part(3, &later), later));
    }
    let problems = s.problems(s.host_mac, packets);
    assert!(problems.is_empty(), "{}", problems.join("\n  "));
    // and what is honest still works
    for peer in [PEER4, PEER6] {
        assert_eq!(icmp::ping(&s.a.ns, peer, 2, SETTLED), [1; 2], "A pings {peer}");
        let at = Icmp::open(&s.a.ns, peer);
        assert_eq!(ask(&s.a.ns, Proto::Udp, SocketAddr::new(peer, 9)).0, Tried::Refused);
        assert!(at.next(SETTLED).is_some(), "A hears of the closed port of {peer}");
    }
}
