//! Promise: on a host with more devices than the uplink, containers come and go by all of them as the host's own programs do:
//! they carry every address, are reached by every device, and the host's routes and rules decide where what they send leaves.

mod errors;
mod everybody;
mod marks;
mod parts;
mod sources;
mod tunnel;

use crate::lab::probe::{BOTH, assert_reaches, assert_refused};
use crate::lab::scene::Scene;
use crate::lab::*;
use std::net::{IpAddr, SocketAddr};

/// The host's address on the second network, and its neighbour's there; then one that only that neighbour leads to.
const HOST: [&str; 2] = ["10.88.0.2", "fd88::2"];
const SECOND: [&str; 2] = ["10.88.0.1", "fd88::1"];
const BEYOND: [&str; 2] = ["203.0.113.1", "2001:db8:88::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(text), port)
}

/// A host with a second network card, who is at the other end of that, and two containers.
pub struct Two {
    /// The host and its containers.
    pub scene: Scene,
    second: Ns,
}

/// `routes`: lines for `ip` in the host, before anything is prepared.
pub fn two(name: &str, routes: &str) -> Two {
    let host = Host::with(name).unprepared().build();
    host.altered();
    let second = network(&host.ns, "eth1", 1500);
    ways(&host.ns, routes);
    host.portslice(["setup"]).ok();
    Two { scene: Scene::on(host), second }
}

/// Runs lines for `ip`; those for IPv6 begin with -6.
fn ways(host: &Ns, lines: &str) {
    for line in lines.lines() {
        host.read(&format!("ip {line}"));
    }
}

/// Gives the host a second card, `device`.
fn network(host: &Ns, device: &str, mtu: u32) -> Ns {
    let second = Ns::net_only(&format!("{} (second)", host.name));
    for ns in [host, &second] {
        ns.set_sysctl("ipv6/conf/default/accept_dad", "0");
    }
    host.ip(&format!(
        "link add {device} mtu {mtu} type veth peer name wire mtu {mtu} netns {}\n\
         addr add 10.88.0.2/24 dev {device}\naddr add fd88::2/64 dev {device} nodad\nlink set {device} up",
        second.pid()
    ));
    second.ip("addr add 10.88.0.1/24 dev wire\naddr add fd88::1/64 dev wire nodad\nlink set wire up\n\
         addr add 203.0.113.1/32 dev lo\naddr add 2001:db8:88::1/128 dev lo nodad\n\
         route add 10.77.0.0/24 via 10.88.0.2\nroute add fd77::/64 via fd88::2");
    host.settle(&[device]);
    second.settle(&["wire"]);
    second
}

/// What comes from the second card's addresses leaves by it.
const SOURCE_RULES: &str = "rule add from 10.88.0.2 lookup 88\nroute add 10.88.0.0/24 dev eth1 table 88\n\
     route add default via 10.88.0.1 dev eth1 table 88\n\
     -6 rule add from fd88::2 lookup 88\n-6 route add fd88::/64 dev eth1 table 88\n\
     -6 route add default via fd88::1 dev eth1 table 88";

/// All that no network of the main table takes goes by the second card, as wg-quick(8) sets up a VPN for everything; of IPv6 without
/// `suppress_prefixlength`, which does not count for containers.
const EVERYTHING: &str = "rule add pref 100 lookup main suppress_prefixlength 0\nrule add pref 101 not fwmark 51820 lookup 51\n\
     route add default via 10.88.0.1 dev eth1 table 51\n\
     -6 rule add pref 100 to fd77::/64 lookup main\n-6 rule add pref 101 not fwmark 51820 lookup 51\n\
     -6 route add default via fd88::1 dev eth1 table 51";

impl Two {
    /// From the second network into A and the host, at each of the host's addresses, and back out to it.
    #[track_caller]
    fn assert_second_network(&self, what: &str) {
        let (a, host) = (&self.scene.a, &self.scene.host.ns);
        for proto in BOTH {
            for (own, uplinks, neighbour) in [(HOST[0], HOST4, SECOND[0]), (HOST[1], HOST6, SECOND[1])] {
                for address in [ip(own), uplinks] {
                    let to = SocketAddr::new(address, a.ports[0]);
                    let hosts = SocketAddr::new(address, 20_000);
                    let _echoes = [Echo::start(&a.ns, proto, to), Echo::start(host, proto, hosts)];
                    assert_reaches(&format!("{what}: S->A"), &self.second, proto, to);
                    assert_reaches(&format!("{what}: S->H"), &self.second, proto, hosts);
                    assert_reaches(&format!("{what}: H->A"), host, proto, to);
                    assert_reaches(&format!("{what}: B->A"), &self.scene.b.ns, proto, to);
                    assert_refused(&format!("{what}: S->A, closed"), &self.second, proto, at_port(address, a.ports[1]));
                }
                let _echo = Echo::start(&self.second, proto, at(neighbour, 4001));
                for from in [host, &a.ns] {
                    let local = assert_reaches(&format!("{what}: to S"), from, proto, at(neighbour, 4001));
                    assert_eq!(local.ip(), ip(own), "{what}: the source address that {} gets", from.name);
                }
            }
        }
    }
}

fn at_port(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

#[test]
fn two_cards_are_both_the_containers() {
    let two = two("two-cards", "");
    two.scene.assert_every_path("two cards");
    two.assert_second_network("two cards");
    let doubts = two.scene.host.portslice(["fsck"]);
    assert_eq!(doubts.code, Some(0), "{doubts}");
}

#[test]
fn who_is_not_bound_gets_the_address_of_the_way_that_rules_choose() {
    let two = two("two-everything", EVERYTHING);
    let (a, host) = (&two.scene.a.ns, &two.scene.host.ns);
    for (family, address) in HOST.into_iter().enumerate() {
        let (far, near) = (ip(BEYOND[family]), [PEER4, PEER6][family]);
        let _echoes = BOTH.map(|proto| {
            let near = Echo::start(&two.scene.host.peer, proto, SocketAddr::new(near, 4001));
            (Echo::start(&two.second, proto, SocketAddr::new(far, 4001)), near)
        });
        for proto in BOTH {
            for from in [host, a] {
                let what = format!("{proto:?} from {}", from.name);
                let local = assert_reaches(&what, from, proto, SocketAddr::new(far, 4001));
                assert_eq!(local.ip(), ip(address), "{what}: to who is beyond");
                let local = assert_reaches(&what, from, proto, SocketAddr::new(near, 4001));
                assert_eq!(local.ip(), [HOST4, HOST6][family], "{what}: to a neighbour");
            }
        }
    }
    let doubts = two.scene.host.portslice(["fsck"]);
    assert_eq!(doubts.code, Some(0), "{doubts}");
}

#[test]
fn a_limit_changes_no_way() {
    let host = Host::with("two-limits").unprepared().build();
    host.altered();
    let second = network(&host.ns, "eth1", 1500);
    host.portslice(["setup"]).ok();
    let limits = ["--egress-rate", "50mbit", "--ingress-rate", "50mbit"];
    let a = host.bare("a", &[&["--ports", "31000-31009"], &limits[..]].concat());
    let b = host.bare("b", &[&["--ports", "31010-31019"], &limits[..]].concat());
    Two { scene: Scene { host, a, b }, second }.assert_second_network("limits");
}

#[test]
fn rules_by_source_choose_the_card() {
    let two = two("two-rules", SOURCE_RULES);
    two.scene.assert_every_path("rules");
    two.assert_second_network("rules");
    for proto in BOTH {
        for (own, beyond) in HOST.into_iter().zip(BEYOND) {
            let _echo = Echo::start(&two.second, proto, at(beyond, 4001));
            for ns in [&two.scene.host.ns, &two.scene.a.ns] {
                let (tried, took) = ask_from(ns, proto, at(own, 0), at(beyond, 4001));
                assert!(tried.is_ok(), "{proto:?} from {own} to {beyond} in {}: {tried:?} after {took:?}", ns.name);
                let (tried, _) = ask(ns, proto, at(beyond, 4001));
                assert!(!tried.is_ok(), "{proto:?} to {beyond} in {}: without that source", ns.name);
            }
        }
    }
}

/// A rule by source alone leads to the default route: who has that source has the route, on the host and inside, where it is the
/// only source that a program can get.
#[test]
fn a_default_route_that_a_rule_alone_leads_to() {
    let host = Host::with("two-rule-default").config("uplink = \"eth0\"\n").unprepared().build();
    host.altered();
    ways(
        &host.ns,
        "route del default\nroute add default via 10.77.0.1 dev eth0 table 100\nrule add from 10.77.0.2 lookup 100\n\
         -6 route del default\n-6 route add default via fd77::1 dev eth0 table 100\n-6 rule add from fd77::2 lookup 100",
    );
    host.portslice(["setup"]).ok();
    let a = host.bare("a", &[]);
    for proto in BOTH {
        for (own, far) in [(HOST4, FAR4), (HOST6, FAR6)] {
            let to = SocketAddr::new(far, 4001);
            let _echo = Echo::start(&host.peer, proto, to);
            for ns in [&host.ns, &a.ns] {
                let (tried, took) = ask_from(ns, proto, SocketAddr::new(own, 0), to);
                assert!(tried.is_ok(), "{}: {proto:?} from {own}: {tried:?} after {took:?}", ns.name);
            }
            let local = assert_reaches("without a choice", &a.ns, proto, to);
            assert_eq!(local.ip(), own, "without a choice");
        }
    }
}

#[test]
fn several_next_hops_and_one_of_the_other_family() {
    let two = two(
        "two-hops",
        "route add 203.0.113.0/24 via inet6 fd88::1 dev eth1\n\
         route add 198.18.0.0/24 nexthop via 10.77.0.1 nexthop via 10.88.0.1",
    );
    let (host, a) = (&two.scene.host, &two.scene.a);
    // ports count, so that connections of one program spread; newer kernels prefer the way that the source belongs to
    host.ns.set_sysctl("ipv4/fib_multipath_hash_policy", "1");
    for ns in [&host.peer, &two.second] {
        ns.ip("addr add 198.18.0.1/32 dev lo");
    }
    host.peer.ip("route add 10.88.0.0/24 via 10.77.0.2");
    let to = at("198.18.0.1", 4001);
    for own in ["10.77.0.2", HOST[0]] {
        let [hosts, inside] = [&host.ns, &a.ns].map(|ns| {
            let echoes = [&host.peer, &two.second].map(|ns| Echo::start(ns, Proto::Tcp, to));
            for _ in 0..24 {
                let (tried, took) = ask_from(ns, Proto::Tcp, at(own, 0), to);
                assert!(tried.is_ok(), "from {own} in {}: {tried:?} after {took:?}", ns.name);
            }
            echoes.map(|echo| echo.served() > 0)
        });
        assert_eq!(inside, hosts, "which of the two ways are used from {own}");
    }
    let to = at(BEYOND[0], 4001);
    for proto in BOTH {
        let _echo = Echo::start(&two.second, proto, to);
        for ns in [&host.ns, &a.ns] {
            let local = assert_reaches("IPv4 by way of IPv6", ns, proto, to);
            assert_eq!(local.ip(), ip(HOST[0]), "{}", ns.name);
        }
    }
    host.ns.set_sysctl("ipv4/fib_multipath_hash_policy", "0");
}

#[test]
fn the_configuration_chooses_what_containers_carry() {
    let host = Host::with("two-chosen").unprepared().build();
    host.altered();
    let good = std::fs::read_to_string(host.config_file()).expect("config");
    let second = network(&host.ns, "eth1", 1500);
    for (chosen, carried) in
        [("uplink", vec!["10.77.0.2", "fd77::2"]), ("fd88::2,10.77.0.2", vec!["10.77.0.2", "fd88::2"])]
    {
        std::fs::write(host.config_file(), format!("{good}addresses = \"{chosen}\"\n")).expect("config");
        host.portslice(["sync"]).ok();
        let a = host.bare("a", &["--ports", "31000"]);
        let there = a.ns.read("ip -o addr show dev eth0");
        for address in ["10.77.0.2", "fd77::2", "10.88.0.2", "fd88::2"] {
            assert_eq!(there.contains(&format!(" {address}/")), carried.contains(&address), "{chosen}: {there}");
        }
        // what it does not carry is the host's alone
        let to = at("10.88.0.2", 31_000);
        let _echo = Echo::start(&host.ns, Proto::Tcp, to);
        assert_reaches("the host's", &second, Proto::Tcp, to);
        a.detach();
    }
    std::fs::write(host.config_file(), format!("{good}addresses = \"192.0.2.1\"\n")).expect("config");
    let refused = host.portslice(["setup"]);
    assert_eq!(refused.code, Some(5), "{refused}");
    assert!(refused.stderr.contains("192.0.2.1") && refused.stderr.contains("config key addresses"), "{refused}");
    std::fs::write(host.config_file(), good).expect("config");
}

#[test]
fn a_card_that_comes_later_counts_after_a_sync_and_one_that_goes_does_not() {
    let host = Host::new("two-later");
    host.altered();
    let scene = Scene::on(host);
    let second = network(&scene.host.ns, "late0", 1500);
    let two = Two { scene, second };
    let host = &two.scene.host;
    host.portslice(["sync"]).ok();
    assert_eq!(host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
    two.assert_second_network("later");
    two.scene.assert_every_path("later");
    host.ns.ip("link del late0");
    host.portslice(["sync"]).ok();
    assert_eq!(host.portslice(["sync"]).ok().stdout.trim(), "nothing to do");
    let carried = two.scene.a.ns.read("ip -o addr show dev eth0");
    assert!(!carried.contains("10.88.") && !carried.contains("fd88:"), "{carried}");
    assert!(!host.links().contains(&"portslice-fib".to_owned()), "{:?}", host.links());
    two.scene.assert_every_path("gone");
}

#[test]
fn a_bridge_of_other_containers_reaches_leased_ports_and_is_reached() {
    let host = Host::with("two-bridge").unprepared().build();
    host.altered();
    let other = Ns::net_only("a container of an engine's bridge");
    host.ns.ip(&format!(
        "link add docker0 type bridge\naddr add 172.17.0.1/16 dev docker0\nlink set docker0 up\n\
         link add port0 type veth peer name eth0 netns {}\nlink set port0 master docker0 up",
        other.pid()
    ));
    other.ip("addr add 172.17.0.2/16 dev eth0\nlink set eth0 up\nroute add default via 172.17.0.1");
    host.portslice(["setup"]).ok();
    let scene = Scene::on(host);
    let filters = scene.host.ns.read("tc filter show dev docker0 ingress; tc filter show dev port0 ingress");
    assert_eq!(filters.matches("portslice_from_wire").count(), 1, "on the bridge, not on its port: {filters}");
    for proto in BOTH {
        let to = SocketAddr::new(HOST4, scene.a.ports[0]);
        let _echo = Echo::start(&scene.a.ns, proto, to);
        assert_reaches("bridge->A", &other, proto, to);
        let theirs = at("172.17.0.2", 80);
        let _echo = Echo::start(&other, proto, theirs);
        let local = assert_reaches("A->bridge", &scene.a.ns, proto, theirs);
        assert_eq!(local.ip(), ip("172.17.0.1"));
    }
    scene.assert_every_path("beside a bridge");
    // what is beside is asked for; all else still goes to the gateway that is known
    let facts = scene.host.ns.read("ip -o link show portslice-fib");
    assert!(facts.contains("state DOWN"), "{facts}");
}
