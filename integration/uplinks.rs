//! Promise: whatever the uplink is, programs in slices come and go by it as the host's own do, and nobody else's packets do.

use crate::lab::probe::{BOTH, PATIENCE, assert_reaches, assert_refused, assert_unreached};
use crate::lab::scene::Scene;
use crate::lab::tap::{self, Tap};
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const BOTH_FAMILIES: [bool; 2] = [false, true];
/// The addresses of a host and of its peer, on another device than they are on at first.
const MOVED: [[&str; 2]; 2] = [["10.77.0.2/24", "fd77::2/64"], ["10.77.0.1/24", "fd77::1/64"]];

/// A host whose uplink lines for `ip` made, there and at its peer. None: this kernel has no such device, which is said.
fn on(name: &str, host_lines: &str, peer_lines: &str) -> Option<Scene> {
    let host = Host::with(name).unprepared().build();
    host.altered();
    for (ns, lines) in [(&host.ns, host_lines), (&host.peer, peer_lines)] {
        for line in lines.lines() {
            let out = ns.command("ip").args(line.split(' ')).output().expect("ip");
            let said = String::from_utf8_lossy(&out.stderr);
            if !out.status.success() && line.contains(" type ") {
                println!("{name}: skipped: `ip {line}`: {said}");
                return None;
            }
            assert!(out.status.success(), "`ip {line}`: {said}");
        }
    }
    host.portslice(["setup"]).ok();
    Some(Scene::on(host))
}

/// Lines that take the addresses from one device to another, and those of a host's routes.
fn moves([v4, v6]: [&str; 2], from: &str, to: &str, routes: bool) -> String {
    let routes = if routes {
        format!("\nroute replace default via 10.77.0.1 dev {to}\nroute replace default via fd77::1 dev {to}")
    } else {
        String::new()
    };
    format!(
        "addr flush dev {from}\nlink set {from} up\nlink set {to} up\naddr add {v4} dev {to}\naddr add {v6} dev {to} nodad{routes}"
    )
}

impl Scene {
    #[track_caller]
    fn works(&self, what: &str, families: &[bool]) {
        self.assert_paths(what, families);
        for (host, peer) in [(HOST4, PEER4), (HOST6, PEER6)] {
            if families.contains(&peer.is_ipv6()) {
                self.assert_errors_and_fragments(what, host, peer);
                self.assert_nothing_forged_leaves(what, host, peer);
            }
        }
        let host = self.host.portslice(["fsck"]);
        assert_eq!(host.code, Some(0), "{what}: {host}");
    }

    /// What is no plain packet comes and goes: echoes, errors, and datagrams in fragments.
    #[track_caller]
    fn assert_errors_and_fragments(&self, what: &str, host: IpAddr, peer: IpAddr) {
        const LARGE: usize = 8_000;
        assert_eq!(icmp::ping(&self.a.ns, peer, 2, PATIENCE / 2), [1, 1], "{what}: A pings {peer}");
        assert_eq!(icmp::ping(&self.host.peer, host, 2, PATIENCE / 2), [1, 1], "{what}: P pings {host}");
        assert_refused(&format!("{what}: A->P"), &self.a.ns, Proto::Udp, SocketAddr::new(peer, 4_009));
        assert_refused(&format!("{what}: P->A"), &self.host.peer, Proto::Udp, SocketAddr::new(host, self.a.ports[9]));
        for (client, server, to) in [
            (&self.a.ns, &self.host.peer, SocketAddr::new(peer, 4_001)),
            (&self.host.peer, &self.a.ns, SocketAddr::new(host, self.a.ports[0])),
        ] {
            let _echo = Echo::start(server, Proto::Udp, to);
            let (tried, took) = probe::ask_with(client, Proto::Udp, None, to, LARGE, PATIENCE);
            assert!(tried.is_ok(), "{what}: {LARGE} bytes from {} to {to}: {tried:?} after {took:?}", client.name);
        }
    }

    /// Of what A says in another's name, nothing is on the wire, and it is counted.
    #[track_caller]
    fn assert_nothing_forged_leaves(&self, what: &str, host: IpAddr, peer: IpAddr) {
        let echo = Echo::start(&self.host.peer, Proto::Udp, SocketAddr::new(peer, 4_001));
        let foreign = SocketAddr::new(probe::any(peer), self.b.ports[1]);
        let (got, _) = ask_from(&self.a.ns, Proto::Udp, foreign, SocketAddr::new(peer, 4_001));
        assert!(!got.is_ok() && echo.served() == 0, "{what}: A was heard from a port of B: {got:?}");

        let nobody: IpAddr = if host.is_ipv4() { "10.77.0.77" } else { "fd77::77" }.parse().unwrap();
        let (own, others) = (self.a.ports[0], self.b.ports[0]);
        // it has the uplink's name
        let device = self.a.ns.read("ip -o link show | sed -n 's/^[0-9]*: \\([^:@]*\\).*link.ether.*/\\1/p'");
        let device = device.trim_end();
        let mac = tap::mac_of(&self.a.ns, device);
        for (source, reason) in [
            ((host, own), None),
            ((host, others), Some("source_port")),
            ((nobody, own), Some("source_address")),
            ((peer, own), Some("source_address")),
        ] {
            let (marker, before) = (frame::marker(), reason.map(|reason| self.a.drops(reason)));
            let tap = Tap::on(&self.host.peer, "wire");
            // nobody is there: an answer would be one to A's closed port, which A's error quotes
            let packet = frame::udp_packet(source, (peer, 4_009), &marker);
            tap::inject(&self.a.ns, device, &frame::ethernet(mac, mac, frame::ethertype(host), &packet));
            std::thread::sleep(Duration::from_millis(60));
            let seen = tap.count(|s| !s.outgoing && frame::carries(&s.bytes, &marker));
            let (from, port) = source;
            assert_eq!(
                seen,
                usize::from(reason.is_none()),
                "{what}: P's wire saw a datagram of A from {from} port {port}"
            );
            if let (Some(reason), Some(before)) = (reason, before) {
                // a kernel's own reports to groups count as of no address as well, at any time
                let counted = self.a.drops(reason) - before;
                let right = if reason == "source_address" { counted >= 1 } else { counted == 1 };
                assert!(right, "{what}: from {from} port {port}: {counted} as {reason}: {}", self.a.show()["drops"]);
            }
        }
    }
}

#[test]
fn a_vlan() {
    let [own, peers] = MOVED;
    let scene = on(
        "uplink-vlan",
        &format!("link add link eth0 name up5 type vlan id 5\n{}", moves(own, "eth0", "up5", true)),
        &format!("link add link wire name wire5 type vlan id 5\n{}", moves(peers, "wire", "wire5", false)),
    );
    scene.iter().for_each(|scene| scene.works("VLAN", &BOTH_FAMILIES));
}

#[test]
fn a_bond() {
    // the kernel would load it, and then makes a bond of its own on the machine itself
    if !std::path::Path::new("/sys/module/bonding").exists() {
        return println!("uplink-bond: skipped: the module bonding is not loaded");
    }
    let lines = format!(
        "link add bond7 type bond mode active-backup\naddr flush dev eth0\nlink set eth0 down\nlink set eth0 master bond7\n{}",
        moves(MOVED[0], "eth0", "bond7", true)
    );
    on("uplink-bond", &lines, "addr show").iter().for_each(|scene| scene.works("bond", &BOTH_FAMILIES));
}

#[test]
fn a_bridge() {
    let lines = format!("link add br7 type bridge\nlink set eth0 master br7\n{}", moves(MOVED[0], "eth0", "br7", true));
    on("uplink-bridge", &lines, "addr show").iter().for_each(|scene| scene.works("bridge", &BOTH_FAMILIES));
}

/// The uplink is a bridge, and an engine's own bridge is beside it, with a container on that.
#[test]
fn a_bridge_beside_a_bridge_of_other_containers() {
    let other = Ns::net_only("a container of an engine's bridge");
    other.set_sysctl("ipv6/conf/default/accept_dad", "0");
    let lines = format!(
        "link add br7 type bridge\nlink set eth0 master br7\n{}\nlink add docker0 type bridge\n\
         addr add 172.17.0.1/16 dev docker0\naddr add fd17::1/64 dev docker0 nodad\nlink set docker0 up\n\
         link add port0 type veth peer name eth0 netns {}\nlink set port0 master docker0 up",
        moves(MOVED[0], "eth0", "br7", true),
        other.pid()
    );
    let Some(scene) = on("uplink-two-bridges", &lines, "addr show") else { return };
    other.ip("addr add 172.17.0.2/16 dev eth0\naddr add fd17::2/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 172.17.0.1\nroute add default via fd17::1");
    other.settle(&["eth0"]);
    // docker0 has a carrier only now
    scene.host.portslice(["sync"]).ok();
    let filters = scene.host.ns.read("tc filter show dev docker0 ingress; tc filter show dev port0 ingress");
    assert_eq!(filters.matches("portslice_from_wire").count(), 1, "on the bridge, not on its port: {filters}");
    for proto in BOTH {
        for (host, bridge, theirs) in [(HOST4, "172.17.0.1", "172.17.0.2"), (HOST6, "fd17::1", "fd17::2")] {
            let [bridge, theirs]: [IpAddr; 2] = [bridge, theirs].map(|text| text.parse().unwrap());
            for address in [host, bridge] {
                let to = SocketAddr::new(address, scene.a.ports[0]);
                let _echo = Echo::start(&scene.a.ns, proto, to);
                assert_reaches("docker0->A", &other, proto, to);
                assert_refused("docker0->A, closed", &other, proto, SocketAddr::new(address, scene.a.ports[1]));
            }
            let to = SocketAddr::new(theirs, 80);
            let _echo = Echo::start(&other, proto, to);
            let local = assert_reaches("A->docker0", &scene.a.ns, proto, to);
            assert_eq!(local.ip(), bridge, "A's address towards docker0");
        }
    }
    scene.works("bridge beside a bridge", &BOTH_FAMILIES);
}

#[test]
fn one_address_and_a_gateway_on_the_link() {
    let lines = "addr flush dev eth0\naddr add 10.77.0.2/32 dev eth0\naddr add fd77::2/128 dev eth0 nodad\n\
         route add 10.77.0.1 dev eth0\nroute replace default via 10.77.0.1 dev eth0 onlink\n\
         route add fd77::1 dev eth0\nroute replace default via fd77::1 dev eth0 onlink";
    on("uplink-alone", lines, "addr show").iter().for_each(|scene| scene.works("/32", &BOTH_FAMILIES));
}

#[test]
fn ipv4_alone() {
    let lines = "-6 addr flush dev eth0";
    on("uplink-v4", lines, "-6 addr flush dev wire").iter().for_each(|scene| scene.works("IPv4 alone", &[false]));
}

#[test]
fn ipv6_alone() {
    let lines = "-4 addr flush dev eth0";
    on("uplink-v6", lines, "-4 addr flush dev wire").iter().for_each(|scene| scene.works("IPv6 alone", &[true]));
}

#[test]
fn a_hundred_addresses() {
    let lines: Vec<String> = (1..=50)
        .flat_map(|n| [format!("addr add 10.77.1.{n}/16 dev eth0"), format!("addr add fd77::1:{n}/64 dev eth0 nodad")])
        .collect();
    let scene =
        on("uplink-hundred", &lines.join("\n"), "addr add 10.77.2.1/16 dev wire").expect("needs no kind of device");
    scene.works("100 addresses", &BOTH_FAMILIES);
    for address in ["10.77.1.50", "fd77::1:50"] {
        let to = SocketAddr::new(address.parse().unwrap(), scene.a.ports[0]);
        let _echo = Echo::start(&scene.a.ns, Proto::Tcp, to);
        for client in [&scene.host.peer, &scene.host.ns, &scene.b.ns] {
            probe::assert_reaches("100 addresses, the last", client, Proto::Tcp, to);
        }
        assert_unreached(
            "100 addresses, a port of nobody",
            &scene.host.peer,
            Proto::Udp,
            SocketAddr::new(to.ip(), 31_900),
        );
    }
}
