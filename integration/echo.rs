//! Promise: whoever pings is answered, as processes of one host are, and nobody else.

use crate::lab::frame::{self, Mac, V4};
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::IpAddr;
use std::time::Duration;

const WINDOW: Duration = Duration::from_millis(300);

/// What follows type, code and checksum of an echo message.
fn rest(id: u16) -> [u8; 4] {
    [id.to_be_bytes(), 1u16.to_be_bytes()].concat().try_into().expect("four bytes")
}

/// An IP packet with an answer to an echo request.
fn answer(from: IpAddr, to: IpAddr, id: u16, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => V4::new(from, to, 1, &frame::icmp4(0, 0, rest(id), payload)).bytes(),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame::v6(from, to, 58, 64, &frame::icmp6(from, to, 129, 0, rest(id), payload))
        }
        _ => unreachable!(),
    }
}

/// Programs that count their ids from their process id have one id, each in its own namespace.
#[test]
fn two_containers_and_the_host_ask_one_remote_under_one_id() {
    let (host, a, b) = Host::with_two("echo-one");
    for peer in [PEER4, PEER6] {
        let id = icmp::fresh_id();
        for round in 0..3 {
            for (who, ns) in [("A", &a.ns), ("B", &b.ns), ("the host", &host.ns)] {
                let got = icmp::ping_with(ns, peer, id, 1, WINDOW);
                assert!(got == [1], "{who} pings {peer} in round {round}: {got:?}");
            }
        }
    }
    assert_eq!((a.drops("echo"), b.drops("echo")), (0, 0));
}

/// Answers to A are seen by B where B asked the same, and by nobody who did not ask.
#[test]
fn all_who_asked_are_answered_and_no_others() {
    let (host, a, b) = Host::with_two("echo-all");
    let c = host.bare("c", &["--ports", "31020-31029"]);
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    for (peer, own) in [(PEER4, HOST4), (PEER6, HOST6)] {
        let id = icmp::fresh_id();
        for ns in [&a.ns, &b.ns] {
            assert_eq!(icmp::ping_with(ns, peer, id, 1, WINDOW), [1]);
        }
        let taps =
            [("A", &a.ns, 1), ("B", &b.ns, 1), ("C", &c.ns, 0)].map(|(who, ns, due)| (who, Tap::on(ns, "eth0"), due));
        let marker = frame::marker();
        tap::inject(
            &host.peer,
            "wire",
            &frame::ethernet(macs.0, macs.1, frame::ethertype(own), &answer(peer, own, id, &marker)),
        );
        std::thread::sleep(WINDOW);
        for (who, tap, due) in taps {
            let got = tap.end().iter().filter(|seen| frame::carries(&seen.bytes, &marker)).count();
            assert_eq!(got, due, "answers of {peer} that {who} got");
        }
    }
}

/// An answer that comes in parts.
#[test]
fn large_pings_of_two_are_answered() {
    let (_host, a, b) = Host::with_two("echo-large");
    for peer in [PEER4, PEER6] {
        let id = icmp::fresh_id();
        for (who, ns) in [("A", &a.ns), ("B", &b.ns), ("A again", &a.ns)] {
            let socket = icmp::Icmp::open(ns, peer);
            socket.request(peer, id, 1, &[0x5a; 4000]).expect("request");
            let got = socket.replies(id, WINDOW);
            assert_eq!(got.len(), 1, "{who} pings {peer} with 4000 bytes");
            assert_eq!(got[0].bytes.len(), 4008);
        }
    }
}

/// Some who ask under every id there is, all at once; and a neighbour who asks the host for as many.
#[test]
fn nobody_uses_up_the_ids() {
    let (host, a, b) = Host::with_two("echo-ids");
    let others: Vec<Container> = (0..3).map(|n| host.bare(&format!("h{n}"), &[])).collect();
    let (gate, peer) = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&host.peer, "wire"));
    for (own, remote) in [(HOST4, PEER4), (HOST6, PEER6)] {
        let asks = |mac: Mac, from: IpAddr, to: IpAddr| {
            (0..=u16::MAX).map(move |id| {
                let message = match (from, to) {
                    (IpAddr::V6(f), IpAddr::V6(t)) => frame::icmp6(f, t, 128, 0, rest(id), &[]),
                    _ => frame::icmp4(8, 0, rest(id), &[]),
                };
                let protocol = if from.is_ipv4() { frame::ICMP } else { frame::ICMP6 };
                frame::ethernet(gate, mac, frame::ethertype(from), &frame::ip(from, to, protocol, &message))
            })
        };
        std::thread::scope(|scope| {
            for hostile in [&a].into_iter().chain(&others) {
                scope.spawn(|| tap::flood(&hostile.ns, "eth0", asks(tap::mac_of(&hostile.ns, "eth0"), own, remote)));
            }
            scope.spawn(|| tap::flood(&host.peer, "wire", asks(peer, remote, own)));
        });
        for round in 0..5 {
            for (who, ns) in [("B", &b.ns), ("the host", &host.ns)] {
                let got = icmp::ping_with(ns, remote, icmp::fresh_id(), 1, WINDOW);
                assert_eq!(got, [1], "{who} pings {remote} in round {round}");
            }
        }
    }
    assert_eq!(b.drops("echo"), 0);
}
