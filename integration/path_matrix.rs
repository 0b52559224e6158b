//! Promise: every path a program under plain host networking has, a program in a slice has, and it sees the same addresses.

use crate::lab::probe::{BOTH, assert_reaches, assert_refused, assert_unreached};
use crate::lab::scene::{Scene, scene};
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};

/// A port nobody was given and nobody listens on.
const NOBODYS: u16 = 25_000;

fn every_path_with(proto: Proto, name: &str) {
    let scene = scene(name);
    for (path, client, server, addresses) in scene.paths() {
        for address in addresses {
            for port in scene.ports(server) {
                let to = SocketAddr::new(address, port);
                // a wildcard UDP server answers from the address its route prefers, under host networking too
                let far = [FAR4, FAR6].contains(&address) && proto == Proto::Udp;
                for listen in [probe::any(address), address].into_iter().skip(usize::from(far)) {
                    let what = format!("{path}, listening on {listen}");
                    let _echo = Echo::start(server, proto, SocketAddr::new(listen, port));
                    let local = assert_reaches(&what, client, proto, to);
                    if let Some(c) = scene.container(client) {
                        assert!(
                            c.block.contains(&local.port()),
                            "{what}: {proto:?} came from {local}, the block is {:?}",
                            c.block
                        );
                        let expected = match address {
                            a if a.is_loopback() => address,
                            IpAddr::V4(_) => HOST4,
                            IpAddr::V6(_) => HOST6,
                        };
                        assert_eq!(local.ip(), expected, "{what}: {proto:?} to {to}: source address");
                    }
                }
            }
        }
    }
}

#[test]
fn every_path_carries_tcp() {
    every_path_with(Proto::Tcp, "paths-tcp");
}

#[test]
fn every_path_carries_udp() {
    every_path_with(Proto::Udp, "paths-udp");
}

#[test]
fn a_closed_port_is_refused_at_once_from_everywhere() {
    let scene = scene("paths-refused");
    for (path, client, server, addresses) in scene.paths() {
        let mut ports = scene.ports(server);
        ports.push(NOBODYS);
        for (address, port, proto) in
            addresses.iter().flat_map(|a| ports.iter().flat_map(move |p| BOTH.map(|t| (*a, *p, t))))
        {
            assert_refused(path, client, proto, SocketAddr::new(address, port));
        }
    }
}

#[test]
fn a_private_listener_is_reached_by_its_own_container_only() {
    let Scene { host, a, b } = scene("paths-private");
    for proto in BOTH {
        for own in [LO4, LO6] {
            let at = SocketAddr::new(own, NOBODYS);
            let outside = SocketAddr::new(if own.is_ipv4() { HOST4 } else { HOST6 }, NOBODYS);
            let private = Echo::start(&a.ns, proto, at);
            assert_reaches("A's own loopback listener", &a.ns, proto, at);
            let mine = private.served();
            for (who, to) in [(&host.ns, at), (&b.ns, at), (&host.ns, outside), (&b.ns, outside), (&host.peer, outside)]
            {
                assert_refused("a port only A listens on", who, proto, to);
            }
            // the host may use the same number: the container keeps its own, everybody else gets the host's
            let hosts = Echo::start(&host.ns, proto, at);
            assert_reaches("A's own, with the host on the same port", &a.ns, proto, at);
            assert_eq!((private.served(), hosts.served()), (mine + 1, 0), "{proto:?} {at}: A was answered by the host");
            assert_reaches("the host's, from B", &b.ns, proto, at);
            assert_reaches("the host's, from H", &host.ns, proto, at);
            assert_eq!(
                (private.served(), hosts.served()),
                (mine + 1, 2),
                "{proto:?} {at}: somebody reached A's private listener"
            );
        }
    }
}

#[test]
fn an_unassigned_port_is_never_reached_from_outside() {
    let Scene { host, a, b } = scene("paths-unassigned");
    for proto in BOTH {
        for (any, by, loopback) in [(probe::any(HOST4), HOST4, LO4), (probe::any(HOST6), HOST6, LO6)] {
            let echo = Echo::start(&a.ns, proto, SocketAddr::new(any, NOBODYS));
            for (who, address) in
                [(&host.peer, by), (&host.ns, by), (&host.ns, loopback), (&b.ns, by), (&b.ns, loopback)]
            {
                assert_unreached(
                    "a wildcard listener on an unassigned port",
                    who,
                    proto,
                    SocketAddr::new(address, NOBODYS),
                );
            }
            assert_eq!(echo.served(), 0, "{proto:?} {by}: something arrived at an unassigned port");
        }
    }
}

#[test]
fn a_namespace_given_by_path_is_the_same_as_one_given_by_pid() {
    let host = Host::new("paths-by-path");
    let a = host.bare_named("by-path", &["--ports", "31000"]);
    for proto in BOTH {
        let _echo = Echo::start(&a.ns, proto, SocketAddr::new(probe::any(HOST4), 31000));
        assert_reaches("P->A", &host.peer, proto, SocketAddr::new(HOST4, 31000));
    }
}
