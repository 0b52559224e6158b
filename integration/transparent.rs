//! Promise: nothing but ports tells a program that it shares the address: ICMP, fragments, big transfers, odd MTUs all work.

use crate::lab::icmp::{self, Icmp};
use crate::lab::probe::{BOTH, ask_with, assert_reaches, assert_refused};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_millis(300);
/// The families' (host, peer, loopback) addresses.
const FAMILIES: [(IpAddr, IpAddr, IpAddr); 2] = [(HOST4, PEER4, LO4), (HOST6, PEER6, LO6)];

struct Scene {
    host: Host,
    a: Container,
    b: Container,
}

fn scene_on(host: Host) -> Scene {
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    Scene { host, a, b }
}

fn scene(name: &str) -> Scene {
    scene_on(Host::new(name))
}

#[test]
fn the_host_answers_ping_and_arp_exactly_once() {
    let Scene { host, a: _a, b: _b } = scene("clear-once");
    for (address, ..) in FAMILIES {
        assert_eq!(icmp::ping(&host.peer, address, 5, WINDOW), [1; 5], "P pings {address}: replies to each of 5");
    }
    let (own, target) = ("10.77.0.1".parse().unwrap(), "10.77.0.2".parse().unwrap());
    for round in 0..3 {
        assert_eq!(tap::arp_replies(&host.peer, "wire", own, target, WINDOW), 1, "ARP replies, round {round}");
    }
}

#[test]
fn a_container_pings_the_peer_the_host_and_itself() {
    let Scene { host: _host, a, b } = scene("clear-ping");
    for (address, peer, loopback) in FAMILIES {
        for to in [peer, address, loopback] {
            let id = icmp::fresh_id();
            let at_b = Icmp::open(&b.ns, to);
            assert_eq!(icmp::ping_with(&a.ns, to, id, 5, WINDOW), [1; 5], "A pings {to}: replies to each of 5");
            let strays = at_b.replies(id, Duration::from_millis(50));
            assert!(strays.is_empty(), "B heard {} of A's replies from {to}", strays.len());
        }
    }
}

#[test]
fn the_host_pings_its_own_addresses_as_before() {
    let Scene { host, a: _a, b: _b } = scene("clear-host-ping");
    for (address, peer, loopback) in FAMILIES {
        for to in [address, peer, loopback] {
            assert_eq!(icmp::ping(&host.ns, to, 3, WINDOW), [1; 3], "H pings {to}");
        }
    }
}

#[test]
fn two_containers_with_one_echo_id_hear_the_answers_to_both() {
    let Scene { host: _host, a, b } = scene("clear-echo-id");
    for (_, peer, _) in FAMILIES {
        let id = icmp::fresh_id();
        let (at_a, at_b) = (Icmp::open(&a.ns, peer), Icmp::open(&b.ns, peer));
        // who has not asked yet hears nothing
        for first in [&at_a, &at_b] {
            first.request(peer, id, 99, b"first").expect("the first request");
        }
        for sequence in 0..20 {
            at_a.request(peer, id, sequence, b"this is A's own payload").expect("A's request");
            at_b.request(peer, id, sequence, b"this is B's own payload").expect("B's request");
        }
        let (for_a, for_b) = (at_a.replies(id, WINDOW), at_b.replies(id, WINDOW));
        let whose = |all: &[icmp::Message], word: &[u8]| all.iter().filter(|m| frame::carries(&m.bytes, word)).count();
        for (who, all) in [("A", &for_a), ("B", &for_b)] {
            for word in ["A's own", "B's own"] {
                assert_eq!(whose(all, word.as_bytes()), 20, "{peer}: replies that {who} got, with {word}");
            }
        }
    }
}

#[test]
fn a_port_unreachable_reaches_the_one_concerned() {
    let Scene { host, a, b } = scene("clear-unreachable");
    for (_, peer, _) in FAMILIES {
        let others = [("B", Icmp::open(&b.ns, peer)), ("H", Icmp::open(&host.ns, peer))];
        let (tried, took) = ask(&a.ns, Proto::Udp, SocketAddr::new(peer, 9));
        assert_eq!(tried, Tried::Refused, "A asks a closed UDP port of {peer} (after {took:?})");
        let unreachable = if peer.is_ipv4() { (3, 3) } else { (1, 4) };
        for (who, at) in others {
            let strays = at.during(Duration::from_millis(50), |m| m.kind() == unreachable);
            assert!(strays.is_empty(), "{who} heard of A's closed port at {peer}");
        }
    }
}

/// A UDP socket that may not be fragmented, connected to `to`.
fn df_socket(ns: &Ns, to: SocketAddr) -> OwnedFd {
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, to.ip()).expect("socket");
        let (level, option) = if to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
        };
        sock::set(&fd, level, option, libc::IP_PMTUDISC_DO).expect("DF");
        sock::connect(&fd, to).expect("connect");
        fd
    })
}

#[test]
fn a_narrow_hop_is_discovered_by_the_one_that_crosses_it() {
    let Scene { host, a, b } = scene_on(Host::with("clear-pmtu").narrow(1300).build());
    for to in [REMOTE4, REMOTE6] {
        let too_big = if to.is_ipv4() { (3, 4) } else { (2, 0) };
        let target = SocketAddr::new(to, 9999);
        let _sink = Echo::start(host.remote(), Proto::Udp, target);
        let (at_a, at_b, at_host) = (Icmp::open(&a.ns, to), Icmp::open(&b.ns, to), Icmp::open(&host.ns, to));

        let fd = df_socket(&a.ns, target);
        let start = Instant::now();
        let told = loop {
            match sock::send(&fd, &[7; 1400]) {
                Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => break true,
                _ if start.elapsed() > probe::PATIENCE => break false,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let heard = at_a.during(Duration::from_millis(50), |m| m.kind() == too_big).len();
        assert!(heard > 0, "A heard no packet-too-big about its UDP to {to}");
        assert!(told, "A heard {heard} packet-too-big about its UDP to {to}, but its socket never said EMSGSIZE");
        for (who, at) in [("B", &at_b), ("H", &at_host)] {
            assert!(
                at.during(Duration::from_millis(50), |m| m.kind() == too_big).is_empty(),
                "{who} heard A's packet-too-big ({to})"
            );
        }
        let first = sock::send(&df_socket(&b.ns, target), &[7; 1400]);
        assert!(first.is_ok(), "B never met the narrow hop to {to}, yet: {first:?}");

        bulk::transfer(&b.ns, host.remote(), SocketAddr::new(to, 5001), 16 << 20, Duration::from_secs(10));
        bulk::transfer(&a.ns, host.remote(), SocketAddr::new(to, 5002), 16 << 20, Duration::from_secs(10));
        let inward = SocketAddr::new(if to.is_ipv4() { HOST4 } else { HOST6 }, a.ports[0]);
        bulk::transfer(host.remote(), &a.ns, inward, 16 << 20, Duration::from_secs(10));
    }
}

/// Asks with datagrams of this size along every path that could fragment or must not.
fn large_datagrams(Scene { host, a, b }: &Scene, size: usize) {
    for (address, peer, loopback) in FAMILIES {
        let rows = [
            ("P->A", &host.peer, &a.ns, address, a.ports[0]),
            ("A->P", &a.ns, &host.peer, peer, 20_000),
            ("A->B by address", &a.ns, &b.ns, address, b.ports[0]),
            ("A->B by loopback", &a.ns, &b.ns, loopback, b.ports[0]),
            ("H->A by loopback", &host.ns, &a.ns, loopback, a.ports[0]),
            ("A->H by loopback", &a.ns, &host.ns, loopback, 20_000),
            ("A->A", &a.ns, &a.ns, loopback, a.ports[0]),
            ("H->P", &host.ns, &host.peer, peer, 20_000),
            ("P->H", &host.peer, &host.ns, address, 20_000),
        ];
        for (path, client, server, to, port) in rows {
            let _echo = Echo::start(server, Proto::Udp, SocketAddr::new(probe::any(to), port));
            for round in 0..5 {
                let (tried, took) =
                    ask_with(client, Proto::Udp, None, SocketAddr::new(to, port), size, probe::PATIENCE);
                assert!(tried.is_ok(), "{path}: {size} bytes by UDP to {to}, round {round}: {tried:?} after {took:?}");
            }
        }
    }
}

#[test]
fn datagrams_larger_than_the_mtu_pass_both_ways() {
    let scene = scene("clear-fragments");
    large_datagrams(&scene, 8_000);
    large_datagrams(&scene, 60_000);
}

#[test]
fn three_containers_fragment_at_once() {
    let Scene { host, a, b } = scene("clear-fragments-3");
    let c = host.bare("c", &["--ports", "31020"]);
    for (address, peer, _) in FAMILIES {
        let _sink = Echo::start(&host.peer, Proto::Udp, SocketAddr::new(probe::any(peer), 20_000));
        let _inner: Vec<Echo> = [&a, &b, &c]
            .map(|x| Echo::start(&x.ns, Proto::Udp, SocketAddr::new(probe::any(address), x.ports[0])))
            .into();
        let lost: Vec<String> = std::thread::scope(|s| {
            let ways = [&a, &b, &c].into_iter().flat_map(|x| {
                let (outward, inward) = (SocketAddr::new(peer, 20_000), SocketAddr::new(address, x.ports[0]));
                [("out", &x.ns, outward), ("in", &host.peer, inward)]
            });
            let workers: Vec<_> = ways.map(|(way, ns, to)| s.spawn(move || many(way, ns, to))).collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let drops: Vec<String> = [&a, &b, &c].map(|x| format!("{}: {}", x.id, x.drops("fragment"))).into();
        assert!(lost.is_empty(), "of 20 each:\n  {}\ndropped as fragment: {}", lost.join("\n  "), drops.join(", "));
    }
}

/// Twenty large questions, one after the other; says which went unanswered.
fn many(way: &str, ns: &Ns, to: SocketAddr) -> Vec<String> {
    let ask = |round| {
        let (tried, took) = ask_with(ns, Proto::Udp, None, to, 8_000, probe::PATIENCE);
        (!tried.is_ok()).then(|| format!("{way} from {} to {to}, round {round}: {tried:?} after {took:?}", ns.name))
    };
    (0..20).filter_map(ask).collect()
}

/// Four CPUs may each be in the middle of a datagram: every later fragment must find its first one.
#[test]
fn datagrams_sent_at_once_keep_all_their_fragments() {
    let Scene { host, a, b: _b } = scene("clear-interleaved");
    let (own, to) = (tap::mac_of(&a.ns, "eth0"), tap::mac_of(&host.ns, "eth0"));
    let (from4, from6, to4, to6) = match (HOST4, HOST6, PEER4, PEER6) {
        (IpAddr::V4(f4), IpAddr::V6(f6), IpAddr::V4(t4), IpAddr::V6(t6)) => (f4, f6, t4, t6),
        _ => unreachable!(),
    };
    let part = |v6: bool, id: u16, first: bool, payload: &[u8]| {
        let (flags, offset) = if first { (0x2000, 0) } else { (3, 24) };
        let packet = if v6 {
            frame::v6(from6, to6, 44, 64, &frame::v6_fragment(frame::UDP, offset, first, u32::from(id) << 8, payload))
        } else {
            frame::V4 { id, fragment: flags, ..frame::V4::new(from4, to4, frame::UDP, payload) }.bytes()
        };
        frame::ethernet(to, own, if v6 { frame::IPV6 } else { frame::IPV4 }, &packet)
    };
    for (v6, peer, address) in [(false, PEER4, HOST4), (true, PEER6, HOST6)] {
        assert_eq!(icmp::ping(&a.ns, peer, 1, WINDOW), [1], "{peer} is resolved");
        let tap = Tap::on(&host.peer, "wire");
        let mut sent = Vec::new();
        for round in 0..10 {
            let four: Vec<_> = (0..4).map(|n| (round * 4 + n + 1, frame::marker(), frame::marker())).collect();
            for (id, first, _) in &four {
                let datagram = frame::udp((address, *a.block.start()), (peer, 9), first);
                tap::inject(&a.ns, "eth0", &part(v6, *id, true, &datagram));
            }
            for (id, _, later) in &four {
                tap::inject(&a.ns, "eth0", &part(v6, *id, false, later));
            }
            sent.extend(four);
        }
        std::thread::sleep(Duration::from_millis(50));
        let seen = tap.end();
        let arrived = |m: &[u8]| seen.iter().any(|s| !s.outgoing && frame::carries(&s.bytes, m));
        let (firsts, laters) =
            (sent.iter().filter(|s| arrived(&s.1)).count(), sent.iter().filter(|s| arrived(&s.2)).count());
        assert_eq!(
            (firsts, laters),
            (40, 40),
            "(first, later) fragments of 40 datagrams, 4 at a time, that reached {peer}"
        );
    }
}

#[test]
fn a_jumbo_uplink_is_used_whole() {
    let scene = scene_on(Host::with("clear-jumbo").mtu(9000).build());
    let tap = Tap::on(&scene.host.peer, "wire");
    for (address, peer, _) in FAMILIES {
        let _sink = Echo::start(&scene.host.peer, Proto::Udp, SocketAddr::new(probe::any(peer), 20_001));
        let (tried, _) = ask_with(&scene.a.ns, Proto::Udp, None, SocketAddr::new(peer, 20_001), 8_000, probe::PATIENCE);
        assert!(tried.is_ok(), "8000 bytes to {peer} over MTU 9000: {tried:?}");
        bulk::transfer(&scene.a.ns, &scene.host.peer, SocketAddr::new(peer, 5001), 16 << 20, Duration::from_secs(10));
        bulk::transfer(
            &scene.host.peer,
            &scene.a.ns,
            SocketAddr::new(address, 31_000),
            16 << 20,
            Duration::from_secs(10),
        );
    }
    let frames = tap.end();
    let whole = frames.iter().filter(|f| !f.outgoing && is_udp(&f.bytes) && f.bytes.len() > 8_000).count();
    assert_eq!(whole, 2, "8000 bytes should leave in one frame, once for each family");
    large_datagrams(&scene, 20_000);
}

fn is_udp(frame: &[u8]) -> bool {
    match u16::from_be_bytes([frame[12], frame[13]]) {
        frame::IPV4 => frame[23] == frame::UDP,
        frame::IPV6 => frame[20] == frame::UDP,
        _ => false,
    }
}

#[test]
fn names_are_resolved_over_udp() {
    let Scene { host, a, b: _b } = scene("clear-dns");
    for (_, peer, _) in FAMILIES {
        let _server = dns::Server::start(&host.peer, peer);
        assert_eq!(dns::resolve(&a.ns, peer).expect("A's query"), dns::ANSWER, "by {peer}");
        assert_eq!(dns::resolve(&host.ns, peer).expect("H's query"), dns::ANSWER, "by {peer}");
    }
}

#[test]
fn a_gigabyte_arrives_unchanged_each_way() {
    let Scene { host, a, b } = scene("clear-gigabyte");
    let minute = Duration::from_secs(60);
    bulk::transfer(&a.ns, &host.peer, SocketAddr::new(PEER4, 5001), 1 << 30, minute);
    bulk::transfer(&host.peer, &a.ns, SocketAddr::new(HOST4, a.ports[0]), 1 << 30, minute);
    for (address, peer, loopback) in FAMILIES {
        let some = 64 << 20;
        bulk::transfer(&a.ns, &host.peer, SocketAddr::new(peer, 5002), some, minute);
        bulk::transfer(&host.peer, &a.ns, SocketAddr::new(address, a.ports[1]), some, minute);
        for to in [address, loopback] {
            bulk::transfer(&a.ns, &b.ns, SocketAddr::new(to, b.ports[1]), some, minute);
            bulk::transfer(&a.ns, &host.ns, SocketAddr::new(to, 5003), some, minute);
            bulk::transfer(&host.ns, &a.ns, SocketAddr::new(to, a.ports[2]), some, minute);
            bulk::transfer(&a.ns, &a.ns, SocketAddr::new(to, a.ports[3]), some, minute);
        }
    }
}

#[test]
fn existing_sockets_of_the_host_do_not_notice_twenty_containers() {
    let host = Host::with("clear-existing").unprepared().build();
    let at_peer = Echo::start(&host.peer, Proto::Tcp, SocketAddr::new(PEER4, 20_000));
    let at_host = Echo::start(&host.ns, Proto::Tcp, SocketAddr::new(HOST4, 20_000));
    let at_host_lo = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(LO4, 20_000));
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let talks = [(&host.ns, at_peer.at), (&host.peer, at_host.at), (&host.ns, at_host.at)];
        let stop = &stop;
        let workers = talks.map(|(ns, to)| s.spawn(move || converse(ns, to, stop)));
        let asking = s.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) {
                for (ns, proto, to) in [(&host.peer, Proto::Tcp, at_host.at), (&host.ns, Proto::Udp, at_host_lo.at)] {
                    let (tried, took) = ask(ns, proto, to);
                    assert!(tried.is_ok(), "{proto:?} from {} to {to}: {tried:?} after {took:?}", ns.name);
                }
                rounds += 1;
            }
            rounds
        });
        let coming_and_going = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            host.portslice(["setup"]).ok();
            for round in 0..2 {
                let all: Vec<Container> =
                    (0..10).map(|n| host.bare(&format!("c{round}-{n}"), &["--ports", "auto:2"])).collect();
                all.iter().step_by(2).for_each(|c| drop(c.detach()));
                drop(all);
                host.portslice(["gc"]).ok();
            }
        }));
        stop.store(true, Ordering::SeqCst);
        for (worker, (ns, to)) in workers.into_iter().zip(talks) {
            let what = format!("the conversation from {} to {to}", ns.name);
            let (rounds, slowest) = worker.join().unwrap().unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(rounds > 10, "{what}: only {rounds} rounds");
            assert!(slowest < Duration::from_millis(700), "{what}: one answer took {slowest:?}");
        }
        assert!(asking.join().expect("asking the host's listeners") > 5);
        coming_and_going.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// One connection, one question after another until told to stop: how many rounds, and the slowest.
fn converse(ns: &Ns, to: SocketAddr, stop: &AtomicBool) -> Result<(u32, Duration), String> {
    let fd = ns.inside(|| {
        let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
        sock::limit(&fd, Duration::from_secs(3));
        sock::connect(&fd, to).map(|()| fd)
    });
    let fd = fd.map_err(|e| format!("connect: {e}"))?;
    let mut buffer = [0; 4096];
    sock::recv(&fd, &mut buffer).map_err(|e| format!("greeting: {e}"))?;
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::SeqCst) {
        let start = Instant::now();
        sock::send_all(&fd, b"still there?").map_err(|e| format!("round {rounds}: {e}"))?;
        match sock::recv(&fd, &mut buffer) {
            Ok(n) if &buffer[..n] == b"still there?" => {}
            other => return Err(format!("round {rounds}: {other:?}")),
        }
        (rounds, slowest) = (rounds + 1, slowest.max(start.elapsed()));
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((rounds, slowest))
}

#[test]
fn a_secondary_address_of_the_uplink_works_both_ways() {
    let Scene { host, a, b } =
        scene_on(Host::with("clear-secondary").secondary("10.77.0.3/24").secondary("fd77::3/64").build());
    let second4: IpAddr = "10.77.0.3".parse().unwrap();
    let second6: IpAddr = "fd77::3".parse().unwrap();
    for (second, peer) in [(second4, PEER4), (second6, PEER6)] {
        for proto in BOTH {
            let (at_a, at_b) = (SocketAddr::new(second, a.ports[0]), SocketAddr::new(second, b.ports[0]));
            let _a = Echo::start(&a.ns, proto, at_a);
            let _b = Echo::start(&b.ns, proto, at_b);
            for (what, client, to) in
                [("P->A", &host.peer, at_a), ("H->A", &host.ns, at_a), ("A->B", &a.ns, at_b), ("A->A", &a.ns, at_a)]
            {
                assert_reaches(&format!("{what} by the secondary address"), client, proto, to);
            }
            let sink = Echo::start(&host.peer, proto, SocketAddr::new(peer, 20_000));
            let from = SocketAddr::new(second, *a.block.start());
            match ask_from(&a.ns, proto, from, sink.at) {
                (Tried::Ok { peer_seen, .. }, _) => assert_eq!(peer_seen, from, "{proto:?}: the source P saw"),
                other => panic!("A->P from {from} by {proto:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn rarer_transports_work_where_the_kernel_has_them() {
    let Scene { host, a, b } = scene("clear-rare");
    for proto in [Proto::UdpLite, Proto::Sctp] {
        for (address, peer, loopback) in FAMILIES {
            if !proto.available(address) {
                println!("skipped {proto:?} to {address}: this kernel has no such socket");
                continue;
            }
            let rows = [
                ("P->A", &host.peer, &a.ns, address, a.ports[0]),
                ("A->P", &a.ns, &host.peer, peer, 20_000),
                ("A->B by address", &a.ns, &b.ns, address, b.ports[0]),
                ("H->A by loopback", &host.ns, &a.ns, loopback, a.ports[0]),
                ("A->H by loopback", &a.ns, &host.ns, loopback, 20_000),
                ("A->A by loopback", &a.ns, &a.ns, loopback, a.ports[0]),
            ];
            for (path, client, server, to, port) in rows {
                let _echo = Echo::start(server, proto, SocketAddr::new(probe::any(to), port));
                assert_reaches(path, client, proto, SocketAddr::new(to, port));
            }
            for (path, client, port) in
                [("P->A", &host.peer, a.ports[1]), ("P->H", &host.peer, 20_000), ("A->B", &a.ns, b.ports[1])]
            {
                assert_refused(&format!("{path} where nobody listens"), client, proto, SocketAddr::new(address, port));
            }
            // from a port of another's, nothing gets out
            let (sink, before) =
                (Echo::start(&host.peer, proto, SocketAddr::new(peer, 20_001)), a.drops("source_port"));
            let (tried, _) = ask_from(&a.ns, proto, SocketAddr::new(address, b.ports[0]), sink.at);
            assert!(!tried.is_ok() && sink.served() == 0, "{proto:?} from B's port: {tried:?}");
            assert!(a.drops("source_port") > before, "{proto:?} from B's port is not counted");
        }
    }
}
