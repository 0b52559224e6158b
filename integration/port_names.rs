//! Promise: a port has the name that programs inside know it by. Two containers bind 80 and sit on 31000 and 31001; inside all calls
//! agree on 80, and everybody else sees the outside number.

mod datagrams;
mod faces;
mod given;
mod programs;

use crate::lab::*;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// 127.0.0.1 and HOST4 as an IPv6 socket names them.
const MAPPED_LO: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const MAPPED_HOST: IpAddr = IpAddr::V6(Ipv4Addr::new(10, 77, 0, 2).to_ipv6_mapped());

/// A bound socket of a namespace that waits for nothing longer than some seconds.
fn bound(ns: &Ns, kind: i32, at: IpAddr, port: u16) -> io::Result<OwnedFd> {
    ns.inside(|| {
        let socket = sock::socket(sock::family(at), kind, 0)?;
        sock::limit(&socket, Duration::from_secs(5));
        sock::reuse(&socket)?;
        sock::bind(&socket, SocketAddr::new(at, port)).map(|()| socket)
    })
}

fn listening(ns: &Ns, at: IpAddr, port: u16) -> OwnedFd {
    let listening = || bound(ns, libc::SOCK_STREAM, at, port).and_then(|socket| sock::listen(&socket).map(|()| socket));
    wait::success(listening).unwrap_or_else(|e| panic!("{}: {at} {port}: {e}", ns.name))
}

fn connected(ns: &Ns, kind: i32, to: SocketAddr) -> io::Result<OwnedFd> {
    ns.inside(|| {
        let socket = sock::socket(sock::family(to.ip()), kind, 0)?;
        sock::limit(&socket, Duration::from_secs(5));
        sock::connect(&socket, to).map(|()| socket)
    })
}

#[track_caller]
fn port(socket: &OwnedFd) -> u16 {
    sock::local(socket).expect("a name").port()
}

/// `client` connects to `to`, and finds there who listens; both ends call each other as they are to. `named`: what the client calls
/// the other end, and what that calls itself.
#[track_caller]
fn talks(client: &Ns, server: &OwnedFd, to: SocketAddr, named: [u16; 2]) {
    let mine = connected(client, libc::SOCK_STREAM, to).unwrap_or_else(|e| panic!("{} to {to}: {e}", client.name));
    let (theirs, from) = sock::accept(server).unwrap_or_else(|e| panic!("{} to {to}: nobody came: {e}", client.name));
    let what = format!("{} to {to}", client.name);
    assert_eq!(sock::peer(&mine).expect("a peer").port(), named[0], "{what}: whom it reached");
    assert_eq!(port(&theirs), named[1], "{what}: who was reached");
    assert_eq!(from.port(), port(&mine), "{what}: who came");
    assert_eq!(sock::peer(&theirs).expect("a peer"), from, "{what}: who came, asked later");
    sock::send_all(&mine, b"named").expect("send");
    let mut buffer = [0; 8];
    assert_eq!(sock::recv(&theirs, &mut buffer).expect("receive"), 5, "{what}");
    for socket in [&mine, &theirs] {
        sock::end_at_once(socket).expect("linger");
    }
}

/// A has 31000 as 80, B 31001.
fn two(name: &str) -> (Host, Container, Container) {
    let host = Host::with(name).judged("require").build();
    let a = host.bare("a", &["--ports", "31000:80,31010-31012:8010-8012"]);
    let b = host.bare("b", &["--ports", "31001:80"]);
    (host, a, b)
}

#[test]
fn two_containers_bind_the_same_number_and_everybody_finds_both() {
    let (host, a, b) = two("named-tcp");
    for at in [ANY4, ANY6] {
        let (in_a, in_b) = (listening(&a.ns, at, 80), listening(&b.ns, at, 80));
        for (container, server, outside) in [(&a, &in_a, 31000), (&b, &in_b, 31001)] {
            assert_eq!(port(server), 80, "{}", container.id);
            let other = if container.id == "a" { &b.ns } else { &a.ns };
            for address in [HOST4, HOST6].into_iter().filter(|to| to.is_ipv4() || at.is_ipv6()) {
                for client in [&host.peer, &host.ns, other] {
                    talks(client, server, SocketAddr::new(address, outside), [outside, 80]);
                }
            }
            let own = [ANY4, LO4, HOST4, ANY6, LO6, HOST6, MAPPED_LO, MAPPED_HOST, "127.9.8.7".parse().unwrap()];
            for to in own.into_iter().filter(|to| to.is_ipv4() || at.is_ipv6() || to.to_canonical().is_ipv4()) {
                if to == ANY6 && at.is_ipv4() {
                    continue;
                }
                for number in [80, outside] {
                    talks(&container.ns, server, SocketAddr::new(to, number), [80, 80]);
                }
            }
        }
    }
}

#[test]
fn a_name_and_its_port_are_one_port_to_bind() {
    let (host, a, b) = two("named-bind");
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
        let refused = |ns: &Ns, at: IpAddr, number: u16| {
            let done = ns.inside(|| {
                let socket = sock::socket(sock::family(at), kind, 0)?;
                sock::bind(&socket, SocketAddr::new(at, number))
            });
            assert_eq!(done.as_ref().err().and_then(io::Error::raw_os_error), Some(libc::EADDRINUSE), "{at} {number}");
        };
        for at in [ANY4, ANY6, LO4, LO6, HOST4, HOST6, MAPPED_LO, MAPPED_HOST] {
            for number in [80, 31000] {
                let socket = bound(&a.ns, kind, at, number).unwrap_or_else(|e| panic!("{at} {number}: {e}"));
                assert_eq!(sock::local(&socket).expect("a name"), SocketAddr::new(at, 80), "{at} {number}");
                [80, 31000].iter().for_each(|again| refused(&a.ns, at, *again));
                // The port is A's in all of the host, its name in A alone.
                refused(&host.ns, at, 31000);
                if !at.to_canonical().is_loopback() {
                    refused(&b.ns, at, 31000);
                }
                drop(socket);
                let free = || bound(&a.ns, kind, at, number).is_ok();
                assert!(wait::eventually(free), "{at} {number} is not given back");
            }
        }
        drop(bound(&host.ns, kind, ANY4, 80).expect("the host's own 80"));
        for (inside, row) in [(8010, 31010), (8011, 31011), (8012, 31012)] {
            assert_eq!(port(&bound(&a.ns, kind, ANY4, row).expect("its own")), inside);
        }
        assert!(a.block.contains(&port(&bound(&a.ns, kind, ANY4, 0).expect("any"))));
    }
}

/// Whoever may publish a port under a number needs no more than that to bind it.
#[test]
fn a_privileged_name_needs_no_privilege_and_no_other_number_gets_one() {
    let (_host, a, _b) = two("named-unprivileged");
    let bind = |at: IpAddr, number: u16| {
        a.inside(|| {
            // Of this thread alone, which ends: the C library would change all.
            // SAFETY: takes integers only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
            let socket = sock::socket(sock::family(at), libc::SOCK_STREAM, 0)?;
            sock::bind(&socket, SocketAddr::new(at, number))?;
            sock::local(&socket)
        })
    };
    for at in [ANY4, ANY6, LO4, HOST6] {
        assert_eq!(bind(at, 80).unwrap_or_else(|e| panic!("{at}: {e}")), SocketAddr::new(at, 80));
        let other = bind(at, 81).expect_err("privileged");
        assert_eq!(other.raw_os_error(), Some(libc::EACCES), "{at}");
    }
}

/// A client that binds a named port is seen under it outside, and under its name inside.
#[test]
fn connections_that_come_from_a_named_port() {
    let (host, a, b) = two("named-client");
    let from = |to: SocketAddr| {
        let client = bound(&a.ns, libc::SOCK_STREAM, if to.is_ipv4() { ANY4 } else { ANY6 }, 8010).expect("bind");
        sock::connect(&client, to).unwrap_or_else(|e| panic!("to {to}: {e}"));
        assert_eq!(port(&client), 8010, "to {to}");
        client
    };
    let (in_a, in_b) = (listening(&a.ns, ANY6, 80), listening(&b.ns, ANY6, 80));
    let outside = listening(&host.peer, ANY6, 9000);
    let own = listening(&host.ns, ANY6, 9001);
    for (server, to, seen) in [
        (&outside, SocketAddr::new(PEER4, 9000), 31010),
        (&outside, SocketAddr::new(PEER6, 9000), 31010),
        (&own, SocketAddr::new(HOST4, 9001), 31010),
        (&in_b, SocketAddr::new(HOST4, 31001), 31010),
        (&in_b, SocketAddr::new(HOST6, 31001), 31010),
        (&in_a, SocketAddr::new(LO4, 80), 8010),
        (&in_a, SocketAddr::new(HOST4, 31000), 8010),
        (&in_a, SocketAddr::new(HOST6, 80), 8010),
        (&in_a, SocketAddr::new(LO6, 80), 8010),
    ] {
        let client = from(to);
        let (theirs, who) = sock::accept(server).unwrap_or_else(|e| panic!("to {to}: {e}"));
        assert_eq!(who.port(), seen, "to {to}");
        assert_eq!(sock::peer(&theirs).expect("a peer").port(), seen, "to {to}");
        [&client, &theirs].iter().for_each(|socket| sock::end_at_once(socket).expect("linger"));
    }
}

/// What another container calls 80 is none of this one's, and a number that nobody named is itself.
#[test]
fn numbers_of_others_stay_what_they_are() {
    let (host, a, _b) = two("named-others");
    let c = host.bare("c", &["--ports", "31020"]);
    let on_host = listening(&host.ns, ANY4, 80);
    for client in [&host.peer, &c.ns] {
        talks(client, &on_host, SocketAddr::new(HOST4, 80), [80, 80]);
    }
    let remote = listening(&host.peer, ANY6, 80);
    for to in [PEER4, PEER6] {
        talks(&a.ns, &remote, SocketAddr::new(to, 80), [80, 80]);
    }
    let in_c = listening(&c.ns, ANY6, 31020);
    talks(&a.ns, &in_c, SocketAddr::new(HOST4, 31020), [31020, 31020]);
}
