//! What a container may claim, and what it may not.

use super::*;
use crate::lab::frame;
use crate::lab::tap::{self, Tap};
use std::time::Duration;

#[test]
fn what_is_not_offered_is_not_had() {
    let host = host("claims-offered");
    let (a, none) = (open(&host, "a"), host.bare("none", &[]));
    for kind in [TCP, UDP] {
        for port in [79, 81, 7999, 8100, 65535] {
            refused(&a.ns, kind, ANY4, port, "it is not in the set");
        }
        for port in [80, 8000, 8099] {
            succeeds(&a.ns, kind, ANY4, port, "it is in the set");
            refused(&none.ns, kind, ANY4, port, "nothing is offered");
        }
    }
    assert!(claims(&host, &none).is_empty());
}

#[test]
fn a_container_holds_as_many_as_it_may() {
    let host = Host::with("claims-bound").judged("require").config("open_ports_per_container = 3\n").build();
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let mut held: Vec<OwnedFd> = (8000..8002).map(|port| bound(&a.ns, TCP, ANY4, port, false).expect("free")).collect();
    held.push(bound(&a.ns, UDP, ANY4, 8000, false).expect("free"));
    refused(&a.ns, TCP, ANY4, 8002, "it has three");
    refused(&a.ns, UDP, ANY4, 8002, "it has three");
    let _beside = bound(&b.ns, TCP, ANY4, 8002, false).expect("another one has none");
    held.pop();
    succeeds(&a.ns, TCP, ANY4, 8003, "it has two");
    // A port that rests counts as well, and nobody gets more by coming and going.
    for _ in 0..8 {
        succeeds(&a.ns, TCP, ANY4, 8004, "again and again");
    }
}

#[test]
fn a_change_offers_and_takes_back() {
    let host = host("claims-changed");
    let a = host.bare("a", &[]);
    refused(&a.ns, TCP, ANY4, 8000, "nothing is offered");
    host.portslice(["set", "a", "--open-ports", "8000"]).ok();
    let held = bound(&a.ns, TCP, ANY4, 8000, false).expect("it is offered");
    host.portslice(["set", "a", "--open-ports", "8001"]).ok();
    assert_eq!(claims(&host, &a).tcp, set("8000"), "what it holds it keeps");
    drop(held);
    let gone = || bound(&a.ns, TCP, ANY4, 8000, false).is_err();
    assert!(wait::eventually(gone), "it is offered no more");
    succeeds(&a.ns, TCP, ANY4, 8001, "this one is");
    assert_eq!(host.portslice(["fsck"]).ok().stdout, "");
}

#[test]
fn sockets_from_before_have_no_more_than_a_container_may() {
    let host = Host::with("claims-before-bound").judged("require").config("open_ports_per_container = 3\n").build();
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    a.detach().ok();
    let held: Vec<OwnedFd> =
        (8000..8008).map(|port| bound(&a.ns, UDP, ANY4, port, false).expect("nobody judges")).collect();
    let pid = a.ns.pid().to_string();
    host.portslice(["attach", "a", "--pid", &pid, "--open-ports", OPEN]).ok();
    assert_eq!(maps(&host).claims(slot_of(&host, "a")).udp, set("8000-8002"));
    refused(&a.ns, TCP, ANY4, 8050, "it has three");
    succeeds(&b.ns, UDP, ANY4, 8003, "of the fourth nothing arrives there");
    drop(held);
    host.portslice(["detach", "a"]).ok();
}

/// Frames that no socket sent: from ports that others have claimed, that are only offered, or claimed of the other protocol.
#[test]
fn a_port_that_is_not_held_sends_nothing() {
    let host = host("claims-frames");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let _others = [
        bound(&b.ns, UDP, ANY4, 8000, false).expect("free"),
        bound(&host.ns, UDP, ANY4, 8001, false).expect("free"),
        bound(&a.ns, TCP, ANY4, 8002, false).expect("free"),
    ];
    let own = bound(&a.ns, UDP, ANY4, 8003, false).expect("free");
    drop(bound(&a.ns, UDP, ANY4, 8004, false).expect("free"));
    let macs = (tap::mac_of(&host.ns, "eth0"), tap::mac_of(&a.ns, "eth0"));
    let sent = |port: u16| {
        let (marker, tap) = (frame::marker(), Tap::on(&host.peer, "wire"));
        let packet = frame::udp_packet((HOST4, port), (PEER4, 9000), &marker);
        tap::inject(&a.ns, "eth0", &frame::ethernet(macs.0, macs.1, frame::IPV4, &packet));
        std::thread::sleep(Duration::from_millis(40));
        tap.count(|seen| !seen.outgoing && frame::carries(&seen.bytes, &marker))
    };
    assert_eq!(sent(8003), 1, "it is its own");
    for (port, whose) in [(8000, "b's"), (8001, "the host's"), (8002, "its own, of TCP"), (8005, "offered to it alone")]
    {
        let before = a.drops("source_port");
        assert_eq!((sent(port), a.drops("source_port") - before), (0, 1), "{port} is {whose}: {}", a.show()["drops"]);
    }
    drop(own);
}
