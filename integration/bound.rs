//! Promise: a program that binds its sockets to lo speaks with the host and with other containers there, as on the host.

use crate::lab::*;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

const HOST_PORT: u16 = 20_000;

/// A socket that takes and gives packets of lo alone.
fn on_lo(ns: &Ns, proto: Proto, at: SocketAddr) -> OwnedFd {
    ns.inside(|| {
        let fd = probe::open(proto, at.ip()).expect("socket");
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, *b"lo\0\0").expect("SO_BINDTODEVICE");
        sock::reuse(&fd).expect("SO_REUSEADDR");
        sock::bind(&fd, at).expect("bind");
        sock::limit(&fd, Duration::from_secs(1));
        fd
    })
}

/// A question by a socket bound to lo, and whether there is an answer.
fn asks(ns: &Ns, proto: Proto, to: SocketAddr) -> bool {
    let fd = on_lo(ns, proto, SocketAddr::new(probe::any(to.ip()), 0));
    let mut buffer = [0; 512];
    let done = sock::connect(&fd, to).and_then(|()| sock::send(&fd, b"who")).and_then(|_| sock::recv(&fd, &mut buffer));
    done.is_ok_and(|n| n > 0)
}

/// Answers one question.
fn serves(server: &OwnedFd, proto: Proto) {
    let mut buffer = [0; 512];
    if proto.connects() {
        let Ok((connection, _)) = sock::accept(server) else { return };
        let _ = sock::send_all(&connection, b"me");
        let _ = sock::recv(&connection, &mut buffer);
    } else if let Ok((_, from)) = sock::recv_from(server, &mut buffer) {
        let _ = sock::send_to(server, b"me", from);
    }
}

#[test]
fn a_client_on_lo_reaches_the_host_and_other_containers() {
    let (host, a, b) = Host::with_two("bound-client");
    for own in [LO4, LO6] {
        for proto in probe::BOTH {
            for (who, ns, port) in
                [("the host", &host.ns, HOST_PORT), ("B", &b.ns, 31_010), ("A itself", &a.ns, 31_000)]
            {
                let at = SocketAddr::new(own, port);
                let _server = Echo::start(ns, proto, at);
                assert!(asks(&a.ns, proto, at), "{proto:?} by {own} to {who}");
            }
        }
    }
}

#[test]
fn a_server_on_lo_is_reached_by_the_host_and_other_containers_and_not_from_outside() {
    let (host, a, b) = Host::with_two("bound-server");
    for (own, outside) in [(LO4, HOST4), (LO6, HOST6)] {
        for proto in probe::BOTH {
            let server = on_lo(&a.ns, proto, SocketAddr::new(probe::any(own), 31_000));
            if proto.connects() {
                sock::listen(&server).expect("listen");
            }
            for (who, ns) in [("the host", &host.ns), ("B", &b.ns), ("A itself", &a.ns)] {
                std::thread::scope(|scope| {
                    scope.spawn(|| serves(&server, proto));
                    assert!(asks(ns, proto, SocketAddr::new(own, 31_000)), "{proto:?} by {own} from {who}");
                });
            }
            let (tried, _) = ask(&host.peer, proto, SocketAddr::new(outside, 31_000));
            assert!(!tried.is_ok(), "{proto:?}: the peer reached a server on lo: {tried:?}");
        }
    }
}

#[test]
fn a_slice_that_an_earlier_version_made_takes_it_from_the_next_change_on() {
    let (host, a, _b) = Host::with_two("bound-older");
    host.altered();
    // what an attach did not do then, and left no note of
    let keys = ["ipv4/conf/lo/accept_local", "ipv4/conf/lo/route_localnet"];
    keys.iter().for_each(|key| a.ns.set_sysctl(key, "0"));
    let lease = host.state_dir().join("leases/a");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&lease).expect("lease")).expect("JSON");
    let settings = record["found"]["settings"].as_array_mut().expect("settings");
    let before = settings.len();
    settings.retain(|setting| !keys.contains(&setting["key"].as_str().unwrap_or_default()));
    assert_eq!(settings.len(), before - 2, "an attach notes what it changes");
    std::fs::write(&lease, record.to_string()).expect("lease");
    host.portslice(["set", "a", "--ports", "31000-31008"]).ok(); // tells the kernel's copy
    let at = SocketAddr::new(LO4, 31_000);
    let answers = || {
        let server = on_lo(&a.ns, Proto::Udp, at);
        std::thread::scope(|scope| {
            scope.spawn(|| serves(&server, Proto::Udp));
            asks(&host.ns, Proto::Udp, at)
        })
    };
    assert!(!answers(), "lo took what it was not to take");
    host.ns.ip("addr add 10.77.0.9/24 dev eth0");
    host.portslice(["sync"]).ok();
    keys.iter().for_each(|key| assert_eq!(a.ns.sysctl(key), "1", "{key} follows"));
    assert!(answers(), "the slice did not follow");
    host.portslice(["detach", "a"]).ok();
    keys.iter().for_each(|key| assert_eq!(a.ns.sysctl(key), "0", "{key} is as it was"));
}
