//! Promise: root inside a container cannot speak for anybody else. Whatever it forges is dropped and counted by its reason.

use crate::lab::frame::{self, Mac, V4};
use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const H4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const P4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const H6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
const P6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// A port of the host itself, outside of every pool.
const HOST_PORT: u16 = 20_000;
/// A port of the peer.
const PEER_PORT: u16 = 9_000;
/// Experimental EtherType.
const FOREIGN: u16 = 0x88b5;
/// The families' (host, peer) addresses.
const FAMILIES: [(IpAddr, IpAddr); 2] = [(HOST4, PEER4), (HOST6, PEER6)];

/// A is the hostile one; everybody else listens.
struct Scene {
    host: Host,
    a: Container,
    b: Container,
    /// A's own MAC, and those it may want to abuse.
    own: Mac,
    host_mac: Mac,
    b_mac: Mac,
    peer_mac: Mac,
}

fn scene(name: &str) -> Scene {
    scene_on(Host::new(name))
}

fn scene_on(host: Host) -> Scene {
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let (own, host_mac) = (tap::mac_of(&a.ns, "eth0"), tap::mac_of(&host.ns, "eth0"));
    let (b_mac, peer_mac) = (tap::mac_of(&b.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    Scene { host, a, b, own, host_mac, b_mac, peer_mac }
}

/// What is to happen to a forged frame.
struct Forgery {
    what: String,
    reason: &'static str,
    frame: Vec<u8>,
    marker: Vec<u8>,
}

impl Scene {
    /// A frame as A's own kernel would address it: to the host's MAC, from A's.
    fn addressed(&self, kind: u16, packet: &[u8]) -> Vec<u8> {
        frame::ethernet(self.host_mac, self.own, kind, packet)
    }

    /// The ports A has no right to.
    fn foreign_ports(&self) -> Vec<(&'static str, u16)> {
        let b = &self.b;
        vec![
            ("B's assigned", b.ports[0]),
            ("B's block", *b.block.start()),
            ("the host's", HOST_PORT),
            ("nobody's in the pool", 50_000),
        ]
    }

    /// Injects all on `device` of A and says what was seen of them anywhere, or was not counted under its reason.
    fn problems_with(&self, device: &str, forgeries: &[Forgery]) -> Vec<String> {
        let places = [
            ("P", &self.host.peer, "wire"),
            ("H", &self.host.ns, "lo"),
            ("H", &self.host.ns, "eth0"),
            ("B", &self.b.ns, "eth0"),
            ("B", &self.b.ns, "lo"),
        ];
        let before = self.a.show()["drops"].clone();
        let taps = places.map(|(who, ns, device)| (who, device, Tap::on(ns, device)));
        forgeries.iter().for_each(|f| tap::inject(&self.a.ns, device, &f.frame));
        std::thread::sleep(Duration::from_millis(40));
        let mut problems = Vec::new();
        for (who, at, tap) in taps {
            let seen = tap.end();
            for f in forgeries {
                match seen.iter().filter(|s| frame::carries(&s.bytes, &f.marker)).count() {
                    0 => {}
                    n => problems.push(format!("{}: reached {who} ({at}) {n} time(s)", f.what)),
                }
            }
        }
        let after = self.a.show()["drops"].clone();
        let mut reasons: Vec<&str> = forgeries.iter().map(|f| f.reason).collect();
        reasons.sort_unstable();
        for group in reasons.chunk_by(|a, b| a == b) {
            let (reason, expected) = (group[0], group.len() as u64);
            let counted = after[reason].as_u64().unwrap_or(0) - before[reason].as_u64().unwrap_or(0);
            // a kernel's own router solicitations and group reports end under these two as well, at any time
            let noisy = matches!(reason, "neighbor" | "source_address") && counted > expected;
            if counted != expected && !noisy {
                let what = if let [one] = forgeries { one.what.as_str() } else { "together" };
                problems.push(format!(
                    "{what}: {counted} counted as {reason}, not {expected}; before {before}, after {after}"
                ));
            }
        }
        problems
    }

    /// None of the forgeries may be seen anywhere, each must be counted. All in one go; if that fails, one by one to say which.
    #[track_caller]
    fn all_dropped_on(&self, device: &str, forgeries: Vec<Forgery>) {
        assert!(!forgeries.is_empty());
        let together = self.problems_with(device, &forgeries);
        if together.is_empty() {
            return;
        }
        let each: Vec<String> =
            forgeries.iter().flat_map(|f| self.problems_with(device, std::slice::from_ref(f))).collect();
        let (all, each) = (together.join("\n  "), each.join("\n  "));
        panic!("of {} frames A forged on {device}, all at once:\n  {all}\none by one:\n  {each}", forgeries.len());
    }

    #[track_caller]
    fn all_dropped(&self, forgeries: Vec<Forgery>) {
        self.all_dropped_on("eth0", forgeries);
    }

    /// How often P sees a frame that A puts on its device.
    fn seen_by_peer(&self, frame: &[u8], marker: &[u8]) -> usize {
        let tap = Tap::on(&self.host.peer, "wire");
        tap::inject(&self.a.ns, "eth0", frame);
        std::thread::sleep(Duration::from_millis(60));
        tap.count(|s| !s.outgoing && frame::carries(&s.bytes, marker))
    }
}

/// One forged frame with a marker; `build` gets the marker to put into it.
fn forge(what: impl Into<String>, reason: &'static str, build: impl FnOnce(&[u8]) -> Vec<u8>) -> Forgery {
    let marker = frame::marker().to_vec();
    Forgery { what: what.into(), reason, frame: build(&marker), marker }
}

#[test]
fn an_honest_frame_does_arrive() {
    let s = scene("iso-honest");
    for (host, peer) in FAMILIES {
        let kind = frame::ethertype(host);
        for port in [*s.a.block.start(), *s.a.block.end(), s.a.ports[0]] {
            let marker = frame::marker();
            let packet = frame::udp_packet((host, port), (peer, PEER_PORT), &marker);
            assert_eq!(
                s.seen_by_peer(&s.addressed(kind, &packet), &marker),
                1,
                "UDP from A's own port {port} to {peer}"
            );
            let marker = frame::marker();
            let packet = frame::ip(host, peer, frame::TCP, &frame::tcp_syn((host, port), (peer, PEER_PORT), &marker));
            assert_eq!(
                s.seen_by_peer(&s.addressed(kind, &packet), &marker),
                1,
                "TCP from A's own port {port} to {peer}"
            );
        }
    }
    let marker = frame::marker();
    let datagram = frame::udp((HOST4, s.a.ports[0]), (PEER4, PEER_PORT), &marker);
    let packet = V4 { options: &[1, 1, 1, 0], ..V4::new(H4, P4, frame::UDP, &datagram) }.bytes();
    assert_eq!(s.seen_by_peer(&s.addressed(frame::IPV4, &packet), &marker), 1, "UDP with harmless IP options");
    let forged: u64 = ["source_port", "source_mac", "protocol", "malformed"].iter().map(|r| s.a.drops(r)).sum();
    assert_eq!(forged, 0, "honest frames were counted as forged: {}", s.a.show()["drops"]);
}

#[test]
fn another_source_port_goes_nowhere() {
    let s = scene("iso-port");
    let mut forgeries = Vec::new();
    for (whose, port) in s.foreign_ports() {
        for (host, peer) in FAMILIES {
            for (target, to) in [("P", (peer, PEER_PORT)), ("B", (host, s.b.ports[1])), ("H", (host, HOST_PORT))] {
                let kind = frame::ethertype(host);
                forgeries.push(forge(
                    format!("UDP from {whose} port {port} to {target} {}", to.0),
                    "source_port",
                    |m| s.addressed(kind, &frame::udp_packet((host, port), to, m)),
                ));
                forgeries.push(forge(
                    format!("TCP from {whose} port {port} to {target} {}", to.0),
                    "source_port",
                    |m| s.addressed(kind, &frame::ip(host, to.0, frame::TCP, &frame::tcp_syn((host, port), to, m))),
                ));
            }
        }
    }
    s.all_dropped(forgeries);
}

#[test]
fn another_source_port_goes_nowhere_by_the_loopback_device_either() {
    let s = scene("iso-port-lo");
    let mut forgeries = Vec::new();
    for (loopback, host) in [(LO4, HOST4), (LO6, HOST6)] {
        for (whose, port) in s.foreign_ports() {
            for (target, to) in [("B", s.b.ports[1]), ("H", HOST_PORT)] {
                for at in [loopback, host] {
                    let frame = |m: &[u8]| {
                        frame::ethernet(
                            [0; 6],
                            [0; 6],
                            frame::ethertype(at),
                            &frame::udp_packet((at, port), (at, to), m),
                        )
                    };
                    forgeries.push(forge(
                        format!("UDP on lo from {whose} port {port} to {target} {at}:{to}"),
                        "source_port",
                        frame,
                    ));
                }
            }
        }
    }
    s.all_dropped_on("lo", forgeries);
}

#[test]
fn binding_a_foreign_port_gives_no_way_out() {
    let s = scene("iso-bind");
    for (whose, port) in s.foreign_ports() {
        for (host, peer) in FAMILIES {
            let marker = frame::marker();
            let tap = Tap::on(&s.host.peer, "wire");
            let before = s.a.drops("source_port");
            let sent = s.a.inside(|| -> std::io::Result<usize> {
                let fd = probe::open(Proto::Udp, host)?;
                sock::bind(&fd, SocketAddr::new(host, port))?;
                sock::send_to(&fd, &marker, SocketAddr::new(peer, PEER_PORT))
            });
            std::thread::sleep(Duration::from_millis(40));
            tap.assert_without(&format!("A bound {whose} port {port} and sent to {peer} ({sent:?})"), &marker);
            if sent.is_ok() {
                assert_eq!(
                    s.a.drops("source_port"),
                    before + 1,
                    "sent from {whose} port {port} to {peer}: {}",
                    s.a.show()["drops"]
                );
            }
        }
    }
}

#[test]
fn another_source_address_goes_nowhere() {
    let s = scene("iso-address");
    let own = *s.a.block.start();
    let cases: [(&str, IpAddr, IpAddr); 8] = [
        ("a neighbour's", "10.77.0.99".parse().unwrap(), PEER4),
        ("the peer's own", PEER4, PEER4),
        ("loopback", LO4, PEER4),
        ("none", "0.0.0.0".parse().unwrap(), PEER4),
        ("a neighbour's", "fd77::99".parse().unwrap(), PEER6),
        ("the peer's own", PEER6, PEER6),
        ("loopback", LO6, PEER6),
        ("a link-local", "fe80::99".parse().unwrap(), PEER6),
    ];
    let mut forgeries: Vec<Forgery> = cases
        .iter()
        .map(|(whose, from, to)| {
            forge(format!("UDP from {whose} address {from} to P"), "source_address", |m| {
                s.addressed(frame::ethertype(*from), &frame::udp_packet((*from, own), (*to, PEER_PORT), m))
            })
        })
        .collect();
    for (from, to, port) in [
        ("10.77.0.99", HOST4, HOST_PORT),
        ("10.77.0.99", HOST4, s.b.ports[0]),
        ("fd77::99", HOST6, HOST_PORT),
        ("fd77::99", HOST6, s.b.ports[0]),
    ] {
        let from: IpAddr = from.parse().unwrap();
        forgeries.push(forge(format!("UDP from {from} to {to}:{port}"), "source_address", |m| {
            s.addressed(frame::ethertype(from), &frame::udp_packet((from, own), (to, port), m))
        }));
    }
    s.all_dropped(forgeries);
}

#[test]
fn an_ipv4_address_has_no_place_in_an_ipv6_header() {
    for host in
        [Host::new("iso-mapped"), Host::with("iso-mapped-2").secondary("10.77.0.3/24").secondary("fd77::3/64").build()]
    {
        let s = scene_on(host);
        let own = *s.a.block.start();
        let mapped: IpAddr = "::ffff:10.77.0.2".parse().unwrap();
        let mut forgeries = Vec::new();
        for (from, to, port) in [
            (mapped, PEER6, PEER_PORT),
            (mapped, HOST6, s.b.ports[0]),
            (mapped, mapped, s.b.ports[0]),
            (LO6, "::ffff:127.0.0.1".parse().unwrap(), HOST_PORT),
        ] {
            forgeries.push(forge(format!("UDP from {from} to {to}"), "malformed", |m| {
                s.addressed(frame::IPV6, &frame::udp_packet((from, own), (to, port), m))
            }));
        }
        s.all_dropped(forgeries);
    }
}

#[test]
fn another_source_mac_goes_nowhere() {
    let s = scene("iso-mac");
    let own = *s.a.block.start();
    let mut forgeries = Vec::new();
    // a container carries the host's MAC, as it carries its address: only those of others are foreign
    let macs = [("B's", s.b_mac), ("H's", s.host_mac), ("P's", s.peer_mac), ("an invented", [2, 0, 0, 0, 0, 0x99])];
    for (whose, mac) in macs.into_iter().filter(|(_, mac)| *mac != s.own) {
        for (host, peer) in FAMILIES {
            for to in [(peer, PEER_PORT), (host, HOST_PORT), (host, s.b.ports[0])] {
                forgeries.push(forge(format!("UDP from {whose} MAC to {}:{}", to.0, to.1), "source_mac", |m| {
                    frame::ethernet(s.host_mac, mac, frame::ethertype(host), &frame::udp_packet((host, own), to, m))
                }));
            }
        }
    }
    s.all_dropped(forgeries);
}

#[test]
fn no_neighbour_is_ever_told_anything() {
    let s = scene("iso-neighbour");
    let mut forgeries = Vec::new();
    let to_whom = [("everybody", frame::BROADCAST), ("P", s.peer_mac), ("H", s.host_mac), ("B", s.b_mac)];
    for (target, mac) in to_whom {
        for (what, about) in [
            ("a neighbour's address", Ipv4Addr::new(10, 77, 0, 77)),
            ("the host's address", H4),
            ("the gateway's address", P4),
        ] {
            forgeries.push(forge(format!("gratuitous ARP for {what} to {target}"), "neighbor", |m| {
                frame::ethernet(mac, s.own, frame::ARP, &frame::arp(2, (s.own, about), (mac, about), m))
            }));
        }
        forgeries.push(forge(format!("ARP request to {target}"), "neighbor", |m| {
            frame::ethernet(mac, s.own, frame::ARP, &frame::arp(1, (s.own, H4), ([0; 6], P4), m))
        }));
    }
    let all_nodes_mac = [0x33, 0x33, 0, 0, 0, 1];
    for (what, from, about) in [
        ("the host's address", H6, H6),
        ("the gateway's address", H6, P6),
        ("an invented one", H6, "fd77::77".parse().unwrap()),
    ] {
        let unique: Mac = frame::marker()[10..16].try_into().unwrap();
        let mut packet = frame::neighbour_advertisement(from, about, unique);
        let frame = frame::ethernet(all_nodes_mac, s.own, frame::IPV6, &packet);
        let marker = packet.split_off(packet.len() - 8); // the link-layer option, which holds the invented MAC
        forgeries.push(Forgery {
            what: format!("neighbour advertisement for {what}"),
            reason: "neighbor",
            frame,
            marker,
        });
    }
    s.all_dropped(forgeries);
}

#[test]
fn foreign_protocols_go_nowhere() {
    let s = scene("iso-protocol");
    let mut forgeries = Vec::new();
    for (target, mac) in [("P", s.peer_mac), ("H", s.host_mac), ("B", s.b_mac), ("everybody", frame::BROADCAST)] {
        forgeries.push(forge(format!("EtherType {FOREIGN:#x} to {target}"), "protocol", |m| {
            frame::ethernet(mac, s.own, FOREIGN, m)
        }));
    }
    for (host, peer) in FAMILIES {
        forgeries.push(forge(format!("a VLAN tag around honest UDP to {peer}"), "protocol", |m| {
            let honest = frame::udp_packet((host, s.a.ports[0]), (peer, PEER_PORT), m);
            let tagged = [&[0, 42], &frame::ethertype(host).to_be_bytes()[..], &honest].concat();
            s.addressed(0x8100, &tagged)
        }));
    }
    for (name, number) in [("GRE", 47), ("IP in IP", 4), ("ESP", 50), ("OSPF", 89), ("an unused one", 253)] {
        for (host, peer) in FAMILIES {
            forgeries.push(forge(format!("IP protocol {number} ({name}) to {peer}"), "protocol", |m| {
                s.addressed(frame::ethertype(host), &frame::ip(host, peer, number, m))
            }));
        }
    }
    s.all_dropped(forgeries);
}

#[test]
fn ip_options_do_not_hide_a_foreign_source_port() {
    let s = scene("iso-options");
    // at offset 20, where a careless filter reads the ports, the option bytes 80 02 spell port 32770
    let options = [0x80, 0x02, 0x00, 0x00];
    let mut forgeries = Vec::new();
    for (whose, port) in s.foreign_ports() {
        for (target, to, to_port) in [("P", PEER4, PEER_PORT), ("B", HOST4, s.b.ports[0]), ("H", HOST4, HOST_PORT)] {
            forgeries.push(forge(format!("options before {whose} port {port}, to {target}"), "source_port", |m| {
                let IpAddr::V4(to4) = to else { unreachable!() };
                let datagram = frame::udp((HOST4, port), (to, to_port), m);
                s.addressed(frame::IPV4, &V4 { options: &options, ..V4::new(H4, to4, frame::UDP, &datagram) }.bytes())
            }));
        }
    }
    s.all_dropped(forgeries);
}

#[test]
fn fragments_need_a_valid_first_one() {
    let s = scene("iso-fragments");
    let mut forgeries = Vec::new();
    for (target, to4, to6) in [("P", P4, P6), ("H", H4, H6)] {
        for (which, offset, more) in
            [("last", 1480u16, false), ("middle", 1480, true), ("second, right behind the ports", 8, false)]
        {
            forgeries.push(forge(format!("a {which} IPv4 fragment without a first, to {target}"), "fragment", |m| {
                let flags = (offset / 8) | if more { 0x2000 } else { 0 };
                s.addressed(frame::IPV4, &V4 { fragment: flags, id: 0x7777, ..V4::new(H4, to4, frame::UDP, m) }.bytes())
            }));
            forgeries.push(forge(format!("a {which} IPv6 fragment without a first, to {target}"), "fragment", |m| {
                s.addressed(
                    frame::IPV6,
                    &frame::v6(H6, to6, 44, 64, &frame::v6_fragment(frame::UDP, offset, more, 0x7777_7777, m)),
                )
            }));
        }
        for (whose, port) in s.foreign_ports() {
            forgeries.push(forge(
                format!("a first IPv4 fragment from {whose} port {port}, to {target}"),
                "source_port",
                |m| {
                    let datagram = frame::udp((HOST4, port), (to4.into(), PEER_PORT), m);
                    s.addressed(
                        frame::IPV4,
                        &V4 { fragment: 0x2000, id: port, ..V4::new(H4, to4, frame::UDP, &datagram) }.bytes(),
                    )
                },
            ));
            forgeries.push(forge(
                format!("a first IPv6 fragment from {whose} port {port}, to {target}"),
                "source_port",
                |m| {
                    let datagram = frame::udp((HOST6, port), (to6.into(), PEER_PORT), m);
                    s.addressed(
                        frame::IPV6,
                        &frame::v6(
                            H6,
                            to6,
                            44,
                            64,
                            &frame::v6_fragment(frame::UDP, 0, true, u32::from(port), &datagram),
                        ),
                    )
                },
            ));
            forgeries.push(forge(
                format!("a later IPv4 fragment after that first one, to {target}"),
                "fragment",
                |m| s.addressed(frame::IPV4, &V4 { fragment: 3, id: port, ..V4::new(H4, to4, frame::UDP, m) }.bytes()),
            ));
        }
    }
    s.all_dropped(forgeries);
}

#[test]
fn icmp_errors_are_only_about_ones_own_ports() {
    let s = scene("iso-icmp");
    let mut forgeries = Vec::new();
    // an error quotes the packet it complains about: one that P sent to somebody at this host
    let error4 = |kind, code, port: u16, m: &[u8]| {
        let quoted = V4::new(P4, H4, frame::UDP, &frame::udp((PEER4, PEER_PORT), (HOST4, port), m)).bytes();
        s.addressed(frame::IPV4, &V4::new(H4, P4, frame::ICMP, &frame::icmp4(kind, code, [0; 4], &quoted)).bytes())
    };
    let error6 = |kind, code, port: u16, m: &[u8]| {
        let quoted = frame::v6(P6, H6, frame::UDP, 64, &frame::udp((PEER6, PEER_PORT), (HOST6, port), m));
        s.addressed(
            frame::IPV6,
            &frame::v6(H6, P6, frame::ICMP6, 64, &frame::icmp6(H6, P6, kind, code, [0; 4], &quoted)),
        )
    };
    for (whose, port) in s.foreign_ports() {
        for (name, kind, code) in
            [("port unreachable", 3, 3), ("fragmentation needed", 3, 4), ("time exceeded", 11, 0), ("redirect", 5, 1)]
        {
            forgeries
                .push(forge(format!("ICMP {name} about {whose} port {port}"), "icmp", |m| error4(kind, code, port, m)));
        }
        for (name, kind, code) in [("port unreachable", 1, 4), ("packet too big", 2, 0), ("time exceeded", 3, 0)] {
            forgeries.push(forge(format!("ICMPv6 {name} about {whose} port {port}"), "icmp", |m| {
                error6(kind, code, port, m)
            }));
        }
    }
    s.all_dropped(forgeries);
    for port in [s.a.ports[0], *s.a.block.end()] {
        let marker = frame::marker();
        assert_eq!(
            s.seen_by_peer(&error4(3, 3, port, &marker), &marker),
            1,
            "port unreachable about A's own port {port}"
        );
        let marker = frame::marker();
        assert_eq!(
            s.seen_by_peer(&error6(1, 4, port, &marker), &marker),
            1,
            "ICMPv6 port unreachable about A's own port {port}"
        );
    }
}

/// An ICMP error as one that A's kernel sends: outer addresses, message, and the UDP packet that it quotes.
fn icmp_error(
    s: &Scene,
    (from, to): (IpAddr, IpAddr),
    (kind, code, rest): (u8, u8, [u8; 4]),
    (source, target): ((IpAddr, u16), (IpAddr, u16)),
    marker: &[u8],
) -> Vec<u8> {
    let quoted = frame::udp_packet(source, target, marker);
    let packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            V4::new(from, to, frame::ICMP, &frame::icmp4(kind, code, rest, &quoted)).bytes()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame::v6(from, to, frame::ICMP6, 64, &frame::icmp6(from, to, kind, code, rest, &quoted))
        }
        _ => unreachable!(),
    };
    s.addressed(frame::ethertype(from), &packet)
}

#[test]
fn an_icmp_error_is_about_a_packet_that_really_was_sent_to_the_container() {
    let s = scene("iso-icmp-quoted");
    let (own, b_port) = (s.a.ports[0], s.b.ports[5]);
    let mut forgeries = Vec::new();
    for (host, peer, loopback, far, unreachable, too_big) in [
        (HOST4, PEER4, LO4, FAR4, (3, 3, [0; 4]), (3, 4, [0, 0, 2, 88])),
        (HOST6, PEER6, LO6, FAR6, (1, 4, [0; 4]), (2, 0, [0, 0, 2, 88])),
    ] {
        let mut add = |what: &str, outer, message, quoted| {
            forgeries.push(forge(format!("{what}, {host}"), "icmp", |m| icmp_error(&s, outer, message, quoted, m)));
        };
        let (hosts, others) = ((host, 8099), (host, b_port));
        add("too big on loopback", (loopback, loopback), too_big, ((loopback, 8099), (loopback, own)));
        add("too big between host and A", (host, host), too_big, (hosts, (host, own)));
        add("too big between B and A", (host, host), too_big, (others, (host, own)));
        add("too big of the host's way to a third", (host, host), too_big, (hosts, (far, own)));
        add("unreachable of the host's way to a third", (host, host), unreachable, (hosts, (far, own)));
        add("unreachable of B's way to a third", (host, host), unreachable, (others, (far, own)));
        add("unreachable about B's packet to itself", (host, host), unreachable, (others, others));
        add("unreachable for the host about P's packet", (host, host), unreachable, ((peer, 8099), (host, own)));
        add("unreachable for P about another's packet", (host, peer), unreachable, ((far, 8099), (host, own)));
        add("unreachable for P about the host's packet", (host, peer), unreachable, (hosts, (host, own)));
        add("unreachable for P about loopback", (host, peer), unreachable, ((peer, 8099), (loopback, own)));
        add("unreachable for P about P's packet to a third", (host, peer), unreachable, ((peer, 8099), (far, own)));
        add("too big for P about P's packet to a third", (host, peer), too_big, ((peer, 8099), (far, own)));
    }
    s.all_dropped(forgeries);
}

#[test]
fn errors_about_real_packets_arrive_wherever_they_came_from() {
    let s = scene("iso-icmp-real");
    let closed = s.a.ports[9];
    for ((host, peer), loopback) in FAMILIES.into_iter().zip([LO4, LO6]) {
        assert_refused("P->A", &s.host.peer, Proto::Udp, SocketAddr::new(host, closed));
        for to in [host, loopback] {
            assert_refused("H->A", &s.host.ns, Proto::Udp, SocketAddr::new(to, closed));
            assert_refused("B->A", &s.b.ns, Proto::Udp, SocketAddr::new(to, closed));
            assert_refused("A->A", &s.a.ns, Proto::Udp, SocketAddr::new(to, closed));
        }
        let (unreachable, too_big) = if host.is_ipv4() {
            ((3, 3, [0; 4]), (3, 4, [0, 0, 2, 88]))
        } else {
            ((1, 4, [0; 4]), (2, 0, [0, 0, 5, 0]))
        };
        for (what, message) in [("unreachable", unreachable), ("too big", too_big)] {
            let marker = frame::marker();
            let error = icmp_error(&s, (host, peer), message, ((peer, PEER_PORT), (host, closed)), &marker);
            assert_eq!(s.seen_by_peer(&error, &marker), 1, "{what} for P about P's packet");
        }
    }
    assert_eq!(s.a.drops("icmp"), 0, "{}", s.a.show()["drops"]);
}

#[test]
fn an_echo_id_in_use_is_not_taken_over() {
    let s = scene("iso-echo");
    for (_, peer) in FAMILIES {
        let id = icmp::fresh_id();
        let window = Duration::from_millis(150);
        assert_eq!(icmp::ping_with(&s.b.ns, peer, id, 1, window), [1], "B pings {peer}");
        let before = s.a.drops("echo");
        let stolen = icmp::ping_with(&s.a.ns, peer, id, 3, window);
        assert_eq!(icmp::ping_with(&s.b.ns, peer, id, 3, window), [1; 3], "B pings {peer} after A used its id");
        if stolen == [0; 3] {
            assert_eq!(s.a.drops("echo"), before + 3, "A's 3 requests with B's id to {peer}: {}", s.a.show()["drops"]);
        }
    }
}

#[test]
fn malformed_and_oversized_packets_go_nowhere() {
    let s = scene("iso-malformed");
    let own = *s.a.block.start();
    let datagram = |m: &[u8]| frame::udp((HOST4, own), (PEER4, PEER_PORT), m);
    let bend = |m: &[u8], at: usize, value: &[u8]| {
        let mut packet = V4::new(H4, P4, frame::UDP, &datagram(m)).bytes();
        packet[at..at + value.len()].copy_from_slice(value);
        s.addressed(frame::IPV4, &packet)
    };
    s.all_dropped(vec![
        forge("a header of 12 bytes", "malformed", |m| bend(m, 0, &[0x43])),
        forge("IP version 5", "malformed", |m| bend(m, 0, &[0x55])),
        forge("a header longer than the packet", "malformed", |m| {
            let mut packet = V4::new(H4, P4, frame::UDP, m).bytes();
            packet[0] = 0x4f;
            s.addressed(frame::IPV4, &packet)
        }),
        forge("IP version 4 in an IPv6 header", "malformed", |m| {
            let mut packet = frame::udp_packet((HOST6, own), (PEER6, PEER_PORT), m);
            packet[0] = 0x40;
            s.addressed(frame::IPV6, &packet)
        }),
        forge("3000 bytes with DF to a link of 1500", "oversize", |m| {
            let body = [m, &[0; 2960]].concat();
            s.addressed(frame::IPV4, &V4 { fragment: 0x4000, ..V4::new(H4, P4, frame::UDP, &datagram(&body)) }.bytes())
        }),
    ]);
}

#[test]
fn without_host_loopback_the_hosts_own_loopback_is_closed() {
    let host = Host::new("iso-loopback");
    let a = host.bare("a", &["--ports", "31000-31009", "--host-loopback", "false"]);
    let open = host.bare("open", &["--ports", "31010-31019"]);
    for proto in BOTH {
        for (address, loopback) in [(HOST4, LO4), (HOST6, LO6)] {
            let wild = Echo::start(&host.ns, proto, SocketAddr::new(probe::any(address), HOST_PORT));
            let private = Echo::start(&host.ns, proto, SocketAddr::new(loopback, HOST_PORT + 1));
            for port in [HOST_PORT, HOST_PORT + 1] {
                assert_refused("host-loopback is off", &a.ns, proto, SocketAddr::new(loopback, port));
                assert_reaches("host-loopback is on", &open.ns, proto, SocketAddr::new(loopback, port));
            }
            assert_reaches("the host's address stays open", &a.ns, proto, SocketAddr::new(address, HOST_PORT));
            assert_eq!(
                (wild.served(), private.served()),
                (2, 1),
                "{proto:?} {loopback}: served by (wildcard, loopback) listeners"
            );
            let _own = Echo::start(&a.ns, proto, SocketAddr::new(probe::any(address), a.ports[0]));
            assert_reaches("A's own loopback", &a.ns, proto, SocketAddr::new(loopback, a.ports[0]));
        }
    }
}

#[test]
fn without_host_loopback_a_forged_loopback_frame_is_counted() {
    let host = Host::new("iso-loopback-raw");
    let a = host.bare("a", &["--ports", "31000-31009", "--host-loopback", "false"]);
    let mac = tap::mac_of(&a.ns, "eth0");
    let to = tap::mac_of(&host.ns, "eth0");
    for loopback in [LO4, LO6] {
        let (marker, before) = (frame::marker(), a.drops("host_loopback"));
        let tap = Tap::on(&host.ns, "lo");
        let packet = frame::udp_packet((loopback, *a.block.start()), (loopback, HOST_PORT), &marker);
        tap::inject(&a.ns, "eth0", &frame::ethernet(to, mac, frame::ethertype(loopback), &packet));
        std::thread::sleep(Duration::from_millis(60));
        tap.assert_without(&format!("a frame from {loopback} to the host's {loopback}"), &marker);
        assert_eq!(a.drops("host_loopback"), before + 1, "{loopback}: {}", a.show()["drops"]);
    }
}
