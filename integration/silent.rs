//! Promise: where nobody answers, a program in a container is told what a program of the host is told, and as soon.

use crate::lab::*;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// The kernel asks three times, a second apart (net.ipv4.neigh.default.mcast_solicit).
const LONG: Duration = Duration::from_secs(8);

/// Somebody who asks, and is told what came of it.
type Ask = fn(SocketAddr) -> io::Result<()>;

fn by_connection(to: SocketAddr) -> io::Result<()> {
    TcpStream::connect_timeout(&to, LONG).map(drop)
}

fn by_datagram(to: SocketAddr) -> io::Result<()> {
    let socket = probe::open(Proto::Udp, to.ip())?;
    // who does not ask for errors is told none of a host that is not there (icmp_err_convert, net/ipv4/icmp.c)
    let (level, asks) =
        if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    sock::set(&socket, level, asks, 1i32)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(LONG))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    socket.recv(&mut [0]).map(drop)
}

fn ask(ns: &Ns, how: Ask, to: SocketAddr) -> (Option<i32>, Duration) {
    let from = Instant::now();
    let asked = ns.inside(|| how(to));
    (asked.err().as_ref().and_then(io::Error::raw_os_error), from.elapsed())
}

/// A container and the host ask at the same time.
fn compare(host: &Host, containers: &[&Container], to: IpAddr, what: &str) {
    for (how, by) in [(by_connection as Ask, "a connection"), (by_datagram, "a datagram")] {
        compare_one(host, containers, how, to, &format!("{what}, by {by}"));
    }
}

fn compare_one(host: &Host, containers: &[&Container], how: Ask, to: IpAddr, what: &str) {
    let to = SocketAddr::new(to, 4001);
    std::thread::scope(|scope| {
        let host = scope.spawn(move || ask(&host.ns, how, to));
        let inside: Vec<_> = containers.iter().map(|c| (&c.id, scope.spawn(move || ask(&c.ns, how, to)))).collect();
        let (expected, after) = host.join().expect("the host asks");
        assert_eq!(expected, Some(libc::EHOSTUNREACH), "{what}: the host itself, to {to}, after {after:?}");
        for (id, asked) in inside {
            let (told, took) = asked.join().expect("a container asks");
            assert_eq!(told, expected, "{what}: {id}, to {to}, after {took:?}; the host after {after:?}");
            assert!(
                took < after + Duration::from_millis(1500),
                "{what}: {id} after {took:?}, the host after {after:?}"
            );
        }
    });
}

#[test]
fn a_neighbour_or_a_gateway_that_does_not_answer() {
    let host = Host::new("silent");
    host.altered();
    let a = host.bare("a", &[]);
    let limited = host.bare("l", &["--egress-rate", "10mbit"]);
    for neighbour in ["10.77.0.99", "fd77::99"] {
        compare(&host, &[&a, &limited], neighbour.parse().unwrap(), "a neighbour that is not there");
    }
    host.peer.ip("addr del 10.77.0.1/24 dev wire\naddr del fd77::1/64 dev wire");
    host.ns.ip("neigh flush dev eth0");
    for far in [FAR4, FAR6] {
        compare(&host, &[&a, &limited], far, "a gateway that is not there");
    }
}
