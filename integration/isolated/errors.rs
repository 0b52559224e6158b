//! ICMP errors that a container sends are about packets that really were sent to it; and addresses of the other family.

use super::*;
use crate::lab::probe::assert_refused;

/// Type, code, and the four bytes after the checksum.
type Message = (u8, u8, [u8; 4]);
/// Source and destination of a packet that an error quotes.
type Quoted = ((IpAddr, u16), (IpAddr, u16));

/// An ICMP error as a packet: outer addresses, message, and the UDP packet that it quotes.
fn error_packet(
    (from, to): (IpAddr, IpAddr),
    (kind, code, rest): Message,
    (source, target): Quoted,
    marker: &[u8],
) -> Vec<u8> {
    let quoted = frame::udp_packet(source, target, marker);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            V4::new(from, to, frame::ICMP, &frame::icmp4(kind, code, rest, &quoted)).bytes()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame::v6(from, to, frame::ICMP6, 64, &frame::icmp6(from, to, kind, code, rest, &quoted))
        }
        _ => unreachable!(),
    }
}

/// The same as a frame of A's own kernel.
fn icmp_error(s: &Scene, outer: (IpAddr, IpAddr), message: Message, quoted: Quoted, marker: &[u8]) -> Vec<u8> {
    s.addressed(frame::ethertype(outer.0), &error_packet(outer, message, quoted, marker))
}

/// A port of the host that a forged error says something about.
const HURT_PORT: u16 = 8_099;

/// Errors about packets that were not sent to A, or not from where they say: what each is, its outer addresses, message, quoted packet.
fn errors_about_others(s: &Scene) -> Vec<(String, (IpAddr, IpAddr), Message, Quoted)> {
    let (own, b_port) = (s.a.ports[0], s.b.ports[5]);
    let mut errors = Vec::new();
    for (host, peer, loopback, far, unreachable, too_big) in [
        (HOST4, PEER4, LO4, FAR4, (3, 3, [0; 4]), (3, 4, [0, 0, 2, 88])),
        // the least that counts in IPv6
        (HOST6, PEER6, LO6, FAR6, (1, 4, [0; 4]), (2, 0, [0, 0, 5, 0])),
    ] {
        let mut add = |what: &str, outer, message, quoted| {
            errors.push((format!("{what}, {host}"), outer, message, quoted));
        };
        let (hosts, others) = ((host, HURT_PORT), (host, b_port));
        add("too big on loopback", (loopback, loopback), too_big, ((loopback, HURT_PORT), (loopback, own)));
        add("too big on B's loopback", (loopback, loopback), too_big, ((loopback, b_port), (loopback, own)));
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
    errors
}

/// What the host and B believe of their paths, who has a socket for each port that a forged error is about.
struct Believed<'s> {
    s: &'s Scene,
    _hurt: Vec<Echo>,
}

impl Believed<'_> {
    fn by(s: &Scene) -> Believed<'_> {
        let served = |ns, at, port| Echo::start(ns, Proto::Udp, SocketAddr::new(probe::any(at), port));
        let hurt = [HOST4, HOST6]
            .into_iter()
            .flat_map(|at| [served(&s.host.ns, at, HURT_PORT), served(&s.b.ns, at, s.b.ports[5])])
            .collect();
        Believed { s, _hurt: hurt }
    }

    /// The path MTU from the host and from B to all that the errors are about, and whether connections to A have large segments.
    fn now(&self) -> Vec<(String, i32)> {
        let s = self.s;
        let mut all = Vec::new();
        for (who, ns) in [("H", &s.host.ns), ("B", &s.b.ns)] {
            for (host, loopback, far) in [(HOST4, LO4, FAR4), (HOST6, LO6, FAR6)] {
                for to in [loopback, host, far] {
                    all.push((format!("{who}: path MTU to {to}"), mtu_to(ns, SocketAddr::new(to, s.a.ports[0]))));
                }
                for to in [loopback, host] {
                    let to = SocketAddr::new(to, s.a.ports[0]);
                    let echo = Echo::start(&s.a.ns, Proto::Tcp, to);
                    let size = ns.inside(|| {
                        let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
                        sock::limit(&fd, probe::PATIENCE);
                        sock::connect(&fd, to).unwrap_or_else(|e| panic!("{who} to {to}: {e}"));
                        sock::get(&fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG).expect("TCP_MAXSEG")
                    });
                    // half of what the other end has room for, less or more by an option
                    all.push((format!("{who}: segments to {to} are large"), i32::from(size > 32_000)));
                    drop(echo);
                }
            }
        }
        all
    }
}

/// The path MTU that a namespace knows to an address.
fn mtu_to(ns: &Ns, to: SocketAddr) -> i32 {
    let (level, option) =
        if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, to.ip()).expect("socket");
        sock::connect(&fd, to).unwrap_or_else(|e| panic!("{}: to {to}: {e}", ns.name));
        sock::get(&fd, level, option).expect("path MTU")
    })
}

#[test]
fn an_icmp_error_is_about_a_packet_that_really_was_sent_to_the_container() {
    let s = scene("iso-icmp-quoted");
    let believed = Believed::by(&s);
    let before = believed.now();
    let forgeries = errors_about_others(&s)
        .into_iter()
        .map(|(what, outer, message, quoted)| forge(what, "icmp", |m| icmp_error(&s, outer, message, quoted, m)));
    s.all_dropped(forgeries.collect());
    assert_eq!(believed.now(), before);
}

#[test]
fn nor_does_one_that_leaves_by_the_loopback_device_change_anybodys_paths() {
    let s = scene("iso-icmp-lo");
    let believed = Believed::by(&s);
    let before = believed.now();
    let on_lo = |packet: &[u8], like: IpAddr| frame::ethernet([0; 6], [0; 6], frame::ethertype(like), packet);
    let forgeries = errors_about_others(&s).into_iter().map(|(what, outer, message, quoted)| {
        forge(what, "icmp", |m| on_lo(&error_packet(outer, message, quoted, m), outer.0))
    });
    s.all_dropped_on("lo", forgeries.collect());
    assert_eq!(believed.now(), before);
    // the same of the host's own root does change the host's: what is believed would have shown it
    for (what, outer, message, quoted) in errors_about_others(&s) {
        if what.starts_with("too big on loopback") {
            let error = error_packet(outer, message, quoted, &frame::marker());
            tap::inject(&s.host.ns, "lo", &on_lo(&error, outer.0));
            let to = SocketAddr::new(outer.0, s.a.ports[0]);
            let lower = || mtu_to(&s.host.ns, to) < 65_536;
            assert!(wait::eventually(lower), "{what}: the host's own error did not count: {}", mtu_to(&s.host.ns, to));
        }
    }
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
