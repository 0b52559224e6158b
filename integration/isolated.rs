//! Promise: root inside a container cannot speak for anybody else. Whatever it forges is dropped and counted by its reason.

mod addresses;
mod errors;
mod loopback;
mod packets;
mod unseen;

use crate::lab::frame::{self, Mac, V4};
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

/// The host answers for all of its address.
#[test]
fn a_container_answers_nobodys_ping() {
    let s = scene("iso-echo");
    let rest = [0, 7, 0, 1];
    s.all_dropped(vec![
        forge("an echo answer", "echo", |m| {
            s.addressed(frame::IPV4, &V4::new(H4, P4, frame::ICMP, &frame::icmp4(0, 0, rest, m)).bytes())
        }),
        forge("an ICMPv6 echo answer", "echo", |m| {
            let answer = frame::icmp6(H6, P6, 129, 0, rest, m);
            s.addressed(frame::IPV6, &frame::v6(H6, P6, frame::ICMP6, 64, &answer))
        }),
    ]);
}
