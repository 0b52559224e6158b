//! ICMP errors that a container sends are about packets that really were sent to it; and addresses of the other family.

use super::*;
use crate::lab::probe::assert_refused;

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
