//! Ports that come and go.

use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::still::Still;
use crate::lab::*;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

fn at(port: u16) -> SocketAddr {
    SocketAddr::new(HOST4, port)
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(probe::any(HOST4), port)
}

#[test]
fn ports_answer_and_refuse_at_once() {
    let host = Host::new("change-ports");
    let container = host.bare("c", &["--ports", "31000,31005"]);
    let _servers: Vec<Echo> = BOTH
        .iter()
        .flat_map(|p| [31_000, 31_005, 31_100].map(|port| Echo::start(&container.ns, *p, any(port))))
        .collect();
    let check = |what: &str, ports: &str, open: &[u16]| {
        assert_eq!(container.show()["ports"], ports, "{what}");
        for port in [31_000, 31_005, 31_100] {
            for (who, from) in [("the peer", &host.peer), ("the host", &host.ns)] {
                for proto in BOTH {
                    let what = format!("{what}, {port} from {who}");
                    match open.contains(&port) {
                        true => drop(assert_reaches(&what, from, proto, at(port))),
                        false => assert_refused(&what, from, proto, at(port)),
                    }
                }
            }
        }
    };
    check("as attached", "31000,31005", &[31_000, 31_005]);
    let steps: [(&str, &str, &[u16]); 6] = [
        ("+31100", "31000,31005,31100", &[31_000, 31_005, 31_100]),
        ("-31005", "31000,31100", &[31_000, 31_100]),
        ("+31005,-31000", "31005,31100", &[31_005, 31_100]),
        ("31000-31005", "31000-31005", &[31_000, 31_005]),
        ("-31000-31004,+31100", "31005,31100", &[31_005, 31_100]),
        ("31000,31005", "31000,31005", &[31_000, 31_005]),
    ];
    for (change, ports, open) in steps {
        // an option's value may begin with a minus sign
        container.set(&[&format!("--ports={change}")]).ok();
        check(change, ports, open);
    }
    // what it let go is somebody else's
    let next = host.bare("next", &["--ports", "31100"]);
    let echo = Echo::start(&next.ns, Proto::Tcp, any(31_100));
    assert_reaches("the next owner", &host.peer, Proto::Tcp, at(31_100));
    assert_eq!(echo.served(), 1);
}

/// A value that begins with a minus sign, as a word of its own.
#[test]
fn a_port_is_taken_away_without_an_equals_sign() {
    let host = Host::new("change-ports-minus");
    let container = host.bare("c", &["--ports", "31000,31005"]);
    container.set(&["--ports", "-31005"]).ok();
    assert_eq!(container.show()["ports"], "31000");
}

#[test]
fn ports_change_while_a_limit_does() {
    let host = Host::new("change-both");
    let container = host.bare("c", &["--ports", "31000"]);
    let _echo = Echo::start(&container.ns, Proto::Tcp, any(31_001));
    container.set(&["--ports", "+31001", "--ingress-rate", "10mbit", "--egress-rate", "20mbit"]).ok();
    assert_eq!(container.in_force("both"), [Some(20_000_000), Some(10_000_000)]);
    assert_reaches("a port of a container limited since", &host.peer, Proto::Tcp, at(31_001));
    container.set(&["--ports=-31001", "--ingress-rate", "0B"]).ok();
    assert_eq!(container.shown(), [Some(20_000_000), None]);
    assert_refused("a port taken away", &host.peer, Proto::Tcp, at(31_001));
}

/// A connection to an echo server, its greeting read.
fn connected(ns: &Ns, to: SocketAddr) -> OwnedFd {
    let fd = ns.inside(|| {
        let fd = probe::open(Proto::Tcp, to.ip()).expect("socket");
        sock::limit(&fd, probe::PATIENCE);
        sock::connect(&fd, to).unwrap_or_else(|e| panic!("to {to}: {e}"));
        fd
    });
    assert!(alive(&fd), "{to} answers");
    fd
}

/// Whether it still carries anything there and back.
fn alive(fd: &OwnedFd) -> bool {
    let mut buffer = [0; 256];
    sock::send_all(fd, b"?").is_ok() && {
        // the greeting may come with the first answer, or before it
        let mut answer = Vec::new();
        while answer.last() != Some(&b'?') {
            match sock::recv(fd, &mut buffer) {
                Ok(n @ 1..) => answer.extend(&buffer[..n]),
                _ => return false,
            }
        }
        true
    }
}

#[test]
fn a_port_with_a_connection_is_not_taken_away() {
    let host = Host::new("change-busy");
    let container = host.bare("c", &["--ports", "31000,31005", "--egress-rate", "10mbit"]);
    let _servers = [31_000, 31_005].map(|port| Echo::start(&container.ns, Proto::Tcp, any(port)));
    let (kept, ended) = (connected(&host.peer, at(31_000)), connected(&host.peer, at(31_005)));
    let local = connected(&host.ns, SocketAddr::new(LO4, 31_005));
    let (still, queues) = (Still::of(&host), limit::queues_and_filters(&host));
    for args in [&["--ports=-31005"][..], &["--ports", "31000"], &["--ports=-31005,+31100", "--egress-rate", "20mbit"]]
    {
        let out = container.set(args).refused(7, "31005");
        assert!(out.stderr.contains("--force"), "{args:?} says how it would go: {out}");
        still.check_all(&format!("{args:?}"));
        assert_eq!(limit::queues_and_filters(&host), queues, "{args:?}: qdiscs, classes and filters");
        assert!(alive(&kept) && alive(&ended) && alive(&local), "{args:?}: a connection ended");
    }
    container.set(&["--ports=-31005", "--force"]).ok();
    assert_eq!(container.show()["ports"], "31000");
    assert_refused("taken away by force", &host.peer, Proto::Tcp, at(31_005));
    assert!(!alive(&ended) && !alive(&local), "a connection to a port that is no longer its own");
    assert!(alive(&kept), "the connection to the port that stayed");
    // nobody is connected there any more, so it needs no force
    drop(kept);
    let gone = wait::eventually(|| container.set(&["--ports=-31000"]).code == Some(0));
    assert!(gone, "a port without connections: {}", container.set(&["--ports=-31000"]));
    assert_eq!(container.show()["ports"], "");
    // what was cut off does not end by itself, and keeps the namespace alive for a while
    container.detach();
}
