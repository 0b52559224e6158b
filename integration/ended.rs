//! Promise: a container that ended is no longer there: until its lease is taken back too, its ports are refused at once, as
//! closed ports of the host are, from everywhere.

use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::*;
use std::net::SocketAddr;

#[test]
fn its_ports_are_refused_at_once_from_everywhere() {
    let host = Host::new("ended");
    let a = host.bare("a", &["--ports", "31000"]);
    let b = host.bare("b", &["--ports", "31001"]);
    let limited = host.bare("l", &["--ports", "31002", "--ingress-rate", "100mbit", "--egress-rate", "100mbit"]);
    let at = |ip, port| SocketAddr::new(ip, port);
    {
        let _echo = Echo::start(&a.ns, Proto::Tcp, at(probe::any(HOST4), 31_000));
        assert_reaches("P->A before", &host.peer, Proto::Tcp, at(HOST4, 31_000));
    }
    for container in [&a, &limited] {
        container.kill();
        let device = container.device();
        assert!(
            wait::eventually(|| !host.links().iter().any(|link| Some(link) == device.as_ref())),
            "{device:?} stays"
        );
    }
    assert_eq!(host.ids(), ["a", "b", "l"], "their leases are still there");
    for proto in BOTH {
        for port in [31_000, 31_002] {
            for ip in [HOST4, HOST6] {
                assert_refused("P->A", &host.peer, proto, at(ip, port));
            }
            for ip in [HOST4, HOST6, LO4, LO6] {
                assert_refused("H->A", &host.ns, proto, at(ip, port));
                assert_refused("B->A", &b.ns, proto, at(ip, port));
            }
        }
    }
    host.portslice(["gc"]).ok();
    assert_eq!(host.ids(), ["b"]);
}
