//! Promise: whatever the uplink is, programs in slices come and go by it as the host's own do, and nobody else's packets do.

use crate::lab::probe::assert_unreached;
use crate::lab::scene::Scene;
use crate::lab::*;
use std::net::SocketAddr;

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
        for (peer, _) in [(PEER4, false), (PEER6, true)].into_iter().filter(|(_, v6)| families.contains(v6)) {
            let echo = Echo::start(&self.host.peer, Proto::Udp, SocketAddr::new(peer, 4_001));
            let foreign = SocketAddr::new(probe::any(peer), self.b.ports[1]);
            let (got, _) = ask_from(&self.a.ns, Proto::Udp, foreign, SocketAddr::new(peer, 4_001));
            assert!(!got.is_ok() && echo.served() == 0, "{what}: A was heard from a port of B: {got:?}");
        }
        let host = self.host.portslice(["fsck"]);
        assert_eq!(host.code, Some(0), "{what}: {host}");
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
