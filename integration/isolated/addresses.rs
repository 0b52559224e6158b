//! Addresses of others: no packet leaves under one, and no neighbour is told that one is here.

use super::{FAMILIES, Forgery, H4, H6, HOST_PORT, P4, P6, PEER_PORT, forge, scene};
use crate::lab::frame::{self, Mac, V4};
use crate::lab::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

/// What routers alone say, and questions that routers alone ask: in both families, from the host's address of the link or its
/// global one, as a router would send them.
#[test]
fn nobody_is_told_of_a_router() {
    let s = scene("iso-router");
    let link = s.host.ns.read("ip -6 -o addr show dev eth0 scope link");
    let link: Ipv6Addr = link.split_whitespace().nth(3).and_then(|t| t.split('/').next()).unwrap().parse().unwrap();
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let routers: Ipv6Addr = "ff02::2".parse().unwrap();
    let mut forgeries = Vec::new();
    let mut say = |what: &str, reason, from: Ipv6Addr, to: Ipv6Addr, kind: u8, body: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mac: Mac = match to.octets() {
            [0xff, .., a, b, c, d] => [0x33, 0x33, a, b, c, d],
            _ => s.peer_mac,
        };
        forgeries.push(forge(format!("{what} from {from} to {to}"), reason, |m| {
            let message = frame::icmp6(from, to, kind, 0, [64, 0, 7, 8], &body(m));
            frame::ethernet(mac, s.own, frame::IPV6, &frame::v6(from, to, frame::ICMP6, 255, &message))
        }));
    };
    for to in [all_nodes, P6] {
        // reachable and retransmit times, then an option with a prefix that holds the marker
        say("a router's advertisement", "neighbor", H6, to, 134, &|m| {
            [&[0; 8][..], &[3, 4, 64, 0xc0], &[0xff; 8], &[0; 4], m].concat()
        });
        say("a redirect", "neighbor", H6, to, 137, &|m| [&P6.octets()[..], &H6.octets(), m].concat());
        say("a question for groups", "neighbor", H6, to, 130, &|m| [&[0; 16][..], m].concat());
    }
    say("a question for routers", "neighbor", H6, routers, 133, &|m| m.to_vec());
    // containers have no address of the link, whatever the host's is
    for kind in [130, 133, 134, 136, 137] {
        say(&format!("type {kind}"), "source_address", link, all_nodes, kind, &|m| [&[0; 16][..], m].concat());
    }
    for (what, body) in
        [("a question for groups", vec![0x11, 100, 0, 0, 0, 0, 0, 0]), ("PIM's hello", vec![0x20, 0, 0, 0])]
    {
        let protocol = if body[0] == 0x11 { 2 } else { 103 };
        let reason = if protocol == 2 { "neighbor" } else { "protocol" };
        forgeries.push(forge(what, reason, |m| {
            let message = [&body[..], m].concat();
            let packet = V4 { ttl: 1, ..V4::new(H4, Ipv4Addr::new(224, 0, 0, 1), protocol, &message) };
            frame::ethernet([1, 0, 0x5e, 0, 0, 1], s.own, frame::IPV4, &packet.bytes())
        }));
    }
    s.all_dropped(forgeries);
}
