//! Promise: a later fragment goes where the first fragment of its own datagram went, whatever datagram had the same
//! addresses and id before.

use crate::lab::frame::{self, Mac, V4};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A port of the host itself, outside of every pool.
const HOST_PORT: u16 = 20_000;
const SENDERS_PORT: u16 = 9_000;
/// Bytes of a datagram that its first fragment carries: ports and a marker.
const FIRST: usize = 24;
const SETTLED: Duration = Duration::from_millis(150);
/// A first fragment is remembered at least so long.
const REMEMBERED: Duration = Duration::from_secs(5);
/// A first fragment is forgotten by then.
const FORGOTTEN: Duration = Duration::from_secs(6);

/// A datagram in fragments that begin at these offsets, as Ethernet frames.
fn pieces(
    (to_mac, from_mac): (Mac, Mac),
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    id: u16,
    parts: (&[u8], &[usize]),
) -> Vec<Vec<u8>> {
    let framed = |packet: Vec<u8>| frame::ethernet(to_mac, from_mac, frame::ethertype(to.0), &packet);
    frame::udp_fragments(from, to, id, parts).into_iter().map(framed).collect()
}

/// The same in two.
fn halves(macs: (Mac, Mac), from: (IpAddr, u16), to: (IpAddr, u16), id: u16, marks: [&[u8]; 2]) -> [Vec<u8>; 2] {
    pieces(macs, from, to, id, (&marks.concat(), &[0, FIRST])).try_into().expect("two")
}

/// Sends each of fifty ids twice on a device, to the container and then to the host; how many of each arrived.
fn with_one_id(
    host: &Host,
    a: &Container,
    (ns, device): (&Ns, &str),
    macs: (Mac, Mac),
    from: IpAddr,
    to: IpAddr,
) -> (u64, u64) {
    let at_host = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(to), HOST_PORT));
    let at_a = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(probe::any(to), a.ports[0]));
    for id in 1..=50 {
        for port in [a.ports[0], HOST_PORT] {
            let marks = [frame::marker(), frame::marker()];
            for half in halves(macs, (from, SENDERS_PORT), (to, port), id, [&marks[0], &marks[1]]) {
                tap::inject(ns, device, &half);
            }
        }
    }
    std::thread::sleep(SETTLED);
    (at_a.served(), at_host.served())
}

#[test]
fn the_host_gets_its_datagrams_whoever_had_their_ids_before() {
    let host = Host::new("frag-ids");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    for (from, to) in [(PEER4, HOST4), (PEER6, HOST6)] {
        let got = with_one_id(&host, &a, (&host.peer, "wire"), macs, from, to);
        assert_eq!(got, (50, 50), "(A, H) got of 50 each, from {from} by the wire");
    }
    for loopback in [LO4, LO6] {
        let got = with_one_id(&host, &a, (&host.ns, "lo"), ([0; 6], [0; 6]), loopback, loopback);
        assert_eq!(got, (50, 50), "(A, H) got of 50 each, from the host by {loopback}");
    }
}

#[test]
fn what_a_container_sends_follows_its_newest_first_fragment() {
    let host = Host::new("frag-newest");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&a.ns, "eth0"));
    for address in [HOST4, HOST6] {
        let at_host = Echo::start(&host.ns, Proto::Udp, SocketAddr::new(probe::any(address), HOST_PORT));
        for id in 1..=5 {
            for (port, whole) in [(b.ports[0], false), (HOST_PORT, true)] {
                let marks = [frame::marker(), frame::marker()];
                let both = halves(macs, (address, a.ports[1]), (address, port), id, [&marks[0], &marks[1]]);
                both.iter().take(1 + usize::from(whole)).for_each(|half| tap::inject(&a.ns, "eth0", half));
            }
        }
        std::thread::sleep(SETTLED);
        assert_eq!(at_host.served(), 5, "H got of 5 from A at {address}");
    }
}

#[test]
fn a_first_fragment_is_forgotten_after_seconds() {
    let host = Host::new("frag-age");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let (own, uplink, peer) =
        (tap::mac_of(&a.ns, "eth0"), tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let mut rests = Vec::new();
    for (there, here) in [(PEER4, HOST4), (PEER6, HOST6)] {
        // resolved before it counts
        assert_eq!(icmp::ping(&a.ns, there, 1, SETTLED), [1]);
        let mut send = |ns, device, both: [Vec<u8>; 2], mark: [u8; 16]| {
            let [first, later] = both;
            tap::inject(ns, device, &first);
            rests.push((ns, device, later, mark));
        };
        let (head, tail) = (frame::marker(), frame::marker());
        let inward = halves((uplink, peer), (there, SENDERS_PORT), (here, a.ports[0]), 7, [&head, &tail]);
        send(&host.peer, "wire", inward, tail);
        let tail = frame::marker();
        let outward = halves((uplink, own), (here, a.ports[0]), (there, SENDERS_PORT), 7, [&head, &tail]);
        send(&a.ns, "eth0", outward, tail);
    }
    let taps = [("A", Tap::on(&a.ns, "eth0")), ("P", Tap::on(&host.peer, "wire"))];
    let before = a.drops("fragment");
    std::thread::sleep(FORGOTTEN);
    rests.iter().for_each(|(ns, device, later, _)| tap::inject(ns, device, later));
    std::thread::sleep(SETTLED);
    for (who, tap) in taps {
        let seen = tap.end();
        for (_, _, _, mark) in &rests {
            let count = seen.iter().filter(|s| !s.outgoing && frame::carries(&s.bytes, mark)).count();
            assert_eq!(count, 0, "{who} got a fragment {FORGOTTEN:?} after its first one");
        }
    }
    assert_eq!(a.drops("fragment"), before + 2, "A's own late ones: {}", a.show()["drops"]);
}

#[test]
fn later_fragments_that_come_before_their_first_one_are_kept_for_it() {
    let host = Host::new("frag-order");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let limited = host.bare("limited", &["--ports", "31010-31019", "--ingress-rate", "100mbit"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let served = |ns, to, port| Echo::start(ns, Proto::Udp, SocketAddr::new(probe::any(to), port));
    for (from, to) in [(PEER4, HOST4), (PEER6, HOST6)] {
        let receivers = [
            (served(&a.ns, to, a.ports[0]), a.ports[0]),
            (served(&limited.ns, to, limited.ports[0]), limited.ports[0]),
            (served(&host.ns, to, HOST_PORT), HOST_PORT),
        ];
        let tap = Tap::on(&host.peer, "wire");
        let mut sent = Vec::new();
        for (n, (_, port)) in receivers.iter().enumerate() {
            for id in 1..=12 {
                // of different lengths, the first the shortest or the longest; the last datagrams in pieces of one frame each
                let (unit, parts) = ([64, 1400][usize::from(id % 2 == 0)], 2 + usize::from(id) % 3);
                let payload: Vec<u8> =
                    std::iter::repeat_with(frame::marker).take(unit * parts / 16).flatten().collect();
                let starts: Vec<usize> = (0..parts).map(|n| n * unit).collect();
                let datagram = id + 100 * n as u16;
                let pieces = pieces(macs, (from, SENDERS_PORT), (to, *port), datagram, (&payload, &starts));
                pieces.iter().rev().for_each(|piece| tap::inject(&host.peer, "wire", piece));
                sent.push(payload);
            }
        }
        std::thread::sleep(SETTLED);
        let got: Vec<u64> = receivers.iter().map(|(echo, _)| echo.served()).collect();
        assert_eq!(got, [12, 12, 12], "(A, with a limit, the host) got of 12 datagrams each from {from}");
        let answers: Vec<u8> = tap.end().into_iter().filter(|s| !s.outgoing).flat_map(|s| s.bytes).collect();
        // each datagram comes back as it was sent: its first and its last bytes, whatever was cut in between
        let whole = |payload: &Vec<u8>| {
            [&payload[..16], &payload[payload.len() - 16..]].iter().all(|part| frame::carries(&answers, part))
        };
        assert_eq!(sent.iter().filter(|payload| whole(payload)).count(), sent.len(), "answers to {from}");
    }
    assert_eq!(a.drops("fragment"), 0);
}

/// First fragments that nothing follows, and datagrams whose last part is one that no receiver takes.
#[test]
fn what_a_container_leaves_unfinished_takes_nobodys_place() {
    let host = Host::new("frag-flood");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&a.ns, "eth0"));
    let part = vec![0; 1400];
    for (to, port) in [(HOST4, HOST_PORT), (PEER4, HOST_PORT), (HOST4, b.ports[0])] {
        let (IpAddr::V4(from), IpAddr::V4(to)) = (HOST4, to) else { unreachable!() };
        let datagram = frame::udp((from.into(), a.ports[0]), (to.into(), port), &part);
        let first = |id| V4 { id, fragment: 0x2000, ..V4::new(from, to, frame::UDP, &datagram[..1400]) }.bytes();
        let before = a.drops("fragment");
        let pairs = (1..=3000).flat_map(|id| {
            let mut rest = V4 { id, fragment: 1400 / 8, ..V4::new(from, to, frame::UDP, &part[..800]) }.bytes();
            rest[10] ^= 0x55; // its checksum
            [first(id), rest]
        });
        tap::flood(&a.ns, "eth0", pairs.map(|packet| frame::ethernet(macs.0, macs.1, frame::IPV4, &packet)));
        let refused = a.drops("fragment") - before;
        assert!(refused >= 2 * 3000 - 2 * 16, "{refused} of 6000 were refused, to {to}:{port}");
    }
    for (to, port) in [(HOST6, HOST_PORT), (PEER6, HOST_PORT), (HOST6, b.ports[0])] {
        let before = a.drops("fragment");
        let from = (HOST6, a.ports[0]);
        let begun = |id| pieces(macs, from, (to, port), id, (&part, &[0, 1400 / 8 * 8])).swap_remove(0);
        tap::flood(&a.ns, "eth0", (1..=3000).map(begun));
        let refused = a.drops("fragment") - before;
        assert!(refused >= 3000 - 16, "{refused} of 3000 were refused, to {to} port {port}");
    }
    // Datagrams of many parts, by those who must not notice.
    let large = vec![0x5a; 40_000];
    for family in [(HOST4, PEER4), (HOST6, PEER6)] {
        let senders = [(&host.ns, family.0, "the host"), (&host.peer, family.1, "the peer"), (&b.ns, family.0, "B")];
        for (ns, from, who) in senders {
            let b_itself = std::ptr::eq(ns, &b.ns);
            let receivers = [
                (&host.ns, family.0, HOST_PORT),
                (&host.peer, family.1, HOST_PORT),
                (&b.ns, family.0, b.ports[usize::from(b_itself)]),
            ];
            for (at, to, port) in receivers {
                let receiver = Echo::start(at, Proto::Udp, SocketAddr::new(probe::any(to), port));
                ns.inside(|| {
                    let socket = std::net::UdpSocket::bind(SocketAddr::new(from, 0)).expect("socket");
                    for n in 1..=20 {
                        socket.send_to(&large, SocketAddr::new(to, port)).expect("send");
                        // a socket has room for five of them
                        wait::eventually(|| receiver.served() >= n);
                        assert_eq!(receiver.served(), n, "large datagrams that {to} port {port} got of {n} from {who}");
                    }
                });
            }
        }
    }
}

/// A stranger who begins datagrams without an end, from many addresses, to a container's port.
#[test]
fn what_a_stranger_leaves_unfinished_takes_nobodys_place() {
    let host = Host::new("frag-stranger");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    let begun = |n: u16| {
        let from = IpAddr::from([10, 77, 1 + (n % 200) as u8, (n / 200) as u8 + 1]);
        let [first, _] = halves(macs, (from, SENDERS_PORT), (HOST4, a.ports[0]), n, [&[0; FIRST], &[0; 16]]);
        first
    };
    let large = vec![0x5a; 5_000];
    let to_b = SocketAddr::new(HOST4, b.ports[0]);
    for (ns, from, to, who) in [
        (&host.peer, PEER4, to_b, "B got of 20 from the peer"),
        (&host.ns, HOST4, to_b, "B got of 20 from the host"),
        (&host.peer, PEER4, SocketAddr::new(HOST4, HOST_PORT), "the host got of 20 from the peer"),
    ] {
        let at = if to == to_b { &b.ns } else { &host.ns };
        let receiver = Echo::start(at, Proto::Udp, SocketAddr::new(probe::any(HOST4), to.port()));
        let socket = ns.inside(|| std::net::UdpSocket::bind(SocketAddr::new(from, 0)).expect("socket"));
        for round in 0..20 {
            tap::flood(&host.peer, "wire", (round * 400..(round + 1) * 400).map(begun));
            socket.send_to(&large, to).expect("send");
        }
        wait::eventually(|| receiver.served() >= 20);
        assert_eq!(receiver.served(), 20, "{who}");
    }
}

/// How many first fragments from the wire the host remembers at once.
const PLACES: usize = 65_536;

/// Sends frames on the peer's wire in a circle, until `stop`; counts what was sent.
fn flood_without_end(peer: &Ns, frames: &[Vec<u8>], sent: &AtomicUsize, stop: &AtomicBool) {
    peer.inside(|| {
        let fd = tap::packet_socket("wire", 0);
        for frame in frames.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            sock::send(&fd, frame).expect("frame on wire");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Tells a thread to stop, even where an assertion ends the scope that waits for the thread.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The first fragments of `count` datagrams to a port, each from an address and with an id of its own.
fn begun_by_strangers(macs: (Mac, Mac), to: IpAddr, port: u16, count: usize) -> Vec<Vec<u8>> {
    let part = &frame::udp((to, SENDERS_PORT), (to, port), &[0; FIRST])[..FIRST];
    // neighbours in number are strangers in everything that is remembered
    let scattered = |n: usize| (n as u32).wrapping_mul(0x9e37_79b1);
    let packet = |n: usize| match to {
        IpAddr::V4(to) => {
            let from = Ipv4Addr::from(0x0b00_0000 | (scattered(n) >> 9));
            V4 { id: n as u16, fragment: 0x2000, ..V4::new(from, to, frame::UDP, part) }.bytes()
        }
        IpAddr::V6(to) => {
            let from = Ipv6Addr::from(0x2001_0db8_0077_u128 << 80 | u128::from(scattered(n)));
            frame::v6(from, to, 44, 64, &frame::v6_fragment(frame::UDP, 0, true, scattered(n), part))
        }
    };
    (0..count).map(|n| frame::ethernet(macs.0, macs.1, frame::ethertype(to), &packet(n))).collect()
}

/// Datagrams of one sender whose fragments come after each other's, as where its processors send at the same time.
#[test]
fn datagrams_of_one_sender_may_all_begin_before_any_of_them_ends() {
    let host = Host::new("frag-woven");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    for (from, to) in [(PEER4, HOST4), (PEER6, HOST6)] {
        let at_a = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(probe::any(to), a.ports[0]));
        let marks = [frame::marker(), frame::marker()];
        let ended = |id| halves(macs, (from, SENDERS_PORT), (to, a.ports[0]), id, [&marks[0], &marks[1]]);
        let (firsts, rests): (Vec<_>, Vec<_>) = (1..=20).map(|id| <(Vec<u8>, Vec<u8>)>::from(ended(id))).unzip();
        tap::flood(&host.peer, "wire", firsts.into_iter());
        tap::flood(&host.peer, "wire", rests.into_iter());
        std::thread::sleep(SETTLED);
        assert_eq!(at_a.served(), 20, "A got of 20 from {from}");
    }
}

/// More datagrams begun to A than all that can be remembered, between the first and the last fragment of one to B.
#[test]
fn what_strangers_begin_with_one_container_makes_no_other_ones_datagram_forgotten() {
    const DATAGRAMS: u16 = 20;
    let host = Host::new("frag-between");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    for to in [HOST4, HOST6] {
        let frames = begun_by_strangers(macs, to, a.ports[0], 2 * PLACES);
        let at_b = Echo::start(&b.ns, Proto::Udp, SocketAddr::new(to, b.ports[0]));
        let (mut firsts, mut rests) = (Vec::new(), Vec::new());
        for id in 1..=DATAGRAMS {
            let from = match to {
                IpAddr::V4(_) => IpAddr::from([10, 77, 0, 100 + id as u8]),
                IpAddr::V6(_) => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, 0x100 + id]),
            };
            let marks = [frame::marker(), frame::marker()];
            let [first, rest] = halves(macs, (from, SENDERS_PORT), (to, b.ports[0]), id, [&marks[0], &marks[1]]);
            firsts.push(first);
            rests.push(rest);
        }
        let (sent, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let flooded = |least: usize, until: Instant| {
            while sent.load(Ordering::Relaxed) < least && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        std::thread::scope(|scope| {
            let _stop = StopAtEnd(&stop);
            scope.spawn(|| flood_without_end(&host.peer, &frames, &sent, &stop));
            flooded(1_000, Instant::now() + REMEMBERED);
            let (began, before) = (Instant::now(), sent.load(Ordering::Relaxed));
            tap::flood(&host.peer, "wire", firsts.iter().cloned());
            // a machine that is too slow for more floods for as long as a first fragment is remembered
            flooded(before + PLACES + PLACES / 16, began + REMEMBERED * 4 / 5);
            let between = sent.load(Ordering::Relaxed) - before;
            tap::flood(&host.peer, "wire", rests.iter().cloned());
            let took = began.elapsed();
            wait::eventually(|| at_b.served() >= u64::from(DATAGRAMS));
            let got = at_b.served();
            assert_eq!(got, u64::from(DATAGRAMS), "datagrams B got at {to}, of {between} begun to A in {took:?}");
        });
    }
}
