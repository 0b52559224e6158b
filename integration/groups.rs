//! Promise: what a container sends to a group, to everybody, or to an address of the link leaves as the host's own would: with
//! the MAC address that belongs to it, not with the gateway's. Who has joined a group hears it, wherever its sender is.

pub mod members;

use crate::lab::frame::{self, Mac};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const SETTLED: Duration = Duration::from_millis(100);

/// Sends a datagram from a socket of `ns`, which the kernel addresses itself.
fn say(ns: &Ns, from: SocketAddr, to: SocketAddr, marker: &[u8]) {
    ns.inside(|| {
        let fd = sock::socket(sock::family(to.ip()), libc::SOCK_DGRAM, 0).expect("socket");
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, 1i32).expect("SO_BROADCAST");
        sock::bind(&fd, from).expect("bind");
        let sent = sock::send_to(&fd, marker, to).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
        assert_eq!(sent, marker.len());
    });
}

/// The MAC addresses under which a datagram of A to `to` came to the peer.
fn seen(host: &Host, a: &Container, to: IpAddr) -> Vec<(Mac, Mac)> {
    let marker = frame::marker();
    let from = SocketAddr::new(if to.is_ipv4() { HOST4 } else { HOST6 }, a.ports[0]);
    let tap = Tap::on(&host.peer, "wire");
    say(&a.ns, from, SocketAddr::new(to, 1900), &marker);
    std::thread::sleep(SETTLED);
    let frames = tap.end();
    let mac = |bytes: &[u8]| bytes.try_into().expect("six bytes");
    let mine = frames.iter().filter(|frame| !frame.outgoing && frame::carries(&frame.bytes, &marker));
    mine.map(|frame| (mac(&frame.bytes[..6]), mac(&frame.bytes[6..12]))).collect()
}

/// Where a datagram goes, and the MAC address it has to have.
const GROUPS: [(&str, Mac); 5] = [
    ("239.255.255.250", [0x01, 0x00, 0x5e, 0x7f, 0xff, 0xfa]),
    ("224.0.0.251", [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb]),
    ("255.255.255.255", frame::BROADCAST),
    ("10.77.0.255", frame::BROADCAST),
    ("ff05::c", [0x33, 0x33, 0, 0, 0, 0x0c]),
];

fn reach_the_wire(host: &Host, a: &Container) {
    let own = tap::mac_of(&host.ns, "eth0");
    for (to, mac) in GROUPS {
        assert_eq!(seen(host, a, to.parse().unwrap()), [(mac, own)], "{to}");
    }
    assert_eq!(a.drops("unreachable"), 0, "{}", a.show()["drops"]);
}

#[test]
fn are_reached_by_their_own_mac_address() {
    let host = Host::new("groups");
    reach_the_wire(&host, &host.bare("a", &["--ports", "31000-31009"]));
}

#[test]
fn are_reached_through_a_limit() {
    let host = Host::new("groups-limit");
    reach_the_wire(&host, &host.bare("a", &["--ports", "31000-31009", "--egress-rate", "10mbit"]));
}

#[test]
fn are_reached_without_a_gateway() {
    let config = "ports = \"31000-31999\"\nuplink = \"eth0\"\n";
    let host = Host::with("groups-alone").config(config).unprepared().build();
    host.altered();
    host.ns.ip("route del default\nroute del ::/0");
    host.portslice(["setup"]).ok();
    reach_the_wire(&host, &host.bare("a", &["--ports", "31000-31009"]));
}

#[test]
fn an_address_of_the_link_is_a_neighbour_not_behind_the_gateway() {
    let host = Host::new("groups-link");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    host.peer.ip("addr add fe80::77/64 dev wire nodad");
    let (own, peer) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let marker = frame::marker();
    let tap = Tap::on(&host.peer, "wire");
    let packet = frame::udp_packet((HOST6, a.ports[0]), ("fe80::77".parse().unwrap(), 9), &marker);
    tap::inject(&a.ns, "eth0", &frame::ethernet(own, own, frame::IPV6, &packet));
    std::thread::sleep(SETTLED);
    let to =
        tap.end().iter().find(|frame| frame::carries(&frame.bytes, &marker)).map(|frame| frame.bytes[..6].to_vec());
    assert_eq!(to, Some(peer.to_vec()));
    // one that nobody has is asked for, and nobody else gets the packet
    let marker = frame::marker();
    let tap = Tap::on(&host.peer, "wire");
    let packet = frame::udp_packet((HOST6, a.ports[0]), ("fe80::99".parse().unwrap(), 9), &marker);
    tap::inject(&a.ns, "eth0", &frame::ethernet(own, own, frame::IPV6, &packet));
    std::thread::sleep(SETTLED);
    tap.assert_without("to an address of the link that nobody has", &marker);
}
