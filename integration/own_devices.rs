//! Promise: the devices we make on the host are nobody else's. They carry MAC addresses of their own, so that no network
//! manager mistakes them for the uplink, and whatever one does to them all the same, they never become an uplink.

use crate::lab::probe::{BOTH, assert_reaches};
use crate::lab::tap::mac_of;
use crate::lab::*;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Devices of ours on a host.
fn ours(host: &Host) -> Vec<String> {
    host.links().into_iter().filter(|name| name.starts_with("portslice")).collect()
}

#[test]
fn no_device_of_ours_carries_the_uplinks_mac() {
    let host = Host::new("own-mac");
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let b = host.bare("b", &["--ports", "31010-31019", "--egress-rate", "8mbit"]);
    let uplink = mac_of(&host.ns, "eth0");
    let devices = ours(&host);
    assert_eq!(devices.len(), 4, "two host ends and the shaper's pair: {devices:?}");
    let macs: Vec<_> = devices.iter().map(|d| mac_of(&host.ns, d)).collect();
    for (device, mac) in devices.iter().zip(&macs) {
        assert_ne!(*mac, uplink, "{device} carries the uplink's MAC");
        assert_eq!((mac[0], &mac[1..4]), (2, &macs[0][1..4]), "{device}: locally administered, one instance: {mac:x?}");
    }
    assert_eq!(macs.iter().collect::<BTreeSet<_>>().len(), macs.len(), "{devices:?} carry {macs:x?}");
    assert_ne!(macs[0][1..4], [0; 3], "the instance is never 0");
    for container in [&a, &b] {
        let slot = container.lease["slot"].as_u64().unwrap() as u16;
        let mac = mac_of(&host.ns, &container.device().expect("a host end"));
        assert_eq!(mac[4..], slot.to_be_bytes(), "slot {slot}: {mac:x?}");
        assert_eq!(mac_of(&container.ns, "eth0"), uplink, "{}'s own device is as the host's uplink", container.id);
    }
    host.portslice(["setup"]).ok();
    let c = host.bare("c", &[]);
    let later = mac_of(&host.ns, &c.device().expect("a host end"));
    assert_eq!(later[1..4], macs[0][1..4], "another setup is the same installation");
}

#[test]
fn every_path_with_a_limit_works_with_macs_of_our_own() {
    let host = Host::new("own-mac-limit");
    // one waits in the shaper and behind the host end's qdisc, the other takes the short way
    let a = host.bare("a", &["--ports", "31000-31009", "--egress-rate", "8mbit", "--ingress-rate", "8mbit"]);
    let b = host.bare("b", &["--ports", "31010-31019"]);
    for proto in BOTH {
        for (address, peer, loopback) in [(HOST4, PEER4, LO4), (HOST6, PEER6, LO6)] {
            let at = |ns: &Ns, port| Echo::start(ns, proto, SocketAddr::new(probe::any(address), port));
            let _servers = [at(&a.ns, 31_000), at(&b.ns, 31_010), at(&host.ns, 20_000), at(&host.peer, 20_000)];
            for to in [address, loopback] {
                assert_reaches("A->B", &a.ns, proto, SocketAddr::new(to, 31_010));
                assert_reaches("B->A", &b.ns, proto, SocketAddr::new(to, 31_000));
                assert_reaches("A->H", &a.ns, proto, SocketAddr::new(to, 20_000));
                assert_reaches("H->A", &host.ns, proto, SocketAddr::new(to, 31_000));
            }
            assert_reaches("P->A", &host.peer, proto, SocketAddr::new(address, 31_000));
            assert_reaches("A->P", &a.ns, proto, SocketAddr::new(peer, 20_000));
        }
    }
}

#[test]
fn a_device_of_ours_is_not_taken_for_the_uplink() {
    let host = Host::with("own-uplink").unprepared().build();
    host.ns.ip(
        "route replace default via 10.77.0.1 dev eth0 metric 100\nroute del default via 10.77.0.1 dev eth0 metric 0",
    );
    host.portslice(["setup"]).ok();
    let a = host.bare("a", &["--ports", "31000-31009"]);
    let device = a.device().expect("a host end");
    // what a network manager does that takes the device for the uplink
    host.ns.ip(&format!("addr add 10.77.0.2/24 dev {device}\nroute add default via 10.77.0.1 dev {device} metric 10"));

    let out = host.portslice(["setup"]).ok();
    assert!(out.stdout.contains("ready on eth0 "), "{out}");
    let doctor = host.portslice(["doctor"]);
    assert!(!doctor.stdout.contains(&format!("{device} carries")), "{doctor}");
    let b = host.bare("b", &["--ports", "31010-31019"]);
    assert_eq!(mac_of(&b.ns, "eth0"), mac_of(&host.ns, "eth0"), "B was given the uplink's MAC");
    for container in [&a, &b] {
        let at = SocketAddr::new(HOST4, container.ports[0]);
        let _echo = Echo::start(&container.ns, Proto::Tcp, at);
        assert_reaches("P->container", &host.peer, Proto::Tcp, at);
    }
    std::fs::write(host.config_file(), format!("ports = \"31000-31999\"\nuplink = \"{device}\"\n")).expect("config");
    let refused = host.portslice(["setup"]);
    assert_eq!(refused.code, Some(5), "{refused}");
    assert!(refused.stderr.contains(&device) && refused.stderr.contains("portslice made"), "{refused}");

    std::fs::write(host.config_file(), "ports = \"31000-31999\"\n").expect("config");
    host.ns.ip(&format!("route del default via 10.77.0.1 dev {device}\naddr del 10.77.0.2/24 dev {device}"));
    host.portslice(["detach", "a"]).ok();
    host.portslice(["detach", "b"]).ok();
    host.portslice(["setup", "--undo"]).ok();
    host.ns.ip("route add default via 10.77.0.1 dev eth0\nroute del default via 10.77.0.1 dev eth0 metric 100");
}
