//! What goes on beside a container, which it is to see nothing of.

use super::{FAMILIES, HOST_PORT, PEER_PORT, scene};
use crate::lab::frame;
use crate::lab::tap::Tap;
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

const SETTLED: Duration = Duration::from_millis(100);

fn listener(ns: &Ns, at: SocketAddr) -> std::io::Result<OwnedFd> {
    ns.inside(|| {
        let fd = probe::open(Proto::Udp, at.ip())?;
        sock::reuse(&fd)?;
        sock::bind(&fd, at)?;
        sock::limit(&fd, Duration::from_millis(500));
        Ok(fd)
    })
}

/// A listens on the ports of all others, as far as it is let, and looks at all that passes its devices.
#[test]
fn a_container_sees_nothing_of_what_others_send_and_receive() {
    let s = scene("iso-unseen");
    let (p, h, b) = (&s.host.peer, &s.host.ns, &s.b.ns);
    for ((host, peer), loopback) in FAMILIES.into_iter().zip([LO4, LO6]) {
        let b_port = s.b.ports[0];
        let spies = [b_port, HOST_PORT].map(|port| listener(&s.a.ns, SocketAddr::new(probe::any(host), port)));
        let paths: [(&str, &Ns, IpAddr, u16, &Ns, IpAddr, u16); 8] = [
            ("P->B", p, peer, PEER_PORT, b, host, b_port),
            ("B->P", b, host, b_port + 1, p, peer, PEER_PORT),
            ("P->H", p, peer, PEER_PORT, h, host, HOST_PORT),
            ("H->P", h, host, HOST_PORT + 1, p, peer, PEER_PORT),
            ("H->B", h, host, HOST_PORT + 1, b, host, b_port),
            ("B->H", b, host, b_port + 1, h, host, HOST_PORT),
            ("B->B by loopback", b, loopback, b_port + 1, b, loopback, b_port),
            ("H->H by loopback", h, loopback, HOST_PORT + 1, h, loopback, HOST_PORT),
        ];
        for (path, client, from, from_port, server, to, to_port) in paths {
            let taps = ["eth0", "lo"].map(|device| Tap::on(&s.a.ns, device));
            let marker = frame::marker();
            let at = SocketAddr::new(to, to_port);
            let server = listener(server, at).unwrap_or_else(|e| panic!("{path}: {at}: {e}"));
            let client = listener(client, SocketAddr::new(from, from_port)).unwrap_or_else(|e| panic!("{path}: {e}"));
            sock::send_to(&client, &marker, at).unwrap_or_else(|e| panic!("{path}: {at}: {e}"));
            let mut got = [0; 64];
            let (n, _) = sock::recv_from(&server, &mut got).unwrap_or_else(|e| panic!("{path}: {at}: {e}"));
            assert_eq!(got[..n], marker, "{path}");
            std::thread::sleep(SETTLED);
            taps.into_iter().for_each(|tap| tap.assert_without(&format!("{path} ({at}) is none of A's"), &marker));
        }
        for spy in spies.into_iter().flatten() {
            sock::limit(&spy, Duration::from_millis(10));
            let heard = sock::recv_from(&spy, &mut [0; 64]);
            assert!(heard.is_err(), "A heard on a port of another: {heard:?}");
        }
    }
}
