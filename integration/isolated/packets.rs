//! Packets in which a careless filter finds other ports than a receiver does, or none at all.

use super::{FAMILIES, FOREIGN, H4, H6, HOST_PORT, P4, P6, PEER_PORT, forge, scene};
use crate::lab::frame::{self, V4};
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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

/// The ports stand behind headers that a careless filter does not go through: of options, and of an atomic fragment.
#[test]
fn extension_headers_do_not_hide_a_foreign_source_port() {
    let s = scene("iso-extensions");
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let mut forgeries = Vec::new();
    for (whose, port) in s.foreign_ports() {
        for (target, to, to_port) in [("P", P6, PEER_PORT), ("B", H6, s.b.ports[0]), ("H", H6, HOST_PORT)] {
            let datagram = |m: &[u8]| frame::udp((HOST6, port), (to.into(), to_port), m);
            let mut add = |headers: &str, next: u8, wrap: &dyn Fn(&[u8]) -> Vec<u8>| {
                let what = format!("{headers} before {whose} port {port}, to {target}");
                forgeries.push(forge(what, "source_port", |m| {
                    s.addressed(frame::IPV6, &frame::v6(H6, to, next, 64, &wrap(&datagram(m))))
                }));
            };
            add("destination options", 60, &|d| [&options(frame::UDP)[..], d].concat());
            add("hop-by-hop and destination options", 0, &|d| [&options(60)[..], &options(frame::UDP), d].concat());
            add("an atomic fragment", 44, &|d| frame::v6_fragment(frame::UDP, 0, false, 0x0707, d));
            add("options and an atomic fragment", 60, &|d| {
                [&options(44)[..], &frame::v6_fragment(frame::UDP, 0, false, 0x0708, d)].concat()
            });
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
fn segments_that_would_be_larger_than_the_link_go_nowhere() {
    let s = scene("iso-segments");
    for (host, peer) in FAMILIES {
        let headers = if host.is_ipv4() { 40 } else { 60 };
        let send = |size: u16| {
            let marker = frame::marker();
            let body = [&marker[..], &[0; 4000]].concat();
            let segment = frame::tcp_syn((host, s.a.ports[0]), (peer, PEER_PORT), &body);
            let tap = crate::lab::tap::Tap::on(&s.host.peer, "wire");
            let packet = s.addressed(frame::ethertype(host), &frame::ip(host, peer, frame::TCP, &segment));
            crate::lab::tap::inject_segments(&s.a.ns, "eth0", &packet, size);
            std::thread::sleep(Duration::from_millis(60));
            tap.count(|seen| !seen.outgoing && frame::carries(&seen.bytes, &marker))
        };
        // the peer is a neighbour
        assert_eq!(icmp::ping(&s.a.ns, peer, 1, Duration::from_millis(200)), [1]);
        let before = s.a.drops("oversize");
        assert_eq!(send(1500 - headers), 1, "{host}: segments that fill the link");
        assert_eq!(s.a.drops("oversize"), before);
        assert_eq!(send(1500 - headers + 1), 0, "{host}: segments that are a byte too large");
        assert_eq!(send(1480), 0, "{host}: segments that fit without their headers");
        assert_eq!(s.a.drops("oversize"), before + 2, "{host}");
    }
}

/// Datagrams that a socket hands over together, cut by the kernel as it is told (UDP_SEGMENT), where root inside lets its device
/// take more than the link does.
#[test]
fn datagrams_cut_too_large_for_the_link_go_nowhere() {
    let s = scene("iso-cut");
    s.a.ns.ip("link set eth0 mtu 9000");
    for (host, peer) in FAMILIES {
        let most = 1500 - if host.is_ipv4() { 28 } else { 48 };
        let receiver = Echo::start(&s.host.peer, Proto::Udp, SocketAddr::new(peer, PEER_PORT));
        let send = |size: usize| {
            s.a.ns.inside(|| {
                let fd = probe::open(Proto::Udp, peer).expect("socket");
                // the size of the device counts, not that of the path
                let (level, option) = if host.is_ipv4() {
                    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
                } else {
                    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
                };
                sock::set(&fd, level, option, libc::IP_PMTUDISC_PROBE).expect("IP_MTU_DISCOVER");
                sock::set(&fd, libc::SOL_UDP, libc::UDP_SEGMENT, size as i32).expect("UDP_SEGMENT");
                sock::connect(&fd, SocketAddr::new(peer, PEER_PORT)).expect("connect");
                assert_eq!(sock::send(&fd, &vec![0x5a; 4 * size]).expect("send"), 4 * size);
            });
        };
        assert_eq!(icmp::ping(&s.a.ns, peer, 1, Duration::from_millis(200)), [1]);
        let before = s.a.drops("oversize");
        send(most);
        assert!(
            wait::eventually(|| receiver.served() == 4),
            "{peer} got {} of 4 that fill the link",
            receiver.served()
        );
        assert_eq!(s.a.drops("oversize"), before);
        send(most + 1);
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(receiver.served(), 4, "{peer} got what is a byte too large");
        assert!(s.a.drops("oversize") > before, "{peer}: {}", s.a.show()["drops"]);
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
