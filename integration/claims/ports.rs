//! A port that is bound is had: reached from everywhere, its protocol's alone, and free again when its last socket is closed.

use super::*;

#[test]
fn what_is_bound_is_reached_from_everywhere_and_given_back() {
    let host = host("claims-reached");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    for proto in probe::BOTH {
        for (any, outside, inside) in [(ANY4, HOST4, LO4), (ANY6, HOST6, LO6)] {
            let echo = Echo::start(&a.ns, proto, SocketAddr::new(any, 8080));
            for (what, ns, to) in
                [("the wire", &host.peer, outside), ("the host", &host.ns, inside), ("beside", &b.ns, outside)]
            {
                assert_reaches(what, ns, proto, SocketAddr::new(to, 8080));
            }
            assert_reaches("inside", &a.ns, proto, SocketAddr::new(inside, 8080));
            drop(echo);
        }
    }
    for kind in [TCP, UDP] {
        let socket = bound(&a.ns, kind, ANY4, 8081, false).expect("free");
        assert_eq!(claims(&host, &a).tcp.contains(8081), kind == TCP);
        assert_eq!(claims(&host, &a).udp.contains(8081), kind == UDP);
        drop(socket);
        succeeds(&b.ns, kind, ANY4, 8081, "it was given back");
        succeeds(&host.ns, kind, ANY4, 8081, "it was given back");
    }
}

#[test]
fn whoever_comes_second_is_told() {
    let host = host("claims-second");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    for kind in [TCP, UDP] {
        for (first, others) in [(&a.ns, [&b.ns, &host.ns]), (&host.ns, [&a.ns, &b.ns])] {
            let held = bound(first, kind, ANY4, 8010, false).expect("free");
            for ns in others {
                for at in [ANY4, ANY6, HOST4, HOST6] {
                    refused(ns, kind, at, 8010, "somebody has it");
                }
            }
            let again = bound(first, kind, ANY4, 8010, false).expect_err("its own kernel refuses");
            assert_eq!(again.raw_os_error(), Some(libc::EADDRINUSE));
            drop(held);
            others.iter().for_each(|ns| succeeds(ns, kind, ANY4, 8010, "after the first"));
        }
    }
}

#[test]
fn one_number_is_two_ports() {
    let host = host("claims-protocols");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let tcp = Echo::start(&a.ns, Proto::Tcp, SocketAddr::new(ANY4, 8020));
    let udp = Echo::start(&b.ns, Proto::Udp, SocketAddr::new(ANY4, 8020));
    for proto in probe::BOTH {
        assert_reaches("each its own", &host.peer, proto, SocketAddr::new(HOST4, 8020));
    }
    assert!(tcp.served() > 0 && udp.served() > 0, "each was asked");
    refused(&a.ns, UDP, ANY4, 8020, "UDP is b's");
    refused(&b.ns, TCP, ANY4, 8020, "TCP is a's");
    assert_eq!((claims(&host, &a).tcp, claims(&host, &b).udp), (set("8020"), set("8020")));
}

#[test]
fn sockets_of_one_owner_share_a_port_until_the_last_one_goes() {
    let host = host("claims-shared");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let one = |kind| {
        a.ns.inside(|| {
            let socket = sock::socket(libc::AF_INET, kind, 0).expect("a socket");
            sock::set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1i32).expect("shares");
            sock::bind(&socket, SocketAddr::new(ANY4, 8030)).expect("bound");
            socket
        })
    };
    for kind in [TCP, UDP] {
        let mut sockets: Vec<OwnedFd> = (0..4).map(|_| one(kind)).collect();
        while let Some(socket) = sockets.pop() {
            refused(&b.ns, kind, ANY4, 8030, "one is left");
            drop(socket);
        }
        succeeds(&b.ns, kind, ANY4, 8030, "none is left");
    }
}

#[test]
fn the_own_loopback_stays_its_own() {
    let host = host("claims-loopback");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    let _inside = bound(&a.ns, TCP, LO4, 8040, false).expect("its own");
    assert!(claims(&host, &a).is_empty(), "nothing is claimed");
    let _outside = bound(&b.ns, TCP, ANY4, 8040, false).expect("free");
    refused(&a.ns, TCP, HOST4, 8040, "b has it");
}

#[test]
fn a_port_of_a_killed_process_is_free() {
    let host = host("claims-killed");
    let (a, b) = (open(&host, "a"), open(&host, "b"));
    // its end is a SIGKILL
    let stranger = probe::Stranger::at(&a.ns, 8050);
    refused(&b.ns, TCP, ANY4, 8050, "it runs");
    drop(stranger);
    succeeds(&b.ns, TCP, ANY4, 8050, "it is dead");
    assert!(claims(&host, &a).is_empty());
}
