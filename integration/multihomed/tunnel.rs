//! Devices whose frames have no Ethernet header: a VPN beside the uplink, and a tunnel as the uplink itself.

use super::*;
use crate::lab::icmp::{Icmp, fresh_id};
use crate::lab::{frame, sock, tap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// The host's addresses on the tunnel, and the far end's.
const NEAR: [&str; 2] = ["10.99.0.1", "fd99::1"];
const FAR: [&str; 2] = ["10.99.0.9", "fd99::9"];
const PATIENCE: Duration = Duration::from_secs(2);

/// The far end of a tun device of the host: the test is whoever is at the other side.
struct Tunnel(File);

impl Tunnel {
    fn of(host: &Ns) -> Tunnel {
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const IFF_TUN_NO_PI: u16 = 0x1001;
        let file = host.inside(|| {
            let file = File::options().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
            let mut request = [0u8; 40];
            request[..4].copy_from_slice(b"vpn0");
            request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
            // SAFETY: a struct ifreq of 40 bytes, which the kernel reads and writes.
            assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }, 0, "TUNSETIFF");
            // SAFETY: a flag of the descriptor.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
            file
        });
        host.set_sysctl("ipv6/conf/vpn0/accept_dad", "0");
        host.ip("addr add 10.99.0.1/24 dev vpn0\naddr add fd99::1/64 dev vpn0 nodad\nlink set vpn0 up");
        Tunnel(file)
    }

    fn send(&self, packet: &[u8]) {
        (&self.0).write_all(packet).expect("a packet into the tunnel");
    }

    /// The next packet that comes out and matches.
    #[track_caller]
    fn awaits(&self, what: &str, matches: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let until = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 65536];
        while Instant::now() < until {
            match (&self.0).read(&mut buffer) {
                Ok(n) if matches(&buffer[..n]) => return buffer[..n].to_vec(),
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        panic!("{what}: nothing of it came out of the tunnel");
    }
}

/// Source and destination of an IP packet.
fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let v6 = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    if packet[0] >> 4 == 4 { (v4(12).into(), v4(16).into()) } else { (v6(8).into(), v6(24).into()) }
}

/// In by the tunnel and out by it; `own` is an address that the host has on it, or not.
fn there_and_back(a: &Container, tunnel: &Tunnel, own: IpAddr, far: IpAddr) {
    let (port, marker) = (a.ports[0], frame::marker());
    let _echo = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(own, port));
    tunnel.send(&frame::udp_packet((far, 5000), (own, port), &marker));
    let answer = tunnel.awaits("the answer", |packet| frame::carries(packet, &marker));
    assert_eq!(ends(&answer), (own, far));
}

fn asks_first(a: &Container, tunnel: &Tunnel, own: IpAddr, far: IpAddr) {
    let marker = frame::marker();
    let fd = a.inside(|| {
        let fd = probe::open(Proto::Udp, far).expect("socket");
        sock::limit(&fd, PATIENCE);
        sock::connect(&fd, SocketAddr::new(far, 4001)).expect("connect");
        sock::send(&fd, &marker).expect("send");
        fd
    });
    let packet = tunnel.awaits("the question", |packet| frame::carries(packet, &marker));
    assert_eq!(ends(&packet), (own, far));
    let from = sock::local(&fd).expect("local address");
    tunnel.send(&frame::udp_packet((far, 4001), (own, from.port()), b"heard"));
    let mut buffer = [0; 16];
    assert_eq!(sock::recv(&fd, &mut buffer).expect("the answer"), 5);
}

/// A and the host ask under one id: both hear the answer.
fn pings(a: &Container, host: &Ns, tunnel: &Tunnel, far: IpAddr) {
    let id = fresh_id();
    let sockets = [Icmp::open(&a.ns, far), Icmp::open(host, far)];
    sockets[0].request(far, id, 1, b"portslice lab echo").expect("request");
    let asked = tunnel.awaits("the echo request", |packet| frame::carries(packet, b"portslice lab ec"));
    let (own, far) = ends(&asked);
    let rest: [u8; 4] = [id.to_be_bytes(), 1u16.to_be_bytes()].concat().try_into().unwrap();
    let (protocol, message) = match (far, own) {
        (IpAddr::V4(_), _) => (frame::ICMP, frame::icmp4(0, 0, rest, b"portslice lab echo")),
        (IpAddr::V6(f), IpAddr::V6(o)) => (frame::ICMP6, frame::icmp6(f, o, 129, 0, rest, b"portslice lab echo")),
        _ => unreachable!(),
    };
    tunnel.send(&frame::ip(far, own, protocol, &message));
    for (socket, who) in sockets.iter().zip(["A", "the host"]) {
        assert_eq!(socket.replies(id, Duration::from_millis(500)).len(), 1, "{who} hears of {far}");
    }
}

/// A datagram larger than the tunnel's packets, in by the tunnel and out by it.
fn there_and_back_in_fragments(a: &Container, tunnel: &Tunnel, own: IpAddr, far: IpAddr) {
    let (port, mut payload) = (a.ports[0], vec![0x5a; 8_000]);
    let (first, last) = (frame::marker(), frame::marker());
    payload[..16].copy_from_slice(&first);
    payload[8_000 - 16..].copy_from_slice(&last);
    let echo = Echo::start(&a.ns, Proto::Udp, SocketAddr::new(own, port));
    let starts: Vec<usize> = (0..6).map(|n| n * 1_400).collect();
    for packet in frame::udp_fragments((far, 5000), (own, port), 0x4711, (&payload, &starts)) {
        tunnel.send(&packet);
    }
    // what comes out of it are packets that the tunnel can take
    for marker in [first, last] {
        let part = tunnel.awaits("the answer in fragments", |packet| frame::carries(packet, &marker));
        assert_eq!(ends(&part), (own, far));
        assert!(part.len() <= 1_500, "a packet of {} bytes to {far}", part.len());
    }
    assert_eq!(echo.served(), 1, "datagrams in fragments that came from {far}");
}

/// A asks a port that nobody has, and is refused by the error that says so.
fn is_refused(a: &Container, tunnel: &Tunnel, own: IpAddr, far: IpAddr) {
    let marker = frame::marker();
    let fd = a.inside(|| {
        let fd = probe::open(Proto::Udp, far).expect("socket");
        sock::limit(&fd, PATIENCE);
        sock::connect(&fd, SocketAddr::new(far, 4009)).expect("connect");
        sock::send(&fd, &marker).expect("send");
        fd
    });
    let asked = tunnel.awaits("the question", |packet| frame::carries(packet, &marker));
    let (protocol, message) = match (far, own) {
        (IpAddr::V6(far), IpAddr::V6(own)) => (frame::ICMP6, frame::icmp6(far, own, 1, 4, [0; 4], &asked)),
        _ => (frame::ICMP, frame::icmp4(3, 3, [0; 4], &asked)),
    };
    tunnel.send(&frame::ip(far, own, protocol, &message));
    let told = sock::recv(&fd, &mut [0; 16]).expect_err("a refusal");
    assert_eq!(told.raw_os_error(), Some(libc::ECONNREFUSED), "what A hears of {far}");
}

/// The far end pings the host's address: the host answers.
fn is_pinged(tunnel: &Tunnel, own: IpAddr, far: IpAddr) {
    let (marker, rest) = (frame::marker(), [0, 7, 0, 1]);
    let (protocol, answer, message) = match (far, own) {
        (IpAddr::V6(far), IpAddr::V6(own)) => (frame::ICMP6, 129, frame::icmp6(far, own, 128, 0, rest, &marker)),
        _ => (frame::ICMP, 0, frame::icmp4(8, 0, rest, &marker)),
    };
    tunnel.send(&frame::ip(far, own, protocol, &message));
    let header = if far.is_ipv4() { 20 } else { 40 };
    tunnel.awaits("the host's echo", |packet| frame::carries(packet, &marker) && packet[header] == answer);
}

/// Of what A says in another's name nothing comes out of the tunnel, and it is counted.
fn forges_in_vain(scene: &Scene, tunnel: &Tunnel, own: IpAddr, far: IpAddr) {
    let a = &scene.a;
    let nobody = ip(if own.is_ipv4() { "10.99.0.77" } else { "fd99::77" });
    let device = a.ns.read("ip -o link show | sed -n 's/^[0-9]*: \\([^:@]*\\).*link.ether.*/\\1/p'");
    let device = device.trim_end();
    let mac = tap::mac_of(&a.ns, device);
    let mut forged = Vec::new();
    let mut inject = |from: (IpAddr, u16)| {
        let marker = frame::marker();
        let packet = frame::udp_packet(from, (far, 4009), &marker);
        tap::inject(&a.ns, device, &frame::ethernet(mac, mac, frame::ethertype(own), &packet));
        forged.push((from, marker));
    };
    for (from, reason) in [
        ((own, scene.b.ports[0]), "source_port"),
        ((nobody, a.ports[0]), "source_address"),
        ((far, a.ports[0]), "source_address"),
    ] {
        let before = a.drops(reason);
        inject(from);
        // a kernel's own reports to groups count as of no address as well, at any time
        assert!(a.drops(reason) > before, "from {from:?}: {}", a.show()["drops"]);
    }
    inject((own, a.ports[0]));
    // the honest one comes after whatever the others led to
    let (_, honest) = forged.pop().expect("the honest one");
    tunnel.awaits("an honest datagram", |packet| {
        for (from, marker) in &forged {
            assert!(!frame::carries(packet, marker), "a datagram from {from:?} came out of the tunnel");
        }
        frame::carries(packet, &honest)
    });
}

#[test]
fn a_vpn_beside_the_uplink() {
    let host = Host::with("vpn").unprepared().build();
    host.altered();
    let tunnel = Tunnel::of(&host.ns);
    host.portslice(["setup"]).ok();
    let scene = Scene::on(host);
    for (near, far, uplinks) in [(NEAR[0], FAR[0], HOST4), (NEAR[1], FAR[1], HOST6)] {
        there_and_back(&scene.a, &tunnel, ip(near), ip(far));
        there_and_back(&scene.a, &tunnel, uplinks, ip(far));
        asks_first(&scene.a, &tunnel, ip(near), ip(far));
        pings(&scene.a, &scene.host.ns, &tunnel, ip(far));
        there_and_back_in_fragments(&scene.a, &tunnel, ip(near), ip(far));
        is_refused(&scene.a, &tunnel, ip(near), ip(far));
        is_pinged(&tunnel, ip(near), ip(far));
        forges_in_vain(&scene, &tunnel, ip(near), ip(far));
    }
    scene.assert_every_path("beside a VPN");
    let limited =
        scene.host.bare("limited", &["--ports", "31100", "--ingress-rate", "10mbit", "--egress-rate", "10mbit"]);
    there_and_back(&limited, &tunnel, ip(NEAR[0]), ip(FAR[0]));
    asks_first(&limited, &tunnel, ip(NEAR[1]), ip(FAR[1]));
}

/// A tunnel beside the uplink, and as the uplink: what comes out of it with a source that no packet can have goes nowhere.
#[test]
fn what_a_tunnel_forges_reaches_nobody() {
    for uplink in [false, true] {
        let config = format!("ports = \"31000-31999\"\nuplink = \"{}\"\n", if uplink { "vpn0" } else { "eth0" });
        let host = Host::with("vpn-forged").config(&config).unprepared().build();
        host.altered();
        let tunnel = Tunnel::of(&host.ns);
        host.portslice(["setup"]).ok();
        let scene = Scene::on(host);
        for (near, far, others) in [
            (NEAR[0], FAR[0], ["10.99.0.1", "10.77.0.2", "127.0.0.1", "0.0.0.0", "224.0.0.5", "10.99.0.255"]),
            (NEAR[1], FAR[1], ["fd99::1", "fd77::2", "::1", "::", "ff02::5", "::ffff:10.77.0.2"]),
        ] {
            let to = SocketAddr::new(ip(near), scene.a.ports[0]);
            let echo = Echo::start(&scene.a.ns, Proto::Udp, SocketAddr::new(probe::any(to.ip()), to.port()));
            for from in others {
                tunnel.send(&frame::udp_packet((ip(from), scene.b.ports[0]), (to.ip(), to.port()), b"forged"));
            }
            // the answer to an honest one comes after whatever the others led to
            let marker = frame::marker();
            tunnel.send(&frame::udp_packet((ip(far), 5000), (to.ip(), to.port()), &marker));
            tunnel.awaits("the answer", |packet| frame::carries(packet, &marker));
            assert_eq!(echo.served(), 1, "datagrams that came to A by the tunnel, its host's uplink: {uplink}");
        }
    }
}

#[test]
fn a_tunnel_as_the_uplink() {
    let config = "ports = \"31000-31999\"\nuplink = \"vpn0\"\n";
    let host = Host::with("vpn-uplink").config(config).unprepared().build();
    host.altered();
    let tunnel = Tunnel::of(&host.ns);
    host.ns.ip("route replace default dev vpn0\nroute del ::/0\nroute add ::/0 dev vpn0");
    host.portslice(["setup"]).ok();
    let scene = Scene::on(host);
    for (near, far, world) in [(NEAR[0], FAR[0], "192.0.2.9"), (NEAR[1], FAR[1], "2001:db8::9")] {
        for far in [far, world] {
            there_and_back(&scene.a, &tunnel, ip(near), ip(far));
            asks_first(&scene.a, &tunnel, ip(near), ip(far));
            pings(&scene.a, &scene.host.ns, &tunnel, ip(far));
            there_and_back_in_fragments(&scene.a, &tunnel, ip(near), ip(far));
            is_refused(&scene.a, &tunnel, ip(near), ip(far));
            is_pinged(&tunnel, ip(near), ip(far));
            forges_in_vain(&scene, &tunnel, ip(near), ip(far));
        }
    }
    assert_eq!(scene.host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
    for address in [HOST4, HOST6] {
        let to = SocketAddr::new(address, scene.a.ports[0]);
        let _echo = Echo::start(&scene.a.ns, Proto::Tcp, to);
        assert_reaches("by the card beside the tunnel", &scene.host.peer, Proto::Tcp, to);
    }
}
