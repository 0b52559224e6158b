//! Promise: a packet that Linux takes, a container takes, however it is wrapped: as many extension headers of IPv6 as there can be,
//! also those that only the first of several fragments has, and a tag that is but a priority.

use crate::lab::frame;
use crate::lab::tap;
use crate::lab::*;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const SENDERS_PORT: u16 = 9_000;
const SETTLED: Duration = Duration::from_millis(150);
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
const H6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
const P6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

/// `count` headers of destination options that pad, then the payload; and the first one's number.
fn padded(count: usize, next: u8, payload: Vec<u8>) -> (u8, Vec<u8>) {
    (0..count).fold((next, payload), |(next, payload), _| {
        (DESTINATION_OPTIONS, [&[next, 0, 1, 4, 0, 0, 0, 0][..], &payload].concat())
    })
}

/// Sends frames on a device; how many datagrams the server behind them got.
fn served(echo: &Echo, ns: &Ns, device: &str, frames: &[Vec<u8>]) -> u64 {
    let before = echo.served();
    frames.iter().for_each(|frame| tap::inject(ns, device, frame));
    std::thread::sleep(SETTLED);
    echo.served() - before
}

#[test]
fn extension_headers_are_taken_both_ways() {
    let host = Host::new("whole-headers");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let (own, peer) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let at_a = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(probe::any(HOST6), a.ports[0]));
    let at_peer = Echo::start(&host.peer, Proto::Udp, SocketAddr::new(probe::any(PEER6), SENDERS_PORT));
    // the peer is a neighbour before it counts
    assert_eq!(icmp::ping(&a.ns, PEER6, 1, SETTLED), [1]);
    for count in [1, 2, 6, 7, 8] {
        let datagram = frame::udp((PEER6, SENDERS_PORT + 1), (HOST6, a.ports[0]), &frame::marker());
        let (next, payload) = padded(count, frame::UDP, datagram);
        let inward = frame::ethernet(own, peer, frame::IPV6, &frame::v6(P6, H6, next, 64, &payload));
        assert_eq!(served(&at_a, &host.peer, "wire", &[inward]), 1, "{count} headers, in");
        let datagram = frame::udp((HOST6, a.ports[1]), (PEER6, SENDERS_PORT), &frame::marker());
        let (next, payload) = padded(count, frame::UDP, datagram);
        let outward = frame::ethernet(own, own, frame::IPV6, &frame::v6(H6, P6, next, 64, &payload));
        assert_eq!(served(&at_peer, &a.ns, "eth0", &[outward]), 1, "{count} headers, out");
    }
    let datagram = frame::udp((HOST6, a.ports[1]), (PEER6, SENDERS_PORT), &frame::marker());
    let (next, payload) = padded(60, frame::UDP, datagram);
    let before = a.drops("malformed");
    tap::inject(&a.ns, "eth0", &frame::ethernet(own, own, frame::IPV6, &frame::v6(H6, P6, next, 64, &payload)));
    std::thread::sleep(SETTLED);
    assert_eq!(a.drops("malformed"), before + 1, "a chain that has no end in sight");
}

#[test]
fn headers_behind_the_fragment_header_do_not_part_the_fragments() {
    let host = Host::new("whole-fragments");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let (own, peer) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let at_a = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(probe::any(HOST6), a.ports[0]));
    let at_peer = Echo::start(&host.peer, Proto::Udp, SocketAddr::new(probe::any(PEER6), SENDERS_PORT));
    assert_eq!(icmp::ping(&a.ns, PEER6, 1, SETTLED), [1]);
    let halves = |from: (IpAddr, u16), to: (IpAddr, u16), macs: (frame::Mac, frame::Mac), id: u32| {
        let (next, payload) = padded(2, frame::UDP, frame::udp(from, to, &[frame::marker(), frame::marker()].concat()));
        let (IpAddr::V6(from), IpAddr::V6(to)) = (from.0, to.0) else { unreachable!() };
        let part = |offset: u16, more, bytes: &[u8]| {
            let packet = frame::v6(from, to, FRAGMENT, 64, &frame::v6_fragment(next, offset, more, id, bytes));
            frame::ethernet(macs.0, macs.1, frame::IPV6, &packet)
        };
        vec![part(0, true, &payload[..32]), part(32, false, &payload[32..])]
    };
    for id in 1..=5 {
        let inward = halves((PEER6, SENDERS_PORT + 1), (HOST6, a.ports[0]), (own, peer), id);
        assert_eq!(served(&at_a, &host.peer, "wire", &inward), 1, "in, datagram {id}");
        let outward = halves((HOST6, a.ports[1]), (PEER6, SENDERS_PORT), (own, own), id);
        assert_eq!(served(&at_peer, &a.ns, "eth0", &outward), 1, "out, datagram {id}");
    }
}

#[test]
fn a_priority_tag_does_not_keep_a_frame_from_its_container() {
    let host = Host::new("whole-priority");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let (own, peer) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    for (from, to) in [(PEER4, HOST4), (PEER6, HOST6)] {
        let at_a = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(probe::any(to), a.ports[0]));
        let tagged = |tag: u16| {
            let packet = frame::udp_packet((from, SENDERS_PORT), (to, a.ports[0]), &frame::marker());
            let inner = [&tag.to_be_bytes()[..], &frame::ethertype(to).to_be_bytes(), &packet].concat();
            frame::ethernet(own, peer, 0x8100, &inner)
        };
        assert_eq!(served(&at_a, &host.peer, "wire", &[tagged(0xe000)]), 1, "priority 7 of VLAN 0, from {from}");
        assert_eq!(served(&at_a, &host.peer, "wire", &[tagged(0xe001)]), 0, "VLAN 1, from {from}");
    }
}
