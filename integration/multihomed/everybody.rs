//! What is for all on a network of the host that is not its uplink's first one: a broadcast from there reaches the owner of its port
//! and the host, and one of a container's goes there, to the owner of its port on this host and to the host.

use super::*;
use crate::groups::members::Ear;
use crate::lab::tap::Tap;
use crate::lab::{frame, sock};
use std::time::Duration;

const SETTLED: Duration = Duration::from_millis(100);
const HOSTS: u16 = 4001;

/// `to`: everybody's address there; `own`: the host's, which containers carry; `neighbour`: who is there, by `device`.
fn assert_everybody(scene: &Scene, what: &str, (to, own): (&str, &str), (neighbour, device): (&Ns, &str)) {
    let Scene { host, a, b } = scene;
    let (owned, hosts) = (at(to, a.ports[0]), at(to, HOSTS));
    let at_a = Ear::at(&a.ns, "eth0", false, owned.port());
    let at_b = Ear::at(&b.ns, "eth0", false, b.ports[0]);
    let at_host = Ear::at(&host.ns, "eth0", false, HOSTS);
    let theirs = Ear::at(neighbour, device, false, HOSTS);
    let marker = frame::marker();
    theirs.say(owned, &marker);
    assert!(at_a.hears(&marker).is_some(), "{what}: from a neighbour");
    // what has no owner is the host's alone
    let (tap, marker) = (Tap::on(&a.ns, "eth0"), frame::marker());
    theirs.say(hosts, &marker);
    assert!(at_host.hears(&marker).is_some(), "{what}: the host hears it");
    tap.assert_without("to a port of the host", &marker);
    let (tap, markers) = (Tap::on(neighbour, device), [frame::marker(), frame::marker()]);
    at_b.say(owned, &markers[0]);
    at_b.say(hosts, &markers[1]);
    assert_eq!(at_a.hears(&markers[0]), Some(at(own, b.ports[0])), "{what}: from another container");
    assert_eq!(at_host.hears(&markers[1]), Some(at(own, b.ports[0])), "{what}: at the host");
    assert_eq!(theirs.hears(&markers[1]), Some(at(own, b.ports[0])), "{what}: at the neighbour");
    std::thread::sleep(SETTLED);
    let frames = tap.end();
    let left = |marker: &[u8]| frames.iter().filter(|s| !s.outgoing && frame::carries(&s.bytes, marker)).count();
    assert_eq!(markers.map(|marker| left(&marker)), [1, 1], "{what}: what comes to the neighbour");
    for frame in frames.iter().filter(|s| !s.outgoing && frame::carries(&s.bytes, &markers[0])) {
        assert_eq!(frame.bytes[..6], frame::BROADCAST, "{what}");
    }
}

#[test]
fn a_second_card_has_everybody_of_its_network() {
    let two = two("two-all", "");
    assert_everybody(&two.scene, "two cards", ("10.88.0.255", "10.88.0.2"), (&two.second, "wire"));
    assert_everybody(&two.scene, "the uplink's", ("10.77.0.255", "10.77.0.2"), (&two.scene.host.peer, "wire"));
}

#[test]
fn rules_change_nothing_about_it() {
    let two = two("two-all-rules", SOURCE_RULES);
    assert_everybody(&two.scene, "rules", ("10.88.0.255", "10.88.0.2"), (&two.second, "wire"));
}

/// All the routes lead out of the uplink, so none is asked for.
#[test]
fn a_second_network_of_the_uplink_has_its_own() {
    let host = Host::with("all-of-uplink").secondary("10.99.0.2/24").unprepared().build();
    host.peer.ip("addr add 10.99.0.1/24 dev wire");
    host.portslice(["setup"]).ok();
    let scene = Scene::on(host);
    let (to, peer) = (("10.99.0.255", "10.99.0.2"), &scene.host.peer);
    assert_everybody(&scene, "a second network", to, (peer, "wire"));
}

/// As one of the host does: EACCES without SO_BROADCAST.
#[test]
fn who_did_not_ask_for_it_may_not_speak_to_everybody() {
    let two = two("two-all-asked", "");
    for ns in [&two.scene.host.ns, &two.scene.a.ns] {
        let refused = ns.inside(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.send_to(b"to all", at("10.88.0.255", HOSTS)).map_err(|e| e.raw_os_error())
        });
        assert_eq!(refused, Err(Some(libc::EACCES)), "{}", ns.name);
    }
}

/// A rule may lead all else elsewhere: the kernel's own table comes first.
#[test]
fn nor_do_rules_that_lead_the_network_elsewhere() {
    let elsewhere = "rule add pref 50 lookup 51\nroute add 10.88.0.0/24 via 10.77.0.1 dev eth0 table 51";
    let two = two("two-all-elsewhere", elsewhere);
    assert_everybody(&two.scene, "rules", ("10.88.0.255", "10.88.0.2"), (&two.second, "wire"));
}

/// As systemd-networkd does it with `RouteTable=`: who sends from elsewhere has no route to a neighbour there.
#[test]
fn nor_that_the_networks_route_stands_in_another_table() {
    let apart = "addr del 10.88.0.2/24 dev eth1\naddr add 10.88.0.2/24 dev eth1 noprefixroute";
    let rules = "rule add pref 50 from 10.88.0.2 lookup 88\nroute add 10.88.0.0/24 dev eth1 src 10.88.0.2 table 88";
    let (to, own) = ("10.88.0.255", "10.88.0.2");
    let two = two("two-all-table", &format!("{apart}\n{rules}"));
    assert_everybody(&two.scene, "another table", (to, own), (&two.second, "wire"));
}

#[test]
fn nor_that_it_has_no_route() {
    let apart = "addr del 10.88.0.2/24 dev eth1\naddr add 10.88.0.2/24 dev eth1 noprefixroute";
    let two = two("two-all-routeless", apart);
    assert_everybody(&two.scene, "no route", ("10.88.0.255", "10.88.0.2"), (&two.second, "wire"));
}

#[test]
fn nor_who_has_the_addresses_at_its_end() {
    let two = two("two-all-last", "addr add 10.89.0.254/24 dev eth1\naddr add 10.89.0.253/24 dev eth1");
    two.second.ip("addr add 10.89.0.1/24 dev wire");
    assert_everybody(&two.scene, "the last address", ("10.89.0.255", "10.89.0.254"), (&two.second, "wire"));
}

/// Of two cards on one network everybody's address is the same.
#[test]
fn two_cards_may_be_on_one_network() {
    let second =
        "link add eth2 type veth peer name end2\nlink set end2 up\nlink set eth2 up\naddr add 10.88.0.9/24 dev eth2";
    let two = two("two-all-twice", second);
    two.scene.assert_every_path("two cards on one network");
    let doubts = two.scene.host.portslice(["fsck"]);
    assert_eq!(doubts.code, Some(0), "{doubts}");
}

#[test]
fn what_the_network_does_not_take_does_not_leave() {
    let two = two("two-all-large", "");
    let (a, tap) = (&two.scene.a, Tap::on(&two.second, "wire"));
    a.ns.inside(|| {
        let to = at("10.88.0.255", HOSTS);
        let fd = sock::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).expect("socket");
        sock::set(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, 1i32).expect("SO_BROADCAST");
        sock::set(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE).expect("MTU_DISCOVER");
        sock::bind(&fd, at("0.0.0.0", a.ports[0])).expect("bind");
        sock::send_to(&fd, &[7; 1400], to).expect("what fits");
        sock::send_to(&fd, &[8; 9000], to).expect("what does not");
    });
    std::thread::sleep(SETTLED);
    let large = tap.end().iter().filter(|s| s.bytes.len() > 1400).map(|s| s.bytes.len()).collect::<Vec<_>>();
    assert_eq!(large, [1442]);
    assert_eq!(a.drops("oversize"), 1);
}
